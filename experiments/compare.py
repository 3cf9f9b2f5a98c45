"""Several finished studies in one table, with a column that names what differs between them.

    python -m experiments.compare DIR DIR ... [--output FILE.md]

For what `--vary` cannot vary, since it changes what methods share: teachers, students, data, epochs.

    python -m experiments.study digits --teacher.hidden 32 --workdir runs/small_teacher
    python -m experiments.compare runs/digits runs/small_teacher

Differences between studies are not paired by seed: only gains within a study have intervals.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments.command_line import console
from experiments.reporting.comparison import comparison
from experiments.reporting.documents import to_markdown
from experiments.reporting.results import load_results
from kd_jax.checkpoints import write_text


@dataclasses.dataclass(frozen=True)
class Options:
  """Several finished studies in one table."""

  directories: tyro.conf.Positional[tuple[Path, ...]]
  """Folders of studies, each with its results.json."""
  output: Path | None = None
  """Write the table to this Markdown file too."""


def main(argv: Sequence[str] | None = None) -> int:
  options = tyro.cli(Options, args=argv, prog="python -m experiments.compare")
  folders = [path.absolute() for path in options.directories]
  if len(set(folders)) != len(folders):
    raise ValueError("`directories` must be distinct folders, got one of them twice")
  alike = len({folder.name for folder in folders}) < len(folders)
  names = [str(path) if alike else path.absolute().name for path in options.directories]
  table = comparison(
    {name: load_results(folder) for name, folder in zip(names, folders, strict=True)}
  )
  console.show_table(*table)
  if options.output is not None:
    write_text(options.output, to_markdown([table]))
    console.say(f"table: {options.output}")
  return 0


if __name__ == "__main__":
  sys.exit(console.run(main))
