"""8×8 handwritten digits (scikit-learn's 1,797): a wide teacher, students with 16 normalised hidden units.

Embedded: needs no download and no GPU. Takes about a minute and a half on two processor cores.

    python -m experiments.study digits

A small picture of the papers' situation: a teacher that has learnt more than the students' labels tell, and
students with batch normalisation, as ResNets have. The teacher is trained on all 1,150 training images.
Students and TAKD's assistant see 300 of them, always the same, 30 a class. Without normalisation, the small
targets with which Annealing-KD begins turn hidden units off for good.

Found with 16 seeds (test accuracy; gain over training from scratch, 95 % interval): scratch 93.44 %, KD +1.46
[+0.89, +2.02], TAKD +1.35 [+0.87, +1.84], Annealing-KD +1.49 [+1.10, +1.89], Continuation-KD +1.27 [+0.66,
+1.88]. No method beats KD beyond its interval.

The gains belong to the 300 images. If students see all (`--student-limit None`), none is left: scratch 97.26 %,
KD -0.16 [-0.61, +0.30], TAKD -0.05 [-0.51, +0.41], Annealing-KD +0.12 [-0.33, +0.57], Continuation-KD -0.36
[-0.89, +0.16].
"""

from kd_jax.models.spec import ModelSpec
from kd_jax.optimizers import Optimizer

from ..domains.image_study import ImageStudy

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
