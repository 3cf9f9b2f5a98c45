"""The report of a study: `results.json` -> `report.md`, `report.html` and figures.

    python -m experiments.report DIR

The same numbers become one list of blocks (headings, paragraphs, tables, figures), and the blocks
become Markdown and HTML. The HTML holds its figures and style in itself and loads nothing.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from experiments.reporting import drawing, plots
from experiments.reporting.documents import (
  Block,
  Bullets,
  Code,
  Heading,
  Paragraph,
  Picture,
  Table,
  to_html,
  to_markdown,
)
from experiments.reporting.findings import reading, summary
from experiments.reporting.statistics import MIN_SEEDS, method_titles
from experiments.reporting.tables import (
  capacity_table,
  detail_table,
  flatten,
  main_table,
  phase_table,
  seed_table,
)

SCHEMA_VERSION = 1
Results = dict[str, Any]


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
  found += [Heading(2, "Beside accuracy"), detail_table(results), Paragraph(DETAIL_NOTE)]
  found += [Heading(2, "Capacity"), capacity_table(results), Paragraph(CAPACITY_NOTE)]
  found += [Heading(2, "Every phase"), phase_table(results), Paragraph(PHASE_NOTE)]
  found += [Heading(2, "Test accuracy of every seed, %"), seed_table(results)]
  found += [Heading(2, "Settings"), *_settings(results)]
  return found


MAIN_NOTE = (
  "Test accuracy is that of the checkpoint with the best validation accuracy; the last epoch's is "
  "beside it. Validation accuracy is the best one, which selection makes optimistic. ± is the "
  "standard deviation over seeds (ddof = 1), brackets are the 95 % Student-t interval of the mean. "
  "Gains are paired by seed."
)
DETAIL_NOTE = (
  "Agreement, KL(teacher || student) and expected calibration error (ECE) are of the same checkpoint "
  "on the test set. Time per seed is the student's training over all its phases."
)
CAPACITY_NOTE = (
  "Gap closed = (method - scratch) / (teacher - scratch), in test accuracy: 0 % is the student alone, "
  "100 % the teacher."
)
PHASE_NOTE = "Mean ± standard deviation over seeds; best epoch as lowest to highest over seeds."


def _pictures(results: Results) -> list[Block]:
  captions = {
    plots.learning_curves: "Validation accuracy against epoch: mean over the seeds that have reached "
    f"the epoch; with at most {plots.MAX_BANDS} methods, bands from the lowest to the highest seed. "
    "Vertical dotted lines are changes of phase. The first epochs may lie below the frame. Beneath, the "
    "schedules that vary; where several weights do, each as a share of its maximum.",
    plots.accuracy: "Test accuracy of each method. Left: seeds, their mean and, from "
    f"{MIN_SEEDS} seeds on, its 95 % interval. Right, on a scale of its own: the means beside the teacher "
    "and the paper's numbers, where there are any.",
    plots.size: "Test accuracy against the number of parameters (logarithmic).",
  }
  found: list[Block] = []
  for draw, caption in captions.items():
    figures = draw(results, drawing.LIGHT), draw(results, drawing.DARK)
    if None not in figures:
      images = map(drawing.to_png, figures)
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
