"""Functions that jax compiles, kept, so that whoever needs the same program traces and compiles it once.

Jax keeps a program with the function that it was traced from: made anew for each phase and each group of
seeds, an equal function is traced and compiled again. Here functions are found again by what they depend on.

The last `MOST` are kept, the one that was used longest ago goes first: a study has a program for each phase of
each method and a few for evaluation. A kept function must hold no arrays; what it costs is its compiled code.
"""

import collections
import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

MOST = 32
_kept: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
T = TypeVar("T")


def kept(key: Hashable, make: Callable[[], T]) -> T:
  """What was made for an equal key before, or what `make` makes now.

  Args:
    key: everything that the result depends on, but for the arrays that it is called with. If it cannot be
      hashed, nothing is kept.
    make: called without arguments.
  """
  try:
    found = key in _kept
  except TypeError:
    return make()
  value = _kept[key] if found else make()
  _kept[key] = value
  _kept.move_to_end(key)
  while len(_kept) > MOST:
    _kept.popitem(last=False)
  return value


def forget() -> None:
  """Drops everything that is kept."""
  _kept.clear()


def key_of(function: Callable) -> Hashable:
  """A key for a function: partials of the same function with equal arguments have equal keys."""
  if not isinstance(function, functools.partial):
    return function
  options = sorted((name, type(value), value) for name, value in function.keywords.items())
  return (key_of(function.func), function.args, tuple(options))
