"""A study at work in its folder, left to right: data, teacher, cache, students. Each stage resumes.

WORKDIR/students/METHOD/seeds-0-1-2/   runs, a folder for each group of seeds trained together
"""

from collections.abc import Iterator

from experiments.command_line import console
from experiments.pipeline import runs
from experiments.pipeline.teachers import Network, Networks


class Pipeline(Networks):
  """All stages of a study. Everything one makes is found again by the next process."""

  def seed_groups(self, method: str) -> list[tuple[int, ...]]:
    """Which seeds train together: groups that an earlier run began, then new ones.

    A group that is there counts for the seeds it shares with the study, also where it holds more.
    """
    together = self.study.seeds_together
    if together is None:
      together = self.domain.seeds_together(self.study.seeds)
    wanted = set(range(self.study.seeds))
    folders = (self.root / "students" / method).glob("seeds-*")
    begun = [seeds for folder in folders if (seeds := runs.seeds_of(folder)) is not None]
    groups, taken = [], set()
    for group in sorted(begun, key=lambda group: (-len(group), group)):
      if set(group) & wanted and not set(group) & taken:
        groups.append(group)
        taken |= set(group)
    wanted -= taken
    rest = sorted(wanted)
    groups += [tuple(rest[i : i + together]) for i in range(0, len(rest), together)]
    return sorted(groups)

  def source_of(self, method: str, teacher: Network) -> Network:
    """Whom the students of a method learn from: the teacher, or the method's assistant."""
    return teacher if self.recipes[method].assistant is None else self.assistant(method)

  def student_run(self, method: str, seeds: tuple[int, ...], teacher: Network) -> runs.Run:
    """The run of a method for a group of seeds."""
    recipe, source = self.recipes[method], self.source_of(method, teacher)
    directory = self.root / "students" / method / runs.run_name(seeds)
    link = self.teacher_link(source) if recipe.needs_teacher else None
    spec = self.domain.student
    initial = self.initial(spec, teacher)
    return self.make_run(directory, recipe, spec, seeds, link, initial=initial)

  def train_students(self, teacher: Network, methods: tuple[str, ...], seeds=None) -> None:
    """Trains every method and seed that is not trained yet; seed by seed, the methods in turn.

    Args:
      teacher: of all methods.
      methods: which.
      seeds: only groups that hold one of these; by default all.
    """
    for method in methods:
      if self.recipes[method].needs_teacher and not self.study.live_teacher:
        self.precompute(self.source_of(method, teacher))
    jobs = [(group, m) for m in methods for group in self.seed_groups(m)]
    jobs = [job for job in jobs if seeds is None or set(seeds) & set(job[0])]
    jobs.sort(key=lambda job: (job[0], methods.index(job[1])))
    total = sum(self._epochs(method) for _, method in jobs)
    with console.Progress("students", total, "epochs") as progress:
      for group, method in jobs:
        run = self.student_run(method, group, teacher)
        source = self.source_of(method, teacher)
        runs.train(
          run, lambda network=source: self.source(network), console.epoch_counter(progress)
        )

  def finished_students(self, teacher: Network) -> Iterator[tuple[str, tuple, list]]:
    """(method, seeds, phases) of every run of the study, read one by one: states are large.

    Raises:
      ValueError: at once, where one is not finished.
    """
    found = [
      (method, group, self.student_run(method, group, teacher))
      for method in self.study.rows
      for group in self.seed_groups(method)
    ]
    for _, _, run in found:
      runs.check_finished(run)
    return ((method, group, runs.load(run)) for method, group, run in found)

  def _epochs(self, method: str) -> int:
    return sum(phase.epochs for phase in self.recipes[method].phases)
