"""How long the students of a study will take, from the time that its teacher took."""

import flax.linen as nn
import jax

from kd_jax.training.batches import steps_per_epoch
from kd_jax.types import PyTree

from ..domains import tracing
from .students import Students


def operations(model: nn.Module, inputs: PyTree) -> float:
  """Floating-point operations of a network on some inputs, as XLA counts them before it compiles."""
  variables = tracing.abstract_variables(model, inputs)
  run = jax.jit(lambda variables, inputs: model.apply(variables, inputs, train=False))
  found = run.lower(variables, inputs).cost_analysis()
  return float((found or {}).get("flops", 0.0))


def students_seconds(students: Students) -> float | None:
  """About how many seconds all students take, or None if their teacher was not trained here.

  A step of a network takes about as long as it has operations.
  """
  folder, teacher = students.folder, students.teachers.teacher()
  study, domain = folder.study, folder.domain
  data, networks = domain.data, domain.networks
  taught = data.train if data.teacher_train is None else data.teacher_train
  teacher_steps = study.teacher_epochs * steps_per_epoch(taught.buckets, study.batch_size)
  if teacher.seconds is None or not teacher_steps:
    return None
  inputs = tracing.example(data.train)
  of_teacher = operations(networks.build(teacher.spec, None), inputs)
  if not of_teacher:
    return None
  share = operations(networks.build(networks.student, None), inputs) / of_teacher
  steps = steps_per_epoch(data.train.buckets, study.batch_size) * len(study.seed_values)
  epochs = sum(phase.epochs for row in study.rows for phase in folder.recipes[row].phases)
  return epochs * steps * share * teacher.seconds / teacher_steps


def in_words(seconds: float) -> str:
  """A duration for a reader.

  >>> in_words(20), in_words(100), in_words(5400)
  ('less than a minute', 'about 2 minutes', 'about 1.5 hours')
  """
  if seconds < 45:
    return "less than a minute"
  if seconds < 5400:
    minutes = round(seconds / 60) or 1
    return f"about {minutes} minute{'s'[: minutes > 1]}"
  return f"about {seconds / 3600:.1f} hours"
