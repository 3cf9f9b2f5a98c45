"""Several finished studies in one table, with a column that names what differs between them.

    python -m experiments.compare DIR DIR ... [--output FILE.md]

For what `--vary` cannot vary, since it changes what methods share: teachers, students, data, epochs.

    python -m experiments.study digits --teacher.hidden 32 --workdir runs/small_teacher
    python -m experiments.compare runs/digits runs/small_teacher

Differences between studies are not paired by seed: only gains within a study have intervals.

    python -m experiments.compare DIR DIR ... --join FOLDER

Joins studies that differ in seeds or methods alone. Their results.json are enough: FOLDER gets the results.json
and the report of one study, with means, intervals and paired gains over all seeds.

    python -m experiments.study digits --first-seed 16 --seeds 16 --workdir runs/digits_more
    python -m experiments.compare runs/digits runs/digits_more --join runs/digits_joined
"""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from kd_jax.checkpoints import write_text

from .command_line import console
from .command_line.asking import ask
from .command_line.naming import call_of
from .reporting import findings, tables
from .reporting.comparison import comparison
from .reporting.documents import Table, to_markdown
from .reporting.results import Results, load_results, to_json


@dataclasses.dataclass(frozen=True)
class Options:
  """Several finished studies in one table."""

  directories: tyro.conf.Positional[tuple[Path, ...]]
  """Folders of studies, each with its results.json."""
  output: Path | None = None
  """Write the table to this Markdown file too."""
  join: Path | None = None
  """Join the studies, which must differ in seeds and methods alone, into one with its report in this folder."""


def main(argv: Sequence[str] | None = None) -> int:
  options = ask(Options, argv, "compare")
  folders = [path.absolute() for path in options.directories]
  if len(set(folders)) != len(folders):
    raise ValueError("`directories` must be distinct folders, got one of them twice")
  alike = len({folder.name for folder in folders}) < len(folders)
  names = [str(path) if alike else path.absolute().name for path in options.directories]
  studies = {name: load_results(folder) for name, folder in zip(names, folders, strict=True)}
  if options.join is None:
    table = comparison(studies)
    console.show_table(*table)
  else:
    arguments = sys.argv[1:] if argv is None else argv
    command = shlex.join([*call_of("compare"), *arguments])
    table = _write_joined(studies, options.join, command)
  if options.output is not None:
    write_text(options.output, to_markdown([table]))
    console.say(f"table: {options.output}")
  return 0


def _write_joined(studies: dict[str, Results], folder: Path, command: str) -> Table:
  """Joins studies, writes the results and the report, and returns the table, which is shown."""
  # Here: both are slow to load, and only a join needs them.
  from .pipeline.joining import join
  from .reporting import report

  if (folder / "study.json").exists() or _is_of_one_study(folder / "results.json"):
    raise ValueError(f"`join` must be a folder of its own, got {folder}, which holds a study")
  results = join(studies, command)
  folder.mkdir(parents=True, exist_ok=True)
  write_text(folder / "results.json", to_json(results))
  paths = report.write_report(folder)
  table = tables.main_table(results)
  console.show_table(*table)
  console.say(f"{findings.chance(results)} {findings.within_chance(results)}".strip())
  console.say(f"report: {', '.join(str(path) for path in paths)}")
  return table


def _is_of_one_study(path: Path) -> bool:
  return path.exists() and not load_results(path.parent)["parts"]


if __name__ == "__main__":
  sys.exit(console.run(main))
