"""What losses on structures share: their door, and the tempering of marginals."""

import jax
import jax.numpy as jnp

from kd_jax.losses.inputs import check_temperature, times_squared_temperature
from kd_jax.structured import maxent
from kd_jax.structured.checks import refuse_other_masks
from kd_jax.structured.maxent import MaxEnt
from kd_jax.types import NEG_INF, Array, ArrayLike, PyTree

_SAFE = 1e-30


def at_the_door(teacher: PyTree, temperature: ArrayLike, stop_teacher_gradient: bool) -> PyTree:
  """The teacher's scores, without their gradient if it is to stop; checks the temperature."""
  check_temperature(temperature)
  if jnp.ndim(temperature):
    raise ValueError(f"temperature must be one scalar, got shape {jnp.shape(temperature)}")
  return jax.lax.stop_gradient(teacher) if stop_teacher_gradient else teacher


def with_one_mask(teacher: PyTree, student: PyTree) -> tuple[PyTree, PyTree]:
  """Both with the sentences' mask: one that has none takes the other's.

  Raises:
    ValueError: masks that (unless traced) differ.
  """
  masks = [getattr(structure, "mask", None) for structure in (teacher, student)]
  if masks[0] is masks[1] or not (hasattr(teacher, "mask") and hasattr(student, "mask")):
    return teacher, student
  if any(mask is None for mask in masks):
    mask = masks[0] if masks[1] is None else masks[1]
    return teacher._replace(mask=mask), student._replace(mask=mask)
  if jnp.shape(masks[0]) == jnp.shape(masks[1]):
    refuse_other_masks(*masks)
  return teacher, student


def expect(structure: PyTree, *kinds: type) -> None:
  """Refuses a structure that a named case does not take."""
  if not isinstance(structure, kinds):
    raise ValueError(
      f"this case takes {' or '.join(kind.__name__ for kind in kinds)} here, got "
      f"{type(structure).__name__}: structural_kd_loss finds the case by type"
    )


def is_one(temperature: ArrayLike) -> bool:
  """Whether T is known to be 1, so that nothing is tempered."""
  return isinstance(temperature, int | float) and temperature == 1


def refuse_other_shapes(teacher: ArrayLike, student: ArrayLike) -> None:
  """Refuses scores of other sentences, positions or tags."""
  if jnp.shape(teacher) != jnp.shape(student):
    raise ValueError(
      f"the teacher's scores {jnp.shape(teacher)} and the student's {jnp.shape(student)} must be of one "
      "shape: the same sentences, positions and tags"
    )


def divide(structure: PyTree, temperature: ArrayLike) -> PyTree:
  """The scores of a chain or of independent tags divided by T; its mask as it is."""
  divided = [jnp.asarray(x, jnp.float32) / temperature for x in structure[:-1]]
  return type(structure)(*divided, structure.mask)


def sharpen(marginals: Array, temperature: ArrayLike, axes: int) -> Array:
  """Marginals to the power of 1/T, renormalised over the last axes; zeros stay zeros.

  Padding, all zeros, stays so.
  """
  if is_one(temperature):
    return marginals
  over = tuple(range(-axes, 0))
  possible = marginals != 0  # NaN stays NaN
  log_power = jnp.log(jnp.where(possible, marginals, 1.0)) / temperature
  log_power = jnp.where(possible, log_power, NEG_INF)
  peak = jax.lax.stop_gradient(jnp.max(log_power, axis=over, keepdims=True))
  power = jnp.where(possible, jnp.exp(log_power - peak), 0.0)
  return power / jnp.maximum(jnp.sum(power, axis=over, keepdims=True), _SAFE)


def token_cross_entropy(marginals: Array, student: MaxEnt, temperature: ArrayLike) -> Array:
  """T² times the cross-entropy of tempered independent tags, summed over the positions."""
  refuse_other_shapes(marginals, student.logits)
  targets = sharpen(marginals, temperature, axes=1)
  log_probs = maxent.log_probs(divide(student, temperature))
  values = jnp.where(targets != 0, targets * log_probs, 0.0)
  return times_squared_temperature(-jnp.sum(values, axis=(-2, -1)), temperature)
