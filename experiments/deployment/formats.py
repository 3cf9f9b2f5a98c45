"""One function for each format of export: (path, interface, network, metadata) -> the path written."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from kd_jax import export
from kd_jax._extras import extra
from kd_jax.checkpoints import flatten
from kd_jax.data.tokenization import Tokenizer
from kd_jax.models import hf_weights, weights
from kd_jax.models.hf_config import read_config
from kd_jax.models.spec import ModelSpec
from kd_jax.models.text_spec import TEXT_FAMILIES, TextSpec
from kd_jax.types import PyTree

from ..domains.text_sources import weights_folder
from .interfaces import Interface

TOLERANCE = 1e-4


class Finished(NamedTuple):
  """A network as its checkpoint has it.

  Attributes:
    name: of files made from it.
    folder: of the run.
    variables: of one network, without what only training reads.
    meta: the JSON of the checkpoint.
    digest: of the checkpoint.
    source: the data of its study.
  """

  name: str
  folder: Path
  variables: PyTree
  meta: dict[str, Any]
  digest: str
  source: dict[str, Any]


def compare(face: Interface, expected: export.Function, given: export.Function) -> float:
  """The largest difference between two programs, on random inputs of two sizes, beside 1 + |expected|.

  Raises:
    ValueError: they differ by more than 1e-4, or one cannot be run.
  """
  worst, expected = 0.0, jax.jit(expected)
  for batch, length in ((2, 7), (3, 5)):
    inputs = face.example(batch, length)
    one, other = expected(inputs), given(inputs)
    for name, value in one.items():
      value, found = np.asarray(value, np.float64), np.asarray(other[name], np.float64)
      if value.shape != found.shape:
        raise ValueError(f"the file gives {name} of shape {found.shape}, the network {value.shape}")
      worst = max(worst, float(np.max(np.abs(value - found) / (1 + np.abs(value)))))
  if not worst <= TOLERANCE:
    raise ValueError(
      f"the file's outputs differ from the network's by {worst:.2g}: none is written"
    )
  return worst


def write_safetensors(path: Path, face: Interface, found: Finished, said: dict[str, str]) -> Path:
  """Weights alone, by the names that programs for such networks know."""
  if isinstance(face.spec, TextSpec) and TEXT_FAMILIES[face.spec.family].attends:
    return _write_hugging_face(
      path.with_name(path.name.removesuffix(".safetensors")), face, found, said
    )
  if isinstance(face.spec, ModelSpec) and face.spec.family == "resnet":
    weights.save_torch_cifar_resnet(found.variables, path)
    return _with_metadata(path, said)
  return _write(path, save(flatten(found.variables), metadata=said))


def _write_hugging_face(path: Path, face: Interface, found: Finished, said) -> Path:
  regression = found.variables["params"]["classifier"]["bias"].shape[-1] == 1
  folder, config = weights_folder(found.source["weights"]), face.model.encoder.config
  # By the tokenizer files of another kind of network programs would choose another tokenizer.
  of_its_kind = folder is not None and read_config(folder).kind == config.kind
  hf_weights.save_bert(
    path,
    found.variables["params"],
    config,
    tokenizer_from=folder if of_its_kind else None,
    labels=None if regression else face.kept.get("class_names") or None,
    regression=regression,
  )
  if not of_its_kind:
    Tokenizer.from_json(face.kept["tokenizer"]).save(path)
  _with_metadata(path / hf_weights.WEIGHTS, said)
  return path


def _with_metadata(path: Path, said: Mapping[str, str]) -> Path:
  with safe_open(path, framework="numpy") as file:
    held = file.metadata() or {}
  return _write(path, save(load_file(path), metadata={**held, **said}))


def write_onnx(path: Path, face: Interface, found: Finished, said: dict[str, str]) -> Path:
  """A program with its weights, which onnxruntime has run."""
  function = face.function(found.variables)
  data = export.to_onnx(function, face.inputs, face.constraints, metadata=said)
  compare(face, function, onnx_function(data))
  return _write(path, data)


def onnx_function(data: bytes) -> export.Function:
  """An ONNX file as a function, run by onnxruntime on the CPU.

  Raises:
    ModuleNotFoundError: onnxruntime is not installed.
    ValueError: onnxruntime refuses the file.
  """
  with extra("onnx"):
    import onnxruntime
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 4
  try:
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
  except Exception as error:
    raise ValueError(f"onnxruntime refuses the file: {error}") from error
  names = [output.name for output in session.get_outputs()]

  def run(arrays: export.Named) -> dict[str, np.ndarray]:
    try:
      return dict(zip(names, session.run(names, dict(arrays)), strict=True))
    except Exception as error:
      raise ValueError(f"onnxruntime cannot run the file: {error}") from error

  return run


def write_stablehlo(path: Path, face: Interface, found: Finished, said: dict[str, str]) -> Path:
  """A program with its weights, for JAX."""
  del said  # the format has no place for it: it stands in the JSON beside
  function = face.function(found.variables)
  data = export.to_stablehlo(function, face.inputs, face.constraints)
  compare(face, function, export.from_stablehlo(data))
  return _write(path, data)


def _write(path: Path, data: bytes) -> Path:
  partial = path.with_name(path.name + ".part")
  partial.write_bytes(data)
  os.replace(partial, path)
  return path


Format = Literal["safetensors", "onnx", "stablehlo"]
WRITERS: dict[Format, Callable[[Path, Interface, Finished, dict[str, str]], Path]] = {
  "safetensors": write_safetensors,
  "onnx": write_onnx,
  "stablehlo": write_stablehlo,
}
