"""Relational KD: distances and angles between the examples of a batch, in any two widths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from kd_jax._checks import apply_mask
from kd_jax.losses._embeddings import checked_embeddings
from kd_jax.losses.layers import SMALLEST_NORM
from kd_jax.types import Array, ArrayLike


def rkd_distance_loss(
  student_embeddings: Float[ArrayLike, "B *positions D_s"],
  teacher_embeddings: Float[ArrayLike, "B *positions D_t"],
  *,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "B B"]:
  r"""Relational KD by distances: how far apart two examples are, as a share of the mean.

  .. math:: \ell_\delta(\psi_D(s_i, s_j), \psi_D(t_i, t_j)), \quad \psi_D(x, y) = \|x - y\| / \mu

  with the Huber loss of threshold 1, and μ the mean distance of two distinct examples of the batch. On several
  devices each device relates only the examples of its own share of the batch.

  Args:
    student_embeddings: [B, D]; of feature maps [B, H, W, D], the mean over positions.
    teacher_embeddings: [B, D'] or [B, H', W', D'].
    mask: [B]; masked examples relate to none, whatever stands there.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B, B] float32, symmetric, 0 on the diagonal. The released code takes the mean over all entries.

  Raises:
    ValueError: for batches that differ or integers.

  References:
    Park et al., Relational Knowledge Distillation, CVPR 2019, arXiv 1904.05068, equations 5 to 7.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student, teacher = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.0], [3.0], [6.0]])
    >>> float(kd_jax.rkd_distance_loss(student, teacher).max())  # all distances in proportion
    0.0
    >>> moved = jnp.array([[0.0], [2.0], [2.0]])  # 3/2, 3/2, 0 against 3/4, 3/2, 3/4 of the mean
    >>> [round(float(v), 4) for v in kd_jax.rkd_distance_loss(moved, teacher)[0]]
    [0.0, 0.2812, 0.0]
  """
  student, teacher, counted = checked_embeddings(student_embeddings, teacher_embeddings, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  pairs = counted[:, None] & counted[None, :] & ~jnp.eye(len(counted), dtype=bool)
  losses = optax.huber_loss(_shares_of_mean(student, pairs), _shares_of_mean(teacher, pairs))
  return jnp.where(pairs, losses, 0.0)


def rkd_angle_loss(
  student_embeddings: Float[ArrayLike, "B *positions D_s"],
  teacher_embeddings: Float[ArrayLike, "B *positions D_t"],
  *,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "B B B"]:
  r"""Relational KD by angles: the cosine of the angle that two examples make at a third.

  .. math:: \ell_\delta(\psi_A(s_i, s_j, s_k), \psi_A(t_i, t_j, t_k)), \quad
    \psi_A(x_i, x_j, x_k) = \langle e_{ji}, e_{ki} \rangle, \; e_{ji} = (x_j - x_i) / \|x_j - x_i\|

  with the Huber loss of threshold 1. On several devices each device relates only the examples of its own share
  of the batch.

  Args:
    student_embeddings: [B, D]; of feature maps [B, H, W, D], the mean over positions.
    teacher_embeddings: [B, D'] or [B, H', W', D'].
    mask: [B]; masked examples relate to none, whatever stands there.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B, B, B] float32, the first axis that of the example at which the angle is; 0 where two of the three
    are one.

  Raises:
    ValueError: for batches that differ or integers.

  References:
    Park et al., Relational Knowledge Distillation, CVPR 2019, arXiv 1904.05068, equations 8 to 10.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # a right angle at the first
    >>> teacher = jnp.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> float(kd_jax.rkd_angle_loss(student, teacher)[0, 1, 2])  # cos 90° against cos 0°: 1² / 2
    0.5
  """
  student, teacher, counted = checked_embeddings(student_embeddings, teacher_embeddings, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  apart = counted[:, None] & counted[None, :] & ~jnp.eye(len(counted), dtype=bool)
  # At i, with j and k: all three distinct and counted.
  triples = apart[:, :, None] & apart[:, None, :] & apart[None, :, :]
  losses = optax.huber_loss(_cosines(student), _cosines(teacher))
  return jnp.where(triples, losses, 0.0)


def _differences(x: Array) -> tuple[Array, Array]:
  """x_j - x_i [B, B, D], first axis i, and their norms [B, B]: 0, with no gradient, where two are equal."""
  difference = x[None, :, :] - x[:, None, :]
  square = jnp.sum(jnp.square(difference), axis=-1)
  apart = square > SMALLEST_NORM**2
  return difference, jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)


def _shares_of_mean(x: Array, pairs: Array) -> Array:
  """Distances [B, B] over their mean over pairs."""
  _, distances = _differences(x)
  distances = apply_mask(distances, pairs)
  mean = jnp.sum(distances) / jnp.maximum(jnp.sum(pairs, dtype=jnp.float32), 1.0)
  known = mean > SMALLEST_NORM
  return jnp.where(known, distances / jnp.where(known, mean, 1.0), 0.0)


def _cosines(x: Array) -> Array:
  """<e_ji, e_ki> [B, B, B], indexed i, j, k."""
  difference, distances = _differences(x)
  apart = distances[..., None] > 0
  directions = jnp.where(apart, difference, 0.0) / jnp.where(apart, distances[..., None], 1.0)
  return jnp.einsum("ijd,ikd->ijk", directions, directions, precision="highest")
