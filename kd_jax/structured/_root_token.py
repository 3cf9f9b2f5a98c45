"""Trees with several children of the root, as trees with one: the root becomes a token.

A first token takes the root's place. It alone can be the root's child, and the root's arcs are its own. A tree
without this token's row is a tree of the sentence, projective or not, with any number of children of the root;
its score is the same.
"""

import jax.numpy as jnp

from kd_jax.types import NEG_INF, Array


def add_root_token(scores: Array, mask: Array) -> tuple[Array, Array]:
  """Puts a token before all others that stands for the root.

  Args:
    scores: [..., n, n+1].
    mask: [..., n] bool.

  Returns:
    scores [..., n+1, n+2] and mask [..., n+1].
  """
  below_root = jnp.full((*scores.shape[:-1], 1), NEG_INF, jnp.float32)
  rows = jnp.concatenate([below_root, scores], axis=-1)
  first = jnp.where(jnp.arange(rows.shape[-1], dtype=jnp.int32) == 0, jnp.float32(0.0), NEG_INF)
  first = jnp.broadcast_to(first, (*rows.shape[:-2], 1, rows.shape[-1]))
  there = jnp.ones((*mask.shape[:-1], 1), bool)
  return jnp.concatenate([first, rows], axis=-2), jnp.concatenate([there, mask], axis=-1)


def remove_root_token(heads: Array) -> Array:
  """Heads [..., n] of the sentence from heads [..., n+1] of the sentence with a root token."""
  return jnp.maximum(heads[..., 1:] - 1, 0)
