"""The report's three figures."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from experiments.reporting import drawing
from experiments.reporting.drawing import LIGHT, Theme
from experiments.reporting.statistics import (
  MIN_SEEDS,
  estimate,
  method_titles,
  pick,
  test_accuracies,
)

Results = Mapping[str, Any]
Line = tuple[str, str, list[float], list[float]]
"""(method, term or "", epochs, values) of a line in a panel of schedules."""

MAX_BANDS = 3
"""Bands of more methods than these cover one another."""


def learning_curves(results: Results, theme: Theme = LIGHT) -> Figure | None:
  """Validation accuracy against epoch, and the schedules that vary beneath it.

  A line is the mean over the seeds that have reached the epoch, a band (of a few methods only) their
  minimum to maximum. Constant schedules are settings, not curves, and are left to the tables.

  Returns:
    The figure; None where no curve has been recorded.
  """
  titles, points = drawing.titles(results), _points(results)
  curves = {name: _by_epoch(points[name], "validation_accuracy") for name in titles}
  curves = {name: curve for name, curve in curves.items() if curve}
  if not curves:
    return None
  panels = _schedules(points, titles)
  boundaries = _boundaries(results, titles, points)
  heights = [3.6] + [1.25] * len(panels)
  figure, axes = drawing.figure(theme, 9, sum(heights) + 0.7 + 0.17 * len(boundaries), heights)
  top, styles, means = axes[0], drawing.styles(titles, theme), []
  for name, curve in curves.items():
    epochs = sorted(curve)
    mean = [100 * np.mean(curve[epoch]) for epoch in epochs]
    low, high = ([100 * end(curve[epoch]) for epoch in epochs] for end in (min, max))
    color, line, marker = styles[name]
    single = marker if len(epochs) == 1 else None
    line_style = {"color": color, "ls": line, "lw": 1.7, "marker": single}
    top.plot(epochs, mean, label=titles[name], **line_style)
    if len(curves) <= MAX_BANDS:
      top.fill_between(epochs, low, high, color=color, alpha=0.16, lw=0)
    means += mean
  # The first epochs climb from chance; letting them set the scale would flatten the rest.
  bottom, highest = np.percentile(means, 12), max(means)
  pad = max(0.06 * (highest - bottom), 0.5)
  top.set_ylim(max(bottom - pad, 0), min(highest + pad, 100.5))
  top.set_ylabel("validation accuracy, %")
  for panel, (schedule, lines) in zip(axes[1:], panels.items(), strict=True):
    _draw_schedule(panel, schedule, lines, styles)
  for level, (epoch, text) in enumerate(boundaries):
    for panel in axes:
      panel.axvline(epoch + 0.5, color=theme.ink, lw=1, ls=":", zorder=1)
    top.annotate(
      text,
      (epoch + 0.5, 1),
      xytext=(0, 4 + 12 * level),
      xycoords=top.get_xaxis_transform(),
      textcoords="offset points",
      ha="center",
      fontsize=8,
      color=theme.ink,
    )
  axes[-1].set_xlabel("epoch")
  axes[-1].margins(x=0.015)
  figure.align_ylabels(axes)
  axes[-1].xaxis.set_major_locator(MaxNLocator(9, integer=True))
  drawing.legend(figure, axes[:1], theme)
  return figure


def _draw_schedule(panel: Axes, schedule: str, lines: list[Line], styles: dict[str, tuple]) -> None:
  labels = {"left": 0, "right": 0}
  for name, term, epochs, values in lines:
    color, line, _ = styles[name]
    panel.plot(epochs, values, ls=line, color=color, lw=1.7, drawstyle="steps-mid")
    if term:
      # Above the line's highest end, over those that stand there already.
      end, side = (0, "left") if values[0] >= values[-1] else (-1, "right")
      offset = (0, 4 + 11 * labels[side])
      labels[side] += 1
      drawing.label(panel, term, (epochs[end], values[end]), offset, color, ha=side)
  panel.set_ylabel(schedule.replace("_", "\n"), fontsize=9)
  panel.margins(y=0.12)
  panel.yaxis.set_major_locator(MaxNLocator(4))
  if any(labels.values()):
    panel.set_ylim(top=1.1 + 0.25 * max(labels.values()))
    panel.set_yticks([0, 0.5, 1])


def accuracy(results: Results, theme: Theme = LIGHT) -> Figure | None:
  """Test accuracy of each method: seeds, mean, interval; beside it teacher and paper.

  The students are close together and the teacher far away, so each gets a scale of its own.

  Returns:
    The figure; None where no test accuracy is known.
  """
  titles, styles = drawing.titles(results), drawing.styles(method_titles(results), theme)
  values = {name: test_accuracies(results, name) for name in titles}
  names = [name for name in titles if values[name]]
  if not names:
    return None
  paper = results.get("paper")
  published = {name: pick(paper, "test_accuracy", name) for name in (*names, "teacher")}
  teacher = pick(results.get("teacher"), "test_accuracy")
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
    spread = estimate(points)
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
    axes[1].set_xlabel(f"test accuracy, %: with {known}")
    axes[1].margins(x=0.1)
  left.set_xlabel("test accuracy, %: students")
  left.set_yticks(range(len(names)), [titles[name] for name in names])
  left.set_ylim(len(names) - 0.5, -0.5)
  for panel in axes:
    panel.xaxis.set_major_locator(MaxNLocator(6))
  drawing.legend(figure, axes, theme)
  return figure


def size(results: Results, theme: Theme = LIGHT) -> Figure | None:
  """Test accuracy against parameters (logarithmic): students, assistant, teacher.

  Returns:
    The figure; None where neither a model's size nor its accuracy is known.
  """
  titles, styles = drawing.titles(results), drawing.styles(method_titles(results), theme)
  parameters = pick(results.get("student"), "parameters")
  students = {name: test_accuracies(results, name) for name in titles} if parameters else {}
  means = {name: 100 * estimate(seeds.values()).mean for name, seeds in students.items() if seeds}
  larger = []
  for role in ("assistant", "teacher"):
    count = pick(results.get(role), "parameters")
    value = pick(results.get(role), "test_accuracy")
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
  axis.set_ylabel("test accuracy, %")
  axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axis.xaxis.set_major_formatter(EngFormatter(sep=""))
  axis.xaxis.set_minor_formatter(NullFormatter())
  return figure


def _points(results: Results) -> dict[str, list[dict[str, Any]]]:
  """Method -> its curve points, each with its epoch counted over all phases as `at`."""
  groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
  for point in results.get("curves") or ():
    groups[point["method"], point["phase"]].append(point)
  points: dict[str, list[dict[str, Any]]] = defaultdict(list)
  for (method, phase), group in groups.items():
    offset = _offset(results, method, phase)
    first = min(pick(point, "epoch") or 1 for point in group)
    for point in group:
      # Without a global epoch, one that starts again at 1 is counted within its phase.
      local = (pick(point, "epoch") or 0) + (offset if first <= offset else 0)
      points[method].append({**point, "at": pick(point, "global_epoch") or local})
  return points


def _offset(results: Results, method: str, phase: str) -> float:
  """Epochs of a method before a phase."""
  before = 0.0
  for spec in (results["methods"].get(method) or {}).get("phases") or ():
    if spec.get("name") == phase:
      return before
    before += pick(spec, "epochs") or 0
  return 0.0


def _by_epoch(points: Iterable[Mapping[str, Any]], *path: str) -> dict[float, list[float]]:
  values: dict[float, list[float]] = defaultdict(list)
  for point in points:
    value = pick(point, *path)
    if value is not None:
      values[point["at"]].append(value)
  return values


def _schedules(points: Mapping[str, list], titles: Mapping[str, str]) -> dict[str, list[Line]]:
  """Panel -> lines of the schedules that vary; the temperature first, all terms' weights in one panel."""
  names = {key for group in points.values() for p in group for key in p.get("schedules") or ()}
  panels: dict[str, list[Line]] = defaultdict(list)
  for schedule in sorted(names, key=lambda name: (name != "temperature", name)):
    for method in titles:
      values = _by_epoch(points.get(method, ()), "schedules", schedule)
      series = {epoch: float(np.mean(values[epoch])) for epoch in sorted(values)}
      if len(set(series.values())) > 1:
        panels[schedule].append((method, "", list(series), list(series.values())))
  weights = [name for name in panels if name.endswith("_weight")]
  if len(weights) > 1:
    # One rises as another falls, on scales that differ: as shares of their maxima they fit one panel.
    for name in weights:
      for method, _, epochs, values in panels.pop(name):
        top = max(map(abs, values))
        term = f"{name.removesuffix('_weight').replace('_', ' ')} (max {top:.3g})"
        panels["share of_max weight"].append(
          (method, term, epochs, [value / top for value in values])
        )
  return dict(panels)


def _boundaries(results: Results, titles: Mapping[str, str], points: Mapping[str, list]) -> list:
  """(epoch, "Titles: phase → phase") for each change of phase; equal changes share one line."""
  found: dict[tuple[float, str], list[str]] = defaultdict(list)
  for method, title in titles.items():
    phases = (results["methods"].get(method) or {}).get("phases") or ()
    for before, after in itertools.pairwise(phases):
      at = _offset(results, method, after.get("name"))
      if at and points.get(method):
        found[at, f"{before.get('name')} → {after.get('name')}"].append(title)
  return [(at, f"{', '.join(names)}: {change}") for (at, change), names in sorted(found.items())]
