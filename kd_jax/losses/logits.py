"""Losses on final logits: soft targets, regression, decoupled KD, DIST, top-k with its tail."""

import jax
import jax.numpy as jnp

from kd_jax.losses.divergences import forward_kl, kl_from_log_probs
from kd_jax.losses.inputs import (
  NEG_INF,
  apply_mask,
  as_float32,
  blank,
  broadcast_mask,
  check_temperature,
  prepare_pair,
)
from kd_jax.types import Array, ArrayLike, TopK


def _times_squared_temperature(divergence: Array, temperature: ArrayLike) -> Array:
  """T² times a divergence at temperature T: keeps the gradient's size as T grows (Hinton 2015)."""
  return jnp.asarray(temperature, jnp.float32) ** 2 * divergence


def soft_target_kd_loss(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""Knowledge distillation on softened targets.

  .. math:: T^2 \, KL(softmax(z_t / T) \,\|\, softmax(z_s / T))

  Args:
    student_logits: [..., C].
    teacher_logits: [..., C].
    temperature: T >= 1; may be traced.
    mask: broadcasts to [...]; masked positions give 0, whatever stands there.
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
  return _times_squared_temperature(divergence, temperature)


def logit_regression_loss(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Array:
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
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  target_weight: float = 1.0,
  non_target_weight: float = 8.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Array:
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
    mask: broadcasts to [...].
    stop_teacher_gradient: False where both sides learn.

  Returns:
    [...] float32.

  Raises:
    ValueError: as `soft_target_kd_loss`; labels of another shape or not integers.

  References:
    Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679, equation 7.
  """
  check_temperature(temperature)
  student, teacher = prepare_pair(student_logits, teacher_logits, mask, stop_teacher_gradient)
  labels = jnp.asarray(labels)
  if labels.shape != student.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(
      f"labels must be integers of shape {student.shape[:-1]}, got {labels.dtype} {labels.shape}"
    )
  is_target = jax.nn.one_hot(labels, student.shape[-1], dtype=bool)

  def split(logits):
    others = jnp.where(is_target, NEG_INF, logits / temperature)
    target = jnp.sum(jnp.where(is_target, logits / temperature, 0.0), axis=-1)
    binary = jnp.stack([target, jax.nn.logsumexp(others, axis=-1)], axis=-1)
    return jax.nn.log_softmax(binary, axis=-1), jax.nn.log_softmax(others, axis=-1)

  (student_binary, student_others), (teacher_binary, teacher_others) = (
    split(student),
    split(teacher),
  )
  divergence = target_weight * kl_from_log_probs(teacher_binary, student_binary)
  divergence += non_target_weight * kl_from_log_probs(teacher_others, student_others)
  return apply_mask(_times_squared_temperature(divergence, temperature), mask)


def _pearson_distance(x: Array, y: Array, weights: Array, axis: int) -> Array:
  """1 - Pearson correlation along an axis; 1 where a side does not vary."""
  count = jnp.maximum(jnp.sum(weights, axis=axis, keepdims=True), 1.0)
  x = (x - jnp.sum(weights * x, axis=axis, keepdims=True) / count) * weights
  y = (y - jnp.sum(weights * y, axis=axis, keepdims=True) / count) * weights
  x_square, y_square = jnp.sum(x * x, axis=axis), jnp.sum(y * y, axis=axis)
  # A class that is absent from a batch still varies a little, and counts; a constant in the root would hide it.
  varies = (x_square > 1e-30) & (y_square > 1e-30)
  norms = jnp.sqrt(jnp.where(varies, x_square, 1.0)) * jnp.sqrt(jnp.where(varies, y_square, 1.0))
  return 1.0 - jnp.where(varies, jnp.sum(x * y, axis=axis) / norms, 0.0)


def dist_inter_loss(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""DIST's inter-class relation: 1 - Pearson correlation of each example's class probabilities.

  Args, Raises: as `forward_kl`.

  Returns:
    [...] float32 in [0, 2].

  References:
    Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv 2205.10536.
  """
  check_temperature(temperature)
  student, teacher = prepare_pair(student_logits, teacher_logits, mask, stop_teacher_gradient)
  student = jax.nn.softmax(student / temperature, axis=-1)
  teacher = jax.nn.softmax(teacher / temperature, axis=-1)
  return apply_mask(_pearson_distance(student, teacher, jnp.ones_like(student), axis=-1), mask)


def dist_intra_loss(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""DIST's intra-class relation: 1 - Pearson correlation over the batch, for each class.

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
  """
  check_temperature(temperature)
  student, teacher = prepare_pair(student_logits, teacher_logits, mask, stop_teacher_gradient)
  if student.ndim != 2:
    raise ValueError(
      f"dist_intra_loss compares over a batch: logits must be [B, C], got {student.shape}"
    )
  weights = jnp.ones_like(student)
  if mask is not None:
    weights *= broadcast_mask(mask, student.shape[:-1])[:, None]
  student = jax.nn.softmax(student / temperature, axis=-1)
  teacher = jax.nn.softmax(teacher / temperature, axis=-1)
  return _pearson_distance(student, teacher, weights, axis=0)


def _tail_log_prob(log_probs: Array, indices: Array) -> Array:
  """log of the probability of all classes [..., C] but those of indices [..., k]."""
  num_classes = log_probs.shape[-1]
  chosen = jnp.any(indices[..., :, None] == jnp.arange(num_classes), axis=-2)
  return jax.nn.logsumexp(jnp.where(chosen, NEG_INF, log_probs), axis=-1)


def top_k_targets(teacher_logits: ArrayLike, k: int, *, temperature: ArrayLike = 1.0) -> TopK:
  r"""The k likeliest classes of softmax(z / T), and the log-probability of the others together.

  Args:
    teacher_logits: [..., C].
    k: how many classes are kept, 1 <= k < C.
    temperature: T >= 1: the same as in the loss, since a tail cannot be tempered afterwards.

  Returns:
    `TopK` with leading axes [...].

  Raises:
    ValueError: k outside [1, C), integer logits or a temperature below 1.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> top = kd_jax.top_k_targets(jnp.log(jnp.array([0.1, 0.6, 0.3])), k=1)
    >>> int(top.indices[0]), round(float(jnp.exp(top.tail_log_prob)), 3)
    (1, 0.4)
  """
  check_temperature(temperature)
  logits = as_float32("teacher_logits", teacher_logits)
  if not 1 <= k < logits.shape[-1]:
    raise ValueError(f"k must be at least 1 and below the {logits.shape[-1]} classes, got {k}")
  log_probs = jax.nn.log_softmax(logits / temperature, axis=-1)
  values, indices = jax.lax.top_k(log_probs, k)
  return TopK(indices.astype(jnp.int32), values, _tail_log_prob(log_probs, indices))


def top_k_kd_loss(
  student_logits: ArrayLike,
  top_k: TopK,
  *,
  temperature: ArrayLike = 1.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""Soft-target KD over the teacher's k likeliest classes and the tail as one class more.

  .. math:: T^2 \, KL((p_t(c_1), ..., p_t(c_k), 1 - \sum p_t) \,\|\, (p_s(c_1), ..., p_s(c_k), 1 - \sum p_s))

  Never above `soft_target_kd_loss` on the full distribution, and equal to it for k = C - 1. Without the
  tail a student would be free to scatter what the teacher's top k leave over.

  Args:
    student_logits: [..., C].
    top_k: targets from `top_k_targets` at the same temperature.
    temperature: T >= 1.
    mask: broadcasts to [...].
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [...] float32.

  Raises:
    ValueError: for leading axes that differ, a k of all classes, integer logits or a temperature below 1.
  """
  check_temperature(temperature)
  student = blank(as_float32("student_logits", student_logits), mask)
  indices = jnp.asarray(top_k.indices)
  if indices.shape[:-1] != student.shape[:-1]:
    raise ValueError(
      f"student_logits {student.shape} and top_k.indices {indices.shape} differ in leading axes"
    )
  if not 1 <= indices.shape[-1] < student.shape[-1]:
    raise ValueError(
      f"top_k must keep at least 1 and fewer than all {student.shape[-1]} classes, it keeps "
      f"{indices.shape[-1]}"
    )
  if mask is not None:
    indices = jnp.where(broadcast_mask(mask, student.shape[:-1])[..., None], indices, 0)
  log_s = jax.nn.log_softmax(student / temperature, axis=-1)
  student_outcomes = jnp.concatenate(
    [jnp.take_along_axis(log_s, indices, axis=-1), _tail_log_prob(log_s, indices)[..., None]],
    axis=-1,
  )
  tail = jnp.asarray(top_k.tail_log_prob, jnp.float32)[..., None]
  teacher_outcomes = jnp.concatenate([jnp.asarray(top_k.log_probs, jnp.float32), tail], axis=-1)
  teacher_outcomes = blank(teacher_outcomes, mask)
  if stop_teacher_gradient:
    teacher_outcomes = jax.lax.stop_gradient(teacher_outcomes)
  divergence = kl_from_log_probs(teacher_outcomes, student_outcomes)
  return apply_mask(_times_squared_temperature(divergence, temperature), mask)
