"""The one place where per-example values become a mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from kd_jax._checks import broadcast_leading, broadcast_mask
from kd_jax.types import Array, ArrayLike


def masked_sum_and_count(
  values: ArrayLike, mask: ArrayLike | None = None, *, weights: ArrayLike | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Computes the (weighted) sum over unmasked values, and how many there are, or the sum of their weights.

  Add the pairs of several batches or devices, then divide: that is exact for uneven batches.

  Args:
    values: [...] per-example values; masked ones may be anything, NaN too.
    mask: of values' shape or of its leading axes, zeros and ones.
    weights: of values' shape or of its leading axes, at least 0; None: all are 1.

  Returns:
    (sum, count), float32 scalars.

  Raises:
    ValueError: for a mask or weights that are not of values' leading shape, or (unless traced) for a mask with
      other values than 0 and 1, or weights that are negative or not finite.
  """
  values = jnp.asarray(values, jnp.float32)
  if mask is None and weights is None:
    return jnp.sum(values), jnp.asarray(values.size, jnp.float32)
  counted = broadcast_mask(True if mask is None else mask, values.shape)
  if weights is None:
    return jnp.sum(jnp.where(counted, values, 0.0)), jnp.sum(counted, dtype=jnp.float32)
  shares = jnp.where(counted, _checked_weights(weights, values.shape), 0.0)
  # A weight of 0 counts for nothing too, whatever the value.
  return jnp.sum(jnp.where(shares > 0, shares * values, 0.0)), jnp.sum(shares)


def _checked_weights(weights: ArrayLike, shape: tuple[int, ...]) -> Array:
  if not isinstance(weights, jax.core.Tracer):
    given = np.asarray(weights, np.float64)
    if not (np.isfinite(given) & (given >= 0)).all():
      raise ValueError("weights must be finite and at least 0")
  return broadcast_leading("weights", jnp.asarray(weights, jnp.float32), shape)


def masked_mean(
  values: ArrayLike,
  mask: ArrayLike | None = None,
  *,
  weights: ArrayLike | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  r"""Computes the (weighted) mean over unmasked values; 0 if nothing is left.

  .. math:: \sum_i m_i w_i v_i \, / \, \sum_i m_i w_i

  Args:
    values: [...] per-example values.
    mask: of values' shape or of its leading axes, zeros and ones.
    weights: of values' shape or of its leading axes, at least 0, such as class weights at the labels; None: all
      are 1.
    axis_name: a mapped axis; sums and counts are added over it before dividing.

  Returns:
    float32 scalar.

  Raises:
    ValueError: as `masked_sum_and_count`.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> float(kd_jax.masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1, 1, 0])))
    2.0
    >>> values, weights = jnp.array([1.0, 5.0]), jnp.array([3.0, 1.0])
    >>> float(kd_jax.masked_mean(values, weights=weights))  # (3 + 5) / 4
    2.0
  """
  total, count = masked_sum_and_count(values, mask, weights=weights)
  if axis_name is not None:
    total, count = jax.lax.psum((total, count), axis_name)
  if weights is None:
    return total / jnp.maximum(count, 1.0)
  return total / jnp.where(count > 0, count, 1.0)
