"""Safetensors files: opened with a plain word where they are none; parameters to and fro by path."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

FLOATS = ("F32", "F16", "BF16")
"""Names of the types that float32 holds without loss."""


def open_safetensors(path: str | os.PathLike) -> safe_open:
  """Opens a safetensors file; nothing is ever unpickled.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a whole safetensors file.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"there is no weights file {path}")
  try:
    return safe_open(path, framework="numpy")
  except (SafetensorError, OSError) as error:
    reason = " ".join(str(error).split())
    raise ValueError(f"{path} is not a whole safetensors file ({reason}): copy it again") from (
      error
    )


def write_safetensors(
  path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
  """Writes a file that appears whole or not at all."""
  path = Path(path)
  partial = path.with_name(path.name + ".partial")
  save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, partial, metadata)
  os.replace(partial, path)


def flatten(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple, Any]]:
  """The leaves of a nest of mappings, each with its path.

  >>> dict(flatten({"a": {"b": 1}, "c": 2}))
  {('a', 'b'): 1, ('c',): 2}
  """
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from flatten(value, (*path, key))
    else:
      yield (*path, key), value


def nest(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
  """The inverse of `flatten`.

  >>> nest({("a", "b"): 1, ("c",): 2})
  {'a': {'b': 1}, 'c': 2}
  """
  tree: dict[str, Any] = {}
  for (*parents, leaf), value in leaves.items():
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return tree


def save_params(path: str | os.PathLike, params: Mapping[str, Any]) -> None:
  """Writes the parameters of any network, named by their paths: "encoder/layer1/query/kernel".

  Args:
    path: the file to write; an old one is replaced.
    params: a nest of mappings with arrays at its leaves, not replicated over devices.

  Raises:
    ValueError: no parameters, a "/" in a name, or values that are not finite.
  """
  tensors = {}
  for keys, value in flatten(params):
    name, tensor = "/".join(keys), np.asarray(value)
    if name.count("/") != len(keys) - 1:
      raise ValueError(f"the name {name!r} holds a '/' of its own: rename the module")
    if not np.isfinite(tensor.astype(np.float32)).all():
      raise ValueError(f"parameter {name} is not finite: save an earlier step")
    tensors[name] = tensor
  if not tensors:
    raise ValueError("there are no parameters to save, got an empty tree")
  write_safetensors(path, tensors, {"format": "pt"})


def load_params(path: str | os.PathLike) -> dict[str, Any]:
  """Reads what `save_params` wrote, bit for bit, as a nest of dictionaries of NumPy arrays.

  Whether names and shapes are those of a network is for `kd_jax.models.merge` to check.

  Args:
    path: the file.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a whole safetensors file.
  """
  with open_safetensors(path) as file:
    return nest({tuple(name.split("/")): file.get_tensor(name) for name in sorted(file.keys())})
