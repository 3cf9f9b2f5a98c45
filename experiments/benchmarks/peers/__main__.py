"""Measures kd_jax and what people use instead, in turn, in separate processes.

    pip install -r requirements-bench.txt
    python -m experiments.benchmarks.peers [--cases CASE ...] [--repeats 10] [--steps 5] [--threads N]
    python -m experiments.benchmarks.peers --page docs/benchmarks.md

Before a pair is timed, both sides compute the same loss, to 1e-4, from the same weights on the same batches.
Cases that were measured before on this device with the same options stay in the JSON file.
"""

import dataclasses
import datetime
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from kd_jax.checkpoints import write_json

from ...command_line import console
from . import page, pairs
from .cases import CASES

RESULTS = Path(__file__).parents[2] / "results" / "benchmarks"


@dataclasses.dataclass(frozen=True)
class Options:
  """Speed compared with other libraries."""

  cases: tuple[str, ...] = ()
  """Cases by name; all if none is named."""
  repeats: int = 10
  """Measurements of each side of a pair."""
  steps: int = 5
  """Steps in one measurement."""
  threads: int | None = None
  """Cores for both sides; all by default."""
  quick: bool = False
  """Tiny sizes, for a check that all runs."""
  out: Path | None = None
  """JSON file, by default experiments/results/benchmarks/peers-PROCESSOR.json."""
  page: Path | None = None
  """Markdown page whose table and figure are written from the JSON file."""
  render: bool = False
  """Write the page from the JSON file alone, without measuring."""

  def __post_init__(self):
    if unknown := [name for name in self.cases if name not in CASES]:
      raise ValueError(f"`cases` must be among {', '.join(CASES)}, got {', '.join(unknown)}")
    if self.repeats < 1 or self.steps < 1:
      raise ValueError(
        f"`repeats` and `steps` must be at least 1, got {self.repeats} and {self.steps}"
      )
    if self.page is not None and self.quick:
      raise ValueError("`page` must not be written from tiny sizes: leave out --quick")
    if self.render and self.page is None:
      raise ValueError("`render` writes a page: name it with --page")


def main(argv: Sequence[str] | None = None, open_side: pairs.Open = pairs.in_processes) -> int:
  options = tyro.cli(Options, args=argv, prog="python -m experiments.benchmarks.peers")
  if options.threads is not None:
    pairs.use_threads(options.threads)
  settings = pairs.Settings(options.repeats, options.steps, pairs.cores(), options.quick)
  device = {"processor": pairs.processor(), "threads": settings.threads}
  kind = re.sub(r"[^a-z0-9]+", "-", device["processor"].lower()).strip("-")
  out = options.out or RESULTS / f"peers-{kind}.json"
  header = {"device": device, "repeats": options.repeats, "steps": options.steps}
  found = _earlier(out, header | {"quick": options.quick}, options.render)
  wrong = 0
  for name in () if options.render else options.cases or CASES:
    began = {"date": datetime.date.today().isoformat(), "load_average": os.getloadavg()[0]}
    record = began | pairs.measure(CASES[name], settings, open_side)
    found["cases"][name] = record
    # In the order of the cases; written as it grows, so that what is stopped has left what it measured.
    found["cases"] = {key: found["cases"][key] for key in CASES if key in found["cases"]}
    write_json(out, found)
    wrong += _show(name, record)
  if options.page is not None:
    page.write(options.page, found)
    print(f"written to {options.page}", flush=True)
  print(f"written to {out}", flush=True)
  return 1 if wrong else 0


def _earlier(out: Path, header: dict[str, Any], needed: bool) -> dict[str, Any]:
  """The file's content if it was measured in the same way, or an empty one."""
  if out.exists():
    found = json.loads(out.read_text(encoding="utf-8"))
    if needed or {key: found.get(key) for key in header} == header:
      return found
  elif needed:
    raise ValueError(f"there is no {out} to write a page from: leave out --render")
  return header | {"cases": {}}


def _show(name: str, record: dict[str, Any]) -> int:
  """Prints a case as it is finished; gives the number of peers that failed or computed something else."""
  print(f"{name}: {record['about']}", flush=True)
  for pair in record["pairs"]:
    own = f"  kd_jax {1000 * pair['ours']['median']:.4g} ms"
    if pair["peer"] is None:
      print(own, flush=True)
      continue
    ratio = pair["times_as_fast"]
    low, high = ratio["paired"]["quartiles"]
    print(
      f"{own}, {pair['peer']} {1000 * pair['theirs']['median']:.4g} ms: {ratio['of_medians']:.2f} times as "
      f"fast (pairs {low:.2f} to {high:.2f})",
      flush=True,
    )
  wrong = 0
  for peer, reason in record["left_out"].items():
    absent = reason.startswith("not installed")
    remedy = "; pip install -r requirements-bench.txt" if absent else ""
    print(f"  {peer} left out: {reason}{remedy}", flush=True)
    wrong += not absent
  return wrong


if __name__ == "__main__":
  sys.exit(console.run(main))
