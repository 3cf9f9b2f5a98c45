"""How fast exact inference is, beside PyTorch where that is installed, and how the cost grows with n.

    python -m experiments.benchmarks.structures [--repeats 20] [--out FILE] [--quick] [--only PROBLEM ...]

With `pip install torch torch-struct pytorch-crf` all contenders run in turn, in this process, on the same
arrays. Before anything is timed, they are compared.

Sums over trees are also compared where it is hard: two tokens would rather have each other as their head than
any third, by some nats. The exact marginals come from a list of all trees.
"""

import dataclasses
import datetime
import itertools
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from kd_jax.checkpoints import write_json

from ..command_line import console
from . import structures_timing as timing
from .structures_problems import PROBLEMS, Problem

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"


@dataclasses.dataclass(frozen=True)
class Options:
  """How fast exact inference is."""

  repeats: int = 20
  """Measurements of each contender, after one that compiles."""
  out: Path | None = None
  """Where to write, by default experiments/results/benchmarks/structures-DEVICE.json."""
  quick: bool = False
  """Tiny sizes: does it run?"""
  only: tuple[str, ...] = ()
  """Problems by name; all if none is named."""

  def __post_init__(self):
    if unknown := set(self.only) - set(PROBLEMS):
      raise ValueError(f"unknown problem {unknown}: known are {', '.join(PROBLEMS)}")
    if self.repeats < 1:
      raise ValueError(f"repeats >= 1 expected, got {self.repeats}")


def main(argv: Sequence[str] | None = None) -> int:
  options = tyro.cli(Options, args=argv, prog="python -m experiments.benchmarks.structures")
  others = timing.pytorch()
  header = {
    "date": datetime.date.today().isoformat(),
    "device": {
      "platform": jax.default_backend(),
      "kind": jax.devices()[0].device_kind,
      "processor": _processor(),
      "cores": timing.cores(),
    },
    "load_average": os.getloadavg()[0],
    "versions": {name: timing.version(name) for name in timing.PACKAGES},
    "repeats": options.repeats,
    "quick": options.quick,
  }
  kind = re.sub(r"[^a-z0-9]+", "-", header["device"]["kind"].lower())
  out = options.out or RESULTS / f"structures-{kind}.json"
  found: dict[str, list[dict]] = {"problems": [], "growth": [], "accuracy": []}
  chosen = {name: PROBLEMS[name] for name in options.only or PROBLEMS}
  # Written as it grows: what is stopped has left what it measured.
  for name, problem in chosen.items():
    found["problems"].append(_problem(name, problem, others.get(name, {}), options))
    write_json(out, header | found)
  if "matrix-tree" in chosen:
    found["accuracy"] = _accuracy(chosen["matrix-tree"], others.get("matrix-tree", {}))
  for name, problem in chosen.items():
    if problem.growth:
      found["growth"] += _growth(name, problem, others.get(name, {}), options)
      write_json(out, header | found)
  console.say(f"written to {out}")
  return 0


def _processor() -> str:
  try:
    return re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()).group(1)
  except (OSError, AttributeError):
    return platform.processor() or platform.machine()


def _problem(
  name: str, problem: Problem, others: Mapping[str, timing.Preparation], options: Options
) -> dict[str, Any]:
  sizes = dict(problem.sizes) | ({"B": 2, "n": 6} if options.quick else {})
  arrays = problem.arrays(np.random.default_rng(0), sizes["B"], sizes["n"])
  runners = timing.make_runners(problem, others, arrays)
  differences = timing.compare(name, runners)
  times, baselines = timing.measure(runners, options.repeats), timing.baselines_of(others)
  rows = [_row(runner, times, baselines, differences[runner]) for runner in runners]
  console.say(f"\n{name} ({_sizes(sizes)}): {problem.about}")
  header = ["Contender", "median ms", "min ms", "difference"]
  header += [f"times as fast as {baselines[0]}", "by min"] if baselines else []
  cells = []
  for row in rows:
    cells.append([row["name"], *(f"{row[key]:.4g}" for key in ("median", "min"))])
    cells[-1].append(f"{row['difference']:.1e}")
    cells[-1] += [f"{ratio:.3g}" for ratio in row.get("times_as_fast", {}).values()]
  console.show_table(header, cells)
  return {"name": name, "about": problem.about, "sizes": sizes, "contenders": rows}


def _sizes(sizes: Mapping[str, int]) -> str:
  return ", ".join(f"{key} = {value}" for key, value in sizes.items())


def _summary(values: Sequence[float]) -> dict[str, Any]:
  rounded = [float(f"{value:.4g}") for value in values]
  return {"values": rounded, "median": float(np.median(rounded)), "min": min(rounded)}


def _row(
  name: str, times: Mapping[str, Sequence[float]], baselines: Sequence[str], difference: float
) -> dict[str, Any]:
  """Of one contender; ratios are to whichever baseline is faster."""
  row = {"name": name, "unit": "ms", "difference": difference} | _summary(times[name])
  if baselines:
    others = [_summary(times[baseline]) for baseline in baselines]
    row["times_as_fast"] = {
      key: min(other[key] for other in others) / row[key] for key in ("median", "min")
    }
  return row


def _growth(
  name: str, problem: Problem, others: Mapping[str, timing.Preparation], options: Options
) -> list[dict[str, Any]]:
  """Times by n of ours and of the baselines, and e of time ~ n^e over the greater half of n."""
  lengths, batch = ((3, 6), 2) if options.quick else (problem.growth, problem.growth_batch)
  sizes = {key: value for key, value in problem.sizes.items() if key != "n"} | {"B": batch}
  others = {key: others[key] for key in timing.baselines_of(others)}
  times: dict[str, list[dict]] = {runner: [] for runner in (*problem.ours, *others)}
  for length in lengths:
    arrays = problem.arrays(np.random.default_rng(0), batch, length)
    runners = timing.make_runners(problem, others, arrays)
    for runner, values in timing.measure(runners, min(options.repeats, 5)).items():
      times[runner].append(_summary(values))
  half = max(len(lengths) // 2 - 1, 0)
  found = []
  for runner, rows in times.items():
    row = {"name": name, "contender": runner, "unit": "ms", "sizes": sizes, "n": list(lengths)}
    row |= {key: [summary[key] for summary in rows] for key in ("median", "min")}
    logs = np.log(lengths[half:]), np.log(row["min"][half:])
    found.append(row | {"exponent": float(np.polyfit(*logs, 1)[0])})
  console.say(
    f"\n{name} ({_sizes(sizes)}): least ms by n, and its exponent from {lengths[half]} on"
  )
  cells = [
    [row["contender"], *(f"{x:.3g}" for x in row["min"]), f"{row['exponent']:.2f}"] for row in found
  ]
  console.show_table(["Contender", *map(str, lengths), "exponent"], cells)
  return found


def _accuracy(problem: Problem, others: Mapping[str, timing.Preparation]) -> list[dict[str, Any]]:
  """The largest error of an arc's probability, by how much two tokens prefer each other as heads."""
  size, nats = 5, (0, 5, 10, 20, 40)
  heads = np.array(
    [tree for tree in itertools.product(range(size + 1), repeat=size) if _is_tree(tree)]
  )
  found: dict[str, list[float]] = {}
  for preference in nats:
    (arc,) = problem.arrays(np.random.default_rng(0), 1, size)
    arc[0, 2, 4] += preference
    arc[0, 3, 3] += preference
    scores = arc[0].astype(np.float64)[np.arange(size), heads].sum(axis=1)
    weights = np.exp(scores - scores.max())
    arcs = heads[:, :, None] == np.arange(size + 1)
    exact = np.einsum("t,tih->ih", weights / weights.sum(), arcs)
    for name, run in timing.make_runners(problem, others, (arc,)).items():
      error = float(abs(np.asarray(run()[1], np.float64)[0] - exact).max())
      found.setdefault(name, []).append(error)
  console.say(
    f"\nlargest error of a marginal, n = {size}, where two tokens prefer each other by so many nats"
  )
  rows = [[name, *(f"{error:.1e}" for error in errors)] for name, errors in found.items()]
  console.show_table(["Contender", *map(str, nats)], rows)
  return [
    {"contender": name, "n": size, "nats": list(nats), "error": errors}
    for name, errors in found.items()
  ]


def _is_tree(heads: Sequence[int]) -> bool:
  """Whether these heads, 0 for the root, are a tree with one child of the root."""
  below = {0}
  for _ in heads:
    below |= {token for token, head in enumerate(heads, 1) if head in below}
  return heads.count(0) == 1 and len(below) == len(heads) + 1


if __name__ == "__main__":
  sys.exit(console.run(main))
