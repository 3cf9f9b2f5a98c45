"""Writes the report of a study: `results.json` -> `report.md`, `report.html` and figures.

python -m experiments.report DIR
"""

import dataclasses
import sys
from pathlib import Path

import tyro

from experiments.reporting.report import write_report


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """Writes the report of a study from its results."""

  directory: tyro.conf.Positional[Path]
  """The study's directory, with results.json in it."""


def main(argv: list[str] | None = None) -> int:
  """Command line; returns the exit status."""
  config = tyro.cli(ReportConfig, args=argv, prog="python -m experiments.report")
  try:
    paths = write_report(config.directory)
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  for path in paths:
    print(path)
  return 0


if __name__ == "__main__":
  sys.exit(main())
