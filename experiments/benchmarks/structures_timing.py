"""Contenders for `structures`: prepared, compared and timed in turn."""

import importlib.metadata
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..command_line import console
from .structures_problems import Problem

PACKAGES = ("jax", "jaxlib", "numpy", "torch", "torch-struct", "pytorch-crf")
TOLERANCE = 1e-3
SECONDS = 10.0
"""About what a slow contender may take of each problem: it then has fewer repeats, though never under 3."""

ONE_THREAD = ", 1 thread"

Runner = Callable[[], Sequence[Any]]
"""Computes the outputs and returns when they are there."""
Preparation = Callable[..., Runner]
"""Takes NumPy inputs and gives what is timed."""


def pytorch() -> dict[str, dict[str, Preparation]]:
  """Contenders in PyTorch, where it is installed, with a thread for each core.

  The first of each problem, which ratios are to, is there with one thread too: its arrays are so small that
  this may be faster, and on a busy machine surely is.
  """
  missing = [name for name in PACKAGES if version(name) is None]
  if missing:
    console.say(f"not installed, so not measured: {', '.join(missing)}")
  if "torch" in missing:
    return {}
  import torch

  from . import structures_torch

  def prepared(function: Callable, threads: int) -> Preparation:
    def prepare(*arrays: np.ndarray) -> Runner:
      tensors = tuple(map(torch.from_numpy, arrays))

      def run():
        torch.set_num_threads(threads)
        return function(*tensors)

      return run

    return prepare

  found = {}
  for problem, functions in structures_torch.contenders().items():
    found[problem] = {name: prepared(function, cores()) for name, function in functions.items()}
    name, function = next(iter(functions.items()))
    found[problem][name + ONE_THREAD] = prepared(function, 1)
  return found


def make_runners(
  problem: Problem, others: Mapping[str, Preparation], arrays: Sequence[np.ndarray]
) -> dict[str, Runner]:
  """Ours and the others, on the same inputs."""

  def compiled(function: Callable) -> Runner:
    program, inputs = jax.jit(function), tuple(map(jnp.asarray, arrays))
    return lambda: jax.block_until_ready(program(*inputs))

  runners = {name: compiled(function) for name, function in problem.ours.items()}
  return runners | {name: prepare(*arrays) for name, prepare in others.items()}


def baselines_of(others: Mapping[str, Preparation]) -> tuple[str, ...]:
  """What ratios are to: the first of the others, with a thread for each core and with one."""
  first = next(iter(others), None)
  return () if first is None else (first, first + ONE_THREAD)


def compare(name: str, runners: Mapping[str, Runner]) -> dict[str, float]:
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


def measure(runners: Mapping[str, Runner], repeats: int) -> dict[str, list[float]]:
  """Milliseconds of each contender, all in turn so that whatever else the machine does meets all alike.

  An untimed call goes before each timed one: nobody pays for the caches and threads of the one before.
  """

  def once(run: Runner) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began

  # The first call compiles.
  seconds = {name: min(once(run), once(run)) for name, run in runners.items()}
  limits = {name: max(3, int(SECONDS / (2 * took))) for name, took in seconds.items()}
  found: dict[str, list[float]] = {name: [] for name in runners}
  for repeat in range(repeats):
    for name, run in runners.items():
      if repeat < limits[name]:
        run()
        found[name].append(1000 * once(run))
  return found


def cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None
