"""The page of results: a table and a figure of what was measured, and in words where ours is slower."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CLOSE = 0.03
"""Ratios this near to 1 are called equal."""


def write(page: Path, found: Mapping[str, Any]) -> None:
  """Replaces what is between the page's two markers, and the figure next to the page.

  Raises:
    ValueError: a page without the markers, or measurements of tiny sizes.
  """
  if found.get("quick"):
    raise ValueError("the measurements must not be of tiny sizes: measure without --quick")
  text = page.read_text(encoding="utf-8")
  before, begin, rest = text.partition(BEGIN)
  _, end, after = rest.partition(END)
  if not begin or not end:
    raise ValueError(f"{page} must hold the lines {BEGIN} and {END}, in this order")
  figure = page.with_suffix(".png")
  rows = list(_rows(found))
  body = [*_header(found), ""]
  if rows:
    draw(figure, found["device"]["processor"], rows)
    body += [f"![Speed compared with other libraries]({figure.name})", ""]
  body += [*_table(rows), "", *_words(found, rows)]
  page.write_text("\n".join([before + BEGIN, *body, END]) + after, encoding="utf-8")


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
  """(case, its record, pair) of all pairs that were measured on both sides."""
  for name, case in found["cases"].items():
    for pair in case["pairs"]:
      if pair["peer"] is not None:
        yield name, case, pair


def _header(found: Mapping[str, Any]) -> list[str]:
  versions: dict[str, str] = {}
  devices = set()
  for _, _, pair in _rows(found):
    for side in ("ours", "theirs"):
      versions |= pair[side].get("versions", {})
      devices |= {pair[side]["device"]} if "device" in pair[side] else set()
  device, dates = found["device"], sorted({case["date"] for case in found["cases"].values()})
  named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
  loads = [case["load_average"] for case in found["cases"].values()]
  return [
    f"Measured on {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {device['threads']} core(s) of: "
    f"{device['processor']}. Devices: {'; '.join(sorted(devices)) or 'none'}. Versions: {named or 'none'}. "
    f"Each side has {found['repeats']} measurements of {found['steps']} steps. The load average at the start "
    f"of a case was {min(loads):.1f} to {max(loads):.1f}."
  ]


def _table(rows) -> list[str]:
  lines = [
    "| case | compared with | kd_jax, ms | theirs, ms | times as fast | paired, quartiles | |",
    "| --- | --- | ---: | ---: | ---: | ---: | --- |",
  ]
  for name, _, pair in rows:
    ratio = pair["times_as_fast"]
    low, high = ratio["paired"]["quartiles"]
    lines.append(
      f"| {name} | {pair['peer']} | {_time(pair['ours'])} | {_time(pair['theirs'])} "
      f"| {ratio['of_medians']:.2f} | {ratio['paired']['median']:.2f} ({low:.2f} to {high:.2f}) "
      f"| {verdict(ratio['of_medians'])} |"
    )
  return lines


def _time(side: Mapping[str, Any]) -> str:
  """Median and quartiles in milliseconds."""
  low, high = side["quartiles"]
  return f"{1000 * side['median']:,.4g} ({1000 * low:,.4g} to {1000 * high:,.4g})"


def verdict(times_as_fast: float) -> str:
  """Which side is faster, in a word.

  >>> verdict(2.0), verdict(0.5), verdict(1.01)
  ('faster', '**slower**', 'equal')
  """
  if abs(times_as_fast - 1) <= CLOSE:
    return "equal"
  return "faster" if times_as_fast > 1 else "**slower**"


def _words(found: Mapping[str, Any], rows) -> list[str]:
  lines = ["Cases:", ""]
  for name, case in found["cases"].items():
    lines.append(f"- `{name}`: {case['about']}. Times are of one {case['unit']}.")
  slower = [(n, p) for n, _, p in rows if "slower" in verdict(p["times_as_fast"]["of_medians"])]
  lines += ["", "Where kd_jax is slower:" if slower else "kd_jax is slower in no case.", ""]
  for name, pair in slower:
    ratio = 1 / pair["times_as_fast"]["of_medians"]
    lines.append(f"- `{name}`: kd_jax takes {ratio:.2f} times as long as {pair['peer']}.")
  out = [
    (name, peer, reason)
    for name, case in found["cases"].items()
    for peer, reason in case["left_out"].items()
  ]
  if out:
    lines += ["", "Not measured:", ""]
    lines += [f"- `{name}`, {peer}: {reason}." for name, peer, reason in out]
  return lines


def draw(path: Path, title: str, rows) -> None:
  """A bar for each pair, on a logarithmic axis: to the right of 1 if ours is faster."""
  labels = [f"{name}: {pair['peer']}" for name, _, pair in rows]
  ratios = [pair["times_as_fast"]["of_medians"] for _, _, pair in rows]
  spread = [pair["times_as_fast"]["paired"]["quartiles"] for _, _, pair in rows]
  figure = Figure(figsize=(8, 1.2 + 0.28 * len(rows)), layout="constrained")
  axes = figure.subplots()
  places = range(len(rows))
  colours = ["tab:blue" if ratio >= 1 else "tab:orange" for ratio in ratios]
  axes.barh(places, [ratio - 1 for ratio in ratios], left=1, color=colours)
  for place, (low, high) in zip(places, spread, strict=True):
    axes.plot((low, high), (place, place), color="black", linewidth=1)
  for place, ratio in zip(places, ratios, strict=True):
    axes.text(max(ratio, 1) * 1.05, place, f"{ratio:.2f}", va="center", fontsize=8)
  axes.set_xscale("log")
  axes.axvline(1, color="black", linewidth=0.8)
  axes.set_yticks(places, labels, fontsize=8)
  axes.invert_yaxis()
  axes.set_xlabel(
    "their time / time of kd_jax (above 1: kd_jax is faster); lines: quartiles of pairs"
  )
  axes.set_title(title, fontsize=9)
  figure.savefig(path, dpi=120, metadata={"Software": None})
