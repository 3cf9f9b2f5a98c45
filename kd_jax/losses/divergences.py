"""Divergences between the softmax distributions of two sets of logits.

All take logits [..., C], work in float32 and log space, and return [...]: the sum over classes, never
their mean, and no factor T² (that belongs to `soft_target_kd_loss` alone).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from kd_jax._checks import apply_mask, check_temperature, checked_classes
from kd_jax._numerics import kl_from_log_probs, log_probs
from kd_jax.types import Array, ArrayLike


def _expectation(log_p: Array, values: Array) -> Array:
  """sum_c p_c v_c with 0 · v = 0, also where v is infinite; gradients stay finite there."""
  probable = log_p > -jnp.inf
  p = jnp.exp(jnp.where(probable, log_p, 0.0))
  probable &= p > 0  # underflow counts as 0 too
  return jnp.sum(jnp.where(probable, p * jnp.where(probable, values, 0.0), 0.0), axis=-1)


def forward_kl(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  *,
  temperature: ArrayLike = 1.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Forward Kullback-Leibler divergence, teacher to student.

  .. math:: KL(p_t \| p_s) = \sum_c p_t(c) \, [\log p_t(c) - \log p_s(c)], \quad p = softmax(z / T)

  Args:
    student_logits: [..., C] student logits.
    teacher_logits: [..., C] teacher logits; -inf marks a class that cannot occur.
    temperature: T >= 1, a scalar or [...]; may be traced.
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.
    stop_teacher_gradient: False where both sides learn, as in mutual learning.

  Returns:
    [...] float32, in nats; 0 where the distributions are equal.

  Raises:
    ValueError: for shapes that differ, integer logits or a temperature below 1.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student = jnp.array([[0.0, 0.0], [2.0, 0.0]])
    >>> teacher = jnp.array([[0.0, 0.0], [0.0, 2.0]])
    >>> [round(float(v), 4) for v in kd_jax.forward_kl(student, teacher)]  # 0 and 2 tanh 1
    [0.0, 1.5232]
  """
  check_temperature(temperature)
  student, teacher = checked_classes(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  log_s, log_t = log_probs(student, temperature), log_probs(teacher, temperature)
  return apply_mask(kl_from_log_probs(log_t, log_s), mask)


def reverse_kl(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  *,
  temperature: ArrayLike = 1.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Reverse Kullback-Leibler divergence, student to teacher (mode seeking).

  .. math:: KL(p_s \| p_t) = \sum_c p_s(c) \, [\log p_s(c) - \log p_t(c)], \quad p = softmax(z / T)

  Args:
    student_logits: [..., C] student logits.
    teacher_logits: [..., C] teacher logits; -inf marks a class that cannot occur.
    temperature: T >= 1, a scalar or [...]; may be traced.
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.
    stop_teacher_gradient: False where both sides learn, as in mutual learning.

  Returns:
    [...] float32, in nats; infinite where the student gives probability to a class that the
    teacher excludes with -inf.

  Raises:
    ValueError: for shapes that differ, integer logits or a temperature below 1.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student, teacher = jnp.array([0.0, 0.0]), jnp.array([0.0, 2.0])
    >>> round(float(kd_jax.reverse_kl(student, teacher)), 4)  # log(1 + e²) - 1 - log 2
    0.4338
  """
  check_temperature(temperature)
  student, teacher = checked_classes(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  log_s, log_t = log_probs(student, temperature), log_probs(teacher, temperature)
  return apply_mask(kl_from_log_probs(log_s, log_t), mask)


def jensen_shannon(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  *,
  temperature: ArrayLike = 1.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Jensen-Shannon divergence: symmetric, bounded by log 2.

  .. math:: JS = \tfrac12 KL(p_t \| m) + \tfrac12 KL(p_s \| m), \quad m = \tfrac12 (p_t + p_s)

  Args:
    student_logits: [..., C] student logits.
    teacher_logits: [..., C] teacher logits; -inf marks a class that cannot occur.
    temperature: T >= 1, a scalar or [...]; may be traced.
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.
    stop_teacher_gradient: False where both sides learn, as in mutual learning.

  Returns:
    [...] float32, in nats, in [0, log 2].

  Raises:
    ValueError: for shapes that differ, integer logits or a temperature below 1.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> far = kd_jax.jensen_shannon(jnp.array([50.0, 0.0]), jnp.array([0.0, 50.0]))
    >>> round(float(far), 4)  # log 2
    0.6931
  """
  check_temperature(temperature)
  student, teacher = checked_classes(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  log_s, log_t = log_probs(student, temperature), log_probs(teacher, temperature)
  # logaddexp has no gradient where both sides exclude a class.
  excluded = (log_s == -jnp.inf) & (log_t == -jnp.inf)
  log_m = jnp.logaddexp(jnp.where(excluded, 0.0, log_s), jnp.where(excluded, 0.0, log_t))
  log_m = jnp.where(excluded, -jnp.inf, log_m - jnp.log(2.0))
  divergence = 0.5 * (kl_from_log_probs(log_t, log_m) + kl_from_log_probs(log_s, log_m))
  return apply_mask(divergence, mask)


def soft_cross_entropy(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  *,
  temperature: ArrayLike = 1.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Cross-entropy of the student under the teacher's distribution.

  .. math:: H(p_t, p_s) = - \sum_c p_t(c) \log p_s(c) = KL(p_t \| p_s) + H(p_t)

  Its gradient to the student is that of `forward_kl`; it is not 0 at equality.

  Args:
    student_logits: [..., C] student logits.
    teacher_logits: [..., C] teacher logits; -inf marks a class that cannot occur.
    temperature: T >= 1, a scalar or [...]; may be traced.
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.
    stop_teacher_gradient: False where both sides learn, as in mutual learning.

  Returns:
    [...] float32, in nats; at equality the entropy of the teacher, not 0.

  Raises:
    ValueError: for shapes that differ, integer logits or a temperature below 1.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> z = jnp.zeros(4)
    >>> round(float(kd_jax.soft_cross_entropy(z, z)), 4)  # log 4
    1.3863
  """
  check_temperature(temperature)
  student, teacher = checked_classes(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  log_s, log_t = log_probs(student, temperature), log_probs(teacher, temperature)
  return apply_mask(_expectation(log_t, -log_s), mask)
