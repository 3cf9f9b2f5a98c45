"""Your own images: folders of class folders, or .npz files; without files the embedded digits.

    python -m experiments.study images --files photos/train photos/test
    python -m experiments.study images --files photos --image-size 64
    python -m experiments.study images --files train.npz test.npz --teacher.depth 32
    python -m experiments.study images --files photos --quick

A ResNet-20 is trained on your images and teaches a ResNet-8, a third of its size.
"""

from kd_jax.data.augmentation import Augmentation
from kd_jax.models.spec import ModelSpec
from kd_jax.optimizers import Optimizer

from ..domains.image_study import ImageStudy

_SGD = Optimizer(learning_rate=0.1, decay="cosine", weight_decay=5e-4)
_PIXELS = {"pixel_mean": (0.45,), "pixel_std": (0.25,)}

CONFIG = ImageStudy(
  name="images",
  batch_size=32,
  validation_examples=None,
  augmentation=Augmentation(pad=None, flip=None),
  views=8,
  teacher=ModelSpec(family="resnet", depth=20, **_PIXELS),
  teacher_epochs=30,
  teacher_optimizer=_SGD,
  assistant=ModelSpec(family="resnet", depth=14, **_PIXELS),
  student=ModelSpec(family="resnet", depth=8, **_PIXELS),
  epochs=30,
  optimizer=_SGD,
  seeds=3,
  methods=("scratch", "kd", "annealing_kd"),
)
