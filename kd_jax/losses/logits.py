"""Losses on final outputs: labels, soft targets, regression, decoupled KD."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from kd_jax._checks import (
  apply_mask,
  as_float32,
  as_labels,
  blank,
  check_temperature,
  checked_classes,
  checked_logits,
  refuse_one_class,
  static_value,
  temper,
)
from kd_jax._numerics import kl_from_log_probs, log_probs, times_squared_temperature
from kd_jax.types import Array, ArrayLike


def hard_label_loss(
  student_logits: Float[ArrayLike, "*batch C"],
  labels: Int[ArrayLike, "*batch"],
  *,
  label_smoothing: float = 0.0,
  class_weights: ArrayLike | None = None,
  mask: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
  r"""Computes the cross-entropy on hard labels, in nats.

  .. math:: -\sum_c w_c q_c \log softmax(z_s)_c, \quad q_c = (1 - \epsilon) [c = y] + \epsilon / C

  Args:
    student_logits: [..., C].
    labels: [...] integers in [0, C).
    label_smoothing: ε in [0, 1), spread evenly over all classes.
    class_weights: w [C], at least 0; None: all are 1. The mean over examples is not divided by the mean weight.
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.

  Returns:
    [...] float32.

  Raises:
    ValueError: integer logits; labels of another shape, not integers, or out of range (under jit, where values
      are unknown, a label out of range gives NaN); smoothing outside [0, 1), or weights that are not C
      numbers of at least 0.

  References:
    Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, arXiv 1512.00567, section 7, for label
    smoothing. Both options are those of PyTorch's cross_entropy without reduction.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> loss = kd_jax.hard_label_loss(jnp.array([[0.0, 0.0], [0.0, 2.0]]), jnp.array([1, 1]))
    >>> [round(float(v), 4) for v in loss]
    [0.6931, 0.1269]
    >>> logits, label = jnp.log(jnp.array([1.0, 3.0])), jnp.array(1)
    >>> smooth = kd_jax.hard_label_loss(logits, label, label_smoothing=0.2)
    >>> round(float(smooth), 4)  # 0.9 log(4/3) + 0.1 log 4
    0.3975
  """
  if not 0 <= label_smoothing < 1:
    raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
  student = as_float32("student_logits", student_logits)
  refuse_one_class("student_logits", student)
  labels, in_range = as_labels(labels, student, mask)
  student = blank(student, mask)
  # A loss near 0 is a difference of large logits: of small ones, it keeps its digits.
  shifted = student - jax.lax.stop_gradient(jnp.max(student, axis=-1, keepdims=True))
  weights = None if class_weights is None else _checked_class_weights(class_weights, student)
  losses = optax.softmax_cross_entropy_with_integer_labels(shifted, labels)
  if weights is not None:
    losses *= weights[labels]
  if label_smoothing:
    every = -jax.nn.log_softmax(shifted, axis=-1)
    spread = jnp.mean(every if weights is None else weights * every, axis=-1)
    losses = (1.0 - label_smoothing) * losses + label_smoothing * spread
  return apply_mask(jnp.where(in_range, losses, jnp.nan), mask)


def _checked_class_weights(class_weights: ArrayLike, logits: Array) -> Array:
  weights = jnp.asarray(class_weights, jnp.float32)
  if weights.shape != logits.shape[-1:]:
    raise ValueError(
      f"class_weights {weights.shape} must be one for each of the {logits.shape[-1]} classes"
    )
  value = static_value(class_weights)
  if value is not None and not np.all((value >= 0) & np.isfinite(value)):
    raise ValueError("class_weights must be finite and at least 0")
  return weights


def squared_error_loss(
  student_outputs: Float[ArrayLike, "*batch 1"],
  labels: Float[ArrayLike, "*batch"],
  *,
  mask: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
  r"""Squared error of a predicted number: :math:`(z_s - y)^2`.

  Args:
    student_outputs: [..., 1], the number as the network's only output.
    labels: [...] numbers.
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.

  Returns:
    [...] float32, in the square of the labels' unit.

  Raises:
    ValueError: integer outputs, more than one output, or labels of another shape.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> kd_jax.squared_error_loss(jnp.array([[3.0], [1.0]]), jnp.array([1.0, 1.0])).tolist()
    [4.0, 0.0]
  """
  outputs = as_float32("student_outputs", student_outputs)
  labels = jnp.asarray(labels, jnp.float32)
  if outputs.shape != (*labels.shape, 1):
    raise ValueError(
      f"student_outputs {outputs.shape} must be [..., 1] for labels {labels.shape}: one number each"
    )
  return apply_mask(jnp.square(blank(outputs, mask)[..., 0] - apply_mask(labels, mask)), mask)


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
    >>> [round(float(v), 4) for v in loss]  # 4 (tanh(1/2) / 2 - log cosh(1/2)) = 4 · 0.1109
    [0.4438]
  """
  check_temperature(temperature)
  student, teacher = checked_classes(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  log_s, log_t = log_probs(student, temperature), log_probs(teacher, temperature)
  divergence = times_squared_temperature(kl_from_log_probs(log_t, log_s), temperature)
  return apply_mask(divergence, mask)


def logit_regression_loss(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  *,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Squared Euclidean distance of the logits: :math:`\| z_s - z_t \|_2^2`, summed over classes.

  Args:
    student_logits: [..., C].
    teacher_logits: [..., C].
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.
    stop_teacher_gradient: False where both sides learn.

  Returns:
    [...] float32.

  Raises:
    ValueError: for shapes that differ or integer logits.

  References:
    Ba and Caruana, Do Deep Nets Really Need to be Deep?, NeurIPS 2014, arXiv 1312.6184.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> float(kd_jax.logit_regression_loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])))
    5.0
  """
  student, teacher = checked_logits(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
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

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    >>> teacher = jnp.log(jnp.array([[0.5, 0.4, 0.1]]))  # the target alike, the others 4 to 1
    >>> loss = kd_jax.decoupled_kd_loss(student, teacher, jnp.array([0]), non_target_weight=2.0)
    >>> round(float(loss[0]), 4)  # 2 (0.8 log 1.6 + 0.2 log 0.4)
    0.3855
  """
  check_temperature(temperature)
  student, teacher = checked_logits(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  num_classes = student.shape[-1]
  if num_classes < 2:
    raise ValueError(f"decoupled_kd_loss needs at least 2 classes, got {num_classes}")
  labels, in_range = as_labels(labels, student, mask)
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

  student_binary, student_others, _ = split(temper(student, temperature))
  teacher_binary, teacher_others, possible = split(temper(teacher, temperature))
  divergence = target_weight * kl_from_log_probs(teacher_binary, student_binary)
  among_others = kl_from_log_probs(teacher_others, student_others)
  divergence += non_target_weight * jnp.where(possible, among_others, 0.0)
  divergence = jnp.where(in_range, divergence, jnp.nan)  # a traced label cannot raise
  return apply_mask(times_squared_temperature(divergence, temperature), mask)
