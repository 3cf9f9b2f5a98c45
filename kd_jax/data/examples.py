"""What training, caching and evaluation ask of a set of examples, of whatever kind."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from kd_jax.types import PyTree


class Bucket(NamedTuple):
  """Examples of one shape, as a network reads them: a data set is one bucket, or several by length.

  Attributes:
    rows: [M] int positions in the data set.
    length: n, to which the sequences are padded; None for images.
    inputs: [M, ...] what the network reads.
    labels: [M, ...].
    keys: [M] uint32, from the example ids.
    labelled: [M] bool, which examples have labels; None if all of the data set have.
  """

  rows: np.ndarray
  length: int | None
  inputs: PyTree
  labels: PyTree
  keys: np.ndarray
  labelled: np.ndarray | None = None


def worthwhile_lengths(
  lengths: np.ndarray, candidates: Sequence[int], *, positions: int = 2048
) -> tuple[int, ...]:
  """Leaves out bucket lengths that save less padding than their programs cost to compile.

  Each bucket has programs of its own, which take seconds to compile however few examples it holds.

  Args:
    lengths: [N] of the examples.
    candidates: bucket lengths, ascending, the last no shorter than the longest example.
    positions: how many padded positions, over all examples, a bucket must save.

  Returns:
    Some of the candidates; the last is always one of them.

  >>> worthwhile_lengths(np.array([5] * 1000 + [12] * 10 + [30] * 10), (8, 16, 32))
  (8, 32)
  """
  kept, waiting = [], np.asarray(lengths)
  for length, following in itertools.pairwise(candidates):
    held = waiting <= length
    if int(held.sum()) * (following - length) >= positions:
      kept.append(int(length))
      waiting = waiting[~held]
  return (*kept, int(candidates[-1]))


@runtime_checkable
class Classified(Protocol):
  """Examples of C classes, as images and texts are."""

  @property
  def num_classes(self) -> int: ...


class Examples(Protocol):
  """Images, sentences or texts of one split, with a name for every example.

  Attributes:
    name: of the data set.
    version: of its prepared form.
    split: "train", "validation" or "test".
    ids: [N] str, unique: what an example is called in every run.
    labelled: [N] bool, which examples have labels; None if all have.
    buckets: each example once, in arrays of one shape.
    fingerprint: SHA-256 of ids in order, labels and inputs, as hex.
  """

  @property
  def name(self) -> str: ...
  @property
  def version(self) -> str: ...
  @property
  def split(self) -> str: ...
  @property
  def ids(self) -> np.ndarray: ...
  @property
  def labelled(self) -> np.ndarray | None: ...
  @property
  def buckets(self) -> tuple[Bucket, ...]: ...
  @property
  def fingerprint(self) -> str: ...
  def __len__(self) -> int: ...
