"""Losses that compare one layer's features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax.losses.features import attention_map
from tests import contract, oracles
from tests.losses.features import FeatureContract


class TestFitNet(FeatureContract):
  loss = staticmethod(kd_jax.fitnet_loss)
  oracle = staticmethod(oracles.fitnet_loss)

  def test_by_hand(self):
    """Half the mean of (1, 9): 2.5."""
    np.testing.assert_allclose(self.loss(np.float32([[1, 0]]), np.float32([[2, 3]])), [2.5])

  def test_widths_and_sizes_must_agree(self):
    self.refused(
      r"\(4, 5\).*\(4, 6\).*project the student's width", jnp.ones((4, 5)), jnp.ones((4, 6))
    )
    self.refused(
      r"\(4, 3, 3, 5\).*\(4, 2, 2, 5\).*maps are of one size",
      jnp.ones((4, 3, 3, 5)),
      jnp.ones((4, 2, 2, 5)),
    )
    self.refused(r"\(4, 3, 3, 5\).*\(4, 5\)", jnp.ones((4, 3, 3, 5)), jnp.ones((4, 5)))


class TestFitNetOnMaps(TestFitNet):
  positions = (3, 2)


class TestAttentionTransfer(FeatureContract):
  loss = staticmethod(kd_jax.attention_transfer_loss)
  oracle = staticmethod(oracles.attention_transfer_loss)
  positions = (3, 2)
  teacher_width = 4

  def matching_student(self, teacher):
    """A map does not depend on a layer's width, signs or scale."""
    return np.concatenate([-0.5 * teacher, 2.0 * teacher], axis=-1)

  def test_scale_does_not_matter(self):
    case = self.case((4,))
    for factor in (1e-9, 1e-3, 1e6, 1e15):
      scaled = case._replace(student=np.float32(factor) * case.student)
      self.assert_close(self.call(scaled), self.call(case))
      gradient = np.float64(factor) * self.gradients(scaled)[0]
      np.testing.assert_allclose(gradient, self.gradients(case)[0], rtol=1e-3, atol=1e-6)

  def test_by_hand(self):
    """Energies (9, 16) and (1, 0): maps (9, 16) / √337 and (1, 0)."""
    student, teacher = np.float32([[[[3, 0], [0, 4]]]]), np.float32([[[[-1], [0]]]])
    expected = ((9 / 337**0.5 - 1) ** 2 + 16**2 / 337) / 2
    np.testing.assert_allclose(self.loss(student, teacher), [expected], rtol=1e-6)

  def test_maps_must_be_of_one_size(self):
    self.refused(
      r"\(4, 3, 3, 5\).*\(4, 2, 2, 5\).*maps of one size",
      jnp.ones((4, 3, 3, 5)),
      jnp.ones((4, 2, 2, 5)),
    )
    # As many positions, but in other places.
    self.refused(
      r"\(4, 2, 3, 5\).*\(4, 3, 2, 5\).*maps of one size",
      jnp.ones((4, 2, 3, 5)),
      jnp.ones((4, 3, 2, 5)),
    )

  def test_vectors_have_no_maps(self):
    self.refused(r"features with positions.*\(4, 5\)", jnp.ones((4, 5)), jnp.ones((4, 5)))


class TestAttentionTransferOnSequences(TestAttentionTransfer):
  positions = (4,)


# Attention maps.


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (1, 6, 3), (2, 2, 2, 2, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, *contract.LOW_PRECISION])
def test_attention_maps(shape, dtype):
  layer = jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)
  found = jax.jit(attention_map)(layer)
  expected = oracles.attention_map(np.asarray(layer, np.float64))
  assert (found.shape, found.dtype) == (expected.shape, jnp.float32)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-6)


def test_a_layer_that_is_active_nowhere_has_a_map_of_zeros():
  layer = np.zeros((3, 2, 2, 4), np.float32)
  layer[1, 0, 1, 2], layer[2] = -5.0, 1e-13
  found = attention_map(layer)
  np.testing.assert_array_equal(found, [[0] * 4, [0, 1, 0, 0], [0] * 4])
  gradient = jax.grad(lambda layer: attention_map(layer).sum())(layer)
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[0], 0)


def test_attention_maps_need_positions():
  with pytest.raises(ValueError, match=r"features with positions, .* got \(4, 5\)"):
    attention_map(np.ones((4, 5), np.float32))
  with pytest.raises(ValueError, match="int32"):
    attention_map(np.ones((4, 5, 5), np.int32))
