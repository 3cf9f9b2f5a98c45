"""The rows of a study: its methods, and one of them once for each value of an option."""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import tyro


class Variant(NamedTuple):
  """A method with its settings.

  Attributes:
    method: name in the registry.
    settings: the method's settings, a dataclass; None if it has none.
    label: the option and value that tell it from other rows of the method; empty if nothing is varied.
  """

  method: str
  settings: Any
  label: str = ""


def variants(methods: Sequence[str], settings: Any, vary: Sequence[str]) -> dict[str, Variant]:
  """The rows of a study by name, in the order of its tables.

  A varied method has a row for each value, named such as `annealing_kd.max-temperature=5`. The row whose value
  is the study's own setting keeps the method's name: its runs are those of a study that varies nothing.

  Args:
    methods: names of methods.
    settings: a dataclass with a field for each method that has settings.
    vary: METHOD.OPTION and its values, as on the command line; empty varies nothing.

  Raises:
    ValueError: a method that is not among `methods`, an unknown option, a value of another type, or one given
      twice.
  """
  varied, values = _varied(methods, settings, vary) if vary else ("", {})
  rows: dict[str, Variant] = {}
  for method in methods:
    own = getattr(settings, method, None)
    if method != varied:
      rows[method] = Variant(method, own)
      continue
    option = vary[0].partition(".")[2].replace("_", "-")
    for text, changed in values.items():
      name = method if changed == own else f"{method}.{option}={text}"
      rows[name] = Variant(method, changed, f"{option} {text}")
  return rows


def _varied(
  methods: Sequence[str], settings: Any, vary: Sequence[str]
) -> tuple[str, dict[str, Any]]:
  """The method whose option is varied, and its settings by the value's text."""
  method, _, option = vary[0].replace("-", "_").partition(".")
  own = getattr(settings, method, None)
  if method not in methods or own is None:
    able = [name for name in methods if getattr(settings, name, None) is not None]
    raise ValueError(
      f"`vary` must be an option of one of the methods compared, {', '.join(able)}, got {vary[0]!r}: "
      "name the method in --methods too; experiments.compare compares whole studies"
    )
  known = _options(own)
  if option not in known:
    raise ValueError(
      f"`vary` must be an option of {method}, {', '.join(known).replace('_', '-')}, got {option!r}"
    )
  if len(vary) < 2:
    raise ValueError(f"`vary` must be an option and its values, got {vary[0]!r} alone")
  found: dict[str, Any] = {}
  for value in vary[1:]:
    changed = _changed(own, option, value)
    if changed in found.values():
      raise ValueError(f"`vary` must have distinct values, got {value!r} twice for {vary[0]}")
    found[_text(changed, option)] = changed
  return method, found


def _options(settings: Any, prefix: str = "") -> list[str]:
  """Dotted names of all options of a dataclass."""
  found = []
  for field in dataclasses.fields(settings):
    value, name = getattr(settings, field.name), f"{prefix}{field.name}"
    found += _options(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
  return found


def _changed(settings: Any, option: str, value: str) -> Any:
  """The settings with one option read from text, by its type."""
  try:
    with contextlib.redirect_stderr(io.StringIO()):  # tyro draws a box; here an error is one line
      return tyro.cli(
        type(settings),
        args=[f"--{option.replace('_', '-')}", value],
        default=settings,
        config=(tyro.conf.FlagConversionOff,),
        console_outputs=False,
      )
  except SystemExit:
    raise ValueError(
      f"`vary` must have values of the type of {option.replace('_', '-')}, such as "
      f"{_text(settings, option)}, got {value!r}"
    ) from None


def _text(settings: Any, option: str) -> str:
  """The value of an option as text; a number has one text only."""
  value = settings
  for name in option.split("."):
    value = getattr(value, name)
  if isinstance(value, float) and float(f"{value:g}") == value:
    return f"{value:g}"
  return str(value).replace("/", "_")
