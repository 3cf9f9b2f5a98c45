"""Training: the state, one pure step, and the loop over the epochs of a phase.

The shortest training program needs `Task`, `train_recipe` and a teacher: `cached_teacher`, or `live_teacher`.
"""

from kd_jax.teachers.sources import cached_teacher, live_teacher
from kd_jax.training.loop import NonFiniteError, train_phase, train_recipe
from kd_jax.training.records import EpochRecord, EpochReport
from kd_jax.training.task import Task

__all__ = [
  "EpochRecord",
  "EpochReport",
  "NonFiniteError",
  "Task",
  "cached_teacher",
  "live_teacher",
  "train_phase",
  "train_recipe",
]
