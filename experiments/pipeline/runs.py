"""Runs: the phases of a recipe for a group of seeds, trained, found again, and named by their folders."""

import re
from collections.abc import Callable
from pathlib import Path

from kd_jax.teachers.sources import Teacher
from kd_jax.training.loop import begin_phase, fresh_variables

from .phases import PhaseResult, PhaseRun, Run, locked, run_phase

__all__ = [
  "PhaseResult",
  "Run",
  "check_finished",
  "is_finished",
  "load",
  "locked",
  "run_name",
  "seeds_of",
  "train",
]


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
  for phase in run.recipe.phases:
    start = begin_phase(run.task, phase, fresh, results[-1].state if results else None)
    one = PhaseRun(run, phase, start, [*results], make_teacher, progress)
    results.append(run_phase(one))
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


def seeds_of(folder: Path) -> tuple[int, ...] | None:
  """The seeds of a run's folder, "seeds-0-1-2"; None if it is something else, such as a user's copy."""
  if not re.fullmatch(r"seeds(-\d+)+", folder.name, re.ASCII) or not folder.is_dir():
    return None
  seeds = tuple(int(seed) for seed in folder.name.split("-")[1:])
  return seeds if run_name(seeds) == folder.name and len(set(seeds)) == len(seeds) else None


def run_name(seeds: tuple[int, ...]) -> str:
  """The name of the folder of a run."""
  return "seeds-" + "-".join(str(seed) for seed in seeds)
