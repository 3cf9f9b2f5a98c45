"""CIFAR-10, TAKD's plain convolutional networks: 10 layers to 2, by way of 4 (arXiv 1902.03393, 2104.07163).

Constant learning rate 0.01, as the papers have it for these networks.

python -m experiments.study cifar10_plain_cnn
"""

import dataclasses

from kd_jax.models.spec import ModelSpec
from kd_jax.optimizers import Optimizer

from . import cifar10_resnet8

_SGD = Optimizer(name="sgd", learning_rate=0.01, decay="constant", momentum=0.9, weight_decay=1e-4)

CONFIG = dataclasses.replace(
  cifar10_resnet8.CONFIG,
  name="cifar10_plain_cnn",
  teacher=ModelSpec(family="plain_cnn", depth=10, **cifar10_resnet8.PIXELS),
  assistant=ModelSpec(family="plain_cnn", depth=4, **cifar10_resnet8.PIXELS),
  student=ModelSpec(family="plain_cnn", depth=2, **cifar10_resnet8.PIXELS),
  teacher_optimizer=_SGD,
  optimizer=_SGD,
  paper=None,
)
