"""Divergences between softmax distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from tests import contract, oracles


class Divergence(contract.DivergenceContract, contract.PerExampleContract):
  options = contract.options(temperature=3.0)


class TestForwardKL(Divergence):
  loss = staticmethod(kd_jax.forward_kl)
  oracle = staticmethod(oracles.forward_kl)


class TestReverseKL(Divergence):
  loss = staticmethod(kd_jax.reverse_kl)
  oracle = staticmethod(oracles.reverse_kl)
  infinite_where_ruled_out = True


class TestJensenShannon(Divergence):
  loss = staticmethod(kd_jax.jensen_shannon)
  oracle = staticmethod(oracles.jensen_shannon)

  def test_is_symmetric_and_at_most_log_2(self):
    case = self.case(scale=1e4)
    swapped = self.loss(case.teacher, case.student)
    np.testing.assert_allclose(self.loss(case.student, case.teacher), swapped, rtol=1e-6)
    assert np.max(swapped) == pytest.approx(np.log(2), rel=1e-6)


class TestSoftCrossEntropy(contract.TemperatureContract, contract.PerExampleContract):
  options = contract.options(temperature=3.0)
  loss = staticmethod(kd_jax.soft_cross_entropy)
  oracle = staticmethod(oracles.soft_cross_entropy)
  zero_at_equality = False

  def test_differs_from_forward_kl_by_the_entropy_of_the_teacher(self):
    case = self.case()
    entropy = self.loss(case.teacher, case.teacher, temperature=2.0)
    kl = kd_jax.forward_kl(case.student, case.teacher, temperature=2.0)
    cross_entropy = self.loss(case.student, case.teacher, temperature=2.0)
    np.testing.assert_allclose(kl + entropy, cross_entropy, rtol=1e-5)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_classes_are_summed_not_averaged(divergence):
  """Splitting each class into two equal halves changes no divergence; an average would halve."""
  divergence = getattr(kd_jax, divergence)
  student, teacher = np.random.default_rng(0).standard_normal((2, 16, 5)).astype(np.float32)
  split = [np.concatenate([logits, logits], -1) for logits in (student, teacher)]
  np.testing.assert_allclose(divergence(*split), divergence(student, teacher), rtol=1e-5)


def test_known_values():
  """Worked by hand: teacher (1/2, 1/2), student (3/4, 1/4)."""
  student, teacher = np.log(np.float32([3, 1])), np.zeros(2, np.float32)
  log = np.log
  assert kd_jax.forward_kl(student, teacher) == pytest.approx(log(4 / 3) / 2, rel=1e-5)
  reverse = 0.75 * log(1.5) + 0.25 * log(0.5)
  assert kd_jax.reverse_kl(student, teacher) == pytest.approx(reverse, rel=1e-5)
  far = np.float32([1e4, -1e4])
  assert kd_jax.forward_kl(far, far[::-1]) == pytest.approx(2e4)


def test_a_shift_of_all_logits_changes_nothing():
  student, teacher = np.random.default_rng(1).standard_normal((2, 16, 5)).astype(np.float32)
  shifted = kd_jax.forward_kl(student + 64, teacher - 256, temperature=2.0)
  np.testing.assert_allclose(
    shifted, kd_jax.forward_kl(student, teacher, temperature=2.0), atol=1e-4
  )


def test_mutual_learning_moves_both_sides_towards_each_other():
  student, teacher = np.random.default_rng(3).standard_normal((2, 16, 5)).astype(np.float32)

  def loss(student, teacher):
    return jnp.sum(kd_jax.jensen_shannon(student, teacher, stop_teacher_gradient=False))

  before = loss(student, teacher)
  to_student, to_teacher = jax.grad(loss, argnums=(0, 1))(student, teacher)
  assert loss(student - 0.1 * to_student, teacher) < before
  assert loss(student, teacher - 0.1 * to_teacher) < before


def test_jensen_shannon_has_a_gradient_where_both_exclude_a_class():
  student = jnp.array([0.5, -jnp.inf, 1.0])
  teacher = jnp.array([1.5, -jnp.inf, 0.0])
  gradient = jax.grad(kd_jax.jensen_shannon)(student, teacher)
  expected = jax.grad(kd_jax.jensen_shannon)(student[::2], teacher[::2])
  np.testing.assert_allclose(gradient, [expected[0], 0, expected[1]], rtol=1e-5)
