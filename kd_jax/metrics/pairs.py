"""The form of every metric: a sum and a count, divided once, at the end."""

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
  sum_, count = np.asarray(sum_, np.float64), np.asarray(count, np.float64)
  if sum_.ndim > count.ndim:
    sum_ = np.abs(sum_).sum(axis=-1)
  return sum_ / np.maximum(count, 1.0)
