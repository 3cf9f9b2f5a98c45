"""A set of images in memory, with a name for every example."""

import dataclasses
import functools
import hashlib
import json

import numpy as np

from kd_jax.data.examples import Bucket
from kd_jax.data.labelled import check_labelled, erase_labels
from kd_jax.data.splits import (
  check_one_label_each,
  content_ids,
  hash_ids,
  refuse_repeated_ids,
)

_CHANNELS = (1, 3, 4)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Images, labels and example ids of one split; checked on construction.

  Attributes:
    name: of the data set, for example "cifar10".
    version: of its prepared form, for example "3.0.2".
    split: "train", "validation" or "test".
    images: [N, H, W, D] uint8.
    labels: [N] int32 in [0, num_classes); 0 for examples without a label, whatever was given.
    keys: [N] uint32, a hash of the id for `jax.random.fold_in`; None has it computed.
    ids: [N] str, unique: what an example is called in every run.
    num_classes: C.
    labelled: [N] bool, which examples have labels; None if all have.

  Raises:
    ValueError: arrays that disagree in length, type or range, or a repeated id.
  """

  name: str
  version: str
  split: str
  images: np.ndarray
  labels: np.ndarray
  keys: np.ndarray | None
  ids: np.ndarray
  num_classes: int
  labelled: np.ndarray | None = None

  def __post_init__(self):
    images, labels, ids = np.asarray(self.images), np.asarray(self.labels), np.asarray(self.ids)
    where = f"{self.name} {self.split}"
    _check_arrays(where, images, labels)
    if ids.shape != labels.shape:
      raise ValueError(
        f"{where}: {images.shape[0]} images and ids of shape {ids.shape}; give one id per image"
      )
    labelled = check_labelled(where, self.labelled, len(ids))
    labels = erase_labels(labels, labelled)
    if labels.size and (labels.min() < 0 or labels.max() >= self.num_classes):
      raise ValueError(
        f"{where}: labels run from {labels.min()} to {labels.max()}, outside [0, "
        f"{self.num_classes}); correct the labels or num_classes"
      )
    refuse_repeated_ids(where, ids, "example")
    keys = hash_ids(ids)[1] if self.keys is None else np.asarray(self.keys, np.uint32)
    if keys.shape != ids.shape:
      raise ValueError(f"{where}: {keys.size} keys for {ids.size} ids; pass keys=None")
    object.__setattr__(self, "images", images)
    object.__setattr__(self, "labels", labels.astype(np.int32))
    object.__setattr__(self, "ids", ids.astype(str))
    object.__setattr__(self, "keys", keys)
    object.__setattr__(self, "labelled", labelled)

  def __len__(self) -> int:
    return len(self.labels)

  @classmethod
  def from_arrays(
    cls,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    split: str = "train",
    name: str = "arrays",
    labelled: np.ndarray | None = None,
  ) -> "Dataset":
    """A data set of one's own arrays, whose ids are made from their content.

    Args:
      images: [N, H, W, D] uint8.
      labels: [N] integers in [0, num_classes).
      num_classes: C.
      split: what part of the data it is.
      name: what the data are called.
      labelled: [N] bool, which images have labels; the labels of the others are not read.

    Raises:
      ValueError: as the constructor.

    >>> len(Dataset.from_arrays(np.zeros((3, 8, 8, 1), np.uint8), np.array([0, 1, 1]), num_classes=2))
    3
    """
    images, labels = np.asarray(images), np.asarray(labels)
    where = f"{name} {split}"
    _check_arrays(where, images, labels)
    labelled = check_labelled(where, labelled, len(images))
    ids = content_ids(images, erase_labels(labels, labelled))
    return cls(name, "0", split, images, labels, None, ids, num_classes, labelled)

  def take(self, rows: np.ndarray) -> "Dataset":
    """Returns the data set of the given rows (integers or a mask), in that order."""
    arrays = ["images", "labels", "ids", "keys"]
    arrays += [] if self.labelled is None else ["labelled"]
    return dataclasses.replace(self, **{field: getattr(self, field)[rows] for field in arrays})

  @property
  def buckets(self) -> tuple[Bucket, ...]:
    """All images as one bucket."""
    assert self.keys is not None  # made on construction
    rows = np.arange(len(self))
    return (Bucket(rows, None, self.images, self.labels, self.keys, self.labelled),)

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 of ids in order, labels, `labelled` and pixels, as hex; arrays must not change after it."""
    digest = hashlib.sha256()
    digest.update(json.dumps([self.images.shape, self.num_classes, self.ids.tolist()]).encode())
    digest.update(self.labels.astype("<i4").tobytes())
    digest.update(np.ascontiguousarray(self.images).data)
    if self.labelled is not None:
      digest.update(self.labelled.tobytes())
    return digest.hexdigest()


def _check_arrays(where: str, images: np.ndarray, labels: np.ndarray) -> None:
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(
      f"{where}: images must be uint8 of shape [N, H, W, D], got {images.dtype} of "
      f"shape {images.shape}; convert them, and normalise inside the model's input step"
    )
  refuse_channels_first(where, images)
  check_one_label_each(where, labels, len(images), "image")
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f"{where}: labels must be integers, got {labels.dtype}; cast them")


def refuse_channels_first(where: str, images: np.ndarray) -> None:
  """Refuses images [N, D, H, W], whose second axis is a number of channels and whose last is none.

  >>> refuse_channels_first("mine", np.zeros((8, 3, 32, 32), np.uint8))
  Traceback (most recent call last):
  ...
  ValueError: images of mine are channels first, (8, 3, 32, 32): pass images.transpose(0, 2, 3, 1)
  """
  shape = images.shape
  if images.ndim == 4 and shape[3] not in _CHANNELS and shape[1] in _CHANNELS:
    raise ValueError(
      f"images of {where} are channels first, {shape}: pass images.transpose(0, 2, 3, 1)"
    )
