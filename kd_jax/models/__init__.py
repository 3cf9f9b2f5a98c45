"""Networks: Linen modules that read images or sentences and return `kd_jax.types.Outputs`."""

from kd_jax.models.mlp import MLP
from kd_jax.models.plain_cnn import PlainCNN
from kd_jax.models.resnet import CifarResNet
from kd_jax.models.sequence_spec import SequenceSpec, build_sequence_model
from kd_jax.models.spec import (
  FAMILIES,
  ModelSpec,
  build_model,
  is_convolutional,
  parameter_count,
)
from kd_jax.models.weights import (
  load_torch_cifar_resnet,
  save_torch_cifar_resnet,
  torch_cifar_resnet_depth,
)

__all__ = [
  "FAMILIES",
  "MLP",
  "CifarResNet",
  "ModelSpec",
  "PlainCNN",
  "SequenceSpec",
  "build_model",
  "build_sequence_model",
  "is_convolutional",
  "load_torch_cifar_resnet",
  "parameter_count",
  "save_torch_cifar_resnet",
  "torch_cifar_resnet_depth",
]
