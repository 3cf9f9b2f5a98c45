"""Arc scores [..., n, n+1]: which arcs there are, and harmless scores for all others.

A row is a dependent, tokens 1..n at indices 0..n-1; a column is a head, 0 the root and j the token j.
"""

import jax
import jax.numpy as jnp

from kd_jax._checks import as_mask, as_scores, bounded, refuse_nan
from kd_jax.types import EXCLUDED, NEG_INF, Array, ArrayLike


def as_arcs(arc: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array, Array]:
  """Arc scores in float32 with NEG_INF on self-loops and on all arcs from or to padding.

  Args:
    arc: [..., n, n+1].
    mask: [..., n] or None.

  Returns:
    scores [..., n, n+1], bool [..., n, n+1] of the arcs that there are, and the mask as bool [..., n].

  Raises:
    ValueError: integers, shapes that do not fit, or NaN where it would count.
  """
  arc = as_scores("arc", arc, "n, n+1")
  num_tokens = arc.shape[-2]
  if arc.shape[-1] != num_tokens + 1:
    raise ValueError(
      f"arc must be of shape [..., n, n+1], got {arc.shape}: column 0 is the root, column j token j"
    )
  if mask is not None and jnp.shape(mask) != arc.shape[:-1]:
    raise ValueError(f"mask {jnp.shape(mask)} must be of the shape [..., n] of arc {arc.shape}")
  mask = as_mask(mask, arc.shape[:-1])
  heads = jnp.concatenate([jnp.ones((*mask.shape[:-1], 1), bool), mask], axis=-1)
  itself = jnp.eye(num_tokens, num_tokens + 1, k=1, dtype=bool)
  valid = mask[..., :, None] & heads[..., None, :] & ~itself
  refuse_nan("arc", arc, valid)
  return jnp.where(valid, bounded(arc), NEG_INF), valid, mask


def chain_padding(scores: Array, mask: Array) -> Array:
  """Hangs each token of padding on its left neighbour with score 0.

  So padding has one way to attach, of weight 1: sums over trees need no lengths. An empty sentence becomes
  a chain below the root.
  """
  left = jnp.eye(scores.shape[-2], scores.shape[-1], dtype=bool)
  return jnp.where(left & ~mask[..., None], 0.0, scores)


def shift_rows(scores: Array) -> tuple[Array, Array]:
  """Takes the best score off each row: each tree has one arc of each row, so log Z moves by the sum.

  Returns:
    shifted scores [..., n, n+1], and what came off [..., n], without a gradient: it would cancel.
  """
  best = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
  best = jnp.where(best > EXCLUDED, best, 0.0)
  return scores - best[..., None], best
