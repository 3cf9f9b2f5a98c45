"""8×8 handwritten digits (scikit-learn's 1,797), a wide teacher, students with 8 hidden units.

The embedded data set: needs no download and no GPU.

    python -m experiments.study digits
"""

from experiments.config import Study
from kd_jax.models.spec import ModelSpec
from kd_jax.optimizers import Optimizer

CONFIG = Study(
  name="digits",
  dataset="digits",
  validation_examples=287,
  batch_size=64,
  teacher=ModelSpec(family="mlp", hidden=(256, 256)),
  teacher_epochs=40,
  teacher_optimizer=Optimizer(learning_rate=0.1, decay="cosine", weight_decay=1e-4),
  assistant=ModelSpec(family="mlp", hidden=(32,)),
  student=ModelSpec(family="mlp", hidden=(8,)),
  epochs=60,
  optimizer=Optimizer(learning_rate=0.05, decay="step", weight_decay=1e-4),
  methods=("scratch", "kd", "takd", "annealing_kd", "continuation_kd"),
  seeds=5,
)
