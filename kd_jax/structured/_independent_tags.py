"""Samples and the k best sequences of independent tags."""

import jax
import jax.numpy as jnp

from kd_jax._checks import as_mask, as_scores, bounded, refuse_nan
from kd_jax._numerics import merged
from kd_jax.types import EXCLUDED, NEG_INF, Array, ArrayLike


def _checked(logits: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array]:
  """Finite logits [..., n, L], and the mask as bool [..., n]."""
  logits = as_scores("logits", logits, "n, L")
  if logits.shape[-1] == 0:
    raise ValueError(f"logits must have at least one tag [..., n, L], got {logits.shape}")
  mask = as_mask(mask, logits.shape[:-1])
  refuse_nan("logits", logits, mask[..., None])
  return jnp.where(mask[..., None], bounded(logits), 0.0), mask


def sample_tags(logits: ArrayLike, key: Array, mask: ArrayLike | None = None) -> Array:
  """Draws a tag at each position, independently.

  Args:
    logits: [..., n, L].
    key: a key of `jax.random`.
    mask: [..., n], nonzero for tokens; None if all are.

  Returns:
    int32 tags [..., n], 0 at masked positions.

  Raises:
    ValueError: for integer logits, NaN or a mask of another shape.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> sample_tags(jnp.array([[0.0, 99.0], [99.0, 0.0]]), jax.random.key(0)).tolist()
    [1, 0]
  """
  logits, mask = _checked(logits, mask)
  return jnp.where(mask, jax.random.categorical(key, logits), 0).astype(jnp.int32)


def k_best_tags(logits: ArrayLike, k: int, mask: ArrayLike | None = None) -> tuple[Array, Array]:
  """Computes the k best tag sequences, all different, the best first.

  Keeps the k best prefixes of each length: a sequence among the k best has such a prefix, because what follows
  scores the same after every prefix. O(n k min(k, L)) after sorting the tags of each position.

  Args:
    logits: [..., n, L].
    k: how many, a Python integer.
    mask: [..., n], nonzero for tokens; None if all are.

  Returns:
    int32 tags [..., k, n] and scores [..., k]. If fewer than k sequences are allowed, the rest has tags 0 and
    scores NEG_INF.

  Raises:
    ValueError: for k below 1, integer logits, NaN or a mask of another shape.

  Example:
    >>> import jax.numpy as jnp
    >>> tags, scores = k_best_tags(jnp.array([[1.0, 0.0], [0.0, 3.0]]), 2)
    >>> tags.tolist(), scores.tolist()
    ([[0, 1], [1, 1]], [4.0, 3.0])
  """
  if k < 1:
    raise ValueError(f"k must be at least 1, got {k}")
  logits, mask = _checked(logits, mask)
  width = min(k, logits.shape[-1])
  values, tags = jax.lax.top_k(
    logits, width
  )  # no other tag of a position can be part of the k best

  def step(scores, position):
    values, valid = position
    extended = scores[..., :, None] + values[..., None, :]  # [..., rank, choice]
    best, chosen = jax.lax.top_k(merged(extended, scores.ndim - 1), k)
    valid = valid[..., None]
    unchanged = jnp.broadcast_to(jnp.arange(k, dtype=jnp.int32) * width, chosen.shape)
    return jnp.where(valid, best, scores), jnp.where(valid, chosen, unchanged)

  first = jnp.broadcast_to(
    jnp.where(jnp.arange(k, dtype=jnp.int32) == 0, jnp.float32(0.0), NEG_INF), (*mask.shape[:-1], k)
  )
  by_position = jnp.moveaxis(values, -2, 0), jnp.moveaxis(mask, -1, 0)
  scores, chosen = jax.lax.scan(step, first, by_position)

  def back(rank, position):
    chosen, tags = position
    choice = jnp.take_along_axis(chosen, rank, axis=-1)
    return choice // width, jnp.take_along_axis(tags, choice % width, axis=-1)

  ranks = jnp.broadcast_to(jnp.arange(k, dtype=chosen.dtype), scores.shape)
  _, found = jax.lax.scan(back, ranks, (chosen, jnp.moveaxis(tags, -2, 0)), reverse=True)
  exists = scores > EXCLUDED
  keep = exists[..., None] & mask[..., None, :]
  found = jnp.where(keep, jnp.moveaxis(found, 0, -1), 0).astype(jnp.int32)
  return found, jnp.where(exists, scores, NEG_INF)
