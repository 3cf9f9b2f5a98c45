"""Numbers and names as text."""

import itertools
import json
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from .statistics import Estimate, estimate

DASH = "–"


def percent(value: float | None, *, sign: str = "") -> str:
  """A fraction in per cent with two decimals.

  >>> percent(0.88443), percent(0.01, sign="+"), percent(None)
  ('88.44', '+1.00', '–')
  """
  return DASH if value is None else f"{100 * value:{sign}.2f}"


def plain(value: float | None) -> str:
  """Three significant digits, whole numbers whole."""
  if value is None:
    return DASH
  return f"{value:,.0f}" if value == 0 or abs(value) >= 100 else f"{value:.3g}"


def decimal(value: float | None) -> str:
  """Three decimals, for divergences and calibration errors."""
  return DASH if value is None else f"{value:.3f}"


def duration(seconds: float | None) -> str:
  """Seconds as a person says them.

  >>> duration(42), duration(750), duration(8000)
  ('42 s', '12.5 min', '2.2 h')
  """
  if seconds is None:
    return DASH
  for limit, unit in ((3600, "h"), (60, "min")):
    if seconds >= 2 * limit:
      return f"{seconds / limit:.1f} {unit}"
  return f"{seconds:.3g} s"


def interval(value: Estimate | None, *, sign: str = "") -> str:
  """The interval's two ends in per cent."""
  if value is None or value.low is None:
    return DASH
  return f"[{percent(value.low, sign=sign)}, {percent(value.high, sign=sign)}]"


def spread(values: Iterable[float], show: Callable[[float | None], str] = percent) -> str:
  """Mean ± standard deviation; of one value itself, of none a dash."""
  values = list(values)
  if not values:
    return DASH
  found = estimate(values)
  return show(found.mean) if found.sd is None else f"{show(found.mean)} ± {show(found.sd)}"


def runs_of(numbers: Iterable[int]) -> str:
  """Whole numbers, those that follow one another as a range.

  >>> runs_of([0, 1, 2, 7]), runs_of([3, 4])
  ('0–2, 7', '3, 4')
  """
  found: list[list[int]] = []
  for number in sorted(set(numbers)):
    if found and number == found[-1][-1] + 1:
      found[-1].append(number)
    else:
      found.append([number])
  return ", ".join(
    f"{run[0]}{DASH}{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in found
  )


def flatten(settings: Any, prefix: str = "") -> dict[str, str]:
  """Nested settings as dotted names.

  >>> flatten({"optimiser": {"name": "sgd"}, "seeds": 3})
  {'optimiser.name': 'sgd', 'seeds': '3'}
  """
  if isinstance(settings, dict) and (settings or not prefix):
    items = [flatten(value, f"{prefix}.{key}".strip(".")) for key, value in settings.items()]
    return dict(itertools.chain.from_iterable(item.items() for item in items))
  text = settings if isinstance(settings, str) else json.dumps(settings, ensure_ascii=False)
  return {prefix: text}


def heading(label: str) -> str:
  r"""A metric's label as the head of a narrow column, in per cent.

  >>> heading("token accuracy")
  'Token\naccuracy, %'
  """
  # The unit stays with the last word.
  text = textwrap.fill(f"{sentence(label)},\N{NO-BREAK SPACE}%", 15, break_on_hyphens=False)
  return text.replace("\N{NO-BREAK SPACE}", " ")


def sentence(text: str) -> str:
  """Text with a capital at its start; the rest keeps its own.

  >>> sentence("f1 of LAS")
  'F1 of LAS'
  """
  return text[:1].upper() + text[1:]


def and_(names: list[str]) -> str:
  """Names as a sentence lists them.

  >>> and_(["a", "b", "c"])
  'a, b and c'
  """
  return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
