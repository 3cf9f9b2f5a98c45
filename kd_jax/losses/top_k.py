"""Soft targets for large vocabularies: the k likeliest classes and the tail as one class more."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from kd_jax._checks import apply_mask, as_float32, blank, broadcast_mask, check_temperature
from kd_jax._numerics import kl_from_log_probs, log_probs, times_squared_temperature
from kd_jax.types import NEG_INF, Array, ArrayLike, TopK


def _tail_log_prob(log_probs: Array, indices: Array) -> Array:
  """log of the probability of all classes [..., C] but those of indices [..., k]."""
  # A scatter, not a comparison of every index with every class: [..., C] memory, not [..., k, C].
  rest = jnp.put_along_axis(log_probs, indices, NEG_INF, axis=-1, inplace=False)
  return jax.nn.logsumexp(rest, axis=-1)


def top_k_targets(
  teacher_logits: Float[ArrayLike, "*batch C"], k: int, *, temperature: ArrayLike = 1.0
) -> TopK:
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
  log_p = log_probs(logits, temperature)
  values, indices = jax.lax.top_k(log_p, k)
  return TopK(indices.astype(jnp.int32), values, _tail_log_prob(log_p, indices))


def top_k_kd_loss(
  student_logits: Float[ArrayLike, "*batch C"],
  top_k: TopK,
  *,
  temperature: ArrayLike = 1.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Soft-target KD over the teacher's k likeliest classes and the tail as one class more.

  .. math:: T^2 \, KL((p_t(c_1), ..., p_t(c_k), 1 - \sum p_t) \,\|\, (p_s(c_1), ..., p_s(c_k), 1 - \sum p_s))

  Never above `soft_target_kd_loss` on the full distribution, and equal to it for k = C - 1. Without the
  tail a student would be free to scatter what the teacher's top k leave over.

  Args:
    student_logits: [..., C].
    top_k: targets from `top_k_targets` at the same temperature.
    temperature: T >= 1.
    mask: [...] or its leading axes.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [...] float32.

  Raises:
    ValueError: for leading axes that differ, a k of all classes, integer logits or a temperature below 1.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student, teacher = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.25, 0.5, 0.25]]))
    >>> top = kd_jax.top_k_targets(teacher, k=1)  # class 1 and the tail, half each
    >>> round(float(kd_jax.top_k_kd_loss(student, top)), 4)  # -log(4 · 0.3 · 0.7) / 2
    0.0872
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
  log_s = log_probs(student, temperature)
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
  return apply_mask(times_squared_temperature(divergence, temperature), mask)
