"""What differs between the settings that a run was trained with and those of now."""

import dataclasses
import json
import math
from typing import Any, NamedTuple

from kd_jax.optimizers import Optimizer

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


def differences(
  name: str, old: Any, new: Any, *, defaults: Any = None, rounded: float = 0.0
) -> list[str]:
  """What differs between two JSON values, in words, down to the single setting; see `differing`."""
  found = differing(name, old, new, defaults=defaults, rounded=rounded)
  return [f"{each.name} was {short(each.old)}, now {short(each.new)}" for each in found]


def differing(
  name: str, old: Any, new: Any, *, defaults: Any = None, rounded: float = 0.0
) -> list[Difference]:
  """What differs between two JSON values, down to the single setting.

  Args:
    name: of the setting, for the text.
    old: as it was.
    new: as it is now.
    defaults: values, nested as `new`, of settings that are younger than the run.
    rounded: numbers that are this close are the same, too.
  """
  more = {"rounded": rounded}
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
        **more,
      )
    ]
  if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
    pairs = enumerate(zip(old, new, strict=True))
    return [d for i, (a, b) in pairs for d in differing(f"{name}[{i}]", a, b, **more)]
  same = old == new or _close(old, new, rounded) or _same_module(old, new)
  same = same or (name.endswith(".function") and _moved(old, new))
  return [] if same else [Difference(name, old, new)]


def with_optimizer_defaults(phases: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Descriptions of phases whose optimisers have what is younger than them at its default."""
  defaults = dataclasses.asdict(Optimizer())
  return [phase | {"optimizer": defaults | phase.get("optimizer", {})} for phase in phases]


def field_defaults(settings: Any) -> dict[str, Any]:
  """The defaults of a dataclass's fields, as plain values."""
  return {
    field.name: json.loads(json.dumps(field.default))
    for field in dataclasses.fields(settings)
    if isinstance(field.default, str | int | float | tuple | None)
  }


def _close(old: Any, new: Any, rounded: float) -> bool:
  if not (isinstance(old, float) and isinstance(new, float)):
    return False
  return math.isclose(old, new, rel_tol=_SIGNIFICANT, abs_tol=rounded)


def _same_module(old: Any, new: Any) -> bool:
  """Before 0.2 a module was described by its repr, which has every field on a line of its own."""
  if not (isinstance(old, str) and isinstance(new, dict) and "module" in new):
    return False
  kind = new["module"].rpartition(".")[2]
  lines = {line.strip() for line in old.splitlines()}
  said = {f"{name} = {value!r}" for name, value in new["fields"].items()}
  return old.startswith(f"{kind}(") and said <= lines


def _moved(old: Any, new: Any) -> bool:
  """Whether a loss of this project is the same one in another file.

  >>> _moved("experiments.layer_classifiers.label_loss", "experiments.pipeline.layer_classifiers.label_loss")
  True
  """
  named = [str(function).rpartition(".") for function in (old, new)]
  own = all(module.partition(".")[0] in ("kd_jax", "experiments") for module, _, _ in named)
  return own and named[0][2] == named[1][2]


def short(value: Any, length: int = 300) -> str:
  """A value as JSON, cut."""
  text = json.dumps(value)
  return text if len(text) <= length else text[:length] + "…"
