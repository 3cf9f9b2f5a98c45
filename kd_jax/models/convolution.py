"""The convolution of the image networks: XLA's own, with another filter gradient on CPUs.

XLA's CPU backend computes a filter gradient as a convolution whose window is the whole image, at a fifth of the
rate of the forward pass, and inside a loop at a hundredth of it. As one matrix product it is two to three times
as fast. Accelerators keep XLA's, for which they have kernels.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from kd_jax.types import Array

Padding = tuple[tuple[int, int], tuple[int, int]]
_NHWC = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
  inputs: Array,
  kernel: Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options: Any,
) -> Array:
  """Convolves images, as `jax.lax.conv_general_dilated`; the `conv_general_dilated` of Linen's `nn.Conv`.

  On CPUs a plain convolution over two axes has the filter gradient of `filter_gradient` and no forward-mode
  derivative. Dilated and grouped ones are left to XLA.

  Args:
    inputs: [B, H, W, D].
    kernel: [h, w, D, E].
    window_strides: of the two axes.
    padding: "SAME", "VALID" or zeros before and after each axis.
    **options: further arguments of `jax.lax.conv_general_dilated`.

  Returns:
    [B, H', W', E] in the type of the inputs.
  """
  if jax.default_backend() != "cpu" or not _is_plain(inputs, kernel, padding, options):
    return lax.conv_general_dilated(inputs, kernel, window_strides, padding, **options)
  strides = tuple(window_strides)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
  pads = tuple(tuple(pair) for pair in padding)
  return _convolve(inputs, kernel, strides, pads, options.get("precision"))


def _is_plain(
  inputs: Array,
  kernel: Array,
  padding: str | Sequence[tuple[int, int]],
  options: dict[str, Any],
) -> bool:
  if inputs.ndim != 4:
    return False
  ones = all(set(options.get(name) or (1,)) == {1} for name in ("lhs_dilation", "rhs_dilation"))
  groups = (options.get("feature_group_count", 1), options.get("batch_group_count", 1))
  given, ours = (
    lax.conv_dimension_numbers(inputs.shape, kernel.shape, numbers)
    for numbers in (options.get("dimension_numbers"), _NHWC)
  )
  # A negative padding crops.
  cropped = not isinstance(padding, str) and min(n for pair in padding for n in pair) < 0
  typed = options.get("preferred_element_type") not in (None, inputs.dtype)
  return given == ours and ones and groups == (1, 1) and not cropped and not typed


def _of_xla(inputs, kernel, strides, padding, precision):
  return lax.conv_general_dilated(
    inputs, kernel, strides, padding, dimension_numbers=_NHWC, precision=precision
  )


_convolve = jax.custom_vjp(_of_xla, nondiff_argnums=(2, 3, 4))


def _forward(inputs, kernel, *static):
  return _of_xla(inputs, kernel, *static), (inputs, kernel)


def _backward(strides, padding, precision, kept, cotangent):
  inputs, kernel = kept
  of_inputs = jax.linear_transpose(
    lambda x: _of_xla(x, kernel, strides, padding, precision), inputs
  )
  of_kernel = filter_gradient(
    inputs, cotangent, kernel.shape[:2], strides, padding, precision=precision
  )
  return *of_inputs(cotangent), of_kernel.astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)


def filter_gradient(
  inputs: Array,
  cotangent: Array,
  window: tuple[int, int],
  strides: tuple[int, int],
  padding: Padding,
  *,
  precision: lax.PrecisionLike = None,
) -> Array:
  r"""The gradient of a convolution's kernel as one matrix product.

  .. math:: dK_{ij} = \sum_{b,r,c} dy_{b,r,c} \otimes x_{b, r s + i - p, c s + j - q}

  The window's offsets stand side by side as columns. Either all of them are shifts of the inputs (h w D columns
  of inputs, E of the cotangent), or at stride 1 the row offsets are shifts of the cotangent (w D and h E
  columns), whichever makes fewer: the product is the same work, and the columns are memory.

  Args:
    inputs: [B, H, W, D].
    cotangent: [B, H', W', E] of the outputs.
    window: (h, w).
    strides: of the rows and columns.
    padding: zeros before and after the rows and the columns.
    precision: of the product.

  Returns:
    [h, w, D, E] float32, summed in float32.
  """
  (h, w), depth, features = window, inputs.shape[-1], cotangent.shape[-1]
  height, (rows, columns) = inputs.shape[1], cotangent.shape[1:3]
  (top, bottom), sides = padding
  split = strides[0] == 1 and w * depth + h * features < h * w * depth + features
  if split:
    padded = jnp.pad(inputs, ((0, 0), (0, 0), sides, (0, 0)))
    windows = [_window(padded, 0, j, height, columns, (1, strides[1])) for j in range(w)]
    # Row r of the inputs meets row r + top - i of the outputs.
    around = ((0, 0, 0), (h - 1 - top, h - 1 - bottom, 0), (0, 0, 0), (0, 0, 0))
    framed = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), around)
    shifts = [framed[:, h - 1 - i : h - 1 - i + height] for i in range(h)]
    cotangent = jnp.concatenate(shifts, axis=3)
  else:
    padded = jnp.pad(inputs, ((0, 0), (top, bottom), sides, (0, 0)))
    windows = [_window(padded, i, j, rows, columns, strides) for i in range(h) for j in range(w)]
  inputs = jnp.concatenate(windows, axis=3)
  # The cotangent first: the other way round Eigen takes twice as long.
  product = lax.dot_general(
    cotangent.reshape(-1, cotangent.shape[3]),
    inputs.reshape(-1, inputs.shape[3]),
    (((0,), (0,)), ((), ())),
    precision=precision,
    preferred_element_type=jnp.float32,
  )
  if split:
    return product.reshape(h, features, w, depth).transpose(0, 2, 3, 1)
  return product.reshape(features, h, w, depth).transpose(1, 2, 3, 0)


def _window(x: Array, i: int, j: int, rows: int, columns: int, strides: tuple[int, int]) -> Array:
  """What one offset of the window reads for each output."""
  limits = (x.shape[0], i + (rows - 1) * strides[0] + 1, j + (columns - 1) * strides[1] + 1)
  return lax.slice(x, (0, i, j, 0), (*limits, x.shape[3]), (1, *strides, 1))
