"""The linear chain as data: its scores, what is checked at the door, boundaries and constraints."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from kd_jax._checks import as_mask, as_scores, bounded, refuse_nan
from kd_jax.structured._declaration import declare
from kd_jax.structured._holes import close_up, closed_mask
from kd_jax.types import NEG_INF, Array, ArrayLike


@declare(sentence={"unary": "n L"}, shared={"transition": "L L"}, scores="unary transition")
class LinearChain(NamedTuple):
  """Scores of tag sequences, by tag and by pair of neighbouring tags.

  Attributes:
    unary: [..., n, L] of each tag at each position.
    transition: [..., L, L] of a tag (row) followed by another (column); [L, L] for all sentences alike.
    mask: [..., n], nonzero for tokens; None if all are.
  """

  unary: Float[ArrayLike, "*batch n L"]
  transition: Float[ArrayLike, "*#batch L L"]
  mask: Bool[ArrayLike, "*batch n"] | None = None


class Columns(NamedTuple):
  """A checked chain with its batch last: unary [n, L, B], transition [L, L, B or 1], mask [n, B]."""

  unary: Array
  transition: Array
  mask: Array


def columns_of(chain: LinearChain) -> Columns:
  """Checks a chain, closes up its tokens, blanks out its padding and moves its batch to the end."""
  unary = as_scores("unary", chain.unary, "n, L")
  transition = as_scores("transition", chain.transition, "L, L")
  leading, (length, num_labels) = unary.shape[:-2], unary.shape[-2:]
  if transition.shape[-2:] != (num_labels, num_labels) or 0 in (length, num_labels):
    raise ValueError(
      f"unary {unary.shape} is of [..., n, L] and transition {transition.shape} must be of [L, L] "
      "with the same tags, n and L at least 1"
    )
  mask = as_mask(chain.mask, unary.shape[:-1])
  refuse_nan("unary", unary, mask[..., None])
  refuse_nan("transition", transition, jnp.ones((), bool))
  mask = closed_mask(mask)
  if transition.size == num_labels**2:
    transition = transition.reshape(1, num_labels, num_labels)
  else:
    try:
      transition = jnp.broadcast_to(transition, (*leading, num_labels, num_labels))
    except ValueError:
      raise ValueError(
        f"transition {transition.shape} must be [L, L] or have the leading axes of unary "
        f"{unary.shape}"
      ) from None
    transition = transition.reshape(-1, num_labels, num_labels)
  # In a sentence without tokens only tag 0 is left at the first position: one structure, of score 0.
  alone = jnp.where(
    (jnp.arange(length, dtype=jnp.int32)[:, None] == 0)
    & (jnp.arange(num_labels, dtype=jnp.int32) > 0),
    NEG_INF,
    jnp.float32(0.0),
  )
  blanks = jnp.where(mask[..., :1, None], 0.0, alone)
  batch = math.prod(leading)

  def as_columns(unary):
    unary = jnp.where(mask[..., None], bounded(unary), blanks)
    return jnp.transpose(unary.reshape(batch, length, num_labels), (1, 2, 0))

  return Columns(
    close_up(unary, chain.mask, then=as_columns),
    jnp.moveaxis(bounded(transition), 0, -1),
    mask.reshape(batch, length).T,
  )


def closed(chain: LinearChain) -> LinearChain:
  """The chain of the tokens alone, padding at the end."""
  if chain.mask is None:
    return chain
  mask = closed_mask(jnp.asarray(chain.mask).astype(bool))
  return LinearChain(close_up(jnp.asarray(chain.unary), chain.mask), chain.transition, mask)


def leading_axes(chain: LinearChain) -> tuple[int, ...]:
  """The axes before [n, L]."""
  return jnp.shape(chain.unary)[:-2]


def _ends(mask: Array) -> tuple[Array, Array]:
  """Bool [..., n]: which token is the first and which the last."""
  count = jnp.cumsum(mask, axis=-1, dtype=jnp.int32)
  return mask & (count == 1), mask & (count == count[..., -1:])


def with_boundaries(
  unary: Float[ArrayLike, "*batch n L"],
  transition: Float[ArrayLike, "*#batch L L"],
  start: Float[ArrayLike, " L"],
  end: Float[ArrayLike, " L"],
  mask: Bool[ArrayLike, "*batch n"] | None = None,
) -> LinearChain:
  """A chain with scores for its first and last tag, folded into the unary scores there.

  Args:
    unary: [..., n, L].
    transition: [..., L, L].
    start: [L] scores of the first tag.
    end: [L] scores of the last tag.
    mask: [..., n] or None.

  Returns:
    `LinearChain`.

  Raises:
    ValueError: for integer scores, or start and end that are not of shape [L].

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import with_boundaries
    >>> zeros = jnp.zeros((2, 2))
    >>> with_boundaries(zeros, zeros, jnp.array([1., 2.]), jnp.array([3., 4.])).unary.tolist()
    [[1.0, 2.0], [3.0, 4.0]]
  """
  unary = as_scores("unary", unary, "n, L")
  start, end = as_scores("start", start, "L"), as_scores("end", end, "L")
  for name, scores in (("start", start), ("end", end)):
    if scores.shape != unary.shape[-1:]:
      raise ValueError(f"{name} {scores.shape} must be [L], unary is {unary.shape} of [..., n, L]")
  first, last = _ends(as_mask(mask, unary.shape[:-1]))
  unary += jnp.where(first[..., None], start, 0.0) + jnp.where(last[..., None], end, 0.0)
  return LinearChain(unary, transition, mask)


def constrain(
  chain: LinearChain,
  allowed: Bool[ArrayLike, "L L"],
  start: Bool[ArrayLike, " L"] | None = None,
  end: Bool[ArrayLike, " L"] | None = None,
) -> LinearChain:
  """A chain in which what is not allowed has score NEG_INF.

  Args:
    chain: n positions, L tags.
    allowed: bool [L, L]: may this tag (row) be followed by that one (column)?
    start: bool [L]: may a sentence start with this tag? None: with any.
    end: bool [L]: may it end with it?

  Returns:
    `LinearChain`.

  Raises:
    ValueError: for masks of other shapes, or integer scores.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import LinearChain, argmax, constrain
    >>> chain = LinearChain(jnp.array([[1., 0.], [0., 1.]]), jnp.zeros((2, 2)))
    >>> argmax(constrain(chain, allowed=jnp.eye(2, dtype=bool))).tolist()
    [0, 0]
  """
  unary = as_scores("unary", chain.unary, "n, L")
  transition = as_scores("transition", chain.transition, "L, L")
  allowed = jnp.asarray(allowed, bool)
  if allowed.shape != transition.shape[-2:]:
    raise ValueError(f"allowed {allowed.shape} must be [L, L], transition is {transition.shape}")
  first, last = _ends(as_mask(chain.mask, unary.shape[:-1]))
  for name, where, tags in (("start", first, start), ("end", last, end)):
    if tags is None:
      continue
    tags = jnp.asarray(tags, bool)
    if tags.shape != unary.shape[-1:]:
      raise ValueError(f"{name} {tags.shape} must be [L], unary is {unary.shape} of [..., n, L]")
    unary = jnp.where(where[..., None] & ~tags, NEG_INF, unary)
  return LinearChain(unary, jnp.where(allowed, transition, NEG_INF), chain.mask)
