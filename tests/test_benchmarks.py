"""The benchmarks in their smallest form: every quantity is measured, and the file says of what."""

import json

import pytest

from experiments.benchmarks import first_step, structures, structures_timing, training

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


def test_structures_are_measured_without_pytorch(tmp_path, capsys, monkeypatch):
  version = structures_timing.version
  monkeypatch.setattr(structures_timing, "version", lambda x: None if "torch" in x else version(x))
  out = tmp_path / "out.json"
  assert structures.main(["--quick", "--repeats", "2", "--out", str(out)]) == 0
  assert (
    "not installed, so not measured: torch, torch-struct, pytorch-crf" in capsys.readouterr().out
  )
  found = json.loads(out.read_text())
  assert found["versions"]["jax"]
  assert found["versions"]["torch"] is None
  assert found["device"]["kind"]
  assert found["device"]["cores"] >= 1
  problems = {problem["name"]: problem for problem in found["problems"]}
  assert set(problems) == set(structures.PROBLEMS)
  for problem in problems.values():
    assert problem["sizes"]["B"] == 2
    assert problem["contenders"][0]["name"] == "kd_jax"
    for row in problem["contenders"]:
      assert len(row["values"]) == 2
      assert 0 < row["min"] <= row["median"]
      assert "times_as_fast" not in row
  scan, associative = problems["chain"]["contenders"]
  assert scan["difference"] == 0
  assert associative["difference"] < 1e-5
  (errors,) = found["accuracy"]
  assert max(errors["error"]) < 1e-6  # against an enumeration of all trees, whatever the preference
  grown = {row["contender"]: row for row in found["growth"] if row["name"] == "chain"}
  assert set(grown) == {"kd_jax", "kd_jax, associative"}
  assert all(len(row["n"]) == len(row["median"]) == len(row["min"]) for row in found["growth"])


def test_structures_refuses_to_time_what_differs():
  runners = {"ours": lambda: [[1.0, 2.0]], "close": lambda: [[1.0, 2.0001]]}
  assert structures_timing.compare("x", runners)["close"] == pytest.approx(5e-5)
  for other in ([[1.0, 2.1]], [[1.0, float("nan")]]):
    with pytest.raises(ValueError, match="x: other differs from ours"):
      structures_timing.compare("x", runners | {"other": lambda other=other: other})


def test_structures_ratios():
  times = {"ours": [1.0, 2.0, 4.0], "loop": [40.0, 30.0, 10.0], "loop, 1 thread": [90.0, 80.0, 5.0]}
  row = structures._row("ours", times, ("loop", "loop, 1 thread"), 0.0)
  assert row["times_as_fast"] == {"median": 15.0, "min": 5.0}
