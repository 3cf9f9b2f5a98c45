"""How fast exact inference is, beside PyTorch where that is installed, and how the cost grows with n.

    python -m experiments.benchmarks.structures [--repeats 20] [--out FILE] [--quick]

With `pip install torch torch-struct pytorch-crf` all contenders run in turn, in this process, on the same
arrays. Before anything is timed, they are compared.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import kd_jax
from experiments import console
from kd_jax.checkpoints import write_json
from kd_jax.structured import dependency, linear_chain, spans
from kd_jax.structured.linear_chain import LinearChain

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
PACKAGES = ("jax", "jaxlib", "numpy", "torch", "torch-struct", "pytorch-crf")
TAGS, RELATIONS = 17, 4
TOLERANCE = 1e-3
SECONDS = 20.0
"""About what a slow contender may take of each problem: it then has fewer repeats, though never under 3."""

Runner = Callable[[], Sequence[Any]]
"""Computes the outputs and returns when they are there."""


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


class Problem(NamedTuple):
  """Something to compute.

  Attributes:
    about: what is measured.
    arrays: (generator, B, n) -> NumPy inputs.
    ours: functions of jnp inputs to a tuple of outputs, to be compiled.
    sizes: B, n and the number of labels, if any.
    growth: values of n, and B there; empty where growth is not measured.
  """

  about: str
  arrays: Callable[[np.random.Generator, int, int], tuple[np.ndarray, ...]]
  ours: Mapping[str, Callable]
  sizes: Mapping[str, int]
  growth: tuple[int, ...] = ()
  growth_batch: int = 1


def _normal(generator: np.random.Generator, *shape: int) -> np.ndarray:
  return generator.standard_normal(shape, np.float32)


def _chain(generator, batch, length):
  return _normal(generator, batch, length, TAGS), _normal(generator, TAGS, TAGS)


def _chain_and_tags(generator, batch, length):
  tags = generator.integers(0, TAGS, (batch, length))
  return *_chain(generator, batch, length), tags


def _spans(generator, batch, length):
  # Spans that score below O on average, as most are wrong.
  return (_normal(generator, batch, length, length, RELATIONS) - 2.0,)


def _arcs(generator, batch, length):
  return (_normal(generator, batch, length, length + 1),)


def _with_gradients(function: Callable[..., jax.Array], count: int) -> Callable:
  """A value of each sentence, and the gradients of their sum for the first `count` arguments."""

  def run(*arrays):
    def total(*arrays):
      values = function(*arrays)
      return jnp.sum(values), values

    gradients, values = jax.grad(total, argnums=tuple(range(count)), has_aux=True)(*arrays)
    return values, *gradients

  return run


def _case_1a(unary, transition, teacher_unary, teacher_transition):
  teacher = LinearChain(teacher_unary, teacher_transition)
  return kd_jax.structural_kd_loss(teacher, LinearChain(unary, transition))


def _log_z(unary, transition, algorithm="scan"):
  return linear_chain.log_partition(LinearChain(unary, transition), algorithm=algorithm)


def _nll(unary, transition, tags):
  return -linear_chain.log_prob(LinearChain(unary, transition), tags)


PROBLEMS = {
  "case 1a": Problem(
    "loss of CRF to CRF, and its gradients for the student's unary and transition scores",
    lambda *sizes: (*_chain(*sizes), *_chain(*sizes)),
    {"kd_jax": lambda a, b, c, d: _with_gradients(_case_1a, 2)(c, d, a, b)},
    {"B": 32, "n": 64, "L": TAGS},
  ),
  "chain": Problem(
    "log Z of a linear chain, and its gradients for unary and transition scores",
    _chain,
    {
      "kd_jax": _with_gradients(_log_z, 2),
      "kd_jax, associative": _with_gradients(functools.partial(_log_z, algorithm="associative"), 2),
    },
    {"B": 32, "n": 64, "L": TAGS},
    (16, 32, 64, 128, 256, 512),
    8,
  ),
  "likelihood": Problem(
    "negative log-likelihood of one tag sequence, and its gradients for unary and transition scores",
    _chain_and_tags,
    {"kd_jax": _with_gradients(_nll, 2)},
    {"B": 32, "n": 64, "L": TAGS},
  ),
  "case 4": Problem(
    "the teacher's BIOES tag marginals from span scores",
    _spans,
    {"kd_jax": lambda scores: (spans.tag_marginals(scores),)},
    {"B": 32, "n": 40, "R": RELATIONS},
    (16, 32, 64, 128),
    8,
  ),
  "matrix-tree": Problem(
    "log Z over dependency trees with one root child, and its gradient, the marginals",
    _arcs,
    {"kd_jax": _with_gradients(dependency.spanning_tree_log_partition, 1)},
    {"B": 32, "n": 40},
    (16, 32, 64, 128, 256, 512),
    1,
  ),
  "projective": Problem(
    "log Z over projective trees with one root child, and its gradient, the marginals",
    _arcs,
    {"kd_jax": _with_gradients(dependency.projective_log_partition, 1)},
    {"B": 32, "n": 40},
    (16, 32, 64, 128),
    8,
  ),
  "best tree": Problem(
    "the best dependency tree with one root child",
    _arcs,
    {"kd_jax": lambda arc: (dependency.maximum_spanning_tree(arc),)},
    {"B": 32, "n": 40},
    (16, 32, 64, 128, 256, 512),
    8,
  ),
}


def main(argv: Sequence[str] | None = None) -> int:
  options = tyro.cli(Options, args=argv, prog="python -m experiments.benchmarks.structures")
  others = _pytorch()
  found, growth = [], []
  chosen = {name: PROBLEMS[name] for name in options.only or PROBLEMS}
  for name, problem in chosen.items():
    sizes = dict(problem.sizes) | ({"B": 2, "n": 6} if options.quick else {})
    runners = _runners(problem, others.get(name, {}), sizes["B"], sizes["n"])
    differences = _compare(name, runners)
    times = _measure(runners, options.repeats)
    baseline = next(iter(others.get(name, {})), None)
    rows = [_row(runner, times, baseline, differences[runner]) for runner in runners]
    found.append({"name": name, "about": problem.about, "sizes": sizes, "contenders": rows})
    _show(found[-1], baseline)
  for name, problem in chosen.items():
    if problem.growth:
      growth += _growth(name, problem, others.get(name, {}), options)
  kind = jax.devices()[0].device_kind
  out = options.out or RESULTS / f"structures-{re.sub(r'[^a-z0-9]+', '-', kind.lower())}.json"
  header = {
    "date": datetime.date.today().isoformat(),
    "device": {"platform": jax.default_backend(), "kind": kind, "processor": _processor()},
    "cores": _cores(),
    "load_average": os.getloadavg()[0],
    "versions": {name: _version(name) for name in PACKAGES},
    "repeats": options.repeats,
    "quick": options.quick,
  }
  write_json(out, header | {"problems": found, "growth": growth})
  console.say(f"written to {out}")
  return 0


def _pytorch() -> dict[str, dict[str, Callable]]:
  """Contenders in PyTorch, where it is installed, with a thread for each core.

  The first of each problem is there with one thread too: its arrays are so small that this may be faster,
  and on a busy machine surely is.
  """
  missing = [name for name in PACKAGES if _version(name) is None]
  if missing:
    console.say(f"not installed, so not measured: {', '.join(missing)}")
  if "torch" in missing:
    return {}
  import torch

  from experiments.benchmarks import structures_torch

  def prepared(function: Callable, threads: int) -> Callable:
    def prepare(*arrays: np.ndarray) -> Runner:
      tensors = tuple(map(torch.from_numpy, arrays))

      def run():
        torch.set_num_threads(threads)
        return function(*tensors)

      return run

    return prepare

  found = {}
  for problem, functions in structures_torch.contenders().items():
    found[problem] = {name: prepared(function, _cores()) for name, function in functions.items()}
    name, function = next(iter(functions.items()))
    found[problem][f"{name}, 1 thread"] = prepared(function, 1)
  return found


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
  try:
    return re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()).group(1)
  except (OSError, AttributeError):
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _runners(
  problem: Problem, others: Mapping[str, Callable], batch: int, length: int
) -> dict[str, Runner]:
  arrays = problem.arrays(np.random.default_rng(0), batch, length)

  def compiled(function: Callable) -> Runner:
    program, inputs = jax.jit(function), tuple(map(jnp.asarray, arrays))
    return lambda: jax.block_until_ready(program(*inputs))

  runners = {name: compiled(function) for name, function in problem.ours.items()}
  return runners | {name: prepare(*arrays) for name, prepare in others.items()}


def _compare(name: str, runners: Mapping[str, Runner]) -> dict[str, float]:
  """How far each contender is off ours: the largest difference of an output, over its largest value.

  Raises:
    ValueError: where one computes something else.
  """
  outputs = {runner: [np.asarray(x, np.float64) for x in run()] for runner, run in runners.items()}
  ours = next(iter(outputs.values()))
  found = {}
  for runner, theirs in outputs.items():
    pairs = list(zip(ours, theirs, strict=True))
    if any(mine.shape != other.shape for mine, other in pairs):
      raise ValueError(f"{name}: outputs of {runner} have other shapes than ours")
    found[runner] = max(float(abs(a - b).max() / abs(a).max()) for a, b in pairs)
    if not found[runner] < TOLERANCE:
      raise ValueError(f"{name}: {runner} differs from ours by {found[runner]:.2g} of the largest")
  return found


def _measure(runners: Mapping[str, Runner], repeats: int) -> dict[str, list[float]]:
  """Milliseconds of each contender, all in turn so that whatever else the machine does meets all alike.

  An untimed call goes before each timed one: nobody pays for the caches and threads of the one before.
  """

  def once(run: Runner) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began

  # Not the first call, which compiles: `_compare` made that, or this line does.
  seconds = {name: min(once(run), once(run)) for name, run in runners.items()}
  limits = {name: max(3, int(SECONDS / (2 * took))) for name, took in seconds.items()}
  found: dict[str, list[float]] = {name: [] for name in runners}
  for repeat in range(repeats):
    for name, run in runners.items():
      if repeat < limits[name]:
        run()
        found[name].append(1000 * once(run))
  return found


def _summary(values: Sequence[float]) -> dict[str, Any]:
  rounded = [float(f"{value:.4g}") for value in values]
  return {"values": rounded, "median": float(np.median(rounded)), "min": min(rounded)}


def _row(
  name: str, times: Mapping[str, Sequence[float]], baseline: str | None, difference: float
) -> dict[str, Any]:
  row = {"name": name, "unit": "ms", "difference": difference} | _summary(times[name])
  if baseline is not None:
    other = _summary(times[baseline])
    ratios = {key: other[key] / row[key] for key in ("median", "min")}
    row["times_as_fast"] = {"as": baseline} | ratios
  return row


def _show(problem: Mapping[str, Any], baseline: str | None) -> None:
  sizes = ", ".join(f"{key} = {value}" for key, value in problem["sizes"].items())
  console.say(f"\n{problem['name']} ({sizes}): {problem['about']}")
  header = ["Contender", "median ms", "min ms", "difference"]
  header += [f"times as fast as {baseline}", "by min"] if baseline else []
  cells = []
  for row in problem["contenders"]:
    cells.append([row["name"], *(f"{row[key]:.4g}" for key in ("median", "min"))])
    cells[-1].append(f"{row['difference']:.1e}")
    if baseline:
      cells[-1] += [f"{row['times_as_fast'][key]:.3g}" for key in ("median", "min")]
  console.show_table(header, cells)


def _growth(
  name: str, problem: Problem, others: Mapping[str, Callable], options: Options
) -> list[dict[str, Any]]:
  """Times by n of ours and of the baseline, and the exponent e of time ~ n^e over the greater half."""
  lengths, batch = ((3, 6), 2) if options.quick else (problem.growth, problem.growth_batch)
  baseline = next(iter(others), None)
  others = {key: others[key] for key in (baseline, f"{baseline}, 1 thread") if key in others}
  times: dict[str, list[dict]] = {runner: [] for runner in (*problem.ours, *others)}
  for length in lengths:
    runners = _runners(problem, others, batch, length)
    for run in runners.values():
      run()
    for runner, values in _measure(runners, min(options.repeats, 5)).items():
      times[runner].append(_summary(values))
  console.say(f"\n{name}, B = {batch}: ms by n (minimum), and the exponent of n over the last half")
  found = []
  for runner, rows in times.items():
    half = len(lengths) // 2
    logs = np.log(lengths[half - 1 :]), np.log([row["min"] for row in rows[half - 1 :]])
    exponent = float(np.polyfit(*logs, 1)[0])
    sizes = {key: value for key, value in problem.sizes.items() if key != "n"} | {"B": batch}
    found.append({"name": name, "contender": runner, "unit": "ms", "sizes": sizes})
    found[-1] |= {"n": list(lengths), "exponent": exponent}
    found[-1] |= {key: [row[key] for row in rows] for key in ("median", "min")}
  cells = [
    [row["contender"], *(f"{x:.3g}" for x in row["min"]), f"{row['exponent']:.2f}"] for row in found
  ]
  console.show_table(["Contender", *map(str, lengths), "exponent"], cells)
  return found


if __name__ == "__main__":
  sys.exit(console.run(main))
