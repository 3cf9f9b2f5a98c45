"""The numbers of a study as tables."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .documents import Table
from .findings import device_text
from .formats import (
  DASH,
  decimal,
  duration,
  heading,
  interval,
  percent,
  plain,
  runs_of,
  sentence,
  spread,
)
from .metric import metric_of
from .statistics import (
  SCRATCH,
  Estimate,
  baselines,
  by_seed,
  clipped,
  estimate,
  excludes_zero,
  final_rows,
  gain,
  method_titles,
  network_pick,
  network_score,
  paper_score,
  pick,
  seconds_by_seed,
  test_scores,
)

Results = Mapping[str, Any]


CHANCE = "Chance"
"""The row of one answer to all test examples."""


NARROW = 24
"""Characters of a title on one line."""


def _gain_cell(difference: Estimate | None, seeds: int) -> str:
  if difference is None:
    return DASH
  lines = [percent(difference.mean, sign="+")]
  verdict = excludes_zero(difference)
  if verdict is not None:
    lines += [interval(difference, sign="+"), "excludes 0" if verdict else "includes 0"]
  if difference.count < seeds:
    lines.append(f"({difference.count} shared seeds)")
  return "\n".join(lines)


def main_table(results: Results) -> Table:
  """The metric of teacher, assistant and every method, each from its last phase; fits a terminal."""
  paper, metric, bases = results["paper"], metric_of(results), baselines(results)
  header = [
    "Method",
    "Seeds",
    f"{metric.test_title}\nmean ± sd\n95 % interval",
    "Last epoch,\ntest, %",
    "Validation,\nbest, %",
    *(f"Gain over\n{name}, points" for name in bases.values()),
  ]
  rows = []
  for role, label in _networks(results):
    test, validation = (
      percent(network_score(results, role, split)) for split in ("test", "validation")
    )
    rows.append((role, [label, DASH, test, DASH, validation, *[DASH] * len(bases)]))
  if metric.chance is not None:
    rows.append((CHANCE, [CHANCE, DASH, percent(metric.chance), *[DASH] * (2 + len(bases))]))
  for method, title in method_titles(results).items():
    finals = final_rows(results, method)
    values = test_scores(results, method).values()
    # A varied option has a line of its own, so that the table fits a terminal.
    row = [title if len(title) <= NARROW else title.replace(" (", "\n(", 1), str(len(finals))]
    row += [spread(values)]
    if len(values) > 1:
      row[-1] += f"\n{interval(clipped(estimate(values), metric.floor))}"
    row += [spread(by_seed(finals, "test", "last", metric.key).values())]
    row += [spread(by_seed(finals, "validation", "best").values())]
    row += [_gain_cell(gain(results, method, base), len(values)) for base in bases]
    rows.append((method, row))
  if paper:
    header.append(
      "Paper, %\n(gain)" if not paper.get("differing") else "Paper, %\n(gain);\nother setting"
    )
    for name, row in rows:
      value, scratch = (paper_score(results, key) for key in (name, SCRATCH))
      cell = percent(value)
      if None not in (value, scratch) and name not in (SCRATCH, "teacher", "assistant"):
        cell += f"\n({percent(value - scratch, sign='+')})"
      row.append(cell)
  return Table(header, [row for _, row in rows])


class Column(NamedTuple):
  """A column of the detail table: its head, its name in a sentence, and how it shows a number."""

  head: str
  name: str
  show: Callable[[float | None], str] = percent


COLUMNS = {
  "agreement": Column("Agreement with\nteacher, %", "agreement"),
  "kl_to_teacher": Column("KL to teacher,\nnats", "KL(teacher || student)", decimal),
  "ece": Column("ECE", "expected calibration error (ECE)", decimal),
  "rmse": Column("RMSE", "root mean squared error (RMSE, in the labels' unit)", decimal),
  "squared_difference_to_teacher": Column(
    "Squared difference\nto teacher", "squared difference to the teacher", decimal
  ),
}


def detail_columns(results: Results) -> dict[str, Column]:
  """Key -> column of what is measured beside the metric."""
  metric = metric_of(results)
  columns = {
    key: COLUMNS[key]._replace(name=label) if key in COLUMNS else Column(heading(label), label)
    for key, label in metric.others.items()
  }
  columns |= {key: column for key, column in COLUMNS.items() if key not in columns}
  finals = [row for row in results["rows"] if row["final"]]
  return {
    key: column
    for key, column in columns.items()
    if any(pick(row, "test", "best", key) is not None for row in finals)
  }


def detail_table(results: Results) -> Table:
  """Other metrics, agreement with the teacher, calibration and time of the same networks."""
  columns, rows = detail_columns(results), []
  for role, label in _networks(results):
    values = (column.show(network_pick(results, role, key)) for key, column in columns.items())
    rows.append([label, *values, duration(pick(results[role], "seconds"))])
  for method, title in method_titles(results).items():
    finals = final_rows(results, method)
    cells = (
      spread(by_seed(finals, "test", "best", key).values(), column.show)
      for key, column in columns.items()
    )
    seconds = seconds_by_seed(results, method).values()
    rows.append([title, *cells, duration(estimate(seconds).mean if seconds else None)])
  heads = [column.head for column in columns.values()]
  return Table(["Method", *heads, "Time\nper seed"], rows)


def _networks(
  results: Results, roles: tuple[str, ...] = ("teacher", "assistant")
) -> list[tuple[str, str]]:
  """(role, label) of the teacher and the assistant, where there are any."""
  return [
    (role, f"{role.capitalize()}\n{results[role].get('model') or ''}".strip())
    for role in roles
    if results[role]
  ]


def phase_table(results: Results) -> Table:
  """Every phase of every method, over its seeds."""
  metric = metric_of(results)
  header = ["Method: phase", "Epochs", "Seeds", "Best epoch", "Validation,\nbest, %"]
  header += ["Validation,\nlast, %", "Test,\nbest, %", "Test,\nlast, %", "Seconds"]
  header.append(f"{sentence(metric.examples)}/s")
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
      ("test", "best", metric.key),
      ("test", "last", metric.key),
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
  """Test metric of every seed: what the means are made of."""
  titles = method_titles(results)
  values = {name: test_scores(results, name) for name in titles}
  seeds = sorted(set().union(*values.values()))
  rows = [
    [titles[name], *(percent(values[name].get(seed)) for seed in seeds)]
    for name in titles
    if values[name]
  ]
  return Table(["Method", *(f"seed {seed}" for seed in seeds)], rows)


def parts_table(results: Results) -> Table | None:
  """The studies that a joined one is made of; None of any other."""
  if not results["parts"]:
    return None
  titles, rows = method_titles(results), []
  for part in results["parts"]:
    methods: dict[str, list[str]] = {}
    for method, seeds in part["seeds"].items():
      methods.setdefault(runs_of(seeds), []).append(titles.get(method, method))
    taken = [f"{', '.join(names)}: {seeds}" for seeds, names in methods.items()]
    made_with = part.get("made_with") or [part.get("versions") or {}]
    code = [" ".join(filter(None, map(each.get, ("kd_jax", "commit")))) for each in made_with]
    rows.append(
      [
        str(part.get("name") or part.get("study") or DASH),
        "\n".join(taken) or "nothing new",
        device_text(part["device"]) if part.get("device") else DASH,
        "\n".join(dict.fromkeys(filter(None, code))) or DASH,
        duration(pick(part, "seconds")),
        str(part.get("created") or DASH),
      ]
    )
  return Table(
    ["Study", "Seeds taken", "Device", "kd_jax", "Students'\ntraining", "Evaluated"], rows
  )


def capacity_table(results: Results) -> Table:
  """Sizes beside the teacher's, and how much of the gap to it each method closes."""
  teacher, student = results["teacher"], results["student"]
  large, small = pick(teacher, "parameters"), pick(student, "parameters")
  ceiling = network_score(results, "teacher")
  means = {
    name: estimate(values.values()).mean
    for name in method_titles(results)
    if (values := test_scores(results, name))
  }
  floor = means.get(SCRATCH)
  closable = None not in (ceiling, floor)
  header = ["Model", "Parameters", "Smaller than\nthe teacher"]
  header += [f"Test\n{metric_of(results).label}, %", *(["Gap closed"] if closable else [])]
  rows, width = [], len(header)
  for role, label in _networks(results):
    count, value = pick(results[role], "parameters"), network_score(results, role)
    ratio = f"{large / count:.1f}×" if large and count else DASH
    rows.append([label.replace("\n", " "), _count(count), ratio, percent(value), DASH][:width])
  for name, title in method_titles(results).items():
    closed = DASH
    if name in means and closable and ceiling > floor:
      closed = f"{100 * (means[name] - floor) / (ceiling - floor):.1f} %"
    label = f"{student.get('model') or 'Student'}, {title}"
    ratio = f"{large / small:.1f}×" if large and small else DASH
    rows.append([label, _count(small), ratio, percent(means.get(name)), closed][:width])
  return Table(header, rows)


SPEED = {
  "parameters": ("Parameters", lambda value: f"{value:,.0f}"),
  "bytes": ("Weights,\nMB", lambda value: plain(value / 1e6)),
  "latency_ms": ("One {example},\nms", plain),
  "examples_per_second": ("{Examples}/s", plain),
}
"""Key -> head of the column and how it shows a number."""


def speed_table(results: Results) -> Table | None:
  """Size on disk and measured speed of the networks, and the teacher's figures divided by the student's.

  Returns:
    The table; None where nothing was measured.
  """
  measured = [key for key in SPEED if key != "parameters"]
  networks = _networks(results, ("teacher", "assistant", "student"))
  if not any(pick(results[role], key) is not None for role, _ in networks for key in measured):
    return None
  examples = metric_of(results).examples
  names = {"example": examples.removesuffix("s"), "Examples": sentence(examples)}
  header = ["Network", *(head.format(**names) for head, _ in SPEED.values())]
  rows = []
  for role, label in networks:
    values = {key: pick(results[role], key) for key in SPEED}
    rows.append([label, *(DASH if v is None else SPEED[key][1](v) for key, v in values.items())])
  ratios = []
  for key in SPEED:
    large, small = pick(results["teacher"], key), pick(results["student"], key)
    ratios.append(f"{plain(large / small)}×" if large and small else DASH)
  return Table(header, [*rows, ["Teacher / student", *ratios]])


def _count(value: float | None) -> str:
  return DASH if value is None else f"{value:,.0f}"
