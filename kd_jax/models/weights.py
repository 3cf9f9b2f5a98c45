"""Weights of CIFAR ResNets from and to PyTorch, as safetensors; nothing is ever unpickled.

PyTorch names and shapes, for block k of stage s (n blocks in each of 3 stages):

    conv1.weight, bn1.*                       [16, 3, 3, 3], [16]
    layer{s}.{k}.conv{1,2}.weight, .bn{1,2}.* OIHW kernels, [O]
    linear.weight, linear.bias                [C, 64], [C]

where bn.* is weight, bias, running_mean, running_var; num_batches_tracked is ignored.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from kd_jax.models.resnet import blocks_per_stage
from kd_jax.models.safetensors_files import open_safetensors

_PICKLE_SUFFIXES = {".pt", ".pth", ".pkl", ".pickle", ".th", ".ckpt", ".bin"}
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch.save: a zip archive, in old files a bare pickle
_DTYPES = ("F32", "F16", "BF16")  # those that float32 holds without loss
_HELD = re.compile(r"layer([123])\.(\d+)\.")


class _Entry(NamedTuple):
  """One tensor: its place in the Linen variables, PyTorch shape and the axes that turn it."""

  path: tuple[str, ...]
  shape: tuple[int, ...]
  to_linen: tuple[int, ...] | None = None


def _entries(depth: int, num_classes: int, width: int = 16) -> dict[str, _Entry]:
  """All tensors of a network by PyTorch name."""
  entries = {}

  def convolution(inputs: int, outputs: int, name: str, *path: str) -> None:
    shape = (outputs, inputs, 3, 3)
    entries[f"{name}.weight"] = _Entry(("params", *path, "kernel"), shape, (2, 3, 1, 0))

  def normalisation(size: int, name: str, *path: str) -> None:
    for torch_leaf, collection, leaf in (
      ("weight", "params", "scale"),
      ("bias", "params", "bias"),
      ("running_mean", "batch_stats", "mean"),
      ("running_var", "batch_stats", "var"),
    ):
      entries[f"{name}.{torch_leaf}"] = _Entry((collection, *path, leaf), (size,))

  convolution(3, width, "conv1", "conv1")
  normalisation(width, "bn1", "bn1")
  inputs = width
  for stage in (1, 2, 3):
    outputs = width * 2 ** (stage - 1)
    for block in range(blocks_per_stage(depth)):
      for half in (1, 2):
        name, path = f"layer{stage}.{block}", f"layer{stage}_{block}"
        convolution(inputs, outputs, f"{name}.conv{half}", path, f"conv{half}")
        normalisation(outputs, f"{name}.bn{half}", path, f"bn{half}")
        inputs = outputs
  entries["linear.weight"] = _Entry(("params", "linear", "kernel"), (num_classes, inputs), (1, 0))
  entries["linear.bias"] = _Entry(("params", "linear", "bias"), (num_classes,))
  return entries


def _open(path: Path) -> safe_open:
  """Opens a safetensors file, or says in one line why it is not one."""
  if path.is_file():
    with path.open("rb") as file:
      start = file.read(4)
    if path.suffix.lower() in _PICKLE_SUFFIXES or start.startswith(_PICKLE_STARTS):
      raise ValueError(
        f"{path} is a pickle-based file, and nothing is unpickled here, since a pickle can run"
        " any program: convert it where you trust it, with safetensors.torch.save_file("
        'state_dict, "weights.safetensors")'
      )
  return open_safetensors(path)


def _names(file: safe_open) -> dict[str, str]:
  """PyTorch name -> name in the file, without the prefix that DataParallel puts before all."""
  names = sorted(file.keys())
  prefix = "module." if names and all(name.startswith("module.") for name in names) else ""
  return {
    name.removeprefix(prefix): name for name in names if not name.endswith(".num_batches_tracked")
  }


def _depth_of(names: Iterable[str], path: Path) -> int:
  """Depth from the number of blocks in the fullest stage, so that gaps show as missing."""
  blocks: dict[str, set[str]] = {stage: set() for stage in "123"}
  for match in filter(None, map(_HELD.match, names)):
    blocks[match[1]].add(match[2])
  if not any(blocks.values()):
    raise ValueError(
      f"{path} holds no tensor named layer1.0.*, layer2.0.* or layer3.0.*:"
      " it is not a CIFAR ResNet with PyTorch names"
    )
  return 6 * max(map(len, blocks.values())) + 2


def torch_cifar_resnet_depth(path: str | os.PathLike) -> int:
  """The depth 6n + 2 of a CIFAR ResNet in a safetensors file, from the names of its tensors.

  Args:
    path: the file.

  Returns:
    The depth. Whether all tensors of that depth are there is for the loader to check.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a safetensors file, or no CIFAR ResNet in it.
  """
  path = Path(path)
  with _open(path) as file:
    return _depth_of(_names(file), path)


def _value_faults(name: str, tensor: np.ndarray) -> Iterator[str]:
  if not np.isfinite(tensor).all():
    yield f"not finite: {name} ({int((~np.isfinite(tensor)).sum())} of {tensor.size} values)"
  elif name.endswith(".running_var") and (tensor < 0).any():
    yield f"negative variance: {name}"


def _refuse(faults: list[str], what: str) -> None:
  if faults:
    raise ValueError(f"{what} has {len(faults)} faults: " + "; ".join(faults))


def load_torch_cifar_resnet(
  path: str | os.PathLike, depth: int | None, num_classes: int
) -> dict[str, Any]:
  """Reads a PyTorch CIFAR ResNet (option A, width 16) as variables of `CifarResNet`.

  Args:
    path: a safetensors file with PyTorch names, with or without a "module." prefix.
    depth: 6n + 2, or None to take it from the file.
    num_classes: C.

  Returns:
    {"params": ..., "batch_stats": ...} of float32 NumPy arrays, kernels HWIO.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a safetensors file (a pickle is never opened), another depth, or any tensor
      missing, extra, of another shape or dtype, or not finite: all are named together.
  """
  path = Path(path)
  with _open(path) as file:
    names = _names(file)
    held = _depth_of(names, path)
    if depth is not None and depth != held:
      blocks_per_stage(depth)
      raise ValueError(
        f"{path} holds a ResNet-{held} but depth={depth} was asked for:"
        f" set depth={held}, or name another file"
      )
    entries = _entries(held, num_classes)
    faults = [f"missing: {name}" for name in entries if name not in names]
    faults += [f"extra: {name}" for name in names if name not in entries]
    variables: dict[str, Any] = {}
    for name in (name for name in entries if name in names):
      entry, header = entries[name], file.get_slice(names[name])
      shape, dtype = tuple(header.get_shape()), header.get_dtype()
      if shape != entry.shape:
        faults.append(f"shape {list(shape)}, not {list(entry.shape)}: {name}")
      elif dtype not in _DTYPES:
        faults.append(f"dtype {dtype}, not one of {', '.join(_DTYPES)}: {name}")
      else:
        tensor = np.asarray(file.get_tensor(names[name])).astype(np.float32)
        faults += _value_faults(name, tensor)
        if entry.to_linen:
          tensor = np.ascontiguousarray(tensor.transpose(entry.to_linen))
        *parents, leaf = entry.path
        node = variables
        for parent in parents:
          node = node.setdefault(parent, {})
        node[leaf] = tensor
  _refuse(faults, f"{path}, read as a ResNet-{held} of {num_classes} classes,")
  return variables


def _flatten(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple, Any]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flatten(value, (*path, key))
    else:
      yield (*path, key), value


def save_torch_cifar_resnet(variables: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Writes variables of a `CifarResNet` (width 16) as safetensors with PyTorch names.

  Loading the file again gives the same bits. The file appears whole or not at all.

  Args:
    variables: {"params": ..., "batch_stats": ...}, not replicated over devices.
    path: the file to write; an old one is replaced.

  Raises:
    ValueError: variables that are not those of such a network, or not finite.
  """
  path = Path(path)
  leaves = {key: np.asarray(value) for key, value in _flatten(variables)}
  stages = (key[1].replace("_", ".", 1) + "." for key in leaves if len(key) > 2)
  bias = leaves.get(("params", "linear", "bias"), np.zeros(0))
  entries = _entries(_depth_of(stages, path), num_classes=bias.shape[-1])
  places = {entry.path for entry in entries.values()}
  faults = [f"extra: {'/'.join(key)}" for key in leaves if key not in places]
  tensors = {}
  for name, entry in entries.items():
    if entry.path not in leaves:
      faults.append(f"missing: {'/'.join(entry.path)}")
      continue
    tensor = leaves[entry.path]
    if entry.to_linen and tensor.ndim == len(entry.shape):
      tensor = tensor.transpose(np.argsort(entry.to_linen))
    if tensor.shape != entry.shape or tensor.dtype != np.float32:
      faults.append(f"{tensor.dtype}{list(tensor.shape)}, not float32{list(entry.shape)}: {name}")
      continue
    faults += _value_faults(name, tensor)
    tensors[name] = np.ascontiguousarray(tensor)
  _refuse(faults, "the network to save as a PyTorch CIFAR ResNet")
  partial = path.with_name(path.name + ".partial")
  save_file(tensors, partial, metadata={"shortcut": "option A"})
  os.replace(partial, path)
