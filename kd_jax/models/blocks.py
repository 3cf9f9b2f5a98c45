"""Pieces that the image networks share: pixel normalisation, convolution, batch normalisation."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.convolution import conv_general_dilated
from kd_jax.types import Array, ArrayLike

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""He et al. 2015 (arXiv 1502.01852): variance 2 / fan-in, which keeps the scale through ReLU."""


def normalise_pixels(
  images: ArrayLike, pixel_mean: Sequence[float], pixel_std: Sequence[float]
) -> Array:
  """Maps pixel values to network inputs, (x / 255 - mean) / std, in float32.

  Args:
    images: [B, ..., D] pixel values in [0, 255], integer or floating.
    pixel_mean: one mean for each channel D, or a single one, on the scale of [0, 1].
    pixel_std: one standard deviation for each channel D, or a single one; positive.

  Returns:
    [B, ..., D] float32.

  Raises:
    ValueError: a length that is neither 1 nor D, or a standard deviation that is not positive.

  >>> float(normalise_pixels(jnp.array([[255]], jnp.uint8), (0.5,), (0.25,))[0, 0])
  2.0
  """
  channels = jnp.shape(images)[-1]
  for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
    if len(values) not in (1, channels):
      raise ValueError(
        f"{name} has {len(values)} values but images of shape {jnp.shape(images)} have"
        f" {channels} channels: give one value, or one for each channel"
      )
  if not all(0 < value < math.inf for value in pixel_std):
    raise ValueError(f"pixel_std must be positive, got {tuple(pixel_std)}")
  pixels = jnp.asarray(images).astype(jnp.float32)
  mean = jnp.asarray(pixel_mean, jnp.float32)
  return (pixels / 255.0 - mean) / jnp.asarray(pixel_std, jnp.float32)


def check_image_rank(images: ArrayLike) -> None:
  """Refuses what a convolutional network cannot read, before Linen fails obscurely."""
  if jnp.ndim(images) != 4:
    raise ValueError(
      f"a convolutional network reads images [B, H, W, D], got shape {jnp.shape(images)}:"
      " add the missing axis (D = 1 for grey images), or use the mlp family"
    )


def conv3x3(features: int, stride: int, dtype: jax.typing.DTypeLike, name: str) -> nn.Conv:
  """A 3x3 convolution without bias, padded by one pixel on every side.

  The padding is explicit because "SAME" pads only the bottom and right of an even image at
  stride 2: same shapes as PyTorch's padding=1, other values.
  """
  return nn.Conv(
    features,
    kernel_size=(3, 3),
    strides=(stride, stride),
    padding=((1, 1), (1, 1)),
    use_bias=False,
    kernel_init=HE_NORMAL,
    dtype=dtype,
    conv_general_dilated=conv_general_dilated,
    name=name,
  )


def batch_norm(
  train: bool, axis_name: str | None, dtype: jax.typing.DTypeLike
) -> Callable[..., nn.BatchNorm]:
  """A constructor of batch normalisation in PyTorch's setting (its momentum 0.1 is 0.9 here).

  In training the mean and variance are those of the batch over all devices of `axis_name`;
  otherwise the running ones are used and no axis need exist. The running variance averages the
  biased batch variance; PyTorch averages the unbiased one, larger by 1 / (B H W - 1).
  """

  def build(name: str) -> nn.BatchNorm:
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      axis_name=axis_name if train else None,
      dtype=dtype,
      name=name,
    )

  return build
