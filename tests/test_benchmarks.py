"""The benchmarks in their smallest form: every quantity is measured, and the file says of what."""

import contextlib
import importlib
import json

import pytest

from experiments.benchmarks import first_step, structures, structures_timing, training
from experiments.benchmarks.peers import __main__ as peers, cases, page, pairs

SMALL = ["digits", "--train-limit", "128", "--batch-size", "64", "--seeds", "1", "--repeats", "2"]
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


class FakeSide:
  """A side that answers with given seconds and a fixed value, and notes when it was asked."""

  def __init__(self, seconds, values, order):
    self.seconds, self.values, self.order = seconds, values, order

  @contextlib.contextmanager
  def __call__(self, job):
    answers = iter(self.seconds[job.side])

    def ask():
      self.order.append(job.side)
      return cases.Measurement(next(answers), self.values[job.side])

    if self.values[job.side] is None:
      raise pairs.PeerError(f"{job.side} failed: no such module")
    yield {"device": "cpu", "versions": {job.side: "1.0"}}, ask


def measure_fakes(values, repeats=2, missing=()):
  order = []
  seconds = {cases.OURS: [9.0, 8.0, 1.0, 2.0, 8.0, 4.0, 4.0], "first": [9.0, 8.0, 3.0, 4.0]}
  seconds["second"] = [9.0, 8.0, 2.0, 2.0]
  case = cases.Case("about", "images", {}, {}, ("first", "second"))
  settings = pairs.Settings(repeats, steps=1, threads=1, quick=False)
  side = FakeSide(seconds, values, order)
  found = pairs.measure(case, settings, side, lambda peer: ["torch"] if peer in missing else [])
  return found, order


def test_peers_are_measured_in_turn():
  found, order = measure_fakes({cases.OURS: 1.0, "first": 1.00009, "second": 1.0})
  # The check, a round that is not counted, and two that are, for each pair.
  pair = [cases.OURS, "first"]
  assert order == [cases.OURS, "first", *3 * pair, "second", *3 * [cases.OURS, "second"]]
  first, second = found["pairs"]
  assert first["ours"]["values"] == [1.0, 2.0]
  assert first["theirs"]["values"] == [3.0, 4.0]
  assert first["times_as_fast"]["of_medians"] == pytest.approx(3.5 / 1.5)
  assert first["times_as_fast"]["paired"]["median"] == pytest.approx((3 / 1 + 4 / 2) / 2)
  assert first["theirs"]["quartiles"] == [3.25, 3.75]
  assert first["loss"]["difference"] == pytest.approx(9e-5)
  assert first["theirs"]["versions"] == {"first": "1.0"}
  assert second["times_as_fast"]["of_medians"] == 0.5
  assert found["left_out"] == {}


def test_peers_that_differ_or_fail_are_not_timed():
  found, order = measure_fakes({cases.OURS: 1.0, "first": 1.0002, "second": 1.0})
  assert [pair["peer"] for pair in found["pairs"]] == ["second"]
  assert "1.0002 and ours 1, a relative difference of 2.0e-04" in found["left_out"]["first"]
  assert order.count("first") == 1
  found, _ = measure_fakes({cases.OURS: 1.0, "first": float("nan"), "second": None})
  assert found["pairs"] == []
  assert found["left_out"]["second"] == "second failed: no such module"
  assert "nan" in found["left_out"]["first"]


def test_peers_that_are_absent_leave_ours(tmp_path):
  found, order = measure_fakes({cases.OURS: 1.0}, missing=("first", "second"))
  assert order == 4 * [cases.OURS]
  assert found["left_out"]["first"] == "not installed: torch"
  assert found["pairs"] == [{"peer": None, "ours": found["pairs"][0]["ours"]}]
  assert found["pairs"][0]["ours"]["values"] == [1.0, 2.0]


def test_peers_command_measures_ours_alone(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  out, names = tmp_path / "out.json", ["mlp-16-seeds", "precompute-texts", "case-2a"]
  few = ["--quick", "--repeats", "1", "--steps", "2", "--out", str(out)]
  for chosen in (names[:1], names[1:]):
    assert peers.main([*few, "--cases", *chosen], pairs.in_this_process) == 0
  printed = capsys.readouterr().out
  assert "left out: not installed: torch; pip install -r requirements-bench.txt" in printed
  found = json.loads(out.read_text())
  assert list(found["cases"]) == names  # what was measured before stays
  for case in found["cases"].values():
    (pair,) = case["pairs"]
    assert pair["peer"] is None
    assert len(pair["ours"]["values"]) == 1
    assert pair["ours"]["median"] > 0
    assert pair["ours"]["versions"]["jax"]


def test_peers_page_states_where_ours_is_slower(tmp_path):
  values = {cases.OURS: 1.0, "first": 1.0, "second": 1.0}
  case, _ = measure_fakes(values)
  case |= {"date": "2026-01-02", "load_average": 0.5, "left_out": {"third": "not installed: torch"}}
  found = {"device": {"processor": "P", "threads": 2}, "repeats": 2, "steps": 1}
  document = tmp_path / "page.md"
  document.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
  page.write(document, found | {"cases": {"some-case": case}})
  text = document.read_text()
  assert text.startswith("before\n")
  assert text.endswith("after\n")
  assert "old" not in text
  assert "| some-case | first | 1,500 (1,250 to 1,750) | 3,500 (3,250 to 3,750) | 2.33 |" in text
  assert "- `some-case`: kd_jax takes 2.00 times as long as second." in text
  assert "as long as first" not in text
  assert "- `some-case`, third: not installed: torch." in text
  assert document.with_suffix(".png").stat().st_size > 1000
  with pytest.raises(ValueError, match="tiny sizes"):
    page.write(document, found | {"cases": {}, "quick": True})
  document.write_text("no markers")
  with pytest.raises(ValueError, match="must hold the lines"):
    page.write(document, found | {"cases": {}})


@pytest.mark.parametrize(
  "arguments", [["--cases", "nothing"], ["--page", "x.md", "--quick"], ["--render"]]
)
def test_peers_command_checks_its_options(arguments, capsys):
  with pytest.raises(SystemExit):
    peers.main(arguments)
  assert f"`{arguments[0][2:]}`" in capsys.readouterr().err
