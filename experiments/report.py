"""Writes the report of a study: `results.json` -> `report.md`, `report.html` and figures.

python -m experiments.report DIR
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from .command_line import console
from .command_line.asking import ask
from .reporting.report import write_report


@dataclasses.dataclass(frozen=True)
class Options:
  """Writes the report of a study from its results."""

  directory: tyro.conf.Positional[Path]
  """The study's directory, with results.json in it."""


def main(argv: Sequence[str] | None = None) -> int:
  options = ask(Options, argv, "report")
  for path in write_report(options.directory):
    console.say(str(path))
  return 0


if __name__ == "__main__":
  sys.exit(console.run(main))
