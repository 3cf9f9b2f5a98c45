"""The loop over the epochs of a phase. It neither reads nor writes files: the caller does, between epochs.

A phase is prepared once; then each epoch is run, judged on the held-out examples, and recorded.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from kd_jax import _programs as programs, metrics, parallel
from kd_jax._reading import DeviceData, StepBatch
from kd_jax.recipes.parts import Phase, Recipe
from kd_jax.teachers import sources
from kd_jax.teachers.sources import LiveTeacher, Teacher
from kd_jax.training import batches
from kd_jax.training.evaluator import make_evaluator as make_evaluator
from kd_jax.training.records import EpochRecord, EpochReport
from kd_jax.training.state import LoopState, TrainState, track_best
from kd_jax.training.step import Program, StepResults, step_of_seeds
from kd_jax.training.task import (
  Task as Task,
  begin_phase as begin_phase,
  fresh_variables as fresh_variables,
)
from kd_jax.types import ArrayLike, PyTree


class NonFiniteError(FloatingPointError):
  """A loss, a gradient or a weight became NaN or infinite."""


def train_phase(
  task: Task,
  phase: Phase,
  state: LoopState,
  teacher: Teacher | None = None,
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
    teacher: `cached_teacher` or `live_teacher`; None if no term needs one.
    label: what error messages call the method.
    epochs_before: epochs of earlier phases: the order and the views of examples go on from there.

  Yields:
    A report after each epoch.

  Raises:
    NonFiniteError: naming method, phase, epoch and steps; the last report's state is good.
    ValueError: a batch that does not divide over the devices or exceeds the data; a missing teacher, or outputs
      that are not of these examples and views; a state of another number of seeds.
  """
  prepared = _prepare(task, phase, state, teacher, label, epochs_before)
  train = parallel.replicate(state.train)
  for done in range(_epochs_done(task, state), phase.epochs):
    started = time.perf_counter()
    plan = _plan(prepared, done)
    train, results = _run_epoch(prepared, train, plan)
    seconds = time.perf_counter() - started
    host = parallel.fetch(train)
    _refuse_non_finite(prepared, results, host.variables, done)
    score = task.evaluate(train.variables)[task.evaluation.select]
    state = track_best(state, host, score, done + 1, phase.best_from)
    yield EpochReport(_record(prepared, done, plan, results, score, seconds), state)


def train_recipe(
  task: Task, recipe: Recipe, teacher: Teacher | None = None
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


# Prepare.


class _Prepared(NamedTuple):
  """What all epochs of a phase share.

  Attributes:
    task, phase, label, epochs_before: as of `train_phase`.
    run: (train state, data of a bucket, batches) -> (train state, results), on the devices.
    held: the data of each bucket, on the devices.
  """

  task: Task
  phase: Phase
  label: str
  epochs_before: int
  run: Callable[[TrainState, DeviceData, StepBatch], tuple[TrainState, parallel.Pieces]]
  held: list[DeviceData]


def _prepare(
  task: Task,
  phase: Phase,
  state: LoopState,
  teacher: Teacher | None,
  label: str,
  epochs_before: int,
) -> _Prepared:
  """Checks that everything fits, finds or makes the compiled steps, and uploads the data."""
  if not phase.needs_teacher:
    teacher = None
  elif teacher is None:
    raise ValueError(f"phase {phase.name!r} of {label!r} needs a teacher, got none")
  _check_fit(task, state, teacher)
  parallel.device_batch_size(task.batch_size)
  run = _runner(program_of(task, phase), task.one_dispatch)
  held = _on_devices(task, phase, teacher, epochs_before)
  return _Prepared(task, phase, label, epochs_before, run, held)


def program_of(task: Task, phase: Phase) -> Program:
  """What the steps of a phase are compiled for."""
  return Program(
    model=task.model,
    terms=phase.objective,
    optimizer=phase.optimizer,
    total_steps=phase.epochs * task.steps_per_epoch,
    steps_per_epoch=task.steps_per_epoch,
    views=task.views,
    augmentation=task.augmentation,
    evaluation=task.evaluation,
  )


def _runner(program: Program, one_dispatch: bool) -> Callable:
  """The same one for other seeds, epochs before and data."""
  return programs.kept(
    ("training", program, one_dispatch),
    lambda: parallel.epoch_runner(
      functools.partial(step_of_seeds, program), one_dispatch=one_dispatch, donate=True
    ),
  )


def _check_fit(task: Task, state: LoopState, teacher: Teacher | None) -> None:
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
  if teacher is not None:
    sources.check_teacher(teacher, task.train.buckets, task.views)


def _on_devices(
  task: Task, phase: Phase, teacher: Teacher | None, epochs_before: int
) -> list[DeviceData]:
  """The data of each bucket; what they share, a live teacher's weights above all, is there once."""
  whole, parts = None, None
  if isinstance(teacher, LiveTeacher):
    whole = teacher
  elif teacher is not None:
    parts = sources.reading(teacher, phase.reads)
  seeds, before, whole = parallel.replicate(
    (np.asarray(task.seeds, np.uint32), np.int32(epochs_before), whole)
  )
  held = []
  for index, bucket in enumerate(task.train.buckets):
    own = parallel.replicate(
      DeviceData(
        bucket.inputs,
        bucket.labels,
        bucket.keys,
        None if parts is None else parts[index],
        labelled=bucket.labelled,
      )
    )
    own = own._replace(seeds=seeds, epochs_before=before)
    held.append(own if whole is None else own._replace(teacher=whole))
  return held


# Run an epoch.


def _epochs_done(task: Task, state: LoopState) -> int:
  return int(state.train.step[0]) // task.steps_per_epoch if task.steps_per_epoch else 0


def _plan(prepared: _Prepared, done: int) -> list[batches.Stretch]:
  task = prepared.task
  return batches.plan_epoch(
    task.train.buckets,
    task.seeds,
    prepared.epochs_before + done,
    task.batch_size,
    labelled_only=prepared.phase.labelled_only,
  )


def _run_epoch(
  prepared: _Prepared, train: TrainState, plan: list[batches.Stretch]
) -> tuple[TrainState, StepResults]:
  """All steps of an epoch, bucket by bucket in their shuffled order; results are stacked, [steps, K]."""
  pieces = []
  for stretch in plan:
    mask = None if stretch.mask is None else parallel.shard(stretch.mask, axis=1)
    batch = StepBatch(parallel.shard(stretch.rows, axis=2), mask)
    train, outputs = prepared.run(train, prepared.held[stretch.bucket], batch)
    pieces += outputs
  return train, parallel.collect(pieces)


# Judge.


def _refuse_non_finite(
  prepared: _Prepared, results: StepResults, variables: PyTree, done: int
) -> None:
  task = prepared.task
  finite = np.isfinite(results.loss) & np.isfinite(results.gradient_norm)
  first = done * task.steps_per_epoch
  problem = ""
  if not finite.all():
    step, seed = np.argwhere(~finite)[0]
    problem = (
      f"loss {results.loss[step, seed]} and gradient norm "
      f"{results.gradient_norm[step, seed]} at step {first + step + 1} of seed {task.seeds[seed]}"
    )
  elif not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
    problem = "a weight is not finite after the last update"
  if problem:
    before = f"the checkpoint of epoch {done} is good" if done else "no epoch was finished"
    raise NonFiniteError(
      f"{prepared.label or 'training'}, phase {prepared.phase.name}, epoch {done + 1}, steps {first + 1}-"
      f"{first + len(finite)}: {problem}; {before}"
    )


# Record.


def _record(
  prepared: _Prepared,
  done: int,
  plan: list[batches.Stretch],
  results: StepResults,
  score: np.ndarray,
  seconds: float,
) -> EpochRecord:
  task, phase = prepared.task, prepared.phase
  # What fills up batches counts in their means, not in an epoch's.
  filled = batches.share_of_examples(plan)
  rate = phase.optimizer.schedule(phase.epochs * task.steps_per_epoch)
  pairs = metrics.totals([results.metrics])
  return EpochRecord(
    epoch=done + 1,
    train_loss=_means(results.loss, filled),
    terms={name: _means(values, filled) for name, values in results.terms.items()},
    train_metrics={name: tuple(values.tolist()) for name, values in pairs.items()},
    gradient_norm=_means(results.gradient_norm),
    metric=task.evaluation.select,
    validation=tuple(float(value) for value in score),
    schedules=schedule_values(phase, done),
    learning_rate=_number(rate(done * task.steps_per_epoch)),
    seconds=seconds,
  )


def schedule_values(phase: Phase, epoch: float) -> dict[str, float]:
  """Everything scheduled in a phase at one epoch, for logs: weights and options of losses."""
  values = {}
  for term in phase.objective:
    if callable(term.weight):
      values[f"{term.name}_weight"] = _number(term.weight(epoch))
    for name, option in term.options.items():
      if callable(option):
        values[name] = _number(option(epoch))
  return values


def _number(value: ArrayLike) -> float:
  return float(np.asarray(value))


def _means(values: ArrayLike, filled: float = 1.0) -> tuple[float, ...]:
  return tuple(float(v) / filled for v in np.asarray(values, np.float64).mean(axis=0))
