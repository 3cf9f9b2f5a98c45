"""The CPU's convolution: both gradients against XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kd_jax.models.convolution import conv_general_dilated, filter_gradient

NHWC = ("NHWC", "HWIO", "NHWC")


def _case(seed, shape, window, features, dtype=jnp.float32):
  generator = np.random.default_rng(seed)
  inputs = jnp.asarray(generator.normal(size=shape), dtype)
  return inputs, jnp.asarray(generator.normal(size=(*window, shape[3], features)), dtype)


def _gradients(convolve, inputs, kernel, *arguments, **options):
  def loss(inputs, kernel):
    y = convolve(inputs, kernel, *arguments, dimension_numbers=NHWC, **options)
    # Its own weight for each output, so that none can stand for another.
    return jnp.sum(jnp.sin(jnp.arange(y.size)).reshape(y.shape) * y.astype(jnp.float32))

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(inputs, kernel)


CASES = {
  # image, window, features, strides, padding
  "one_pixel_around": ((3, 6, 6, 4), (3, 3), 4, (1, 1), ((1, 1), (1, 1))),
  "few_channels": ((3, 6, 5, 1), (3, 3), 8, (1, 1), "SAME"),
  "stride_2": ((3, 8, 8, 4), (3, 3), 6, (2, 2), ((1, 1), (1, 1))),
  "stride_2_same": ((3, 8, 8, 4), (3, 3), 6, (2, 2), "SAME"),
  "odd_stride_2_same": ((2, 7, 5, 3), (3, 3), 4, (2, 2), "SAME"),
  "odd_stride_2_valid": ((2, 8, 6, 3), (3, 3), 4, (2, 2), "VALID"),
  "valid": ((2, 7, 5, 3), (3, 2), 3, (1, 1), "VALID"),
  "strides_apart": ((2, 6, 9, 3), (3, 3), 2, (1, 2), "SAME"),
  "other_strides_apart": ((2, 6, 9, 3), (2, 3), 2, (3, 1), "SAME"),
  "one_by_one": ((2, 5, 5, 3), (1, 1), 7, (2, 2), "VALID"),
  "wide_padding": ((2, 4, 4, 3), (2, 2), 3, (1, 1), ((3, 2), (2, 4))),
  "even_window": ((2, 5, 6, 3), (4, 4), 3, (1, 1), "SAME"),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_both_gradients_are_those_of_xla(name):
  shape, window, features, strides, padding = CASES[name]
  inputs, kernel = _case(0, shape, window, features)
  ours = _gradients(conv_general_dilated, inputs, kernel, strides, padding)
  theirs = _gradients(lax.conv_general_dilated, inputs, kernel, strides, padding)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)


def test_the_filter_gradient_is_its_sum():
  inputs, kernel = _case(1, (2, 5, 4, 3), (3, 2), 2)
  cotangent = np.random.default_rng(2).normal(size=(2, 3, 2, 2))
  padded = np.pad(np.asarray(inputs, np.float64), ((0, 0), (1, 1), (0, 1), (0, 0)))
  expected = np.zeros(kernel.shape)
  for i, j in np.ndindex(3, 2):
    for row, column in np.ndindex(3, 2):
      read = padded[:, 2 * row + i, 2 * column + j]
      expected[i, j] += read.T @ cotangent[:, row, column]
  padding = ((1, 1), (0, 1))
  found = filter_gradient(inputs, jnp.asarray(cotangent, jnp.float32), (3, 2), (2, 2), padding)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_sums_in_float32():
  inputs, kernel = _case(3, (16, 8, 8, 4), (3, 3), 4, jnp.bfloat16)
  # Both are functions of the same rounded inputs; XLA's own sums them in another order.
  ours = _gradients(conv_general_dilated, inputs, kernel, (1, 1), "SAME")
  exact = _gradients(
    lax.conv_general_dilated,
    inputs.astype(jnp.float32),
    kernel.astype(jnp.float32),
    (1, 1),
    "SAME",
  )
  assert [x.dtype for x in ours[1]] == [jnp.bfloat16] * 2
  for a, b in zip(ours[1], exact[1], strict=True):
    # One rounding of the result, 2^-8, and of the cotangents.
    scale = float(jnp.abs(b).max())
    np.testing.assert_allclose(a.astype(np.float32), b, atol=2**-7 * scale)


def test_several_kernels_and_second_derivatives():
  inputs, _ = _case(4, (2, 5, 5, 2), (3, 3), 2)
  kernels = jnp.asarray(np.random.default_rng(5).normal(size=(3, 3, 3, 2, 2)), jnp.float32)

  def gradient_norm(convolve):
    def loss(kernel):
      return jnp.sum(jnp.tanh(convolve(inputs, kernel, (1, 1), "SAME", dimension_numbers=NHWC)))

    return jax.vmap(jax.grad(lambda kernel: jnp.sum(jax.grad(loss)(kernel) ** 2)))(kernels)

  np.testing.assert_allclose(
    gradient_norm(conv_general_dilated),
    gradient_norm(lax.conv_general_dilated),
    rtol=1e-4,
    atol=1e-4,
  )


@pytest.mark.parametrize(
  "options",
  [
    {"feature_group_count": 2},
    {"kernel_dilation": 2},
    {"input_dilation": 2, "padding": 1},
    {"padding": "CIRCULAR"},
    {"kernel_size": (3,)},
    {"kernel_size": (2, 2, 2)},
  ],
  ids=lambda options: next(iter(options)),
)
def test_what_is_not_plain_is_left_to_xla(options):
  options = {"features": 4, "kernel_size": (3, 3)} | options
  rank = len(options["kernel_size"])
  inputs = jax.random.normal(jax.random.key(0), (2, *(6,) * rank, 2))
  ours = nn.Conv(**options, conv_general_dilated=conv_general_dilated)
  theirs = nn.Conv(**options)
  variables = theirs.init(jax.random.key(1), inputs)
  found, expected = (
    jax.grad(lambda v, net=net: jnp.sum(jnp.sin(net.apply(v, inputs))))(variables)
    for net in (ours, theirs)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_accelerators_keep_xlas_gradient(monkeypatch):
  inputs, kernel = _case(6, (1, 4, 4, 1), (3, 3), 1)

  def program():
    def convolve(inputs, kernel):
      return conv_general_dilated(inputs, kernel, (1, 1), "SAME", dimension_numbers=NHWC)

    return str(jax.make_jaxpr(convolve)(inputs, kernel))

  assert "custom_vjp" in program()
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert "custom_vjp" not in program()
