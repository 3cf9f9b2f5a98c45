"""Structures as arrays with rows: which fields belong to a sentence, and how long they are at its true length.

A network gives structures padded to the longest sentence of a batch. Kept for later, each sentence's fields
are cut to their true size and joined end to end (ragged): scores of spans and arcs grow with the square of
the length, so padding to the longest would multiply them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.structured._declaration import (
  KINDS as KINDS,
  declaration,
  field_names,
  find_declaration,
  replace,
  static_flags,
)
from kd_jax.structured._protocols import AnyStructure, Structure
from kd_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ragged:
  """The scores of many sentences at their true lengths.

  Attributes:
    kind: name of the structure. Static.
    lengths: [N] int32.
    values: {field: [sum of the sentences' sizes, ...]} sentence after sentence.
    shared: {field: array} what all sentences have in common: a chain's transitions, static flags as 0 or 1.
  """

  kind: str = dataclasses.field(metadata={"static": True})
  lengths: np.ndarray
  values: dict[str, np.ndarray]
  shared: dict[str, np.ndarray]

  def sizes(self, name: str) -> np.ndarray:
    """How many entries of a field each sentence has."""
    axes = _axes(self.kind)[name]
    return np.prod([self.lengths.astype(np.int64) + extra for extra in axes], axis=0)

  def take(self, rows: np.ndarray) -> "Ragged":
    """The sentences of the given rows, in that order."""
    values = {}
    for name, flat in self.values.items():
      sizes = self.sizes(name)
      starts = np.concatenate([[0], np.cumsum(sizes)])
      parts = [flat[starts[row] : starts[row + 1]] for row in rows]
      values[name] = np.concatenate(parts) if parts else flat[:0]
    return Ragged(self.kind, self.lengths[rows], values, self.shared)


def _axes(kind: str) -> Mapping[str, tuple[int, ...]]:
  """For each field with a value for every sentence, by how much each of its leading axes exceeds n.

  Raises:
    ValueError: for a structure that this version of kd_jax does not have.
  """
  if kind not in KINDS:
    raise ValueError(
      f"a cache of {kind} was written by another version of kd_jax: precompute it again, known are "
      f"{', '.join(KINDS)}"
    )
  return declaration(KINDS[kind]).sentence


def assemble(kind: type[Structure], fields: Mapping[str, Any]) -> Structure:
  """A structure from some of its fields; the others are None."""
  flags = declaration(kind).flags
  given = {name: bool(value) if name in flags else value for name, value in fields.items()}
  rest = dict.fromkeys(name for name in field_names(kind) if name not in flags)
  return kind(**rest | given)


def pack(scores: Structure, lengths: np.ndarray) -> Ragged:
  """Cuts the scores of a batch to the sentences' true lengths.

  Args:
    scores: host arrays, [M, n, ...]; fields that sentences share without the leading axis.
    lengths: [M].
  """
  kind = type(scores).__name__
  own, shared = split(scores)
  values = {}
  for name, padded in own.items():
    axes, array = _axes(kind)[name], np.asarray(padded)
    tail = array.shape[1 + len(axes) :]
    parts = [
      row[tuple(slice(length + extra) for extra in axes)].reshape(-1, *tail)
      for row, length in zip(array, lengths, strict=True)
    ]
    values[name] = np.concatenate(parts) if parts else array.reshape(-1, *tail)[:0]
  common = {name: np.asarray(array) for name, array in shared.items()} | static_flags(scores)
  return Ragged(kind, np.asarray(lengths, np.int32), values, common)


def unpack(ragged: Ragged, length: int) -> Structure:
  """The sentences padded with zeros to one length, with their mask; the inverse of `pack`.

  Raises:
    ValueError: a sentence is longer.
  """
  if len(ragged.lengths) and ragged.lengths.max() > length:
    raise ValueError(f"a sentence of {ragged.lengths.max()} tokens does not fit into {length}")
  own_axes, fields = _axes(ragged.kind), dict(ragged.shared)
  fields["mask"] = np.arange(length) < ragged.lengths[:, None]
  for name, flat in ragged.values.items():
    axes = own_axes[name]
    tail = flat.shape[1:]
    padded = np.zeros((len(ragged.lengths), *(length + extra for extra in axes), *tail), flat.dtype)
    start = 0
    for row, count in enumerate(ragged.lengths):
      shape = tuple(count + extra for extra in axes)
      size = int(np.prod(shape))
      where: tuple[int | slice, ...] = (row, *map(slice, shape))
      padded[where] = flat[start : start + size].reshape(*shape, *tail)
      start += size
    fields[name] = padded
  return assemble(KINDS[ragged.kind], fields)


def join(parts: list[Ragged]) -> Ragged:
  """The sentences of several, one after another; what they share is that of the first."""
  first = parts[0]
  return Ragged(
    first.kind,
    np.concatenate([part.lengths for part in parts]),
    {name: np.concatenate([part.values[name] for part in parts]) for name in first.values},
    first.shared,
  )


def split(scores: Structure) -> tuple[dict[str, Array], dict[str, Array]]:
  """(fields with a value for every sentence, fields that sentences share), without mask and flags.

  Raises:
    ValueError: a chain whose sentences have transitions of their own.
  """
  fields = declaration(scores)
  own = {name: getattr(scores, name) for name in fields.sentence}
  shared = {name: getattr(scores, name) for name in fields.shared}
  for name, array in shared.items():
    if jnp.ndim(array) != fields.shared[name]:
      raise ValueError(
        f"{name} {jnp.shape(array)} must be one for all sentences, without their axis"
      )
  return {name: array for name, array in own.items() if array is not None}, shared


def has_pairs(scores: Structure | None) -> bool:
  """Whether scores have an entry for each pair of positions, so that they grow with n²."""
  fields = find_declaration(scores)
  return fields is not None and any(len(axes) > 1 for axes in fields.sentence.values())


def take_rows(scores: AnyStructure, rows: Array) -> AnyStructure:
  """The given sentences of a padded structure [M, n, ...]; what all share stays as it is."""
  own = split(scores)[0] | {"mask": scores.mask}
  return replace(scores, **{name: jnp.asarray(array)[rows] for name, array in own.items()})


def check(scores: Structure, rows: int, length: int | None) -> None:
  """Refuses a padded structure that is not of so many sentences and positions.

  Raises:
    ValueError: with both shapes.
  """
  if scores.mask is None or np.shape(scores.mask) != (rows, length):
    raise ValueError(
      f"the teacher's scores need a mask of the bucket's sentences and positions {(rows, length)}, got "
      f"{None if scores.mask is None else np.shape(scores.mask)}"
    )
