"""Trains or imports the teacher of a study.

python -m experiments.teacher CONFIG [--teacher-weights FILE] [--workdir DIR] [overrides]
"""

import sys
from collections.abc import Sequence

from .command_line import console, options
from .pipeline.folder import open_folder
from .pipeline.teachers import Teachers


def main(argv: Sequence[str] | None = None) -> int:
  study, where, _ = options.parse("teacher", argv)
  console.start(where)
  folder = open_folder(study, where)
  teacher, metric = Teachers(folder).teacher(), folder.domain.evaluation.select
  score = teacher.validation
  known = "" if score is None else f", validation {metric} {score:.2%}"
  console.say(
    f"teacher {teacher.digest[:12]} ({teacher.source}, {teacher.parameters:,} parameters{known}) in "
    f"{where.workdir / 'teacher'}"
  )
  return 0


if __name__ == "__main__":
  sys.exit(console.run(main))
