"""The whole job: teacher, cache, students, evaluation, report.

    python -m experiments.study CONFIG [--methods scratch kd ...] [--seeds 5] [--workdir DIR] [overrides]

`--first-seed 5 --seeds 3` trains seeds 5, 6 and 7: `experiments.compare --join` joins studies of other seeds.
`--vary annealing-kd.max-temperature 1 5 10` compares values of a method's option: a row for each.
Stopped at any moment, the same command goes on from the last finished epoch and skips what is done.
"""

import sys
from collections.abc import Sequence

from kd_jax import parallel

from .command_line import console, options
from .command_line.wording import counted
from .pipeline import forecast
from .pipeline.evaluation import evaluate
from .pipeline.folder import open_folder
from .pipeline.students import Students
from .pipeline.teachers import Teachers
from .reporting import findings, tables
from .reporting.results import load_results


def main(argv: Sequence[str] | None = None) -> int:
  study, where, _ = options.parse("study", argv)
  console.start(where)
  folder = open_folder(study, where)
  data = folder.domain.data
  console.say(
    f"{study.name}: {data.train.name} {data.train.version}, {len(data.train)} training, "
    f"{len(data.validation)} validation and {counted(len(data.test), 'test examples')}; "
    f"{counted(len(study.rows), 'methods')} × {counted(len(study.seed_values), 'seeds')} in {where.workdir}"
  )
  teachers = Teachers(folder)
  teachers.teacher()
  students = Students(folder, teachers)
  # Of students that were begun, the progress tells more, and nothing needs to be traced for it.
  begun = (folder.root / "students").exists()
  seconds = None if begun else forecast.students_seconds(students)
  if seconds is not None:
    console.say(f"all students will take {forecast.in_words(seconds)}, by the time of the teacher")
  students.train(tuple(study.rows))
  evaluate(students)
  if parallel.is_main():
    # Here: matplotlib is slow to load, and a command that is refused draws nothing.
    from .reporting import report

    paths = report.write_report(where.workdir)
    results = load_results(where.workdir)
    console.show_table(*tables.main_table(results))
    console.say(f"{findings.chance(results)} {findings.within_chance(results)}".strip())
    console.say(f"report: {', '.join(str(path) for path in paths)}")
  return 0


if __name__ == "__main__":
  sys.exit(console.run(main))
