"""Prints what a checkpoint came from, and whether every link still matches.

    python -m experiments.lineage PATH [--data-dir DIR]

PATH is a study's folder (all its students), a run, a phase, a checkpoint or a cache.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from .command_line import console
from .command_line.asking import ask
from .pipeline import lineage


@dataclasses.dataclass(frozen=True)
class Options:
  """What a checkpoint came from, and whether every link still matches."""

  path: tyro.conf.Positional[Path]
  """A study's folder, a run, a phase, a checkpoint or a cache."""
  data_dir: Path | None = None
  """Prepared TFDS data, to compare the data too; by default as in the study's own commands."""


_UNCHECKED: set[str] = set()
"""Why links could not be compared."""


def main(argv: Sequence[str] | None = None) -> int:
  _UNCHECKED.clear()
  options = ask(Options, argv, "lineage")
  root = lineage.study_root(options.path)
  found = list(lineage.starts(options.path.absolute()))
  if not found:
    raise ValueError(f"there is no checkpoint or cache in {options.path}")
  good = True
  for start in found:
    node = lineage.read_node(root, start)
    console.say(
      f"{node.kind}  {lineage.short(node.digest)}  {node.path}  {node.problem or 'intact'}"
    )
    good &= _print_parents(root, node, "", options.data_dir) and not node.problem
  unchecked = " that could be checked" if _UNCHECKED else ""
  console.say(f"every link{unchecked} matches" if good else "NOT every link matches")
  return 0 if good else 1


def _print_parents(root: Path, node: lineage.Node, indent: str, data_dir: Path | None) -> bool:
  good = True
  for index, link in enumerate(node.parents):
    last = index == len(node.parents) - 1
    note = f" ({link.start})" if link.start else ""
    if link.path is not None:
      parent = lineage.read_node(root, root / link.path)
      verdict = parent.problem
      if not verdict:
        matches = parent.digest == link.digest
        verdict = "matches" if matches else f"DIFFERS: it is now {lineage.short(parent.digest)}"
    else:
      parent, verdict = None, lineage.leaf_verdict(root, link, data_dir)
    if verdict.startswith("not checked"):
      _UNCHECKED.add(verdict)
    else:
      good &= verdict == "matches"
    where = link.path or link.name or ""
    console.say(
      f"{indent}{'└─ ' if last else '├─ '}{link.title}{note}  {lineage.short(link.digest)}  {where}  "
      f"{verdict}"
    )
    if parent is not None:
      good &= _print_parents(root, parent, indent + ("   " if last else "│  "), data_dir)
  return good


if __name__ == "__main__":
  sys.exit(console.run(main))
