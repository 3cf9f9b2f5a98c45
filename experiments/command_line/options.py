"""The options of a command: those of a study, made from its types, where it runs, and the command's own."""

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from kd_jax.data import glue

from ..domains.study import Study
from .asking import ask

_CONFIGS = "..configs"


@dataclasses.dataclass(frozen=True)
class Where:
  """Where a command runs; nothing here changes a result."""

  workdir: Path | None = None
  """Folder of the study, by default runs/CONFIG, or runs/glue_TASK; a study that was stopped resumes there."""
  data_dir: Path | None = None
  """Prepared TFDS data, by default $TFDS_DATA_DIR or TFDS's own folder."""
  coordinator: str | None = None
  """HOST:PORT of process 0, where several processes train together."""
  num_processes: int = 1
  """How many processes there are."""
  process_id: int = 0
  """The number of this one, from 0."""
  compile_cache: Path | None = Path("~/.cache/kd_jax")
  """Folder of compiled programs, kept between runs."""


@dataclasses.dataclass(frozen=True)
class NoOptions:
  """For commands that have no options of their own."""


def configs() -> dict[str, Study]:
  """Every study in `experiments.configs`, by name."""
  package = importlib.import_module(_CONFIGS, __package__)
  names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
  return {name: importlib.import_module(f"{_CONFIGS}.{name}", __package__).CONFIG for name in names}


Options = TypeVar("Options")


def _advice(name: str, known: Sequence[str]) -> str:
  """What to write instead of a name that no config has."""
  task = name.removeprefix("glue_")
  if task != name and task in glue.TASKS:
    return f"it is `glue --task {task}` now"
  close = difflib.get_close_matches(name, known, n=1)
  listed = f"known are {', '.join(known)}"
  return f"did you mean {close[0]}? {listed}" if close else listed


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
  """The value of an option, written `--option VALUE` or `--option=VALUE`; None if it is not given."""
  for index, argument in enumerate(arguments):
    given, equals, value = argument.partition("=")
    if given == option:
      return value if equals else next(iter(arguments[index + 1 : index + 2]), None)
  return None


def parse(
  prog: str, argv: Sequence[str] | None, options: type[Options] = NoOptions
) -> tuple[Study, Where, Options]:
  """Reads `CONFIG [options]` from the command line.

  Raises:
    SystemExit: for --help and for malformed options, after saying what is wrong.
    ValueError: for an unknown CONFIG or values that the study refuses.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)
  known = configs()
  name = "digits"
  if arguments and not arguments[0].startswith("-"):
    name = arguments.pop(0)
  if name not in known:
    raise ValueError(f"unknown config {name!r}: {_advice(name, list(known))}")
  own = _value_of("--recipes", arguments)
  if own is not None:
    # Before the other options are read: the file's methods bring options of their own.
    known[name] = dataclasses.replace(known[name], recipes=Path(own))
  if _value_of("--files", arguments) is not None:
    known[name] = known[name].of_own_files()
  if "--quick" in arguments:
    known[name] = known[name].quickened()
  description = inspect.getdoc(importlib.import_module(f"{_CONFIGS}.{name}", __package__))
  command = dataclasses.make_dataclass(
    "command",
    [
      ("study", Annotated[type(known[name]), tyro.conf.arg(name="")], known[name]),
      ("where", Annotated[Where, tyro.conf.arg(name="")], Where()),
      ("options", Annotated[options, tyro.conf.arg(name="")], options()),
    ],
  )
  parsed = ask(
    command,
    arguments,
    prog,
    choices=f"{{{','.join(known)}}}",
    default=command(),
    description=f"{name}: {description}\n\nThe options' defaults are those of {name}.",
  )
  where = parsed.where
  if where.workdir is None:
    where = dataclasses.replace(where, workdir=Path("runs") / parsed.study.folder)
  return parsed.study, where, parsed.options
