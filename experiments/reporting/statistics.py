"""Means, spreads and intervals over seeds, and the numbers they are taken from.

Every interval here covers the spread over training seeds alone: the test set is one fixed sample,
and its own sampling error is stated separately in the report.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from scipy import special

from .metric import metric_of

SCRATCH, KD, TOKEN_KD = "scratch", "kd", "token_kd"
MIN_SEEDS = 3
"""Below this many seeds an interval says next to nothing, and no verdict is drawn from it."""


class Estimate(NamedTuple):
  """A mean over seeds with its uncertainty.

  Attributes:
    count: number of values, at least 1.
    mean: their mean, in the values' own unit.
    sd: sample standard deviation (ddof = 1); None for a single value.
    low: lower end of the Student-t interval of the mean; None for a single value.
    high: its upper end.
  """

  count: int
  mean: float
  sd: float | None = None
  low: float | None = None
  high: float | None = None


def estimate(values: Iterable[float], *, level: float = 0.95) -> Estimate:
  """Mean, standard deviation and Student-t interval of independent values.

      mean ± t((1 + level) / 2; n - 1) · sd / sqrt(n)

  Args:
    values: one finite number per seed, at least one.
    level: coverage of the interval, in (0, 1).

  Returns:
    The estimate; with one value only its mean is known.

  Raises:
    ValueError: no values, a value that is not finite, or a level outside (0, 1).

  >>> [round(x, 3) for x in estimate([1.0, 2.0, 3.0])[1:]]
  [2.0, 1.0, -0.484, 4.484]
  """
  values = [float(value) for value in values]
  if not values or not all(map(math.isfinite, values)):
    raise ValueError(f"an estimate needs one or more finite values, got {values}")
  if not 0 < level < 1:
    raise ValueError(f"level is {level}: choose a coverage between 0 and 1, such as 0.95")
  count = len(values)
  mean = math.fsum(values) / count
  if count == 1:
    return Estimate(1, mean)
  sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
  half = float(special.stdtrit(count - 1, (1 + level) / 2)) * sd / math.sqrt(count)
  return Estimate(count, mean, sd, mean - half, mean + half)


def paired_difference(
  values: Mapping[int, float], baseline: Mapping[int, float], *, level: float = 0.95
) -> Estimate | None:
  """Estimate of values - baseline over the seeds that both have; None where they share none.

  Pairing by seed removes what a seed does to both (data order, initialisation).

  >>> paired_difference({0: 3.0, 1: 5.0, 2: 9.0}, {0: 1.0, 1: 4.0}).mean
  1.5
  """
  shared = sorted(values.keys() & baseline.keys())
  if not shared:
    return None
  return estimate((values[seed] - baseline[seed] for seed in shared), level=level)


def excludes_zero(difference: Estimate) -> bool | None:
  """Whether 0 lies outside the interval; None where one value gives no interval."""
  if difference.low is None:
    return None
  return difference.low > 0 or difference.high < 0


def pick(record: Mapping[str, Any] | None, *path: str) -> float | None:
  """The number at a path of nested dictionaries, None where any part is missing or null.

  Raises:
    ValueError: something else than a number is there, an accuracy outside [0, 1], or another metric on the
      validation split outside [-1, 1]: `check_fractions` knows it better.

  >>> pick({"test": {"best": {"accuracy": 0.5}}}, "test", "best", "accuracy")
  0.5
  >>> pick({"test": None}, "test", "best", "accuracy") is None
  True
  """
  value: Any = record
  for key in path:
    if value is None:
      return None
    if not isinstance(value, Mapping):
      raise ValueError(f"{'.'.join(path)}: {key!r} is looked up in {value!r}, not an object")
    value = value.get(key)
  if value is None:
    return None
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise ValueError(f"{'.'.join(path)} is {value!r}: a number or null belongs there")
  if not math.isfinite(value):
    return None
  is_accuracy = any(key.endswith("accuracy") for key in path)
  lowest = 0 if is_accuracy else -1
  is_metric = is_accuracy or (path[0] == "validation" and len(path) > 1)
  if is_metric and not lowest <= value <= 1:
    raise ValueError(f"{'.'.join(path)} is {value}: metrics are fractions from {lowest} to 1")
  return float(value)


def method_titles(results: Mapping[str, Any]) -> dict[str, str]:
  """Method name -> title, in the order to show; methods known from rows alone come last."""
  titles = {name: str(spec.get("title") or name) for name, spec in results["methods"].items()}
  for row in results["rows"]:
    titles.setdefault(row["method"], row["method"])
  return titles


def final_rows(results: Mapping[str, Any], method: str) -> dict[int, Mapping[str, Any]]:
  """Seed -> the row of the method's last phase."""
  return {row["seed"]: row for row in results["rows"] if row["method"] == method and row["final"]}


def by_seed(rows: Mapping[int, Mapping[str, Any]], *path: str) -> dict[int, float]:
  """Seed -> the number at a path of its row, leaving out the rows that lack it."""
  picked = {seed: pick(row, *path) for seed, row in rows.items()}
  return {seed: value for seed, value in picked.items() if value is not None}


def test_scores(results: Mapping[str, Any], method: str) -> dict[int, float]:
  """Seed -> test metric of the method's checkpoint that was best on validation."""
  return by_seed(final_rows(results, method), "test", "best", metric_of(results).key)


test_scores.__test__ = False  # the name speaks of the test set: pytest must not collect it


def network_score(results: Mapping[str, Any], role: str, split: str = "test") -> float | None:
  """The metric of the teacher or the assistant on a split."""
  return network_pick(results, role, metric_of(results).key, split)


def network_pick(
  results: Mapping[str, Any], role: str, key: str, split: str = "test"
) -> float | None:
  """Any measured value of the teacher or the assistant, from `split_key` or from `split`'s own object."""
  value = pick(results.get(role), f"{split}_{key}")
  return pick(results.get(role), split, key) if value is None else value


def paper_score(results: Mapping[str, Any], method: str) -> float | None:
  """The metric that the paper gives for a method, or for the teacher or the assistant."""
  return pick(results.get("paper"), f"test_{metric_of(results).key}", method)


def baselines(results: Mapping[str, Any]) -> dict[str, str]:
  """Method -> its short name, for those that gains are taken over: labels alone, and KD or else token KD."""
  titles = method_titles(results)
  names = {SCRATCH: labels_alone(results), KD: "KD", TOKEN_KD: "token KD"}
  if KD in titles:
    del names[TOKEN_KD]
  return {name: short for name, short in names.items() if name in titles}


def labels_alone(results: Mapping[str, Any]) -> str:
  """Short name of training without a teacher: "scratch", or its title where it starts from pretrained weights.

  >>> labels_alone({"methods": {"scratch": {"title": "from scratch"}}, "rows": []})
  'scratch'
  >>> labels_alone({"methods": {"scratch": {"title": "labels alone"}}, "rows": []})
  'labels alone'
  """
  title = method_titles(results).get(SCRATCH, SCRATCH)
  return SCRATCH if SCRATCH in title.lower() else title


def clipped(value: Estimate, lowest: float, highest: float = 1.0) -> Estimate:
  """An estimate whose interval ends where the values do.

  >>> clipped(Estimate(3, 0.99, 0.01, 0.96, 1.02), 0.0)[3:]
  (0.96, 1.0)
  """
  if value.low is None:
    return value
  return value._replace(low=max(value.low, lowest), high=min(value.high, highest))


def gain(results: Mapping[str, Any], method: str, baseline: str) -> Estimate | None:
  """Test metric of a method minus a baseline's, paired by seed."""
  if method == baseline:
    return None
  return paired_difference(test_scores(results, method), test_scores(results, baseline))


def seconds_by_seed(results: Mapping[str, Any], method: str) -> dict[int, float]:
  """Seed -> seconds over all phases, for the seeds that have finished."""
  totals: dict[int, float] = {}
  for row in results["rows"]:
    seconds = pick(row, "timing", "seconds")
    if row["method"] == method and seconds is not None:
      totals[row["seed"]] = totals.get(row["seed"], 0.0) + seconds
  finished = final_rows(results, method)
  return {seed: total for seed, total in totals.items() if seed in finished}
