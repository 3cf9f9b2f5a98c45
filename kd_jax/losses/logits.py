"""Losses on final logits: soft targets, regression, decoupled KD."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from kd_jax._checks import apply_mask, prepare_pair, static_value, tempered_pair
from kd_jax._numerics import kl_from_log_probs, times_squared_temperature
from kd_jax.losses.divergences import forward_kl
from kd_jax.types import Array, ArrayLike


def soft_target_kd_loss(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  *,
  temperature: ArrayLike,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Knowledge distillation on softened targets.

  .. math:: T^2 \, KL(softmax(z_t / T) \,\|\, softmax(z_s / T))

  Args:
    student_logits: [..., C].
    teacher_logits: [..., C].
    temperature: T >= 1, a scalar or [...]; may be traced.
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.
    stop_teacher_gradient: False where both sides learn.

  Returns:
    [...] float32; 0 where the distributions are equal.

  Raises:
    ValueError: for shapes that differ, integer logits or a temperature below 1.

  References:
    Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> loss = kd_jax.soft_target_kd_loss(
    ...   jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 2.0]]), temperature=2.0
    ... )
    >>> [round(float(v), 4) for v in loss]
    [0.4438]
  """
  divergence = forward_kl(
    student_logits,
    teacher_logits,
    temperature=temperature,
    mask=mask,
    stop_teacher_gradient=stop_teacher_gradient,
  )
  return times_squared_temperature(divergence, temperature)


def logit_regression_loss(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  *,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Squared Euclidean distance of the logits: :math:`\| z_s - z_t \|_2^2`, summed over classes.

  Args, Returns, Raises: as `soft_target_kd_loss`, without a temperature.

  References:
    Ba and Caruana, Do Deep Nets Really Need to be Deep?, NeurIPS 2014, arXiv 1312.6184.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> float(kd_jax.logit_regression_loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])))
    5.0
  """
  student, teacher = prepare_pair(student_logits, teacher_logits, mask, stop_teacher_gradient)
  return apply_mask(jnp.sum(jnp.square(student - teacher), axis=-1), mask)


def decoupled_kd_loss(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  labels: Int[ArrayLike, "*batch"],
  *,
  temperature: ArrayLike = 1.0,
  target_weight: float = 1.0,
  non_target_weight: float = 8.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Decoupled KD (DKD): the target class and the others weighted apart.

  .. math:: T^2 [ w_{target} \, KL(b_t \| b_s) + w_{other} \, KL(\hat p_t \| \hat p_s) ]

  b = (p(target), 1 - p(target)); p-hat is the softmax over the classes other than the target.

  Args:
    student_logits: [..., C], C >= 2.
    teacher_logits: [..., C].
    labels: [...] integer targets in [0, C).
    temperature: T >= 1.
    target_weight: weight of the target-class term (TCKD).
    non_target_weight: weight of the non-target term (NCKD).
    mask: [...] or its leading axes.
    stop_teacher_gradient: False where both sides learn.

  Returns:
    [...] float32.

  Raises:
    ValueError: as `soft_target_kd_loss`; labels of another shape, not integers, or out of range (under jit,
      where values are unknown, a label out of range gives NaN).

  References:
    Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679, equation 7.
  """
  student, teacher = tempered_pair(
    student_logits, teacher_logits, temperature, mask, stop_teacher_gradient
  )
  num_classes = student.shape[-1]
  labels = jnp.asarray(labels)
  if labels.shape != student.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(
      f"labels must be integers of shape {student.shape[:-1]}, got {labels.dtype} {labels.shape}"
    )
  if num_classes < 2:
    raise ValueError(f"decoupled_kd_loss needs at least 2 classes, got {num_classes}")
  in_range = (labels >= 0) & (labels < num_classes)
  checked = static_value(apply_mask((~in_range).astype(jnp.float32), mask))
  if checked is not None and checked.any():
    raise ValueError(f"labels must be in [0, {num_classes}), got {labels.min()} to {labels.max()}")
  is_target = jax.nn.one_hot(labels, num_classes, dtype=bool)

  def split(tempered):
    """Log-probabilities of (target, others) and within the others; whether any of these is possible."""
    others = jnp.where(is_target, -jnp.inf, tempered)
    possible = jnp.any(others > -jnp.inf, axis=-1)
    rest = jax.nn.logsumexp(jnp.where(possible[..., None], others, 0.0), axis=-1)
    target = jnp.sum(jnp.where(is_target, tempered, 0.0), axis=-1)
    binary = jnp.stack([target, jnp.where(possible, rest, -jnp.inf)], axis=-1)
    others = jnp.where(possible[..., None], others, jnp.where(is_target, -jnp.inf, 0.0))
    return jax.nn.log_softmax(binary, axis=-1), jax.nn.log_softmax(others, axis=-1), possible

  student_binary, student_others, _ = split(student)
  teacher_binary, teacher_others, possible = split(teacher)
  divergence = target_weight * kl_from_log_probs(teacher_binary, student_binary)
  among_others = kl_from_log_probs(teacher_others, student_others)
  divergence += non_target_weight * jnp.where(possible, among_others, 0.0)
  divergence = jnp.where(in_range, divergence, jnp.nan)  # a traced label cannot raise
  return apply_mask(times_squared_temperature(divergence, temperature), mask)
