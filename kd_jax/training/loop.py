"""The loop over the epochs of a phase. It neither reads nor writes files: the caller does, between epochs."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from kd_jax import _programs as programs, metrics, parallel
from kd_jax.data.augmentation import Augmentation
from kd_jax.data.dataset import Dataset
from kd_jax.data.sequences import SequenceDataset
from kd_jax.recipes.parts import Phase, Recipe
from kd_jax.structured import layout
from kd_jax.training import batches, step as steps
from kd_jax.training.evaluation import CLASSIFICATION, Evaluation
from kd_jax.training.evaluator import make_evaluator
from kd_jax.training.state import (
  AUXILIARY,
  LoopState,
  init_heads,
  init_variables,
  start_phase,
  start_variables,
  track_best,
)
from kd_jax.types import PyTree


class NonFiniteError(FloatingPointError):
  """A loss, a gradient or a weight became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Task:
  """What all phases of all methods share.

  Attributes:
    model: the student; image networks are built with `axis_name=parallel.AXIS`.
    train: training examples.
    validation: held-out examples, for choosing the best epoch.
    batch_size: of all devices together.
    seeds: trained together as one program; see `batches` for what they share.
    augmentation: of the training examples.
    views: how many views of each example training goes through, one an epoch; each seed begins at another.
    one_dispatch: see `parallel.one_dispatch_an_epoch`; by default what suits a convolutional network.
    evaluation: how the network is judged, and by what the best epoch is chosen.
    initial: what the network starts from where not all of it is fresh: see `init_variables`.
  """

  model: nn.Module
  train: Dataset | SequenceDataset
  validation: Dataset | SequenceDataset
  batch_size: int
  seeds: tuple[int, ...] = (0,)
  augmentation: Augmentation = Augmentation(name="none")
  views: int = 1
  one_dispatch: bool = dataclasses.field(
    default_factory=lambda: parallel.one_dispatch_an_epoch(convolutional=True)
  )
  evaluation: Evaluation = CLASSIFICATION
  initial: PyTree = None

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


class EpochReport(NamedTuple):
  """What an epoch leaves.

  Attributes:
    epoch: its number within the phase, from 1.
    state: to be saved, and to go on from.
    record: plain values for logs; a list with a value for each seed where seeds differ.
    seconds: of training, without evaluation.
  """

  epoch: int
  state: LoopState
  record: dict[str, Any]
  seconds: float


def train_phase(
  task: Task,
  phase: Phase,
  state: LoopState,
  teacher: steps.Teacher = steps.NO_TEACHER,
  *,
  label: str = "",
  epochs_before: int = 0,
) -> Iterator[EpochReport]:
  """Trains from a state to the end of a phase, an epoch at a time.

  The result is a function of the arguments alone: stopped after any epoch and started again from the state of
  that report, it ends with the same bits.

  Args:
    task: network, data, seeds.
    phase: objective, optimiser, epochs.
    state: from `start_phase`, or of an earlier report.
    teacher: `cached_teacher` or `live_teacher`; none is needed where no term needs one.
    label: what error messages call the method.
    epochs_before: epochs of earlier phases: the order and the views of examples go on from there.

  Yields:
    A report after each epoch.

  Raises:
    NonFiniteError: naming method, phase, epoch and steps; the last report's state is good.
    ValueError: a batch that does not divide over the devices or exceeds the data; a missing teacher, or outputs
      that are not of these examples and views; a state of another number of seeds.
  """
  if not phase.needs_teacher:
    teacher = steps.NO_TEACHER
  elif teacher is steps.NO_TEACHER:
    raise ValueError(f"phase {phase.name!r} of {label!r} needs a teacher, got none")
  _check_fit(task, state, teacher)
  parallel.device_batch_size(task.batch_size)
  per_epoch = task.steps_per_epoch
  total_steps = phase.epochs * per_epoch
  run_epoch = _train_program(task, phase, total_steps, teacher)
  held = _on_devices(task, phase, teacher, epochs_before)
  rate = phase.optimizer.schedule(total_steps)
  train = parallel.replicate(state.train)
  for done in range(int(state.train.step[0]) // per_epoch if per_epoch else 0, phase.epochs):
    started = time.perf_counter()
    plan = batches.plan_epoch(
      task.train.buckets,
      task.seeds,
      epochs_before + done,
      task.batch_size,
      labelled_only=phase.labelled_only,
    )
    train, results = _run_epoch(run_epoch, train, held, plan)
    seconds = time.perf_counter() - started
    host = parallel.fetch(train)
    _refuse_non_finite(results, host.variables, task, phase, done, label)
    score = task.evaluate(train.variables)[task.evaluation.select]
    state = track_best(state, host, score, done + 1, phase.best_from)
    # What fills up batches counts in their means, not in an epoch's.
    filled = batches.share_of_examples(plan)
    record = {
      "epoch": done + 1,
      "train_loss": _means(results["loss"], filled),
      "terms": {name: _means(values, filled) for name, values in results["terms"].items()},
      **{
        f"train_{name}": values.tolist()
        for name, values in metrics.totals([results["metrics"]]).items()
      },
      "gradient_norm": _means(results["gradient_norm"]),
      f"validation_{task.evaluation.select}": [float(value) for value in score],
      "schedules": schedule_values(phase, done),
      "learning_rate": float(rate(done * per_epoch)),
    }
    yield EpochReport(done + 1, state, record, seconds)


def train_recipe(
  task: Task, recipe: Recipe, teacher: steps.Teacher = steps.NO_TEACHER
) -> Iterator[tuple[Phase, EpochReport]]:
  """Trains all phases of a recipe in memory: what the experiments do, without their files.

  Args:
    task: network, data, seeds.
    recipe: one without an assistant, or whose assistant `teacher` already is.
    teacher: as of `train_phase`.

  Yields:
    The phase and its report, after each epoch; the last report's state holds the trained variables [K, ...].

  Raises:
    NonFiniteError, ValueError: as `train_phase`.
  """
  fresh = fresh_variables(task)
  state, epochs_before = None, 0
  for phase in recipe.phases:
    state = begin_phase(task, phase, fresh, state)
    for report in train_phase(
      task, phase, state, teacher, label=recipe.name, epochs_before=epochs_before
    ):
      state = report.state
      yield phase, report
    epochs_before += phase.epochs


def _train_program(task: Task, phase: Phase, total_steps: int, teacher: steps.Teacher):
  """The function that runs steps of a phase; the same one for other seeds, epochs before and data."""
  per_epoch = task.steps_per_epoch
  terms = tuple(
    (
      term.name,
      programs.key_of(term.loss),
      (type(term.weight), term.weight),
      tuple(sorted(term.schedules.items())),
      term.heads,
      term.reads_labels,
    )
    for term in phase.objective
  )

  def make():
    step = steps.make_train_step(
      task.model,
      phase.objective,
      phase.optimizer.build(total_steps),
      teacher.outputs,
      task.augmentation,
      steps_per_epoch=per_epoch,
      views=task.views,
      evaluation=task.evaluation,
    )
    return parallel.epoch_runner(step, one_dispatch=task.one_dispatch, donate=True)

  key = ("training", task.model, terms, phase.optimizer, total_steps, per_epoch, task.views)
  key += (task.augmentation, task.evaluation, task.one_dispatch, programs.key_of(teacher.outputs))
  return programs.kept(key, make)


def _on_devices(
  task: Task, phase: Phase, teacher: steps.Teacher, epochs_before: int
) -> list[steps.DeviceData]:
  """The data of each bucket; what they share, a live teacher's weights above all, is there once."""
  fields = {field for term in phase.objective if term.needs_teacher for field in term.reads}
  # The top k stand in for the logits.
  teacher = teacher.reading(fields | ({"top_k"} if "logits" in fields else set()))
  seeds, before, weights = parallel.replicate(
    (np.asarray(task.seeds, np.uint32), np.int32(epochs_before), teacher.shared)
  )
  held = []
  for index, bucket in enumerate(task.train.buckets):
    own = parallel.replicate(steps.device_data(bucket, teacher.of_bucket(index)))
    own = own._replace(seeds=seeds, epochs_before=before)
    held.append(own if teacher.cached else own._replace(teacher=weights))
  return held


def _run_epoch(run_epoch, train: PyTree, held: list[PyTree], plan: list[batches.Stretch]):
  """All steps of an epoch, bucket by bucket in their shuffled order; results are stacked, [steps, K]."""
  pieces = []
  for stretch in plan:
    mask = None if stretch.mask is None else parallel.shard(stretch.mask, axis=1)
    batch = steps.StepBatch(parallel.shard(stretch.rows, axis=2), mask)
    train, outputs = run_epoch(train, held[stretch.bucket], batch)
    pieces += outputs
  return train, parallel.collect(pieces)


def _check_fit(task: Task, state: LoopState, teacher: steps.Teacher) -> None:
  """Refuses arrays of other lengths than the task's: on a device, a row out of range is silently clamped."""
  if not len(task.validation):
    raise ValueError("the validation split is empty: it chooses the best epoch")
  if task.validation.labelled is not None:
    raise ValueError(
      "the validation split must have a label for every example: it chooses the best epoch"
    )
  if state.train.step.shape != (len(task.seeds),):
    raise ValueError(
      f"the state holds {len(state.train.step)} seeds, the task has {len(task.seeds)}: {task.seeds}"
    )
  if not teacher.cached:
    return
  buckets = task.train.buckets
  if len(teacher.arrays) != len(buckets):
    raise ValueError(
      f"teacher outputs are of {len(teacher.arrays)} buckets, the task has {len(buckets)}"
    )
  if not isinstance(teacher.arrays, steps.CachedOutputs):
    for bucket, arrays in zip(buckets, teacher.arrays, strict=True):
      layout.check(arrays, len(bucket.rows), bucket.length)
    return
  expected = (len(task.train), task.views)
  for leaf in jax.tree.leaves(teacher.arrays.outputs):
    if leaf.shape[:2] != expected:
      raise ValueError(
        f"teacher outputs {leaf.shape} are of {leaf.shape[0]} examples and {leaf.shape[1]} views, the "
        f"task has {expected[0]} and {expected[1]}"
      )


def schedule_values(phase: Phase, epoch: float) -> dict[str, float]:
  """Everything scheduled in a phase at one epoch, for logs: weights and losses' keyword arguments."""
  values = {}
  for term in phase.objective:
    if callable(term.weight):
      values[f"{term.name}_weight"] = float(term.weight(epoch))
    for name, schedule in term.schedules.items():
      values[name] = float(schedule(epoch))
  return values


def _means(values: np.ndarray, filled: float = 1.0) -> list[float]:
  return [float(v) / filled for v in values.astype(np.float64).mean(axis=0)]


def _refuse_non_finite(results, variables, task: Task, phase: Phase, done: int, label: str) -> None:
  finite = np.isfinite(results["loss"]) & np.isfinite(results["gradient_norm"])
  first = done * task.steps_per_epoch
  problem = ""
  if not finite.all():
    step, seed = np.argwhere(~finite)[0]
    problem = (
      f"loss {results['loss'][step, seed]} and gradient norm "
      f"{results['gradient_norm'][step, seed]} at step {first + step + 1} of seed {task.seeds[seed]}"
    )
  elif not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
    problem = "a weight is not finite after the last update"
  if problem:
    before = f"the checkpoint of epoch {done} is good" if done else "no epoch was finished"
    raise NonFiniteError(
      f"{label or 'training'}, phase {phase.name}, epoch {done + 1}, steps {first + 1}-"
      f"{first + len(finite)}: {problem}; {before}"
    )
