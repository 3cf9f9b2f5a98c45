"""The record of an epoch as a value and as JSON."""

import dataclasses
import json

import pytest

from kd_jax.training import EpochRecord

RECORD = EpochRecord(
  epoch=2,
  train_loss=(0.5, 0.25),
  terms={"labels": (1.0, 2.0), "soft_targets": (3.0, 4.0)},
  train_metrics={"accuracy": (0.5, 0.75)},
  gradient_norm=(1.5, 2.5),
  metric="f1",
  validation=(0.1, 0.2),
  schedules={"temperature": 3.0},
  learning_rate=0.01,
  seconds=1.25,
)
WRITTEN = {
  "epoch": 2,
  "train_loss": [0.5, 0.25],
  "terms": {"labels": [1.0, 2.0], "soft_targets": [3.0, 4.0]},
  "train_accuracy": [0.5, 0.75],
  "gradient_norm": [1.5, 2.5],
  "validation_f1": [0.1, 0.2],
  "schedules": {"temperature": 3.0},
  "learning_rate": 0.01,
  "seconds": 1.25,
}
"""As version 0.1 wrote it."""


def test_a_record_is_written_and_read_back():
  assert RECORD.to_json() == WRITTEN
  found = EpochRecord.from_json(json.loads(json.dumps(WRITTEN)))
  assert dataclasses.asdict(found) == dataclasses.asdict(RECORD)


def test_the_time_is_no_part_of_equality():
  assert dataclasses.replace(RECORD, seconds=9.0) == RECORD
  assert dataclasses.replace(RECORD, learning_rate=9.0) != RECORD


@pytest.mark.parametrize(
  "name", [name for name in WRITTEN if name not in ("seconds", "train_accuracy")]
)
def test_what_lacks_a_field_is_no_record(name):
  with pytest.raises(ValueError, match="must be the record of an epoch"):
    EpochRecord.from_json({key: value for key, value in WRITTEN.items() if key != name})
