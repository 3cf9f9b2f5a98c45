"""Studies of texts at the command line: all methods, other architectures, numbers, weights folders, errors."""

import functools
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import export, lineage, precompute, study
from experiments.pipeline import evaluation
from kd_jax.checkpoints import CheckpointStore
from kd_jax.data.tokenization import Tokenizer
from kd_jax.export import from_stablehlo
from kd_jax.models import TextSpec, build_text_model, parameter_count, save_bert
from kd_jax.types import Subwords
from tests import commands

METHODS = (
  *("scratch", "kd", "takd", "annealing_kd", "patient_kd", "alp_kd"),
  *("universal_kd", "universal_kd_capacity_gap"),
)
BERT = {"family": "bert", "layers": 2, "width": 8, "heads": 2, "hidden": 16}
CNN = {"family": "gated_cnn", "layers": 2, "width": 8}
TINY = (
  *("--train-limit", "32", "--batch-size", "32", "--max-length", "16", "--vocab-size", "100"),
  *("--teacher-epochs", "1", "--layer-classifier-epochs", "2", "--epochs", "3", "--seeds", "1"),
  *("--annealing-kd.max-temperature", "1", "--validation-examples", "16"),
)


def network(role, **fields):
  return tuple(part for name, value in fields.items() for part in (f"--{role}.{name}", str(value)))


def options(folder, *more, teacher=BERT, student=CNN, weights="none"):
  networks = (
    network("teacher", **teacher) + network("assistant", **CNN) + network("student", **student)
  )
  return ("texts", *TINY, *networks, "--teacher-weights", weights, "--workdir", folder, *more)


def trained(*arguments):
  """Trains the students without evaluation and report: {method: phases}, and the students."""
  students = commands.open_study(*arguments)
  students.train(students.folder.study.methods)
  return {m: phases for m, _, phases in students.finished()}, students


def domain_of(*arguments):
  return commands.open_study(*arguments).folder.domain


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The folder of a study of all methods, with a BERT as the teacher of a gated CNN."""
  folder = tmp_path_factory.mktemp("study") / "run"
  assert commands.run_here(study, *options(folder, "--methods", *METHODS)) == 0
  return folder


@pytest.fixture
def taught(finished, tmp_path):
  """A study with the same teacher and cache, and no students yet."""
  folder = tmp_path / "run"
  for part in ("teacher", "cache"):
    shutil.copytree(finished / part, folder / part)
  return folder


def results(folder):
  return json.loads((folder / "results.json").read_text())


def digests(folder):
  stores = {path.parent for path in folder.rglob("seals")}
  return {str(path.relative_to(folder)): CheckpointStore(path).restore().digest for path in stores}


# What a study leaves.


def test_all_methods_from_the_sample_to_a_report(finished):
  found = results(finished)
  assert [(row["method"], row["seed"]) for row in found["rows"] if row["final"]] == [
    (method, 0) for method in METHODS
  ]
  phases = {}
  for row in found["rows"]:
    phases.setdefault(row["method"], []).append((row["phase"], row["epochs"]))
    for which in ("best", "last"):
      assert set(row["test"][which]) == {"accuracy", "agreement", "kl_to_teacher"}
      assert 0 <= row["test"][which]["accuracy"] <= 1
  one = [("distil", 3)]
  two = [("distil", 2), ("finetune", 1)]
  assert phases == {
    **{"scratch": [("train", 3)], "kd": one, "takd": one, "patient_kd": one, "alp_kd": one},
    **{"annealing_kd": [("anneal", 1), ("finetune", 2)]},
    **{"universal_kd": two, "universal_kd_capacity_gap": two},
  }
  # The methods are not one and the same.
  assert len({row["digest"] for row in found["rows"]}) == len(found["rows"])
  metric = found["metric"]
  assert (metric["key"], metric["label"], metric["examples"]) == ("accuracy", "accuracy", "texts")
  assert found["teacher"]["model"] == "BERT-2 (8)"
  assert found["assistant"]["model"] == found["student"]["model"] == "gated CNN-2 (8)"
  assert "start_digest" not in found["student"]  # it starts from nothing outside the study
  data = found["dataset"]
  assert (data["train"], data["validation"], data["test"]) == (32, 16, 80)
  assert (data["task"], data["classes"]) == ("sample-texts", ["bad", "good"])
  assert data["longest_text"] == 16
  assert any("truncated" in note for note in data["notes"])
  assert all("validation_accuracy" in point for point in found["curves"])
  assert all(np.isfinite(point["train_loss"]) for point in found["curves"])
  report = (finished / "report.md").read_text()
  for method in found["methods"].values():
    assert method["title"] in report


def test_every_link_of_the_lineage_matches(finished, capsys):
  assert commands.run_here(lineage, finished) == 0
  said = capsys.readouterr().out
  assert "every link matches" in said
  assert said.count("layer classifiers ") >= len(METHODS) - 1


def test_the_cache_agrees_with_the_live_teacher(finished, capsys):
  assert commands.run_here(precompute, *options(finished), "--verify") == 0
  assert "agrees with the live teacher" in capsys.readouterr().out
  spec = json.loads((finished / "cache" / "manifest.json").read_text())["spec"]
  assert spec["outputs"] == ["logits", "layers", "layer_logits"]
  # An assistant has no pseudo classifiers.
  spec = json.loads((finished / "assistants/takd/cache/manifest.json").read_text())["spec"]
  assert spec["outputs"] == ["logits", "layers"]


def test_the_tokenizer_is_kept_with_every_network(finished):
  kept = [finished / "teacher/final", finished / "students/kd/seeds-0/distil/checkpoints"]
  stored = [CheckpointStore(path).restore().meta["tokenizer"] for path in kept]
  assert stored[0] == stored[1]
  assert "[CLS]" in json.dumps(stored[0])


def test_students_have_no_trace_of_heads_after_their_phase(finished):
  for phase in ("distil", "finetune"):
    store = CheckpointStore(finished / f"students/universal_kd/seeds-0/{phase}/checkpoints")
    found = store.restore().state
    assert not [path for path in found if "auxiliary" in path or "pseudo" in path]


def test_interrupted_and_resumed_a_student_ends_with_the_same_bits(
  finished, taught, monkeypatch, capsys
):
  """After the first epoch of the phase that has heads."""
  save = CheckpointStore.save

  def interrupted(self, step, *arguments, **more):
    if "students" in str(self.directory) and step == 2:
      raise KeyboardInterrupt
    return save(self, step, *arguments, **more)

  monkeypatch.setattr(CheckpointStore, "save", interrupted)
  asked = options(taught, "--methods", "universal_kd")
  assert commands.run_here(study, *asked) == 130
  assert "goes on from here" in capsys.readouterr().err
  monkeypatch.undo()
  store = CheckpointStore(taught / "students/universal_kd/seeds-0/distil/checkpoints")
  assert store.steps() == [1]
  state = store.restore().state  # in the middle of the phase they are there
  assert [path for path in state if "auxiliary" in path and path.startswith("train.variables")]
  trained(*asked)
  expected, found = digests(finished), digests(taught)
  assert len(found) == 6  # of the teacher four, with its pseudo classifiers and the cache
  assert found == {name: expected[name] for name in found}


def test_frozen_words_of_the_training_texts_are_kept_in_every_file(taught, tmp_path):
  """Checkpoints and exports read the tokenizer's own numbers, and hold the words that occur."""
  asked = options(
    taught, "--methods", "scratch", student={**CNN, "word_width": 8, "vocabulary": "data"}
  )
  found, students = trained(*asked, "--student.freeze-words")
  domain, teacher = students.folder.domain, students.teachers.teacher()
  assert domain.header.student_source == "with the frozen word vectors of the teacher"
  inputs = domain.data.train.inputs
  vocabulary = Tokenizer.from_json(domain.data.kept["tokenizer"]).vocabulary
  kept = np.unique(np.append(inputs.ids[inputs.mask], [0, vocabulary["[UNK]"]]))
  path = ("encoder", "embedding", "word_embedding")
  taught_words = functools.reduce(dict.__getitem__, path, teacher.variables["params"])["embedding"]
  last = found["scratch"][-1].state.train.variables
  words = functools.reduce(dict.__getitem__, path, last["frozen"])["embedding"][0]
  np.testing.assert_array_equal(words, taught_words[kept])
  assert len(kept) < len(taught_words)
  # What is exported reads a text as the study does, unseen subwords too.
  target = tmp_path / "program"
  run = (taught / "students/scratch/seeds-0", "--which", "last", "--out", target)
  assert commands.run_here(export, *run, "--to", "stablehlo") == 0
  texts = jax.tree.map(lambda x: x[:8], domain.data.test.inputs)
  assert not np.isin(texts.ids[texts.mask], kept).all()
  one = jax.tree.map(lambda x: x[0], last)
  expected = domain.networks.build(domain.networks.student, None).apply(one, texts).logits
  given = from_stablehlo(target.read_bytes())(texts._asdict())["logits"]
  np.testing.assert_allclose(given, expected, atol=1e-5)
  said = json.loads(target.with_name("program.json").read_text())
  assert said["parameters"] == parameter_count(one) > words.size
  assert commands.run_here(lineage, taught) == 0


@pytest.mark.slow
def test_killed_and_resumed_a_study_ends_with_the_same_bits(finished, tmp_path):
  folder = tmp_path / "run"
  asked = options(folder, "--methods", "kd", "universal_kd")
  process = commands.start("study", *asked, output=tmp_path / "output.txt", devices=8)
  log = folder / "students/universal_kd/seeds-0/distil/metrics.jsonl"
  commands.kill_when(process, lambda: bool(commands.lines(log)), timeout=600)
  assert commands.run_here(study, *asked) == 0
  expected, found = digests(finished), digests(folder)
  assert found == {name: expected[name] for name in found}


# Other architectures, and live teachers.


@pytest.mark.slow
@pytest.mark.parametrize(
  ("student", "label", "copied"),
  [
    ({"family": "bilstm", "layers": 2, "width": 4}, "BiLSTM-2 (4)", False),
    ({**BERT, "layers": 2, "start": "teacher"}, "BERT-2 (8)", True),
  ],
)
def test_universal_kd_teaches_any_architecture(taught, student, label, copied):
  asked = options(taught, "--methods", "universal_kd", student=student)
  found, students = trained(*asked)
  networks = students.folder.domain.networks
  assert networks.label(networks.student) == label
  assert [result.phase.name for result in found["universal_kd"]] == ["distil", "finetune"]
  links = CheckpointStore(
    taught / "students/universal_kd/seeds-0/distil/checkpoints"
  ).restore().meta["parents"]  # fmt: skip
  kinds = ["data", "cache", *(["starting weights"] if copied else [])]
  assert [link["kind"] for link in links] == kinds
  assert commands.run_here(lineage, taught) == 0


@pytest.mark.slow
def test_methods_on_single_tokens_run_with_a_live_teacher(taught):
  methods = ("--methods", "minilm", "tinybert", "--minilm.relation-heads", "4")
  student = {**BERT, "width": 4, "start": "random"}
  asked = options(taught, "--live-teacher", *methods, student=student)
  found, _ = trained(*asked)
  terms = {
    method: [(result.phase.name, sorted(result.history[0].terms)) for result in phases]
    for method, phases in found.items()
  }
  assert terms == {
    "minilm": [("distil", ["keys", "queries", "values"]), ("finetune", ["cross_entropy"])],
    "tinybert": [("layers", ["attention", "hidden"]), ("predict", ["soft_targets"])],
  }
  for phases in found.values():
    losses = [record.train_loss[0] for result in phases for record in result.history]
    assert np.isfinite(losses).all()


@pytest.mark.slow
def test_numbers_are_learnt_from_a_file(tmp_path):
  """Regression: squared errors in every term, correlations as the metric."""
  rng = np.random.default_rng(0)
  files = [tmp_path / f"{split}.csv" for split in ("train", "test")]
  for path, size in zip(files, (48, 20), strict=True):
    counts = rng.integers(0, 6, size)
    rows = [f"{'very ' * count}good {row},{count / 2}" for row, count in enumerate(counts)]
    path.write_text("\n".join(["review,stars", *rows]) + "\n")
  folder = tmp_path / "run"
  columns = ("--text-column", "review", "--label-column", "stars", "--regression")
  methods = ("--methods", "alp_kd", "universal_kd")
  more = tmp_path / "more.csv"
  more.write_text("stars,review\n5,very very new\n0,also new\n")
  methods += ("--unlabelled", more)
  asked = options(folder, "--files", *files, *columns, *methods, teacher=CNN)
  assert commands.run_here(study, *asked) == 0
  found = results(folder)
  assert found["metric"]["key"] == "pearson_spearman"
  assert found["metric"]["lowest"] == -1
  assert found["metric"]["chance"] == 0
  assert found["dataset"]["num_classes"] == 1
  counts = [found["dataset"][name] for name in ("train", "labelled", "unlabelled")]
  assert counts == [34, 32, 2]
  assert any("column 'stars' is not read" in note for note in found["dataset"]["notes"])
  for row in found["rows"]:
    names = {"pearson_spearman", "pearson", "spearman", "rmse", "squared_difference_to_teacher"}
    assert set(row["test"]["best"]) == names
    assert np.isfinite(list(row["test"]["best"].values())).all()
  for point in found["curves"]:
    assert all(np.isfinite(value) and value > 0 for value in point["terms"].values())
  report = (folder / "report.md").read_text()
  assert "RMSE" in report
  assert "(y - z_s)²" in report
  assert not re.search(r"CE\(|KL\(", report)


# Weights folders.


WORDS = (
  "a",
  "the",
  "was",
  "we",
  "not",
  "very",
  "good",
  "bad",
  "room",
  "chair",
  "cold",
  "slow",
  ".",
)


def write_weights(folder, labels=("bad", "good"), classifier=True):
  """A folder in the form of Hugging Face, of a tiny BERT that nobody trained; gives its parameters."""
  folder.mkdir()
  vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
  (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
  spec = TextSpec(**(BERT | {"layers": 3}), dropout=0.0)
  sizes = {"vocab_size": len(vocabulary), "max_positions": 24}
  model = build_text_model(spec, num_outputs=len(labels), **sizes)
  ids = np.ones((1, 4), np.int32)
  params = model.init(jax.random.key(0), Subwords(ids, 0 * ids, ids == 1))["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), params)
  if not classifier:
    params = {name: value for name, value in params.items() if name != "classifier"}
  labels = list(labels) if classifier else None
  save_bert(folder, params, model.encoder.config, labels=labels)
  return params


def assert_same(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_finetuned_folder_teaches_and_gives_the_student_its_layers(tmp_path, capsys):
  params = write_weights(tmp_path / "weights")
  student = {**BERT, "start": "pretrained"}
  asked = options(
    tmp_path / "run",
    *("--no-finetune-teacher", "--methods", "scratch", "--student.teacher-layers", "1", "3"),
    student=student,
    weights=tmp_path / "weights",
  )
  students = commands.open_study(*asked)
  domain, teacher = students.folder.domain, students.teachers.teacher()
  assert teacher.source == "weights"
  own = {k: v for k, v in teacher.variables["params"].items() if k != "pseudo"}
  assert_same(own, params)
  assert domain.header.student_source == "from layers 1, 3 of weights"
  initial = domain.networks.initial("student", teacher.variables["params"])
  encoder = initial.variables["params"]["encoder"]
  assert set(initial.variables["params"]) == {"encoder", "pooler"}
  assert_same(encoder["layer1"], params["encoder"]["layer1"])
  assert_same(encoder["layer2"], params["encoder"]["layer3"])
  assert "in the order bad, good" in domain.doubt({"accuracy": 0.5})
  assert domain.doubt({"accuracy": 0.95}) == ""
  # Results tell the weights that both began with, and the classifiers that came to the teacher.
  header = evaluation._header(students.folder, students.teachers, [])
  (weights, classifiers) = header["teacher"]["made_from"]
  assert header["student"]["start_digest"] == initial.link.digest == weights
  store = CheckpointStore(tmp_path / "run/teacher/layers/layers/checkpoints")
  assert store.restore().digest == classifiers
  # What is exported needs no weights folder beside it.
  assert commands.run_here(export, tmp_path / "run" / "teacher", "--to", "stablehlo") == 0
  beside = json.loads(next((tmp_path / "run" / "teacher" / "export").glob("*.json")).read_text())
  assert json.loads(beside["tokenizer"])["model"]["vocab"]["good"] > 0
  capsys.readouterr()
  assert commands.run_here(lineage, tmp_path / "run" / "teacher" / "final") == 0
  assert "weights folder" in capsys.readouterr().out
  (tmp_path / "weights" / "model.safetensors").write_bytes(b"other")
  assert commands.run_here(lineage, tmp_path / "run" / "teacher" / "final") == 1
  assert "DIFFERS: the weights have changed" in capsys.readouterr().out


def test_a_teacher_that_answers_each_label_by_itself_is_refused(tmp_path, capsys):
  write_weights(tmp_path / "weights")
  config_file = tmp_path / "weights" / "config.json"
  said = json.loads(config_file.read_text()) | {"problem_type": "multi_label_classification"}
  config_file.write_text(json.dumps(said))
  student = {**BERT, "start": "pretrained"}
  asked = options(tmp_path / "run", student=student, weights=tmp_path / "weights")
  message = refused(capsys, *asked, "--methods", "scratch", "--no-finetune-teacher")
  assert "multi_label_classification" in message


@pytest.mark.parametrize(
  ("student", "source", "note"),
  [
    ({**CNN, "word_width": 8}, "with the word vectors of the teacher", None),
    ({**CNN, "start": "pretrained"}, "with the word vectors of weights", None),
    ({**CNN, "width": 4}, "", "4 wide, those of the teacher 8: they start from random"),
    ({**CNN, "start": "random"}, "", None),
    ({**BERT, "start": "teacher"}, "from layers 1, 2 of the teacher", None),
    ({**BERT, "layers": 1, "start": "teacher"}, "from layer 1 of the teacher", None),
  ],
)
def test_what_a_student_starts_from_is_said(student, source, note, tmp_path):
  write_weights(tmp_path / "weights")
  asked = options(tmp_path / "run", student=student, weights=tmp_path / "weights")
  folder = commands.open_study(*asked, "--methods", "scratch").folder
  assert folder.domain.header.teacher_source == "fine-tuned from weights"
  assert folder.domain.header.student_source == source
  assert (
    any(note in said for said in folder.notes)
    if note
    else not any("wide" in n for n in folder.notes)
  )


@pytest.mark.parametrize(
  ("teacher", "student", "source", "noted"),
  [
    ((8, 16), {"width": 8, "word-width": 16}, "with the word vectors of the teacher", False),
    ((8, 16), {"width": 4, "word-width": 16}, "with the word vectors of the teacher", False),
    ((8, 16), {"width": 8}, "", True),
    ((8, None), {"width": 8}, "with the word vectors of the teacher", False),
  ],
)
def test_word_vectors_are_compared_with_those_of_a_teacher_that_does_not_attend(
  teacher, student, source, noted, tmp_path
):
  width, words = teacher
  teacher = {**CNN, "width": width} | ({} if words is None else {"word-width": words})
  asked = options(tmp_path / "run", teacher=teacher, student={**CNN, **student})
  folder = commands.open_study(*asked, "--methods", "scratch").folder
  assert folder.domain.header.student_source == source
  assert any("--student.word-width 16 takes them over" in note for note in folder.notes) == noted
  taken = folder.domain.networks.initial("student", fresh(folder.domain))
  assert (taken is not None) == bool(source)


def fresh(domain):
  example = jax.tree.map(lambda x: x[:1], domain.data.train.buckets[0].inputs)
  model = domain.networks.build(domain.networks.teacher, None)
  return model.init(jax.random.key(0), example, train=False)["params"]


@pytest.mark.parametrize("method", ["alp_kd", "patient_kd"])
def test_students_project_to_the_states_of_a_bilstm(method, tmp_path):
  """They are twice as wide as the network."""
  asked = options(tmp_path / "run", teacher={**CNN, "family": "bilstm"})
  settings = ("--methods", method, f"--{method.replace('_', '-')}.project")
  assert domain_of(*asked, *settings).networks.teacher_widths == (16, 16)


def test_a_study_that_made_nothing_leaves_nothing_behind(tmp_path):
  """The next in its folder is exported and traced by its own weights, not by those of the first."""
  for name in ("one", "two"):
    write_weights(tmp_path / name)
    commands.open_study(*options(tmp_path / "run", weights=tmp_path / name), "--methods", "scratch")
    marker = json.loads((tmp_path / "run" / "study.json").read_text())
    assert Path(marker["data"]["weights"]).name == name
  (tmp_path / "run" / "teacher" / "final" / "seals").mkdir(parents=True)
  commands.open_study(*options(tmp_path / "run", weights=tmp_path / "one"), "--methods", "scratch")
  assert json.loads((tmp_path / "run" / "study.json").read_text()) == marker


def test_files_may_begin_with_a_tilde(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  for name in ("train", "test"):
    rows = [f"it is {label} {number},{label}" for number in range(40) for label in ("good", "bad")]
    (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
  files = ("--files", "~/train.csv", "~/test.csv", "--methods", "scratch")
  domain = domain_of(*options(tmp_path / "run", *files))
  assert domain.data.source["files"] == [
    str(tmp_path / f"{name}.csv") for name in ("train", "test")
  ]


# What is refused, in one line, before anything is made.


def refused(capsys, *arguments):
  capsys.readouterr()
  assert commands.run_here(study, *arguments) == 1
  said = capsys.readouterr().err
  assert said.startswith("error: ")
  assert said.count("\n") == 1
  assert "Traceback" not in said
  return said


def made(folder):
  return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
  ("weights", "options_", "message"),
  [
    (
      {"labels": ("no", "yes")},
      ["--no-finetune-teacher"],
      "is of no, yes, sample-texts of bad, good",
    ),
    (
      {"labels": ("good", "bad")},
      ["--no-finetune-teacher"],
      "is of good, bad, sample-texts of bad",
    ),
    ({"labels": ("a", "b", "c")}, ["--no-finetune-teacher"], "has 3 outputs, sample-texts has 2"),
    ({"classifier": False}, ["--no-finetune-teacher"], "has no classifier: fine-tune the teacher"),
    ({}, ["--student.teacher-layers", "1", "4"], "the student asks for layer 4"),
    ({}, ["--student.teacher-layers", "1"], "teacher_layers must be 2 numbers"),
    ({}, ["--student.width", "4"], "layers of another form: its width 4, not 8"),
    ({}, ["--max-length", "64"], "positions"),
  ],
)
def test_weights_that_do_not_fit_are_refused(weights, options_, message, tmp_path, capsys):
  write_weights(tmp_path / "weights", **weights)
  student = {**BERT, "start": "pretrained"}
  asked = options(tmp_path / "run", student=student, weights=tmp_path / "weights")
  assert message in refused(capsys, *asked, "--methods", "scratch", *options_)
  assert made(tmp_path / "run") <= {"study.json"}


BAD = {
  "a task that is none": (["--task", "rtee"], "rtee"),
  "a task that is not prepared": (["--task", "rte"], "prepare"),
  "a folder that is not there": (
    ["--teacher-weights", "nowhere"],
    "there is no weights folder ",
  ),
  "a folder without weights": (["--teacher-weights", "kd_jax"], "no tokenizer in "),
  "no weights to teach from": (["--no-finetune-teacher"], "needs teacher_weights"),
  "tokens from a cache": (
    ["--methods", "minilm"],
    "build it with collect_tokens (studies do with --live-teacher)",
  ),
  "outputs not in the cache": (
    ["--methods", "alp_kd", "--cache-outputs", "logits"],
    "alp_kd does not suit these networks: the teacher gives no layers: cache them (--cache-outputs)",
  ),
  "a cache without logits": (["--cache-outputs", "layers"], "cache_outputs are logits and some of"),
  "attention of a CNN": (
    ["--methods", "tinybert", "--live-teacher"],
    "tinybert does not suit these networks",
  ),
  "layers of other widths": (
    ["--methods", "patient_kd", "--student.width", "4"],
    "patient_kd does not suit these networks: student_layers (2, 1, 4)",
  ),
  "a student of one layer": (["--methods", "universal_kd", "--student.layers", "1"], "at least 2"),
  "a teacher of one layer": (
    ["--methods", "universal_kd", "--teacher.layers", "1"],
    "the teacher gives no logits of inner layers: it needs at least 2 layers",
  ),
  "columns without files": (["--pair-column", "other"], "columns and regression are of files"),
  "numbers without files": (["--regression"], "columns and regression are of files"),
  "a student that is deeper": (
    ["--methods", "patient_kd", "--student.layers", "3"],
    "a student of 3 layers",
  ),
  "a weight out of range": (["--alp-kd.hard-weight", "2"], "hard_weight must be in [0, 1], got 2"),
  "a batch that does not divide": (["--batch-size", "12"], "does not divide over 8 devices"),
  "a batch of more than there is": (["--batch-size", "64"], "exceeds the 32 training examples"),
  "a batch of more than has labels": (
    ["--unlabelled-share", "0.5"],
    "a batch of 32 exceeds the 16 training examples with labels",
  ),
  "no labels at all": (
    ["--unlabelled-share", "1"],
    "unlabelled_share must be at least 0 and below 1",
  ),
  "unlabelled texts that are not there": (["--unlabelled", "nowhere.txt"], "nowhere.txt"),
  "a column that is not there": (
    ["--files", "TRAIN", "TEST", "--text-column", "words"],
    "words",
  ),
  "one file": (["--files", "TRAIN"], "files are two, for training and test"),
  "a file that is not there": (["--files", "TRAIN", "nowhere.csv"], "nowhere.csv"),
  "labels that are no numbers": (["--files", "TRAIN", "TEST", "--regression"], "good"),
  "texts too short for a pair": (["--max-length", "3"], "max_length=3"),
  "frozen words that nothing gives": (
    ["--student.freeze-words", "--student.start", "random"],
    "student.freeze_words needs word vectors to start from, got random numbers",
  ),
  "frozen words of another width": (
    ["--student.freeze-words", "--student.word-width", "4"],
    "student.freeze_words needs word vectors as wide as those of the teacher, got 4: use --student.wo",
  ),
  "frozen words of a teacher": (["--teacher.freeze-words"], "teacher.freeze_words"),
  "an epoch too few": (["--methods", "universal_kd", "--epochs", "1"], "leave epochs to both"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused_before_anything_is_made(bad, tmp_path, capsys):
  arguments, message = BAD[bad]
  for name in ("train", "test"):
    rows = [f"it is {label} {number},{label}" for number in range(20) for label in ("good", "bad")]
    (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
  files = {name.upper(): str(tmp_path / f"{name}.csv") for name in ("train", "test")}
  where = ("--data-dir", tmp_path / "none")
  methods = () if "--methods" in arguments else ("--methods", "alp_kd")
  asked = options(tmp_path / "run", *where, *methods, *(files.get(a, a) for a in arguments))
  assert message in refused(capsys, *asked)
  assert made(tmp_path / "run") == set()


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    (["--max-length", "12"], "max_length was 16, now 12"),
    (["--vocab-size", "90"], "tokenizer was "),
    (["--layer-classifier-epochs", "3"], "epochs was 2, now 3"),
    (["--cache-outputs", "logits", "layer_logits"], "the teacher gives no layers: cache them"),
    (["--cache-outputs", "logits", "layers"], "holds another teacher"),
    (["--student.width", "4", "--alp-kd.project"], "width was 8, now 4"),
    (["--alp-kd.project"], "head was "),
  ],
)
def test_other_settings_in_the_same_folder_are_refused(finished, capsys, changed, message):
  before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
  said = refused(capsys, *options(finished, "--methods", "alp_kd", *changed))
  assert message in said
  after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
  assert {path for path in after if after[path] != before.get(path)} == set()


def test_a_cache_of_logits_alone_goes_without_pseudo_classifiers(tmp_path):
  """What they would take, in time and memory, is not spent."""
  domain = domain_of(*options(tmp_path, "--cache-outputs", "logits", "--methods", "kd"))
  networks = domain.networks
  assert networks.taught(networks.teacher) == networks.teacher
  assert domain.cache_plan(networks.teacher, "").spec.outputs == ("logits",)
  networks = domain_of(*options(tmp_path, "--methods", "kd")).networks
  assert networks.taught(networks.teacher).layer_classifiers
