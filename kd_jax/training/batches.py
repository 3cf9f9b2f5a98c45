"""Which examples each step of an epoch takes: a pure function of (seed, epoch).

Images are one bucket: whole batches, and the rows that do not fill one are left out, others in each epoch.
Sequences are several buckets by length, and a batch is of one bucket, so that a step is compiled once for
each length. There no row is left out, or the longest would never be seen: the last batch of a bucket is
filled up with masked rows. The order of the buckets' steps is the same for all seeds that train together,
and does not depend on which they are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kd_jax import parallel
from kd_jax.data.dataset import Bucket


class Stretch(NamedTuple):
  """Consecutive steps on one bucket.

  Attributes:
    bucket: its number.
    rows: [steps, K, B] int32, in the bucket.
    mask: [steps, B] float32, 0 where a batch is filled up; None where none ever is.
  """

  bucket: int
  rows: np.ndarray
  mask: np.ndarray | None


def steps_per_epoch(buckets: Sequence[Bucket], batch_size: int) -> int:
  """How many steps an epoch has."""
  if _is_whole(buckets):
    return len(buckets[0].rows) // batch_size
  return sum(-(-len(bucket.rows) // batch_size) for bucket in buckets)


def plan_epoch(
  buckets: Sequence[Bucket], seeds: tuple[int, ...], epoch: int, batch_size: int
) -> list[Stretch]:
  """The steps of an epoch in order.

  Args:
    buckets: of the training examples.
    seeds: K of them, trained together.
    epoch: counted over all phases.
    batch_size: of all devices together.

  Raises:
    ValueError: images that do not fill a batch.
  """
  if _is_whole(buckets):
    rows = parallel.shuffled_rows(seeds, epoch, len(buckets[0].rows), batch_size)
    return [Stretch(0, rows, None)]
  stretches = []
  for index, bucket in enumerate(buckets):
    # Slots of the batches, the last ones empty; each seed fills them in an order of its own.
    slots, mask = parallel.batches_of_rows(len(bucket.rows), batch_size)
    orders = np.stack(
      [_order(seed, epoch, index, len(bucket.rows)) for seed in seeds], axis=1
    )  # [M, K]
    rows = orders[slots].transpose(0, 2, 1).astype(np.int32)
    stretches += [Stretch(index, rows[i : i + 1], mask[i : i + 1]) for i in range(len(rows))]
  return [stretches[i] for i in np.random.default_rng(epoch).permutation(len(stretches))]


def _order(seed: int, epoch: int, bucket: int, size: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch, bucket)).permutation(size)


def _is_whole(buckets: Sequence[Bucket]) -> bool:
  return len(buckets) == 1 and buckets[0].length is None
