"""What finding best trees needs: scores in which excluded arcs are costly, and k trees in order."""

import jax.numpy as jnp

from kd_jax.types import NEG_INF, Array


def cost_exclusions(scores: Array, allowed: Array) -> Array:
  """Scores [..., n, n+1] in which one excluded arc costs more than all others of a tree could make up for.

  Unlike NEG_INF, that cost leaves the digits of the other scores. The best score of each row is taken off.
  """
  scores = jnp.where(allowed, scores, 0.0)
  spread = jnp.max(scores, axis=-1) - jnp.min(scores, axis=-1)
  cost = 1.0 + jnp.sum(spread, axis=-1)[..., None, None]
  scores = jnp.where(allowed, scores, -cost)
  return scores - jnp.max(scores, axis=-1, keepdims=True)


def rank_trees(
  scores: Array, allowed: Array, heads: Array, exists: Array, mask: Array
) -> tuple[Array, Array]:
  """Orders trees by their scores, and blanks out those that do not exist.

  Args:
    scores: [..., n, n+1].
    allowed: bool [..., n, n+1]: arcs that are not excluded.
    heads: int32 [..., k, n].
    exists: bool [..., k].
    mask: bool [..., n].

  Returns:
    heads [..., k, n], 0 for trees with an excluded arc, and scores [..., k], NEG_INF for those.
  """

  def taken(values):
    rows = jnp.broadcast_to(values[..., None, :, :], (*heads.shape, values.shape[-1]))
    return jnp.take_along_axis(rows, heads[..., None], axis=-1)[..., 0]

  counts = mask[..., None, :]
  exists = exists & jnp.all(taken(allowed) | ~counts, axis=-1)
  totals = jnp.sum(jnp.where(counts & exists[..., None], taken(scores), 0.0), axis=-1)
  totals = jnp.where(exists, totals, NEG_INF)
  order = jnp.argsort(-totals, axis=-1, stable=True)
  heads = jnp.where(exists[..., None] & counts, heads, 0).astype(jnp.int32)
  heads = jnp.take_along_axis(heads, order[..., None], axis=-2)
  return heads, jnp.take_along_axis(totals, order, axis=-1)
