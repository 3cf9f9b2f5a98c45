"""What differs between the settings that a run was trained with and those of now."""

import dataclasses
import json
import math
from typing import Any, NamedTuple

_SIGNIFICANT = 1e-6
"""Numbers that agree to this share are the same: schedules are computed in float32."""


class Difference(NamedTuple):
  """A setting with two values.

  Attributes:
    name: of the setting, such as "optimizer.momentum".
    old, new: JSON values.
  """

  name: str
  old: Any
  new: Any


def differences(name: str, old: Any, new: Any, *, defaults: Any = None) -> list[str]:
  """What differs between two JSON values, in words, down to the single setting; see `differing`."""
  found = differing(name, old, new, defaults=defaults)
  return [f"{each.name} was {short(each.old)}, now {short(each.new)}" for each in found]


def differing(name: str, old: Any, new: Any, *, defaults: Any = None) -> list[Difference]:
  """What differs between two JSON values, down to the single setting.

  Args:
    name: of the setting, for the text.
    old: as it was.
    new: as it is now.
    defaults: values, nested as `new`, of settings that are younger than the run.
  """
  if isinstance(old, dict) and isinstance(new, dict):
    defaults = defaults if isinstance(defaults, dict) else {}
    keys = [*new, *(key for key in old if key not in new)]
    return [
      found
      for key in keys
      for found in differing(
        f"{name}.{key}",
        old.get(key, defaults.get(key)),
        new.get(key),
        defaults=defaults.get(key),
      )
    ]
  if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
    pairs = enumerate(zip(old, new, strict=True))
    return [d for i, (a, b) in pairs for d in differing(f"{name}[{i}]", a, b)]
  return [] if old == new or _close(old, new) else [Difference(name, old, new)]


def field_defaults(settings: Any) -> dict[str, Any]:
  """The defaults of a dataclass's fields, as plain values."""
  return {
    field.name: json.loads(json.dumps(field.default))
    for field in dataclasses.fields(settings)
    if isinstance(field.default, str | int | float | tuple | None)
  }


def _close(old: Any, new: Any) -> bool:
  if not (isinstance(old, float) and isinstance(new, float)):
    return False
  return math.isclose(old, new, rel_tol=_SIGNIFICANT)


def short(value: Any, length: int = 300) -> str:
  """A value as JSON, cut."""
  text = json.dumps(value)
  return text if len(text) <= length else text[:length] + "…"
