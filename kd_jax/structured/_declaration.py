"""The declaration of a structure's fields, and what follows from it for every structure alike.

A structure is a NamedTuple, or a frozen dataclass that is a pytree with static flags. Its own file declares
which of its fields belong to a sentence and with which axes, which fields sentences share, and which are
scores. The ragged cache, slicing by length and scaling by a temperature read that declaration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax._checks import refuse_other_masks
from kd_jax.structured._protocols import AnyStructure, Structure
from kd_jax.types import EXCLUDED, Array, ArrayLike


@dataclasses.dataclass(frozen=True)
class Declaration:
  """The fields of a structure.

  Attributes:
    sentence: for each field with a value for every sentence, by how much each of its axes of positions
    exceeds n. shared: for each field that all sentences share, its number of axes.
    scores: the fields that are scores.
    flags: static fields, which are no arrays.
  """

  sentence: Mapping[str, tuple[int, ...]]
  shared: Mapping[str, int]
  scores: tuple[str, ...]
  flags: tuple[str, ...]


Kind = TypeVar("Kind", bound=type[Structure])

KINDS: dict[str, type[Structure]] = {}
"""The structures by name."""
First = TypeVar("First", bound=Structure)
Second = TypeVar("Second", bound=Structure)

_DECLARATIONS: dict[type, Declaration] = {}


def _positions(axes: str) -> tuple[int, ...]:
  """By how much each axis of positions in "n n+1 R" exceeds n."""
  sizes = [axis for axis in axes.split() if axis == "n" or axis.startswith("n+")]
  return tuple(int(size[2:] or 0) for size in sizes)


def declare(
  *, sentence: Mapping[str, str], scores: str, shared: Mapping[str, str] | None = None
) -> Callable[[Kind], Kind]:
  """Builds a class decorator that declares the fields of a structure.

  Args:
    sentence: the axes of each field with a value for every sentence, positions first: {"arc": "n n+1"}.
    scores: the names of the fields that are scores, separated by spaces.
    shared: the axes of each field that all sentences share: {"transition": "L L"}.
  """
  own = {name: _positions(axes) for name, axes in sentence.items()}
  common = {name: len(axes.split()) for name, axes in (shared or {}).items()}

  def register(kind: Kind) -> Kind:
    names = field_names(kind)
    flags = tuple(name for name in names if name not in {*own, *common, "mask"})
    _DECLARATIONS[kind] = Declaration(own, common, tuple(scores.split()), flags)
    KINDS[kind.__name__] = kind
    return kind

  return register


def find_declaration(structure: object) -> Declaration | None:
  """What the type of a structure declares; None if it declares nothing."""
  return _DECLARATIONS.get(structure if isinstance(structure, type) else type(structure))


def declaration(structure: Structure | type[Structure]) -> Declaration:
  """What a structure, or a type of structures, declares.

  Raises:
    ValueError: for a type that declares nothing.
  """
  found = find_declaration(structure)
  if found is None:
    kind = structure if isinstance(structure, type) else type(structure)
    raise ValueError(f"{kind.__name__} is no structure: known are {', '.join(KINDS)}")
  return found


def field_names(kind: type) -> tuple[str, ...]:
  """The names of a structure's fields, the mask and static flags among them."""
  if dataclasses.is_dataclass(kind):
    return tuple(field.name for field in dataclasses.fields(kind))
  return cast(type[NamedTuple], kind)._fields


def replace(structure: AnyStructure, **changes: Any) -> AnyStructure:
  """The structure with other values in some fields."""
  fields: Any = structure  # its type does not tell which kind of class it is
  if dataclasses.is_dataclass(type(fields)):
    return dataclasses.replace(fields, **changes)
  return fields._replace(**changes)


def scaled(structure: AnyStructure, factor: ArrayLike) -> AnyStructure:
  """Multiplies all declared scores, and nothing else, by a factor.

  Scores of what is excluded stay as they are. The scores of a distribution at temperature T are those of T = 1
  times 1/T.
  """

  def multiply(scores: ArrayLike) -> Array:
    scores = jnp.asarray(scores).astype(jnp.float32)
    allowed = scores > EXCLUDED
    return jnp.where(allowed, jnp.where(allowed, scores, 0.0) * factor, scores)

  names = declaration(structure).scores
  given = {name: getattr(structure, name) for name in names}
  return replace(
    structure, **{name: multiply(scores) for name, scores in given.items() if scores is not None}
  )


def with_one_mask(first: First, second: Second) -> tuple[First, Second]:
  """Both structures with the sentences' mask: a structure without one takes the other's.

  Raises:
    ValueError: masks that (unless traced) differ.
  """
  if first.mask is second.mask:
    return first, second
  if first.mask is None:
    return replace(first, mask=second.mask), second
  if second.mask is None:
    return first, replace(second, mask=first.mask)
  if jnp.shape(first.mask) == jnp.shape(second.mask):
    refuse_other_masks(first.mask, second.mask)
  return first, second


def as_pair(p: AnyStructure, q: AnyStructure) -> tuple[AnyStructure, AnyStructure]:
  """Two structures of one type over the same sentences, with one mask.

  Raises:
    ValueError: for other types, flags, shapes, or (unless traced) masks.
  """
  if type(p) is not type(q):
    raise ValueError(
      f"`p` and `q` must be structures of one type, got {type(p).__name__} and {type(q).__name__}"
    )
  fields = find_declaration(p)
  for name in fields.flags if fields else ():
    if getattr(p, name) != getattr(q, name):
      raise ValueError(
        f"`p` and `q` must have one {name}, got {getattr(p, name)} and {getattr(q, name)}"
      )
  for name in fields.sentence if fields else ():
    shapes = [jnp.shape(getattr(s, name)) for s in (p, q) if getattr(s, name) is not None]
    if len(set(shapes)) > 1:
      raise ValueError(
        f"{name} of `p` and `q` must have one shape (the same sentences, positions and labels), got "
        f"{shapes[0]} and {shapes[1]}"
      )
  return with_one_mask(p, q)


def static_flags(structure: Structure) -> dict[str, np.ndarray]:
  """The static flags of a structure as arrays, for files."""
  flags = declaration(structure).flags
  return {name: np.asarray(getattr(structure, name), np.int8) for name in flags}


def stop_gradient(structure: AnyStructure) -> AnyStructure:
  """The structure, whose scores are constants to a gradient."""
  return jax.lax.stop_gradient(structure)
