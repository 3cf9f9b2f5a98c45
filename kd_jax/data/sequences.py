"""Sentences as arrays, in buckets of similar lengths."""

import dataclasses
import functools
import hashlib
import json

import jax
import numpy as np

from kd_jax.data.examples import Bucket
from kd_jax.data.labelled import check_labelled, erase_labels
from kd_jax.data.splits import hash_ids, refuse_repeated_ids
from kd_jax.types import AnyArray, Tokens, Tree

_SHORTEST = 8
UNSEEN = -1
"""The number of a relation, or a parsing tag, unseen in training."""
UNSEEN_TAGS = {"S": -3, "B": -2, "I": -1, "E": -1}
"""Numbers of tags whose entity type is unseen in training: the numbering 1 + 4r, ..., continued to
r = -1, save that an end, which would be 0, is written as an inside."""


def default_bucket_lengths(longest: int) -> tuple[int, ...]:
  """Lengths to pad to: powers of two from 8 up to the first that holds the longest sentence.

  Args:
    longest: number of tokens.

  Returns:
    The lengths, ascending.

  >>> default_bucket_lengths(33)
  (8, 16, 32, 64)
  """
  lengths = [_SHORTEST]
  while lengths[-1] < longest:
    lengths.append(2 * lengths[-1])
  return tuple(lengths)


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceDataset:
  """Sentences, their gold tags or trees and their ids, of one split; checked on construction.

  Labels of padding are 0. What was never seen in training has negative labels (`UNSEEN`,
  `UNSEEN_TAGS`): no prediction equals them, so each counts as an error, and a loss has to mask
  or clip them before it uses them as indices. Entities of unseen types can still be counted:
  each begins with -3 or -2.

  Attributes:
    name: of the data set, for example "conll2003".
    version: of its prepared form, for example "1.0.0".
    split: "train", "validation" or "test".
    inputs: `Tokens` of [N, n] int32 words, [N, n, c] uint8 characters and [N, n] bool mask;
      on construction n becomes the last bucket length.
    labels: [N, n] int32 tags, or a `Tree` of [N, n] heads, relations and punctuation.
    ids: [N] str, unique: what a sentence is called in every run.
    keys: [N] uint32, a hash of the id for `jax.random.fold_in`; None has it computed.
    bucket_lengths: ascending, the last no shorter than the longest sentence; None means
      `default_bucket_lengths`.
    labelled: [N] bool, which sentences have labels; None if all have. The labels of the others become 0.

  Raises:
    ValueError: arrays that disagree in shape or type, gaps or nonzero values in padding, empty
      sentences, heads outside the sentence, a repeated id, or bucket lengths that do not fit.
  """

  name: str
  version: str
  split: str
  inputs: Tokens
  labels: np.ndarray | Tree
  ids: np.ndarray
  keys: np.ndarray | None = None
  bucket_lengths: tuple[int, ...] | None = None
  labelled: np.ndarray | None = None

  def __post_init__(self):
    where = f"{self.name} {self.split}"
    inputs = Tokens(*map(np.asarray, self.inputs))
    labels, ids = jax.tree.map(np.asarray, self.labels), np.asarray(self.ids)
    _check_arrays(where, inputs, labels, ids)
    labelled = check_labelled(where, self.labelled, len(ids))
    labels = erase_labels(labels, labelled)
    lengths = inputs.mask.sum(axis=1)
    longest = int(lengths.max(initial=0))
    buckets = self.bucket_lengths
    buckets = default_bucket_lengths(longest) if buckets is None else tuple(map(int, buckets))
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[-1] < longest:
      raise ValueError(
        f"{where}: bucket lengths {buckets} must ascend and the last be at least the longest "
        f"sentence's {longest} tokens; add {longest}, or pass None"
      )
    keys = hash_ids(ids)[1] if self.keys is None else np.asarray(self.keys, np.uint32)
    if keys.shape != ids.shape:
      raise ValueError(f"{where}: {keys.size} keys for {ids.size} ids; pass keys=None")
    fit = functools.partial(_fit, length=buckets[-1])
    object.__setattr__(self, "inputs", jax.tree.map(fit, inputs))
    object.__setattr__(self, "labels", jax.tree.map(fit, labels))
    object.__setattr__(self, "ids", ids.astype(str))
    object.__setattr__(self, "keys", keys)
    object.__setattr__(self, "bucket_lengths", buckets)
    object.__setattr__(self, "labelled", labelled)

  def __len__(self) -> int:
    return len(self.ids)

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """[N] int32 numbers of tokens."""
    return np.asarray(self.inputs.mask).sum(axis=1, dtype=np.int32)

  def take(self, rows: np.ndarray) -> "SequenceDataset":
    """Returns the data set of the given rows (integers or a mask), in that order."""
    inputs, labels = jax.tree.map(lambda array: array[rows], (self.inputs, self.labels))
    assert self.keys is not None  # made on construction
    ids, keys = self.ids[rows], self.keys[rows]
    labelled = None if self.labelled is None else self.labelled[rows]
    return dataclasses.replace(
      self, inputs=inputs, labels=labels, ids=ids, keys=keys, labelled=labelled
    )

  @functools.cached_property
  def buckets(self) -> tuple[Bucket, ...]:
    """Each row once, in the shortest bucket that holds it; ascending lengths, none empty."""
    assert self.keys is not None  # both are made on construction
    assert self.bucket_lengths is not None
    chosen = np.searchsorted(self.bucket_lengths, self.lengths)
    buckets = []
    for number, length in enumerate(self.bucket_lengths):
      rows = np.flatnonzero(chosen == number).astype(np.int32)
      if rows.size:
        inputs, labels = jax.tree.map(
          lambda array, rows=rows, length=length: array[rows, :length],
          (self.inputs, self.labels),
        )
        labelled = None if self.labelled is None else self.labelled[rows]
        buckets.append(Bucket(rows, length, inputs, labels, self.keys[rows], labelled))
    return tuple(buckets)

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 of ids in order, lengths, all arrays and `labelled`, as hex; buckets have no part in it."""
    longest = int(self.lengths.max(initial=0))
    digest = hashlib.sha256()
    digest.update(json.dumps([type(self.labels).__name__, self.ids.tolist()]).encode())
    for array in (self.lengths, *jax.tree.leaves((self.inputs, self.labels))):
      array = np.ascontiguousarray(array[:, :longest] if array.ndim > 1 else array)
      digest.update(f"{array.dtype.str} {array.shape} ".encode())
      digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    if self.labelled is not None:
      digest.update(self.labelled.tobytes())
    return digest.hexdigest()


def _fit(array: np.ndarray, length: int) -> np.ndarray:
  """Cuts padding off, or adds some, until there are `length` positions."""
  if array.shape[1] >= length:
    return np.ascontiguousarray(array[:, :length])
  return np.pad(array, [(0, 0), (0, length - array.shape[1])] + [(0, 0)] * (array.ndim - 2))


def _check_arrays(where: str, inputs: Tokens, labels: np.ndarray | Tree, ids: np.ndarray) -> None:
  words, characters, mask = inputs
  shape = words.shape
  arrays = [("words", words, np.int32), ("mask", mask, np.bool_)]
  if isinstance(labels, Tree):
    arrays += [("heads", labels.heads, np.int32), ("relations", labels.relations, np.int32)]
    arrays += [("punctuation", labels.punctuation, np.bool_)]
  else:
    arrays += [("labels", labels, np.int32)]
  for field, array, dtype in arrays:
    if array.dtype != dtype or array.shape != shape or len(shape) != 2:
      raise ValueError(
        f"{where}: {field} must be {np.dtype(dtype)} of shape [N, n] = {list(shape)}, got "
        f"{array.dtype} of shape {list(array.shape)}; pad all arrays to one length"
      )
  if characters.dtype != np.uint8 or characters.ndim != 3 or characters.shape[:2] != shape:
    raise ValueError(
      f"{where}: characters must be uint8 of shape [N, n, c], [N, n] = {list(shape)}, got "
      f"{characters.dtype} of shape {list(characters.shape)}; pad them as the words"
    )
  if ids.shape != shape[:1]:
    raise ValueError(f"{where}: {shape[0]} sentences but ids of shape {ids.shape}; give one each")
  refuse_repeated_ids(where, ids, "sentence")
  lengths = mask.sum(axis=1)
  broken = (lengths == 0) | (mask != (np.arange(shape[1]) < lengths[:, None])).any(axis=1)
  if broken.any():
    raise ValueError(
      f"{where}: row {np.flatnonzero(broken)[0]} has no tokens, or padding before its end "
      f"({broken.sum()} rows); leave empty sentences out and pad at the end"
    )
  for field, array, _ in [*arrays, ("characters", characters, None)]:
    if array[~mask].any():
      raise ValueError(f"{where}: {field} are not 0 in the padding; multiply them by the mask")
  _check_numbers(where, "words", words, 0, None)
  if isinstance(labels, Tree):
    _check_numbers(where, "heads", labels.heads, 0, np.broadcast_to(lengths[:, None], shape))
    _check_numbers(where, "relations", labels.relations, UNSEEN, None)
  else:
    _check_numbers(where, "labels", labels, min(UNSEEN_TAGS.values()), None)


def _check_numbers(
  where: str, field: str, array: AnyArray, low: int, high: np.ndarray | None
) -> None:
  wrong = (array < low) if high is None else (array < low) | (array > high)
  if wrong.any():
    row, position = np.argwhere(wrong)[0]
    allowed = f"at least {low}" + ("" if high is None else f" and at most {high[row, position]}")
    raise ValueError(
      f"{where}: {field} must be {allowed}, got {array[row, position]} in row {row} at position "
      f"{position}; correct it"
    )
