"""Trees of arrays as flat dictionaries by path, and digests of them."""

import concurrent.futures
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from kd_jax._files import digest_json
from kd_jax.types import PyTree

FlatState = dict[str, np.ndarray]


class CheckpointError(ValueError):
  """A checkpoint is absent, broken, or not what the run expects."""


def flatten(tree: PyTree) -> FlatState:
  """A tree of arrays as NumPy arrays by dotted path; empty branches vanish.

  Raises:
    CheckpointError: two arrays whose paths are the same with dots.

  >>> sorted(flatten({"a": {"b": np.zeros(2)}, "c": (np.ones(1),)}))
  ['a.b', 'c.0']
  """
  paths: dict[str, Any] = {}
  found: FlatState = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if name in found:
      one, other = (jax.tree_util.keystr(each) for each in (paths[name], path))
      raise CheckpointError(f"{one} and {other} have one name, {name!r}: rename a module")
    paths[name], found[name] = path, np.asarray(leaf)
  return found


def unflatten(template: PyTree, state: Mapping[str, np.ndarray]) -> PyTree:
  """Puts arrays by path into the form of a template.

  Raises:
    CheckpointError: listing every path that is missing, left over, or of another shape or dtype.
  """
  expected = flatten(template)
  problems = [f"{name} is missing" for name in expected if name not in state]
  problems += [f"{name} is left over" for name in state if name not in expected]
  for name, array in expected.items():
    found = state.get(name)
    if found is not None and (found.shape, found.dtype) != (array.shape, array.dtype):
      problems.append(
        f"{name} is {found.dtype}{list(found.shape)}, expected {array.dtype}{list(array.shape)}"
      )
  if problems:
    shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" * (len(problems) > 5))
    raise CheckpointError(f"the checkpoint does not fit this model: {shown}")
  return jax.tree.unflatten(jax.tree.structure(template), [state[name] for name in expected])


ArrayRecord = list[Any]
"""Of an array: [dtype, shape, SHA-256 of its bytes]."""


def record_arrays(arrays: Iterable[np.ndarray]) -> list[ArrayRecord]:
  """The records of arrays; large ones are hashed on several threads."""

  def record(array: np.ndarray) -> ArrayRecord:
    data = np.ascontiguousarray(array)
    sha = hashlib.sha256(data.reshape(-1).view(np.uint8).data if data.size else b"")
    return [array.dtype.name, list(array.shape), sha.hexdigest()]

  arrays = list(arrays)
  if sum(array.nbytes for array in arrays) < 1 << 22:
    return [record(array) for array in arrays]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    return list(pool.map(record, arrays))


def digest_arrays(state: Mapping[str, np.ndarray]) -> str:
  """SHA-256 over names, dtypes, shapes and bytes of arrays, whatever their order."""
  return digest_json(dict(zip(state, record_arrays(state.values()), strict=True)))
