"""Distillation methods, each a function that returns a `Recipe`.

A method is one function here: entered in `RECIPES` it has a command line, a row in every study, resumption
and lineage, and the training loop is not touched. What recipes are made of stands in `kd_jax.recipes.parts`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from kd_jax import schedules
from kd_jax._checks import check_temperature
from kd_jax.losses import annealing, logits, top_k
from kd_jax.optimizers import UNCHANGED, PhaseOptimizer
from kd_jax.recipes.parts import (
  Budget as Budget,
  Phase as Phase,
  Recipe as Recipe,
  Term as Term,
  describe as describe,
)
from kd_jax.types import Array, Batch, Outputs, Schedule

# Losses over Outputs, from losses over arrays.


def cross_entropy(student: Outputs, teacher: Outputs, batch: Batch) -> Array:
  """Cross-entropy on hard labels; the squared error where a number is predicted (C = 1)."""
  del teacher
  if _is_regression(student):
    return jnp.square(student.logits[:, 0].astype(np.float32) - batch.labels)
  return optax.softmax_cross_entropy_with_integer_labels(
    student.logits.astype(np.float32), batch.labels
  )


def soft_targets(student: Outputs, teacher: Outputs, batch: Batch, *, temperature) -> Array:
  """`soft_target_kd_loss`, or `top_k_kd_loss` where the teacher's outputs are cut to their top k.

  Where a number is predicted (C = 1), the squared error to the teacher's, at no temperature.
  """
  del batch
  if _is_regression(student):
    return logits.logit_regression_loss(student.logits, final_logits(teacher))
  if teacher.top_k is not None:
    return top_k.top_k_kd_loss(student.logits, teacher.top_k, temperature=temperature)
  return logits.soft_target_kd_loss(student.logits, final_logits(teacher), temperature=temperature)


def annealed_regression(
  student: Outputs, teacher: Outputs, batch: Batch, *, temperature, max_temperature, center=0.0
) -> Array:
  """`annealing_kd_loss` on final logits, less `center`."""
  del batch
  own, theirs = _centered(student, teacher, center)
  return annealing.annealing_kd_loss(own, theirs, temperature, max_temperature)


def hinged_annealed_regression(
  student: Outputs,
  teacher: Outputs,
  batch: Batch,
  *,
  temperature,
  max_temperature,
  margin,
  center=0.0,
) -> Array:
  """`continuation_kd_loss` on final logits, less `center`."""
  del batch
  own, theirs = _centered(student, teacher, center)
  return annealing.continuation_kd_loss(own, theirs, temperature, max_temperature, margin=margin)


def _centered(student: Outputs, teacher: Outputs, center: float):
  if teacher.logits is None and teacher.top_k is not None:
    raise ValueError("regression to logits needs all of them: precompute the cache without top-k")
  center = jnp.float32(center)  # not a number of the cache's own precision
  return student.logits - center, final_logits(teacher) - center


def final_logits(teacher: Outputs) -> Array:
  """The teacher's logits; raises ValueError where it has none."""
  if teacher.logits is None:
    raise ValueError("the teacher's final logits are not among its outputs: cache or return them")
  return teacher.logits


def _is_regression(outputs: Outputs) -> bool:
  """A softmax over one class is always 1: such logits can only be numbers."""
  return outputs.logits.shape[-1] == 1


# Methods.


def label_equation(budget: Budget) -> str:
  """`cross_entropy` as tables print it."""
  return "(y - z_s)²" if budget.is_regression else "CE(y, z_s)"


def soft_equation(budget: Budget) -> str:
  """`soft_targets` as tables print it."""
  return "(z_t - z_s)²" if budget.is_regression else "T² KL(softmax(z_t/T) || softmax(z_s/T))"


def _annealed_equation(budget: Budget) -> str:
  return "(z_s - ȳ - Φ(T) (z_t - ȳ))²" if budget.is_regression else "||z_s - Φ(T) z_t||²"


def without_opinion(budget: Budget) -> dict[str, float]:
  """What is subtracted from numbers so that, as in logits, 0 is no opinion: the option `center` of losses.

  Around 0 itself, annealed numbers would have to leave their level and come back to it as the temperature
  falls, and an inner product of two numbers would always favour the larger.
  """
  return {"center": budget.label_mean} if budget.is_regression else {}


def label_term(weight: float | Schedule = 1.0) -> Term:
  """The term of the hard labels."""
  return Term("cross_entropy", cross_entropy, weight, needs_teacher=False)


def scratch(budget: Budget) -> Recipe:
  """Training on the labels alone: CE(y, softmax(z_s))."""
  return Recipe(
    name="scratch",
    title="from scratch",
    equation=label_equation(budget),
    reference="",
    phases=(Phase("train", (label_term(),), budget.epochs, budget.optimizer),),
  )


def kd(budget: Budget, *, temperature: float = 4.0, soft_weight: float = 0.9) -> Recipe:
  """Knowledge distillation: (1 - soft_weight) CE + soft_weight T² KL(teacher || student).

  Args:
    budget: epochs and optimiser.
    temperature: T of the soft targets.
    soft_weight: weight of the soft targets, in [0, 1].

  References:
    Hinton et al. 2015, arXiv 1503.02531.
  """
  if not 0 <= soft_weight <= 1:
    raise ValueError(f"soft_weight must be in [0, 1], got {soft_weight}")
  check_temperature(temperature)
  soft = Term("soft_targets", functools.partial(soft_targets, temperature=temperature), soft_weight)
  return Recipe(
    name="kd",
    title="KD",
    equation=f"(1 - w) {label_equation(budget)} + w {soft_equation(budget)}",
    reference="Hinton 2015, arXiv 1503.02531",
    phases=(
      Phase("distil", (label_term(1.0 - soft_weight), soft), budget.epochs, budget.optimizer),
    ),
  )


def annealing_kd(
  budget: Budget,
  *,
  max_temperature: int = 10,
  anneal_epochs: int | None = None,
  best_at_temperature_one: bool = False,
  phase1: PhaseOptimizer = UNCHANGED,
  phase2: PhaseOptimizer = UNCHANGED,
) -> Recipe:
  """Annealing-KD: regression to the annealed teacher's logits, then hard labels alone.

  Phase I holds each temperature tau_max, ..., 1 for floor(epochs / tau_max) epochs and T = 1 for what is left
  over. Its loss is divided by C: the released code takes the mean over classes, and the published learning
  rates belong to that scale; the paper's formula sums. Phase II starts from the best weights of phase I by
  the metric on the validation split (the released vision code selects on the test set). Where a number is
  predicted, Phi(T) shrinks the teacher's towards the mean label.

  Args:
    budget: epochs, optimiser, number of classes, mean label.
    max_temperature: tau_max.
    anneal_epochs: epochs of phase I; half of the budget's epochs by default.
    best_at_temperature_one: choose the best weights of phase I among the epochs with T = 1, whose targets are
      the teacher's logits themselves; by default among all.
    phase1: changes to the optimiser in phase I.
    phase2: changes to the optimiser in phase II.

  References:
    Jafari et al., EACL 2021, arXiv 2104.07163.
  """
  first = budget.epochs // 2 if anneal_epochs is None else anneal_epochs
  first, second = budget.two_phases(first, "anneal_epochs")
  anneal = Term(
    "annealed_regression",
    functools.partial(
      annealed_regression, max_temperature=max_temperature, **without_opinion(budget)
    ),
    1.0 / budget.num_classes,
    schedules={"temperature": annealing_by_epoch(max_temperature, first)},
    whole_logits=True,
  )
  at_one = (max_temperature - 1) * (first // max_temperature) + 1
  best_from = at_one if best_at_temperature_one else 1
  return Recipe(
    name="annealing_kd",
    title="Annealing-KD",
    equation=f"I: {_annealed_equation(budget)} / C, Φ(T) = 1 - (T - 1)/τ_max, T = τ_max … 1; "
    f"II: {label_equation(budget)}",
    reference="Jafari 2021, arXiv 2104.07163",
    phases=(
      Phase("anneal", (anneal,), first, phase1.applied_to(budget.optimizer), best_from=best_from),
      Phase("finetune", (label_term(),), second, phase2.applied_to(budget.optimizer), start="best"),
    ),
  )


def annealing_by_epoch(max_temperature: int, epochs: int) -> Schedule:
  """The temperature over a phase: floor(epochs / tau_max) epochs each, at least one, then 1.

  >>> [int(annealing_by_epoch(3, epochs=8)(epoch)) for epoch in range(8)]
  [3, 3, 2, 2, 1, 1, 1, 1]
  """
  if max_temperature < 1:
    raise ValueError(f"max_temperature must be at least 1, got {max_temperature}")
  if max_temperature > epochs:
    raise ValueError(
      f"max_temperature {max_temperature} needs as many epochs to come down to 1, got {epochs}: "
      "lower it (--annealing-kd.max-temperature) or train longer"
    )
  return schedules.annealing_temperature(max_temperature, epochs // max_temperature)


def continuation_kd(
  budget: Budget, *, max_temperature: int = 20, margin: float = 0.0, label_ramp: float = 0.75
) -> Recipe:
  """Continuation-KD: one phase in which the annealed regression gives way to the labels.

  psi CE + (1 - psi) max(0, ||z_s - Phi(T) z_t||² - m Phi(T)) / C with psi = min(epoch / ramp, 1). The ramp is
  150 of 200 epochs in the paper, three quarters, over which T also comes down to 1. The division by C is that
  of `annealing_kd`. The paper's margin is not known to us: 0 makes it the plain regression.

  Args:
    budget: epochs, optimiser, number of classes.
    max_temperature: tau_max; lowered to the ramp's length in epochs where that is shorter.
    margin: m >= 0, in squared logits summed over classes.
    label_ramp: share of the epochs after which only the labels count, in (0, 1].

  References:
    Jafari et al., Findings of EMNLP 2022, arXiv 2212.05998.
  """
  if not 0 < label_ramp <= 1:
    raise ValueError(f"label_ramp must be in (0, 1], got {label_ramp}")
  if not margin >= 0 or not max_temperature >= 1:
    raise ValueError(
      f"margin must be at least 0 and max_temperature at least 1, got {margin}, {max_temperature}"
    )
  ramp = max(1, int(budget.epochs * label_ramp))
  max_temperature = min(max_temperature, ramp)
  regression = Term(
    "annealed_regression",
    functools.partial(
      hinged_annealed_regression,
      max_temperature=max_temperature,
      margin=margin,
      **without_opinion(budget),
    ),
    schedules_scaled(schedules.linear_schedule(1.0, 0.0, ramp), 1.0 / budget.num_classes),
    schedules={"temperature": annealing_by_epoch(max_temperature, ramp)},
    whole_logits=True,
  )
  labels = label_term(schedules.linear_schedule(0.0, 1.0, ramp))
  return Recipe(
    name="continuation_kd",
    title="Continuation-KD",
    equation=f"ψ {label_equation(budget)} + (1 - ψ) max(0, {_annealed_equation(budget)} - m Φ(T)) / C, "
    "ψ rising from 0 to 1",
    reference="Jafari 2022, arXiv 2212.05998",
    phases=(Phase("continue", (labels, regression), budget.epochs, budget.optimizer),),
  )


def schedules_scaled(schedule: Schedule, factor: float) -> Schedule:
  """A schedule times a number."""
  return lambda step: factor * schedule(step)


def takd(budget: Budget, *, temperature: float = 4.0, soft_weight: float = 0.9) -> Recipe:
  """Teacher-assistant KD: `kd` from the teacher to an assistant, then from the assistant to the student.

  Args:
    budget: epochs of each of the two, optimiser.
    temperature: T of both steps.
    soft_weight: weight of the soft targets in both steps.

  References:
    Mirzadeh et al., AAAI 2020, arXiv 1902.03393.
  """
  step = kd(budget, temperature=temperature, soft_weight=soft_weight)
  return dataclasses.replace(
    step,
    name="takd",
    title="TAKD",
    equation="KD from teacher to assistant, then KD from assistant to student",
    reference="Mirzadeh 2020, arXiv 1902.03393",
    assistant=dataclasses.replace(step, name="assistant", title="assistant"),
  )


RECIPES: dict[str, Callable[..., Recipe]] = {
  "scratch": scratch,
  "kd": kd,
  "takd": takd,
  "annealing_kd": annealing_kd,
  "continuation_kd": continuation_kd,
}


def make_recipe(
  name: str,
  budget: Budget,
  settings: Mapping[str, Any] | None = None,
  registry: Mapping[str, Callable[..., Recipe]] | None = None,
) -> Recipe:
  """The recipe of a method by name, with its own settings.

  Args:
    name: one of the registry.
    budget: epochs, optimiser, number of classes.
    settings: keyword arguments of the method.
    registry: the methods for a kind of data: by default `RECIPES`; or those of `kd_jax.recipes.structures`.

  Raises:
    ValueError: for an unknown method or setting, naming those that exist.
  """
  registry = RECIPES if registry is None else registry
  if name not in registry:
    raise ValueError(f"unknown method {name!r}: known are {', '.join(registry)}")
  known = list(inspect.signature(registry[name]).parameters)[1:]
  unknown = [setting for setting in settings or {} if setting not in known]
  if unknown:
    raise ValueError(f"{name} has no setting {unknown}: it has {known}")
  return registry[name](budget, **(settings or {}))
