"""Finished studies joined into one, by handmade results: nothing is trained here."""

import copy
import json

import pytest

from experiments import compare
from experiments.pipeline.joining import join
from experiments.reporting import documents, findings, report, tables
from experiments.reporting.results import check_results, load_results, to_json
from experiments.reporting.statistics import estimate, gain, method_titles, test_scores
from tests import commands

SCORES = {"scratch": 0.80, "kd": 0.82, "takd": 0.84}
OPTIMIZER = {"name": "sgd", "learning_rate": 0.1}
TITLES = {"scratch": "from scratch", "kd": "KD", "takd": "TAKD"}


def score(method, seed):
  """Differs between methods and seeds, and the gain differs between seeds."""
  return SCORES[method] + 0.001 * (seed * seed % 7) + (0.002 * (seed % 3) if method == "kd" else 0)


def method_row(name):
  phases = [{"name": "train", "epochs": 4}]
  term = {"name": "loss", "function": f"kd_jax.recipes.logits.{name}", "weight": 1.0}
  found = {
    "method": name,
    "title": TITLES[name],
    "settings": {"temperature": 4.0, "soft_weight": 0.9} if name == "kd" else {},
    "phases": phases,
    "description": [{**phases[0], "optimizer": {**OPTIMIZER}, "terms": [term]}],
  }
  return found | ({"assistant_digest": "a1"} if name == "takd" else {})


def study(methods, seeds, **changes):
  """Results as a study of images writes them, of a network that is not trained."""
  runs = [(method, seed) for method in methods for seed in seeds]
  results = {
    "schema_version": 1,
    "study": "digits",
    "complete": True,
    "created": "2026-11-01T10:00:00+00:00",
    "command": "python -m experiments.study digits",
    "config": {
      "name": "digits",
      "batch_size": 32,
      "epochs": 4,
      "optimizer": {**OPTIMIZER},
      "methods": list(methods),
      "vary": [],
      "seeds": len(seeds),
      "first_seed": min(seeds),
      "dataset": "digits",
      "teacher_weights": None,
      "settings": {"kd": {"temperature": 4.0}},
    },
    "device": {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1, "cpu_cores": 2},
    "versions": {"kd_jax": "0.2.0", "commit": "c0ffee", "devices": "1 × cpu"},
    "made_with": [{"kd_jax": "0.2.0", "commit": "c0ffee", "devices": "1 × cpu"}],
    "dataset": {
      **{"name": "digits", "version": "1.0.0", "train": 300, "validation": 287, "test": 360},
      **{"fingerprint": "f1", "validation_fingerprint": "f2", "test_fingerprint": "f3"},
      "notes": ["as read here"],
    },
    "metric": {"key": "accuracy", "label": "accuracy", "examples": "images", "chance": 0.1},
    "teacher": {"model": "MLP 256", "digest": "t1", "made_from": ["r1"], "test_accuracy": 0.95},
    "assistant": {"model": "MLP 64", "digest": "a1"} if "takd" in methods else None,
    "student": {"model": "MLP 16", "parameters": 1000, "latency_ms": 0.5},
    "methods": {method: method_row(method) for method in methods},
    "paper": None,
    "rows": [
      {
        **{"method": method, "seed": seed, "phase": "train", "epochs": 4, "final": True},
        "best_epoch": 3,
        "validation": {"best": score(method, seed), "last": 0.8},
        "test": {
          which: {"accuracy": score(method, seed), "ece": 0.02} for which in ("best", "last")
        },
        "digest": f"{method}{seed}",
        "timing": {"seconds": 2.0, "device": "cpu"},
      }
      for method, seed in runs
    ],
    "curves": [
      {"method": m, "seed": s, "phase": "train", "epoch": e, "validation_accuracy": 0.5}
      for m, s in runs
      for e in range(1, 5)
    ],
  }
  return check_results(results | changes)


GPU = {
  "created": "2026-11-02T10:00:00+00:00",
  "device": {"platform": "gpu", "kind": "H200", "count": 1, "processes": 1},
  "versions": {"kd_jax": "0.2.0", "commit": "decade", "devices": "1 × H200"},
  "made_with": [{"kd_jax": "0.2.0", "commit": "decade", "devices": "1 × H200"}],
}


def edited(results, *path, value):
  """A deep copy with the value at a path replaced."""
  changed = copy.deepcopy(results)
  inner = changed
  for key in path[:-1]:
    inner = inner[key]
  inner[path[-1]] = value
  return changed


def without(results, *path):
  changed = copy.deepcopy(results)
  inner = changed
  for key in path[:-1]:
    inner = inner[key]
  del inner[path[-1]]
  return changed


def test_seeds_of_two_studies_are_one_study():
  whole = study(("scratch", "kd"), range(6))
  joined = join({"a": study(("scratch", "kd"), range(3)), "b": study(("scratch", "kd"), (3, 4, 5))})
  assert joined["rows"] == whole["rows"]
  assert joined["curves"] == whole["curves"]
  assert tables.main_table(joined) == tables.main_table(whole)
  assert findings.reading(joined) == findings.reading(whole)
  assert joined["config"]["seeds"] == [0, 1, 2, 3, 4, 5]
  assert "first_seed" not in joined["config"]


def test_statistics_are_computed_over_the_union_and_pairs_over_common_seeds():
  joined = join(
    {"a": study(("scratch", "kd"), range(5)), "b": study(("scratch", "takd"), (3, 4, 5, 9))}
  )
  assert list(method_titles(joined)) == ["scratch", "kd", "takd"]
  seeds = {method: [*test_scores(joined, method)] for method in joined["methods"]}
  assert seeds == {"scratch": [0, 1, 2, 3, 4, 5, 9], "kd": [0, 1, 2, 3, 4], "takd": [3, 4, 5, 9]}
  for method, common in (("kd", range(5)), ("takd", (3, 4, 5, 9))):
    by_hand = estimate(score(method, seed) - score("scratch", seed) for seed in common)
    assert gain(joined, method, "scratch") == pytest.approx(by_hand)
  assert gain(joined, "takd", "kd").count == 2
  rows = {row[0]: row for row in tables.main_table(joined).rows}
  assert [rows[title][1] for title in ("from scratch", "KD", "TAKD")] == ["7", "5", "4"]
  assert "(2 shared seeds)" in rows["TAKD"][-1]
  assert joined["assistant"]["digest"] == "a1"


def test_what_two_studies_share_is_taken_once():
  one, other = study(("scratch", "kd"), range(3)), study(("scratch",), range(1, 4), **GPU)
  for row in other["rows"]:
    row["timing"] = {"seconds": 99.0, "device": "H200"}
    row["digest"] = "of other seeds beside it"
  joined = join({"a": one, "b": other})
  keys = [(row["method"], row["seed"]) for row in joined["rows"]]
  assert keys == [*(("scratch", seed) for seed in range(4)), *(("kd", seed) for seed in range(3))]
  assert [row["timing"]["seconds"] for row in joined["rows"]] == [
    2.0,
    2.0,
    2.0,
    99.0,
    2.0,
    2.0,
    2.0,
  ]
  assert [part["seeds"] for part in joined["parts"]] == [
    {"scratch": [0, 1, 2], "kd": [0, 1, 2]},
    {"scratch": [3]},
  ]


@pytest.mark.parametrize(
  ("path", "value", "said"),
  [
    (("test", "best", "accuracy"), 0.5, "train.test.best.accuracy 0.801 and 0.5"),
    (("test", "last", "ece"), 0.020000000001, "train.test.last.ece 0.02 and 0.020000000001"),
    (("validation", "best"), 0.5, "train.validation.best 0.801 and 0.5"),
    (("best_epoch",), 2, "train.best_epoch 3 and 2"),
    (("phase",), "distil", "phases train and distil"),
  ],
)
def test_other_values_of_one_method_and_seed_are_refused(path, value, said):
  one, other = study(("scratch",), range(3)), study(("scratch",), (1, 3))
  other = edited(other, "rows", 0, *path, value=value)
  with pytest.raises(ValueError, match="a and b both have scratch with seed 1, but with") as caught:
    join({"a": one, "b": other})
  assert said in str(caught.value)
  assert "evaluate one of them without it" in str(caught.value)
  assert "\n" not in str(caught.value)


OTHER = {
  "config.batch_size 32 and 64": ("config", "batch_size"),
  "config.epochs 4 and 64": ("config", "epochs"),
  "config.optimizer.learning_rate 0.1 and 64": ("config", "optimizer", "learning_rate"),
  'dataset.fingerprint "f1" and 64': ("dataset", "fingerprint"),
  'dataset.validation_fingerprint "f2" and 64': ("dataset", "validation_fingerprint"),
  'dataset.test_fingerprint "f3" and 64': ("dataset", "test_fingerprint"),
  "dataset.test 360 and 64": ("dataset", "test"),
  'metric.key "accuracy" and 64': ("metric", "key"),
  'teacher.digest "t1" and 64': ("teacher", "digest"),
  'teacher.model "MLP 256" and 64': ("teacher", "model"),
  'student.model "MLP 16" and 64': ("student", "model"),
  "methods.kd.settings.temperature 4.0 and 64": ("methods", "kd", "settings", "temperature"),
  "methods.kd.description[0].terms[0].weight 1.0 and 64": (
    *("methods", "kd", "description", 0, "terms", 0, "weight"),
  ),
  'methods.takd.assistant_digest "a1" and 64': ("methods", "takd", "assistant_digest"),
}


@pytest.mark.parametrize("said", OTHER)
def test_whatever_decides_a_result_is_refused_by_name(said):
  one, other = study(SCORES, range(3)), study(SCORES, range(3, 6))
  join({"a": one, "b": other})
  with pytest.raises(ValueError, match="must differ in methods and seeds alone") as caught:
    join({"a": one, "b": edited(other, *OTHER[said], value=64)})
  assert f"got a and b with {said}: " in str(caught.value)


def test_a_third_study_is_compared_with_every_other():
  studies = {name: study(("kd",), (seed,)) for seed, name in enumerate("abc")}
  studies["a"] = without(studies["a"], "dataset", "test_fingerprint")
  studies["c"]["dataset"]["test_fingerprint"] = "else"
  with pytest.raises(ValueError, match=r"got b and c with dataset\.test_fingerprint"):
    join(studies)


def test_settings_of_methods_that_are_not_compared_do_not_count():
  one, other = study(("scratch", "kd"), range(3)), study(("scratch",), range(3))
  other["config"]["settings"]["kd"]["temperature"] = 2.0
  assert "kd" in join({"a": one, "b": other})["methods"]


def test_what_changes_no_result_may_differ():
  one = study(("scratch", "kd"), range(3))
  other = study(("scratch", "kd"), range(3, 6), **GPU)
  other["config"] |= {"seeds_together": 1, "teacher_weights": "/elsewhere/teacher.safetensors"}
  one["config"] |= {"teacher_weights": "/here/teacher.safetensors", "cache_outputs": ["logits"]}
  other["student"]["latency_ms"] = 0.1
  other["teacher"]["test_accuracy"] = 0.951
  other["dataset"]["notes"] = ["as read there"]
  joined = join({"a": one, "b": other})
  assert joined["dataset"]["notes"] == ["as read here", "as read there"]
  assert joined["student"]["latency_ms"] == 0.5
  assert "teacher_weights" not in joined["config"]


def test_settings_that_are_younger_than_a_study_have_their_defaults():
  one, other = study(("kd",), range(3)), study(("kd",), range(3, 6))
  other["config"] |= {"unlabelled_share": 0.0, "optimizer": {**OPTIMIZER, "warmup": 0.0}}
  del one["methods"]["kd"]["settings"]["soft_weight"]
  join({"a": one, "b": other})
  other["config"]["unlabelled_share"] = 0.5
  with pytest.raises(ValueError, match=r"config\.unlabelled_share 0\.0 and 0\.5"):
    join({"a": one, "b": other})


def test_what_an_older_study_does_not_record_is_said():
  one, other = study(("takd",), range(3)), study(("takd",), range(3, 6))
  one = without(one, "dataset", "test_fingerprint")
  other = without(other, "methods", "takd", "assistant_digest")
  assert join({"a": one, "b": other})["dataset"]["notes"][1:] == [
    "a does not record dataset.test_fingerprint, so it was not compared",
    "b does not record methods.takd.assistant_digest, so it was not compared",
  ]
  one = without(one, "methods", "takd", "assistant_digest")
  other["assistant"]["digest"] = "a2"
  with pytest.raises(ValueError, match=r'assistant\.digest "a1" and "a2"'):
    join({"a": one, "b": other})


def test_a_teacher_with_pseudo_classifiers_is_the_same_teacher():
  one, other = study(("kd",), range(3)), study(("scratch",), range(3))
  other["teacher"] |= {"digest": "t2", "made_from": ["r1", "classifiers"]}
  join({"a": one, "b": other})
  third = study(("scratch",), range(3, 6))
  third["teacher"] |= {"digest": "t3", "made_from": ["r1", "other classifiers"]}
  with pytest.raises(ValueError, match=r'got b and c with teacher\.digest "t2" and "t3"'):
    join({"a": one, "b": other, "c": third})
  other["teacher"]["made_from"] = ["r2", "classifiers"]
  with pytest.raises(ValueError, match=r"teacher\.digest"):
    join({"a": one, "b": other})


def test_rows_of_a_varied_option_join_those_of_its_method():
  one, other = study(("kd",), range(3)), study(("kd",), range(3, 6))
  varied = edited(other["methods"]["kd"], "settings", "temperature", value=2.0)
  other["methods"]["kd"]["title"] = "KD (temperature 4)"
  other["methods"]["kd.temperature=2"] = varied | {"title": "KD (temperature 2)"}
  other["rows"] += [{**row, "method": "kd.temperature=2"} for row in other["rows"]]
  joined = join({"a": one, "b": other})
  assert method_titles(joined) == {
    "kd": "KD (temperature 4)",
    "kd.temperature=2": "KD (temperature 2)",
  }
  assert len(test_scores(joined, "kd")) == 6


def test_published_numbers_are_of_another_setting_if_any_part_is():
  paper = {"source": "A paper", "test_accuracy": {"kd": 0.9}, "differing": ["epochs"]}
  one = study(("kd",), range(3), paper=paper)
  other = study(("kd",), range(3, 6), paper=paper | {"differing": ["epochs", "dataset"]})
  assert join({"a": one, "b": other})["paper"]["differing"] == ["epochs", "dataset"]


def test_devices_versions_commits_and_times_of_all_parts_are_kept():
  one, other = study(("scratch", "kd"), range(3)), study(("scratch", "kd"), (3, 4, 7), **GPU)
  joined = join({"a": one, "b": other}, "python -m experiments.compare a b --join c")
  assert [part["device"]["kind"] for part in joined["parts"]] == ["cpu", "H200"]
  assert [part["versions"]["commit"] for part in joined["parts"]] == ["c0ffee", "decade"]
  assert [part["seconds"] for part in joined["parts"]] == [12.0, 12.0]
  assert [each["commit"] for each in joined["made_with"]] == ["c0ffee", "decade"]
  assert joined["device"] == joined["versions"] == {}
  assert joined["created"] == "2026-11-02T10:00:00+00:00"
  text = documents.to_markdown(report.blocks(joined))
  assert "Devices: 1 × cpu (2 cores), 1 process; 1 × H200, 1 process." in text
  lines = [line for line in text.splitlines() if line.startswith(("| a |", "| b |"))]
  assert "from scratch, KD: 0–2" in lines[0]
  assert "0.2.0 c0ffee" in lines[0]
  assert "from scratch, KD: 3, 4, 7" in lines[1]
  assert "12 s | 2026-11-02T10:00:00+00:00" in lines[1]
  assert "Joined studies" not in documents.to_markdown(report.blocks(one))


def test_equal_devices_are_said_once():
  joined = join({"a": study(("kd",), range(3)), "b": study(("kd",), range(3, 6))})
  assert joined["device"]["kind"] == "cpu"
  assert "Device: 1 × cpu (2 cores), 1 process." in findings.summary(joined)


def test_a_joined_study_is_joined_again():
  parts = {name: study(("scratch", "kd"), (i,)) for i, name in enumerate("abc")}
  twice = join({"ab": join({"a": parts["a"], "b": parts["b"]}), "c": parts["c"]})
  at_once = join(parts)
  for field in ("rows", "curves", "methods", "config"):
    assert twice[field] == at_once[field]
  assert [part["name"] for part in twice["parts"]] == ["a", "b", "c"]
  assert [part["seeds"]["kd"] for part in twice["parts"]] == [[0], [1], [2]]
  again = join({"abc": twice, "c": parts["c"]})
  assert len(again["parts"]) == 3
  assert again["rows"] == twice["rows"]


def test_one_study_or_an_unfinished_one_is_refused():
  one = study(("kd",), range(3))
  with pytest.raises(ValueError, match="two or more studies, got 1"):
    join({"a": one})
  with pytest.raises(ValueError, match="must be finished, got b"):
    join({"a": one, "b": study(("kd",), range(3, 6), complete=False)})


@pytest.fixture
def folders(tmp_path):
  """Two studies as their results.json alone."""
  for name, seeds in (("a", range(3)), ("b", range(3, 6))):
    (tmp_path / name).mkdir()
    (tmp_path / name / "results.json").write_text(to_json(study(("scratch", "kd"), seeds)))
  return tmp_path


def test_the_command_writes_results_and_report(folders, capsys):
  a, b, joined, table = (folders / name for name in ("a", "b", "joined", "table.md"))
  before = (a / "results.json").read_text()
  assert compare.main([str(a), str(b), "--join", str(joined), "--output", str(table)]) == 0
  printed = capsys.readouterr().out
  assert "With 6 seeds" in printed
  assert str(joined / "report.md") in printed
  assert "Joined studies" in (joined / "report.md").read_text()
  assert "KD" in table.read_text()
  found = load_results(joined)
  assert found["rows"] == study(("scratch", "kd"), range(6))["rows"]
  assert found["command"].endswith(f"--join {joined} --output {table}")
  assert (a / "results.json").read_text() == before
  # More evidence comes to a joined study in its own folder.
  (folders / "c").mkdir()
  (folders / "c" / "results.json").write_text(to_json(study(("scratch", "kd"), (8,))))
  assert compare.main([str(joined), str(folders / "c"), "--join", str(joined)]) == 0
  assert [part["name"] for part in load_results(joined)["parts"]] == ["a", "b", "c"]
  # What is joined compares with other studies as any other.
  assert compare.main([str(joined), str(a)]) == 0


def test_a_study_is_never_overwritten(folders, capsys):
  a, b = folders / "a", folders / "b"
  begun = folders / "begun"
  begun.mkdir()
  (begun / "study.json").write_text("{}")
  for target in (a, begun):
    before = sorted(path.name for path in target.iterdir())
    assert commands.run_here(compare, a, b, "--join", target) == 1
    assert f"`join` must be a folder of its own, got {target}" in capsys.readouterr().err
    assert sorted(path.name for path in target.iterdir()) == before


def test_a_refused_join_writes_nothing(folders, capsys):
  results = json.loads((folders / "b" / "results.json").read_text())
  results["config"]["batch_size"] = 64
  (folders / "b" / "results.json").write_text(json.dumps(results))
  joined = folders / "joined"
  assert commands.run_here(compare, folders / "a", folders / "b", "--join", joined) == 1
  said = capsys.readouterr().err
  assert "got a and b with config.batch_size 32 and 64: compare them without --join" in said
  assert said.count("\n") == 1
  assert not joined.exists()


@pytest.mark.parametrize("parts", [[1], [{"seeds": [0]}], [{"seeds": {"kd": 1}}], {"a": 1}])
def test_broken_parts_are_named(parts):
  with pytest.raises(ValueError, match="parts"):
    study(("kd",), range(3), parts=parts)
