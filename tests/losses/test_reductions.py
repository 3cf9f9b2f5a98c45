"""Masked sums, counts and means."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import kd_jax
from tests import contract, oracles


@contract.sampled
@hypothesis.given(
  shape=st.sampled_from([(), (1,), (6,), (3, 4), (3, 3), (2, 3, 2)]),
  mask_axes=st.integers(0, 3),
  dtype=st.sampled_from([bool, np.int32, np.float32]),
  seed=st.integers(0, 10**6),
)
def test_equals_the_reference(shape, mask_axes, dtype, seed):
  rng = np.random.default_rng(seed)
  values = np.asarray(rng.standard_normal(shape), np.float32)
  mask = np.asarray(rng.integers(0, 2, shape[:mask_axes]), dtype)
  for chosen in (None, mask):
    total, count = kd_jax.masked_sum_and_count(values, chosen)
    expected_total, expected_count = oracles.masked_sum_and_count(values, chosen)
    np.testing.assert_allclose(total, expected_total, rtol=1e-5, atol=1e-6)
    assert float(count) == expected_count
    mean = kd_jax.masked_mean(values, chosen)
    assert mean.dtype == jnp.float32
    assert mean.shape == ()
    np.testing.assert_allclose(mean, oracles.masked_mean(values, chosen), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_masked_values_count_for_nothing(garbage):
  mask = np.array([True, False, True])
  values = np.where(mask, np.float32([1, 0, 2]), np.float32(garbage))
  assert kd_jax.masked_mean(values, mask) == 1.5
  gradient = jax.grad(kd_jax.masked_mean)(values, mask)
  np.testing.assert_allclose(gradient, [0.5, 0, 0.5])


def test_everything_masked_is_zero_with_zero_gradient():
  values, mask = np.float32([1, np.nan, 2]), np.zeros(3, bool)
  assert kd_jax.masked_mean(values, mask) == 0
  np.testing.assert_array_equal(jax.grad(kd_jax.masked_mean)(values, mask), 0)
  assert kd_jax.masked_mean(np.zeros((0, 3), np.float32)) == 0


def test_a_mask_belongs_to_the_leading_axes():
  """NumPy would broadcast a mask [B] over the columns of a square [B, B]."""
  values = np.float32([[1, 2], [10, 20]])
  assert kd_jax.masked_mean(values, np.array([True, False])) == 1.5
  for wrong in ((3,), (2, 3), (2, 2, 1)):
    with pytest.raises(ValueError, match="mask"):
      kd_jax.masked_mean(values, np.ones(wrong, bool))
  with pytest.raises(ValueError, match="mask"):
    kd_jax.masked_mean(np.ones((2, 3), np.float32), np.ones(3, bool))


@pytest.mark.parametrize("dtype", contract.LOW_PRECISION)
def test_sums_are_accumulated_in_float32(dtype):
  """4,097 ones sum to 256 in bfloat16 and to 2,048 in float16 if added one by one."""
  total, count = kd_jax.masked_sum_and_count(jnp.ones(4097, dtype))
  assert total.dtype == jnp.float32
  assert (float(total), float(count)) == (4097, 4097)


@pytest.mark.parametrize("transform", [jax.pmap, jax.vmap])
def test_devices_are_reduced_before_dividing(transform):
  """Devices hold different numbers of examples; a mean of their means would be wrong."""
  devices = jax.local_device_count()
  rng = np.random.default_rng(0)
  values = rng.standard_normal((devices, 6)).astype(np.float32)
  mask = np.arange(6) < np.arange(devices)[:, None]  # 0 examples on the first device
  mask[-1] = True
  values = np.where(mask, values, np.float32(np.nan))
  mean = transform(
    lambda values, mask: kd_jax.masked_mean(values, mask, axis_name="devices"),
    axis_name="devices",
  )(values, mask)
  np.testing.assert_allclose(mean, np.full(devices, oracles.masked_mean(values, mask)), rtol=1e-5)
  none = transform(
    lambda values: kd_jax.masked_mean(values, axis_name="devices"), axis_name="devices"
  )(np.where(mask, values, 0))
  np.testing.assert_allclose(none, np.sum(values, where=mask) / values.size, rtol=1e-5)


def test_padding_a_batch_does_not_change_the_mean_loss():
  student, teacher = np.random.default_rng(5).standard_normal((2, 10, 5)).astype(np.float32)
  padded = [np.concatenate([logits, np.zeros((6, 5), np.float32)]) for logits in (student, teacher)]
  padded[0][10:] = 7 * np.arange(5)  # far from the teacher, so that counting it would show
  mask = np.arange(16) < 10

  def mean(student, teacher, mask=None):
    return kd_jax.masked_mean(
      kd_jax.soft_target_kd_loss(student, teacher, temperature=2.0, mask=mask), mask
    )

  value, gradient = jax.jit(jax.value_and_grad(mean))(*padded, mask)
  expected, expected_gradient = jax.jit(jax.value_and_grad(mean))(student, teacher)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient[:10], expected_gradient, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(gradient[10:], 0)


def test_weights_weigh():
  values = np.float32([0, 1, 2, 3])
  weights = np.float32([0.5, 0.5, 2, 2])
  for run in (kd_jax.masked_mean, jax.jit(kd_jax.masked_mean)):
    np.testing.assert_allclose(run(values, weights=weights), 10.5 / 5)
    np.testing.assert_allclose(run(values, np.array([0, 1, 1, 0]), weights=weights), 4.5 / 2.5)
    assert run(values, weights=0 * weights) == 0
  rows = np.float32([[1, 3], [5, 7]])
  np.testing.assert_allclose(kd_jax.masked_mean(rows, weights=np.float32([3, 1])), 24 / 8)
  gradient = jax.grad(lambda v: kd_jax.masked_mean(v, weights=weights))(values)
  np.testing.assert_allclose(gradient, weights / 5)


def test_a_value_of_weight_zero_may_be_anything():
  values, weights = np.float32([1, np.nan, 3]), np.float32([1, 0, 3])
  assert kd_jax.masked_mean(values, weights=weights) == 2.5
  gradient = jax.grad(lambda v: kd_jax.masked_mean(v, weights=weights))(values)
  np.testing.assert_allclose(gradient, [0.25, 0, 0.75])


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, np.inf], [np.nan, 1.0], [1.0, 1.0, 1.0]])
def test_weights_that_are_none_are_refused(weights):
  with pytest.raises(ValueError, match="weights"):
    kd_jax.masked_mean(np.zeros(2, np.float32), weights=np.float32(weights))


def test_weights_in_the_place_of_a_mask_are_refused():
  for call in (
    lambda mask: kd_jax.masked_mean(np.zeros(2, np.float32), mask),
    lambda mask: kd_jax.soft_target_kd_loss(np.eye(2), np.eye(2), temperature=2.0, mask=mask),
    lambda mask: kd_jax.structured.log_partition(
      kd_jax.structured.MaxEnt(np.zeros((2, 3), np.float32), mask)
    ),
  ):
    call(np.float32([1, 0]))
    with pytest.raises(ValueError, match=r"mask must hold zeros and ones, got 0\.5"):
      call(np.float32([1, 0.5]))
