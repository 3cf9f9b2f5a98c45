"""What all phases of all methods share: network, data, seeds; and the weights that a phase starts from."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

from kd_jax import parallel
from kd_jax._sizes import check_whole, checked_seeds
from kd_jax.data.augmentation import Augmentation
from kd_jax.data.examples import Examples
from kd_jax.recipes.parts import Phase
from kd_jax.training import batches
from kd_jax.training.evaluation import CLASSIFICATION, Evaluation
from kd_jax.training.evaluator import make_evaluator
from kd_jax.training.state import (
  AUXILIARY,
  LoopState,
  init_heads,
  init_variables,
  start_phase,
  start_variables,
)
from kd_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Task:
  """What all phases of all methods share.

  Attributes:
    model: the student; image networks are built with `axis_name=parallel.AXIS`.
    train: training examples.
    validation: held-out examples, for choosing the best epoch.
    batch_size: of all devices together.
    seeds: different whole numbers from 0, trained together as one program; see `batches` for what they share.
    augmentation: of the training examples.
    views: how many views of each example training goes through, one an epoch; each seed begins at another.
    one_dispatch: see `parallel.one_dispatch_an_epoch`; by default what suits a convolutional network.
    evaluation: how the network is judged, and by what the best epoch is chosen.
    initial: what the network starts from where not all of it is fresh: see `init_variables`.

  Raises:
    ValueError: sizes below 1, or seeds that repeat or are out of range.
  """

  model: nn.Module
  train: Examples
  validation: Examples
  batch_size: int
  seeds: tuple[int, ...] = (0,)
  augmentation: Augmentation = Augmentation(name="none")
  views: int = 1
  one_dispatch: bool = dataclasses.field(
    default_factory=lambda: parallel.one_dispatch_an_epoch(convolutional=True)
  )
  evaluation: Evaluation = CLASSIFICATION
  initial: PyTree = None

  def __post_init__(self):
    check_whole("batch_size", self.batch_size)
    check_whole("views", self.views)
    object.__setattr__(self, "seeds", checked_seeds(self.seeds))

  @property
  def steps_per_epoch(self) -> int:
    return batches.steps_per_epoch(self.train.buckets, self.batch_size)

  @property
  def examples_per_epoch(self) -> int:
    """Of images, those that fill whole batches; of sequences, all."""
    return min(len(self.train), self.steps_per_epoch * self.batch_size)

  @property
  def example(self) -> PyTree:
    """One example [1, ...] of what the network reads, for `init_variables`."""
    return jax.tree.map(lambda x: x[:1], self.train.buckets[0].inputs)

  @functools.cached_property
  def evaluate(self) -> Callable[[PyTree], dict[str, np.ndarray]]:
    """Evaluates networks on the validation examples, which then stay on the devices: see `make_evaluator`."""
    return make_evaluator(
      self.model,
      self.validation,
      self.batch_size,
      one_dispatch=self.one_dispatch,
      evaluation=self.evaluation,
    )


def fresh_variables(task: Task) -> PyTree:
  """What the first phase starts from: [K, ...] arrays."""
  return init_variables(task.model, task.example, task.seeds, task.initial)


def begin_phase(task: Task, phase: Phase, fresh: PyTree, before: LoopState | None) -> LoopState:
  """The state at the start of a phase.

  Args:
    task: network, data, seeds.
    phase: which starts.
    fresh: from `fresh_variables`.
    before: the state at the end of the phase before; None in the first.

  Raises:
    ValueError: a first phase that does not start fresh.
  """
  variables = start_variables(phase.start, fresh, before)
  heads = init_heads(task.model, phase, variables, task.example, task.seeds)
  if heads:
    variables = {**variables, "params": {**variables["params"], AUXILIARY: heads}}
  return start_phase(variables, phase.optimizer.build(phase.epochs * task.steps_per_epoch))
