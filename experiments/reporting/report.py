"""The report of a study: `results.json` -> `report.md`, `report.html` and figures.

The same numbers become one list of blocks (headings, paragraphs, tables, figures), and the blocks
become Markdown and HTML. The HTML holds its figures and style in itself and loads nothing.
"""

import os
from pathlib import Path

from . import curves, drawing, plots
from .documents import (
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
from .findings import case, chance, reading, summary, within_chance
from .formats import and_, flatten, sentence
from .metric import metric_of
from .results import Results, load_results
from .statistics import MIN_SEEDS, labels_alone, method_titles
from .tables import (
  capacity_table,
  detail_columns,
  detail_table,
  main_table,
  parts_table,
  phase_table,
  seed_table,
  speed_table,
)


def blocks(results: Results) -> list[Block]:
  """The whole report in order."""
  label = metric_of(results).label
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
  found += [Heading(2, "Results"), main_table(results), Paragraph(MAIN_NOTE.format(label))]
  found.append(Paragraph(f"{chance(results)} {within_chance(results)}".strip()))
  if results["paper"]:
    said = [results["paper"].get(key) for key in ("source", "setting")]
    found.append(Paragraph(f"Paper's numbers: {'. '.join(str(text) for text in said if text)}."))
  found += [Heading(2, "Reading"), Bullets(reading(results) or ["No comparison is possible yet."])]
  found += [Heading(2, "Figures"), *_pictures(results)]
  found += [Heading(2, f"Beside {label}"), detail_table(results), _detail_note(results)]
  capacity = capacity_table(results)
  found += [Heading(2, "Capacity"), capacity]
  if "Gap closed" in capacity.header:
    found.append(Paragraph(CAPACITY_NOTE.format(label, labels_alone(results))))
  speed = speed_table(results)
  if speed is not None:
    found += [Heading(2, "Size and speed"), speed, Paragraph(SPEED_NOTE)]
  found += [Heading(2, "Every phase"), phase_table(results), Paragraph(PHASE_NOTE)]
  found += [Heading(2, f"Test {label} of every seed, %"), seed_table(results)]
  parts = parts_table(results)
  if parts is not None:
    found += [Heading(2, "Joined studies"), parts, Paragraph(PARTS_NOTE)]
  found += [Heading(2, "Settings"), *_settings(results)]
  return found


MAIN_NOTE = (
  "Test {0} is that of the checkpoint with the best validation {0}; the last epoch's is "
  "beside it. Validation {0} is the best one, which selection makes optimistic. ± is the "
  "standard deviation over seeds (ddof = 1), brackets are the 95 % Student-t interval of the mean. "
  "Gains are paired by seed."
)
CAPACITY_NOTE = (
  "Gap closed = (method - {1}) / (teacher - {1}), in test {0}: 0 % is the student alone, "
  "100 % the teacher."
)
SPEED_NOTE = (
  "Weights are float32, without the parameters that only training reads. Times are of the compiled forward "
  "pass alone, the median of repeats after a warm-up, on one of the devices named above; the rate is of a "
  "batch of 64. The last row is the teacher's figure divided by the student's."
)
PHASE_NOTE = "Mean ± standard deviation over seeds; best epoch as lowest to highest over seeds."

PARTS_NOTE = (
  "These studies differ in methods and seeds alone. A method and seed that several of them have is taken from "
  "the first. Gains are over the seeds that both methods have. Sizes, speeds and the teacher's results are "
  "those of the first study."
)


def _detail_note(results: Results) -> Paragraph:
  names = [column.name for column in detail_columns(results).values()]
  same = (
    f"{and_(names)} {'are' if len(names) > 1 else 'is'} of the same checkpoint on the test set. "
  )
  time = "Time per seed is the student's training over all its phases."
  return Paragraph((sentence(same) if names else "") + time)


def _pictures(results: Results) -> list[Block]:
  metric = metric_of(results)
  pictures = {
    "learning_curves": (
      curves.learning_curves,
      f"Validation {metric.label} against epoch: mean over the seeds that have reached "
      f"the epoch; with at most {curves.MAX_BANDS} methods, bands from the lowest to the highest seed. "
      "Vertical dotted lines are changes of phase. The first epochs may lie below the frame. Beneath, the "
      "schedules that vary; where several weights do, each as a share of its maximum.",
    ),
    metric.key: (
      plots.scores,
      f"Test {metric.label} of each method. Left: seeds, their mean and, from "
      f"{MIN_SEEDS} seeds on, its 95 % interval. Right, on a scale of its own: the means beside the teacher "
      "and the paper's numbers, where there are any.",
    ),
    "size": (
      plots.size,
      f"Test {metric.label} against the number of parameters (logarithmic).",
    ),
  }
  found: list[Block] = []
  for name, (draw, caption) in pictures.items():
    figures = draw(results, drawing.LIGHT), draw(results, drawing.DARK)
    if None not in figures:
      images = map(drawing.to_png, figures)
      found.append(Picture(name, caption, *images))
  return found or [Paragraph("Nothing to draw yet.")]


def _settings(results: Results) -> list[Block]:
  found: list[Block] = []
  if case(results):
    found += [Heading(3, "Case"), Paragraph(case(results))]
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
  made_with = results["made_with"]
  if len(made_with) > 1:
    names = dict.fromkeys(name for each in made_with for name in each)
    rows = [[name, *(str(each.get(name, "")) for each in made_with)] for name in names]
    header = ["Name", *(f"{i}." for i in range(1, 1 + len(made_with)))]
    found += [Heading(3, "Trained with several versions"), Table(header, rows)]
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
