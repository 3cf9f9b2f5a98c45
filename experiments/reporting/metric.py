"""What a study measures: accuracy of images where its results say nothing else."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

Results = Mapping[str, Any]


class Metric(NamedTuple):
  """The metric that checkpoints are selected and methods compared by; all are fractions, more is better.

  Attributes:
    key: its key in rows, and with `test_` or `validation_` before it elsewhere.
    label: its name in text.
    others: key -> label of the metrics shown beside it.
    examples: what the data consist of, in the plural.
    stated: whether the results say all this themselves.
  """

  key: str = "accuracy"
  label: str = "accuracy"
  others: Mapping[str, str] = {}
  examples: str = "images"
  stated: bool = False

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
    ValueError: something else than an object with key, label, others and examples.

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
  named = dict(_named(part, name) for part, name in [(stated, "metric"), *_numbered(others)])
  (key, label), *beside = named.items()
  examples = stated.get("examples", "examples")
  if not isinstance(examples, str) or not examples:
    raise ValueError(f"metric.examples is {examples!r:.60}: expected what the data consist of")
  return Metric(key, label, dict(beside), examples, stated=True)


def _numbered(others: list[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
  return [(other, f"metric.others[{index}]") for index, other in enumerate(others)]


def _named(part: Mapping[str, Any], name: str) -> tuple[str, str]:
  key = part.get("key")
  label = part.get("label", key)
  # A key also names a figure's file.
  if not isinstance(key, str) or not key.isidentifier() or not isinstance(label, str) or not label:
    raise ValueError(f"{name} is {part!r:.60}: expected key, such as f1, and label, such as F1")
  return key, label


def check_fractions(results: Results) -> None:
  """Refuses percentages where a study that states its metric has fractions.

  Raises:
    ValueError: a value of one of its metrics is outside [0, 1].
  """
  metric = metric_of(results)
  if not metric.stated:
    return  # `pick` knows accuracies by their name
  names = {
    f"{split}{key}"
    for key in (metric.key, *metric.others)
    for split in ("", "test_", "validation_")
  }
  for index, row in enumerate(results["rows"]):
    _check(row.get("test"), f"rows[{index}].test", names)
  for index, point in enumerate(results["curves"]):
    _check(point, f"curves[{index}]", names)
  for part in ("teacher", "assistant", "paper"):
    _check(results[part], part, names)


def _check(value: Any, where: str, names: set[str], *, inside: bool = False) -> None:
  if isinstance(value, Mapping):
    for key, item in value.items():
      _check(item, f"{where}.{key}", names, inside=inside or key in names)
  elif inside and isinstance(value, int | float) and math.isfinite(value) and not 0 <= value <= 1:
    raise ValueError(f"{where} is {value}: metrics are fractions from 0 to 1")
