"""What structures over tags check besides scores: tags, and two structures that are compared."""

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.structured.inputs import as_mask
from kd_jax.types import Array, ArrayLike


def as_tags(tags: ArrayLike, mask: Array, num_labels: int) -> Array:
  """Tags [..., n] as int32, 0 at masked positions.

  Raises:
    ValueError: tags that are not integers, of another shape than the mask, or (unless they are being
      traced) outside [0, L) at a position that counts.
  """
  tags = jnp.asarray(tags)
  if not jnp.issubdtype(tags.dtype, jnp.integer) or tags.shape != mask.shape:
    raise ValueError(
      f"tags must be integers of shape [..., n] = {mask.shape}, got {tags.dtype} {tags.shape}"
    )
  if not isinstance(tags, jax.core.Tracer) and not isinstance(mask, jax.core.Tracer):
    counted = np.asarray(tags)[np.asarray(mask)]
    outside = (counted < 0) | (counted >= num_labels)
    if outside.any():
      raise ValueError(
        f"tags must lie in [0, {num_labels}), got {int(counted[outside][0])}: mask what is padding"
      )
  return jnp.where(mask, tags, 0).astype(jnp.int32)


def refuse_other_masks(teacher: ArrayLike, student: ArrayLike) -> None:
  """Refuses two masks of one shape that (unless they are being traced) differ.

  Raises:
    ValueError: at how many positions they do.
  """
  if isinstance(teacher, jax.core.Tracer) or isinstance(student, jax.core.Tracer):
    return
  differing = int((np.asarray(teacher, bool) != np.asarray(student, bool)).sum())
  if differing:
    raise ValueError(
      f"the masks of teacher and student {np.shape(teacher)} differ at {differing} positions: give "
      "both the sentences' mask"
    )


def shared_mask(
  teacher: ArrayLike | None, student: ArrayLike | None, teacher_scores: Array, student_scores: Array
) -> Array:
  """The mask of two structures over the same sentences; one that has none takes the other's.

  Raises:
    ValueError: scores [..., n, L] of different shapes, or masks that (unless traced) differ.
  """
  if teacher_scores.shape != student_scores.shape:
    raise ValueError(
      f"teacher {teacher_scores.shape} and student {student_scores.shape} must score the same "
      "sentences with the same tags: one shape [..., n, L]"
    )
  masks = [
    as_mask(mask, student_scores.shape[:-1]) for mask in (teacher, student) if mask is not None
  ]
  if not masks:
    return as_mask(None, student_scores.shape[:-1])
  if len(masks) == 2:
    refuse_other_masks(*masks)
  return masks[-1]
