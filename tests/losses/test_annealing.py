"""Annealing-KD and Continuation-KD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import kd_jax
from tests import contract, oracles


class AnnealingContract(contract.TemperatureContract, contract.PerExampleContract):
  takes_numbers = True
  traced = ("temperature", "max_temperature")
  infinite_where_ruled_out = True

  def draw_options(self, draw, classes):
    max_temperature = draw(st.floats(1, 20))
    temperature = draw(st.floats(1, max_temperature))
    return {"temperature": temperature, "max_temperature": max_temperature}

  def matching_student(self, teacher):
    factor = oracles.annealing_factor(self.options["temperature"], self.options["max_temperature"])
    return (factor * teacher).astype(np.float32)

  def test_temperatures_out_of_range_are_refused(self):
    for temperature, max_temperature in [(5, 4), (1.5, 1), (1, 0.5), (1, 0), (2, -3)]:
      with pytest.raises(ValueError, match="temperature"):
        self.call(self.case(), temperature=temperature, max_temperature=max_temperature)


class TestAnnealingKD(AnnealingContract):
  loss = staticmethod(kd_jax.annealing_kd_loss)
  oracle = staticmethod(oracles.annealing_kd_loss)
  # Phi = 1/2, so that the student that matches is exact in float32.
  options = contract.options(temperature=6.0, max_temperature=10.0)

  def test_is_plain_regression_at_temperature_one(self):
    case = self.case()
    np.testing.assert_array_equal(
      self.call(case, temperature=1.0),
      kd_jax.logit_regression_loss(case.student, case.teacher),
    )

  def test_classes_are_summed_not_averaged(self):
    """The released code averages over classes; the formula, which this is, sums."""
    loss = self.loss(np.float32([3, 0, 1]), np.float32([2, 2, 2]), 6, 10)
    assert loss == pytest.approx(5)


class CenterContract(AnnealingContract):
  """Around a center, such as the mean label: what it is must not be taken for an opinion."""

  traced = ("temperature", "max_temperature", "center")

  def draw_options(self, draw, classes):
    return super().draw_options(draw, classes) | {"center": draw(st.floats(-5, 5))}

  def matching_student(self, teacher):
    center = self.options["center"]
    return (center + super().matching_student(teacher - center)).astype(np.float32)

  def test_the_hottest_teacher_is_shrunk_to_the_center(self):
    """Phi(8) = 1/8 of the way from 2 to 10 is 3; around 0 it would be 1.25."""
    student, teacher = np.float32([3.0]), np.float32([10.0])
    loss = self.loss(
      student, teacher, **self.options | {"temperature": 8, "max_temperature": 8, "center": 2.0}
    )
    assert loss == pytest.approx(0, abs=1e-6)
    plain = self.loss(
      student, teacher, **self.options | {"temperature": 8, "max_temperature": 8, "center": 0.0}
    )
    assert plain > 0.1

  def test_both_sides_and_the_center_may_be_shifted_together(self):
    case = self.case(scale=1.0)
    shifted = case._replace(student=case.student + 40, teacher=case.teacher + 40)
    moved = self.call(shifted, center=self.options["center"] + 40)
    np.testing.assert_allclose(moved, self.call(case), rtol=1e-4, atol=1e-3)


class TestAnnealingKDAroundACenter(CenterContract):
  loss = staticmethod(kd_jax.annealing_kd_loss)
  oracle = staticmethod(oracles.annealing_kd_loss)
  options = contract.options(temperature=6.0, max_temperature=10.0, center=1.5)

  def test_a_center_of_nothing_is_the_loss_without_one(self):
    case = self.case()
    without = self.loss(case.student, case.teacher, 6.0, 10.0)
    np.testing.assert_array_equal(self.call(case, center=0.0), without)
    np.testing.assert_array_equal(
      self.call(case, temperature=1.0), kd_jax.logit_regression_loss(*(x - 1.5 for x in case[:2]))
    )


class TestContinuationKDAroundACenter(CenterContract):
  loss = staticmethod(kd_jax.continuation_kd_loss)
  oracle = staticmethod(oracles.continuation_kd_loss)
  options = contract.options(temperature=6.0, max_temperature=10.0, margin=0.1, center=1.5)
  traced = ("temperature", "max_temperature", "margin", "center")

  def draw_options(self, draw, classes):
    return super().draw_options(draw, classes) | {"margin": draw(st.floats(0, 20))}


class TestContinuationKD(AnnealingContract):
  loss = staticmethod(kd_jax.continuation_kd_loss)
  oracle = staticmethod(oracles.continuation_kd_loss)
  options = contract.options(temperature=6.0, max_temperature=10.0, margin=2.0)
  traced = ("temperature", "max_temperature", "margin")

  def draw_options(self, draw, classes):
    return super().draw_options(draw, classes) | {"margin": draw(st.floats(0, 20))}

  def test_without_margin_it_is_annealing_kd(self):
    case = self.case()
    np.testing.assert_array_equal(
      self.call(case, margin=0.0), kd_jax.annealing_kd_loss(case.student, case.teacher, 6, 10)
    )

  def test_inside_the_margin_there_is_no_loss_and_no_gradient(self):
    student, teacher = np.float32([1.0, 0.0]), np.float32([0.0, 0.0])
    # Squared distance 1; the margin shrinks with Phi from 1.5 at T = 1 to 0.75 at T = 6.
    inside = jax.value_and_grad(self.loss)(student, teacher, 1.0, 10.0, margin=1.5)
    assert inside[0] == 0
    np.testing.assert_array_equal(inside[1], 0)
    outside = jax.value_and_grad(self.loss)(student, teacher, 6.0, 10.0, margin=1.5)
    assert outside[0] == pytest.approx(0.25)
    np.testing.assert_allclose(outside[1], [2, 0])

  def test_a_negative_margin_is_refused(self):
    with pytest.raises(ValueError, match="margin"):
      self.call(self.case(), margin=-0.1)


@pytest.mark.parametrize("max_temperature", [1, 4, 7, 10, 20])
def test_factor_climbs_from_one_over_tau_max_to_one(max_temperature):
  temperatures = np.arange(max_temperature, 0, -1)
  expected = np.arange(1, max_temperature + 1) / max_temperature
  factors = [kd_jax.annealing_factor(int(t), max_temperature) for t in temperatures]
  np.testing.assert_allclose(factors, expected, rtol=1e-6)
  traced = jax.jit(jax.vmap(kd_jax.annealing_factor, (0, None)))(
    jnp.asarray(temperatures), max_temperature
  )
  np.testing.assert_allclose(traced, expected, rtol=1e-6)


def test_factor_and_logits_refuse_what_the_losses_refuse():
  logits = np.ones((2, 3), np.float32)
  for temperature, max_temperature in [(0, 4), (5, 4), (1, 0.5), (float("nan"), 4)]:
    with pytest.raises(ValueError, match="temperature"):
      kd_jax.annealing_factor(temperature, max_temperature)
    with pytest.raises(ValueError, match="temperature"):
      kd_jax.annealed_logits(logits, temperature, max_temperature)
  with pytest.raises(ValueError, match="int32"):
    kd_jax.annealed_logits(np.ones((2, 3), np.int32), 1, 4)


def test_annealed_logits_are_scaled_in_float32():
  logits = np.float32([[1, -2, 4]])
  for dtype in (np.float32, np.float16, jnp.bfloat16):
    annealed = kd_jax.annealed_logits(jnp.asarray(logits, dtype), 4, 4)
    assert annealed.dtype == jnp.float32
    np.testing.assert_allclose(annealed, logits / 4)


def test_the_schedule_drives_the_loss_without_recompiling():
  schedule = kd_jax.annealing_temperature(4, 2)
  student, teacher = np.ones(3, np.float32), np.full(3, 2, np.float32)
  traces = []

  @jax.jit
  def loss(step):
    traces.append(step)
    return kd_jax.annealing_kd_loss(student, teacher, schedule(step), 4)

  values = [loss(step) for step in range(10)]
  factors = np.repeat([1 / 4, 2 / 4, 3 / 4, 1, 1], 2)
  np.testing.assert_allclose(values, 3 * (1 - 2 * factors) ** 2, atol=1e-6)
  assert len(traces) == 1


@pytest.mark.parametrize(("traced", "counts_as"), [(12.0, 10.0), (0.5, 1.0), (10.000001, 10.0)])
def test_a_traced_temperature_outside_its_range_is_clipped(traced, counts_as):
  found = jax.jit(lambda t: kd_jax.annealing_factor(t, 10))(traced)
  np.testing.assert_allclose(found, kd_jax.annealing_factor(counts_as, 10), rtol=1e-6)
