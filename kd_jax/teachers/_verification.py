"""Whether a cache is the teacher's: a sample of its rows, recomputed with the live teacher."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from kd_jax._sizes import check_whole
from kd_jax.structured import layout
from kd_jax.teachers.predicting import Predict
from kd_jax.types import Outputs

_ROUNDING = {"float16": 2.0**-11, "float32": 2.0**-18}
"""What rounding to a cache's dtype leaves of an error, relative to the largest value."""
_PRODUCTS = {"gpu": 2.0**-7, "tpu": 2.0**-4}
"""What a deep network makes of products in the device's default precision: 8 times the step of a number in TF32
(10 bits) or bfloat16 (7 bits). They differ between kinds of device, and between programs of one device."""
_EXACT = ("float32", "highest", "tensorfloat32_x3")


class Verification(NamedTuple):
  """The outcome of `verify`.

  Attributes:
    largest_error: of any recomputed value.
    largest_value: of any recomputed value, for judging the error.
    row, view: where the error is.
    compared: how many rows were recomputed.
    allowed_error: what the cache's dtype, and the precision of matrix products on this device, explain.
  """

  largest_error: float
  largest_value: float
  row: int
  view: int
  compared: int
  allowed_error: float

  @property
  def agrees(self) -> bool:
    """Whether the cache is the teacher's."""
    return self.largest_error <= self.allowed_error


class _Opened(Protocol):
  """An opened cache."""

  @property
  def outputs(self) -> Outputs | layout.Ragged: ...
  @property
  def manifest(self) -> dict[str, Any]: ...


_Compare = Callable[[Any, Any, np.ndarray, int], list["_Difference"]]
"""(kept outputs, live ones, rows, view) -> the largest error of each array."""


def verify(
  cache: _Opened,
  predict: Predict,
  *,
  sample: int = 64,
  batch_size: int = 500,
  seed: int = 0,
) -> Verification:
  """Recomputes a sample of rows under each view with the live teacher and compares.

  Args:
    cache: opened.
    predict: of the live teacher, as `precompute` takes it.
    sample: how many examples.
    batch_size: that of `precompute`: other batches are other programs, whose products round differently.
    seed: which examples.
  """
  check_whole("sample", sample)
  check_whole("batch_size", batch_size)
  spec = cache.manifest["spec"]
  size = min(sample, spec["num_examples"])
  rows = np.random.default_rng(seed).choice(spec["num_examples"], size=size, replace=False)
  compare: _Compare = _compare_arrays if spec.get("structure") is None else _compare_ragged
  found = [
    (view, difference)
    for view in range(spec["views"])
    for difference in compare(cache.outputs, predict(rows, view, batch_size), rows, view)
  ]
  view, worst = max(found, key=lambda item: item[1].error)
  value = max(difference.value for _, difference in found)
  allowed = _relative_tolerance(spec["dtype"]) * value + 1e-4
  return Verification(worst.error, value, worst.row, view, size * spec["views"], allowed)


class _Difference(NamedTuple):
  """The largest error of one array and its row, and the largest of the live values."""

  error: float
  value: float
  row: int


def _compare_arrays(
  kept: Outputs, live: Mapping[str, np.ndarray], rows: np.ndarray, view: int
) -> list[_Difference]:
  fields = kept if kept.top_k is None else kept.top_k

  def of(name: str) -> np.ndarray:
    field, _, layer = name.partition(".")
    array = getattr(fields, field)
    return (array[int(layer)] if layer else array)[rows, view]

  return [_difference(of(name), array, rows) for name, array in live.items()]


def _compare_ragged(
  kept: layout.Ragged, live: layout.Ragged, rows: np.ndarray, view: int
) -> list[_Difference]:
  del view  # sentences have one
  sampled = kept.take(rows)
  # One entry of a ragged field belongs to a sentence.
  own = [
    _difference(sampled.values[name], array, np.repeat(rows, live.sizes(name)))
    for name, array in live.values.items()
  ]
  shared = [
    _difference(kept.shared[name][None], array[None], rows[:1])._replace(value=0.0)
    for name, array in live.shared.items()
  ]
  return own + shared


def _difference(kept: np.ndarray, live: np.ndarray, row_of: np.ndarray) -> _Difference:
  """Compares arrays whose entries belong to the given rows; what is not finite differs infinitely."""
  error = np.abs(live.astype(np.float64) - kept.astype(np.float64))
  error = np.nan_to_num(error.reshape(len(row_of), -1).max(axis=1), nan=np.inf)
  worst = int(error.argmax())
  return _Difference(float(error[worst]), float(np.abs(live).max()), int(row_of[worst]))


def _relative_tolerance(dtype: str) -> float:
  """How far recomputed values may be from a cache's, relative to the largest."""
  config: Any = jax.config  # older versions of jax do not annotate its options
  exact = config.jax_default_matmul_precision in _EXACT
  products = 0.0 if exact else _PRODUCTS.get(jax.default_backend(), 0.0)
  return _ROUNDING[dtype] + products
