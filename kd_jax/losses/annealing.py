"""Annealing-KD and Continuation-KD: regression to teacher logits whose scale grows as T falls."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from kd_jax._checks import (
  apply_mask,
  as_float32,
  check_temperature,
  checked_logits,
  per_distribution,
  static_value,
)
from kd_jax.types import Array, ArrayLike


def annealing_factor(temperature: ArrayLike, max_temperature: ArrayLike) -> Array:
  r"""The scale of the teacher's logits at temperature T.

  .. math:: \Phi(T) = 1 - (T - 1) / \tau_{max}

  so that it runs 1/tau_max, 2/tau_max, ..., 1 as T runs tau_max, ..., 2, 1.

  Args:
    temperature: T in [1, tau_max], any shape. If it is traced, as in a jitted step, it cannot be checked: other
      values are clipped to this range.
    max_temperature: tau_max >= 1.

  Returns:
    float32 of temperature's shape.

  Raises:
    ValueError: T < 1, tau_max < 1 or T > tau_max, unless they are traced.

  References:
    Jafari et al., Annealing Knowledge Distillation, EACL 2021, arXiv 2104.07163, equation 3.

  Example:
    >>> import kd_jax
    >>> [round(float(kd_jax.annealing_factor(t, 4)), 2) for t in (4, 3, 2, 1)]
    [0.25, 0.5, 0.75, 1.0]
  """
  check_temperature(temperature, max_temperature)
  highest = jnp.asarray(max_temperature, jnp.float32)
  temperature = jnp.clip(jnp.asarray(temperature, jnp.float32), 1.0, highest)
  return 1.0 - (temperature - 1.0) / highest


def annealed_logits(
  teacher_logits: Float[ArrayLike, "*batch C"],
  temperature: ArrayLike,
  max_temperature: ArrayLike,
) -> Float[Array, "*batch C"]:
  r"""The annealed teacher: its logits scaled by the annealing factor.

  .. math:: \Phi(T) \, z_t

  Args:
    teacher_logits: [..., C].
    temperature: T in [1, tau_max]: a scalar, or [...] for a temperature of each example.
    max_temperature: tau_max >= 1.

  Returns:
    [..., C] float32.

  Raises:
    ValueError: as `annealing_factor`.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> kd_jax.annealed_logits(jnp.array([4.0, -8.0]), temperature=4, max_temperature=4).tolist()
    [1.0, -2.0]
  """
  factor = annealing_factor(temperature, max_temperature)
  logits = as_float32("teacher_logits", teacher_logits)
  return per_distribution("temperature", factor, logits) * logits


def annealing_kd_loss(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  temperature: ArrayLike,
  max_temperature: ArrayLike,
  *,
  center: ArrayLike = 0.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Annealing-KD, phase I: squared distance to the annealed teacher's logits.

  .. math:: \| (z_s - c) - \Phi(T) \, (z_t - c) \|_2^2

  Summed over classes, as the paper writes it. The released code takes the mean over the classes too;
  `kd_jax.recipes.annealing_kd` divides by C, because the published learning rates belong to that scale.

  Args:
    student_logits: [..., C]; no temperature is applied to them.
    teacher_logits: [..., C].
    temperature: T in [1, tau_max]; scalar or [...]; may be traced.
    max_temperature: tau_max >= 1.
    center: c, what annealing shrinks towards: 0 for logits; for numbers, the mean label, so that a predicted
      number keeps its level while the temperature falls.
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [...] float32.

  Raises:
    ValueError: for shapes that differ, integer logits, T < 1, tau_max < 1 or T > tau_max.

  References:
    Jafari et al., EACL 2021, arXiv 2104.07163, equations 2 and 3.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> loss = kd_jax.annealing_kd_loss(
    ...   jnp.array([1.0, 0.0]), jnp.array([4.0, 4.0]), temperature=4, max_temperature=4
    ... )
    >>> float(loss)
    1.0
  """
  student, teacher = checked_logits(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  annealed = annealed_logits(teacher - center, temperature, max_temperature)
  return apply_mask(jnp.sum(jnp.square((student - center) - annealed), axis=-1), mask)


def continuation_kd_loss(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  temperature: ArrayLike,
  max_temperature: ArrayLike,
  *,
  margin: ArrayLike,
  center: ArrayLike = 0.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Continuation-KD's distillation term: the annealed regression, hinged at a margin.

  .. math:: \max(0, \; \| (z_s - c) - \Phi(T) \, (z_t - c) \|_2^2 - m \, \Phi(T))

  A student that is near enough is left alone; with m = 0 it is `annealing_kd_loss`. The paper's loss is
  psi CE + (1 - psi) of this term, with psi rising from 0 to 1: see `kd_jax.recipes.continuation_kd`.

  Args:
    student_logits: [..., C].
    teacher_logits: [..., C].
    temperature: T in [1, tau_max]; scalar or [...]; may be traced.
    max_temperature: tau_max >= 1.
    margin: m >= 0, in squared logits.
    center: c, as in `annealing_kd_loss`.
    mask: [...] or its leading axes; masked positions give 0, whatever stands there.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [...] float32.

  Raises:
    ValueError: as `annealing_kd_loss`, and for a negative margin.

  References:
    Jafari et al., Continuation KD, Findings of EMNLP 2022, arXiv 2212.05998.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> z_s, z_t = jnp.array([2.0, 0.0]), jnp.array([4.0, 0.0])
    >>> float(kd_jax.continuation_kd_loss(z_s, z_t, 1, 4, margin=1.0))
    3.0
    >>> float(kd_jax.continuation_kd_loss(z_s, z_t, 1, 4, margin=5.0))
    0.0
  """
  value = static_value(margin)
  if value is not None and not (value >= 0).all():
    raise ValueError(f"margin must be at least 0, got {value}")
  student, teacher = checked_logits(student_logits, teacher_logits, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  annealed = annealed_logits(teacher - center, temperature, max_temperature)
  distance = jnp.sum(jnp.square((student - center) - annealed), axis=-1)
  slack = margin * annealing_factor(temperature, max_temperature)
  return apply_mask(jnp.maximum(distance - slack, 0.0), mask)
