"""What a study measures: accuracy of images where its results say nothing else."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

Results = Mapping[str, Any]


class Metric(NamedTuple):
  """The metric that checkpoints are selected and methods compared by; none exceeds 1, more is better.

  Attributes:
    key: its key in rows, and with `test_` or `validation_` before it elsewhere.
    label: its name in text.
    others: key -> label of the metrics shown beside it.
    examples: what the data consist of, in the plural.
    stated: whether the results say all this themselves.
    lowest: key -> the lowest value of those that can be negative, such as correlations.
    chance: what one answer to every test example has; None where the results do not say.
  """

  key: str = "accuracy"
  label: str = "accuracy"
  others: Mapping[str, str] = {}
  examples: str = "images"
  stated: bool = False
  lowest: Mapping[str, float] = {}
  chance: float | None = None

  @property
  def floor(self) -> float:
    """The lowest value of the metric itself."""
    return self.lowest.get(self.key, 0.0)

  @property
  def is_accuracy(self) -> bool:
    """Whether each test example counts as right or wrong, as a binomial sampling error supposes."""
    return self.key == "accuracy"

  @property
  def test_title(self) -> str:
    """The head of a column of test results; accuracy goes without saying."""
    return "Test, %" if self.is_accuracy else f"Test {self.label}, %"


def metric_of(results: Results) -> Metric:
  """The metric that results state as `metric`, or accuracy.

  Raises:
    ValueError: something else than an object with key, label, lowest, others and examples.

  >>> metric_of({}).label, metric_of({"metric": {"key": "las", "label": "LAS"}}).test_title
  ('accuracy', 'Test LAS, %')
  """
  stated = results.get("metric")
  if stated is None:
    return Metric()
  if not isinstance(stated, Mapping):
    raise ValueError(f"metric is {stated!r:.60}: expected an object with key and label")
  others = stated.get("others") or []
  if not isinstance(others, list) or not all(isinstance(other, Mapping) for other in others):
    raise ValueError(f"metric.others is {others!r:.60}: expected a list of key and label")
  parts = [(stated, "metric"), *_numbered(others)]
  named = dict(_named(part, name) for part, name in parts)
  lowest = {
    part["key"]: _number(part, name, "lowest", -1, 0) for part, name in parts if "lowest" in part
  }
  (key, label), *beside = named.items()
  examples = stated.get("examples", "examples")
  if not isinstance(examples, str) or not examples:
    raise ValueError(f"metric.examples is {examples!r:.60}: expected what the data consist of")
  chance = _number(stated, "metric", "chance", 0, 1) if "chance" in stated else None
  return Metric(key, label, dict(beside), examples, True, lowest, chance)


def _numbered(others: list[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
  return [(other, f"metric.others[{index}]") for index, other in enumerate(others)]


def _named(part: Mapping[str, Any], name: str) -> tuple[str, str]:
  key = part.get("key")
  label = part.get("label", key)
  # A key also names a figure's file.
  if not isinstance(key, str) or not key.isidentifier() or not isinstance(label, str) or not label:
    raise ValueError(f"{name} is {part!r:.60}: expected key, such as f1, and label, such as F1")
  return key, label


def _number(part: Mapping[str, Any], name: str, key: str, low: int, high: int) -> float:
  value = part[key]
  if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
    raise ValueError(f"{name}.{key} is {value!r:.60}: expected a number from {low} to {high}")
  return float(value)


def check_fractions(results: Results) -> None:
  """Refuses percentages where fractions belong, and negative values of metrics that cannot be so.

  Raises:
    ValueError: a value of one of the study's metrics is above 1, or below the lowest that it can be.
  """
  metric = metric_of(results)
  for index, row in enumerate(results["rows"]):
    _check(row.get("validation"), f"rows[{index}].validation", {}, metric.floor)
  if not metric.stated:
    return  # `pick` knows accuracies by their name
  lowest = {
    f"{split}{key}": metric.lowest.get(key, 0.0)
    for key in (metric.key, *metric.others)
    for split in ("", "test_", "validation_")
  }
  for index, row in enumerate(results["rows"]):
    _check(row.get("test"), f"rows[{index}].test", lowest)
  for index, point in enumerate(results["curves"]):
    _check(point, f"curves[{index}]", lowest)
  for part in ("teacher", "assistant", "paper"):
    _check(results[part], part, lowest)


def _check(value: Any, where: str, lowest: Mapping[str, float], bound: float | None = None) -> None:
  """Checks the metrics within a value; `bound` is the lowest of the one whose values these are."""
  if isinstance(value, Mapping):
    for key, item in value.items():
      _check(item, f"{where}.{key}", lowest, lowest.get(key, bound))
  elif (
    bound is not None
    and isinstance(value, int | float)
    and math.isfinite(value)
    and not bound <= value <= 1
  ):
    raise ValueError(f"{where} is {value}: metrics are fractions from {bound:g} to 1")
