"""Positive numbers of any size as mantissa · e^exponent, the exponent a whole number.

Log space keeps the digits of large logs, not those of the numbers: beside scores of 1e4 float32 holds a
probability to 1e-3. Here both stay: sums and products are taken of mantissas near 1, and whole exponents
add up without rounding. Gradients flow through mantissas.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd_jax.types import NEG_INF, Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scaled:
  """mantissa · e^exponent, of arrays of one shape.

  Attributes:
    mantissa: positive float32, near 1.
    exponent: float32 whole numbers; NEG_INF for what is excluded.
  """

  mantissa: Array
  exponent: Array

  def __mul__(self, other: "Scaled") -> "Scaled":
    return Scaled(self.mantissa * other.mantissa, self.exponent + other.exponent)

  def __truediv__(self, other: "Scaled") -> "Scaled":
    return Scaled(self.mantissa / other.mantissa, self.exponent - other.exponent)

  def __add__(self, other: "Scaled") -> "Scaled":
    largest = jnp.maximum(self.exponent, other.exponent)
    mine, its = (x.mantissa * jnp.exp(x.exponent - largest) for x in (self, other))
    return _normal(mine + its, largest)

  def map(self, function: Callable[[Array], Array]) -> "Scaled":
    """The same rearrangement of mantissas and exponents."""
    return Scaled(function(self.mantissa), function(self.exponent))

  def where(self, condition: Array, other: "Scaled") -> "Scaled":
    """These numbers where a condition holds, elsewhere those of another."""
    return Scaled(
      jnp.where(condition, self.mantissa, other.mantissa),
      jnp.where(condition, self.exponent, other.exponent),
    )

  def sum(self, axis: int, keepdims: bool = False) -> "Scaled":
    """The sum over an axis."""
    largest = jnp.max(self.exponent, axis=axis, keepdims=True)
    total = jnp.sum(self.mantissa * jnp.exp(self.exponent - largest), axis=axis, keepdims=keepdims)
    return _normal(total, largest if keepdims else jnp.squeeze(largest, axis))

  def product(self) -> "Scaled":
    """The product of all."""
    return _normal_log(jnp.sum(jnp.log(self.mantissa)), jnp.sum(self.exponent))

  def parts(self) -> tuple[Array, Array]:
    """The mantissa and the exponent."""
    return self.mantissa, self.exponent


def excluded(shape: tuple[int, ...] = ()) -> Scaled:
  """Numbers that vanish beside all others."""
  return Scaled(jnp.ones(shape, jnp.float32), jnp.full(shape, NEG_INF, jnp.float32))


def from_log(logs: Array) -> Scaled:
  """exp(logs); nothing is rounded off, since a float less the nearest whole number is exact."""
  return _normal_log(logs, jnp.zeros_like(logs))


def _normal_log(logs: Array, exponent: Array) -> Scaled:
  whole = jax.lax.stop_gradient(jnp.round(logs))
  return Scaled(jnp.exp(logs - whole), exponent + whole)


def _normal(mantissa: Array, exponent: Array) -> Scaled:
  whole = jax.lax.stop_gradient(jnp.round(jnp.log(mantissa)))
  return Scaled(mantissa * jnp.exp(-whole), exponent + whole)
