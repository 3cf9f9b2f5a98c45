"""Relational KD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from tests import oracles
from tests.losses.features import FeatureContract


class RelationContract(FeatureContract):
  """Relations do not change as embeddings are moved, turned or scaled together."""

  teacher_width = 3

  def matching_student(self, teacher):
    turn, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))
    return (2.0 * teacher @ turn + 0.5).astype(np.float32)

  def test_moves_turns_and_scales_of_the_teacher_do_not_matter(self):
    case = self.case((7,), scale=1.0)
    moved = case._replace(teacher=self.matching_student(case.teacher))
    self.assert_close(self.call(moved), self.call(case), 5)

  def test_feature_maps_are_averaged_over_positions(self):
    rng = np.random.default_rng(4)
    student = rng.standard_normal((5, 3, 2, 4)).astype(np.float32)
    teacher = rng.standard_normal((5, 6)).astype(np.float32)
    expected = self.oracle(np.asarray(student, np.float64).mean(axis=(1, 2)), teacher)
    np.testing.assert_allclose(self.loss(student, teacher), expected, rtol=1e-4, atol=1e-6)

  @pytest.mark.parametrize("size", [0.0, 1e-20, 1e-14])
  def test_embeddings_that_are_equal_have_no_relation_and_no_gradient(self, size):
    case = self.case((5,))
    case = case._replace(student=np.float32(size) * case.student)
    expected = self.oracle(np.zeros_like(case.student), case.teacher)
    np.testing.assert_allclose(self.call(case), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(self.gradients(case)[0], 0)

  def test_one_pair_of_equal_embeddings(self):
    case = self.case((5,), scale=1.0)
    case.student[3] = case.student[1]
    np.testing.assert_allclose(
      self.call(case), self.oracle(case.student, case.teacher), rtol=1e-4, atol=1e-6
    )
    for gradient in self.gradients(case, stop_teacher_gradient=False):
      assert np.isfinite(gradient).all()

  def test_no_example_relates_to_itself(self):
    found = np.asarray(self.call(self.case((6,))))
    for one, other in [(a, b) for a in range(found.ndim) for b in range(a)]:
      np.testing.assert_array_equal(np.diagonal(found, 0, one, other), 0)
    assert np.count_nonzero(found) == np.prod([6 - axis for axis in range(found.ndim)])

  def test_too_few_examples_relate_to_nothing(self):
    for mask in (np.zeros(5), np.arange(5) < 1):
      case = self.case((5,))
      np.testing.assert_array_equal(self.call(case, mask=mask), 0)
      np.testing.assert_array_equal(self.gradients(case, mask=mask)[0], 0)


class TestDistances(RelationContract):
  loss = staticmethod(kd_jax.rkd_distance_loss)
  oracle = staticmethod(oracles.rkd_distance_loss)

  def test_by_hand(self):
    """Distances 1, 2, 3 over their mean 2, and 1, 1, 2 over 4/3; the differences are all below 1."""
    student, teacher = np.float32([[0], [1], [3]]), np.float32([[0], [1], [2]])
    first, second, both = ((a / 2 - b * 3 / 4) ** 2 / 2 for a, b in [(1, 1), (2, 1), (3, 2)])
    expected = [[0, first, both], [first, 0, second], [both, second, 0]]
    np.testing.assert_allclose(self.loss(student, teacher), expected, rtol=1e-5, atol=1e-7)

  def test_far_differences_count_linearly(self):
    """Distances (10, 0, 10) over 20/3 are (1.5, 0, 1.5); against (0, 0, 0) the Huber loss is 1.5 - 0.5."""
    student, teacher = np.float32([[0], [10], [10]]), np.zeros((3, 1), np.float32)
    found = self.loss(student, teacher)
    np.testing.assert_allclose(found, [[0, 1, 1], [1, 0, 0], [1, 0, 0]], rtol=1e-6)

  def test_masked_examples_do_not_enter_the_mean(self):
    case, mask = self.case((6,)), np.arange(6) < 4
    found = self.call(case, mask=mask)
    np.testing.assert_allclose(
      found, self.oracle(case.student, case.teacher, mask), rtol=1e-4, atol=1e-6
    )
    assert not np.allclose(found[:4, :4], self.call(case)[:4, :4], rtol=1e-3)


class TestAngles(RelationContract):
  loss = staticmethod(kd_jax.rkd_angle_loss)
  oracle = staticmethod(oracles.rkd_angle_loss)

  def test_by_hand(self):
    """A right-angled triangle of equal legs against points on a line."""
    student, teacher = np.float32([[0, 0], [1, 0], [0, 1]]), np.float32([[0], [1], [2]])
    found = np.asarray(self.loss(student, teacher))
    half = 0.5**0.5
    # At 0: cos 90° against cos 0°. At 1: 45° against 180°, past the threshold. At 2: 45° against 0°.
    expected = [0.5, half + 1 - 0.5, (1 - half) ** 2 / 2]
    angles = [(0, 1, 2), (1, 0, 2), (2, 0, 1)]
    np.testing.assert_allclose([found[i, j, k] for i, j, k in angles], expected, rtol=1e-5)
    np.testing.assert_allclose([found[i, k, j] for i, j, k in angles], expected, rtol=1e-5)
    assert np.count_nonzero(found) == 6

  def test_masked_examples_make_no_angle(self):
    case, mask = self.case((6,)), np.arange(6) != 2
    found = self.call(case, mask=mask)
    np.testing.assert_allclose(
      found, self.oracle(case.student, case.teacher, mask), rtol=1e-4, atol=1e-6
    )


def test_vmap_over_seeds_equals_one_after_another():
  rng = np.random.default_rng(5)
  student, teacher = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
  for loss in (kd_jax.rkd_distance_loss, kd_jax.rkd_angle_loss):
    mapped = jax.jit(jax.vmap(loss))(student, teacher)
    for seed in range(3):
      expected = loss(student[seed], teacher[seed])
      np.testing.assert_allclose(mapped[seed], expected, rtol=1e-5, atol=1e-6)
  assert mapped.dtype == jnp.float32
