"""Runs `python -m experiments...` as a real process, to be stopped, restarted and read from outside."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.command_line import console
from experiments.command_line.options import Where, parse
from experiments.deployment import latency
from experiments.domains.study import Study
from experiments.pipeline.folder import open_folder
from experiments.pipeline.students import Students
from experiments.pipeline.teachers import Teachers
from tests.conftest import CACHE, ROOT

latency.REPEATS = 1  # in this process: no test compares speeds
TINY = (
  *("--methods", "annealing_kd", "kd", "--seeds", "2", "--validation-examples", "287"),
  *("--annealing-kd.max-temperature", "3", "--kd.temperature", "4", "--batch-size", "64"),
  *("--augmentation.name", "pad_crop_flip", "--augmentation.pad", "1", "--views", "18"),
  *("--teacher.hidden", "32", "--teacher-epochs", "8", "--teacher-optimizer.learning-rate", "0.1"),
  *("--student-limit", "None", "--student.no-batch-norm"),
  *("--student.hidden", "8", "--epochs", "16", "--optimizer.learning-rate", "0.05"),
)
"""A study of digits that takes seconds and has every stage; it does not lean on the config's defaults."""


def environment(devices: int = 1) -> dict[str, str]:
  """The variables of a process on so many (fake) CPU devices."""
  env = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
  env |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(CACHE)}
  if devices > 1:
    env |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "NPROC": "16"}
  return env


def start(command: str, *arguments: Any, output: Path, devices: int = 1) -> subprocess.Popen:
  """Starts a command; both its streams go to a file."""
  with open(output, "w", encoding="utf-8") as file:
    return subprocess.Popen(
      [sys.executable, "-m", f"experiments.{command}", *map(str, arguments)],
      cwd=ROOT,
      env=environment(devices),
      stdout=file,
      stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen, timeout: float = 120) -> int:
  """The exit status of a process, which is killed if it takes too long."""
  try:
    return process.wait(timeout)
  finally:
    if process.poll() is None:
      process.kill()
      process.wait()


def open_study(*arguments: Any, may_train: bool = True) -> Students:
  """The study of a command line, in this process: its folder, its teachers, its students."""
  asked, where, _ = parse("study", [str(argument) for argument in arguments])
  return students_of(asked, where, may_train=may_train)


def students_of(study: Study, where: Where, *, may_train: bool = True) -> Students:
  """The students of a study, with their teachers; nothing is trained yet."""
  folder = open_folder(study, where)
  return Students(folder, Teachers(folder, may_train))


def run_here(module: Any, *arguments: Any) -> int:
  """The same command line within this process: quick, for what is refused before any work."""
  try:
    return console.run(module.main, [str(argument) for argument in arguments])
  except SystemExit as error:
    return int(error.code or 0)


def kill_when(process: subprocess.Popen, condition: Callable[[], bool], timeout: float = 120):
  """kill -9 as soon as a condition on files holds; it has to hold while the process runs."""
  deadline = time.monotonic() + timeout
  try:
    while not condition():
      if process.poll() is not None or time.monotonic() > deadline:
        raise AssertionError(f"the moment never came; exit status {process.poll()}")
      time.sleep(0.001)
  finally:
    process.kill()
    process.wait()


def lines(path: Path) -> list[str]:
  """The whole lines of a file that may be being written, or may not be there."""
  try:
    return path.read_text(encoding="utf-8").split("\n")[:-1]
  except FileNotFoundError:
    return []


def without_timing(results: Mapping[str, Any]) -> dict[str, Any]:
  """Everything in results.json that must not depend on when and how often a study ran."""
  rows = [{k: v for k, v in row.items() if k != "timing"} for row in results["rows"]]
  made = ("created", "command", "device", "versions", "made_with")
  left = {k: v for k, v in results.items() if k not in made}
  timed = ("seconds", "latency_ms", "examples_per_second")
  networks = {
    role: {k: v for k, v in results[role].items() if k not in timed}
    for role in ("teacher", "student", "assistant")
    if results[role]
  }
  return left | {"rows": rows} | networks
