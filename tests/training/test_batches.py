"""Which examples each step takes: every sentence once an epoch, in an order of its seed and epoch alone."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_jax._reading import rows_in_order
from kd_jax.data.examples import Bucket
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


def steps_of(plan, seed):
  """The steps as a set: (bucket, rows) of each."""
  return {
    (s.bucket, *rows[mask > 0].tolist())
    for s in plan
    for rows, mask in zip(s.rows[:, seed], s.mask, strict=True)
  }


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
    # Alone it has the same batches; of several seeds, the first has them in the same order too.
    alone = batches.plan_epoch(buckets, (seed,), epoch, batch_size)
    assert steps_of(alone, 0) == steps_of(plan, index)
    if index == 0:
      assert seen(alone, 0) == seen(plan, 0)
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


def turns(seeds, epoch):
  """Which bucket each step takes."""
  plan = batches.plan_epoch(buckets_of(24, 24, 24), seeds, epoch, 4)
  return tuple(stretch.bucket for stretch in plan)


def test_buckets_alternate_in_another_way_for_each_epoch_and_seed():
  found = {(seed, epoch): turns((seed,), epoch) for seed in range(3) for epoch in range(4)}
  for order in found.values():
    assert sorted(order) == [0] * 6 + [1] * 6 + [2] * 6
    assert order != tuple(sorted(order))
  assert len(set(found.values())) == 12


def test_seeds_together_go_through_the_buckets_as_the_first_of_them():
  assert turns((8, 2), 3) == turns((8,), 3) != turns((2,), 3)


def test_one_bucket_is_the_same_alone_and_together():
  """Then there is no order of buckets: a seed's batches come in its own order."""
  alone, together = (
    batches.plan_epoch(training.dataset(23).buckets, s, 4, 8)[0] for s in ((5,), (3, 5))
  )
  np.testing.assert_array_equal(alone.rows[:, 0], together.rows[:, 1])


@pytest.mark.parametrize("views", [1, 2, 3, 6, 18, 162])
def test_each_seed_sees_every_view_in_turn_from_another_one_on(views):
  seen_by = [
    [int(batches.view_of(seed, epoch, views)) for epoch in range(views + 1)]
    for seed in range(min(views, 20))
  ]
  for views_seen in seen_by:
    assert sorted(views_seen[:-1]) == list(range(views))
    assert np.all(np.diff(views_seen) % views == 1 % views)
  first = [views_seen[0] for views_seen in seen_by]
  assert len(set(first)) == len(first)
  # Seed 0 sees view e in epoch e, and five seeds begin far apart.
  assert first[0] == 0
  five = np.sort(first[:5])
  assert np.diff(np.append(five, five[0] + views)).min() >= views // 9


def test_a_view_is_exact_for_large_seeds_epochs_and_numbers_of_views():
  """In the 32 bits of a device."""
  views, stride = 65_522, batches.view_of(1, 0, 65_522)
  at = jax.jit(lambda seed, epoch: batches.view_of(seed, epoch, views))
  for seed, epoch in ((65_521, 7), (2**32 - 1, 10_000)):
    expected = (epoch + seed * int(stride)) % views
    assert int(at(np.uint32(seed), np.int32(epoch))) == expected


def test_images_take_whole_batches_in_one_stretch():
  buckets = training.dataset(23).buckets
  (only,) = batches.plan_epoch(buckets, (3, 5), 4, 8)
  assert only.bucket == 0
  assert only.mask is None
  assert batches.steps_per_epoch(buckets, 8) == len(only.rows) == 2
  with pytest.raises(ValueError, match="23 training examples do not fill one batch of 24"):
    batches.plan_epoch(buckets, (0,), 0, 24)


def images(size):
  """One bucket without a length; nothing but the number of its rows is read."""
  return (Bucket(np.arange(size), None, None, None, None),)


@contract.sampled
@hypothesis.given(
  size=st.sampled_from([20, 64]),
  batch_size=st.integers(1, 20),
  seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=4),
  epoch=st.integers(0, 500),
)
def test_every_image_comes_at_most_once_an_epoch(size, batch_size, seeds, epoch):
  (plan,) = batches.plan_epoch(images(size), tuple(seeds), epoch, batch_size)
  steps = size // batch_size
  assert plan.rows.shape == (steps, len(seeds), batch_size)
  assert plan.rows.dtype == np.int32
  for index, seed in enumerate(seeds):
    used = plan.rows[:, index].reshape(-1)
    assert len(set(used.tolist())) == steps * batch_size
    assert used.min() >= 0
    assert used.max() < size
    # The seed's own order, whatever stands beside it.
    (alone,) = batches.plan_epoch(images(size), (seed,), epoch, batch_size)
    np.testing.assert_array_equal(alone.rows[:, 0], plan.rows[:, index])


def rows_of(size, seed, epoch, batch_size):
  (plan,) = batches.plan_epoch(images(size), (seed,), epoch, batch_size)
  return tuple(plan.rows.reshape(-1).tolist())


def test_orders_of_images_differ_between_epochs_and_seeds():
  orders = {(s, e): rows_of(30, s, e, 10) for s in range(3) for e in range(4)}
  assert len(set(orders.values())) == 12
  assert orders[1, 2] == rows_of(30, 1, 2, 10)


def test_all_kinds_of_data_have_one_shuffle():
  """Images and sentences of one bucket: the same examples in the same batches."""
  (plan,) = batches.plan_epoch(images(24), (5,), 3, 8)
  sentences_plan = batches.plan_epoch(buckets_of(24), (5,), 3, 8)
  assert {tuple(rows[0]) for rows in plan.rows.tolist()} == {
    tuple(s.rows[0, 0].tolist()) for s in sentences_plan
  }


def test_images_that_fill_no_batch_are_left_out_and_change_from_epoch_to_epoch():
  left = [frozenset(range(23)) - set(rows_of(23, 0, epoch, 10)) for epoch in range(6)]
  assert all(len(rows) == 3 for rows in left)
  assert len(set(left)) > 1


@contract.sampled
@hypothesis.given(num_rows=st.integers(1, 100), batch_size=st.integers(1, 30))
def test_rows_in_order_are_whole_and_padding_is_masked(num_rows, batch_size):
  rows, mask = rows_in_order(num_rows, batch_size)
  assert rows.shape == mask.shape == (int(np.ceil(num_rows / batch_size)), batch_size)
  assert rows[mask == 1].tolist() == list(range(num_rows))
  assert np.all(rows[mask == 0] == 0)
  assert set(np.unique(mask)) <= {0.0, 1.0}


def test_few_sentences_of_one_length_are_no_images():
  """One bucket too, but the batch is filled up and nobody is left out."""
  data = sentences.dataset((3, 2, 4), buckets=(4,))
  (only,) = batches.plan_epoch(data.buckets, (0,), 0, 8)
  assert only.mask.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
  assert sorted(only.rows[0, 0, :3]) == [0, 1, 2]
