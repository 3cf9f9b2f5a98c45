"""The numbers of a study as text, and as tables."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from experiments.reporting.documents import Table
from experiments.reporting.statistics import (
  KD,
  SCRATCH,
  Estimate,
  by_seed,
  estimate,
  excludes_zero,
  final_rows,
  gain,
  method_titles,
  pick,
  seconds_by_seed,
  test_accuracies,
)

DASH = "–"
Results = Mapping[str, Any]


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
  """Mean ± standard deviation; one value has no deviation, none at all is a dash."""
  values = list(values)
  if not values:
    return DASH
  found = estimate(values)
  return f"{show(found.mean)} ± {show(found.sd)}"


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


def _gain_cell(difference: Estimate | None, seeds: int) -> str:
  if difference is None:
    return DASH
  lines = [percent(difference.mean, sign="+"), interval(difference, sign="+")]
  verdict = excludes_zero(difference)
  if verdict is not None:
    lines.append("excludes 0" if verdict else "includes 0")
  if difference.count < seeds:
    lines.append(f"({difference.count} shared seeds)")
  return "\n".join(lines)


def main_table(results: Results) -> Table:
  """Accuracies of teacher, assistant and every method, each from its last phase; fits a terminal."""
  paper = results["paper"]
  header = [
    "Method",
    "Seeds",
    "Test, %\nmean ± sd\n95 % interval",
    "Last epoch,\ntest, %",
    "Validation,\nbest, %",
    "Gain over\nscratch, points",
    "Gain over\nKD, points",
  ]
  rows = []
  for role, label in _networks(results):
    test, validation = (pick(results[role], f"{kind}_accuracy") for kind in ("test", "validation"))
    rows.append((role, [label, DASH, percent(test), DASH, percent(validation), DASH, DASH]))
  for method, title in method_titles(results).items():
    finals = final_rows(results, method)
    values = test_accuracies(results, method).values()
    row = [title, str(len(finals))]
    row += [f"{spread(values)}\n{interval(estimate(values))}" if values else DASH]
    row += [spread(by_seed(finals, "test", "last", "accuracy").values())]
    row += [spread(by_seed(finals, "validation", "best").values())]
    row += [_gain_cell(gain(results, method, base), len(values)) for base in (SCRATCH, KD)]
    rows.append((method, row))
  if paper:
    header.append(
      "Paper, %\n(gain)" if not paper.get("differing") else "Paper, %\n(gain);\nother setting"
    )
    for name, row in rows:
      value, scratch = (pick(paper, "test_accuracy", key) for key in (name, SCRATCH))
      cell = percent(value)
      if None not in (value, scratch) and name not in (SCRATCH, "teacher", "assistant"):
        cell += f"\n({percent(value - scratch, sign='+')})"
      row.append(cell)
  return Table(header, [row for _, row in rows])


def detail_table(results: Results) -> Table:
  """Agreement with the teacher, calibration and time of the same networks."""
  header = ["Method", "Agreement with\nteacher, %", "KL to teacher,\nnats", "ECE", "Time\nper seed"]
  rows = []
  for role, label in _networks(results):
    model = results[role]
    times = [decimal(pick(model, "test_ece")), duration(pick(model, "seconds"))]
    rows.append([label, DASH, DASH, *times])
  for method, title in method_titles(results).items():
    finals = final_rows(results, method)
    row = [title, spread(by_seed(finals, "test", "best", "agreement").values())]
    row += [
      spread(by_seed(finals, "test", "best", key).values(), decimal)
      for key in ("kl_to_teacher", "ece")
    ]
    seconds = seconds_by_seed(results, method).values()
    rows.append([*row, duration(estimate(seconds).mean if seconds else None)])
  return Table(header, rows)


def _networks(results: Results) -> list[tuple[str, str]]:
  """(role, label) of the teacher and the assistant, where there are any."""
  return [
    (role, f"{role.capitalize()}\n{results[role].get('model') or ''}".strip())
    for role in ("teacher", "assistant")
    if results[role]
  ]


def phase_table(results: Results) -> Table:
  """Every phase of every method, over its seeds."""
  header = ["Method: phase", "Epochs", "Seeds", "Best epoch", "Validation,\nbest, %"]
  header += ["Validation,\nlast, %", "Test,\nbest, %", "Test,\nlast, %", "Seconds", "Images/s"]
  groups: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
  for row in results["rows"]:
    groups.setdefault((row["method"], row["phase"]), {})[row["seed"]] = row
  titles = method_titles(results)
  order = {name: index for index, name in enumerate(titles)}
  table = []
  for (method, phase), rows in sorted(groups.items(), key=lambda item: order[item[0][0]]):
    epochs, best = (sorted(by_seed(rows, key).values()) for key in ("epochs", "best_epoch"))
    cells = [f"{titles[method]}: {phase}", _range(epochs), str(len(rows)), _range(best)]
    for path in (
      ("validation", "best"),
      ("validation", "last"),
      ("test", "best", "accuracy"),
      ("test", "last", "accuracy"),
    ):
      cells.append(spread(by_seed(rows, *path).values()))
    for key in ("seconds", "examples_per_second"):
      values = by_seed(rows, "timing", key).values()
      cells.append(plain(estimate(values).mean if values else None))
    table.append(cells)
  return Table(header, table)


def _range(values: list[float]) -> str:
  if not values:
    return DASH
  low, high = f"{values[0]:g}", f"{values[-1]:g}"
  return low if low == high else f"{low}{DASH}{high}"


def seed_table(results: Results) -> Table:
  """Test accuracy of every seed: what the means are made of."""
  titles = method_titles(results)
  values = {name: test_accuracies(results, name) for name in titles}
  seeds = sorted(set().union(*values.values()))
  rows = [
    [titles[name], *(percent(values[name].get(seed)) for seed in seeds)]
    for name in titles
    if values[name]
  ]
  return Table(["Method", *(f"seed {seed}" for seed in seeds)], rows)


def capacity_table(results: Results) -> Table:
  """Sizes beside the teacher's, and how much of the accuracy gap each method closes."""
  teacher, student = results["teacher"], results["student"]
  large, small = pick(teacher, "parameters"), pick(student, "parameters")
  ceiling = pick(teacher, "test_accuracy")
  means = {
    name: estimate(values.values()).mean
    for name in method_titles(results)
    if (values := test_accuracies(results, name))
  }
  floor = means.get(SCRATCH)
  rows = []
  for role, label in _networks(results):
    count, value = (pick(results[role], key) for key in ("parameters", "test_accuracy"))
    ratio = f"{large / count:.1f}×" if large and count else DASH
    rows.append([label.replace("\n", " "), _count(count), ratio, percent(value), DASH])
  for name, title in method_titles(results).items():
    closed = DASH
    if name in means and None not in (ceiling, floor) and ceiling > floor:
      closed = f"{100 * (means[name] - floor) / (ceiling - floor):.1f} %"
    label = f"{student.get('model') or 'Student'}, {title}"
    ratio = f"{large / small:.1f}×" if large and small else DASH
    rows.append([label, _count(small), ratio, percent(means.get(name)), closed])
  header = ["Model", "Parameters", "Smaller than\nthe teacher", "Test\naccuracy, %", "Gap closed"]
  return Table(header, rows)


def _count(value: float | None) -> str:
  return DASH if value is None else f"{value:,.0f}"
