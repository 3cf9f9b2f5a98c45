"""CIFAR-10, ResNet-110 to ResNet-8: Annealing-KD's main vision experiment (arXiv 2104.07163).

Paper settings: batch 128, SGD with momentum 0.9, learning rate 0.1 → 0.01 → 0.001 at 1/2 and 3/4 of each phase,
weight decay 1e-4, pad-4 crop and flip, tau_max 10, 160 + 160 epochs; every student has the 320 epochs (TAKD's
assistant has as many again). All 162 views of the augmentation are cached.

    python -m experiments.study cifar10_resnet8
    python -m experiments.study cifar10_resnet8 --teacher-weights resnet56_cifar10.safetensors
"""

from kd_jax.data.augmentation import Augmentation
from kd_jax.models.spec import ModelSpec
from kd_jax.optimizers import Optimizer

from ..domains.image_study import ImageStudy

# The constants that the common PyTorch weights for CIFAR ResNets were trained with, which are ImageNet's.
PIXELS = {"pixel_mean": (0.485, 0.456, 0.406), "pixel_std": (0.229, 0.224, 0.225)}
SGD = Optimizer(name="sgd", learning_rate=0.1, decay="step", momentum=0.9, weight_decay=1e-4)

CONFIG = ImageStudy(
  name="cifar10_resnet8",
  dataset="cifar10",
  validation_examples=5000,
  augmentation=Augmentation(name="pad_crop_flip"),
  views=162,
  batch_size=128,
  teacher=ModelSpec(family="resnet", depth=110, **PIXELS),
  teacher_epochs=160,
  teacher_optimizer=SGD,
  assistant=ModelSpec(family="resnet", depth=20, **PIXELS),
  student=ModelSpec(family="resnet", depth=8, **PIXELS),
  epochs=320,
  optimizer=SGD,
  methods=("scratch", "kd", "takd", "annealing_kd", "continuation_kd"),
  seeds=5,
  cache_dtype="float16",
  official_examples=50_000,
  paper={
    "source": "Jafari et al. 2021 and 2022, as re-reported by later papers",
    "setting": "ResNet-110 to ResNet-8, CIFAR-10",
    "test_accuracy": {
      "teacher": 0.938,
      "assistant": 0.9239,
      "scratch": 0.8844,
      "kd": 0.8845,
      "takd": 0.8847,
      "annealing_kd": 0.8944,
      "continuation_kd": 0.9021,
    },
  },
)
