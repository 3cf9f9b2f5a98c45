"""What a distillation method is made of, as data.

    Recipe = a tuple of phases (and perhaps an assistant, trained first by a recipe of its own)
    Phase  = a name, an objective, epochs, an optimiser, and the weights it starts from
    Objective = named terms, each weight × a public loss, of what its names stand for

Weights, temperatures and other scheduled values are functions of the epoch within the phase, counted from 0
and fractional: after half of the first epoch it is 0.5.
"""

import dataclasses
import functools
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import numpy as np

from kd_jax._sizes import is_whole
from kd_jax.optimizers import Optimizer
from kd_jax.recipes.names import Name, look_up, parse
from kd_jax.types import AnyArray, Array, ArrayLike, Batch, Outputs, Schedule


@dataclasses.dataclass(frozen=True)
class Term:
  """One named part of an objective: a public loss, and the names of what it is given.

      Term(
        "soft_targets",
        kd_jax.soft_target_kd_loss,
        ("student.logits", "teacher.logits"),
        {"temperature": 4.0},
      )

  Attributes:
    name: what logs and tables call it.
    loss: a pure function on arrays, importable, so that a run can be described; gives [B], or another
      unreduced array. If it has a keyword-only argument `mask`, it is given the batch's, [B], and must give 0
      for masked examples: a loss that compares examples cannot be masked afterwards. For a loss that reads
      labels, examples without a label are masked too.
    of: the names of its positional arguments: see `kd_jax.recipes.names`.
    options: its keyword arguments: numbers, texts, or schedules of the epoch.
    weight: a number, or a schedule of the epoch.
    head: a Linen module from the student's `Outputs` to the ones that the loss compares: projections to the
      teacher's width, classifiers of layers. Trained with the student, in the train state and no part of it.

  Raises:
    ValueError: an unknown name, arguments that the loss does not take, options that are arrays.
  """

  name: str
  loss: Callable[..., Array]
  of: tuple[str, ...]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  weight: float | Schedule = 1.0
  head: nn.Module | None = None

  def __post_init__(self):
    given: Any = self.of
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
      raise ValueError(
        f"term {self.name!r}: `of` is a tuple of names, such as ('student.logits', 'batch.labels'), got "
        f"{self.of!r}"
      )
    object.__setattr__(self, "of", tuple(self.of))
    object.__setattr__(self, "options", dict(self.options))
    if isinstance(self.loss, functools.partial):
      raise ValueError(f"term {self.name!r}: give a partial's arguments as `options` of the loss")
    for option, value in self.options.items():
      if not _is_plain(value):
        raise ValueError(
          f"term {self.name!r}: option {option} must be a number, a text or a schedule, got "
          f"{type(value).__name__}"
        )
    try:
      _ = self.names
      inspect.signature(self.loss).bind(*self.of, **self.options)
    except (ValueError, TypeError) as error:
      raise ValueError(f"term {self.name!r}: {error}") from None

  def __hash__(self) -> int:
    options = tuple(sorted(self.options.items(), key=lambda item: item[0]))
    return hash((self.name, self.loss, self.of, options, self.weight, self.head))

  @functools.cached_property
  def names(self) -> tuple[Name, ...]:
    """The names, read."""
    return tuple(parse(text) for text in self.of)

  @property
  def reads(self) -> frozenset[str]:
    """The fields of the teacher's `Outputs` that it reads: a cache has to hold them."""
    return frozenset(name.field for name in self.names if name.source == "teacher")

  @property
  def needs_teacher(self) -> bool:
    return bool(self.reads)

  @property
  def reads_labels(self) -> bool:
    """Whether it reads labels: it then counts labelled examples alone."""
    return any(name.path == ("labels",) for name in self.names if name.source == "batch")

  @functools.cached_property
  def takes_mask(self) -> bool:
    """Whether the loss is given the batch's mask, and so leaves nothing to be masked."""
    argument = inspect.signature(self.loss).parameters.get("mask")
    return (
      argument is not None and argument.kind is argument.KEYWORD_ONLY and "mask" not in self.options
    )

  def weight_at(self, epoch: ArrayLike) -> ArrayLike:
    return self.weight(epoch) if callable(self.weight) else self.weight

  def options_at(self, epoch: ArrayLike) -> dict[str, Any]:
    """The options, those that are schedules at an epoch."""
    return {
      name: value(epoch) if callable(value) else value for name, value in self.options.items()
    }

  def loss_at(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: ArrayLike) -> Array:
    """The loss of what `of` names, unreduced."""
    given = [look_up(name, student, teacher, batch) for name in self.names]
    mask = {}
    if self.takes_mask:
      mask["mask"] = labelled_examples(batch) if self.reads_labels else batch.mask
    return self.loss(*given, **self.options_at(epoch), **mask)


def labelled_examples(batch: Batch) -> AnyArray | None:
  """[B] which rows of a batch are examples with a label; None if all are."""
  if batch.labelled is None or batch.mask is None:
    return batch.mask if batch.labelled is None else batch.labelled
  return (batch.mask > 0) & batch.labelled


def _is_plain(value: Any) -> bool:
  if isinstance(value, tuple):
    return all(map(_is_plain, value))
  return value is None or callable(value) or isinstance(value, numbers.Number | str | bool)


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
    if not is_whole(self.epochs):
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
  def reads(self) -> frozenset[str]:
    """The fields of the teacher's `Outputs` that its terms read."""
    return frozenset[str]().union(*(term.reads for term in self.objective))

  @property
  def needs_teacher(self) -> bool:
    return bool(self.reads)

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
    equal_epochs: what is equal between methods. "total": the epochs of all phases together, so that no method
      trains longer. "labels": the epochs of the last phase (phase II, on hard labels in most methods), so that
      every method sees the labels as long as training from scratch does; phase I comes on top.
  """

  epochs: int
  optimizer: Optimizer
  equal_epochs: Literal["total", "labels"] = "total"

  def __post_init__(self):
    if not is_whole(self.epochs):
      raise ValueError(f"a budget has at least 1 epoch, got {self.epochs}")
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


def check_fraction(name: str, value: float) -> None:
  """Refuses a weight or a share outside [0, 1]."""
  if not 0 <= value <= 1:
    raise ValueError(f"{name} must be in [0, 1], got {value}")


def describe(recipe: Recipe) -> dict[str, Any]:
  """A recipe as plain JSON values: two recipes that train alike describe alike, others do not.

  Raises:
    ValueError: a loss that cannot be imported by name: runs could not be told apart.
  """
  return {
    "name": recipe.name,
    "phases": [_describe_phase(phase) for phase in recipe.phases],
    "assistant": None if recipe.assistant is None else describe(recipe.assistant),
  }


def _describe_phase(phase: Phase) -> dict[str, Any]:
  return {
    "name": phase.name,
    "epochs": phase.epochs,
    "start": phase.start,
    **({} if phase.best_from == 1 else {"best_from": phase.best_from}),
    "optimizer": dataclasses.asdict(phase.optimizer),
    "terms": [_describe_term(term, phase.epochs) for term in phase.objective],
  }


def _describe_term(term: Term, epochs: int) -> dict[str, Any]:
  if "<" in getattr(term.loss, "__qualname__", "<"):
    raise ValueError(
      f"the loss of term {term.name!r} must be importable, so that runs can be told apart: {term.loss} is not"
    )
  return {
    "name": term.name,
    "loss": _name_of(term.loss),
    "of": list(term.of),
    "options": {name: _plain(value, epochs) for name, value in term.options.items()},
    "weight": _plain(term.weight, epochs),
    **({} if term.head is None else {"head": _fields_of(term.head, epochs)}),
  }


def _plain(value: Any, epochs: int) -> Any:
  """An option or weight as JSON: a schedule by its fields, or if it has none, by its values at each epoch."""
  if isinstance(value, tuple):
    return [_plain(item, epochs) for item in value]
  if not callable(value):
    return value.item() if isinstance(value, np.generic) else value
  if dataclasses.is_dataclass(value):
    return _fields_of(value, epochs)
  # Halves too, so that schedules which move within an epoch are told apart.
  at = np.arange(2 * epochs + 1) / 2
  # Constant schedules of optax give one number whatever they are asked. Nine digits tell float32s apart.
  return [float(f"{float(v):.9g}") for v in np.broadcast_to(value(at), at.shape)]


def _fields_of(value: Any, epochs: int) -> dict[str, Any]:
  """A schedule or a Linen module by its class and the fields that are not at their defaults."""
  fields = {
    field.name: _plain(getattr(value, field.name), epochs)
    for field in dataclasses.fields(value)
    if field.name not in ("parent", "name") and getattr(value, field.name) != field.default
  }
  return {"kind": _name_of(type(value)), **fields}


def _name_of(named: Any) -> str:
  return f"{named.__module__}.{named.__qualname__}"
