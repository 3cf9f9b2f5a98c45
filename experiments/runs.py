"""One run: the phases of a recipe for a group of seeds, with checkpoints, logs and lineage on disk.

RUN/<phase>/checkpoints/    the loop's state after an epoch; JSON beside it: settings, history, lineage
RUN/<phase>/metrics.jsonl   a line for each epoch
RUN/<phase>/events.*        the same for TensorBoard

While a phase is trained, its last two epochs are kept. Of a finished phase, the networks are: the last and the
best of each seed, without the optimiser's state and the heads of the objective.
"""

import contextlib
import dataclasses
import fcntl
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import console
from experiments.differences import differences, with_optimizer_defaults
from experiments.run_log import RunLog, is_logged
from kd_jax import parallel, recipes
from kd_jax.checkpoints import CheckpointError, CheckpointStore, Restored, unflatten
from kd_jax.environment import Environment, changes, distinct, environment
from kd_jax.teachers.sources import Teacher
from kd_jax.training.loop import Task, begin_phase, fresh_variables, train_phase
from kd_jax.training.records import EpochRecord
from kd_jax.training.state import LoopState, finished_state
from kd_jax.types import PyTree

Parent = dict[str, Any]
"""A link of the lineage: {"kind", "digest"} and, for what lies in the study's folder, "path"."""


@dataclasses.dataclass(frozen=True)
class Run:
  """What is trained, and where it is kept.

  Attributes:
    directory: of this run; one folder within it for each phase.
    root: of the study, against which paths in the lineage are written.
    recipe: the phases.
    task: network, data, seeds.
    settings: everything else that decides the result, as plain values; compared on resumption.
    parents: what the run came from besides its own earlier phases.
    kept: JSON that is saved with every checkpoint: what using the network takes besides its weights.
    defaults: by name of a setting, what older runs that lack a part of it were trained with.
  """

  directory: Path
  root: Path
  recipe: recipes.Recipe
  task: Task
  settings: dict[str, Any]
  parents: tuple[Parent, ...]
  kept: dict[str, Any] = dataclasses.field(default_factory=dict)
  defaults: dict[str, Any] = dataclasses.field(default_factory=dict)

  def store(self, phase: recipes.Phase) -> CheckpointStore:
    return CheckpointStore(self.directory / phase.name / "checkpoints", apart=("best",))

  def epochs(self) -> int:
    return sum(phase.epochs for phase in self.recipe.phases)


@dataclasses.dataclass(frozen=True)
class PhaseResult:
  """A finished phase, read back.

  Attributes:
    phase: which.
    state: with the last and the best networks of each seed; nothing of the optimiser.
    history: a record for each epoch.
    made_with: the versions and devices that took part.
    digest: of the checkpoint.
    path: of the checkpoint, relative to the study.
    examples_per_epoch: that were trained on.
  """

  phase: recipes.Phase
  state: LoopState
  history: list[EpochRecord]
  made_with: list[Environment]
  digest: str
  path: str
  examples_per_epoch: int


def train(
  run: Run, make_teacher: Callable[[], Teacher | None], progress: Callable[[int, str], None]
) -> list[PhaseResult]:
  """Trains what is not yet trained, and returns all phases.

  Args:
    run: what and where.
    make_teacher: called only if a phase that needs a teacher is not finished.
    progress: called with (epochs done since the last call, what was done).

  Raises:
    ValueError: the folder holds a run with other settings, or its checkpoints are all broken.
    NonFiniteError: from the loop.
  """
  results = _phases(run, make_teacher, progress)
  # A process that was killed after its last save left some, and so did older versions.
  stores = [run.store(phase) for phase in run.recipe.phases]
  if any(store.superseded() for store in stores):
    with locked(run.directory):
      for store in stores:
        store.drop_superseded()
  return results


def _phases(run: Run, make_teacher, progress) -> list[PhaseResult]:
  fresh = fresh_variables(run.task)
  results: list[PhaseResult] = []
  for index, phase in enumerate(run.recipe.phases):
    start = begin_phase(run.task, phase, fresh, results[-1].state if results else None)
    meta = _meta(run, index, results)
    results.append(_train_phase(run, phase, start, meta, make_teacher, progress, results))
  return results


def is_finished(run: Run) -> bool:
  """Whether every phase has its last checkpoint."""
  return all(phase.epochs in run.store(phase).steps() for phase in run.recipe.phases)


def check_finished(run: Run) -> None:
  """Refuses a run that is not finished.

  Raises:
    ValueError: a phase lacks its last checkpoint.
  """
  if not is_finished(run):
    raise _not_finished(run)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
  """Keeps a second command from writing the same folder at the same time.

  Raises:
    ValueError: one is at work there.
  """
  if not parallel.is_main():
    yield
    return
  directory.mkdir(parents=True, exist_ok=True)
  with open(directory / ".lock", "w", encoding="utf-8") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(f"another command is at work in {directory}: wait until it ends") from None
    yield


def load(run: Run) -> list[PhaseResult]:
  """Reads all phases of a finished run.

  Raises:
    ValueError: it is not finished, or not this run.
  """

  def refuse():  # its last checkpoint is broken
    raise _not_finished(run)

  check_finished(run)
  return _phases(run, refuse, lambda epochs, detail: None)


def _not_finished(run: Run) -> ValueError:
  return ValueError(f"{run.directory} is not finished: train it first")


def _train_phase(
  run: Run, phase, start: LoopState, meta, make_teacher, progress, before: list[PhaseResult]
) -> PhaseResult:
  store, folder = run.store(phase), run.directory / phase.name
  state, history, epoch, made_with, digest = start, [], 0, [], ""
  restored = _restored(store)
  if restored is not None:
    for problem in restored.problems:
      console.say(f"warning: {problem}; going on from epoch {restored.step}")
    _refuse_other_settings(restored, meta, run, store)
    epoch, digest = restored.step, restored.digest
    state = _read_back(start, restored, finished=epoch >= phase.epochs)
    history = [EpochRecord.from_json(record) for record in restored.meta["history"]]
    made_with = restored.meta.get("made_with", [])
    progress(epoch, f"{run.recipe.name} {phase.name}")
  if epoch < phase.epochs:
    made_with = _joined(run, made_with, before)
    meta |= run.kept | {"made_with": made_with}
    epochs_before = sum(result.phase.epochs for result in before)
    with locked(run.directory):
      state, history, digest = _train_epochs(
        run, phase, store, state, history, meta, make_teacher, progress, epochs_before
      )
  elif not is_logged(folder, history):
    with RunLog(folder, history):  # stopped between the last checkpoint and its line
      pass
  path = (folder / "checkpoints" / "steps" / str(phase.epochs)).relative_to(run.root)
  examples = run.task.examples_per_epoch
  return PhaseResult(phase, state, history, made_with, digest, str(path), examples)


def _restored(store: CheckpointStore) -> Restored | None:
  try:
    return store.restore_or_none()
  except CheckpointError as error:
    raise CheckpointError(f"{error}; delete {store.directory} to train this phase again") from None


def _read_back(start: LoopState, restored: Restored, *, finished: bool) -> LoopState:
  """The state of a step; of a finished phase without what only its training needed."""
  if not finished:
    return unflatten(start, restored.state)
  kept = {name: x for name, x in restored.state.items() if not _OF_TRAINING.match(name)}
  return unflatten(finished_state(start), kept)


_OF_TRAINING = re.compile(
  r"train\.(step$|opt_state\.)|(best|train\.variables)\.params\.auxiliary\."
)
"""Phases that were finished before 0.2 hold these, too."""


def _joined(run: Run, made_with: list[Environment], before: list[PhaseResult]) -> list[Environment]:
  """The environments of a phase that is trained now; the user hears of it if the run was begun in another."""
  now = environment()
  earlier = made_with or [found for result in before for found in result.made_with]
  if earlier and earlier[-1] != now:
    where = run.directory.relative_to(run.root)
    console.say(f"warning: {where} was begun with {changes(earlier[-1], now)}")
  return distinct([*made_with, now])


def _train_epochs(
  run: Run,
  phase: recipes.Phase,
  store: CheckpointStore,
  state: LoopState,
  history: list[EpochRecord],
  meta: dict[str, Any],
  make_teacher: Callable[[], Teacher | None],
  progress: Callable[[int, str], None],
  epochs_before: int,
) -> tuple[LoopState, list[EpochRecord], str]:
  teacher = make_teacher() if phase.needs_teacher else None
  reports = train_phase(
    run.task, phase, state, teacher, label=run.recipe.name, epochs_before=epochs_before
  )
  try:
    with RunLog(run.directory / phase.name, history) as log:
      for report in reports:
        last = report.epoch == phase.epochs
        state = finished_state(report.state) if last else report.state
        history = [*history, report.record]
        digest = store.save(
          report.epoch,
          state,
          meta | {"history": [record.to_json() for record in history]},
          keep=1 if last else None,
          background=not last,
        )
        log.write(report.record)
        best = max(report.record.validation)
        progress(1, f"{run.recipe.name} {phase.name} {best:.1%}")
  finally:
    store.wait()
  return state, history, digest


def _meta(run: Run, index: int, before: list[PhaseResult]) -> dict[str, Any]:
  """What a checkpoint of a phase says of itself, apart from its history."""
  phase = run.recipe.phases[index]
  parents = [
    parent
    for parent in run.parents
    if parent["kind"] not in ("cache", "teacher") or phase.needs_teacher
  ]
  if before and phase.start != "fresh":
    link = {"kind": f"phase {before[-1].phase.name}", "path": before[-1].path}
    parents.append(link | {"digest": before[-1].digest, "start": phase.start})
  described = recipes.describe(run.recipe)["phases"][: index + 1]
  return {
    "kind": f"{run.recipe.name} phase {phase.name}",
    "settings": json.loads(
      json.dumps(run.settings | {"phases": described, "seeds": list(run.task.seeds)})
    ),
    "parents": parents,
  }


def _refuse_other_settings(restored: Restored, meta, run: Run, store: CheckpointStore) -> None:
  old = restored.meta["settings"] | {"parents": restored.meta["parents"]}
  old |= {"phases": with_optimizer_defaults(old["phases"])}
  # Before 0.2, schedules were rounded to eight decimals.
  rounded = 0.0 if "made_with" in restored.meta else 1e-8
  found = []
  for name, value in (meta["settings"] | {"parents": meta["parents"]}).items():
    defaults = run.defaults.get(name)
    found += differences(name, old.get(name), value, defaults=defaults, rounded=rounded)
  if found:
    raise CheckpointError(
      f"{store.directory} was trained with other settings: {'; '.join(found)}. Use another "
      "--workdir, or delete that folder"
    )


def seeds_of(folder: Path) -> tuple[int, ...] | None:
  """The seeds of a run's folder, "seeds-0-1-2"; None if it is something else, such as a user's copy."""
  if not re.fullmatch(r"seeds(-\d+)+", folder.name, re.ASCII) or not folder.is_dir():
    return None
  seeds = tuple(int(seed) for seed in folder.name.split("-")[1:])
  return seeds if run_name(seeds) == folder.name and len(set(seeds)) == len(seeds) else None


def run_name(seeds: tuple[int, ...]) -> str:
  """The name of the folder of a run."""
  return "seeds-" + "-".join(str(seed) for seed in seeds)


def save_network(directory: Path, variables: PyTree, meta: dict[str, Any]) -> None:
  """Writes a finished network, [no seed axis], as a checkpoint of its own."""
  meta = meta | {"made_with": [environment()]}
  CheckpointStore(directory).save(0, jax.tree.map(np.asarray, variables), meta, keep=1)


def load_network(directory: Path, model, example: PyTree) -> tuple[PyTree, Restored]:
  """Reads a finished network back into the form of a model.

  Raises:
    CheckpointError: absent, broken or of another shape.
  """
  restored = CheckpointStore(directory).restore()
  template = jax.eval_shape(lambda key: model.init(key, example, train=False), jax.random.key(0))
  template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
  return unflatten(template, restored.state), restored
