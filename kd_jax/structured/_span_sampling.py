"""Samples of flat segmentations."""

import jax
import jax.numpy as jnp

from kd_jax.structured._segments import as_segments, log_conditionals
from kd_jax.types import Array, ArrayLike


def sample_spans(scores: ArrayLike, key: Array, mask: ArrayLike | None = None) -> Array:
  """Draws a segmentation for each sentence, independently, as BIOES tags.

  A segment is drawn for every token that it could end at; the segmentation is read off from the last token
  backwards. Each draw is used at most once, so this is exact. No gradient flows through it.

  Args:
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    key: a key of `jax.random`.
    mask: [..., n], nonzero for tokens; None if all are.

  Returns:
    tags [..., n] int32, numbered as in `tag_marginals`, 0 at padding.

  Raises:
    ValueError: for shapes that do not fit, integer scores, or NaN.
  """
  segments, _, mask = as_segments(scores, mask)
  num_tokens, kinds = segments.shape[-2:]
  log_probs = log_conditionals(jax.lax.stop_gradient(segments))  # by end
  drawn = jax.random.categorical(key, log_probs).astype(jnp.int32)

  def back(segment, step):
    start, end, kind = segment
    chosen, here = step
    new = here < start  # the segment before the one that was being read ends here
    end = jnp.where(new, here, end)
    kind = jnp.where(new, chosen % kinds, kind)
    start = jnp.where(new, chosen // kinds, start)
    at_start, at_end = here == start, here == end
    place = jnp.where(at_start, jnp.where(at_end, 1, 2), jnp.where(at_end, 4, 3))
    return (start, end, kind), jnp.where(kind == kinds - 1, 0, 4 * kind + place)

  none = jnp.full(mask.shape[:-1], num_tokens, drawn.dtype)
  steps = jnp.moveaxis(drawn, -1, 0), jnp.arange(num_tokens, dtype=drawn.dtype)
  _, tags = jax.lax.scan(back, (none, none, none), steps, reverse=True)
  return jnp.where(mask, jnp.moveaxis(tags, 0, -1), 0).astype(jnp.int32)
