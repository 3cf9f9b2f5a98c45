"""CIFAR-100, ResNet-110 to ResNet-8: as cifar10_resnet8, with 100 classes (arXiv 2104.07163).

python -m experiments.study cifar100_resnet8
"""

import dataclasses

from . import cifar10_resnet8

CONFIG = dataclasses.replace(
  cifar10_resnet8.CONFIG,
  name="cifar100_resnet8",
  dataset="cifar100",
  paper={
    "source": "Jafari et al. 2021 and 2022, as re-reported by later papers",
    "setting": "ResNet-110 to ResNet-8, CIFAR-100",
    "test_accuracy": {
      "teacher": 0.7192,
      "assistant": 0.676,
      "scratch": 0.6137,
      "kd": 0.6141,
      "takd": 0.6182,
      "annealing_kd": 0.631,
      "continuation_kd": 0.642,
    },
  },
)
