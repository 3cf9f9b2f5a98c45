"""Which examples each step of an epoch takes, and which view of them: a pure function of (seed, epoch).

Images are one bucket: whole batches, and the rows that do not fill one are left out, others in each epoch.
Sequences are several buckets by length, and a batch is of one bucket, so that a step is compiled once for
each length. There no row is left out, or the longest would never be seen: the last batch of a bucket is
filled up with masked rows.

Seeds that train together take a step on the same bucket: the order of the buckets' steps is that of the first
of them. All else is each seed's own. So on one bucket, seeds together train as each alone; on several buckets
only the first does, and the others see the same batches in another order.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from kd_jax import parallel
from kd_jax.data.dataset import Bucket
from kd_jax.types import Array, ArrayLike


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
  order = np.random.default_rng((epoch, seeds[0])).permutation(len(stretches))
  return [stretches[i] for i in order]


def view_of(seed: ArrayLike, epoch: ArrayLike, views: int) -> Array:
  """Which view of all examples a seed sees in an epoch: (epoch + stride · seed) mod views; traceable.

  Each seed goes through all views in turn and begins at another one, so that the spread over seeds has a part
  from the augmentation. The stride has no divisor in common with `views`: so many seeds begin apart. Near the
  golden section of `views`, it also keeps few seeds far from one another.

  Args:
    seed: whole number from 0.
    epoch: counted over all phases, from 0.
    views: V, at least 1.
  """
  stride = max(1, round(0.618 * views))
  while math.gcd(stride, views) > 1:
    stride += 1
  first = jnp.asarray(seed % views * stride % views, jnp.int32)
  return (epoch + first) % views


def _order(seed: int, epoch: int, bucket: int, size: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch, bucket)).permutation(size)


def _is_whole(buckets: Sequence[Bucket]) -> bool:
  return len(buckets) == 1 and buckets[0].length is None
