"""Which training examples have labels. The others teach a student through the teacher alone.

A split has a mask `labelled` [N], or None if every example has a label. The labels of the others are erased
when a split is made: they are 0 everywhere, so that nothing can read them.
"""

import dataclasses
from typing import Any, ClassVar, Protocol, TypeVar

import jax
import numpy as np

from kd_jax.data.splits import hash_ids
from kd_jax.types import PyTree


class PartlyLabelled(Protocol):
  """Examples, of which some may have no label."""

  @property
  def ids(self) -> np.ndarray: ...
  @property
  def labelled(self) -> np.ndarray | None: ...


class _Dataset(PartlyLabelled, Protocol):
  """A frozen dataclass of images, sentences or texts."""

  __dataclass_fields__: ClassVar[dict[str, Any]]

  @property
  def labels(self) -> Any: ...
  def take(self: "Split", rows: np.ndarray) -> "Split": ...


Split = TypeVar("Split", bound=_Dataset)


def check_labelled(where: str, labelled: Any, count: int) -> np.ndarray | None:
  """Returns the mask [count], or None if all examples have a label.

  Raises:
    ValueError: an array that is not bool of shape [count].
  """
  if labelled is None:
    return None
  labelled = np.asarray(labelled)
  if labelled.dtype != np.bool_ or labelled.shape != (count,):
    raise ValueError(
      f"{where}: `labelled` must be bool of shape [{count}], got {labelled.dtype} of shape "
      f"{list(labelled.shape)}; pass None if every example has a label"
    )
  return None if labelled.all() else labelled


def erase_labels(labels: PyTree, labelled: np.ndarray | None) -> PyTree:
  """Labels [N, ...] with 0 for the examples that have none."""
  if labelled is None:
    return labels

  def erased(array: np.ndarray) -> np.ndarray:
    array = np.array(array)
    array[~labelled] = 0
    return array

  return jax.tree.map(erased, labels)


def choose_labelled(ids: np.ndarray, unlabelled_share: float) -> np.ndarray | None:
  """Chooses the examples that keep their labels, by hashes of their ids.

  A smaller share keeps the labels of a larger one, and more. The hashes are not those that order the rows and
  hold out a split: these are balanced over classes, and what they leave is in an order that depends on them.

  Args:
    ids: [N] str, unique.
    unlabelled_share: share of the examples that lose their labels, in [0, 1).

  Returns:
    [N] bool, or None if the share is 0.

  Raises:
    ValueError: a share outside [0, 1), or one that leaves no labelled example.

  >>> choose_labelled(np.array(["a", "b", "c", "d"]), 0.5).sum()
  np.int64(2)
  """
  check_share(unlabelled_share)
  count = len(ids) - round(unlabelled_share * len(ids))
  if count < 1:
    raise ValueError(
      f"unlabelled_share={unlabelled_share} leaves {count} labelled examples of {len(ids)}; lower it"
    )
  if count == len(ids):
    return None
  labelled = np.zeros(len(ids), bool)
  order, _ = hash_ids(f"label of {name}" for name in ids)
  labelled[np.lexsort((ids, order))[:count]] = True
  return labelled


def check_share(unlabelled_share: float) -> None:
  """Raises ValueError unless a share is in [0, 1)."""
  if not 0 <= unlabelled_share < 1:
    raise ValueError(f"unlabelled_share must be at least 0 and below 1, got {unlabelled_share}")


def check_classes(labels: np.ndarray, labelled: np.ndarray | None) -> None:
  """Raises ValueError if a class [N] of the data has no labelled example."""
  if labelled is None:
    return
  classes, left = np.unique(labels), np.unique(labels[labelled])
  if len(left) < len(classes):
    raise ValueError(
      f"the {labelled.sum()} labelled of {len(labels)} training examples are of {len(left)} of the "
      f"{len(classes)} classes; lower unlabelled_share"
    )


def check_all_labelled(split: PartlyLabelled) -> None:
  """Raises ValueError if some examples of a split have no label."""
  if split.labelled is not None:
    raise ValueError(
      f"{len(split.ids) - num_labelled(split)} of {len(split.ids)} examples have no label already: hide labels "
      "first, then add examples without"
    )


def num_labelled(split: PartlyLabelled) -> int:
  """How many examples of a split have labels."""
  return len(split.ids) if split.labelled is None else int(split.labelled.sum())


def labelled_part(split: Split) -> Split:
  """The examples that have labels: the split itself if all do."""
  return split if split.labelled is None else split.take(np.flatnonzero(split.labelled))


def hide_labels(split: Split, unlabelled_share: float) -> Split:
  """Erases the labels of a share of the examples, chosen by `choose_labelled`.

  Args:
    split: images or texts of classes or numbers, all of them with labels.
    unlabelled_share: share of the examples that lose their labels, in [0, 1).

  Returns:
    The split, with fewer labels.

  Raises:
    ValueError: as `choose_labelled`, a class without a labelled example, or a split some of whose examples
      have no label already.
  """
  check_all_labelled(split)
  labelled = choose_labelled(split.ids, unlabelled_share)
  if np.issubdtype(split.labels.dtype, np.integer):
    check_classes(split.labels, labelled)
  return dataclasses.replace(split, labelled=labelled)
