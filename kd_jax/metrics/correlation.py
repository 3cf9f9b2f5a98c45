"""Coefficients of correlation over a whole data set, in float64 NumPy.

They are no sums over examples, so they need all predictions at once, on the host. Each is 0 where
predictions or labels are constant; scipy gives NaN there.
"""

import numpy as np

from kd_jax.types import ArrayLike


def _numbers(predictions: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  predictions, labels = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
  if predictions.ndim != 1 or predictions.shape != labels.shape or not predictions.size:
    raise ValueError(
      f"predictions {predictions.shape} and labels {labels.shape} must be [N] of at least one example"
    )
  for name, values in (("predictions", predictions), ("labels", labels)):
    if not np.isfinite(values).all():
      raise ValueError(
        f"{name} must be finite, {np.sum(~np.isfinite(values))} of {values.size} are not"
      )
  return predictions, labels


def pearson(predictions: ArrayLike, labels: ArrayLike) -> float:
  """Pearson's coefficient: how close the points come to a rising line; 0 for constant values.

  Args:
    predictions: [N] numbers.
    labels: [N] numbers.

  Returns:
    From -1 to 1.

  Raises:
    ValueError: for shapes that differ, no examples, or values that are not finite.

  >>> round(pearson([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]), 4), pearson([1.0, 1.0], [1.0, 2.0])
  (1.0, 0.0)
  """
  first, second = _numbers(predictions, labels)
  # Asked first: what the mean's rounding leaves of constant values would correlate with something.
  if np.ptp(first) == 0 or np.ptp(second) == 0:
    return 0.0
  first, second = first - first.mean(), second - second.mean()
  first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
  return float(np.clip(first @ second, -1.0, 1.0))


def _ranks(values: np.ndarray) -> np.ndarray:
  """Ranks from 1; equal values share the mean of theirs."""
  _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
  return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(predictions: ArrayLike, labels: ArrayLike) -> float:
  """Spearman's coefficient: Pearson's of the ranks, where equal values share their mean rank.

  Args, Returns, Raises: as `pearson`.

  >>> round(spearman([1.0, 2.0, 30.0], [0.1, 0.2, 0.3]), 4)
  1.0
  """
  first, second = _numbers(predictions, labels)
  return pearson(_ranks(first), _ranks(second))
