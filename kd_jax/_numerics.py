"""Numerics that losses and structures share."""

import math

import jax
import jax.numpy as jnp

from kd_jax._checks import temper
from kd_jax.types import NEG_INF, Array, ArrayLike


def merged(array: Array, keep: int) -> Array:
  """Makes one axis of all but the first `keep`; unlike `reshape(..., -1)`, of arrays without entries too."""
  keep %= array.ndim
  return array.reshape(*array.shape[:keep], math.prod(array.shape[keep:]))


def kl_from_log_probs(log_p: Array, log_q: Array, axis: int = -1) -> Array:
  """KL(p || q) = sum_c [p_c (log p_c - log q_c) - p_c + q_c] over an axis.

  The two terms more add up to 0 over the classes and make every summand non-negative. The plain sum
  cancels: near convergence its float32 error, magnified by T², exceeds the divergence and turns it negative.
  """
  probable = log_p > -jnp.inf
  difference = jnp.where(probable, log_p, 0.0) - jnp.where(probable, log_q, 0.0)
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  near = probable & (jnp.abs(difference) < 1)
  small = jnp.where(near, difference, 0.0)
  possible = probable & (p > 0)  # 0 · inf = 0, also where p underflows
  far = jnp.where(possible, p * jnp.where(possible, difference, 0.0), 0.0) - p + q
  return jnp.sum(jnp.where(near, p * (small + jnp.expm1(-small)), far), axis=axis)


def safe_log(probabilities: Array) -> Array:
  """log p, NEG_INF at 0; the gradient there is 0."""
  possible = probabilities > 0
  return jnp.where(possible, jnp.log(jnp.where(possible, probabilities, 1.0)), NEG_INF)


def times_squared_temperature(divergence: Array, temperature: ArrayLike) -> Array:
  """T² times a divergence at temperature T: keeps the gradient's size as T grows (Hinton 2015)."""
  return jnp.asarray(temperature, jnp.float32) ** 2 * divergence


def log_probs(logits: Array, temperature: ArrayLike) -> Array:
  """log softmax(z / T) over classes."""
  return jax.nn.log_softmax(temper(logits, temperature), axis=-1)
