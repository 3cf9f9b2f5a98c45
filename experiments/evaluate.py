"""Evaluates a finished study: the one command that reads the test set.

    python -m experiments.evaluate CONFIG [--workdir DIR] [overrides]

Writes WORKDIR/results.json: a row for each method, seed and phase, and the learning curves.
"""

import sys
from collections.abc import Sequence

from .command_line import console, options
from .command_line.wording import counted
from .pipeline.evaluation import evaluate
from .pipeline.folder import open_folder
from .pipeline.students import Students
from .pipeline.teachers import Teachers


def main(argv: Sequence[str] | None = None) -> int:
  study, where, _ = options.parse("evaluate", argv)
  console.start(where)
  folder = open_folder(study, where)
  results = evaluate(Students(folder, Teachers(folder, may_train=False)))
  console.say(f"{counted(len(results['rows']), 'rows')} in {where.workdir / 'results.json'}")
  return 0


if __name__ == "__main__":
  sys.exit(console.run(main))
