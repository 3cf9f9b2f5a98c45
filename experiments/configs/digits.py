"""8×8 handwritten digits (scikit-learn's 1,797), a wide teacher, students with 16 hidden units.

The embedded data set: needs no download and no GPU, and takes about a minute on two processor cores.

    python -m experiments.study digits
"""

from experiments.domains.images import ImageStudy
from kd_jax.models.spec import ModelSpec
from kd_jax.optimizers import Optimizer

# Mean and standard deviation of the training pixels.
_PIXELS = {"pixel_mean": (0.304,), "pixel_std": (0.376,)}

CONFIG = ImageStudy(
  name="digits",
  dataset="digits",
  validation_examples=287,
  student_limit=300,
  batch_size=32,
  teacher=ModelSpec(family="mlp", hidden=(256, 256), **_PIXELS),
  teacher_epochs=40,
  teacher_optimizer=Optimizer(learning_rate=0.1, decay="cosine", weight_decay=1e-4),
  assistant=ModelSpec(family="mlp", hidden=(64,), batch_norm=True, **_PIXELS),
  student=ModelSpec(family="mlp", hidden=(16,), batch_norm=True, **_PIXELS),
  epochs=80,
  optimizer=Optimizer(learning_rate=0.05, decay="step", weight_decay=1e-4),
  methods=("scratch", "kd", "takd", "annealing_kd", "continuation_kd"),
  seeds=16,
)
