"""Contrastive distillation: each example's teacher is told apart from those of the rest of the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from kd_jax._checks import check_contrast_temperature, temper
from kd_jax.losses._embeddings import checked_embeddings
from kd_jax.losses.layers import direction
from kd_jax.types import NEG_INF, Array, ArrayLike


def crd_loss(
  student_embeddings: Float[ArrayLike, "B *positions D"],
  teacher_embeddings: Float[ArrayLike, "B *positions D"],
  labels: Int[ArrayLike, " B"] | None = None,
  *,
  temperature: ArrayLike = 0.07,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " B"]:
  r"""Contrastive KD: an example's student is nearer to its own teacher than to those of other examples.

  .. math:: -\log \frac{\exp(\langle s_i, t_i \rangle / \tau)}
    {\sum_{j \in \{i\} \cup N(i)} \exp(\langle s_i, t_j \rangle / \tau)}

  with embeddings scaled to norm 1, and N(i) the negatives of i: the other examples of the batch or, with
  labels, those of another class. On several devices each device takes them from its own share of the batch.

  Args:
    student_embeddings: [B, D], mapped to the teacher's width; of feature maps [B, H, W, D], the mean over
      positions. An embedding of zeros has no direction: it stays 0, with no gradient.
    teacher_embeddings: [B, D] or [B, H', W', D].
    labels: [B] integers, of any range; None: all other examples are negatives.
    temperature: τ > 0, a scalar or [B]; may be traced.
    mask: [B]; masked examples give 0 and are no negatives, whatever stands there.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B] float32; 0 for an example without negatives.

  Raises:
    ValueError: for batches or widths that differ, integers, a temperature that is not above 0, or labels that
      are not integers [B].

  References:
    Tian et al., Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699. The paper draws 16,384
    negatives from a memory of all training examples' embeddings, and its critic decides for each pair by itself
    whether both are of one example (noise-contrastive estimation). Here the negatives are those of the batch,
    under one softmax (InfoNCE). The released code adds the loss with both sides exchanged, and maps both to 128
    dimensions; here each student is compared with the teachers, at the teacher's width.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student = jnp.array([[2.0, 0.0], [3.0, 0.0]])  # cosines 1, 0 in both rows
    >>> teacher = jnp.array([[1.0, 0.0], [0.0, 5.0]])
    >>> loss = kd_jax.crd_loss(student, teacher, temperature=0.5)
    >>> [round(float(v), 4) for v in loss]  # log(1 + e⁻²) and log(1 + e²)
    [0.1269, 2.1269]
    >>> kd_jax.crd_loss(student, teacher, jnp.array([7, 7])).tolist()  # one class: no negatives
    [0.0, 0.0]
  """
  check_contrast_temperature(temperature)
  student, teacher, counted = checked_embeddings(student_embeddings, teacher_embeddings, mask)
  if student.shape != teacher.shape:
    raise ValueError(
      f"student_embeddings {student.shape} and teacher_embeddings {teacher.shape} must have one width: project "
      "the student's width to the teacher's"
    )
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  negatives = _negatives(counted, labels)
  cosines = jnp.einsum("id,jd->ij", direction(student), direction(teacher), precision="highest")
  # How far a negative is above the positive; a loss near 0 keeps its digits.
  margins = temper(cosines - jnp.diagonal(cosines)[:, None], temperature)
  some = jnp.any(negatives, axis=-1)
  margins = jnp.where(negatives, margins, jnp.where(some[:, None], NEG_INF, 0.0))
  return jnp.where(some, jax.nn.softplus(jax.nn.logsumexp(margins, axis=-1)), 0.0)


def _negatives(counted: Array, labels: ArrayLike | None) -> Array:
  """[B, B] bool: whether j is a negative of i."""
  size = len(counted)
  negatives = counted[:, None] & counted[None, :] & ~jnp.eye(size, dtype=bool)
  if labels is None:
    return negatives
  labels = jnp.asarray(labels)
  if labels.shape != (size,) or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(
      f"labels must be integers of shape {(size,)}, got {labels.dtype} {labels.shape}"
    )
  return negatives & (labels[:, None] != labels[None, :])
