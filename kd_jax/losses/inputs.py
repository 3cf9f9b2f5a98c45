"""What every loss does at its door: check, cast to float32, stop gradients, apply the mask."""

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.types import Array, ArrayLike


def static_value(value: ArrayLike) -> np.ndarray | None:
  """The value as NumPy, or None while it is being traced."""
  return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def check_temperature(temperature: ArrayLike, max_temperature: ArrayLike | None = None) -> None:
  """Refuses a temperature outside [1, max_temperature], unless it is being traced."""
  value = static_value(temperature)
  if value is not None and not np.all((value >= 1) & np.isfinite(value)):
    raise ValueError(
      f"temperature must be finite and at least 1, got {value}; to sharpen a distribution, scale its logits"
    )
  highest = None if max_temperature is None else static_value(max_temperature)
  if highest is not None and not np.all(highest >= 1):
    raise ValueError(f"max_temperature must be at least 1, got {highest}")
  if value is not None and highest is not None and not np.all(value <= highest):
    raise ValueError(
      f"temperature {value} is above max_temperature {highest}: annealing runs from "
      "max_temperature down to 1"
    )


def as_float32(name: str, logits: ArrayLike) -> Array:
  """Casts floating-point logits [..., C] to float32; refuses integers and scalars."""
  logits = jnp.asarray(logits)
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ValueError(
      f"{name} must be floating point, got {logits.dtype} {logits.shape}: are these labels?"
    )
  if logits.ndim == 0 or logits.shape[-1] == 0:
    raise ValueError(f"{name} must have a class axis [..., C], got shape {logits.shape}")
  return logits.astype(jnp.float32)


def prepare_pair(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  mask: ArrayLike | None,
  stop_teacher_gradient: bool,
) -> tuple[Array, Array]:
  """Student and teacher logits as float32 of one shape, zeros at masked positions."""
  student = as_float32("student_logits", student_logits)
  teacher = as_float32("teacher_logits", teacher_logits)
  if student.shape != teacher.shape:
    raise ValueError(
      f"student_logits {student.shape} and teacher_logits {teacher.shape} must have one shape; "
      "broadcast explicitly where that is meant"
    )
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  return blank(student, mask), blank(teacher, mask)


def blank(logits: Array, mask: ArrayLike | None) -> Array:
  """Replaces logits [..., C] at masked positions by 0, so that no garbage is ever computed on."""
  if mask is None:
    return logits
  return jnp.where(broadcast_mask(mask, logits.shape[:-1])[..., None], logits, 0.0)


def apply_mask(values: Array, mask: ArrayLike | None) -> Array:
  """Replaces values [...] at masked positions by exactly 0."""
  if mask is None:
    return values
  return jnp.where(broadcast_mask(mask, values.shape), values, 0.0)


def broadcast_mask(mask: ArrayLike, shape: tuple[int, ...]) -> Array:
  """A bool mask of a shape, from one of its leading axes; an axis of the mask may be 1."""
  mask = jnp.asarray(mask).astype(bool)
  fits = mask.ndim <= len(shape) and all(
    size in (1, expected) for size, expected in zip(mask.shape, shape, strict=False)
  )
  if not fits:
    raise ValueError(f"mask {mask.shape} must have the leading axes of the values {shape}")
  return jnp.broadcast_to(jnp.reshape(mask, mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def per_distribution(name: str, values: ArrayLike, logits: Array) -> Array:
  """Values to combine with logits [..., C]: a scalar for all, or [...] made [..., 1]."""
  values = jnp.asarray(values, jnp.float32)
  if values.ndim and values.shape != logits.shape[:-1]:
    raise ValueError(
      f"{name} must be a scalar or of the logits' leading shape {logits.shape[:-1]}, got "
      f"{values.shape}"
    )
  return values[..., None] if values.ndim else values


def temper(logits: Array, temperature: ArrayLike) -> Array:
  """Logits [..., C] divided by a temperature: one for all, or [...] for each distribution."""
  return logits / per_distribution("temperature", temperature, logits)


def tempered_pair(
  student_logits: ArrayLike,
  teacher_logits: ArrayLike,
  temperature: ArrayLike,
  mask: ArrayLike | None,
  stop_teacher_gradient: bool,
) -> tuple[Array, Array]:
  """What a loss with a temperature does at its door: `prepare_pair`, both sides divided by a checked T."""
  check_temperature(temperature)
  student, teacher = prepare_pair(student_logits, teacher_logits, mask, stop_teacher_gradient)
  return temper(student, temperature), temper(teacher, temperature)


def times_squared_temperature(divergence: Array, temperature: ArrayLike) -> Array:
  """T² times a divergence at temperature T: keeps the gradient's size as T grows (Hinton 2015)."""
  return jnp.asarray(temperature, jnp.float32) ** 2 * divergence
