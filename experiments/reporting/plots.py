"""The figures of test results: by method, and against the number of parameters."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from . import drawing
from .drawing import LIGHT, Theme
from .metric import metric_of
from .statistics import (
  MIN_SEEDS,
  clipped,
  estimate,
  method_titles,
  network_score,
  paper_score,
  pick,
  test_scores,
)

Results = Mapping[str, Any]


def scores(results: Results, theme: Theme = LIGHT) -> Figure | None:
  """Test metric of each method: seeds, mean, interval; beside it teacher and paper.

  The students are close together and the teacher far away, so each gets a scale of its own.

  Returns:
    The figure; None where no test result is known.
  """
  titles, styles = drawing.titles(results), drawing.styles(method_titles(results), theme)
  values = {name: test_scores(results, name) for name in titles}
  names = [name for name in titles if values[name]]
  if not names:
    return None
  published = {name: paper_score(results, name) for name in (*names, "teacher")}
  floor = metric_of(results).floor
  teacher, measured = network_score(results, "teacher"), f"test {drawing.metric_label(results)}, %"
  numbers = {
    "teacher": teacher is not None,
    "paper": any(v is not None for v in published.values()),
  }
  wide = any(numbers.values())
  figure, axes = drawing.figure(theme, 9, 1.5 + 0.55 * len(names), [1] if not wide else None)
  left = axes[0]
  for place, name in enumerate(names):
    color, _, marker = styles[name]
    points = [100 * value for _, value in sorted(values[name].items())]
    spread = clipped(estimate(points), 100 * floor, 100)
    left.plot(points, [place + 0.24] * len(points), "o", ms=5, color=color, alpha=0.6, mew=0)
    if spread.count >= MIN_SEEDS:
      left.plot([spread.low, spread.high], [place] * 2, "-", color=color, lw=2.2)
    for panel in axes:
      panel.plot(spread.mean, place, marker, ms=8, color=color, mec=theme.paper, zorder=4)
    if wide and published[name] is not None:
      axes[1].plot(100 * published[name], place, "|", ms=17, mew=2, color=theme.ink)
  left.plot([], [], "o", ms=5, color=theme.ink, alpha=0.6, mew=0, label="one seed")
  judged = any(len(values[name]) >= MIN_SEEDS for name in names)
  mean_label, line = ("mean, 95 % interval", "o-") if judged else ("mean", "o")
  left.plot([], [], line, ms=8, lw=2.2, color=theme.ink, label=mean_label)
  if wide:
    if numbers["paper"]:
      axes[1].plot([], [], "|", ms=12, mew=2, ls="", color=theme.ink, label="paper's number")
    levels = (teacher, "teacher", "--"), (published["teacher"], "paper's teacher", ":")
    for value, label, line in levels:
      if value is not None:
        axes[1].axvline(100 * value, color=theme.ink, lw=1.3, ls=line, label=label)
    known = " and ".join(name for name, given in numbers.items() if given)
    axes[1].set_xlabel(f"{measured}: with {known}")
    axes[1].margins(x=0.1)
  left.set_xlabel(f"{measured}: students")
  left.set_yticks(range(len(names)), [titles[name] for name in names])
  left.set_ylim(len(names) - 0.5, -0.5)
  for panel in axes:
    panel.xaxis.set_major_locator(MaxNLocator(6))
  drawing.legend(figure, axes, theme)
  return figure


def size(results: Results, theme: Theme = LIGHT) -> Figure | None:
  """Test metric against parameters (logarithmic): students, assistant, teacher.

  Returns:
    The figure; None where no model's size and test result are known.
  """
  titles, styles = drawing.titles(results), drawing.styles(method_titles(results), theme)
  parameters = pick(results.get("student"), "parameters")
  students = {name: test_scores(results, name) for name in titles} if parameters else {}
  means = {name: 100 * estimate(seeds.values()).mean for name, seeds in students.items() if seeds}
  larger = []
  for role in ("assistant", "teacher"):
    count = pick(results.get(role), "parameters")
    value = network_score(results, role)
    if count and value is not None:
      larger.append((role, results[role].get("model") or "", count, 100 * value))
  if not means and not larger:
    return None
  figure, (axis,) = drawing.figure(theme, 8, 4.2, [1])
  axis.set_xscale("log")
  heights = [*means.values(), *(value for *_, value in larger)]
  span = max(max(heights) - min(heights), 1.0)
  counts = [count for *_, count, _ in larger] + ([parameters] if means else [])
  stretch = max(max(counts) / min(counts), 4.0)
  axis.set_xlim(min(counts) / stretch ** (0.55 if means else 0.2), max(counts) * stretch**0.2)
  axis.set_ylim(min(heights) - 0.12 * span, max(heights) + 0.2 * span)
  for role, model, count, value in larger:
    axis.plot(count, value, "*" if role == "teacher" else "h", ms=13, color=theme.ink, zorder=3)
    drawing.label(axis, f"{role} {model}", (count, value), (0, 10), theme.ink, ha="center")
  # Students share one x: their names stand to the left, pushed apart, each with a thin leader.
  order = sorted(means, key=means.get)
  places = drawing.spread_apart([means[name] for name in order], 0.075 * 1.32 * span)
  for name, place in zip(order, places, strict=True):
    color, _, marker = styles[name]
    axis.plot(parameters, means[name], marker, ms=8, color=color, mec=theme.paper, zorder=4)
    text = f"{titles[name]}  {means[name]:.2f}"
    left = parameters / stretch**0.05
    axis.plot([left, parameters], [place, means[name]], lw=0.7, color=color)
    drawing.label(axis, text, (left, place), (-3, 0), color, ha="right", va="center")
  bottom, top = axis.get_ylim()
  axis.set_ylim(min([bottom, *(place - 0.08 * span for place in places)]), top)
  axis.set_xlabel("parameters")
  axis.set_ylabel(f"test {drawing.metric_label(results)}, %")
  axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axis.xaxis.set_major_formatter(EngFormatter(sep=""))
  axis.xaxis.set_minor_formatter(NullFormatter())
  return figure
