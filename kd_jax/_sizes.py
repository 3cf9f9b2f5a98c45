"""Checks of numbers that people type: sizes, rates and seeds."""

import math
import operator
from collections.abc import Sequence
from typing import Any

_SEEDS = 2**32


def is_whole(value: Any, least: float = 1) -> bool:
  """Whether a value is a whole number of at least `least`: NumPy's too, but no truth value.

  >>> is_whole(3), is_whole(0), is_whole(2.5), is_whole(True), is_whole(float("nan"))
  (True, False, False, False, False)
  """
  if isinstance(value, bool):
    return False
  try:
    return operator.index(value) >= least
  except TypeError:
    return False


def check_whole(name: str, value: Any, least: int = 1) -> None:
  """Refuses what is not a whole number of at least `least`.

  >>> check_whole("batch_size", 0)
  Traceback (most recent call last):
  ...
  ValueError: `batch_size` must be a whole number of at least 1, got 0
  """
  if not is_whole(value, least):
    raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}")


def is_finite(value: Any, least: float = 0.0) -> bool:
  """Whether a value is a finite number of at least `least`."""
  return isinstance(value, int | float) and math.isfinite(value) and value >= least


def checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
  """Seeds as a tuple of Python's numbers.

  Raises:
    ValueError: none, one that occurs twice, or one outside [0, 2**32).

  >>> checked_seeds([1, 1])
  Traceback (most recent call last):
  ...
  ValueError: `seeds` must be different: seed 1 occurs twice, and would count as two
  """
  found = tuple(seeds)
  if not found:
    raise ValueError("`seeds` must be at least one number, got none")
  for seed in found:
    if not is_whole(seed, 0) or operator.index(seed) >= _SEEDS:
      raise ValueError(f"`seeds` must be whole numbers from 0 to 2**32 - 1, got {seed!r}")
  whole = tuple(operator.index(seed) for seed in found)
  for seed in whole:
    if whole.count(seed) > 1:
      raise ValueError(
        f"`seeds` must be different: seed {seed} occurs twice, and would count as two"
      )
  return whole
