"""Contrastive distillation."""

import re
from math import exp, log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import kd_jax
from tests import contract, oracles
from tests.losses.features import FeatureContract

AXES = np.eye(3, dtype=np.float32)


class ContrastContract(FeatureContract):
  loss = staticmethod(kd_jax.crd_loss)
  oracle = staticmethod(oracles.crd_loss)
  options = contract.options(temperature=0.5)
  # Even a student that equals its teacher is a little like the other teachers.
  zero_at_equality = False

  def draw_options(self, draw, classes):
    return {"temperature": draw(st.floats(0.07, 2))}

  @pytest.mark.parametrize("size", [0.0, 1e-20, 1e-14])
  def test_an_embedding_of_zeros_has_no_direction_and_no_gradient(self, size):
    case = self.case((5,))
    case.student[1] *= size
    case.teacher[3] *= size
    zeros = [x.copy() for x in case[:2]]
    zeros[0][1], zeros[1][3] = 0, 0
    self.assert_close(self.call(case), self.oracle(*zeros, **case.extras, **self.options))
    student, teacher = self.gradients(case, stop_teacher_gradient=False)
    np.testing.assert_array_equal(student[1], 0)
    np.testing.assert_array_equal(teacher[3], 0)
    assert np.isfinite(student).all()
    assert np.isfinite(teacher).all()


class TestContrast(ContrastContract):
  def test_by_hand(self):
    """Cosines of a right angle, 45° and 0°, at τ = 1 / (2 √2) and at 1."""
    student = np.float32([[0, 2, 0], [1, 1, 0], [0, 0, 5]])
    teacher = np.float32([[0, 4, 0], [3, 0, 0], [0, 0, 1]])
    half = 0.5**0.5
    rows = [[1, 0, 0], [half, half, 0], [0, 0, 1]]
    for temperature in (half / 2, 1.0):
      expected = [
        log(sum(exp(c / temperature) for c in row)) - row[i] / temperature
        for i, row in enumerate(rows)
      ]
      found = self.loss(student, teacher, temperature=temperature)
      np.testing.assert_allclose(found, expected, rtol=1e-5)

  def test_labels_by_hand(self):
    """At τ = 1 / log 2 a cosine of 1 weighs 2, one of 0 weighs 1."""
    labels = np.array([4, -1, 4])
    loss = self.loss(AXES, AXES, labels, temperature=1 / log(2))
    np.testing.assert_allclose(loss, [log(3 / 2), log(4 / 2), log(3 / 2)], rtol=1e-5)
    loss = self.loss(AXES, AXES[::-1], labels=labels, temperature=1 / log(2))
    np.testing.assert_allclose(loss, [log(2), log(2), log(2)], rtol=1e-5)
    loss = self.loss(AXES, AXES[::-1], temperature=1 / log(2))
    np.testing.assert_allclose(loss, [log(4), log(2), log(4)], rtol=1e-5)

  def test_the_default_temperature(self):
    case = self.case((4,))
    found = self.loss(case.student, case.teacher)
    self.assert_close(found, self.oracle(case.student, case.teacher, temperature=0.07), 10)

  def test_small_losses_keep_their_digits(self):
    """1 + e^(-1/τ) rounds to 1 in float32; the loss is nearly e^(-1/τ)."""
    found = self.loss(AXES[:2], AXES[:2], temperature=0.05)
    np.testing.assert_allclose(found, 2 * [exp(-20)], rtol=1e-5)

  def test_scales_do_not_matter(self):
    case = self.case((5,), scale=1.0)
    for factor in (1e-9, 1e-3, 1e6, 1e15):
      sides = [np.float32(factor) * x for x in case[:2]]
      self.assert_close(self.loss(*sides), self.loss(*case[:2]), 10)

  def test_feature_maps_are_averaged_over_positions(self):
    rng = np.random.default_rng(4)
    student = rng.standard_normal((5, 3, 2, 4)).astype(np.float32)
    teacher = rng.standard_normal((5, 2, 2, 4)).astype(np.float32)
    averages = [np.asarray(x, np.float64).mean(axis=(1, 2)) for x in (student, teacher)]
    found = self.call(contract.Case(student, teacher, {}))
    self.assert_close(found, self.oracle(*averages, **self.options))

  def test_without_negatives_there_is_nothing_to_learn(self):
    case = self.case((5,))
    for given in (
      {"mask": np.zeros(5)},
      {"mask": np.arange(5) == 3},
      {"labels": np.full(5, 2)},
      {"mask": np.arange(5) < 2, "labels": np.array([1, 1, 2, 3, 4])},
    ):
      np.testing.assert_array_equal(self.call(case, **given), 0)
      for gradient in self.gradients(case, **given, stop_teacher_gradient=False):
        np.testing.assert_array_equal(gradient, 0)

  def test_each_example_may_have_its_own_temperature(self):
    case, temperatures = self.case((3,)), np.float32([0.1, 0.5, 2])
    found = self.call(case, temperature=temperatures)
    for row, temperature in enumerate(temperatures):
      self.assert_close(found[row], self.call(case, temperature=temperature)[row])

  @pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan"), float("inf")])
  def test_a_temperature_must_be_above_zero(self, temperature):
    with pytest.raises(ValueError, match=r"^temperature must be finite and above 0, got "):
      self.call(self.case(), temperature=temperature)

  def test_widths_must_agree(self):
    self.refused(
      r"\(4, 5\).*\(4, 6\).*project the student's width", jnp.ones((4, 5)), jnp.ones((4, 6))
    )

  @pytest.mark.parametrize(
    "labels", [np.zeros(4), np.zeros((4, 1), int), np.zeros(3, int), np.int32(1), np.ones(4, bool)]
  )
  def test_labels_must_be_integers_one_an_example(self, labels):
    case, given = self.case((4,)), re.escape(f"{labels.shape}")
    given = given if labels.dtype != np.float64 else r"float32 \(4,\)"
    with pytest.raises(
      ValueError, match=rf"^labels must be integers of shape \(4,\), got .*{given}"
    ):
      self.call(case, labels=labels)


class TestContrastOnMaps(ContrastContract):
  positions = (3, 2)

  def oracle(self, student, teacher, **options):
    averages = (np.asarray(x, np.float64).mean(axis=(1, 2)) for x in (student, teacher))
    return oracles.crd_loss(*averages, **options)


class TestOtherClasses(ContrastContract):
  """Three classes, so that most examples have negatives of others and equals of their own."""

  def case(self, leading=(contract.BATCH,), classes=contract.CLASSES, seed=0, scale=3.0):
    case = super().case(leading, classes, seed, scale)
    return case._replace(extras={"labels": np.arange(leading[0]) % 3})

  def test_labels_are_read(self):
    case = self.case()
    expected = self.oracle(*case[:2], case.extras["labels"], **self.options)
    self.assert_close(self.call(case), expected)
    assert np.all(self.call(case) < self.call(case._replace(extras={})))

  @pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
  def test_labels_of_padding_do_not_matter(self, garbage):
    case, mask = self.case((7,)), np.array([0, 1, 1, 0, 1, 1, 0], bool)
    sides = (np.where(mask[:, None], x, np.float32(garbage)) for x in case[:2])
    labels = np.where(mask, case.extras["labels"], -100)
    spoilt = contract.Case(*sides, {"labels": labels})
    kept = contract.Case(*(x[mask] for x in case[:2]), {"labels": labels[mask]})
    found = np.asarray(self.call(spoilt, mask=mask))
    self.assert_close(found[mask], self.call(kept))
    np.testing.assert_array_equal(found[~mask], 0)
    expected = self.oracle(*case[:2], **case.extras, **self.options, mask=mask)
    self.assert_close(found, expected)
    gradients = self.gradients(spoilt, mask=mask, stop_teacher_gradient=False)
    exact = self.gradients(kept, stop_teacher_gradient=False)
    for gradient, wanted in zip(gradients, exact, strict=True):
      np.testing.assert_array_equal(gradient[~mask], 0)
      self.assert_close(gradient[mask], wanted)


def test_negatives_push_and_the_positive_pulls():
  """A step against the gradient turns a student towards its own teacher, away from the other one."""
  student, teacher = np.float32([[0.6, 0.8]] * 2), np.float32([[1, 0], [0, 1]])
  gradient = jax.grad(lambda s: kd_jax.crd_loss(s, teacher).sum())(student)
  assert gradient[0, 0] < 0 < gradient[0, 1]
  assert gradient[1, 1] < 0 < gradient[1, 0]


def test_vmap_over_seeds_equals_one_after_another():
  rng = np.random.default_rng(5)
  student, teacher = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
  labels = rng.integers(0, 3, (3, 5))
  mapped = jax.jit(jax.vmap(kd_jax.crd_loss))(student, teacher, labels)
  for seed in range(3):
    expected = kd_jax.crd_loss(student[seed], teacher[seed], labels[seed])
    np.testing.assert_allclose(mapped[seed], expected, rtol=1e-5, atol=1e-6)
  assert mapped.dtype == jnp.float32
