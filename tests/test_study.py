"""The whole job through its command line, in this process."""

import json
import shutil

import jax
import pytest

from experiments import (
  compare,
  evaluate,
  lineage,
  precompute,
  report as report_module,
  student,
  study,
  teacher,
)
from experiments.pipeline import runs
from tests import commands

SMALL = [
  "digits",
  "--epochs=6",
  "--teacher-epochs=2",
  "--seeds=2",
  "--annealing-kd.max-temperature=2",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
  """A finished study of all methods."""
  folder = tmp_path_factory.mktemp("study") / "run"
  assert study.main([*SMALL, f"--workdir={folder}", f"--data-dir={data_dir}"]) == 0
  return folder


def results(folder):
  return json.loads((folder / "results.json").read_text())


def untimed(rows):
  return [{key: value for key, value in row.items() if key != "timing"} for row in rows]


def test_results_have_a_row_for_each_method_seed_and_phase(finished):
  rows = results(finished)["rows"]
  found = {(row["method"], row["seed"], row["phase"]) for row in rows}
  expected = {
    (method, seed, phase)
    for seed in (0, 1)
    for method, phases in {
      "scratch": ["train"],
      "kd": ["distil"],
      "takd": ["distil"],
      "annealing_kd": ["anneal", "finetune"],
      "continuation_kd": ["continue"],
    }.items()
    for phase in phases
  }
  assert found == expected
  assert len(rows) == len(expected)


def test_students_learn(finished):
  scratch = [row for row in results(finished)["rows"] if row["method"] == "scratch"]
  assert all(row["test"]["best"]["accuracy"] > 0.3 for row in scratch)
  assert results(finished)["teacher"]["test_accuracy"] > 0.8


def test_the_report_stands_beside_the_results(finished):
  for name in ("report.md", "report.html", "figures/learning_curves.png"):
    assert (finished / name).stat().st_size > 0
  assert "Annealing-KD" in (finished / "report.md").read_text()


def test_logs_have_a_line_for_each_epoch(finished):
  run = finished / "students" / "annealing_kd" / "seeds-0-1"
  lines = [json.loads(line) for line in (run / "anneal" / "metrics.jsonl").read_text().splitlines()]
  assert [line["epoch"] for line in lines] == [1, 2, 3]
  assert [line["schedules"]["temperature"] for line in lines] == [2.0, 1.0, 1.0]
  assert list((run / "anneal").glob("events.out.tfevents.*"))


def test_a_finished_study_is_not_trained_again(finished, data_dir, capsys):
  before = results(finished)
  # A copy that a user made is no group of seeds.
  copy = finished / "students" / "kd" / "seeds-0.bak"
  copy.mkdir()
  assert study.main([*SMALL, f"--workdir={finished}", f"--data-dir={data_dir}"]) == 0
  assert "found finished" in capsys.readouterr().out
  assert results(finished)["rows"] == before["rows"]
  copy.rmdir()


def test_results_say_with_what_versions_they_were_made(finished):
  found = results(finished)
  assert found["versions"]["jax"] == jax.__version__
  assert found["versions"].keys() >= {"kd_jax", "jaxlib", "flax", "optax", "orbax-checkpoint"}
  assert found["made_with"] == [found["versions"]]
  assert "orbax-checkpoint" in (finished / "report.md").read_text()


def test_more_seeds_keep_those_that_are_done(finished, data_dir, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  more = [argument for argument in SMALL if not argument.startswith("--seeds")] + ["--seeds=3"]
  arguments = [*more, "--methods", "kd", f"--workdir={folder}", f"--data-dir={data_dir}"]
  assert study.main(arguments) == 0
  old = [row for row in untimed(results(finished)["rows"]) if row["method"] == "kd"]
  new = untimed(results(folder)["rows"])
  assert new[:2] == old
  assert [row["seed"] for row in new] == [0, 1, 2]


def test_the_steps_alone_give_what_the_study_gives(finished, data_dir, tmp_path):
  arguments = [*SMALL, f"--workdir={tmp_path / 'run'}", f"--data-dir={data_dir}"]
  assert teacher.main(arguments) == 0
  assert precompute.main(arguments) == 0
  assert precompute.main([*arguments, "--verify"]) == 0
  assert student.main([*arguments, "--method", "annealing_kd"]) == 0
  steps = "students/annealing_kd/seeds-0-1/finetune/checkpoints/seals/3.json"
  one = json.loads((finished / steps).read_text())
  other = json.loads((tmp_path / "run" / steps).read_text())
  assert one["digest"] == other["digest"]


def test_a_live_teacher_gives_the_same_student_up_to_rounding(finished, data_dir, tmp_path):
  arguments = [*SMALL, f"--workdir={tmp_path / 'run'}", f"--data-dir={data_dir}"]
  assert study.main([*arguments, "--methods", "kd", "--live-teacher"]) == 0
  cached = [r for r in results(finished)["rows"] if r["method"] == "kd"]
  live = results(tmp_path / "run")["rows"]
  for one, other in zip(cached, live, strict=True):
    assert one["test"]["last"]["accuracy"] == pytest.approx(
      other["test"]["last"]["accuracy"], abs=0.02
    )
  # Before rounding has added up, after an epoch, the losses are the same.
  losses = [
    {point["seed"]: point["train_loss"] for point in found["curves"] if point["epoch"] == 1}
    for found in (
      {"curves": [p for p in results(finished)["curves"] if p["method"] == "kd"]},
      results(tmp_path / "run"),
    )
  ]
  assert losses[0].keys() == losses[1].keys() == {0, 1}
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)
  assert not (tmp_path / "run" / "cache").exists()


def test_a_top_k_cache_serves_soft_targets(data_dir, tmp_path):
  arguments = [*SMALL, f"--workdir={tmp_path / 'run'}", f"--data-dir={data_dir}"]
  assert study.main([*arguments, "--methods", "kd", "--cache-top-k", "3"]) == 0
  manifest = json.loads((tmp_path / "run" / "cache" / "manifest.json").read_text())
  assert manifest["spec"]["top_k"] == 3
  with pytest.raises(ValueError, match="all of the teacher's logits are read"):
    study.main([*arguments, "--methods", "annealing_kd", "--cache-top-k", "3"])


def test_values_of_an_option_are_rows_of_one_study(finished, data_dir, tmp_path, capsys):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  vary = [
    "--methods",
    "scratch",
    "annealing_kd",
    "--vary",
    "annealing-kd.max-temperature",
    "3",
    "2",
  ]
  assert study.main([*SMALL, *vary, f"--workdir={folder}", f"--data-dir={data_dir}"]) == 0
  assert "(max-temperature 3)" in capsys.readouterr().out
  found = results(folder)
  name = "annealing_kd.max-temperature=3"
  assert list(found["methods"]) == ["scratch", name, "annealing_kd"]
  assert found["methods"][name]["method"] == "annealing_kd"
  assert found["methods"][name]["settings"]["max_temperature"] == 3
  temperatures = [
    point["schedules"]["temperature"]
    for point in found["curves"]
    if (point["method"], point["phase"], point["seed"]) == (name, "anneal", 0)
  ]
  assert temperatures == [3, 2, 1]
  # The study's own value, 2, is the run that was there; teacher and cache are shared.
  old = [row for row in untimed(results(finished)["rows"]) if row["method"] == "annealing_kd"]
  assert [row for row in untimed(found["rows"]) if row["method"] == "annealing_kd"] == old
  assert found["teacher"]["digest"] == results(finished)["teacher"]["digest"]
  assert sorted(path.name for path in (folder / "students").iterdir())[:2] == ["annealing_kd", name]
  assert (
    lineage.main([str(folder / "students" / name / "seeds-0-1"), f"--data-dir={data_dir}"]) == 0
  )
  assert "every link matches" in capsys.readouterr().out
  table = tmp_path / "table.md"
  assert compare.main([str(finished), str(folder), "--output", str(table)]) == 0
  assert "Annealing-KD (max-temperature 3)" in table.read_text()


def test_the_teacher_may_see_more_than_the_students(finished):
  found = results(finished)
  assert (found["dataset"]["train"], found["dataset"]["teacher_train"]) == (300, 1150)
  assert (
    "The teacher was trained on 1,150 examples, the students on 300 of them."
    in (finished / "report.md").read_text()
  )
  # 36 of the 360 test images are of each class.
  assert found["metric"]["chance"] == pytest.approx(0.1)


def test_lineage_finds_every_link(finished, data_dir, capsys):
  assert lineage.main([str(finished), f"--data-dir={data_dir}"]) == 0
  printed = capsys.readouterr().out
  assert "phase anneal (best)" in printed
  assert "every link matches" in printed


def test_lineage_notices_another_teacher(finished, data_dir, tmp_path, capsys):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  shutil.rmtree(folder / "teacher")
  arguments = [*SMALL, "--teacher.hidden", "32", f"--workdir={folder}", f"--data-dir={data_dir}"]
  assert teacher.main(arguments) == 0
  run = folder / "students" / "kd" / "seeds-0-1"
  assert lineage.main([str(run), f"--data-dir={data_dir}"]) == 1
  assert "DIFFERS" in capsys.readouterr().out


def test_report_needs_results(tmp_path, capsys):
  assert commands.run_here(report_module, tmp_path) == 1
  said = capsys.readouterr().err
  assert said.startswith("error: ")
  assert str(tmp_path / "results.json") in said
  assert said.count("\n") == 1


def test_evaluation_and_verification_never_train(data_dir, tmp_path):
  arguments = [*SMALL, f"--workdir={tmp_path / 'run'}", f"--data-dir={data_dir}"]
  for command, options in ((evaluate, []), (precompute, ["--verify"])):
    with pytest.raises(ValueError, match="is not trained: run the study first"):
      command.main([*arguments, *options])
  assert not list(tmp_path.glob("run/teacher/**/seals/*"))


def test_fewer_seeds_read_the_group_that_is_there(finished, data_dir, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  fewer = [argument for argument in SMALL if not argument.startswith("--seeds")] + ["--seeds=1"]
  arguments = [*fewer, "--methods", "kd", f"--workdir={folder}", f"--data-dir={data_dir}"]
  assert study.main(arguments) == 0
  assert [path.name for path in (folder / "students" / "kd").iterdir()] == ["seeds-0-1"]
  old = [row for row in untimed(results(finished)["rows"]) if row["method"] == "kd"]
  assert untimed(results(folder)["rows"]) == old[:1]


def test_other_seeds_train_beside_those_that_are_there(finished, data_dir, tmp_path, capsys):
  folder = tmp_path / "run"
  shutil.copytree(finished, folder)
  others = [argument for argument in SMALL if not argument.startswith("--seeds")]
  others += ["--first-seed=1", "--seeds=2"]
  arguments = [*others, "--methods", "kd", f"--workdir={folder}", f"--data-dir={data_dir}"]
  assert study.main(arguments) == 0
  # Seed 1 is there, within the group of seed 0, whose own results are not this study's.
  assert sorted(path.name for path in (folder / "students" / "kd").iterdir()) == [
    "seeds-0-1",
    "seeds-2",
  ]
  old = [row for row in untimed(results(finished)["rows"]) if row["method"] == "kd"]
  new = untimed(results(folder)["rows"])
  assert [row["seed"] for row in new] == [1, 2]
  assert new[0] == old[1]
  assert results(folder)["config"]["first_seed"] == 1
  assert "1 method × 2 seeds" in capsys.readouterr().out
  with pytest.raises(ValueError, match="--seed must be one of the study's, 1, 2, got 0"):
    student.main([*others, "--method", "kd", "--seed", "0", f"--workdir={folder}"])


def test_studies_of_other_seeds_and_methods_are_joined(finished, data_dir, tmp_path):
  """The second study is one of a copied teacher, of which its results.json alone is left."""
  whole, folder = results(finished), tmp_path / "more"
  shutil.copytree(finished / "teacher", folder / "teacher")
  others = [argument for argument in SMALL if not argument.startswith("--seeds")]
  others += ["--methods", "scratch", "annealing_kd", "--first-seed=2", "--seeds=1"]
  assert study.main([*others, f"--workdir={folder}", f"--data-dir={data_dir}"]) == 0
  more = results(folder)
  for path in folder.iterdir():
    if path.name != "results.json":
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  assert compare.main([str(finished), str(folder), "--join", str(tmp_path / "joined")]) == 0
  joined = results(tmp_path / "joined")
  key = ("method", "seed", "phase")
  found = {tuple(row[name] for name in key): row for row in joined["rows"]}
  assert found == {tuple(row[name] for name in key): row for row in whole["rows"] + more["rows"]}
  assert [part["seeds"].get("annealing_kd") for part in joined["parts"]] == [[0, 1], [2]]
  assert (tmp_path / "joined" / "report.html").exists()
  assert not any("does not record" in note for note in joined["dataset"]["notes"])


def test_results_tell_what_two_studies_must_share(finished):
  found = results(finished)
  assert found["teacher"]["made_from"] == [
    json.loads((finished / "teacher/train/train/checkpoints/seals/2.json").read_text())["digest"]
  ]
  assert found["methods"]["takd"]["assistant_digest"] == found["assistant"]["digest"]
  assert not any("assistant_digest" in found["methods"][name] for name in ("scratch", "kd"))
  prints = [found["dataset"][f"{split}fingerprint"] for split in ("", "validation_", "test_")]
  assert len({*prints}) == 3
  assert all(len(each) == 64 for each in prints)


def test_students_of_one_method_are_trained_at_a_time(data_dir, tmp_path):
  with pytest.raises(ValueError, match="--method"):
    student.main([*SMALL, "--methods", "kd", f"--workdir={tmp_path}", f"--data-dir={data_dir}"])


def test_one_command_at_a_time_writes_a_folder(tmp_path):
  with (
    runs.locked(tmp_path),
    pytest.raises(ValueError, match="another command is at work"),
    runs.locked(tmp_path),
  ):
    pass
  with runs.locked(tmp_path):
    pass


def test_a_top_k_cache_of_another_temperature_is_refused(data_dir, tmp_path):
  arguments = [*SMALL, f"--workdir={tmp_path / 'run'}", f"--data-dir={data_dir}"]
  with pytest.raises(ValueError, match="temperature 8"):
    study.main(
      [*arguments, "--methods", "kd", "takd", "--cache-top-k", "3", "--takd.temperature", "8"]
    )
  assert not (tmp_path / "run" / "teacher").exists()
