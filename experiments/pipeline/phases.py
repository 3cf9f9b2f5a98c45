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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kd_jax
from kd_jax import parallel, recipes
from kd_jax.checkpoints import CheckpointError, CheckpointStore, Restored, unflatten
from kd_jax.environment import Environment, changes, distinct, environment
from kd_jax.teachers.sources import Teacher
from kd_jax.training.loop import Task, train_phase
from kd_jax.training.records import EpochRecord
from kd_jax.training.state import LoopState, finished_state

from ..command_line import console
from ..domains.links import Link, LinkKind
from .differences import differences
from .run_log import RunLog, is_logged


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
  parents: tuple[Link, ...]
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

  def link(self, kind: LinkKind, start: str | None = None) -> Link:
    """A link of the lineage to the checkpoint; `start`: which of its weights are taken."""
    named = self.phase.name if kind in (LinkKind.PHASE, LinkKind.TRAINING) else None
    return Link(kind, self.digest, path=self.path, phase=named, start=start)


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


@dataclasses.dataclass(frozen=True)
class PhaseRun:
  """A phase of a run, with all that its training is handed.

  Attributes:
    run: whose.
    phase: which.
    start: the state that it begins with.
    before: the run's earlier phases.
    make_teacher: called only if the phase needs a teacher and is not finished.
    progress: called with (epochs done since the last call, what was done).
  """

  run: Run
  phase: recipes.Phase
  start: LoopState
  before: list[PhaseResult]
  make_teacher: Callable[[], Teacher | None]
  progress: Callable[[int, str], None]

  @property
  def store(self) -> CheckpointStore:
    return self.run.store(self.phase)

  @property
  def folder(self) -> Path:
    return self.run.directory / self.phase.name

  @property
  def title(self) -> str:
    return f"{self.run.recipe.name} {self.phase.name}"

  @property
  def epochs_before(self) -> int:
    return sum(result.phase.epochs for result in self.before)

  def links(self) -> list[Link]:
    """What the phase came from: what the run did, and the phase before."""
    of_teacher = (LinkKind.CACHE, LinkKind.TEACHER)
    needed = self.phase.needs_teacher
    links = [link for link in self.run.parents if needed or link.kind not in of_teacher]
    if self.before and self.phase.start != "fresh":
      links.append(self.before[-1].link(LinkKind.PHASE, self.phase.start))
    return links

  def meta(self) -> dict[str, Any]:
    """The JSON of a checkpoint, apart from its history."""
    described = recipes.describe(self.run.recipe)["phases"][: len(self.before) + 1]
    settings = self.run.settings | {"phases": described, "seeds": list(self.run.task.seeds)}
    return {
      "kind": f"{self.run.recipe.name} phase {self.phase.name}",
      "settings": json.loads(json.dumps(settings)),
      "parents": [link.to_json() for link in self.links()],
    }


@dataclasses.dataclass(frozen=True)
class _Reached:
  """How far a phase is: its state after an epoch, and what its checkpoint holds beside it."""

  epoch: int
  state: LoopState
  history: list[EpochRecord] = dataclasses.field(default_factory=list)
  made_with: list[Environment] = dataclasses.field(default_factory=list)
  digest: str = ""


def run_phase(one: PhaseRun) -> PhaseResult:
  """Trains what is left of a phase."""
  meta = one.meta()
  reached = _reached(one, meta)
  if reached.epoch < one.phase.epochs:
    with locked(one.run.directory):
      reached = _train_epochs(one, reached, meta)
  elif not is_logged(one.folder, reached.history):
    with RunLog(one.folder, reached.history):  # stopped between the last checkpoint and its line
      pass
  path = (one.folder / "checkpoints" / "steps" / str(one.phase.epochs)).relative_to(one.run.root)
  return PhaseResult(
    one.phase,
    reached.state,
    reached.history,
    reached.made_with,
    reached.digest,
    str(path),
    one.run.task.examples_per_epoch,
  )


def _reached(one: PhaseRun, meta: dict[str, Any]) -> _Reached:
  """Where the phase's newest good checkpoint is; at its start if there is none."""
  store = one.store
  restored = _restored(store)
  if restored is None:
    return _Reached(0, one.start)
  for problem in restored.problems:
    console.say(f"warning: {problem}; going on from epoch {restored.step}")
  _refuse_other_settings(restored, meta, one.run, store)
  one.progress(restored.step, one.title)
  return _Reached(
    restored.step,
    _read_back(one.start, restored, finished=restored.step >= one.phase.epochs),
    [EpochRecord.from_json(record) for record in restored.meta["history"]],
    restored.meta.get("made_with", []),
    restored.digest,
  )


def _restored(store: CheckpointStore) -> Restored | None:
  try:
    return store.restore_or_none()
  except CheckpointError as error:
    raise CheckpointError(f"{error}; delete {store.directory} to train this phase again") from None


def _read_back(start: LoopState, restored: Restored, *, finished: bool) -> LoopState:
  """The state of a step; of a finished phase without what only its training needed."""
  if not finished:
    return unflatten(start, restored.state)
  return unflatten(finished_state(start), restored.state)


def _joined(one: PhaseRun, made_with: list[Environment]) -> list[Environment]:
  """The environments of a phase that is trained now; the user hears of it if the run was begun in another."""
  now = environment()
  earlier = made_with or [found for result in one.before for found in result.made_with]
  if earlier and earlier[-1] != now:
    where = one.run.directory.relative_to(one.run.root)
    console.say(f"warning: {where} was begun with {changes(earlier[-1], now)}")
  return distinct([*made_with, now])


def _train_epochs(one: PhaseRun, reached: _Reached, meta: dict[str, Any]) -> _Reached:
  """Trains the epochs that are left, and saves each."""
  run, phase, store = one.run, one.phase, one.store
  made_with = _joined(one, reached.made_with)
  meta = meta | run.kept | {"made_with": made_with}
  teacher = one.make_teacher() if phase.needs_teacher else None
  reports = train_phase(
    *(run.task, phase, reached.state, teacher),
    label=run.recipe.name,
    epochs_before=one.epochs_before,
  )
  try:
    with RunLog(one.folder, reached.history) as log:
      for report in reports:
        last = report.epoch == phase.epochs
        state = finished_state(report.state) if last else report.state
        history = [*reached.history, report.record]
        digest = store.save(
          report.epoch,
          state,
          meta | {"history": [record.to_json() for record in history]},
          keep=1 if last else None,
          background=not last,
        )
        reached = _Reached(report.epoch, state, history, made_with, digest)
        log.write(report.record)
        best = max(report.record.validation)
        one.progress(1, f"{one.title} {best:.1%}")
  finally:
    store.wait()
  return reached


def _refuse_other_settings(restored: Restored, meta, run: Run, store: CheckpointStore) -> None:
  old = restored.meta["settings"] | {"parents": restored.meta["parents"]}
  found = []
  for name, value in (meta["settings"] | {"parents": meta["parents"]}).items():
    defaults = run.defaults.get(name)
    found += differences(name, old.get(name), value, defaults=defaults)
  if found:
    raise CheckpointError(
      f"{store.directory} was trained with other settings{_version(restored)}: {'; '.join(found)}. Use "
      "another --workdir, or delete that folder"
    )


def _version(restored: Restored) -> str:
  """The version that a checkpoint was made by, if it is not this one."""
  made_with = restored.meta.get("made_with") or [{}]
  by = made_with[-1].get("kd_jax", "of an earlier version")
  return "" if by == kd_jax.__version__ else f" (by kd_jax {by}, this is {kd_jax.__version__})"
