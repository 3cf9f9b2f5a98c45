"""Which examples each step takes: every sentence once an epoch, in an order of its seed and epoch alone."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_jax import parallel
from kd_jax.data.dataset import Bucket
from kd_jax.training import batches
from tests import contract, training
from tests.training import sentences


def buckets_of(*sizes):
  """Buckets of so many sentences; nothing but their number is read."""
  return tuple(
    Bucket(np.arange(size), 4 * number, None, None, None) for number, size in enumerate(sizes, 1)
  )


def seen(plan, seed):
  """[(bucket, row)] of the steps' real rows, for the seed at an index."""
  return [
    (stretch.bucket, int(row))
    for stretch in plan
    for rows, mask in zip(stretch.rows[:, seed], stretch.mask, strict=True)
    for row in rows[mask > 0]
  ]


def same(one, other):
  assert [stretch.bucket for stretch in one] == [stretch.bucket for stretch in other]
  for a, b in zip(one, other, strict=True):
    np.testing.assert_array_equal(a.rows, b.rows)
    np.testing.assert_array_equal(a.mask, b.mask)


@contract.sampled
@hypothesis.given(
  sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
  batch_size=st.integers(1, 12),
  seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=3),
  epoch=st.integers(0, 500),
)
def test_every_sentence_comes_exactly_once_an_epoch(sizes, batch_size, seeds, epoch):
  buckets = buckets_of(*sizes)
  plan = batches.plan_epoch(buckets, tuple(seeds), epoch, batch_size)
  everything = [(index, row) for index, size in enumerate(sizes) for row in range(size)]
  for index, seed in enumerate(seeds):
    assert sorted(seen(plan, index)) == everything
    alone = batches.plan_epoch(buckets, (seed,), epoch, batch_size)
    assert seen(alone, 0) == seen(plan, index)
  steps = sum(len(stretch.rows) for stretch in plan)
  assert steps == batches.steps_per_epoch(buckets, batch_size)
  assert steps == sum(-(-size // batch_size) for size in sizes)
  for stretch in plan:
    assert stretch.rows.shape == (len(stretch.rows), len(seeds), batch_size)
    assert stretch.mask.shape == (len(stretch.rows), batch_size)
    assert (stretch.rows.dtype, stretch.mask.dtype) == (np.int32, np.float32)
    # What fills a batch up is masked, and within the bucket all the same.
    assert 0 <= stretch.rows.min() <= stretch.rows.max() < sizes[stretch.bucket]
    assert set(np.unique(stretch.mask)) <= {0, 1}


def test_a_plan_is_a_pure_function_of_its_arguments():
  buckets = buckets_of(9, 20)
  first = batches.plan_epoch(buckets, (3, 5), 2, 4)
  batches.plan_epoch(buckets, (1,), 9, 4)
  np.random.default_rng().random()
  same(batches.plan_epoch(buckets, (3, 5), 2, 4), first)


def test_the_order_within_a_bucket_differs_between_seeds_epochs_and_buckets():
  orders = {}
  for seed in range(3):
    for epoch in range(3):
      found = seen(batches.plan_epoch(buckets_of(16, 16), (seed,), epoch, 16), 0)
      for bucket in range(2):
        orders[seed, epoch, bucket] = tuple(row for index, row in found if index == bucket)
  assert len(set(orders.values())) == len(orders) == 18


def test_buckets_alternate_and_in_another_way_in_each_epoch():
  buckets = buckets_of(24, 24, 24)
  turns = []
  for epoch in range(4):
    first, other = (batches.plan_epoch(buckets, seeds, epoch, 4) for seeds in ((0,), (8, 2)))
    turns.append(tuple(stretch.bucket for stretch in first))
    # Seeds train as one program: whoever they are, they go through the buckets together.
    assert turns[-1] == tuple(stretch.bucket for stretch in other)
    assert sorted(turns[-1]) == [0] * 6 + [1] * 6 + [2] * 6
    assert turns[-1] != tuple(sorted(turns[-1]))
  assert len(set(turns)) == 4


def test_images_take_whole_batches_in_one_stretch():
  buckets = training.dataset(23).buckets
  (only,) = batches.plan_epoch(buckets, (3, 5), 4, 8)
  assert only.bucket == 0
  assert only.mask is None
  np.testing.assert_array_equal(only.rows, parallel.shuffled_rows((3, 5), 4, 23, 8))
  assert batches.steps_per_epoch(buckets, 8) == len(only.rows) == 2
  with pytest.raises(ValueError, match="23 training examples do not fill one batch of 24"):
    batches.plan_epoch(buckets, (0,), 0, 24)


def test_few_sentences_of_one_length_are_no_images():
  """One bucket too, but the batch is filled up and nobody is left out."""
  data = sentences.dataset((3, 2, 4), buckets=(4,))
  (only,) = batches.plan_epoch(data.buckets, (0,), 0, 8)
  assert only.mask.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
  assert sorted(only.rows[0, 0, :3]) == [0, 1, 2]
