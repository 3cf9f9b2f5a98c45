"""Texts with one label each as arrays, in buckets of similar lengths."""

import dataclasses
import functools
import hashlib
import json

import jax
import numpy as np

from kd_jax.data.examples import Bucket
from kd_jax.data.labelled import check_labelled, erase_labels
from kd_jax.data.splits import check_one_label_each, hash_ids, refuse_repeated_ids
from kd_jax.types import PyTree, Subwords

_BUCKET_LENGTHS = (16, 32, 64, 128, 256, 512)


def text_bucket_lengths(longest: int) -> tuple[int, ...]:
  """Lengths to pad to: those of 16, 32, 64, 128, 256, 512 below the longest, and the longest.

  Args:
    longest: the largest number of subwords that can occur.

  Returns:
    The lengths, ascending.

  >>> text_bucket_lengths(60)
  (16, 32, 60)
  """
  return (*(length for length in _BUCKET_LENGTHS if length < longest), max(longest, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class TextDataset:
  """Encoded texts or pairs, or features of them, with labels and ids; checked on construction.

  Attributes:
    name: of the data set, for example "glue/rte".
    version: of its prepared form, for example "2.0.0".
    split: "train", "validation" or "test".
    inputs: `Subwords` of NumPy arrays [N, n]; or features of the examples, without lengths: any
      tree of arrays [N, ...]. On construction n becomes the bucket length of the longest.
    labels: [N] int32 in [0, num_classes), or float32 numbers in regression.
    ids: [N] str, unique: what an example is called in every run.
    num_classes: C; 1 means regression.
    class_names: C names; none in regression.
    keys: [N] uint32, a hash of the id for `jax.random.fold_in`; None has it computed.
    bucket_lengths: ascending, the last no shorter than the longest text; None means
      `text_bucket_lengths`. Features have none.
    pad_id: what fills up short texts.
    labelled: [N] bool, which examples have labels; None if all have. The labels of the others become 0.

  Raises:
    ValueError: arrays that disagree in shape or type, labels out of range, numbers that are not
      finite, empty rows, gaps in a mask, a repeated id, or bucket lengths that do not fit.
  """

  name: str
  version: str
  split: str
  inputs: PyTree
  labels: np.ndarray
  ids: np.ndarray
  num_classes: int
  class_names: tuple[str, ...] = ()
  keys: np.ndarray | None = None
  bucket_lengths: tuple[int, ...] | None = None
  pad_id: int = 0
  labelled: np.ndarray | None = None

  def __post_init__(self):
    where = f"{self.name} {self.split}"
    inputs = jax.tree.map(np.asarray, self.inputs)
    labels, ids = np.asarray(self.labels), np.asarray(self.ids)
    _check_ids(where, inputs, labels, ids)
    labelled = check_labelled(where, self.labelled, len(ids))
    labels = erase_labels(labels, labelled)
    labels = _checked_labels(where, labels, self.num_classes, tuple(self.class_names))
    lengths = None
    if isinstance(inputs, Subwords):
      _check_subwords(where, inputs, self.pad_id)
      longest = int(inputs.mask.sum(axis=1).max(initial=0))
      lengths = text_bucket_lengths(longest) if self.bucket_lengths is None else self.bucket_lengths
      lengths = tuple(map(int, lengths))
      if not lengths or list(lengths) != sorted(set(lengths)) or lengths[-1] < longest:
        raise ValueError(
          f"{where}: bucket lengths {lengths} must ascend and the last be at least the longest "
          f"text's {longest} subwords; add {longest}, or pass None"
        )
      inputs = _fit(inputs, lengths[np.searchsorted(lengths, longest)], self.pad_id)
    else:
      if self.bucket_lengths is not None:
        raise ValueError(f"{where}: features have no lengths; pass bucket_lengths=None")
      _check_finite(where, inputs)
    keys = hash_ids(ids)[1] if self.keys is None else np.asarray(self.keys, np.uint32)
    if keys.shape != ids.shape:
      raise ValueError(f"{where}: {keys.size} keys for {ids.size} ids; pass keys=None")
    object.__setattr__(self, "inputs", inputs)
    object.__setattr__(self, "labels", labels)
    object.__setattr__(self, "ids", ids.astype(str))
    object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))
    object.__setattr__(self, "keys", keys)
    object.__setattr__(self, "bucket_lengths", lengths)
    object.__setattr__(self, "labelled", labelled)

  def __len__(self) -> int:
    return len(self.ids)

  @functools.cached_property
  def lengths(self) -> np.ndarray | None:
    """[N] int32 numbers of subwords, special ones included; None of features."""
    if not isinstance(self.inputs, Subwords):
      return None
    return np.asarray(self.inputs.mask).sum(axis=1, dtype=np.int32)

  def take(self, rows: np.ndarray) -> "TextDataset":
    """Returns the data set of the given rows (integers or a mask), in that order."""
    inputs = jax.tree.map(lambda array: array[rows], self.inputs)
    fields = ["labels", "ids", "keys", *([] if self.labelled is None else ["labelled"])]
    arrays = {field: getattr(self, field)[rows] for field in fields}
    return dataclasses.replace(self, inputs=inputs, **arrays)

  def with_inputs(self, inputs: PyTree) -> "TextDataset":
    """The same examples with other inputs, for example a teacher's layer states [N, T, D]."""
    lengths = self.bucket_lengths if isinstance(inputs, Subwords) else None
    return dataclasses.replace(self, inputs=inputs, bucket_lengths=lengths)

  @functools.cached_property
  def buckets(self) -> tuple[Bucket, ...]:
    """Each row once, in the shortest bucket that holds it; features are one bucket."""
    assert self.keys is not None  # made on construction
    if self.lengths is None or self.bucket_lengths is None:
      rows = np.arange(len(self), dtype=np.int32)
      return (Bucket(rows, None, self.inputs, self.labels, self.keys, self.labelled),)
    chosen = np.searchsorted(self.bucket_lengths, self.lengths)
    buckets = []
    for number, length in enumerate(self.bucket_lengths):
      rows = np.flatnonzero(chosen == number).astype(np.int32)
      if rows.size:
        inputs = Subwords(*(array[rows, :length] for array in self.inputs))
        labelled = None if self.labelled is None else self.labelled[rows]
        labels, keys = self.labels[rows], self.keys[rows]
        buckets.append(Bucket(rows, length, inputs, labels, keys, labelled))
    return tuple(buckets)

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 of ids in order, labels, `labelled` and inputs, as hex, without padding and buckets."""
    inputs, tree = self.inputs, type(self.inputs).__name__
    if self.lengths is not None:
      mask = self.inputs.mask
      inputs = (self.lengths, self.inputs.ids[mask], self.inputs.types[mask])
    digest = hashlib.sha256()
    header = [tree, self.num_classes, list(self.class_names), self.ids.tolist()]
    digest.update(json.dumps(header).encode())
    for array in (self.labels, *jax.tree.leaves(inputs)):
      digest.update(f"{array.dtype} {array.shape} ".encode())
      digest.update(np.ascontiguousarray(array).tobytes())
    if self.labelled is not None:
      digest.update(self.labelled.tobytes())
    return digest.hexdigest()


def _fit(inputs: Subwords, length: int, pad_id: int) -> Subwords:
  """Cuts padding off, or adds some, until there are `length` positions."""
  width = inputs.ids.shape[1]
  if width >= length:
    return Subwords(*(np.ascontiguousarray(array[:, :length]) for array in inputs))
  added = [(0, 0), (0, length - width)]
  return Subwords(
    np.pad(inputs.ids, added, constant_values=pad_id),
    np.pad(inputs.types, added),
    np.pad(inputs.mask, added),
  )


def _check_ids(where: str, inputs: PyTree, labels: np.ndarray, ids: np.ndarray) -> None:
  """One input, one label and one id for each example, and no id twice."""
  shapes = [array.shape for array in jax.tree.leaves(inputs)]
  if not shapes:
    raise ValueError(f"{where}: there are no arrays among the inputs; give at least one")
  for shape in (*shapes, labels.shape):
    if ids.ndim != 1 or shape[:1] != ids.shape:
      raise ValueError(
        f"{where}: inputs of shape {shapes[0]}, labels of shape {labels.shape} and ids of shape "
        f"{ids.shape}: an array of shape {shape} has not one row per id; give one each"
      )
  refuse_repeated_ids(where, ids, "example")


def _checked_labels(
  where: str, labels: np.ndarray, num_classes: int, class_names: tuple[str, ...]
) -> np.ndarray:
  if num_classes < 1 or len(class_names) != (num_classes if num_classes > 1 else 0):
    raise ValueError(
      f"{where}: {len(class_names)} class names for num_classes={num_classes}; give one name per "
      "class, or num_classes=1 without names for regression"
    )
  check_one_label_each(where, labels, len(labels), "text")
  if num_classes == 1:
    with np.errstate(over="ignore"):
      labels = labels.astype(np.float32)
    if not np.isfinite(labels).all():
      row = np.flatnonzero(~np.isfinite(labels))[0]
      raise ValueError(f"{where}: the label of row {row} is {labels[row]}; give finite numbers")
    return labels
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f"{where}: labels must be integers, got {labels.dtype}; cast them")
  if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
    raise ValueError(
      f"{where}: labels run from {labels.min()} to {labels.max()}, outside [0, {num_classes}); "
      "correct the labels or num_classes"
    )
  return labels.astype(np.int32)


def _check_subwords(where: str, inputs: Subwords, pad_id: int) -> None:
  shape = inputs.ids.shape
  for field, array, dtype in zip(
    inputs._fields, inputs, (np.int32, np.int32, np.bool_), strict=True
  ):
    if array.dtype != dtype or array.shape != shape or len(shape) != 2:
      raise ValueError(
        f"{where}: {field} must be {np.dtype(dtype)} of shape [N, n] = {list(shape)}, got "
        f"{array.dtype} of shape {list(array.shape)}; pad all arrays to one length"
      )
  lengths = inputs.mask.sum(axis=1)
  broken = (lengths == 0) | (inputs.mask != (np.arange(shape[1]) < lengths[:, None])).any(axis=1)
  if broken.any():
    raise ValueError(
      f"{where}: row {np.flatnonzero(broken)[0]} has no subwords, or padding before its end "
      f"({broken.sum()} rows); keep the special tokens of empty texts and pad at the end"
    )
  if inputs.ids.min(initial=0) < 0 or inputs.types.min(initial=0) < 0:
    raise ValueError(f"{where}: an id or a type is negative; number both from 0")
  if (inputs.ids[~inputs.mask] != pad_id).any() or inputs.types[~inputs.mask].any():
    raise ValueError(
      f"{where}: padding has other ids than pad_id={pad_id}, or types other than 0; pad with these"
    )


def _check_finite(where: str, inputs: PyTree) -> None:
  for array in jax.tree.leaves(inputs):
    # One value broadcast stands for states that are not computed; others may fill most of the memory.
    rows = array[:1] if not any(array.strides) else array
    finite = [np.isfinite(row).all() for row in rows]
    if not all(finite):
      row = finite.index(False)
      raise ValueError(f"{where}: features of row {row} are not finite; look at what made them")
