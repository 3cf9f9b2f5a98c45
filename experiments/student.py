"""Trains the students of one method, from a teacher that is trained and cached before (or now).

python -m experiments.student CONFIG --method annealing_kd [--seed 0] [--workdir DIR] [overrides]
"""

import dataclasses
import sys
from collections.abc import Sequence

from .command_line import console, options
from .pipeline.folder import open_folder
from .pipeline.students import Students
from .pipeline.teachers import Teachers


@dataclasses.dataclass(frozen=True)
class Options:
  """Of this command alone."""

  method: str = "annealing_kd"
  """Which method."""
  seed: int | None = None
  """Train only the group of seeds that holds this one; by default all seeds of the study."""


def main(argv: Sequence[str] | None = None) -> int:
  study, where, own = options.parse("student", argv, Options)
  if study.methods != options.configs()[study.name].methods:
    raise ValueError("students of one method are trained at a time: name it with --method")
  study = dataclasses.replace(study, methods=(own.method,))
  if own.seed is not None and own.seed not in study.seed_values:
    listed = ", ".join(map(str, study.seed_values))
    raise ValueError(f"--seed must be one of the study's, {listed}, got {own.seed}")
  console.start(where)
  folder = open_folder(study, where)
  seeds = None if own.seed is None else (own.seed,)
  Students(folder, Teachers(folder)).train(tuple(study.rows), seeds)
  console.say(f"students in {folder.root / 'students' / own.method}")
  return 0


if __name__ == "__main__":
  sys.exit(console.run(main))
