"""The log of a phase: a line of JSON and TensorBoard's scalars for each epoch."""

import json
from pathlib import Path
from typing import Any

import tensorboardX

from kd_jax import parallel
from kd_jax.training.records import EpochRecord


class RunLog:
  """metrics.jsonl and TensorBoard's events, made anew from the history on resumption."""

  def __init__(self, folder: Path, history: list[EpochRecord]):
    self._folder, self._history = folder, history

  def __enter__(self) -> "RunLog":
    self._file = self._events = None
    if parallel.is_main():
      self._folder.mkdir(parents=True, exist_ok=True)
      for old in self._folder.glob("events.out.tfevents.*"):
        old.unlink()
      self._file = open(self._folder / "metrics.jsonl", "w", encoding="utf-8")
      self._events = tensorboardX.SummaryWriter(str(self._folder), flush_secs=10)
      for record in self._history:
        self.write(record)
    return self

  def write(self, record: EpochRecord) -> None:
    if self._file is None:
      return
    values = record.to_json()
    self._file.write(json.dumps(values) + "\n")
    self._file.flush()
    for name, value in _scalars(values):
      self._events.add_scalar(name, value, record.epoch)

  def __exit__(self, *_) -> None:
    if self._file is not None:
      self._file.close()
      self._events.close()


def is_logged(folder: Path, history: list[EpochRecord]) -> bool:
  """Whether metrics.jsonl holds every epoch."""
  try:
    return len((folder / "metrics.jsonl").read_bytes().splitlines()) == len(history)
  except OSError:
    return False


def _scalars(record: dict[str, Any], prefix: str = ""):
  for name, value in record.items():
    if isinstance(value, dict):
      yield from _scalars(value, f"{prefix}{name}/")
    elif isinstance(value, list):
      yield from ((f"{prefix}{name}/{index}", item) for index, item in enumerate(value))
    elif name != "epoch":
      yield f"{prefix}{name}", value
