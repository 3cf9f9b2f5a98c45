"""Finished functions as files that other programs run: StableHLO and ONNX.

What is exported maps named arrays to named arrays, with its weights inside:

    function({"images": [batch, H, W, D]}) -> {"logits": [batch, C]}
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
from jax import export as jax_export
from jax.interpreters import partial_eval

from kd_jax._extras import extra
from kd_jax.types import Array

Named = Mapping[str, Any]
"""Arrays by name."""
Function = Callable[[Named], Named]

PLATFORMS = ("cpu", "cuda", "tpu")


class Input(NamedTuple):
  """One array that an exported function reads.

  Attributes:
    shape: a number for each fixed dimension, a name for each that is free: equal names are equal sizes.
    dtype: NumPy's name of the type.
  """

  shape: tuple[int | str, ...]
  dtype: str


def abstract(
  inputs: Mapping[str, Input], constraints: Sequence[str] = ()
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes to trace with, in which free dimensions are symbols of one scope.

  Args:
    inputs: by name.
    constraints: on the free dimensions, such as "length <= 512".

  >>> str(abstract({"images": Input(("batch", 8, 8, 1), "uint8")})["images"].shape)
  '(batch, 8, 8, 1)'
  """
  names = sorted({d for given in inputs.values() for d in given.shape if isinstance(d, str)})
  symbols = jax_export.symbolic_shape(",".join(names), constraints=constraints) if names else ()
  sizes: dict[int | str, Any] = dict(zip(names, symbols, strict=True))
  return {
    name: jax.ShapeDtypeStruct(tuple(sizes.get(d, d) for d in given.shape), np.dtype(given.dtype))
    for name, given in inputs.items()
  }


def to_stablehlo(
  function: Function,
  inputs: Mapping[str, Input],
  constraints: Sequence[str] = (),
  *,
  platforms: Sequence[str] = PLATFORMS,
) -> bytes:
  """Serialises a function as StableHLO, as `jax.export` does; `from_stablehlo` runs it.

  Args:
    function: named arrays to named arrays.
    inputs: what it reads.
    constraints: see `abstract`.
    platforms: on which the result runs.

  Returns:
    The bytes of a file.

  Raises:
    ModuleNotFoundError: flatbuffers, which JAX writes such files with, is not installed.
  """
  exported = jax_export.export(jax.jit(dict_function(function)), platforms=tuple(platforms))
  with extra("studies"):
    return bytes(exported(abstract(inputs, constraints)).serialize())


def from_stablehlo(data: bytes) -> Function:
  """Reads back what `to_stablehlo` wrote.

  >>> data = to_stablehlo(lambda x: {"y": 2 * x["x"]}, {"x": Input(("batch",), "float32")})
  >>> from_stablehlo(data)({"x": np.ones(3, np.float32)})["y"].tolist()
  [2.0, 2.0, 2.0]
  """
  return jax_export.deserialize(bytearray(data)).call


def to_onnx(
  function: Function,
  inputs: Mapping[str, Input],
  constraints: Sequence[str] = (),
  *,
  metadata: Mapping[str, str] | None = None,
) -> bytes:
  """Serialises a function as ONNX, by jax2onnx.

  What jax2onnx gives should be compared with the function in onnxruntime: not every program it writes is
  right, and not every one runs.

  Args:
    function: named arrays to named arrays.
    inputs: what it reads.
    constraints: see `abstract`; kept in the file's metadata.
    metadata: text kept in the file by name.

  Returns:
    The bytes of a file.

  Raises:
    ModuleNotFoundError: jax2onnx is not installed.
    ValueError: jax2onnx cannot convert the function.
  """
  with extra("onnx"), _quiet():
    import jax2onnx
  shapes = abstract(inputs, constraints)
  # Traced here, not by jax2onnx: it replaces parts of JAX and Flax while it traces, and some wrongly.
  with mock.patch.object(nn, "max_pool", _max_pool):
    traced, outputs = jax.make_jaxpr(dict_function(function), return_shape=True)(shapes)
  names = sorted(outputs)  # as JAX orders dictionaries
  # What no output reads, such as the keys of random numbers that inference draws none of, has no ONNX.
  jaxpr, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(names), instantiate=True)

  def run(*arrays: Array) -> list[Array]:
    return jax.core.eval_jaxpr(jaxpr, traced.consts, *arrays)

  try:
    with _symbolic_dimensions(), _quiet():
      model = jax2onnx.to_onnx(
        run,
        [shapes[name] for name in sorted(shapes)],
        model_name="kd_jax",
        input_names=sorted(shapes),
        output_names=names,
      )
  # A converter meets the limits of what it knows in every way there is.
  except Exception as error:
    reason = " ".join(str(error).split())[:200]
    raise ValueError(
      f"jax2onnx cannot convert this network with jax {jax.__version__} (it knows those before 0.12): "
      f"{type(error).__name__}: {reason}"
    ) from error
  # onnxruntime takes other sizes, and may answer NaN.
  limits = {"constraints": "; ".join(constraints)} if constraints else {}
  for name, text in (limits | dict(metadata or {})).items():
    model.metadata_props.add(key=name, value=text)
  return model.SerializeToString()


def dict_function(function: Function) -> Function:
  """The function with plain dictionaries, which every version of every format can name."""
  return lambda arrays: dict(function(dict(arrays)))


def _max_pool(
  x: Array,
  window_shape: Sequence[int],
  strides: Sequence[int] | None = None,
  padding: str = "VALID",
) -> Array:
  """Max pooling of [B, ..., D] without overlap, as a maximum over axes.

  jax2onnx writes a MaxPool over all of them, which onnxruntime does not have.
  """
  if tuple(strides or ()) != tuple(window_shape) or padding != "VALID":
    raise ValueError(f"only windows without overlap are exported, got {window_shape} by {strides}")
  for axis, size in enumerate(window_shape, start=1):
    whole = x.shape[axis] // size
    x = jax.lax.slice_in_dim(x, 0, whole * size, axis=axis)
    x = x.reshape(*x.shape[:axis], whole, size, *x.shape[axis + 1 :]).max(axis + 1)
  return x


@contextlib.contextmanager
def _symbolic_dimensions() -> Iterator[None]:
  """Lets onnx-ir take JAX's symbols as dimensions: where jax2onnx hands it some, it asks for their value."""
  from onnx_ir import _core

  known = getattr(_core, "_maybe_convert_to_symbolic_dim", None)
  if known is None:
    yield
    return

  def convert(size):
    return _core.SymbolicDim(str(size)) if jax_export.is_symbolic_dim(size) else known(size)

  with mock.patch.object(_core, "_maybe_convert_to_symbolic_dim", convert):
    yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without warnings of types that a converter leaves open, and of plugins for libraries that are absent."""
  loggers = [logging.getLogger(name) for name in ("onnx_ir", "jax2onnx")]
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.CRITICAL)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)
