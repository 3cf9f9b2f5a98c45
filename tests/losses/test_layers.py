"""Losses that match layers."""

import fractions
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from tests import contract, oracles

S, T = 2, 3


def draw(*shape, seed=0, scale=1.0):
  return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


class LayerContract(contract.PerExampleContract):
  """The contract of a loss for each example, of layers [..., S, D] against [..., T, D]."""

  teacher_layers = T
  # A softmax of dot products: an error in float32 grows with their size.
  tolerance = 1e-4
  # A dot product with -inf has no meaning.
  test_a_class_ruled_out_by_the_teacher = None

  def draw_options(self, draw, classes):
    return dict(self.options)

  def case(self, leading=(contract.BATCH,), classes=contract.CLASSES, seed=0, scale=3.0):
    student = draw(*leading, S, classes, seed=seed, scale=scale)
    teacher = draw(*leading, self.teacher_layers, classes, seed=seed + 1, scale=scale)
    return contract.Case(student, teacher, {})

  def test_is_zero_at_equality(self):
    """A mix of layers that are equal is that layer; of others, it is none of them."""
    for scale in (1.0, 100.0):
      one = draw(contract.BATCH, 1, contract.CLASSES, scale=scale)
      case = contract.Case(one.repeat(S, 1), one.repeat(self.teacher_layers, 1), {})
      np.testing.assert_allclose(self.call(case), 0, atol=2e-5)
    case = self.case(scale=0.5)
    alike = self.call(case._replace(student=case.teacher[:, :S]))
    if self.zero_at_equality:
      np.testing.assert_allclose(alike, 0, atol=1e-6)
    else:
      assert np.all(alike > 1e-3)

  def test_shapes_and_types_are_checked(self):
    case = self.case()
    for wrong in (case.student[..., :-1], case.student[:4], case.student[0], case.student[:, :0]):
      with pytest.raises(ValueError, match=re.escape(str(wrong.shape))):
        self.call(case._replace(student=wrong))
    with pytest.raises(ValueError, match=r"\(16, 2, 4\).*\(16, 3, 5\).*project|at least one layer"):
      self.loss(case.student[..., :-1], draw(16, 3, 5), **self.options)
    for side in ("student", "teacher"):
      with pytest.raises(ValueError, match="int32"):
        self.call(case._replace(**{side: np.ones(case.student.shape, np.int32)}))
      # Taken for [S, B, D], they would be compared along the wrong axes.
      with pytest.raises(ValueError, match=rf"{side}.*tuple of 2.*stack"):
        self.call(case._replace(**{side: (case.student[:, 0], case.student[:, 1])}))


class OtherShapes:
  """The extremes of the contract for a student and a teacher of different shapes."""

  @pytest.mark.parametrize("extreme", ["large", "flat", "certain", "certain teacher"])
  def test_loss_and_gradients_stay_finite(self, extreme):
    case = self.case()
    large = [1e4 * np.sign(x) for x in case[:2]]
    certain = [np.zeros_like(x) for x in case[:2]]
    certain[0][..., 0], certain[1][..., -1] = 1e4, 1e4
    flat = [0 * x for x in case[:2]]
    student, teacher = {
      "large": large,
      "flat": flat,
      "certain": certain,
      "certain teacher": (flat[0], certain[1]),
    }[extreme]
    case = case._replace(student=student, teacher=teacher)
    assert np.all(np.isfinite(self.call(case)))
    for gradient in self.gradients(case, stop_teacher_gradient=False):
      assert np.all(np.isfinite(gradient))


class TestUniversalKD(LayerContract):
  loss = staticmethod(kd_jax.universal_kd_loss)
  oracle = staticmethod(oracles.universal_kd_loss)
  zero_at_equality = False

  def test_one_layer_each_is_plain_kl(self):
    student, teacher = draw(4, 1, 5), draw(4, 1, 5, seed=1)
    expected = oracles.forward_kl(student[:, 0], teacher[:, 0])
    np.testing.assert_allclose(self.loss(student, teacher), expected, rtol=1e-5)

  def test_the_gradient_may_leave_out_the_attention(self):
    """Then it is that of KL to a fixed target: softmax(z_s) - softmax(mix)."""
    case = self.case((4,), scale=1.0)
    stopped, _ = jax.jit(lambda case: self.gradients(case, stop_attention_gradient=True))(case)
    for row, (student, teacher) in enumerate(zip(case.student, case.teacher, strict=True)):
      mixed = oracles.layer_attention(student, teacher, teacher)
      for layer in range(S):
        expected = np.subtract(oracles.softmax(student[layer]), oracles.softmax(mixed[layer]))
        np.testing.assert_allclose(stopped[row, layer], expected, atol=1e-5)
    whole, _ = jax.jit(self.gradients)(case)
    assert np.max(np.abs(whole - stopped)) > 1e-2
    np.testing.assert_array_equal(self.call(case, stop_attention_gradient=True), self.call(case))

  def test_one_class_needs_regression(self):
    student, teacher = draw(4, S, 1), draw(4, T, 1, seed=1)
    with pytest.raises(ValueError, match=r"\(4, 2, 1\).*regression=True"):
      self.loss(student, teacher)
    expected = self.oracle(student, teacher, regression=True)
    np.testing.assert_allclose(self.loss(student, teacher, regression=True), expected, rtol=1e-5)


class TestUniversalKDRegression(LayerContract):
  loss = staticmethod(kd_jax.universal_kd_loss)
  oracle = staticmethod(oracles.universal_kd_loss)
  options = contract.options(regression=True)
  zero_at_equality = False


class TestUniversalKDAroundACenter(LayerContract):
  loss = staticmethod(kd_jax.universal_kd_loss)
  oracle = staticmethod(oracles.universal_kd_loss)
  options = contract.options(regression=True, center=2.0)
  zero_at_equality = False

  def test_numbers_and_their_center_may_be_shifted_together(self):
    student, teacher = draw(4, S, 1), draw(4, T, 1, seed=1)
    expected = self.loss(student, teacher, regression=True)
    for level in (0.5, -3.0, 40.0):
      found = self.loss(student + level, teacher + level, regression=True, center=level)
      np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(self.loss(student + 3, teacher + 3, regression=True), expected)


class TestUniversalKDOnLossesAroundACenter(LayerContract):
  loss = staticmethod(kd_jax.universal_kd_loss)
  oracle = staticmethod(oracles.universal_kd_loss)
  options = contract.options(attend="losses", center=-1.0)
  zero_at_equality = False


class GapContract(OtherShapes, LayerContract):
  """The contract of a student's final logits [..., C] against all of the teacher's [..., T, C]."""

  zero_at_equality = False

  def loss(self, student, teacher, **options):
    inner, final = teacher[..., :-1, :], teacher[..., -1, :]
    return kd_jax.universal_kd_capacity_gap_loss(student, inner, final, **options)

  def oracle(self, student, teacher, **options):
    inner, final = teacher[..., :-1, :], teacher[..., -1, :]
    return oracles.universal_kd_capacity_gap_loss(student, inner, final, **options)

  def case(self, leading=(contract.BATCH,), classes=contract.CLASSES, seed=0, scale=3.0):
    case = super().case(leading, classes, seed, scale)
    return case._replace(student=case.student[..., 0, :])

  def test_is_zero_at_equality(self):
    """If all of the teacher's agree, their mix is what they say."""
    for scale in (1.0, 100.0):
      one = draw(contract.BATCH, contract.CLASSES, scale=scale)
      case = contract.Case(one, np.repeat(one[:, None], T, axis=1), {})
      np.testing.assert_allclose(self.call(case), 0, atol=2e-5)

  def test_shapes_and_types_are_checked(self):
    student, inner, final = draw(4, 5), draw(4, T - 1, 5), draw(4, 5)
    for wrong in (
      (student[:, :4], inner, final),
      (student[:2], inner, final),
      (student, inner[..., :4], final),
      (student, inner[:2], final),
      (student, inner, final[:, :4]),
      (student[:, None], inner, final),
    ):
      shapes = ".*".join(re.escape(str(x.shape)) for x in wrong)
      with pytest.raises(ValueError, match=rf"{shapes} must be \[B, C\]") as caught:
        kd_jax.universal_kd_capacity_gap_loss(*wrong, **self.options)
      assert "\n" not in str(caught.value)
    for index, name in enumerate(("student_logits", "teacher_layer_logits", "teacher_logits")):
      wrong = [student, inner, final]
      wrong[index] = np.ones(wrong[index].shape, np.int32)
      with pytest.raises(ValueError, match=f"{name}.*int32"):
        kd_jax.universal_kd_capacity_gap_loss(*wrong, **self.options)
    with pytest.raises(ValueError, match=r"teacher_layer_logits is a tuple of 2 arrays: stack"):
      kd_jax.universal_kd_capacity_gap_loss(student, (final, final), final, **self.options)
    with pytest.raises(ValueError, match="at least one layer"):
      kd_jax.universal_kd_capacity_gap_loss(student, inner[:, :0], final, **self.options)


class TestCapacityGap(GapContract):
  def test_one_class_needs_regression(self):
    student, teacher = draw(4, 1), draw(4, T, 1, seed=1)
    with pytest.raises(ValueError, match="regression=True"):
      self.loss(student, teacher)
    found = self.loss(student, teacher, regression=True, center=0.7)
    expected = self.oracle(student, teacher, regression=True, center=0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-5)

  def test_a_pool_that_fits_equally_is_averaged(self):
    """By hand: all inner products are 0, so the mix of (3, 0), (0, 3) and (0, 0) is (1, 1)."""
    inner = np.float32([[[3.0, 0.0], [0.0, 3.0]]])
    zeros = np.zeros((1, 2), np.float32)
    np.testing.assert_allclose(
      kd_jax.universal_kd_capacity_gap_loss(zeros, inner, zeros), 0, atol=1e-7
    )
    # Regression: |(1, 1)|² to (0, 0).
    found = kd_jax.universal_kd_capacity_gap_loss(zeros, inner, zeros, regression=True)
    np.testing.assert_allclose(found, 2, rtol=1e-6)


class TestCapacityGapRegression(GapContract):
  options = contract.options(regression=True, center=1.0)


class TestUniversalKDOnLosses(LayerContract):
  loss = staticmethod(kd_jax.universal_kd_loss)
  oracle = staticmethod(oracles.universal_kd_loss)
  options = contract.options(attend="losses")
  zero_at_equality = False

  def test_one_teacher_layer_leaves_nothing_to_mix(self):
    case = self.case()
    one = case._replace(teacher=case.teacher[:, :1])
    self.assert_close(self.call(one), kd_jax.universal_kd_loss(one.student, one.teacher))
    assert not np.allclose(self.call(case), kd_jax.universal_kd_loss(case.student, case.teacher))

  def test_squared_errors_in_regression(self):
    student, teacher = draw(4, S, 1), draw(4, T, 1, seed=1)
    expected = self.oracle(student, teacher, regression=True, attend="losses")
    found = self.loss(student, teacher, regression=True, attend="losses")
    np.testing.assert_allclose(found, expected, rtol=1e-5)

  def test_another_attention_is_refused(self):
    with pytest.raises(ValueError, match="`attend` must be logits or losses, got 'layers'"):
      self.loss(draw(4, S, 5), draw(4, T, 5), attend="layers")


class TestAlpKD(LayerContract):
  loss = staticmethod(kd_jax.alp_kd_loss)
  oracle = staticmethod(oracles.alp_kd_loss)
  zero_at_equality = False


class TestPatientKD(LayerContract):
  loss = staticmethod(kd_jax.patient_kd_loss)
  oracle = staticmethod(oracles.patient_kd_loss)
  teacher_layers = S

  def test_lengths_do_not_matter(self):
    case = self.case()
    for factor in (1e-6, 50.0, 1e6):
      scaled = case._replace(student=np.float32(factor) * case.student)
      self.assert_close(self.call(scaled), self.call(case))

  def test_numbers_of_layers_must_agree(self):
    with pytest.raises(ValueError, match=r"\(4, 2, 5\).*\(4, 3, 5\).*skip_mapping"):
      self.loss(draw(4, S, 5), draw(4, T, 5))

  @pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e-14])
  def test_states_without_a_direction(self, size):
    """They count as 0: the distance is that of 0 to a unit vector."""
    case = self.case((4,))
    small = case._replace(student=np.float32(size) * case.student)
    np.testing.assert_allclose(self.call(small), S / contract.CLASSES, rtol=1e-5)
    for gradient in self.gradients(small, stop_teacher_gradient=False):
      assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(self.gradients(small)[0], 0)


def skipping(student, teacher):
  """Each student layer against layer i T / (S + 1) of the teacher's, counted from 1, halves up."""
  count, depth = np.shape(student)[-2] + 1, np.shape(teacher)[-2]
  chosen = [math.floor(i * depth / count + 0.5) - 1 for i in range(1, count)]
  return oracles.patient_kd_loss(student, np.asarray(teacher)[..., chosen, :])


class TestPatientKDSkip(OtherShapes, LayerContract):
  loss = staticmethod(kd_jax.patient_kd_loss)
  options = contract.options(matching="skip")
  teacher_layers = 5
  # Not at the teacher's first layers: the second and third of five are those to be like.
  zero_at_equality = False

  def oracle(self, student, teacher, matching):
    return skipping(student, teacher)

  def test_the_layers_that_are_matched(self):
    teacher = self.case().teacher
    case = contract.Case(3 * teacher[:, [1, 2]], teacher, {})
    np.testing.assert_allclose(self.call(case), 0, atol=1e-6)
    gradient = self.gradients(self.case(), stop_teacher_gradient=False)[1]
    assert np.all(np.any(gradient[:, [1, 2]] != 0, axis=-1))
    np.testing.assert_array_equal(gradient[:, [0, 3, 4]], 0)

  @pytest.mark.parametrize(("own", "depth"), [(1, 2), (5, 12), (2, 12), (3, 4), (3, 7)])
  def test_any_depths(self, own, depth):
    student, teacher = draw(4, own, 5), draw(4, depth, 5, seed=1)
    np.testing.assert_allclose(
      self.loss(student, teacher, matching="skip"), skipping(student, teacher), rtol=1e-4
    )

  def test_a_student_that_is_too_deep_is_refused(self):
    """All but its last layer are given: with three it has four."""
    with pytest.raises(ValueError, match=r"student of 4 layers.*teacher of 3"):
      self.loss(draw(4, 3, 5), draw(4, 3, 5), matching="skip")

  def test_another_matching_is_refused(self):
    with pytest.raises(ValueError, match="`matching` must be one_to_one or skip, got 'last'"):
      self.loss(draw(4, S, 5), draw(4, S, 5), matching="last")


# Attention.


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_layer_attention(leading):
  queries, keys = draw(*leading, S, 5), draw(*leading, T, 5, seed=1)
  values = draw(*leading, T, 4, seed=2)
  found = jax.jit(kd_jax.layer_attention)(queries, keys, values)
  assert (found.shape, found.dtype) == ((*leading, S, 4), jnp.float32)
  for index in np.ndindex(leading):
    expected = oracles.layer_attention(queries[index], keys[index], values[index])
    np.testing.assert_allclose(found[index], expected, rtol=1e-5, atol=1e-6)
  low = (jnp.asarray(x, jnp.bfloat16) for x in (queries, keys, values))
  assert kd_jax.layer_attention(*low).dtype == jnp.float32


def test_layer_attention_refuses_shapes_that_do_not_fit():
  queries, keys, values = draw(4, S, 5), draw(4, T, 5), draw(4, T, 3)
  for wrong in (
    (queries[..., :4], keys, values),
    (queries, keys[:, :2], values),
    (queries[:2], keys, values),
    (queries, keys, values[:2]),
  ):
    shapes = ".*".join(re.escape(str(x.shape)) for x in wrong)
    with pytest.raises(ValueError, match=shapes):
      kd_jax.layer_attention(*wrong)


# Which layers.


def test_skip_mapping_of_the_paper():
  assert kd_jax.skip_mapping(6, 12) == (1, 3, 5, 7, 9)
  assert kd_jax.skip_mapping(3, 12) == (3, 7)
  assert kd_jax.skip_mapping(6, 24) == (3, 7, 11, 15, 19)
  assert kd_jax.skip_mapping(1, 12) == ()
  assert kd_jax.skip_mapping(4, 4) == (0, 1, 2)


def test_skip_mapping_of_any_depths():
  half = fractions.Fraction(1, 2)
  for teacher in range(1, 25):
    for student in range(1, teacher + 1):
      found = kd_jax.skip_mapping(student, teacher)
      steps = [fractions.Fraction(i * teacher, student) for i in range(1, student)]
      assert list(found) == [math.floor(step + half) - 1 for step in steps]
      assert sorted(set(found)) == list(found)
      assert all(0 <= layer < teacher - 1 for layer in found)


@pytest.mark.parametrize("depths", [(0, 4), (5, 4), (-1, 4)])
def test_skip_mapping_refuses_a_student_that_is_too_deep(depths):
  with pytest.raises(ValueError, match=rf"{depths[0]} layers.*{depths[1]}"):
    kd_jax.skip_mapping(*depths)


def test_even_mapping_of_the_paper():
  assert kd_jax.even_mapping(4, 12) == (2, 5, 8, 11)
  assert kd_jax.even_mapping(3, 6) == (1, 3, 5)
  assert kd_jax.even_mapping(6, 24) == tuple(range(3, 24, 4))
  assert kd_jax.even_mapping(1, 6) == (5,)
  assert kd_jax.even_mapping(2, 2) == (0, 1)


def test_even_mapping_of_any_depths():
  half = fractions.Fraction(1, 2)
  for teacher in range(1, 25):
    for student in range(1, teacher + 1):
      found = kd_jax.even_mapping(student, teacher)
      steps = [fractions.Fraction(i * teacher, student) for i in range(1, student + 1)]
      assert list(found) == [math.floor(step + half) - 1 for step in steps]
      assert list(found) == [layer - 1 for layer in oracles.even_mapping(student, teacher)]
      assert sorted(set(found)) == list(found)
      # The last learns from the last.
      assert found[-1] == teacher - 1


@pytest.mark.parametrize("depths", [(0, 4), (5, 4), (-1, 4)])
def test_even_mapping_refuses_a_student_that_is_too_deep(depths):
  with pytest.raises(ValueError, match=rf"{depths[0]} layers.*{depths[1]}"):
    kd_jax.even_mapping(*depths)
