"""Which examples each step of an epoch takes, and which view of them: a pure function of (seed, epoch).

Images are one bucket: whole batches, and the rows that do not fill one are left out, others in each epoch.
Sequences are several buckets by length, and a batch is of one bucket, so that a step is compiled once for
each length. There no row is left out, or the longest would never be seen: the last batch of a bucket is
filled up with masked rows.

All kinds of data have one shuffle: the rows of a bucket in an order of (seed, epoch, bucket). Seeds that train
together take a step on the same bucket: the order of the buckets' steps is that of the first of them. All else
is each seed's own. So on images, seeds together train as each alone; on sequences only the first does, and the
others see the same batches in another order.

If some examples have no label, a phase that only reads labels takes the labelled ones alone, but as many steps
in an epoch as any other phase: an epoch goes through them several times, each time in a new order, and its last
pass ends early. So all methods make the same number of updates, on batches of one size, under one schedule of
the learning rate, whatever they learn from.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from kd_jax._reading import rows_in_order
from kd_jax.data.examples import Bucket
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
  buckets: Sequence[Bucket],
  seeds: tuple[int, ...],
  epoch: int,
  batch_size: int,
  *,
  labelled_only: bool = False,
) -> list[Stretch]:
  """The steps of an epoch in order.

  Args:
    buckets: of the training examples.
    seeds: K of them, trained together.
    epoch: counted over all phases.
    batch_size: of all devices together.
    labelled_only: leave out examples without a label; the number of steps stays.

  Raises:
    ValueError: images that do not fill a batch, or no labelled example.
  """
  some = labelled_only and any(bucket.labelled is not None for bucket in buckets)
  chosen = [
    np.arange(len(b.rows)) if b.labelled is None or not some else np.flatnonzero(b.labelled)
    for b in buckets
  ]
  whole, steps = _is_whole(buckets), steps_per_epoch(buckets, batch_size)
  _refuse_too_few(sum(map(len, chosen)), batch_size if whole else 1, batch_size, some)
  stretches: list[Stretch] = []
  number = 0
  while len(stretches) < steps:
    key = (epoch, number) if some else (epoch,)
    one = _one_pass(chosen, seeds, key, batch_size, whole=whole)
    stretches += one[: steps - len(stretches)]
    number += 1
  if not whole:
    return stretches
  # One stretch: an epoch is one program.
  return [Stretch(0, np.concatenate([stretch.rows for stretch in stretches]), None)]


def _refuse_too_few(count: int, least: int, batch_size: int, some_labelled: bool) -> None:
  if count >= least:
    return
  if some_labelled:
    raise ValueError(
      f"{count} labelled training examples do not fill one batch of {batch_size}: label more, or use a smaller "
      "batch"
    )
  raise ValueError(
    f"{count} training examples do not fill one batch of {batch_size}: use a batch of at most {count}"
  )


def _one_pass(
  chosen: Sequence[np.ndarray],
  seeds: tuple[int, ...],
  key: tuple[int, ...],
  batch_size: int,
  *,
  whole: bool,
) -> list[Stretch]:
  """Takes every chosen row of each bucket once, a stretch for each step.

  Args:
    chosen: rows of each bucket.
    seeds: K of them.
    key: numbers that the order follows from, besides seed and bucket: the epoch first.
    batch_size: of all devices together.
    whole: whether a batch that is not full is left out, and each seed's steps come in its own order; otherwise
      such a batch is filled up with masked rows.
  """
  stretches = []
  epoch, *number = key
  for index, own in enumerate(chosen):
    if not len(own):
      continue
    # Slots of the batches, the last ones empty; each seed fills them in an order of its own.
    slots, mask = rows_in_order(len(own), batch_size)
    generators = [np.random.default_rng((seed, epoch, index, *number)) for seed in seeds]
    orders = np.stack([own[rng.permutation(len(own))] for rng in generators], axis=1)  # [M, K]
    count = len(own) // batch_size if whole else len(slots)
    for step in range(count):
      rows = orders[slots[step : step + 1]].transpose(0, 2, 1).astype(np.int32)
      stretches.append(Stretch(index, rows, None if whole else mask[step : step + 1]))
  if whole:
    return stretches
  order = np.random.default_rng((epoch, seeds[0], *number)).permutation(len(stretches))
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
  first = jnp.remainder(jnp.remainder(seed, views) * stride, views).astype(jnp.int32)
  return jnp.remainder(epoch + first, views)


def share_of_examples(plan: Sequence[Stretch]) -> float:
  """The share of the rows of an epoch that are examples, not what fills batches up."""
  places = sum(stretch.rows[:, 0].size for stretch in plan)
  filled = sum(s.rows[:, 0].size if s.mask is None else float(s.mask.sum()) for s in plan)
  return filled / max(places, 1)


def _is_whole(buckets: Sequence[Bucket]) -> bool:
  return len(buckets) == 1 and buckets[0].length is None
