"""Losses that compare one layer's features: of images maps [B, H, W, D], of texts vectors [B, D]."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from kd_jax._checks import apply_mask, as_float32, blank
from kd_jax.losses.layers import SMALLEST_NORM
from kd_jax.types import Array, ArrayLike


def _checked(student: ArrayLike, teacher: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array]:
  """Both sides [B, ...] as float32, zeros for masked examples."""
  student, teacher = as_float32("student_layer", student), as_float32("teacher_layer", teacher)
  if student.ndim < 2 or student.ndim != teacher.ndim or student.shape[0] != teacher.shape[0]:
    raise ValueError(
      f"student_layer {student.shape} and teacher_layer {teacher.shape} must be features of the same examples, "
      "[B, D] or [B, H, W, D]"
    )
  return blank(student, mask), blank(teacher, mask)


def fitnet_loss(
  student_layer: Float[ArrayLike, "B *positions D"],
  teacher_layer: Float[ArrayLike, "B *positions D"],
  *,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " B"]:
  r"""FitNets: a student's layer, mapped to the teacher's width, learns to give the teacher's hint.

  .. math:: \tfrac{1}{2 M} \| u_{hint}(x) - r(v_{guided}(x)) \|^2

  with M entries of a hint. The map r is trained with the student: see `kd_jax.recipes.fitnet`.

  Args:
    student_layer: [B, ..., D], already mapped by r.
    teacher_layer: [B, ..., D].
    mask: [B]; masked examples give 0, whatever stands there.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B] float32. The paper sums over the M entries; the mean, as in later code, suits any size of a map.

  Raises:
    ValueError: for shapes that differ or integers.

  References:
    Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv 1412.6550, equation 3.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> kd_jax.fitnet_loss(jnp.zeros((1, 2)), jnp.array([[2.0, 4.0]])).tolist()  # (4 + 16) / 4
    [5.0]
  """
  student, teacher = _checked(student_layer, teacher_layer, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  if student.shape != teacher.shape:
    raise ValueError(
      f"student_layer {student.shape} and teacher_layer {teacher.shape} must have one shape: project the "
      "student's width, and take layers whose maps are of one size"
    )
  distances = jnp.mean(jnp.square(teacher - student), axis=tuple(range(1, student.ndim)))
  return apply_mask(0.5 * distances, mask)


def attention_map(layer: Float[ArrayLike, "B *positions D"]) -> Float[Array, "B positions"]:
  r"""Where a layer is active: :math:`Q / \|Q\|` with :math:`Q = \sum_c A_c^2` at each position.

  Args:
    layer: [B, H, W, D] feature maps; more or fewer axes of positions are fine.

  Returns:
    [B, positions] float32 of norm 1; 0, with no gradient, where no entry of a layer is above 1e-12.

  Raises:
    ValueError: features without positions, or integers.
  """
  layer = as_float32("layer", layer)
  if layer.ndim < 3:
    raise ValueError(
      f"attention maps are of features with positions, such as [B, H, W, D], got {layer.shape}"
    )
  # A map does not depend on its layer's scale, whose fourth power would leave float32.
  peak = jnp.max(jnp.abs(layer), axis=tuple(range(1, layer.ndim)), keepdims=True)
  active = peak > SMALLEST_NORM
  layer = layer / jax.lax.stop_gradient(jnp.where(active, peak, 1.0))
  energy = jnp.sum(jnp.square(layer), axis=-1).reshape(layer.shape[0], -1)
  square = jnp.sum(jnp.square(energy), axis=-1, keepdims=True)
  # The inner `where` keeps the root's gradient finite where it is not taken.
  active = active.reshape(-1, 1)
  return jnp.where(active, energy * jax.lax.rsqrt(jnp.where(active, square, 1.0)), 0.0)


def attention_transfer_loss(
  student_layer: Float[ArrayLike, "B *positions D_s"],
  teacher_layer: Float[ArrayLike, "B *positions D_t"],
  *,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " B"]:
  r"""Attention transfer: a student's layer learns where the teacher's is active.

  .. math:: \tfrac{1}{H W} \| Q^S / \|Q^S\| - Q^T / \|Q^T\| \|^2, \quad Q = \sum_c A_c^2

  Widths may differ; the sizes of the maps may not.

  Args:
    student_layer: [B, H, W, D].
    teacher_layer: [B, H, W, D'].
    mask: [B]; masked examples give 0, whatever stands there.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B] float32: the mean over positions. The paper writes the norm itself; the released code takes the mean of
    squares, to which its weight of 1000 belongs.

  Raises:
    ValueError: maps of other sizes, features without positions, or integers.

  References:
    Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, arXiv 1612.03928.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> left, right = jnp.array([[[[1.0], [0.0]]]]), jnp.array([[[[0.0], [3.0]]]])
    >>> kd_jax.attention_transfer_loss(left, right).tolist()  # (1 + 1) / 2
    [1.0]
  """
  student, teacher = _checked(student_layer, teacher_layer, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  if student.shape[:-1] != teacher.shape[:-1]:
    raise ValueError(
      f"student_layer {student.shape} and teacher_layer {teacher.shape} must have maps of one size: take "
      "other layers"
    )
  distances = jnp.mean(jnp.square(attention_map(student) - attention_map(teacher)), axis=-1)
  return apply_mask(distances, mask)
