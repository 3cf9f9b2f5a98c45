"""How all figures look: colours, lines, axes, legend. Without pyplot, so without global state."""

import io
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .metric import metric_of
from .statistics import method_titles


class Theme(NamedTuple):
  """Colours of a figure; the palettes follow Okabe and Ito, safe for the colour-blind."""

  paper: str
  ink: str
  faint: str
  palette: tuple[str, ...]


LIGHT = Theme(
  "#ffffff",
  "#1f2328",
  "#d9dde2",
  ("#5f6670", "#0072b2", "#d55e00", "#009e73", "#b4558b", "#b58900", "#2f9fd8"),
)
DARK = Theme(
  "#16181c",
  "#e6e8eb",
  "#3a3f47",
  ("#a9b0ba", "#4ea8de", "#f4874b", "#35c69b", "#e39ac5", "#e0b84c", "#9bd5f3"),
)
# A second cue beside the colour, for print and for the colour-blind.
LINES = ("-", "--", "-", "-.", (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (7, 2)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def to_png(figure: Figure, *, dpi: int = 150) -> bytes:
  """The figure as a PNG file; the same figure gives the same bytes."""
  buffer = io.BytesIO()
  FigureCanvasAgg(figure)
  figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
  return buffer.getvalue()


def titles(results: Mapping[str, Any]) -> dict[str, str]:
  """Titles that matplotlib draws as they are: no mathematics, none hidden from the legend."""
  titles = {name: title.replace("$", r"\$") for name, title in method_titles(results).items()}
  return {name: f" {t}" if t.startswith("_") else t for name, t in titles.items()}


def metric_label(results: Mapping[str, Any]) -> str:
  """The metric's label, drawn as it is."""
  return metric_of(results).label.replace("$", r"\$")


def styles(titles: Mapping[str, str], theme: Theme) -> dict[str, tuple]:
  """Method -> (colour, line, marker); the same in all figures."""
  size = len(theme.palette)
  return {
    name: (theme.palette[i % size], LINES[(i + i // size) % size], MARKERS[(i + i // size) % size])
    for i, name in enumerate(titles)
  }


def figure(
  theme: Theme, width: float, height: float, heights: list[float] | None
) -> tuple[Figure, list[Axes]]:
  """A themed figure with panels of these heights over one x-axis, or with two side by side."""
  figure = Figure((width, height), facecolor=theme.paper, layout="constrained")
  if heights is None:
    grid = figure.subplots(1, 2, sharey=True, squeeze=False)
  else:
    ratios = {"height_ratios": heights}
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw=ratios)
  for axis in grid.flat:
    axis.set_facecolor(theme.paper)
    axis.grid(color=theme.faint, lw=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(colors=theme.ink, labelsize=9, length=3)
    axis.xaxis.label.set_color(theme.ink)
    axis.yaxis.label.set_color(theme.ink)
    for side, spine in axis.spines.items():
      spine.set_color(theme.ink)
      spine.set_visible(side in ("left", "bottom"))
  return figure, list(grid.flat)


def legend(figure: Figure, axes: Iterable[Axes], theme: Theme) -> None:
  """One legend above all panels, where it cannot cover a curve."""
  handles, labels = [], []
  for axis in axes:
    found = axis.get_legend_handles_labels()
    handles += found[0]
    labels += found[1]
  rows = -(-sum(len(label) + 9 for label in labels) // 115)
  figure.legend(
    handles,
    labels,
    loc="outside upper center",
    ncols=-(-len(labels) // rows),
    frameon=False,
    fontsize=9,
    labelcolor=theme.ink,
  )


def label(axis: Axes, text: str, at: tuple, offset: tuple, color: str, **options: str) -> None:
  """Text some points away from a place in data coordinates."""
  axis.annotate(
    text, at, xytext=offset, textcoords="offset points", fontsize=9, color=color, **options
  )


def spread_apart(values: list[float], gap: float) -> list[float]:
  """Positions at least `gap` apart for ascending values, each cluster centred on its values.

  >>> spread_apart([1.0, 1.0, 5.0], 2.0)
  [0.0, 2.0, 5.0]
  """
  clusters: list[list[float]] = []
  for value in values:
    clusters.append([value])
    while len(clusters) > 1 and _low(clusters[-1], gap) < _high(clusters[-2], gap) + gap:
      clusters[-2:] = [clusters[-2] + clusters[-1]]
  return [_low(cluster, gap) + gap * i for cluster in clusters for i in range(len(cluster))]


def _low(cluster: list[float], gap: float) -> float:
  return sum(cluster) / len(cluster) - gap * (len(cluster) - 1) / 2


def _high(cluster: list[float], gap: float) -> float:
  return _low(cluster, gap) + gap * (len(cluster) - 1)
