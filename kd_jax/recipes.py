"""Distillation methods as data.

    Recipe = a tuple of phases (and perhaps an assistant, trained first by a recipe of its own)
    Phase  = a name, an objective, epochs, an optimiser, and the weights it starts from
    Objective = named terms, each weight × loss

A method is one function here that returns a `Recipe`: entered in `RECIPES` it has a command line, a row in
every study, resumption and lineage, and the training loop is not touched.

Weights, temperatures and other scheduled values are functions of the epoch within the phase, counted from 0
and fractional: after half of the first epoch it is 0.5.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import optax

from kd_jax import schedules
from kd_jax.losses import annealing, logits
from kd_jax.optimizers import Optimizer
from kd_jax.types import Array, Batch, Outputs, Schedule

TermLoss = Callable[..., Array]
"""(student: Outputs, teacher: Outputs, batch: Batch, **scheduled values) -> [B] or another unreduced array."""


@dataclasses.dataclass(frozen=True)
class Term:
  """One named part of an objective.

  Attributes:
    name: what logs and tables call it.
    loss: a pure function, importable or a `functools.partial` of one, so that it can be described.
    weight: a number, or a schedule of the epoch.
    schedules: keyword arguments of the loss that change with the epoch.
    needs_teacher: False where the loss reads labels alone.
  """

  name: str
  loss: TermLoss
  weight: float | Schedule = 1.0
  schedules: Mapping[str, Schedule] = dataclasses.field(default_factory=dict)
  needs_teacher: bool = True

  def weight_at(self, epoch):
    return self.weight(epoch) if callable(self.weight) else self.weight

  def loss_at(self, student: Outputs, teacher: Outputs, batch: Batch, epoch) -> Array:
    scheduled = {name: schedule(epoch) for name, schedule in self.schedules.items()}
    return self.loss(student, teacher, batch, **scheduled)


@dataclasses.dataclass(frozen=True)
class Phase:
  """A stretch of training under one objective.

  Attributes:
    name: unique within its recipe.
    objective: the terms, summed.
    epochs: how many, >= 1.
    optimizer: made anew for the phase.
    start: "fresh" weights, or the "best" (by held-out validation accuracy) or "last" of the phase before.
  """

  name: str
  objective: tuple[Term, ...]
  epochs: int
  optimizer: Optimizer
  start: Literal["fresh", "best", "last"] = "fresh"

  def __post_init__(self):
    if self.epochs < 1:
      raise ValueError(f"phase {self.name!r} must have at least 1 epoch, got {self.epochs}")
    names = [term.name for term in self.objective]
    if not names or len(set(names)) != len(names):
      raise ValueError(f"phase {self.name!r} needs terms with distinct names, got {names}")
    if self.start not in ("fresh", "best", "last"):
      raise ValueError(
        f"phase {self.name!r} starts from {self.start!r}: must be 'fresh', 'best' or 'last'"
      )

  @property
  def needs_teacher(self) -> bool:
    return any(term.needs_teacher for term in self.objective)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A distillation method.

  Attributes:
    name: its name on the command line and in files.
    title, equation, reference: for tables.
    phases: in order; the first starts fresh.
    assistant: a recipe that first trains a middle-sized network from the teacher, whose outputs then take
      the teacher's place.
  """

  name: str
  title: str
  equation: str
  reference: str
  phases: tuple[Phase, ...]
  assistant: "Recipe | None" = None

  def __post_init__(self):
    names = [phase.name for phase in self.phases]
    if not names or len(set(names)) != len(names):
      raise ValueError(f"recipe {self.name!r} needs phases with distinct names, got {names}")
    if self.phases[0].start != "fresh":
      raise ValueError(f"the first phase of {self.name!r} has none before it: it must start fresh")

  @property
  def needs_teacher(self) -> bool:
    return any(phase.needs_teacher for phase in self.phases)


@dataclasses.dataclass(frozen=True)
class Budget:
  """What all methods of a comparison share.

  Attributes:
    epochs: of all phases together: a method with two phases divides them, so that no method trains longer.
    optimizer: of every phase; its learning rate starts anew in each.
    num_classes: C.
  """

  epochs: int
  optimizer: Optimizer
  num_classes: int

  def __post_init__(self):
    if self.epochs < 1 or self.num_classes < 2:
      raise ValueError(
        f"a budget has at least 1 epoch and 2 classes, got {self.epochs} and {self.num_classes}"
      )


# Losses over Outputs, from losses over arrays.


def cross_entropy(student: Outputs, teacher: Outputs, batch: Batch) -> Array:
  """Cross-entropy on hard labels."""
  del teacher
  return optax.softmax_cross_entropy_with_integer_labels(
    student.logits.astype(np.float32), batch.labels
  )


def soft_targets(student: Outputs, teacher: Outputs, batch: Batch, *, temperature) -> Array:
  """`soft_target_kd_loss`, or `top_k_kd_loss` where the teacher's outputs are cut to their top k."""
  del batch
  if teacher.top_k is not None:
    return logits.top_k_kd_loss(student.logits, teacher.top_k, temperature=temperature)
  return logits.soft_target_kd_loss(student.logits, teacher.logits, temperature=temperature)


def annealed_regression(
  student: Outputs, teacher: Outputs, batch: Batch, *, temperature, max_temperature
) -> Array:
  """`annealing_kd_loss` on final logits."""
  del batch
  return annealing.annealing_kd_loss(
    student.logits, _whole_logits(teacher), temperature, max_temperature
  )


def hinged_annealed_regression(
  student: Outputs, teacher: Outputs, batch: Batch, *, temperature, max_temperature, margin
) -> Array:
  """`continuation_kd_loss` on final logits."""
  del batch
  return annealing.continuation_kd_loss(
    student.logits, _whole_logits(teacher), temperature, max_temperature, margin=margin
  )


def _whole_logits(teacher: Outputs):
  if teacher.logits is None:
    raise ValueError("regression to logits needs all of them: precompute the cache without top-k")
  return teacher.logits


# Methods.


def _label_term(weight: float | Schedule = 1.0) -> Term:
  return Term("cross_entropy", cross_entropy, weight, needs_teacher=False)


def scratch(budget: Budget) -> Recipe:
  """Training on the labels alone: CE(y, softmax(z_s))."""
  return Recipe(
    name="scratch",
    title="from scratch",
    equation="CE(y, z_s)",
    reference="",
    phases=(Phase("train", (_label_term(),), budget.epochs, budget.optimizer),),
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
  if temperature < 1:
    raise ValueError(f"temperature must be at least 1, got {temperature}")
  soft = Term("soft_targets", functools.partial(soft_targets, temperature=temperature), soft_weight)
  return Recipe(
    name="kd",
    title="KD",
    equation="(1 - w) CE(y, z_s) + w T² KL(softmax(z_t/T) || softmax(z_s/T))",
    reference="Hinton 2015, arXiv 1503.02531",
    phases=(
      Phase("distil", (_label_term(1.0 - soft_weight), soft), budget.epochs, budget.optimizer),
    ),
  )


def annealing_kd(
  budget: Budget, *, max_temperature: int = 10, anneal_epochs: int | None = None
) -> Recipe:
  """Annealing-KD: regression to the annealed teacher's logits, then hard labels alone.

  Phase I holds each temperature tau_max, ..., 1 for floor(epochs / tau_max) epochs and T = 1 for what is left
  over. Its loss is divided by C: the released code takes the mean over classes, and the published learning
  rates belong to that scale; the paper's formula sums. Phase II starts from the best weights of phase I by
  held-out validation accuracy (the released vision code selects on the test set).

  Args:
    budget: epochs of both phases together, optimiser, number of classes.
    max_temperature: tau_max.
    anneal_epochs: length of phase I; half of the budget unless given.

  References:
    Jafari et al., EACL 2021, arXiv 2104.07163.
  """
  first = budget.epochs // 2 if anneal_epochs is None else anneal_epochs
  if not 0 < first < budget.epochs:
    raise ValueError(
      f"anneal_epochs must leave epochs to both phases: got {first} of {budget.epochs}"
    )
  anneal = Term(
    "annealed_regression",
    functools.partial(annealed_regression, max_temperature=max_temperature),
    1.0 / budget.num_classes,
    schedules={"temperature": annealing_by_epoch(max_temperature, first)},
  )
  return Recipe(
    name="annealing_kd",
    title="Annealing-KD",
    equation="I: ||z_s - Φ(T) z_t||² / C, Φ(T) = 1 - (T - 1)/τ_max, T = τ_max … 1; II: CE(y, z_s)",
    reference="Jafari 2021, arXiv 2104.07163",
    phases=(
      Phase("anneal", (anneal,), first, budget.optimizer),
      Phase("finetune", (_label_term(),), budget.epochs - first, budget.optimizer, start="best"),
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
      "lower max_temperature or train longer"
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
  if margin < 0 or max_temperature < 1:
    raise ValueError(
      f"margin must be at least 0 and max_temperature at least 1, got {margin}, {max_temperature}"
    )
  ramp = max(1, int(budget.epochs * label_ramp))
  max_temperature = min(max_temperature, ramp)
  regression = Term(
    "annealed_regression",
    functools.partial(hinged_annealed_regression, max_temperature=max_temperature, margin=margin),
    schedules_scaled(schedules.linear_schedule(1.0, 0.0, ramp), 1.0 / budget.num_classes),
    schedules={"temperature": annealing_by_epoch(max_temperature, ramp)},
  )
  labels = _label_term(schedules.linear_schedule(0.0, 1.0, ramp))
  return Recipe(
    name="continuation_kd",
    title="Continuation-KD",
    equation="ψ CE(y, z_s) + (1 - ψ) max(0, ||z_s - Φ(T) z_t||² - m Φ(T)) / C, ψ rising from 0 to 1",
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


def make_recipe(name: str, budget: Budget, settings: Mapping[str, Any] | None = None) -> Recipe:
  """The recipe of a method by name, with its own settings.

  Raises:
    ValueError: for an unknown method or setting, naming those that exist.
  """
  if name not in RECIPES:
    raise ValueError(f"unknown method {name!r}: known are {', '.join(RECIPES)}")
  known = list(inspect.signature(RECIPES[name]).parameters)[1:]
  unknown = [setting for setting in settings or {} if setting not in known]
  if unknown:
    raise ValueError(f"{name} has no setting {unknown}: it has {known}")
  return RECIPES[name](budget, **(settings or {}))


def describe(recipe: Recipe) -> dict[str, Any]:
  """A recipe as plain JSON values: two recipes that train alike describe alike, others do not.

  Schedules are written as their values at each epoch.
  """
  return {
    "name": recipe.name,
    "phases": [_describe_phase(phase) for phase in recipe.phases],
    "assistant": None if recipe.assistant is None else describe(recipe.assistant),
  }


def _describe_phase(phase: Phase) -> dict[str, Any]:
  def values(schedule):
    if not callable(schedule):
      return float(schedule)
    # Halves too, so that schedules which move within an epoch are told apart.
    epochs = np.arange(2 * phase.epochs + 1) / 2
    # Constant schedules of optax give one number whatever they are asked.
    return [round(float(v), 8) for v in np.broadcast_to(schedule(epochs), epochs.shape)]

  def function(loss):
    options = {}
    while isinstance(loss, functools.partial):
      options = {**loss.keywords, **options}
      loss = loss.func
    return {"function": f"{loss.__module__}.{loss.__qualname__}", "options": options}

  return {
    "name": phase.name,
    "epochs": phase.epochs,
    "start": phase.start,
    "optimizer": dataclasses.asdict(phase.optimizer),
    "terms": [
      {
        "name": term.name,
        **function(term.loss),
        "weight": values(term.weight),
        "schedules": {name: values(schedule) for name, schedule in term.schedules.items()},
      }
      for term in phase.objective
    ],
  }
