"""Plain convolutional networks of 2 to 10 layers (Mirzadeh et al. 2020)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.blocks import (
  HE_NORMAL,
  batch_norm,
  check_image_rank,
  conv3x3,
  normalise_pixels,
)
from kd_jax.types import ArrayLike, Outputs


class Plan(NamedTuple):
  """The layers of one network.

  Attributes:
    blocks: channels of the convolutions of each block, in order.
    hidden: widths of the dense layers between the last block and the classifier.
    pool_last: whether the last block, as all others, ends in 2x2 max pooling.
  """

  blocks: tuple[tuple[int, ...], ...]
  hidden: tuple[int, ...] = ()
  pool_last: bool = True

  @property
  def pools(self) -> int:
    """How many times the image is halved."""
    return len(self.blocks) - (not self.pool_last)


_DEEPEST = ((32, 32), (64, 64), (128, 128), (256, 256, 256, 256))

CIFAR10_PLANS = {
  2: Plan(((16,), (16,))),
  4: Plan(((16, 16), (32, 32))),
  6: Plan(((16, 16), (32, 32), (64, 64))),
  8: Plan(((16, 16), (32, 32), (64, 64), (128, 128)), hidden=(64,)),
  10: Plan(_DEEPEST, hidden=(128,)),
}
CIFAR100_PLANS = {
  2: Plan(((32,), (32,))),
  4: Plan(((32, 32), (64, 64))),
  6: Plan(((32, 32), (64, 64), (128, 128)), pool_last=False),
  8: Plan(((32, 32), (64, 64), (128, 128), (256, 256)), hidden=(64,)),
  10: Plan(_DEEPEST, hidden=(512,)),
}


def plain_cnn_plan(depth: int, num_classes: int) -> Plan:
  """The layers of a depth: those for CIFAR-10 up to 10 classes, those for CIFAR-100 above.

  Raises:
    ValueError: a depth that the paper does not define.

  >>> plain_cnn_plan(2, num_classes=10).blocks
  ((16,), (16,))
  """
  plans = CIFAR10_PLANS if num_classes <= 10 else CIFAR100_PLANS
  if depth not in plans:
    raise ValueError(f"a plain CNN has depth {', '.join(map(str, plans))}, got {depth}")
  return plans[depth]


class PlainCNN(nn.Module):
  """Blocks of (3x3 convolution, BatchNorm, ReLU) that end in 2x2 max pooling, then dense layers.

  `depth` counts convolutions. Outputs.layers are the blocks' outputs [B, H, W, D] as the next
  block reads them, that is after pooling, followed by the hidden dense activations [B, D]
  (depths 8 and 10).

  Attributes:
    num_classes: C; also picks the widths, see `plain_cnn_plan`.
    depth: 2, 4, 6, 8 or 10.
    axis_name: mapped axis over which batch statistics are averaged in training.
    pixel_mean: subtracted from pixels / 255; one value, or one for each channel.
    pixel_std: divides the centred pixels; one value, or one for each channel.
    dtype: of the computation; parameters, batch statistics and logits are float32 always.

  Raises:
    ValueError: on construction, for another depth; on call, for images too small to halve.

  References:
    Mirzadeh et al. 2020, Improved Knowledge Distillation via Teacher Assistant, arXiv
    1902.03393. The layer lists are those of its released code, which has BatchNorm after every
    convolution, and no pooling after the last block of depth 6 for CIFAR-100. Left out: the
    biases of the convolutions, which BatchNorm cancels. Kernels start from He's distribution.

  >>> model = PlainCNN(num_classes=10, depth=8)
  >>> images = jnp.zeros((2, 32, 32, 3), jnp.uint8)
  >>> variables = model.init(jax.random.key(0), images, train=False)
  >>> [layer.shape for layer in model.apply(variables, images, train=False).layers]
  [(2, 16, 16, 16), (2, 8, 8, 32), (2, 4, 4, 64), (2, 2, 2, 128), (2, 64)]
  """

  num_classes: int
  depth: int = 2
  axis_name: str | None = None
  pixel_mean: tuple[float, ...] = (0.0,)
  pixel_std: tuple[float, ...] = (1.0,)
  dtype: jax.typing.DTypeLike = jnp.float32

  def __post_init__(self):
    plain_cnn_plan(self.depth, self.num_classes)
    super().__post_init__()

  @nn.compact
  def __call__(self, images: ArrayLike, train: bool = False) -> Outputs:
    """Classifies images [B, H, W, D] of pixel values in [0, 255]."""
    check_image_rank(images)
    plan = plain_cnn_plan(self.depth, self.num_classes)
    height, width = jnp.shape(images)[1:3]
    if min(height, width) < 2**plan.pools:
      raise ValueError(
        f"a plain CNN of depth {self.depth} halves the image {plan.pools} times and needs"
        f" {2**plan.pools} pixels a side, got {height}x{width}: choose a smaller depth"
      )
    norm = batch_norm(train, self.axis_name, self.dtype)
    x = normalise_pixels(images, self.pixel_mean, self.pixel_std).astype(self.dtype)
    layers = []
    for block, features_of_block in enumerate(plan.blocks, start=1):
      for index, features in enumerate(features_of_block, start=1):
        x = conv3x3(features, 1, self.dtype, name=f"block{block}_conv{index}")(x)
        x = nn.relu(norm(name=f"block{block}_bn{index}")(x))
      if block <= plan.pools:
        x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
      layers.append(x)
    x = x.reshape(x.shape[0], -1)
    for index, features in enumerate(plan.hidden, start=1):
      dense = nn.Dense(features, kernel_init=HE_NORMAL, dtype=self.dtype, name=f"hidden{index}")
      x = nn.relu(dense(x))
      layers.append(x)
    logits = nn.Dense(self.num_classes, dtype=self.dtype, name="linear")(x)
    return Outputs(logits=logits.astype(jnp.float32), layers=tuple(layers))
