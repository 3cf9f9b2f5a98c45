"""The Kullback-Leibler divergence of the categorical distributions that structures are made of."""

import jax.numpy as jnp

from kd_jax.types import Array


def categorical_kl(log_p: Array, log_q: Array, axis: int = -1) -> Array:
  """KL(p || q) = sum [p (log p - log q) - p + q] over an axis, from finite log-probabilities.

  The two terms more add up to 0 and make every summand non-negative: the plain sum cancels where p and q are
  close, and rounding turns it negative.
  """
  difference = log_p - log_q
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  near = jnp.abs(difference) < 1
  small = jnp.where(near, difference, 0.0)
  summands = jnp.where(near, p * (small + jnp.expm1(-small)), p * difference - p + q)
  return jnp.sum(summands, axis=axis)
