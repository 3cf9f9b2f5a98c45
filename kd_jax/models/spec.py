"""A network as data: what a configuration says of it, and how it is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.mlp import MLP
from kd_jax.models.plain_cnn import PlainCNN
from kd_jax.models.resnet import CifarResNet
from kd_jax.models.word_embedding import thaw


@dataclass(frozen=True)
class ModelSpec:
  """Which network, and how it reads pixels."""

  family: Literal["mlp", "resnet", "plain_cnn"] = "mlp"
  """Kind of network."""
  hidden: tuple[int, ...] = (64,)
  """Widths of the hidden layers (mlp only)."""
  batch_norm: bool = False
  """Normalise hidden layers over the batch (mlp only; the others always do)."""
  depth: int = 8
  """Layers: resnet 8, 14, 20, ..., 6n + 2; plain_cnn 2, 4, 6, 8 or 10."""
  pixel_mean: tuple[float, ...] = (0.0,)
  """Subtracted from pixels / 255: one value, or one for each channel."""
  pixel_std: tuple[float, ...] = (1.0,)
  """Divides the centred pixels: one value, or one for each channel."""


class Family(NamedTuple):
  """One kind of network.

  Attributes:
    build: (spec, axis_name, **shared) -> module; `shared` is what every network takes:
      num_classes, pixel_mean, pixel_std and dtype.
    convolutional: whether it convolves; such models need another schedule of dispatches on CPU.
    label: what tables call a network of this kind.
  """

  build: Callable[..., nn.Module]
  convolutional: bool
  label: Callable[[ModelSpec], str]


FAMILIES: dict[str, Family] = {
  "mlp": Family(
    lambda spec, axis_name, **shared: MLP(
      hidden=tuple(spec.hidden), batch_norm=spec.batch_norm, axis_name=axis_name, **shared
    ),
    convolutional=False,
    label=lambda spec: (
      "MLP " + "-".join(str(width) for width in spec.hidden) + " BN" * spec.batch_norm
    ),
  ),
  "resnet": Family(
    lambda spec, axis_name, **shared: CifarResNet(depth=spec.depth, axis_name=axis_name, **shared),
    convolutional=True,
    label=lambda spec: f"ResNet-{spec.depth}",
  ),
  "plain_cnn": Family(
    lambda spec, axis_name, **shared: PlainCNN(depth=spec.depth, axis_name=axis_name, **shared),
    convolutional=True,
    label=lambda spec: f"plain CNN-{spec.depth}",
  ),
}
"""Every family by its name in a configuration: a new one is one entry here (and one name above)."""


def _family(spec: ModelSpec) -> Family:
  if spec.family not in FAMILIES:
    raise ValueError(f"model family is one of {', '.join(FAMILIES)}, got {spec.family!r}")
  return FAMILIES[spec.family]


def build_model(
  spec: ModelSpec,
  num_classes: int,
  axis_name: str | None = None,
  *,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> nn.Module:
  """Builds the network that a specification describes.

  Args:
    spec: the specification.
    num_classes: C, at least 2.
    axis_name: mapped axis over which batch statistics are averaged in training, if any.
    dtype: of the computation; parameters and logits are float32 always.

  Returns:
    A Linen module: `module.apply(variables, images, train=...)` gives `Outputs`.

  Raises:
    ValueError: an unknown family, a depth that the family lacks, or fewer than two classes.

  >>> build_model(ModelSpec(family="resnet", depth=20), num_classes=10).depth
  20
  """
  if num_classes < 2:
    raise ValueError(f"a classifier needs at least 2 classes, got num_classes={num_classes}")
  return _family(spec).build(
    spec,
    axis_name,
    num_classes=num_classes,
    pixel_mean=tuple(spec.pixel_mean),
    pixel_std=tuple(spec.pixel_std),
    dtype=dtype,
  )


def is_convolutional(spec: ModelSpec) -> bool:
  """Whether the network convolves.

  >>> is_convolutional(ModelSpec(family="mlp"))
  False
  """
  return _family(spec).convolutional


def model_name(spec: ModelSpec) -> str:
  """What tables call the network.

  >>> model_name(ModelSpec(family="resnet", depth=8))
  'ResNet-8'
  """
  return _family(spec).label(spec)


def parameter_count(variables: Mapping[str, Any]) -> int:
  """The number of parameters, frozen word vectors included; batch statistics are not counted.

  >>> parameter_count({"params": {"w": jnp.zeros((3, 2))}, "batch_stats": {"m": jnp.zeros(2)}})
  6
  """
  return sum(leaf.size for leaf in jax.tree.leaves(thaw(variables)["params"]))
