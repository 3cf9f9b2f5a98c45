"""What an epoch of training leaves: a record of plain values, and a report with the state to go on from."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from kd_jax.training.state import LoopState

Values = tuple[float, ...]
"""[K] a value for each seed."""


@dataclasses.dataclass(frozen=True)
class EpochRecord:
  """The numbers of one epoch, for logs and curves; those of training are means over its examples.

  Attributes:
    epoch: its number within the phase, from 1.
    train_loss: of each seed.
    terms: {name: unweighted mean} of each term of the objective.
    train_metrics: {name: value} of the metrics of training.
    gradient_norm: mean over the steps.
    metric: the name of the metric that chooses the best epoch.
    validation: its value on the held-out examples.
    schedules: {name: value} of what is scheduled, at the beginning of the epoch.
    learning_rate: at the beginning of the epoch.
    seconds: of training, without evaluation; no part of equality.
  """

  epoch: int
  train_loss: Values
  terms: Mapping[str, Values]
  train_metrics: Mapping[str, Values]
  gradient_norm: Values
  metric: str
  validation: Values
  schedules: Mapping[str, float]
  learning_rate: float
  seconds: float = dataclasses.field(default=0.0, compare=False)

  def to_json(self) -> dict[str, Any]:
    """As plain JSON values, with `train_METRIC` and `validation_METRIC` as names."""
    return {
      "epoch": self.epoch,
      "train_loss": list(self.train_loss),
      "terms": {name: list(values) for name, values in self.terms.items()},
      **{f"train_{name}": list(values) for name, values in self.train_metrics.items()},
      "gradient_norm": list(self.gradient_norm),
      f"validation_{self.metric}": list(self.validation),
      "schedules": dict(self.schedules),
      "learning_rate": self.learning_rate,
      "seconds": self.seconds,
    }

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> "EpochRecord":
    """What `to_json` wrote.

    Raises:
      ValueError: values that are no record.
    """
    try:
      (validation,) = (name for name in values if name.startswith("validation_"))
      return cls(
        epoch=values["epoch"],
        train_loss=tuple(values["train_loss"]),
        terms={name: tuple(of) for name, of in values["terms"].items()},
        train_metrics={
          name.removeprefix("train_"): tuple(of)
          for name, of in values.items()
          if name.startswith("train_") and name != "train_loss"
        },
        gradient_norm=tuple(values["gradient_norm"]),
        metric=validation.removeprefix("validation_"),
        validation=tuple(values[validation]),
        schedules=dict(values["schedules"]),
        learning_rate=values["learning_rate"],
        seconds=values.get("seconds", 0.0),
      )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
      raise ValueError(
        f"`values` must be the record of an epoch, got {dict(values)}: {error}"
      ) from None


class EpochReport(NamedTuple):
  """What an epoch leaves.

  Attributes:
    record: its numbers.
    state: to be saved, and to go on from.
  """

  record: EpochRecord
  state: LoopState

  @property
  def epoch(self) -> int:
    """Its number within the phase, from 1."""
    return self.record.epoch

  @property
  def seconds(self) -> float:
    """Of training, without evaluation."""
    return self.record.seconds
