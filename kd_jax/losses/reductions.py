"""The one place where per-example values become a mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from kd_jax._checks import broadcast_mask
from kd_jax.types import Array, ArrayLike


def masked_sum_and_count(
  values: ArrayLike, mask: ArrayLike | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Sum over unmasked values, and how many there are.

  Add the pairs of several batches or devices, then divide: that is exact for uneven batches.

  Args:
    values: [...] per-example values; masked ones may be anything, NaN too.
    mask: of values' shape or of its leading axes; nonzero counts.

  Returns:
    (sum, count), float32 scalars.

  Raises:
    ValueError: for a mask that is not of values' leading shape.
  """
  values = jnp.asarray(values, jnp.float32)
  if mask is None:
    return jnp.sum(values), jnp.asarray(values.size, jnp.float32)
  mask = broadcast_mask(mask, values.shape)
  return jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask, dtype=jnp.float32)


def masked_mean(
  values: ArrayLike, mask: ArrayLike | None = None, *, axis_name: str | None = None
) -> Float[Array, ""]:
  r"""Mean over unmasked values; 0 where nothing is left.

  .. math:: \sum_i m_i v_i / \max(1, \sum_i m_i)

  Args:
    values: [...] per-example values.
    mask: of values' shape or of its leading axes; nonzero counts.
    axis_name: a mapped axis; sums and counts are added over it before dividing.

  Returns:
    float32 scalar.

  Raises:
    ValueError: for a mask that is not of values' leading shape.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> float(kd_jax.masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1, 1, 0])))
    2.0
  """
  total, count = masked_sum_and_count(values, mask)
  if axis_name is not None:
    total, count = jax.lax.psum((total, count), axis_name)
  return total / jnp.maximum(count, 1.0)
