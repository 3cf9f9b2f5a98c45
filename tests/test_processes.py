"""Two real processes train and checkpoint together, lose one of them, and go on."""

import json
import signal
import socket
import time

import numpy as np
import pytest

from kd_jax.checkpoints import CheckpointStore
from tests import commands
from tests.commands import lines

SMALL = (
  *("--methods", "kd", "--seeds", "2", "--student.hidden", "8", "--epochs", "4"),
  *("--teacher.hidden", "16", "--teacher-epochs", "4", "--validation-examples", "287"),
  *("--train-limit", "256", "--batch-size", "64"),
  *("--augmentation.name", "pad_crop_flip", "--augmentation.pad", "1", "--views", "2"),
)
STORES = (
  "teacher/train/train/checkpoints",
  "teacher/final",
  "cache/chunks",
  "students/kd/seeds-0-1/distil/checkpoints",
)


@pytest.fixture
def launch(tmp_path):
  """Starts studies in folders of their own; whatever still runs at the end is killed."""
  started = []

  def start(name, *more, devices, output):
    options = ("digits", *SMALL, "--workdir", tmp_path / name, "--data-dir", tmp_path / "data")
    output = tmp_path / output
    started.append(commands.start("study", *options, *more, devices=devices, output=output))
    return started[-1]

  yield start
  for process in started:
    process.kill()
    process.wait()


def pair(launch):
  """Two processes of two devices each, with one folder."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  shared = ("--coordinator", address, "--num-processes", 2, "--process-id")
  return [launch("two", *shared, i, devices=2, output=f"two.{i}.txt") for i in (0, 1)]


@pytest.mark.slow
def test_two_processes_train_as_one_and_survive_the_death_of_one(launch, tmp_path):
  main, other = pair(launch)
  log = tmp_path / "two" / "teacher/train/train/metrics.jsonl"
  commands.kill_when(main, lambda: len(lines(log)) >= 2)
  killed = time.monotonic()
  assert commands.finish(other) != 0  # it does not wait for ever, nor train on alone
  assert time.monotonic() - killed < 60
  before = lines(log)
  assert main.returncode == -signal.SIGKILL
  assert not (tmp_path / "two" / "teacher/final").exists()

  both = pair(launch)
  assert [commands.finish(p) for p in both] == [0, 0], (tmp_path / "two.1.txt").read_text()
  assert lines(log)[: len(before) - 1] == before[:-1]  # with their seconds: not trained again
  single = launch("one", devices=4, output="one.txt")
  assert commands.finish(single) == 0, (tmp_path / "one.txt").read_text()

  # Sums over processes have another order than sums over devices: equal to rounding, not to the bit.
  for store in STORES:
    two, one = (CheckpointStore(tmp_path / name / store).restore() for name in ("two", "one"))
    assert two.step == one.step
    assert two.state.keys() == one.state.keys()
    for name, array in one.state.items():
      np.testing.assert_allclose(two.state[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
  two, one = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("two", "one"))
  assert (two["device"]["processes"], two["device"]["count"]) == (2, 4)
  assert (one["device"]["processes"], one["device"]["count"]) == (1, 4)
  assert len(two["rows"]) == len(one["rows"]) == 2
  for row, expected in zip(two["rows"], one["rows"], strict=True):
    keys = ("method", "seed", "phase", "epochs", "final", "best_epoch")
    assert [row[key] for key in keys] == [expected[key] for key in keys]
    assert row["test"]["last"] == pytest.approx(expected["test"]["last"], abs=1e-4)

  # One of them writes and speaks: the other says nothing of its own.
  assert "report: " in (tmp_path / "two.0.txt").read_text()
  said = (tmp_path / "two.1.txt").read_text().splitlines()
  assert all(line.startswith("[Gloo]") for line in said)
  assert len(list((tmp_path / "two").rglob("events.out.tfevents.*"))) == 2
  assert not list((tmp_path / "two").rglob("*.tmp*"))
  assert not list((tmp_path / "two").rglob(".*.json.*"))
