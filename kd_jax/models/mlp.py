"""Multilayer perceptron on flattened images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.blocks import HE_NORMAL, batch_norm, normalise_pixels
from kd_jax.types import ArrayLike, Outputs


class MLP(nn.Module):
  """Dense layers with ReLU between them; `hidden=()` is multinomial logistic regression.

  Outputs.layers are the hidden activations [B, D], after ReLU. With `batch_norm`, each hidden layer is
  normalised over the batch before its ReLU, as in a ResNet; without it, `train` changes nothing.

  Attributes:
    num_classes: C.
    hidden: widths of the hidden layers, in order of depth.
    batch_norm: whether hidden layers are normalised; they then have no bias of their own.
    axis_name: mapped axis over which batch statistics are averaged in training.
    pixel_mean: subtracted from pixels / 255; one value, or one for each channel.
    pixel_std: divides the centred pixels; one value, or one for each channel.
    dtype: of the computation; parameters and logits are float32 always.

  >>> model = MLP(num_classes=10, hidden=(32, 16))
  >>> images = jnp.zeros((4, 8, 8, 1), jnp.uint8)
  >>> variables = model.init(jax.random.key(0), images, train=False)
  >>> outputs = model.apply(variables, images, train=False)
  >>> outputs.logits.shape, [layer.shape for layer in outputs.layers]
  ((4, 10), [(4, 32), (4, 16)])
  """

  num_classes: int
  hidden: tuple[int, ...] = (64,)
  batch_norm: bool = False
  axis_name: str | None = None
  pixel_mean: tuple[float, ...] = (0.0,)
  pixel_std: tuple[float, ...] = (1.0,)
  dtype: jax.typing.DTypeLike = jnp.float32

  def __post_init__(self):
    if any(width < 1 for width in self.hidden):
      raise ValueError(f"hidden widths must be positive, got {tuple(self.hidden)}")
    super().__post_init__()

  @nn.compact
  def __call__(self, images: ArrayLike, train: bool = False) -> Outputs:
    """Classifies images [B, ...] of pixel values in [0, 255]."""
    x = normalise_pixels(images, self.pixel_mean, self.pixel_std)
    x = x.reshape(x.shape[0], -1).astype(self.dtype)
    layers = []
    for index, width in enumerate(self.hidden, start=1):
      dense = nn.Dense(
        width,
        use_bias=not self.batch_norm,
        kernel_init=HE_NORMAL,
        dtype=self.dtype,
        name=f"hidden{index}",
      )
      x = dense(x)
      if self.batch_norm:
        x = batch_norm(train, self.axis_name, self.dtype)(name=f"bn{index}")(x)
      x = nn.relu(x)
      layers.append(x)
    logits = nn.Dense(self.num_classes, dtype=self.dtype, name="linear")(x)
    return Outputs(logits=logits.astype(jnp.float32), layers=tuple(layers))
