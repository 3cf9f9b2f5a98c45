"""The form of every metric: a sum and a count, divided once, at the end."""

import functools
from collections.abc import Sequence

import numpy as np

from kd_jax.types import Array, ArrayLike

Pair = tuple[Array, Array]


def compute(sum_: ArrayLike, count: ArrayLike) -> np.ndarray:
  """The value of a metric from its accumulated pair.

  A sum with an axis more than the count has one of bins: their absolute values are added (ECE).

  Args:
    sum_: [...] or [..., bins].
    count: [...].

  Returns:
    [...] float64.
  """
  total, number = np.asarray(sum_, np.float64), np.asarray(count, np.float64)
  if total.ndim > number.ndim:
    total = np.abs(total).sum(axis=-1)
  return total / np.maximum(number, 1.0)


def totals(parts: Sequence[dict[str, Pair]]) -> dict[str, np.ndarray]:
  """The metrics of a whole, from the pairs of its steps: added in float64 and divided once.

  Args:
    parts: {name: (sum [steps, ...], count [steps, ...])} of each part of the data.

  Returns:
    {name: [...] float64}.
  """

  def total(name: str, place: int) -> np.ndarray:
    sums = [np.asarray(part[name][place], np.float64).sum(axis=0) for part in parts]
    return functools.reduce(np.add, sums)

  return {name: compute(total(name, 0), total(name, 1)) for name in parts[0]}
