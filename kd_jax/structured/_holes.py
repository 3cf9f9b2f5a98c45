"""Sentences without their masked tokens, wherever these stand: the others close up, and results are put back.

The algorithms on chains and trees take sentences whose padding is at the end. A mask that is known to be ones
and then zeros costs nothing; a traced one is looked at when the program runs, and only sentences with
holes pay.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.types import Array, ArrayLike

Result = TypeVar("Result")


def _has_holes(mask: ArrayLike) -> bool | Array:
  """Whether a token stands after a masked one; of a traced mask, a traced answer."""
  if isinstance(mask, jax.core.Tracer):
    mask = mask.astype(bool)
    return jnp.any(mask[..., 1:] & ~mask[..., :-1])
  mask = np.asarray(mask).astype(bool)
  return bool((mask[..., 1:] & ~mask[..., :-1]).any())


def _if_holes(
  mask: ArrayLike | None,
  move: Callable[[ArrayLike, Array], Result],
  keep: Callable[[Array], Result],
  array: Array,
) -> Result:
  """What `move` makes of a mask with holes and an array; what `keep` makes of the array if there are none."""
  if mask is None:
    return keep(array)
  holes = _has_holes(mask)
  if isinstance(holes, bool):
    return move(mask, array) if holes else keep(array)
  return jax.lax.cond(holes, functools.partial(move, mask), keep, array)


def _same(array: Array) -> Array:
  return array


def _order(mask: ArrayLike) -> Array:
  """The old position [..., n] of each new one, tokens first."""
  return jnp.argsort(~jnp.asarray(mask).astype(bool), axis=-1, stable=True).astype(jnp.int32)


def _rank(mask: ArrayLike) -> Array:
  """The new position [..., n] of each old one, tokens first."""
  mask = jnp.asarray(mask).astype(bool)
  tokens = jnp.cumsum(mask, axis=-1, dtype=jnp.int32)
  others = jnp.cumsum(~mask, axis=-1, dtype=jnp.int32)
  return jnp.where(mask, tokens, tokens[..., -1:] + others) - 1


def _gather(array: Array, places: Array, extras: tuple[int, ...]) -> Array:
  """Moves entries along the axes of positions, which follow the batch's; an extra entry is the root's."""
  batch = places.ndim - 1
  for number, extra in enumerate(extras):
    if extra:
      root = jnp.zeros((*places.shape[:-1], extra), places.dtype)
      index = jnp.concatenate([root, places + extra], axis=-1)
    else:
      index = places
    axis = batch + number
    after = array.ndim - axis - 1
    index = index.reshape(*index.shape[:-1], *(1,) * number, index.shape[-1], *(1,) * after)
    array = jnp.take_along_axis(array, index, axis=axis, mode="promise_in_bounds")
  return array


def close_up(
  array: Array,
  mask: ArrayLike | None,
  extras: tuple[int, ...] = (0,),
  then: Callable[[Array], Array] = _same,
) -> Array:
  """Moves the entries of tokens before those of masked positions.

  Args:
    array: [..., n + extra, ...], for each of the extras one axis after the batch's.
    mask: [..., n] or None.
    extras: by how much each axis of positions exceeds n: 1 for heads, whose first entry is the root.
    then: what is done with the result; a copy that it makes anyway is then the only one.
  """

  def move(mask: ArrayLike, array: Array) -> Array:
    return then(_gather(array, _order(mask), extras))

  return _if_holes(mask, move, then, array)


def closed_mask(mask: Array) -> Array:
  """The mask [..., n] of sentences that have closed up."""
  count = jnp.sum(mask, axis=-1, keepdims=True, dtype=jnp.int32)
  return jnp.arange(mask.shape[-1], dtype=jnp.int32) < count


def put_back(array: Array, mask: ArrayLike | None, extras: tuple[int, ...] = (0,)) -> Array:
  """The inverse of `close_up`."""

  def move(mask: ArrayLike, array: Array) -> Array:
    return _gather(array, _rank(mask), extras)

  return _if_holes(mask, move, _same, array)


def put_back_pairs(pairs: Array, mask: ArrayLike | None) -> Array:
  """Puts [..., n-1, L, L] of neighbouring tokens where the later one of the two stands, less one."""

  def move(mask: ArrayLike, pairs: Array) -> Array:
    first = [(0, 0)] * pairs.ndim
    first[-3] = (1, 0)
    return _gather(jnp.pad(pairs, first), _rank(mask), (0,))[..., 1:, :, :]

  return _if_holes(mask, move, _same, pairs)


def put_back_rows(labels: Array, mask: ArrayLike | None) -> Array:
  """Puts labels [..., k, n] of k labellings back."""
  if mask is None:
    return labels
  move = jax.vmap(lambda labels: put_back(labels, mask), -2, -2)
  return move(labels)


def put_back_heads(heads: Array, mask: ArrayLike | None) -> Array:
  """Heads [..., n] among the tokens alone as heads of all positions, put back."""

  def move(mask: ArrayLike, heads: Array) -> Array:
    return _gather(_renamed(heads, _order(mask)), _rank(mask), (0,))

  return _if_holes(mask, move, _same, heads)


def _renamed(heads: Array, places: Array) -> Array:
  index = jnp.maximum(heads, 1) - 1
  return jnp.where(heads == 0, 0, jnp.take_along_axis(places, index, axis=-1) + 1)


def heads_at(mask: Array, given: ArrayLike | None, offsets: Array) -> tuple[Array, Array]:
  """The heads that lie `offsets` [L] tokens from each token, masked ones not counted.

  Args:
    mask: [..., n] bool.
    given: the mask as it was given.
    offsets: [L] integers.

  Returns:
    heads [..., n, L] int32 as positions from 1, and bool [..., n, L]: whether they are tokens.
  """
  count = jnp.sum(mask, axis=-1, dtype=jnp.int32)[..., None, None]

  def named(rank: Array) -> tuple[Array, Array]:
    heads = rank[..., None] + 1 + offsets
    return heads.astype(jnp.int32), (heads >= 1) & (heads <= count)

  def move(given: ArrayLike, mask: Array) -> tuple[Array, Array]:
    del given
    heads, inside = named(_rank(mask))
    flat = jnp.clip(heads, 1, mask.shape[-1]).reshape(*mask.shape[:-1], -1) - 1
    return jnp.take_along_axis(_order(mask), flat, axis=-1).reshape(heads.shape) + 1, inside

  def keep(mask: Array) -> tuple[Array, Array]:
    return named(jnp.broadcast_to(jnp.arange(mask.shape[-1], dtype=jnp.int32), mask.shape))

  return _if_holes(given, move, keep, mask)
