"""The report of a study: `results.json` -> `report.md`, `report.html` and figures.

    python -m experiments.report DIR

The same numbers become one list of blocks (headings, paragraphs, tables, figures), and the blocks
become Markdown and HTML. The HTML holds its figures and style in itself and loads nothing.
"""

import base64
import dataclasses
import html
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from experiments import plots
from experiments.statistics import (
  KD,
  MIN_SEEDS,
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

SCHEMA_VERSION = 1
DASH = "–"
Results = dict[str, Any]


class Heading(NamedTuple):
  """A heading of level 1 to 3."""

  level: int
  text: str


class Paragraph(NamedTuple):
  """Running text; a warning stands out."""

  text: str
  warning: bool = False


class Bullets(NamedTuple):
  """A list."""

  items: list[str]


class Code(NamedTuple):
  """Text as it is, in a fixed-width face."""

  text: str


class Table(NamedTuple):
  """The first column is text, the others are numbers; a newline in a cell starts a new line."""

  header: list[str]
  rows: list[list[str]]


class Picture(NamedTuple):
  """A figure on a light and on a dark ground, with its caption."""

  name: str
  caption: str
  light: bytes
  dark: bytes


Block = Heading | Paragraph | Bullets | Code | Table | Picture


# Reading results.json


def load_results(directory: str | os.PathLike[str]) -> Results:
  """A study's results, checked for all that the report relies on.

  Raises:
    ValueError: the file is missing or broken, or of another schema; one line says which.
  """
  path = Path(directory) / "results.json"
  try:
    # NaN and Infinity are no JSON: a number that a run could not give counts as missing.
    results = json.loads(path.read_text("utf-8"), parse_constant=lambda _: None)
  except FileNotFoundError:
    raise ValueError(f"{path} does not exist: run the study with this directory first") from None
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"{path} cannot be read: {error}") from None
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(
      f"{path} is not valid JSON ({error}): run the study again, it writes the file anew"
    ) from None
  try:
    return check_results(results)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def check_results(results: Any) -> Results:
  """The results with optional parts filled in.

  Raises:
    ValueError: another schema version, a part of the wrong type, or a row that is there twice.
  """
  if not isinstance(results, dict):
    raise ValueError(f"expected an object, found {type(results).__name__}")
  version = results.get("schema_version")
  if version != SCHEMA_VERSION or isinstance(version, bool):
    raise ValueError(
      f"schema_version is {version!r}, this report reads {SCHEMA_VERSION}: "
      "use the version of the report that belongs to the study"
    )
  results = dict(results)
  parts = ("config", "device", "versions", "dataset", "teacher", "assistant", "student", "paper")
  for name, kind in {
    **dict.fromkeys((*parts, "methods"), dict),
    "rows": list,
    "curves": list,
  }.items():
    results[name] = kind() if results.get(name) is None else results[name]
    if not isinstance(results[name], kind):
      raise ValueError(f"{name} is {results[name]!r:.60}: expected a JSON {kind.__name__}")
  for name, spec in results["methods"].items():
    phases = spec.get("phases") or [] if isinstance(spec, dict) else None
    if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
      raise ValueError(f"methods.{name} is {spec!r:.60}: expected an object with phases")
  for part in ("rows", "curves"):
    for index, row in enumerate(results[part]):
      if not isinstance(row, dict) or not {"method", "seed", "phase"} <= row.keys():
        raise ValueError(f"{part}[{index}] is {row!r:.60}: it needs method, seed and phase")
      if not isinstance(row["method"], str) or not isinstance(row["phase"], str):
        raise ValueError(f"{part}[{index}] is {row!r:.60}: method and phase must be text")
      if not isinstance(row["seed"], int):
        raise ValueError(f"{part}[{index}].seed is {row['seed']!r}: expected a whole number")
      for key in ("timing", "schedules"):
        if not isinstance(row.get(key) or {}, dict):
          raise ValueError(f"{part}[{index}].{key} is {row[key]!r:.60}: expected an object")
  seen = set()
  for row in results["rows"]:
    key = row["method"], row["seed"], row["phase"]
    if key in seen:
      raise ValueError(f"two rows for method {key[0]}, seed {key[1]}, phase {key[2]}")
    seen.add(key)
  results["rows"] = [{**row, "final": _is_final(results, row)} for row in results["rows"]]
  return results


def _is_final(results: Results, row: Mapping[str, Any]) -> bool:
  if row.get("final") is not None:
    return bool(row["final"])
  phases = results["methods"].get(row["method"], {}).get("phases")
  return not phases or phases[-1].get("name") == row["phase"]


# Numbers as text


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


# The study in words and tables


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
  """Teacher, assistant and every method, each from its last phase."""
  paper = results["paper"]
  header = [
    "Method",
    "Seeds",
    "Test accuracy, %\nmean ± sd\n95 % interval",
    "Last epoch,\ntest, %",
    "Validation\naccuracy, %",
    "Gain over\nscratch, points",
    "Gain over\nKD, points",
    "Agreement with\nteacher, %",
    "KL to teacher,\nnats",
    "ECE",
    "Time\nper seed",
  ]
  rows = []
  for role in ("teacher", "assistant"):
    model = results[role]
    if model:
      row = [f"{role.capitalize()}\n{model.get('model') or ''}".strip(), DASH]
      row += [percent(pick(model, "test_accuracy")), DASH]
      row += [percent(pick(model, "validation_accuracy"))] + [DASH] * 4
      row += [decimal(pick(model, "test_ece")), duration(pick(model, "seconds"))]
      rows.append((role, row))
  for method, title in method_titles(results).items():
    finals = final_rows(results, method)
    values = test_accuracies(results, method).values()
    row = [title, str(len(finals))]
    row += [f"{spread(values)}\n{interval(estimate(values))}" if values else DASH]
    row += [spread(by_seed(finals, "test", "last", "accuracy").values())]
    row += [spread(by_seed(finals, "validation", "best").values())]
    row += [_gain_cell(gain(results, method, base), len(values)) for base in (SCRATCH, KD)]
    row += [spread(by_seed(finals, "test", "best", "agreement").values())]
    row += [
      spread(by_seed(finals, "test", "best", key).values(), decimal)
      for key in ("kl_to_teacher", "ece")
    ]
    seconds = seconds_by_seed(results, method).values()
    row += [duration(estimate(seconds).mean if seconds else None)]
    rows.append((method, row))
  if paper:
    header.append("Paper, %\n(over scratch)")
    for name, row in rows:
      value, scratch = (pick(paper, "test_accuracy", key) for key in (name, SCRATCH))
      cell = percent(value)
      if None not in (value, scratch) and name not in (SCRATCH, "teacher", "assistant"):
        cell += f"\n({percent(value - scratch, sign='+')})"
      row.append(cell)
  return Table(header, [row for _, row in rows])


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
  for role in ("teacher", "assistant"):
    if results[role]:
      model, count = results[role], pick(results[role], "parameters")
      ratio = f"{large / count:.1f}×" if large and count else DASH
      value = percent(pick(model, "test_accuracy"))
      label = f"{role.capitalize()} {model.get('model') or ''}".strip()
      rows.append([label, _count(count), ratio, value, DASH])
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


def verdict(name: str, difference: Estimate) -> str:
  """What one paired difference shows, in words."""
  size = f"{percent(difference.mean, sign='+')} points"
  if difference.count < MIN_SEEDS:
    seeds = "1 seed" if difference.count == 1 else f"{difference.count} seeds"
    return f"{size} against {name} ({seeds}: too few for a verdict)"
  size += f", {interval(difference, sign='+')}"
  if not excludes_zero(difference):
    return f"no difference from {name} beyond the interval ({size})"
  return f"{'beats' if difference.mean > 0 else 'is worse than'} {name} ({size})"


def reading(results: Results) -> list[str]:
  """The findings in plain sentences, each drawn from the numbers alone."""
  titles = method_titles(results)
  gains = {
    name: {base: gain(results, name, base) for base in (SCRATCH, KD)}
    for name in titles
    if name != SCRATCH
  }
  lines, comparisons, counts = [], 0, []
  for base in (SCRATCH, KD):
    found = {name: both[base] for name, both in gains.items() if both[base] is not None}
    judged = {name: value for name, value in found.items() if value.count >= MIN_SEEDS}
    comparisons += len(judged)
    counts += [value.count for value in found.values()]
    if judged:
      winners = [titles[name] for name, value in judged.items() if value.low > 0]
      others = [titles[name] for name, value in judged.items() if value.low <= 0]
      verb, rest = ("beat" if len(winners) > 1 else "beats"), ("do" if len(others) > 1 else "does")
      line = f"Beyond the 95 % interval, {_and(winners) or 'no method'} {verb} {titles[base]}"
      lines.append(line + (f"; {_and(others)} {rest} not." if winners and others else "."))
  for name, both in gains.items():
    said = [verdict(titles[base], value) for base, value in both.items() if value is not None]
    if said:
      lines.append(f"{titles[name]}: {'; '.join(said)}.")
  if counts and min(counts) < MIN_SEEDS:
    lines.append(
      f"Some comparisons rest on fewer than {MIN_SEEDS} seeds: an interval from so few says next "
      "to nothing, and no winner is named from them."
    )
  missing = [title for name, title in titles.items() if not test_accuracies(results, name)]
  if missing:
    lines.append(f"Without a test result so far: {_and(missing)}.")
  return lines + _limits(results, comparisons) + _against_paper(results, titles, gains)


def _and(names: list[str]) -> str:
  return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _limits(results: Results, comparisons: int) -> list[str]:
  """What the intervals leave out, and a teacher that is no better than the student."""
  lines = []
  scratch = test_accuracies(results, SCRATCH)
  examples, ceiling = pick(results["dataset"], "test"), pick(results["teacher"], "test_accuracy")
  if comparisons > 1:
    lines.append(
      f"The {comparisons} intervals are not corrected for one another: where nothing differs, "
      "about one in 20 still excludes 0."
    )
  lengths = {
    name: sum(pick(phase, "epochs") or 0 for phase in spec["phases"])
    for name, spec in results["methods"].items()
    if spec.get("phases")
  }
  if len(set(lengths.values())) > 1:
    titles = method_titles(results)
    said = [f"{titles[name]} {plain(length)}" for name, length in lengths.items()]
    lines.append(
      f"The methods do not train equally long (epochs: {', '.join(said)}): "
      "a gain over a shorter method may come from the length alone."
    )
  if scratch:
    mean = estimate(scratch.values()).mean
    if examples:
      error = 100 * (mean * (1 - mean) / examples) ** 0.5
      lines.append(
        f"The intervals cover the spread over seeds only. One of the {examples:,.0f} test "
        f"examples is {100 / examples:.2g} points, and an accuracy of {percent(mean)} % "
        f"measured on so many has a sampling error of about ±{error:.2g} points of its own."
      )
    if ceiling is not None and ceiling <= mean:
      lines.append(
        f"The teacher ({percent(ceiling)} %) is no better than the student trained from "
        f"scratch ({percent(mean)} %): there is no gap to close here."
      )
  return lines


def _against_paper(results: Results, titles: dict[str, str], gains: dict) -> list[str]:
  """The paper's gain over scratch beside ours."""
  lines, floor = [], pick(results["paper"], "test_accuracy", SCRATCH)
  for name, both in gains.items():
    value, ours = pick(results["paper"], "test_accuracy", name), both[SCRATCH]
    if None in (floor, value, ours):
      continue
    theirs = value - floor
    line = (
      f"{titles[name]} over {titles[SCRATCH]}: {percent(theirs, sign='+')} points in the paper, "
      f"{percent(ours.mean, sign='+')} here"
    )
    if ours.count >= MIN_SEEDS:
      inside = ours.low <= theirs <= ours.high
      line += f" (the paper's is {'inside' if inside else 'outside'} our interval)"
    lines.append(line + ".")
  return lines


def summary(results: Results) -> str:
  """What was run, in one paragraph."""
  data, teacher, student = results["dataset"], results["teacher"], results["student"]
  parts = []
  if data:
    splits = {key: pick(data, key) for key in ("train", "validation", "test")}
    counts = ", ".join(f"{count:,.0f} {key}" for key, count in splits.items() if count)
    name = f"{data.get('name') or 'unnamed'} {data.get('version') or ''}".strip()
    parts.append(f"Data: {name}" + (f" ({counts} examples)." if counts else "."))
  source = f" ({teacher['source']})" if teacher.get("source") else ""
  models = [f"{teacher.get('model') or 'teacher'}{source}"]
  if results["assistant"]:
    models.append(f"{results['assistant'].get('model') or ''} (assistant)".strip())
  models.append(str(student.get("model") or "student"))
  parts.append(f"Teacher → student: {' → '.join(models)}.")
  epochs = [
    f"{method_titles(results)[name]} {' + '.join(plain(pick(p, 'epochs')) for p in spec['phases'])}"
    for name, spec in results["methods"].items()
    if spec.get("phases")
  ]
  seeds = len({row["seed"] for row in results["rows"]})
  settings = flatten(results["config"]).items()
  batches = {value for key, value in settings if key.split(".")[-1] == "batch_size"}
  facts = [f"{seeds} seed{'' if seeds == 1 else 's'}"]
  facts += [f"epochs: {', '.join(epochs)}"] if epochs else []
  facts += [f"batch size {', '.join(sorted(batches))}"] if batches else []
  parts.append("; ".join(facts) + ".")
  return " ".join([*parts, *_where(results)])


def _where(results: Results) -> list[str]:
  """The device and the time taken."""
  parts, device = [], results["device"]
  if device:
    count, hosts = pick(device, "count") or 1, pick(device, "processes") or 1
    kind = device.get("kind") or device.get("platform") or "unknown"
    parts.append(f"Device: {count:g} × {kind}, {hosts:g} process{'' if hosts == 1 else 'es'}.")
  used = {str((row.get("timing") or {}).get("device") or "") for row in results["rows"]} - {""}
  if len(used) > 1:
    parts.append(f"Timings come from several devices ({', '.join(sorted(used))}).")
  times = [pick(row, "timing", "seconds") for row in results["rows"]]
  times += [pick(results[role], "seconds") for role in ("teacher", "assistant")]
  if any(times):
    parts.append(f"Training took {duration(sum(filter(None, times)))} over all models and seeds.")
  return parts


def blocks(results: Results) -> list[Block]:
  """The whole report in order."""
  found: list[Block] = [Heading(1, f"Study: {results.get('study') or 'unnamed'}")]
  if not results.get("complete"):
    found.append(
      Paragraph(
        "Incomplete: this study has not finished. Every number below may still change; "
        "the same command goes on from where it stopped.",
        warning=True,
      )
    )
  found.append(Paragraph(summary(results)))
  if results.get("command"):
    found.append(Code(str(results["command"])))
  found += [Heading(2, "Results"), main_table(results), Paragraph(MAIN_NOTE)]
  if results["paper"]:
    said = [results["paper"].get(key) for key in ("source", "setting")]
    found.append(Paragraph(f"Paper's numbers: {'. '.join(str(text) for text in said if text)}."))
  found += [Heading(2, "Reading"), Bullets(reading(results) or ["No comparison is possible yet."])]
  found += [Heading(2, "Figures"), *_pictures(results)]
  found += [Heading(2, "Capacity"), capacity_table(results), Paragraph(CAPACITY_NOTE)]
  found += [Heading(2, "Every phase"), phase_table(results), Paragraph(PHASE_NOTE)]
  found += [Heading(2, "Test accuracy of every seed, %"), seed_table(results)]
  found += [Heading(2, "Settings"), *_settings(results)]
  return found


MAIN_NOTE = (
  "Test accuracy is that of the checkpoint with the best validation accuracy; the last epoch's is "
  "beside it. Validation accuracy is the best one, which selection makes optimistic. ± is the "
  "standard deviation over seeds (ddof = 1), brackets are the 95 % Student-t interval of the mean. "
  "Gains are paired by seed. Agreement, KL(teacher || student) and expected calibration error (ECE) "
  "are of the same checkpoint on the test set. Time per seed is the student's training over all "
  "its phases."
)
CAPACITY_NOTE = (
  "Gap closed = (method - scratch) / (teacher - scratch), in test accuracy: 0 % is the student alone, "
  "100 % the teacher."
)
PHASE_NOTE = "Mean ± standard deviation over seeds; best epoch as lowest to highest over seeds."


def _pictures(results: Results) -> list[Block]:
  captions = {
    plots.learning_curves: "Validation accuracy against epoch: mean over the seeds that have "
    "reached the epoch, band from lowest to highest seed; dotted lines are changes of phase. "
    "The first epochs may lie below the frame. Beneath, the schedules that vary.",
    plots.accuracy: "Test accuracy of each method. Left: seeds, their mean and, from "
    f"{MIN_SEEDS} seeds on, its 95 % interval. Right, on a wider scale: the means, the teacher "
    "and the paper's numbers where there are any.",
    plots.size: "Test accuracy against the number of parameters (logarithmic).",
  }
  found: list[Block] = []
  for draw, caption in captions.items():
    figures = draw(results, plots.LIGHT), draw(results, plots.DARK)
    if None not in figures:
      images = map(plots.to_png, figures)
      found.append(Picture(draw.__name__, caption, *images))
  return found or [Paragraph("Nothing to draw yet.")]


def _settings(results: Results) -> list[Block]:
  found: list[Block] = []
  for name, title in method_titles(results).items():
    spec = results["methods"].get(name, {})
    found.append(Heading(3, title))
    settings = flatten(spec.get("settings") or {})
    found += [Code(str(spec["equation"]))] if spec.get("equation") else []
    said = [f"{spec['reference']}."] if spec.get("reference") else []
    said += (
      [", ".join(f"{key} = {value}" for key, value in settings.items()) + "."] if settings else []
    )
    found += [Paragraph(" ".join(said))] if said else []
  for name in ("config", "dataset", "teacher", "assistant", "student", "device", "versions"):
    values = flatten(results[name])
    if values:
      found += [
        Heading(3, name.capitalize()),
        Table(["Name", "Value"], list(map(list, values.items()))),
      ]
  if results.get("created"):
    found.append(Paragraph(f"Results of {results['created']}."))
  return found


# Blocks as Markdown and as HTML


def markdown_text(text: str) -> str:
  r"""Text with Markdown's own signs made harmless; a newline is a line break.

  >>> markdown_text("a|b <i>")
  'a\\|b &lt;i>'
  """
  text = re.sub(r"([\\`*|~]|(?<!\w)_|_(?!\w)|\](?=[(\[]))", r"\\\1", str(text))
  return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "<br>")


def to_markdown(document: Iterable[Block]) -> str:
  """The report as GitHub Markdown; figures are files under figures/."""
  return "\n\n".join(filter(None, map(_markdown, document))) + "\n"


def _markdown(block: Block) -> str:
  match block:
    case Heading(level, text):
      return f"{'#' * level} {markdown_text(text)}"
    case Paragraph(text, warning):
      return f"> **{markdown_text(text)}**" if warning else markdown_text(text)
    case Bullets(items):
      return "\n".join(f"- {markdown_text(item)}" for item in items)
    case Code(text):
      fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
      return f"{fence}text\n{text}\n{fence}"
    case Table(header, rows) if rows:
      align = ["---"] + ["---:" if _numeric(block) else "---"] * (len(header) - 1)
      lines = [map(markdown_text, header), align, *(map(markdown_text, row) for row in rows)]
      return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    case Table():
      return "Nothing yet."
    case Picture(name, caption):
      alt = name.replace("_", " ")
      return f"![{alt}](figures/{name}.png)\n\n{markdown_text(caption)}"


def _numeric(table: Table) -> bool:
  return table.header != ["Name", "Value"]


def to_html(document: Iterable[Block], title: str) -> str:
  """The report as one HTML page that needs nothing beside itself."""
  body = "\n".join(map(_html, document))
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    # Even a name that smuggled markup in could load nothing.
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
    f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
  )


def _html(block: Block) -> str:
  match block:
    case Heading(level, text):
      return f"<h{level}>{html_text(text)}</h{level}>"
    case Paragraph(text, warning):
      return f"<p{' class=warning role=note' if warning else ''}>{html_text(text)}</p>"
    case Bullets(items):
      return f"<ul>{''.join(f'<li>{html_text(item)}</li>' for item in items)}</ul>"
    case Code(text):
      return f"<pre><code>{html.escape(str(text))}</code></pre>"
    case Table(header, rows) if rows:
      head = "".join(f"<th scope=col>{html_text(cell)}</th>" for cell in header)
      lines = (
        f"<tr><th scope=row>{html_text(row[0])}</th>"
        + "".join(f"<td>{html_text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
      )
      kind = "numbers" if _numeric(block) else "settings"
      return (
        f"<div class=table tabindex=0><table class={kind}><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
      )
    case Table():
      return "<p>Nothing yet.</p>"
    case Picture(name, caption, light, dark):
      alt = html.escape(name.replace("_", " "))
      return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_uri(dark)}">'
        f'<img src="{_uri(light)}" alt="{alt}"></picture>'
        f"<figcaption>{html_text(caption)}</figcaption></figure>"
      )


def html_text(text: str) -> str:
  """Escaped text; a newline is a line break."""
  return html.escape(str(text)).replace("\n", "<br>")


def _uri(image: bytes) -> str:
  return f"data:image/png;base64,{base64.b64encode(image).decode('ascii')}"


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --dim: #5f6670; --line: #d9dde2;
  --shade: #f5f6f8; --warn: #8a4b00; --warn-paper: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e6e8eb; --dim: #a9b0ba;
  --line: #3a3f47; --shade: #1f2228; --warn: #ffc66b; --warn-paper: #33260f; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 80rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0.5rem 0 1rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 0.75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.4rem; }
p, ul, figcaption { max-width: 52rem; } li { margin: 0.3rem 0; }
.warning { background: var(--warn-paper); color: var(--warn); border-left: 4px solid; padding: 0.7rem 1rem;
  font-weight: 600; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
thead th { font-weight: 600; color: var(--dim); border-bottom-width: 2px; vertical-align: bottom; }
tbody th { font-weight: 600; } .numbers td, .numbers thead th { text-align: right; }
.settings td { white-space: normal; overflow-wrap: anywhere; }
th:first-child, .settings th, .settings td { text-align: left !important; }
th:first-child { position: sticky; left: 0; background: var(--paper); }
tbody tr:hover > * { background: var(--shade); }
pre { background: var(--shade); padding: 0.7rem 1rem; border-radius: 6px; overflow-x: auto;
  font-size: 0.85rem; }
figure { margin: 1.5rem 0 2rem; } img { max-width: 100%; width: 60rem; height: auto; }
figcaption { color: var(--dim); font-size: 0.9rem; }
"""


# Files and the command line


def write_report(directory: str | os.PathLike[str]) -> list[Path]:
  """Writes report.md, report.html and figures/ beside a study's results.json.

  Args:
    directory: the study's directory; nothing outside it is read or written.

  Returns:
    The files written, report.md first, then report.html.

  Raises:
    ValueError: results.json is missing, broken, or of another schema version.
  """
  directory = Path(directory)
  results = load_results(directory)
  try:
    document = blocks(results)
  except ValueError as error:
    raise ValueError(f"{directory / 'results.json'}: {error}") from None
  files = {
    directory / "report.md": to_markdown(document).encode(),
    directory / "report.html": to_html(document, document[0].text).encode(),
  }
  for block in document:
    if isinstance(block, Picture):
      files[directory / "figures" / f"{block.name}.png"] = block.light
  (directory / "figures").mkdir(exist_ok=True)
  for path, content in files.items():
    # Replaced as a whole, so that a reader never meets half a report.
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
  return list(files)


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """Writes the report of a study from its results."""

  directory: tyro.conf.Positional[Path]
  """The study's directory, with results.json in it."""


def main(argv: list[str] | None = None) -> int:
  """Command line; returns the exit status."""
  config = tyro.cli(ReportConfig, args=argv, prog="python -m experiments.report")
  try:
    paths = write_report(config.directory)
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  for path in paths:
    print(path)
  return 0


if __name__ == "__main__":
  sys.exit(main())
