"""Measures each pair in turn, ours, theirs, ours, theirs, and reduces the times to medians and ratios."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import first_step
from . import cases, worker
from .cases import OURS, Case, Job, Measurement

TOLERANCE = 1e-4
"""The largest relative difference between the losses of a pair."""

Ask = Callable[[], Measurement]
"""Has a side take one measurement."""
Open = Callable[[Job], contextlib.AbstractContextManager[tuple[dict[str, Any], Ask]]]
"""Starts a side: (its device and versions, how to ask it)."""


class PeerError(Exception):
  """A side that failed, or that computes something else; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """How much is measured.

  Attributes:
    repeats: measurements of each side of a pair, after one that compiles and one that warms up.
    steps: in one measurement.
    threads: of the processor.
    quick: whether the small sizes are used.
  """

  repeats: int
  steps: int
  threads: int
  quick: bool

  def sizes(self, case: Case) -> dict[str, Any]:
    return case.sizes | (case.quick if self.quick else {})


@contextlib.contextmanager
def in_processes(job: Job) -> Iterator[tuple[dict[str, Any], Ask]]:
  """A side in a process of its own, which lives as long as the context."""
  command = [sys.executable, "-m", f"{__package__}.worker", json.dumps(job._asdict())]
  # Two processes share a GPU here: neither may take all of its memory at the start.
  environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
  with tempfile.TemporaryFile("w+") as errors:
    process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
      env=environment,
    )

    def answer() -> Any:
      with contextlib.suppress(BrokenPipeError):
        print(file=process.stdin, flush=True)
      line = process.stdout.readline()
      if not line:
        process.wait()
        errors.seek(0)
        lines = [text for text in errors.read().splitlines() if text.strip()] or ["no message"]
        raise PeerError(f"{job.side} failed: {lines[-1].strip()[:200]}")
      return json.loads(line)

    try:
      yield answer(), lambda: Measurement(*answer())
    finally:
      with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
      process.stdout.close()
      if process.poll() is None:
        process.terminate()
      process.wait()


@contextlib.contextmanager
def in_this_process(job: Job) -> Iterator[tuple[dict[str, Any], Ask]]:
  """A side without a process of its own, for tests."""
  found = worker.measurements(job)
  yield next(found), lambda: next(found)


def measure(
  case: Case,
  settings: Settings,
  open_side: Open = in_processes,
  missing: Callable[[str], Sequence[str]] = cases.missing,
) -> dict[str, Any]:
  """All pairs of a case as JSON values: "pairs", and "left_out" with a reason for each peer.

  A pair is timed after both sides computed the same loss, from the same weights on the same batches. If no
  peer is there, ours is measured alone.

  Raises:
    PeerError: ours failed.
  """
  found: dict[str, Any] = {"about": case.about, "unit": case.unit, "pairs": [], "left_out": {}}
  peers = []
  for peer in case.peers:
    if absent := missing(peer):
      found["left_out"][peer] = f"not installed: {', '.join(absent)}"
    else:
      peers.append(peer)
  if case.kind == "start":
    for peer in peers or [None]:
      found["pairs"].append(_starts(case, settings, peer, open_side))
    return found
  with tempfile.TemporaryDirectory() as folder:
    rounds = max(len(peers), 1) * (settings.repeats + 1) + 1
    job = Job(
      OURS, case.kind, settings.sizes(case), settings.steps, rounds, settings.threads, folder
    )
    with open_side(job) as (facts, ask):
      first = ask()
      for peer in peers or [None]:
        try:
          if peer is None:
            pair = _pair(None, facts, {}, *in_turn(settings.repeats, ask))
          else:
            pair = _measure_pair(job._replace(side=peer), facts, ask, first, settings, open_side)
        except _TheirError as error:
          found["left_out"][peer] = str(error)
        else:
          found["pairs"].append(pair)
  return found


class _TheirError(PeerError):
  """The peer's fault: the other pairs are measured all the same."""


def _measure_pair(
  job: Job, facts: dict[str, Any], ask: Ask, first: Measurement, settings: Settings, open_side: Open
) -> dict[str, Any]:
  with contextlib.ExitStack() as stack:
    try:
      their_facts, ask_them = stack.enter_context(open_side(job))
      theirs = ask_them()
    except PeerError as error:
      raise _TheirError(str(error)) from None
    difference = abs(theirs.value - first.value) / abs(first.value)
    if not difference <= TOLERANCE:
      raise _TheirError(
        f"not timed: its loss is {theirs.value:.6g} and ours {first.value:.6g}, a relative difference of "
        f"{difference:.1e}"
      )
    times = in_turn(settings.repeats, ask, ask_them)
  return _pair(job.side, facts, their_facts, *times) | {
    "loss": {"ours": first.value, "theirs": theirs.value, "difference": difference}
  }


def in_turn(repeats: int, *asks: Ask) -> list[list[float]]:
  """Seconds of each side, one measurement of each in turn, after a round that is not counted.

  Whatever else the machine does meets all of them equally.
  """
  found: list[list[float]] = [[] for _ in asks]
  for index in range(repeats + 1):
    for seconds, ask in zip(found, asks, strict=True):
      measured = ask().seconds
      seconds += [measured] if index else []
  return found


def _starts(case: Case, settings: Settings, peer: str | None, open_side: Open) -> dict[str, Any]:
  """Seconds from the start of a process to the end of its first step; each measurement is a new process."""
  sizes = settings.sizes(case)
  config = ["digits"] if settings.quick else ["cifar10_resnet8"]
  config += [
    "--train-limit",
    str(4 * sizes["batch"]),
    "--views",
    "1",
    "--augmentation.name",
    "none",
  ]
  config += ["--batch-size", str(sizes["batch"]), "--validation-examples", "16"]
  with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as warm:

    def ours() -> Measurement:
      if sizes["warm"]:
        return Measurement(first_step.start(config, warm), 0.0)
      with tempfile.TemporaryDirectory() as cold:
        return Measurement(first_step.start(config, cold), 0.0)

    def theirs() -> Measurement:
      began = time.perf_counter()
      job = Job(peer, "start", sizes, 1, 1, settings.threads, folder)
      with open_side(job) as (facts, ask):
        ask()
        seconds = time.perf_counter() - began
      their_facts.update(facts)
      return Measurement(seconds, 0.0)

    their_facts: dict[str, Any] = {}
    asks = (ours,) if peer is None else (ours, theirs)
    times = in_turn(min(settings.repeats, 5), *asks)
  return _pair(peer, {}, their_facts, *times)


def _pair(
  peer: str | None,
  facts: dict[str, Any],
  their_facts: dict[str, Any],
  ours: Sequence[float],
  theirs: Sequence[float] = (),
) -> dict[str, Any]:
  """A pair as JSON values; `times_as_fast` is their time over ours, above 1 if ours is faster."""
  found: dict[str, Any] = {"peer": peer, "ours": summary(ours) | facts}
  if theirs:
    found["theirs"] = summary(theirs) | their_facts
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    found["times_as_fast"] = {
      "of_medians": found["theirs"]["median"] / found["ours"]["median"],
      "paired": summary(ratios),
    }
  return found


def summary(values: Sequence[float]) -> dict[str, Any]:
  """Median, least, and the quartiles, whose distance is the spread."""
  low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
  return {
    "median": float(middle),
    "min": min(values),
    "quartiles": [float(low), float(high)],
    "values": [float(f"{value:.5g}") for value in values],
  }


def cores() -> int:
  """The processor's cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def use_threads(threads: int) -> None:
  """Restricts this process and those that it starts to some cores.

  Raises:
    ValueError: more than there are, or a system that cannot do it.
  """
  if not 1 <= threads <= cores():
    raise ValueError(f"`threads` must be from 1 to the {cores()} cores here, got {threads}")
  if threads < cores():
    if not hasattr(os, "sched_setaffinity"):
      raise ValueError("`threads` is for Linux: leave it out")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def processor() -> str:
  """The processor's name, if the system tells it."""
  with contextlib.suppress(OSError):
    for line in Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.split(":", 1)[1].strip()
  return "unknown"
