"""Networks: Linen modules that read images, sentences or texts and return `kd_jax.types.Outputs`."""

from kd_jax.models.bert import BertConfig, BertEncoder
from kd_jax.models.hf_config import read_config, read_labels
from kd_jax.models.hf_weights import load_bert, save_bert
from kd_jax.models.mlp import MLP
from kd_jax.models.plain_cnn import PlainCNN
from kd_jax.models.pretrained import load_text_model
from kd_jax.models.resnet import CifarResNet
from kd_jax.models.safetensors_files import load_params, save_params
from kd_jax.models.sequence_spec import SequenceSpec, build_sequence_model
from kd_jax.models.spec import (
  FAMILIES,
  ModelSpec,
  build_model,
  is_convolutional,
  parameter_count,
)
from kd_jax.models.subwords import token_mean
from kd_jax.models.text_classifier import PseudoClassifiers, TextClassifier
from kd_jax.models.text_params import copyable, merge, select_layers, start_from
from kd_jax.models.text_spec import (
  TEXT_FAMILIES,
  TextSpec,
  bert_spec,
  build_text_model,
  text_model_name,
  text_sizes,
)
from kd_jax.models.weights import (
  load_torch_cifar_resnet,
  save_torch_cifar_resnet,
  torch_cifar_resnet_depth,
)

__all__ = [
  "FAMILIES",
  "MLP",
  "TEXT_FAMILIES",
  "BertConfig",
  "BertEncoder",
  "CifarResNet",
  "ModelSpec",
  "PlainCNN",
  "PseudoClassifiers",
  "SequenceSpec",
  "TextClassifier",
  "TextSpec",
  "bert_spec",
  "build_model",
  "build_sequence_model",
  "build_text_model",
  "copyable",
  "is_convolutional",
  "load_bert",
  "load_params",
  "load_text_model",
  "load_torch_cifar_resnet",
  "merge",
  "parameter_count",
  "read_config",
  "read_labels",
  "save_bert",
  "save_params",
  "save_torch_cifar_resnet",
  "select_layers",
  "start_from",
  "text_model_name",
  "text_sizes",
  "token_mean",
  "torch_cifar_resnet_depth",
]
