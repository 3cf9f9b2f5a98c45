"""Reads a command's options; one that does not exist is answered with the one that was meant."""

import dataclasses
import difflib
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from .naming import as_called, call_of

Options = TypeVar("Options")

_CONFIG = (tyro.conf.AvoidSubcommands,)
_SHOWN = 3
"""How many options an answer names at most."""
OTHER_NAMES = {
  "alpha": "soft-weight",
  "bs": "batch-size",
  "dataset-dir": "data-dir",
  "init-lr": "learning-rate",
  "lr": "learning-rate",
  "lr-scheduler-type": "decay",
  "max-seq-length": "max-length",
  "max-tau": "max-temperature",
  "model-name-or-path": "teacher-weights",
  "num-epochs": "epochs",
  "num-seeds": "seeds",
  "num-train-epochs": "epochs",
  "output-dir": "workdir",
  "per-device-train-batch-size": "batch-size",
  "seed": "seeds",
  "t": "temperature",
  "tau": "temperature",
  "tau-max": "max-temperature",
  "train-batch-size": "batch-size",
  "warmup-ratio": "warmup",
  "wd": "weight-decay",
}
"""What the papers and other libraries call an option."""


def ask(
  kind: type[Options],
  argv: Sequence[str] | None,
  command: str,
  *,
  choices: str = "",
  default: Options | None = None,
  description: str | None = None,
) -> Options:
  """Reads a command's options into a dataclass.

  Args:
    kind: the dataclass; its docstring and those of its fields are the help.
    argv: arguments without the command's name; None reads the process's.
    command: its name.
    choices: what follows the name in the usage line.
    default: values of what is not given.
    description: of the command, if not the docstring of `kind`.

  Raises:
    SystemExit: for --help, and for values of another type, after they are explained.
    ValueError: for an option that does not exist, with the one that was meant.
  """
  more: dict[str, Any] = {} if default is None else {"default": default}
  if description is not None:
    more["description"] = as_called(description)
  found, unknown = tyro.cli(
    kind,
    args=list(sys.argv[1:] if argv is None else argv),
    prog=" ".join([*call_of(command), *([choices] if choices else [])]),
    return_unknown_args=True,
    config=_CONFIG,
    **more,
  )
  if unknown:
    raise ValueError(refusal(unknown, list(option_names(kind)), command))
  return found


def refusal(unknown: Sequence[str], known: Sequence[str], command: str) -> str:
  """Why arguments are refused, and what was probably meant.

  >>> refusal(["--tau-max", "5"], ["--epochs", "--annealing-kd.max-temperature"], "study")
  'unknown option --tau-max: did you mean --annealing-kd.max-temperature?'
  """
  named = [argument for argument in unknown if argument.startswith("-")]
  if not named:
    return f"unexpected argument {unknown[0]!r}: the option before it takes fewer values"
  option = named[0].partition("=")[0]
  close = meant(option, known)
  remedy = f"did you mean {' or '.join(close)}?" if close else f"`{_help_of(command)}` lists all"
  return f"unknown option {option}: {remedy}"


def _help_of(command: str) -> str:
  return " ".join([*call_of(command), "--help"])


def meant(option: str, known: Sequence[str]) -> list[str]:
  """The options, of those known, that an unknown one probably means; the likeliest first."""
  group, _, last = option.lstrip("-").replace("_", "-").lower().rpartition(".")
  last = OTHER_NAMES.get(last, last)
  parts = {name: name.lstrip("-").rpartition(".")[::2] for name in known}
  ends = {end for _, end in parts.values()}
  close = (
    [last] if last in ends else difflib.get_close_matches(last, sorted(ends), n=1, cutoff=0.75)
  )
  if not close:
    return difflib.get_close_matches(option, known, n=1, cutoff=0.7)
  found = [name for name, (_, end) in parts.items() if end == close[0]]
  groups = {parts[name][0] for name in found}
  nearest = difflib.get_close_matches(group, sorted(groups), n=1, cutoff=0.6)
  if group and nearest:
    found = [name for name in found if parts[name][0] == nearest[0]]
  # The study's own come before those of its parts, the student's before the teacher's.
  return sorted(found, key=lambda name: ("." in name, "teacher" in name))[:_SHOWN]


def option_names(kind: Any, prefix: str = "") -> Iterator[str]:
  """The options of a dataclass as they are typed, those of dataclasses in its fields too."""
  hints = get_type_hints(kind, include_extras=True)
  for field in dataclasses.fields(kind):
    hint, marks = hints[field.name], ()
    if get_origin(hint) is Annotated:
      hint, *marks = get_args(hint)
    if tyro.conf.Suppress in marks or tyro.conf.Positional in marks:
      continue
    inlined = any(getattr(mark, "name", None) == "" for mark in marks)
    name = prefix if inlined else f"{prefix}{field.name.replace('_', '-')}"
    if dataclasses.is_dataclass(hint):
      yield from option_names(hint, name if inlined else f"{name}.")
    else:
      yield f"--{name}"
