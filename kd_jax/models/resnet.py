"""Residual networks for small images (He et al. 2016, section 4.2), depth 6n + 2."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.blocks import batch_norm, check_image_rank, conv3x3, normalise_pixels
from kd_jax.types import Array, ArrayLike, Outputs


def blocks_per_stage(depth: int) -> int:
  """The n of depth = 6n + 2: three stages of n blocks of two convolutions, and two more layers.

  Raises:
    ValueError: no such n >= 1; the message names the nearest depths that exist.

  >>> blocks_per_stage(20)
  3
  """
  blocks, rest = divmod(depth - 2, 6)
  if blocks >= 1 and rest == 0:
    return blocks
  nearest = [6 * n + 2 for n in (blocks, blocks + 1) if n >= 1] or [8]
  raise ValueError(
    f"a CIFAR ResNet has depth 6n + 2 with n >= 1, got {depth}:"
    f" the nearest {'is' if len(nearest) == 1 else 'are'} {' and '.join(map(str, nearest))}"
  )


def option_a_shortcut(x: Array, features: int, stride: int) -> Array:
  """The parameter-free shortcut: every stride-th pixel, and zeros for the new channels.

  The zeros go half before and half after the old channels, as in the common PyTorch version;
  the paper leaves their place open.

  Args:
    x: [B, H, W, D].
    features: channels wanted, at least D.
    stride: 1 or 2.

  Returns:
    [B, ceil(H / stride), ceil(W / stride), features].
  """
  new = features - x.shape[-1]
  padding = ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2))
  return jnp.pad(x[:, ::stride, ::stride], padding)


class BasicBlock(nn.Module):
  """y = ReLU(BN(conv(ReLU(BN(conv(x))))) + shortcut(x))."""

  features: int
  stride: int
  axis_name: str | None
  dtype: jax.typing.DTypeLike

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    norm = batch_norm(train, self.axis_name, self.dtype)
    y = conv3x3(self.features, self.stride, self.dtype, name="conv1")(x)
    y = nn.relu(norm(name="bn1")(y))
    y = conv3x3(self.features, 1, self.dtype, name="conv2")(y)
    y = norm(name="bn2")(y)
    return nn.relu(y + option_a_shortcut(x, self.features, self.stride))


class CifarResNet(nn.Module):
  """The CIFAR residual network: 3 stages of n blocks, widths 16, 32, 64, option-A shortcuts.

  Outputs.layers are the feature maps at the end of the three stages, after ReLU:
  [B, H, W, w], [B, H/2, W/2, 2w], [B, H/4, W/4, 4w], sizes rounded up.

  Attributes:
    num_classes: C.
    depth: 6n + 2: 8, 14, 20, 26, 32, 44, 56, 110, ...
    width: w, channels of the first stage.
    axis_name: mapped axis over which batch statistics are averaged in training.
    pixel_mean: subtracted from pixels / 255; one value, or one for each channel.
    pixel_std: divides the centred pixels; one value, or one for each channel.
    dtype: of the computation; parameters, batch statistics and logits are float32 always.

  Raises:
    ValueError: on construction, for a depth that is not 6n + 2.

  References:
    He et al. 2016, Deep Residual Learning for Image Recognition, arXiv 1512.03385. Released
    code of distillation papers often has projections (option B) in their place: Mirzadeh et
    al. 2020 does, which adds 2,752 parameters to ResNet-8.

  >>> model = CifarResNet(num_classes=10, depth=8)
  >>> images = jnp.zeros((2, 32, 32, 3), jnp.uint8)
  >>> variables = model.init(jax.random.key(0), images, train=False)
  >>> [layer.shape for layer in model.apply(variables, images, train=False).layers]
  [(2, 32, 32, 16), (2, 16, 16, 32), (2, 8, 8, 64)]
  """

  num_classes: int
  depth: int = 8
  width: int = 16
  axis_name: str | None = None
  pixel_mean: tuple[float, ...] = (0.0,)
  pixel_std: tuple[float, ...] = (1.0,)
  dtype: jax.typing.DTypeLike = jnp.float32

  def __post_init__(self):
    blocks_per_stage(self.depth)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: ArrayLike, train: bool = False) -> Outputs:
    """Classifies images [B, H, W, D] of pixel values in [0, 255]."""
    check_image_rank(images)
    x = normalise_pixels(images, self.pixel_mean, self.pixel_std).astype(self.dtype)
    x = conv3x3(self.width, 1, self.dtype, name="conv1")(x)
    x = nn.relu(batch_norm(train, self.axis_name, self.dtype)(name="bn1")(x))
    layers = []
    for stage in (1, 2, 3):
      for index in range(blocks_per_stage(self.depth)):
        block = BasicBlock(
          features=self.width * 2 ** (stage - 1),
          stride=2 if stage > 1 and index == 0 else 1,
          axis_name=self.axis_name,
          dtype=self.dtype,
          name=f"layer{stage}_{index}",
        )
        x = block(x, train)
      layers.append(x)
    pooled = x.mean(axis=(1, 2))
    logits = nn.Dense(self.num_classes, dtype=self.dtype, name="linear")(pooled)
    return Outputs(logits=logits.astype(jnp.float32), layers=tuple(layers))
