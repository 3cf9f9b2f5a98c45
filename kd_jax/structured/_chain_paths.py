"""The k best paths of a linear chain, Viterbi's among them."""

import jax
import jax.numpy as jnp

from kd_jax._numerics import merged
from kd_jax.structured._chain import LinearChain, columns_of, leading_axes
from kd_jax.structured._holes import put_back_rows
from kd_jax.types import EXCLUDED, NEG_INF, Array


def best_paths(unary: Array, transition: Array, mask: Array, k: int) -> tuple[Array, Array]:
  """The k best paths, by keeping the k best prefixes that end in each tag.

  Prefixes kept at a tag are distinct, so their extensions are; ties go to the lowest tag.

  Args:
    unary: [n, B, L].
    transition: [B or 1, L, L] (from, to).
    mask: [n, B].
    k: how many.

  Returns:
    int32 tags [n, B, k] and scores [B, k], best first; a path that scores NEG_INF/2 or less does not exist: its
    tags are 0 and its score NEG_INF.
  """
  num_labels = unary.shape[-1]
  first = jnp.where(
    jnp.arange(k, dtype=jnp.int32) == 0, unary[0][..., None], NEG_INF
  )  # [B, L, k]: tag, rank
  kept = jnp.broadcast_to(
    jnp.arange(num_labels * k, dtype=jnp.int32).reshape(num_labels, k), first.shape
  )

  def best(candidates):
    if k == 1:
      return jnp.max(candidates, -1, keepdims=True), jnp.argmax(
        candidates, -1, keepdims=True
      ).astype(jnp.int32)
    return jax.lax.top_k(candidates, k)

  def step(state, position):
    scores, valid = position
    extended = state[:, None] + jnp.swapaxes(transition, 1, 2)[..., None]  # [B, to, from, k]
    new, origin = best(merged(extended, 2))
    valid = valid[:, None, None]
    state = jnp.where(valid, new + scores[..., None], state)
    return state, jnp.where(valid, origin, kept)

  last, origins = jax.lax.scan(step, first, (unary[1:], mask[1:]))
  scores, entry = best(merged(last, 1))

  def back(entry, origin):
    previous = jnp.take_along_axis(merged(origin, 1), entry, axis=1)
    return previous, entry

  start, entries = jax.lax.scan(back, entry, origins, reverse=True)
  exists = scores > EXCLUDED
  tags = jnp.concatenate([start[None], entries]) // k
  tags = jnp.where(exists & mask[..., None], tags, 0).astype(jnp.int32)
  return tags, jnp.where(exists, scores, NEG_INF)


def best_of_chain(chain: LinearChain, k: int) -> tuple[Array, Array]:
  """The k best tag sequences: int32 tags [..., k, n] and scores [..., k]."""
  unary, transition, mask = columns_of(chain)
  tags, scores = best_paths(jnp.swapaxes(unary, 1, 2), jnp.moveaxis(transition, -1, 0), mask, k)
  leading = leading_axes(chain)
  tags = jnp.transpose(tags, (1, 2, 0)).reshape(*leading, k, tags.shape[0])
  return put_back_rows(tags, chain.mask), scores.reshape(*leading, k)
