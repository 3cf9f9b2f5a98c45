"""Which examples belong to a split: decided by hashes of their ids, never by their order.

The order of a prepared file depends on the tool that wrote it; an id does not. Everything that
must be the same in every run (row order, the held-out split, augmentation keys) hangs on the
id alone.
"""

import hashlib
from collections.abc import Iterable

import numpy as np


def hash_ids(ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
  """Hashes example ids with SHA-256: 64 bits to order by and 32 other bits for random keys.

  Args:
    ids: N example ids.

  Returns:
    ([N] uint64 order, [N] uint32 keys). Two ids may share a key (about 0.3 pairs in 50,000):
    they then see the same crops, which does no harm.

  >>> order, keys = hash_ids(["train_00000", "train_00001"])
  >>> order.dtype, keys.dtype, bool(order[0] == order[1])
  (dtype('uint64'), dtype('uint32'), False)
  """
  digests = b"".join(hashlib.sha256(str(one).encode()).digest()[:12] for one in ids)
  fields = np.frombuffer(digests, np.dtype([("order", "<u8"), ("key", "<u4")]))
  return fields["order"].astype(np.uint64), fields["key"].astype(np.uint32)


def content_ids(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Makes ids for a data set that has none: a hash of image and label, and a count of copies.

  Args:
    images: [N, ...] uint8.
    labels: [N] integers.

  Returns:
    [N] str, unique; copies of one example are told apart by ``-0``, ``-1``, … in row order,
    which is sound because they are identical.

  >>> [name[-2:] for name in content_ids(np.zeros((2, 1, 1, 1), np.uint8), np.array([3, 3]))]
  ['-0', '-1']
  """
  seen: dict[str, int] = {}
  ids = []
  for image, label in zip(images, labels, strict=True):
    header = f"{image.shape} {int(label)} ".encode()
    digest = hashlib.sha256(header + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
    seen[digest] = seen.get(digest, -1) + 1
    ids.append(f"{digest}-{seen[digest]}")
  return np.array(ids)


def balanced_rows(labels: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
  """Picks `count` rows, as many of each class as there are, lowest hashes first.

  Rows are ranked by hash within their class and taken rank by rank, so a larger `count`
  always contains a smaller one, and class counts differ by at most one while no class is
  used up.

  Args:
    labels: [N] class numbers.
    ids: [N] str, unique.
    count: how many rows, 0 to N.

  Returns:
    [count] row numbers, increasing.

  >>> ids = np.array(["a", "b", "c", "d", "e", "f"])
  >>> rows = balanced_rows(np.array([0, 0, 0, 0, 1, 1]), ids, 2)
  >>> [int(row) > 3 for row in rows]
  [False, True]
  """
  order, _ = hash_ids(ids)
  by_hash = np.lexsort((ids, order))
  ranks = np.empty(len(ids), np.int64)
  for label in np.unique(labels):
    members = by_hash[labels[by_hash] == label]
    ranks[members] = np.arange(len(members))
  chosen = by_hash[np.argsort(ranks[by_hash], kind="stable")][:count]
  return np.sort(chosen)


def check_one_label_each(where: str, labels: np.ndarray, count: int, noun: str) -> None:
  """Refuses labels that are not one for each example.

  Args:
    where: of which data, for messages.
    labels: [N] is right.
    count: N.
    noun: what has a label.

  Raises:
    ValueError: another shape, with the remedy for labels [N, 1] and one-hot labels.

  >>> check_one_label_each("a.npz", np.zeros((6, 1)), 6, "image")
  Traceback (most recent call last):
  ...
  ValueError: labels of a.npz must be [N], got (6, 1): take labels[:, 0]
  """
  if labels.ndim != 1:
    column = labels.ndim == 2 and labels.shape[1] == 1
    one_hot = ": take labels.argmax(1)" if labels.ndim == 2 else ""
    advice = ": take labels[:, 0]" if column else one_hot
    raise ValueError(f"labels of {where} must be [N], got {labels.shape}{advice}")
  if len(labels) != count:
    raise ValueError(f"{where} has {count:,} {noun}s but {len(labels):,} labels: give one each")


def refuse_repeated_ids(where: str, ids: np.ndarray, noun: str) -> None:
  """Raises ValueError, naming the first of the ids [N] that occurs twice; `noun` is what has an id."""
  names, counts = np.unique(ids, return_counts=True)
  if (counts > 1).any():
    raise ValueError(
      f"{where}: id {str(names[counts > 1][0])!r} occurs {counts.max()} times "
      f"({(counts > 1).sum()} ids repeat); give every {noun} an id of its own"
    )
