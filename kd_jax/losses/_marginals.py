"""What losses on structures share: the tempering of marginals, and the cross-entropy of tags."""

import jax
import jax.numpy as jnp

from kd_jax._checks import check_temperature
from kd_jax._numerics import times_squared_temperature
from kd_jax.structured import MaxEnt, Structure, scaled
from kd_jax.structured._declaration import with_one_mask
from kd_jax.structured._generic import log_tag_marginals
from kd_jax.types import NEG_INF, Array, ArrayLike

_SAFE = 1e-30


def checked_structures(
  student: Structure, teacher: Structure, temperature: ArrayLike = 1.0
) -> tuple[Structure, Structure]:
  """Both structures with one mask; checks the temperature.

  Raises:
    ValueError: a temperature that is no scalar or is below 1, or masks that (unless traced) differ.
  """
  check_temperature(temperature)
  if jnp.ndim(temperature):
    raise ValueError(f"temperature must be one scalar, got shape {jnp.shape(temperature)}")
  return with_one_mask(student, teacher)


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


def token_cross_entropy(student: MaxEnt, marginals: Array, temperature: ArrayLike) -> Array:
  r"""The cross-entropy of tempered independent tags, summed over the positions.

  .. math:: -T^2 \sum_i \sum_y \tilde P_t(y_i = y) \log P_s^{1/T}(y_i = y)
  """
  refuse_other_shapes(marginals, student.logits)
  targets = sharpen(marginals, temperature, axes=1)
  log_probs = log_tag_marginals(scaled(student, 1 / temperature))
  values = jnp.where(targets != 0, targets * log_probs, 0.0)
  return times_squared_temperature(-jnp.sum(values, axis=(-2, -1)), temperature)
