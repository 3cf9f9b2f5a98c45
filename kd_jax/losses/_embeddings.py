"""Input checks of losses between the examples of a batch."""

import jax.numpy as jnp

from kd_jax._checks import as_float32, broadcast_mask
from kd_jax.types import Array, ArrayLike


def checked_embeddings(
  student: ArrayLike, teacher: ArrayLike, mask: ArrayLike | None
) -> tuple[Array, Array, Array]:
  """Embeddings [B, D] of both sides, zeros for masked examples; and which examples count, [B] bool.

  Raises:
    ValueError: for batches that differ, or integers.
  """
  student = _embeddings("student_embeddings", student)
  teacher = _embeddings("teacher_embeddings", teacher)
  if len(student) != len(teacher):
    raise ValueError(
      f"student_embeddings {student.shape} and teacher_embeddings {teacher.shape} must be of the same examples"
    )
  counted = broadcast_mask(True if mask is None else mask, (len(student),))
  student, teacher = (jnp.where(counted[:, None], x, 0.0) for x in (student, teacher))
  return student, teacher, counted


def _embeddings(name: str, values: ArrayLike) -> Array:
  """[B, D] float32, of maps the mean over positions."""
  values = as_float32(name, values)
  if values.ndim < 2:
    raise ValueError(f"{name} must be [B, D] or [B, H, W, D], got {values.shape}")
  return jnp.mean(values, axis=tuple(range(1, values.ndim - 1)))
