"""Several finished studies in one table, each by what sets it apart."""

from collections.abc import Mapping
from typing import Any

from .documents import Table
from .formats import DASH, flatten, interval, percent, spread
from .metric import metric_of
from .statistics import (
  baselines,
  estimate,
  excludes_zero,
  gain,
  method_titles,
  network_score,
  test_scores,
)

Results = Mapping[str, Any]

NOT_COMPARED = (
  "name",
  "quick",
  "methods",
  "vary",
  "seeds_together",
  "official_examples",
  "live_teacher",
)
"""Settings that the rows show themselves, or that change no result."""


def comparison(studies: Mapping[str, Results]) -> Table:
  """A row for each method of each study; the column "Differs in" holds the settings in which studies differ.

  Args:
    studies: results by the name that the table calls a study, at least two.

  Raises:
    ValueError: one study alone, or studies of different metrics.
  """
  if len(studies) < 2:
    raise ValueError(f"a comparison must be of two or more studies, got {len(studies)}")
  metrics = {name: metric_of(results) for name, results in studies.items()}
  labels = {metric.label for metric in metrics.values()}
  if len(labels) > 1:
    said = ", ".join(f"{name}: {metric.label}" for name, metric in metrics.items())
    raise ValueError(f"studies must have one metric, got {said}: compare those with the same")
  metric = next(iter(metrics.values()))
  bases = {
    base: short for results in studies.values() for base, short in baselines(results).items()
  }
  differing, rows = differences(studies), []
  for name, results in studies.items():
    said = "\n".join(f"{key} {value}" for key, value in differing[name].items()) or DASH
    teacher = percent(network_score(results, "teacher"))
    for method, title in method_titles(results).items():
      values = test_scores(results, method).values()
      row = [name, said, teacher, title, str(len(values)), spread(values)]
      if len(values) > 1:
        row[-1] += f"\n{interval(estimate(values))}"
      rows.append([*row, *(_gain(results, method, base) for base in bases)])
  header = ["Study", "Differs in", "Teacher,\ntest, %", "Method", "Seeds"]
  header += [f"{metric.test_title}\nmean ± sd\n95 % interval"]
  return Table([*header, *(f"Gain over\n{short}, points" for short in bases.values())], rows)


def _gain(results: Results, method: str, base: str) -> str:
  difference = gain(results, method, base)
  if difference is None:
    return DASH
  lines, verdict = [percent(difference.mean, sign="+")], excludes_zero(difference)
  if verdict is not None:
    lines += [interval(difference, sign="+"), "excludes 0" if verdict else "includes 0"]
  return "\n".join(lines)


def differences(studies: Mapping[str, Results]) -> dict[str, dict[str, str]]:
  """Study -> the settings, and the data, in which it differs from at least one other.

  >>> differences({"a": {"config": {"epochs": 1, "seeds": 3}}, "b": {"config": {"epochs": 2, "seeds": 3}}})
  {'a': {'epochs': '1'}, 'b': {'epochs': '2'}}
  """
  found = {}
  for name, results in studies.items():
    config = {
      key: value for key, value in (results.get("config") or {}).items() if key not in NOT_COMPARED
    }
    # Older results have no first_seed: their seeds begin at 0.
    found[name] = flatten({"first_seed": 0} | config) if config else {}
    data = (results.get("dataset") or {}).get("fingerprint")
    if data:
      found[name]["training examples"] = str(data)[:8]
  keys = dict.fromkeys(key for settings in found.values() for key in settings)
  varying = [key for key in keys if len({s.get(key, DASH) for s in found.values()}) > 1]
  return {name: {key: s.get(key, DASH) for key in varying} for name, s in found.items()}
