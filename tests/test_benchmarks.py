"""The benchmark in its smallest form: every quantity is measured, and the file says of what."""

import json

import pytest

from experiments.benchmarks import first_step, training

SMALL = ["digits", "--train-limit", "128", "--seeds", "1", "--repeats", "2"]
SPEEDS = ("cached teacher", "live teacher", "cached / live")


def test_benchmark_measures_everything(tmp_path, capsys, monkeypatch):
  starts = {"empty": [2.0], "filled": [1.0]}
  monkeypatch.setattr(first_step, "measure", lambda argv, count: starts)
  out = tmp_path / "out.json"
  assert training.main([*SMALL, "--starts", "1", "--out", str(out)]) == 0
  found = json.loads(out.read_text())
  rows = {row["name"]: row for row in found["measurements"]}
  assert len(rows) == 9
  assert all(0 < row["min"] <= row["median"] <= row["max"] for row in rows.values())
  # Repeats without the warm-up; precompute has a value for each view of each chunk.
  cached, live, ratio = (rows[f"annealing epoch, {x}"] for x in SPEEDS)
  assert len(cached["values"]) == 2
  assert len(rows["precompute"]["values"]) == 1
  assert ratio["values"][0] == pytest.approx(cached["values"][0] / live["values"][0])
  assert found["images"] == 128
  assert found["study"]["batch_size"] == 64
  assert found["device"]["kind"]
  assert "cached / live" in capsys.readouterr().out


def test_first_step_fills_the_compile_cache(tmp_path):
  assert 0 < first_step.start(SMALL, str(tmp_path)) < 120
  assert list(tmp_path.iterdir())


def test_a_failing_start_says_why(tmp_path):
  with pytest.raises(OSError, match="unknown config 'nothing'"):
    first_step.start(["nothing"], str(tmp_path))
