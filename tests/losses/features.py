"""What losses on features of a batch of examples must satisfy, for the tests that inherit it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests import contract


class FeatureContract(contract.LossContract):
  """The contract of a loss on features [B, ..., D] of a layer, or embeddings [B, D].

  Attributes:
    positions: the axes between the batch and the width.
    teacher_width: D of the teacher; None: that of the student.
  """

  positions = ()
  teacher_width = None
  leading_axes = st.sampled_from([(1,), (4,), (7,)])
  # A network's features are finite.
  test_a_class_ruled_out_by_the_teacher = None

  def draw_options(self, draw, classes):
    return {}

  def case(self, leading=(contract.BATCH,), classes=contract.CLASSES, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    widths = classes, self.teacher_width or classes
    drawn = (scale * rng.standard_normal((*leading, *self.positions, width)) for width in widths)
    return contract.Case(*(x.astype(np.float32) for x in drawn), {})

  @pytest.mark.parametrize("extreme", ["large", "flat", "flat student", "one active", "equal"])
  @pytest.mark.parametrize("size", [1e-15, 1.0, 1e4])
  def test_loss_and_gradients_stay_finite(self, extreme, size):
    case = self.case((4,))
    flat = [0 * x for x in case[:2]]
    lone = [x.copy() for x in flat]
    for x in lone:
      x[(0,) * x.ndim] = 1.0
    equal = [np.broadcast_to(x[:1], x.shape) for x in case[:2]]
    large = [np.sign(x) for x in case[:2]]
    sides = {
      "large": large,
      "flat": flat,
      "flat student": (flat[0], case.teacher),
      "one active": lone,
      "equal": equal,
    }[extreme]
    case = contract.Case(*(np.float32(size) * x for x in sides), {})
    for run in (lambda f: f, jax.jit):
      values, gradients = run(
        lambda case: (self.call(case), self.gradients(case, stop_teacher_gradient=False))
      )(case)
      assert np.all(np.isfinite(values))
      assert np.all(values >= 0)
      for gradient in gradients:
        assert np.all(np.isfinite(gradient))

  @pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
  def test_padding_has_no_effect(self, garbage):
    case, mask = self.case((7,)), np.array([0, 1, 1, 0, 1, 1, 0], bool)

    def spoil(x):
      return np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, np.float32(garbage))

    spoilt = contract.Case(spoil(case.student), spoil(case.teacher), {})
    kept = contract.Case(case.student[mask], case.teacher[mask], {})
    expected = self.call(kept)
    for given in (mask, mask.astype(np.float32)):
      found = np.asarray(self.call(spoilt, mask=given))
      self.assert_close(found[np.ix_(*[mask] * found.ndim)], expected)
      for axis in range(found.ndim):
        np.testing.assert_array_equal(np.compress(~mask, found, axis), 0)
    gradients = self.gradients(spoilt, mask=mask, stop_teacher_gradient=False)
    exact = self.gradients(kept, stop_teacher_gradient=False)
    for gradient, wanted in zip(gradients, exact, strict=True):
      np.testing.assert_array_equal(gradient[~mask], 0)
      self.assert_close(gradient[mask], wanted)
    np.testing.assert_array_equal(self.call(spoilt, mask=np.zeros(7)), np.zeros(found.shape))
    for wrong in (np.ones(6), np.ones((7, 7, 7, 7, 7))):
      with pytest.raises(ValueError, match="mask"):
        self.call(case, mask=wrong)

  def test_order_of_the_batch(self):
    case, order = self.case((7,)), np.random.default_rng(2).permutation(7)
    found = np.asarray(self.call(jax.tree.map(lambda x: x[order], case)))
    expected = np.asarray(self.call(case))
    self.assert_close(found, expected[np.ix_(*[order] * expected.ndim)])

  def refused(self, message, student, teacher):
    with pytest.raises(ValueError, match=message) as caught:
      self.loss(student, teacher)
    assert "\n" not in str(caught.value)

  def test_shapes_and_types_are_checked(self):
    case = self.case((4,))
    self.refused(r"student_.*\(3, .*teacher_.*\(4, ", case.student[:3], case.teacher)
    self.refused(r"\(5,\)", jnp.ones(5), case.teacher)
    for side in ("student", "teacher"):
      whole = case._replace(**{side: np.ones(getattr(case, side).shape, np.int32)})
      self.refused(f"{side}_.*int32", *whole[:2])
