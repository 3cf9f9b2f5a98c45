"""The command line's edge: progress that is shown all along, and errors in one line."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import jax
import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

from kd_jax import parallel

from . import allocator
from .options import Where
from .wording import counted, noun

_LINE_SECONDS = 10.0


def run(command: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
  """Runs a command; an error that the user can fix is one line, with exit status 1."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      # A terminal or a file may not know every character of a table.
      stream.reconfigure(errors="replace")
  try:
    status = command(argv)
    sys.stdout.flush()
    return status
  except BrokenPipeError:
    # Whoever read the output has seen enough; what is still in the buffer must not fail again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
  except KeyboardInterrupt:
    print("stopped; the same command goes on from here", file=sys.stderr)
    return 130
  # A JaxRuntimeError is memory that ran out, or a process that died beside this one.
  except (
    ValueError,
    OSError,
    FloatingPointError,
    ModuleNotFoundError,
    jax.errors.JaxRuntimeError,
  ) as error:
    if os.environ.get("KD_JAX_TRACEBACK"):
      raise
    message = " ".join(str(error).split())
    print(f"error: {message or type(error).__name__}", file=sys.stderr)
    return 1


def say(message: str) -> None:
  """A line for the user, from one process alone."""
  if parallel.is_main():
    print(message, flush=True)


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
  """A table for the eye: the first column to the left, the others to the right; 120 columns off a terminal."""
  table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
  for index, title in enumerate(header):
    # Text, not markup: a method may be called "[a]".
    table.add_column(
      rich.text.Text(title), justify="left" if index == 0 else "right", overflow="fold"
    )
  for row in rows:
    table.add_row(*map(rich.text.Text, row))
  console = rich.console.Console()
  console = console if console.is_terminal else rich.console.Console(width=120)
  if parallel.is_main():
    console.print(table)


def start(where: Where) -> None:
  """Sets the allocator, joins the other processes, if any, and turns on the cache of compiled programs."""
  allocator.keep_pages()
  if where.compile_cache is not None and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(where.compile_cache.expanduser()))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  if where.coordinator is not None:
    host, _, port = where.coordinator.rpartition(":")
    if not host or not port.isdigit():
      raise ValueError(f"--coordinator is HOST:PORT, got {where.coordinator!r}")
    if not 0 <= where.process_id < where.num_processes:
      raise ValueError(
        f"--process-id {where.process_id} is not one of --num-processes {where.num_processes}"
      )
    parallel.initialize(where.coordinator, where.num_processes, where.process_id)
  elif where.num_processes > 1:
    raise ValueError("several processes need --coordinator HOST:PORT")


class Progress:
  """A bar with an estimate on a terminal; elsewhere a line every ten seconds."""

  def __init__(self, title: str, total: int, unit: str):
    """Shows nothing before `__enter__`.

    Args:
      title: what is going on.
      total: how many units there are in all.
      unit: what is counted, in the plural.
    """
    self._title, self._total, self._unit = title, max(total, 1), unit
    self._console = rich.console.Console()
    self._bar: rich.progress.Progress | None = None
    self._done = self._first = 0
    self._spoken_of = False
    self._begun = self._spoken = time.monotonic()

  def __enter__(self) -> "Progress":
    if self._console.is_terminal and parallel.is_main():
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn(noun(self._total, self._unit)),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("eta"),
        rich.progress.TimeRemainingColumn(),
        console=self._console,
      )
      self._task = self._bar.add_task(self._title, total=self._total)
      self._bar.start()
    return self

  def __exit__(self, kind, *_) -> None:
    if self._bar is not None:
      self._bar.stop()
    elif self._done > self._first:
      seconds = time.monotonic() - self._begun
      say(f"{self._title}: {counted(self._done, self._unit)} after {seconds:.0f} s")
    elif kind is None:
      say(f"{self._title}: found finished")

  def skip(self, units: int) -> None:
    """Counts units that an earlier run did; they do not enter the estimate."""
    self._first += units
    self.to(self._done + units, "(resumed)")

  def advance(self, units: int = 1, detail: str = "") -> None:
    self.to(self._done + units, detail)

  def to(self, done: int, detail: str = "") -> None:
    """Sets how many units are done."""
    if self._bar is None and not self._spoken_of and done > self._first:
      self._spoken_of = True
      say(f"{self._title}: {counted(self._total, self._unit)}")
    self._done = done
    now = time.monotonic()
    if self._bar is not None:
      text = f"{self._title} {detail}".rstrip()
      self._bar.update(self._task, completed=done, description=text)
    elif now - self._spoken >= _LINE_SECONDS and done > self._first:
      self._spoken = now
      left = (now - self._begun) / (done - self._first) * (self._total - done)
      note = f", {detail}" if detail else ""
      units = noun(self._total, self._unit)
      say(f"{self._title}: {done}/{self._total} {units}, about {left:.0f} s left{note}")


def epoch_counter(progress: Progress) -> Callable[[int, str], None]:
  """Counts epochs: several at once are those of an earlier run."""

  def count(epochs: int, detail: str) -> None:
    if epochs > 1:
      progress.skip(epochs)
    else:
      progress.advance(epochs, detail)

  return count
