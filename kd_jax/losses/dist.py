"""DIST: correlations of class probabilities, between classes and within a class over the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from kd_jax._checks import (
  apply_mask,
  broadcast_mask,
  check_temperature,
  checked_classes,
  temper,
)
from kd_jax.types import Array, ArrayLike


def _pearson_distance(x: Array, y: Array, weights: Array, axis: int) -> Array:
  """1 - Pearson correlation along an axis; 1 where a side does not vary."""
  count = jnp.maximum(jnp.sum(weights, axis=axis, keepdims=True), 1.0)

  def centre(values):
    mean = jnp.sum(weights * values, axis=axis, keepdims=True) / count
    centred = (values - mean) * weights
    square = jnp.sum(centred * centred, axis=axis)
    # Only what exceeds the mean's rounding varies; a class absent from a batch varies a little, and counts.
    noise = (4 * jnp.finfo(jnp.float32).eps) ** 2 * jnp.sum(weights * values * values, axis=axis)
    return centred, square, square > noise

  (x, x_square, x_varies), (y, y_square, y_varies) = centre(x), centre(y)
  varies = x_varies & y_varies
  norms = jnp.sqrt(jnp.where(varies, x_square, 1.0)) * jnp.sqrt(jnp.where(varies, y_square, 1.0))
  return 1.0 - jnp.where(varies, jnp.sum(x * y, axis=axis) / norms, 0.0)


def dist_inter_loss(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  *,
  temperature: ArrayLike = 1.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""DIST's inter-class relation: 1 - Pearson correlation of each example's class probabilities.

  Args:
    student_logits: [..., C].
    teacher_logits: [..., C].
    temperature: T >= 1.
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.
    stop_teacher_gradient: False where both sides learn.

  Returns:
    [...] float32 in [0, 2].

  Raises:
    ValueError: for shapes that differ, integer logits or a temperature below 1.

  References:
    Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv 2205.10536.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student, teacher = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]))
    >>> round(float(kd_jax.dist_inter_loss(student, teacher)), 4)  # ρ = -13 / 14
    1.9286
  """
  check_temperature(temperature)
  student, teacher = checked_classes(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  student, teacher = (jax.nn.softmax(temper(z, temperature), axis=-1) for z in (student, teacher))
  return apply_mask(_pearson_distance(student, teacher, jnp.ones_like(student), axis=-1), mask)


def dist_intra_loss(
  student_logits: Float[ArrayLike, "B C"],
  teacher_logits: Float[ArrayLike, "B C"],
  *,
  temperature: ArrayLike = 1.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " C"]:
  r"""DIST's intra-class relation: 1 - Pearson correlation over the batch, for each class.

  On several devices each device relates only the examples of its own share of the batch.

  Args:
    student_logits: [B, C]; the batch is the sample over which classes are compared.
    teacher_logits: [B, C].
    temperature: T >= 1.
    mask: [B]; masked examples do not enter the correlation.
    stop_teacher_gradient: False where both sides learn.

  Returns:
    [C] float32 in [0, 2], one value a class.

  Raises:
    ValueError: as `forward_kl`, or for logits that are not [B, C].

  References:
    Huang et al., NeurIPS 2022, arXiv 2205.10536.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student = jnp.log(jnp.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]]))
    >>> loss = kd_jax.dist_intra_loss(student, student[::-1])  # a batch in the opposite order
    >>> [round(float(v), 4) for v in loss]
    [2.0, 2.0]
  """
  check_temperature(temperature)
  student, teacher = checked_classes(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  if student.ndim != 2:
    raise ValueError(
      f"dist_intra_loss compares over a batch: logits must be [B, C], got {student.shape}"
    )
  weights = jnp.ones_like(student)
  if mask is not None:
    weights *= broadcast_mask(mask, student.shape[:-1])[:, None].astype(jnp.float32)
  student, teacher = (jax.nn.softmax(temper(z, temperature), axis=-1) for z in (student, teacher))
  return _pearson_distance(student, teacher, weights, axis=0)
