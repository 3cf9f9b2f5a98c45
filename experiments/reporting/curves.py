"""The figure of learning curves, with the schedules that vary beneath."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from . import drawing
from .drawing import LIGHT, Theme
from .formats import and_
from .metric import metric_of
from .statistics import pick

Results = Mapping[str, Any]
Series = tuple[tuple[float, float], ...]
"""(epoch, value) of a schedule."""
Line = tuple[str, str, list[float], list[float]]
"""(method or "" of several, label or "", epochs, values) of a line in a panel of schedules."""

SHARES = "share of_max weight"
MAX_BANDS = 3
"""Bands of more methods than these cover one another."""
MAX_CHARACTERS = 60
"""Of the names above a change of phase."""


def learning_curves(results: Results, theme: Theme = LIGHT) -> Figure | None:
  """Validation metric against epoch, and the schedules that vary beneath it.

  A line is the mean over the seeds that have reached the epoch, a band (of a few methods only) their
  minimum to maximum. Constant schedules are settings, not curves, and are left to the tables.

  Returns:
    The figure; None where no curve has been recorded.
  """
  titles, points = drawing.titles(results), _points(results)
  measured = f"validation_{metric_of(results).key}"
  curves = {name: _by_epoch(points[name], measured) for name in titles}
  curves = {name: curve for name, curve in curves.items() if curve}
  if not curves:
    return None
  panels = _schedules(points, titles)
  boundaries = _boundaries(results, titles, points)
  heights = [3.6] + [1.25] * len(panels)
  figure, axes = drawing.figure(theme, 9, sum(heights) + 0.7 + 0.17 * len(boundaries), heights)
  top, styles, shown = axes[0], drawing.styles(titles, theme), []
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
      shown += low + high
    shown += mean
  # The first epochs climb from chance; letting them set the scale would flatten the rest.
  bottom, highest = np.percentile(shown, 12), max(shown)
  pad = max(0.06 * (highest - bottom), 0.5)
  floor = 100 * metric_of(results).floor
  top.set_ylim(max(bottom - pad, floor), min(highest + pad, 100.5))
  top.set_ylabel(f"validation {drawing.metric_label(results)}, %")
  for panel, (schedule, lines) in zip(axes[1:], panels.items(), strict=True):
    _draw_schedule(panel, schedule, lines, styles | {"": (theme.ink, "-", "")})
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
    low, high = (0, 1) if schedule == SHARES else panel.get_ylim()
    panel.set_ylim(top=high + (high - low) * (0.1 + 0.25 * max(labels.values())))
  if schedule == SHARES:
    panel.set_yticks([0, 0.5, 1])


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
  found: dict[str, dict[Series, list[tuple[str, str]]]] = {}
  for schedule in sorted(names, key=lambda name: (name != "temperature", name)):
    users: dict[Series, list[tuple[str, str]]] = defaultdict(list)
    for method in titles:
      values = _by_epoch(points.get(method, ()), "schedules", schedule)
      series = tuple((epoch, float(np.mean(values[epoch]))) for epoch in sorted(values))
      if len({value for _, value in series}) > 1:
        users[series].append((method, schedule))
    if users:
      found[schedule] = users
  weights = [name for name in found if name.endswith("_weight")]
  if len(weights) > 1:
    # One rises as another falls, on scales that differ: as shares of their maxima they fit one panel.
    shares: dict[Series, list[tuple[str, str]]] = defaultdict(list)
    for name in weights:
      for series, users in found.pop(name).items():
        shares[series] += users
    found[SHARES] = shares
  return {
    name: [_line(series, users, share=name == SHARES) for series, users in lines.items()]
    for name, lines in found.items()
  }


def _line(series: Series, users: list[tuple[str, str]], *, share: bool) -> Line:
  """One line for all (method, weight) with the same course: of equal lines only the last would be seen."""
  methods, names = (list(dict.fromkeys(column)) for column in zip(*users, strict=True))
  epochs, values = map(list, zip(*series, strict=True))
  label = f"{len(methods)} methods" if len(methods) > 1 else ""
  if share:
    top = max(map(abs, values))
    values = [value / top for value in values]
    term = names[0].removesuffix("_weight").replace("_", " ")
    term += f" and {len(names) - 1} more" if len(names) > 1 else ""
    label = ", ".join(filter(None, [f"{term} (max {top:.3g})", label]))
  return methods[0] if len(methods) == 1 else "", label, epochs, values


def _boundaries(results: Results, titles: Mapping[str, str], points: Mapping[str, list]) -> list:
  """(epoch, "Titles: phase → phase") for each change of phase; equal changes share one line."""
  found: dict[tuple[float, str], list[str]] = defaultdict(list)
  for method, title in titles.items():
    phases = (results["methods"].get(method) or {}).get("phases") or ()
    for before, after in itertools.pairwise(phases):
      at = _offset(results, method, after.get("name"))
      if at and points.get(method):
        found[at, f"{before.get('name')} → {after.get('name')}"].append(title)
  return [(at, f"{_few(names)}: {change}") for (at, change), names in sorted(found.items())]


def _few(names: list[str]) -> str:
  """Names as long as they fit above a panel, else how many."""
  listed = and_(names)
  return listed if len(listed) <= MAX_CHARACTERS else f"{len(names)} methods"
