"""The students of a study.

WORKDIR/students/METHOD/seeds-0-1-2/   runs, a folder for each group of seeds trained together
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..command_line import console
from . import devices, runs
from .folder import Folder
from .teachers import Teachers


class FinishedStudents(NamedTuple):
  """A row's students of one group of seeds.

  Attributes:
    row: of the study.
    seeds: that were trained together.
    phases: as they are kept.
  """

  row: str
  seeds: tuple[int, ...]
  phases: list[runs.PhaseResult]


@dataclasses.dataclass(frozen=True)
class Students:
  """Trains and finds the students; everything that one process makes is found again by the next.

  Attributes:
    folder: of the study.
    teachers: whom they learn from.
  """

  folder: Folder
  teachers: Teachers

  def train(self, rows: Sequence[str], seeds: Sequence[int] | None = None) -> None:
    """Trains every row and seed that is not trained yet; seed by seed, the rows in turn.

    Args:
      rows: which rows of the study.
      seeds: only groups that hold one of these; by default all.
    """
    recipes = self.folder.recipes
    for row in rows:
      if recipes[row].needs_teacher and not self.folder.study.live_teacher:
        self.teachers.caches.fill(self.teachers.of(row))
    jobs = [(group, row) for row in rows for group in self.seed_groups(row)]
    jobs = [job for job in jobs if seeds is None or set(seeds) & set(job[0])]
    jobs.sort(key=lambda job: (job[0], rows.index(job[1])))
    total = sum(phase.epochs for _, row in jobs for phase in recipes[row].phases)
    with console.Progress("students", total, "epochs") as progress:
      for group, row in jobs:
        source = self.teachers.of(row)
        runs.train(
          self.run(row, group),
          lambda network=source: self.teachers.read(network),
          console.epoch_counter(progress),
        )

  def finished(self) -> Iterator[FinishedStudents]:
    """Every run of the study, read one by one: states are large.

    Raises:
      ValueError: at once, if one is not finished.
    """
    rows = self.folder.study.rows
    found = [(row, group, self.run(row, group)) for row in rows for group in self.seed_groups(row)]
    for _, _, run in found:
      runs.check_finished(run)
    return (FinishedStudents(row, group, runs.load(run)) for row, group, run in found)

  def run(self, row: str, seeds: tuple[int, ...]) -> runs.Run:
    """The run of a row for a group of seeds."""
    folder, recipe, source = self.folder, self.folder.recipes[row], self.teachers.of(row)
    teacher = self.teachers.teacher()
    initial = folder.domain.networks.initial("student", teacher.variables["params"])
    return folder.make_run(
      folder.root / "students" / row / runs.run_name(seeds),
      recipe,
      folder.domain.networks.student,
      seeds,
      parent=self.teachers.link(source) if recipe.needs_teacher else None,
      initial=teacher.start_of(folder, initial),
    )

  def seed_groups(self, row: str) -> list[tuple[int, ...]]:
    """Which seeds train together: groups that an earlier run began, then new ones.

    A group that is there counts for the seeds it shares with the study, also if it holds more.
    """
    study = self.folder.study
    together = study.seeds_together
    if together is None:
      together = devices.seeds_together(self.folder.domain.networks.student, len(study.seed_values))
    wanted = set(study.seed_values)
    folders = (self.folder.root / "students" / row).glob("seeds-*")
    begun = [seeds for folder in folders if (seeds := runs.seeds_of(folder)) is not None]
    groups, taken = [], set()
    for group in sorted(begun, key=lambda group: (-len(group), group)):
      if set(group) & wanted and not set(group) & taken:
        groups.append(group)
        taken |= set(group)
    rest = sorted(wanted - taken)
    groups += [tuple(rest[i : i + together]) for i in range(0, len(rest), together)]
    return sorted(groups)
