"""What a distillation method is made of, as data.

    Recipe = a tuple of phases (and perhaps an assistant, trained first by a recipe of its own)
    Phase  = a name, an objective, epochs, an optimiser, and the weights it starts from
    Objective = named terms, each weight × loss

Weights, temperatures and other scheduled values are functions of the epoch within the phase, counted from 0
and fractional: after half of the first epoch it is 0.5.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

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
    whole_logits: True where the teacher's top k and tail would not do.
    reads: which fields of the teacher's `Outputs` the loss reads: a cache has to hold them, and others of a
      cached teacher are not given to it. "logits" stands for `top_k` too.
    heads: a Linen module from the student's `Outputs` to the ones that the loss compares: projections to the
      teacher's width, classifiers of layers. Trained with the student, in the train state and no part of it.
    reads_labels: whether the loss reads labels: it then counts labelled examples alone. If some examples have
      no label, other terms are given none. By default, true if the loss needs no teacher.
  """

  name: str
  loss: TermLoss
  weight: float | Schedule = 1.0
  schedules: Mapping[str, Schedule] = dataclasses.field(default_factory=dict)
  needs_teacher: bool = True
  whole_logits: bool = False
  reads: tuple[str, ...] = ("logits",)
  heads: Any = None
  reads_labels: bool | None = None

  def __post_init__(self):
    if self.reads_labels is None:
      object.__setattr__(self, "reads_labels", not self.needs_teacher)

  def weight_at(self, epoch):
    return self.weight(epoch) if callable(self.weight) else self.weight

  def loss_at(self, student: Outputs, teacher: Outputs, batch: Batch, epoch) -> Array:
    scheduled = {name: schedule(epoch) for name, schedule in self.schedules.items()}
    if not self.reads_labels and getattr(batch, "labelled", None) is not None:
      batch = batch._replace(labels=None)
    return self.loss(student, teacher, batch, **scheduled)


@dataclasses.dataclass(frozen=True)
class Phase:
  """A stretch of training under one objective.

  Attributes:
    name: unique within its recipe.
    objective: the terms, summed.
    epochs: how many, >= 1.
    optimizer: made anew for the phase.
    start: "fresh" weights, or the "best" (by the metric on the validation split) or "last" of the phase before.
    best_from: first epoch, from 1, that can be the best.
  """

  name: str
  objective: tuple[Term, ...]
  epochs: int
  optimizer: Optimizer
  start: Literal["fresh", "best", "last"] = "fresh"
  best_from: int = 1

  def __post_init__(self):
    if self.epochs < 1:
      raise ValueError(f"phase {self.name!r} must have at least 1 epoch, got {self.epochs}")
    if not 1 <= self.best_from <= self.epochs:
      raise ValueError(
        f"`best_from` of phase {self.name!r} must be one of its epochs, 1 to {self.epochs}, got "
        f"{self.best_from}"
      )
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

  @property
  def labelled_only(self) -> bool:
    """Whether examples without a label would teach nothing in it."""
    return all(term.reads_labels for term in self.objective)


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
    epochs: epochs of each method, counted by `equal_epochs`.
    optimizer: optimiser of every phase, created again in each; a recipe's `phase1` and `phase2` change its
      learning rate, decay and warm-up in one phase.
    num_classes: C; 1 where a number is predicted.
    teacher_width: D of the teacher's layers, for methods that project the student's to it.
    label_mean: of the training labels, where a number is predicted: what new outputs start from.
    equal_epochs: what is equal between methods. "total": the epochs of all phases together, so that no method
      trains longer. "labels": the epochs of the last phase (phase II, on hard labels in most methods), so that
      every method sees the labels as long as training from scratch does; phase I comes on top.
  """

  epochs: int
  optimizer: Optimizer
  num_classes: int
  teacher_width: int | None = None
  label_mean: float = 0.0
  equal_epochs: Literal["total", "labels"] = "total"

  def __post_init__(self):
    if self.epochs < 1 or self.num_classes < 1:
      raise ValueError(
        f"a budget has at least 1 epoch and 1 class, got {self.epochs} and {self.num_classes}"
      )
    if self.equal_epochs not in ("total", "labels"):
      raise ValueError(f"`equal_epochs` must be total or labels, got {self.equal_epochs!r}")

  def two_phases(self, first: int, argument: str) -> tuple[int, int]:
    """The epochs of phases I and II, from those of phase I.

    Args:
      first: epochs of phase I.
      argument: the recipe's argument that sets them, for the error message.

    Raises:
      ValueError: a phase without an epoch.
    """
    second = self.epochs if self.equal_epochs == "labels" else self.epochs - first
    if first < 1 or second < 1:
      raise ValueError(f"{argument} must leave epochs to both phases: got {first} of {self.epochs}")
    return first, second

  @property
  def is_regression(self) -> bool:
    """Whether a number is predicted: then squared errors stand where classes have CE and KL."""
    return self.num_classes == 1


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
    # Constant schedules of optax give one number whatever they are asked. Nine digits tell float32s apart.
    return [float(f"{float(v):.9g}") for v in np.broadcast_to(schedule(epochs), epochs.shape)]

  def function(loss):
    options = {}
    while isinstance(loss, functools.partial):
      if loss.args:
        raise ValueError(f"a term's loss takes its options by keyword, got {loss.args}")
      options = {**loss.keywords, **options}
      loss = loss.func
    if "<" in getattr(loss, "__qualname__", "<"):
      raise ValueError(
        f"a term's loss must be importable, so that runs can be told apart: {loss} is not"
      )
    return {"function": f"{loss.__module__}.{loss.__qualname__}", "options": options}

  return {
    "name": phase.name,
    "epochs": phase.epochs,
    "start": phase.start,
    **({} if phase.best_from == 1 else {"best_from": phase.best_from}),
    "optimizer": dataclasses.asdict(phase.optimizer),
    "terms": [
      {
        "name": term.name,
        **function(term.loss),
        "weight": values(term.weight),
        "schedules": {name: values(schedule) for name, schedule in term.schedules.items()},
        **({} if term.heads is None else {"heads": _describe_module(term.heads)}),
      }
      for term in phase.objective
    ],
  }


def _describe_module(module: Any) -> dict[str, Any]:
  """A Linen module by its class and the fields that are not at their defaults."""
  fields = {
    field.name: getattr(module, field.name)
    for field in dataclasses.fields(module)
    if field.name not in ("parent", "name") and getattr(module, field.name) != field.default
  }
  kind = type(module)
  return {"module": f"{kind.__module__}.{kind.__qualname__}", "fields": fields}
