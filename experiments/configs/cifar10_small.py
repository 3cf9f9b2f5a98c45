"""CIFAR-10 with 5,500 training images: an imported ResNet-56 to ResNet-8, on two processor cores.

Needs the whole official data set, of which students see a fixed part: by the hash of their ids, 500 training
images (50 a class) are held out, and 5,500 of the others (550 a class) are trained on. The test set is whole,
10,000 images. The teacher was trained elsewhere, on all 50,000 images: it has seen more than the students see.
Each image has 8 views (pad-4 crop and flip). 60 epochs are 2,520 steps of 128. TAKD's assistant, a ResNet-20,
is trained here, on the same 5,500 images.

    python -m experiments.prepare cifar10
    python -m experiments.study cifar10_small --teacher-weights resnet56_cifar10.safetensors

Two cores of a CPU train about 550 images a second: ten minutes for a student, four to five hours for all.
The paper's setting is `cifar10_resnet8`, with all images and 320 epochs: its numbers are not comparable.
"""

import dataclasses
from pathlib import Path

from kd_jax.models.spec import ModelSpec

from .cifar10_resnet8 import CONFIG as PAPER, PIXELS

CONFIG = dataclasses.replace(
  PAPER,
  name="cifar10_small",
  validation_examples=500,
  train_limit=5_500,
  views=8,
  teacher=ModelSpec(family="resnet", depth=56, **PIXELS),
  teacher_weights=Path("resnet56_cifar10.safetensors"),
  epochs=60,
  cache_dtype="float32",  # 1.8 MB
  paper=None,
)
