"""Schedules against their definitions, step by step."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import kd_jax
from tests import contract, oracles

number = st.floats(-5, 5).map(lambda value: round(value, 3))
# One length for all examples, so that little is compiled.
STEPS = np.arange(1024)


@contract.sampled
@hypothesis.given(max_temperature=st.integers(1, 20), steps=st.integers(1, 50))
def test_annealing_temperature(max_temperature, steps):
  schedule = kd_jax.annealing_temperature(max_temperature, steps)
  expected = [oracles.annealing_temperature(step, max_temperature, steps) for step in STEPS]
  np.testing.assert_array_equal(schedule(STEPS), expected)


def test_annealing_temperature_holds_one_for_a_remainder():
  """The released code lets the factor run past 1 where tau_max does not divide the epochs."""
  temperature = kd_jax.annealing_temperature(10, 16)
  factors = kd_jax.annealing_factor(temperature(STEPS), 10)
  assert np.max(factors) == 1
  np.testing.assert_array_equal(factors[144:], 1)
  assert [temperature(step) for step in (0, 15, 16, 143, 144)] == [10, 10, 9, 2, 1]


def test_annealing_temperature_changes_at_the_very_step_of_a_long_phase():
  changes = 1_600_000 * np.arange(1, 10)
  schedule = jax.jit(kd_jax.annealing_temperature(10, 1_600_000))
  np.testing.assert_array_equal([schedule(step) for step in changes], np.arange(9, 0, -1))
  np.testing.assert_array_equal([schedule(step - 1) for step in changes], np.arange(10, 1, -1))


def test_annealing_temperature_refuses_impossible_arguments():
  for max_temperature, steps in [(0, 5), (0.5, 5), (-1, 5), (10, 0), (10, -2)]:
    with pytest.raises(ValueError, match="temperature"):
      kd_jax.annealing_temperature(max_temperature, steps)


@pytest.mark.parametrize("name", ["linear_schedule", "cosine_schedule"])
@contract.sampled
@hypothesis.given(start=number, end=number, steps=st.integers(1, 30), begin=st.integers(0, 20))
def test_ramps(name, start, end, steps, begin):
  schedule = getattr(kd_jax, name)(start, end, steps, begin=begin)
  reference = getattr(oracles, name)
  expected = [reference(step, start, end, steps, begin) for step in STEPS]
  np.testing.assert_allclose(schedule(STEPS), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["linear_schedule", "cosine_schedule"])
def test_a_weight_that_ramps_to_nothing_reaches_it(name):
  for start, end in [(1.0, 0.0), (0.0, 1.0), (0.3, 0.0), (0.0, 0.7)]:
    values = getattr(kd_jax, name)(start, end, 7, begin=3)(STEPS)
    np.testing.assert_array_equal(values[:4], np.float32(start))
    np.testing.assert_array_equal(values[10:], np.float32(end))


def test_ramps_refuse_no_steps():
  for name in ("linear_schedule", "cosine_schedule"):
    for steps in (0, -3):
      with pytest.raises(ValueError, match="steps"):
        getattr(kd_jax, name)(0.0, 1.0, steps)


@contract.sampled
@hypothesis.given(
  boundaries=st.lists(st.integers(1, 40), unique=True, max_size=4).map(sorted), data=st.data()
)
def test_steps(boundaries, data):
  values = data.draw(st.lists(number, min_size=len(boundaries) + 1, max_size=len(boundaries) + 1))
  schedule = kd_jax.step_schedule(values, boundaries)
  expected = [oracles.step_schedule(step, values, boundaries) for step in STEPS]
  np.testing.assert_allclose(schedule(STEPS), expected, rtol=1e-6)


def test_steps_at_the_paper_s_learning_rates():
  """CIFAR: 0.1, then 0.01 from half of the phase, 0.001 from three quarters."""
  schedule = kd_jax.step_schedule([0.1, 0.01, 0.001], [80, 120])
  rates = [float(schedule(step)) for step in (0, 79, 80, 119, 120, 500)]
  np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_steps_refuse_mismatched_lengths():
  for values, boundaries in [([1.0], [5]), ([1.0, 2.0], []), ([1.0, 2.0, 3.0], [5])]:
    with pytest.raises(ValueError, match="boundaries"):
      kd_jax.step_schedule(values, boundaries)


def test_constant():
  np.testing.assert_array_equal(kd_jax.constant_schedule(0.25)(STEPS), np.full(1024, 0.25))


@pytest.mark.parametrize(
  "schedule",
  [
    kd_jax.constant_schedule(0.25),
    kd_jax.annealing_temperature(5, 3),
    kd_jax.linear_schedule(0.1, 2.0, 11, begin=2),
    kd_jax.cosine_schedule(0.1, 2.0, 11, begin=2),
    kd_jax.step_schedule([3.0, 2.0, 0.5], [4, 9]),
  ],
)
def test_jit_vmap_and_scalars_equal_arrays(schedule):
  expected = schedule(STEPS[:20])
  np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(jnp.arange(20)), expected, rtol=1e-6)
  jitted = jax.jit(schedule)
  for step in (0, 2, 4, 9, 19):
    for value in (schedule(step), jitted(jnp.int32(step))):
      assert np.shape(value) == ()
      np.testing.assert_allclose(value, expected[step], rtol=1e-6)
