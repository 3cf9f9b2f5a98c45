"""One training step, as a pure function of one seed and of one device's share of a batch."""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import optax

from kd_jax import parallel
from kd_jax._reading import DeviceData, StepBatch, inputs_of, over_seeds, take
from kd_jax.data.augmentation import Augmentation
from kd_jax.metrics import Pair
from kd_jax.optimizers import Optimizer
from kd_jax.recipes.parts import Term, labelled_examples
from kd_jax.training.batches import view_of
from kd_jax.training.evaluation import CLASSIFICATION, Evaluation
from kd_jax.training.objective import epoch_at, objective
from kd_jax.training.state import AUXILIARY, TrainState
from kd_jax.types import Array, Batch, Outputs, PyTree


@dataclasses.dataclass(frozen=True)
class Program:
  """What does not change during a phase: all that its compiled step depends on, besides shapes and the teacher.

  Equal programs compile alike. How the teacher gives its outputs is a part of the data's type: see
  `kd_jax.teachers.sources`.

  Attributes:
    model: the student.
    terms: the objective.
    optimizer: of the phase.
    total_steps: of the phase, for the schedule of the learning rate.
    steps_per_epoch: for the schedules of the terms.
    views: how many views of each example training goes through.
    augmentation: of the inputs.
    evaluation: which metrics of training are computed.
  """

  model: nn.Module
  terms: tuple[Term, ...]
  optimizer: Optimizer
  total_steps: int
  steps_per_epoch: int
  views: int = 1
  augmentation: Augmentation = Augmentation(name="none")
  evaluation: Evaluation = CLASSIFICATION


class StepResults(NamedTuple):
  """What a step says of itself: equal on all devices.

  Attributes:
    loss: of the global batch.
    terms: {name: unweighted mean}.
    metrics: {name: (sum, count)} of training, on labelled examples.
    gradient_norm: of the whole gradient.
  """

  loss: Array
  terms: dict[str, Array]
  metrics: dict[str, Pair]
  gradient_norm: Array


def train_step(
  program: Program, state: TrainState, data: DeviceData, batch: StepBatch, seed: Array
) -> tuple[TrainState, StepResults]:
  """One step of one seed on one device, inside a map over the axis `parallel.AXIS`.

  Which view of each example the student sees is a function of (seed, epoch): `batches.view_of`. Dropout is a
  function of (seed, epochs before, step, device).

  Args:
    program: what the phase is.
    state: of one seed: [...].
    data: a bucket; its seeds are not read.
    batch: rows [B / devices] and mask of this device's share.
    seed: uint32.
  """
  epochs_done = data.epochs_before + state.step // program.steps_per_epoch
  view = view_of(seed, epochs_done, program.views)
  inputs = inputs_of(data, batch.rows, program.augmentation, view)
  labelled = None if data.labelled is None else data.labelled[batch.rows]
  examples = Batch(inputs, take(data.labels, batch.rows), batch.mask, labelled)
  teacher = Outputs() if data.teacher is None else data.teacher.outputs(batch.rows, inputs, view)
  noise = _noise_key(seed, data.epochs_before, state.step)

  params = state.variables["params"]
  (loss, (updates, terms, pairs)), gradient = _loss_and_gradient(
    params, program, state, examples, teacher, noise
  )
  gradient, loss, terms, pairs = parallel.sum_over_devices((gradient, loss, terms, pairs))
  change, opt_state = _transformation(program).update(gradient, state.opt_state, params)
  variables = {"params": optax.apply_updates(params, change), **updates}
  results = StepResults(loss, terms, pairs, optax.tree.norm(gradient))
  return TrainState(state.step + 1, variables, opt_state), results


def step_of_seeds(
  program: Program, state: TrainState, data: DeviceData, batch: StepBatch
) -> tuple[TrainState, StepResults]:
  """The step of K seeds: state [K], rows [K, B / devices], results [K]."""
  step = functools.partial(_step_of_rows, program, data, batch)
  return over_seeds(step, state, batch.rows, data.seeds)


def _step_of_rows(program, data, batch, state, rows, seed):
  return train_step(program, state, data, batch._replace(rows=rows), seed)


def _share_of_loss(
  params: PyTree,
  program: Program,
  state: TrainState,
  batch: Batch,
  teacher: Outputs,
  noise: Array,
) -> tuple[Array, tuple[PyTree, dict[str, Array], dict[str, Pair]]]:
  """A device's share of the loss, and (updated statistics, terms, metrics)."""
  statistics = {name: v for name, v in state.variables.items() if name != "params"}
  outputs, updates = program.model.apply(
    {"params": params, **statistics},
    batch.inputs,
    train=True,
    mutable=list(statistics),
    rngs={"dropout": noise},
  )
  epoch = epoch_at(state.step, program.steps_per_epoch)
  heads = params.get(AUXILIARY)
  loss, terms = objective(program.terms, outputs, teacher, batch, epoch, heads)
  pairs = program.evaluation.training(outputs, batch.labels, labelled_examples(batch))
  return loss, (updates, terms, pairs)


_loss_and_gradient = jax.value_and_grad(_share_of_loss, has_aux=True)


def _transformation(program: Program) -> optax.GradientTransformation:
  return program.optimizer.build(program.total_steps)


def _noise_key(seed: Array, epochs_before: Array, step: Array) -> Array:
  """Of the dropout of one seed's step on one device."""
  key = jax.random.fold_in(jax.random.key(seed), epochs_before)
  return jax.random.fold_in(jax.random.fold_in(key, step), parallel.device_index())
