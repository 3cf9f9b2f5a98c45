"""What every text encoder asks of a batch of subwords, and does with its padding."""

import jax.numpy as jnp

from kd_jax.types import Array, ArrayLike, Subwords


def check_subwords(subwords: Subwords, max_length: int | None = None) -> Subwords:
  """Refuses what is not a batch of texts; numbers at padding become 0, whatever stood there.

  Args:
    subwords: ids [B, n], types [B, n], mask [B, n].
    max_length: the longest text that the network reads; None: no limit.

  Returns:
    The same with ids and types int32, 0 at padding, and the mask bool.

  Raises:
    ValueError: shapes that do not go together, numbers that are no integers, or texts too long.

  >>> ids, mask = jnp.array([[5, 6, 9]]), jnp.array([[1, 1, 0]])
  >>> check_subwords(Subwords(ids, 0 * ids, mask)).ids.tolist()
  [[5, 6, 0]]
  """
  ids, types, mask = (jnp.shape(part) for part in subwords)
  if len(ids) != 2 or types != ids or mask != ids:
    raise ValueError(
      f"subwords must be ids, types and mask [B, n] all, got {ids}, {types} and {mask}: "
      "add an axis B = 1 to a single text"
    )
  for name, part in (("ids", subwords.ids), ("types", subwords.types)):
    if not jnp.issubdtype(jnp.result_type(part), jnp.integer):
      raise ValueError(f"{name} must be integers, got {jnp.result_type(part)}: number them first")
  if max_length is not None and ids[1] > max_length:
    raise ValueError(
      f"texts of {ids[1]} subwords are longer than the {max_length} positions of the network: "
      f"truncate them to max_length={max_length} when they are split into subwords"
    )
  valid = jnp.asarray(subwords.mask).astype(bool)
  zero_padded_ids, zero_padded_types = (
    jnp.where(valid, part, 0).astype(jnp.int32) for part in (subwords.ids, subwords.types)
  )
  return Subwords(zero_padded_ids, zero_padded_types, valid)


def token_mean(states: ArrayLike, mask: ArrayLike) -> Array:
  """The mean over tokens, float32: [B, n, D], [B, n] -> [B, D]; zeros for a text without tokens.

  >>> token_mean(jnp.array([[[2.0], [4.0], [9.0]]]), jnp.array([[1, 1, 0]])).tolist()
  [[3.0]]
  """
  mask = jnp.asarray(mask).astype(bool)[..., None]
  total = jnp.sum(jnp.where(mask, states, 0), axis=-2, dtype=jnp.float32)
  return total / jnp.maximum(jnp.sum(mask, axis=-2), 1)
