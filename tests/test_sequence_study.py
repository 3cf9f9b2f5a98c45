"""Studies of sentences at the command line: own files, all methods, kill -9, lineage, what is refused."""

import json
import shutil

import pytest

from experiments import lineage, precompute, study
from experiments.command_line.options import parse
from experiments.domains.registry import domain_of
from kd_jax.checkpoints import CheckpointStore
from kd_jax.data import corpora
from kd_jax.recipes import methods_for
from tests import commands
from tests.commands import lines
from tests.conftest import ROOT

SAMPLES = ROOT / "kd_jax" / "data" / "samples"
SPLITS = ("train", "validation", "test")
METHODS = tuple(methods_for("sentences"))
WIDTHS = tuple(
  option
  for network in ("teacher", "student")
  for width in ("word-width", "character-width", "width", "arc-width")
  for option in (f"--{network}.{width}", "4")
)
TINY = (*WIDTHS, *("--batch-size", "8", "--teacher-epochs", "1", "--epochs", "2", "--seeds", "1"))
ABROAD = "Zanzibar"
"""A word that validation and test have, often enough, and training has not."""


def write_files(folder, task="tagging"):
  """The short sentences of the built-in sample, as one's own files: one bucket, quick to compile."""
  folder.mkdir(exist_ok=True)
  suffix = {"tagging": "conll", "parsing": "conllu"}[task]
  paths = []
  for split in SPLITS:
    blocks = (SAMPLES / f"{task}-{split}.{suffix}").read_text(encoding="utf-8").split("\n\n")
    tokens = [[line for line in b.splitlines() if not line.startswith("#")] for b in blocks]
    blocks = [block for block, own in zip(blocks, tokens, strict=True) if 0 < len(own) <= 8]
    if task == "tagging" and split != "train":
      first = blocks[0].splitlines()[0]
      assert ABROAD not in first
      blocks += ["\n".join([first.replace(first.split()[0], ABROAD)] * 3)]
    paths.append(folder / f"{split}.{suffix}")
    paths[-1].write_text("\n\n".join(blocks) + "\n\n", encoding="utf-8")
  return paths


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
  return write_files(tmp_path_factory.mktemp("trees"), "parsing")


def options(files, folder, *more):
  methods = ("--methods", *METHODS)
  return ("conll_ner", "--files", *files, *TINY, *methods, "--workdir", folder, *more)


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
  """The folder of a study of all methods that nothing interrupted."""
  folder = tmp_path_factory.mktemp("study") / "run"
  assert commands.run_here(study, *options(files, folder)) == 0
  return folder


@pytest.fixture
def copied(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "run")


def results(folder):
  return json.loads((folder / "results.json").read_text())


def digests(folder):
  stores = {path.parent for path in folder.rglob("seals")}
  return {str(path.relative_to(folder)): CheckpointStore(path).restore().digest for path in stores}


# What a study leaves.


def test_all_methods_from_own_files_to_results(finished):
  found = results(finished)
  assert [(row["method"], row["seed"]) for row in found["rows"]] == [(m, 0) for m in METHODS]
  assert found["metric"]["key"] == "f1"
  assert found["metric"]["examples"] == "sentences"
  assert found["case"]["name"] == "1a"
  assert all("CRF" in found["case"][role] for role in ("teacher", "student"))
  assert all(found[role]["model"] == "BiLSTM-4 CRF" for role in ("teacher", "student"))
  names = {"f1", "precision", "recall", "token_accuracy", "agreement"}
  for row in found["rows"]:
    assert row["epochs"] == 2
    assert 0 <= row["validation"]["best"] <= 1
    for which in ("best", "last"):
      assert set(row["test"][which]) == names
      assert all(0 <= value <= 1 for value in row["test"][which].values())
  # The methods are not one and the same.
  assert len({row["digest"] for row in found["rows"]}) == len(METHODS)
  assert 0 <= found["teacher"]["test_f1"] <= 1
  assert {point["method"] for point in found["curves"]} == set(METHODS)
  assert all("validation_f1" in point for point in found["curves"])
  data = found["dataset"]
  assert data["name"] == "train.conll"
  assert (data["train"], data["validation"], data["test"]) == (34, 13, 14)
  assert data["longest_sentence"] <= 8
  report = (finished / "report.md").read_text()
  assert "Structural KD" in report
  assert "F1" in report


def test_every_link_of_the_lineage_matches(finished, capsys):
  assert commands.run_here(lineage, finished) == 0
  said = capsys.readouterr().out
  assert "every link matches" in said
  assert said.count("cache ") >= len(METHODS) - 1


def test_lineage_notices_other_sentences(copied, files, tmp_path, capsys):
  other = tmp_path / "train.conll"
  other.write_text(files[0].read_text().replace("\n\n", "\n\nIndeed O\n\n", 1))
  marker = copied / "study.json"
  content = json.loads(marker.read_text())
  content["data"]["source"][0] = str(other)
  marker.write_text(json.dumps(content))
  assert commands.run_here(lineage, copied) == 1
  assert "DIFFERS: the data are now" in capsys.readouterr().out


def test_the_cache_agrees_with_the_live_teacher(finished, files, capsys):
  assert commands.run_here(precompute, *options(files, finished), "--verify") == 0
  assert "agrees with the live teacher" in capsys.readouterr().out
  manifest = json.loads((finished / "cache" / "manifest.json").read_text())
  assert manifest["spec"]["structure"] == "LinearChain"


def test_the_vocabulary_is_kept_and_is_of_the_training_sentences_alone(finished, files):
  rebuilt = corpora.load_tagging([str(path) for path in files]).vocabulary.to_json()
  runs = [finished / "teacher/final", finished / "teacher/train/train/checkpoints"]
  runs += [finished / f"students/{m}/seeds-0" for m in METHODS]
  for run in runs:
    stores = [path.parent for path in run.rglob("seals")]
    assert stores, run
    for store in stores:
      assert CheckpointStore(store).restore().meta["vocabulary"] == rebuilt
  training = files[0].read_text().lower()
  assert rebuilt["words"]
  assert all(word in training for word in rebuilt["words"] if "0" not in word)
  for path in files[1:]:
    assert path.read_text().count(ABROAD) == 3
  assert ABROAD.lower() not in rebuilt["words"]


def contents(folder):
  return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_killed_and_resumed_a_study_ends_with_the_same_bits(finished, copied, files, tmp_path):
  """A process that finds teacher, cache and the other methods is killed while it trains one."""
  folder = copied
  shutil.rmtree(folder / "students/posterior_kd")
  (folder / "results.json").unlink()
  process = commands.start(
    "study", *options(files, folder), output=tmp_path / "output.txt", devices=8
  )
  log = folder / "students/posterior_kd/seeds-0/distil/metrics.jsonl"
  commands.kill_when(process, lambda: bool(lines(log)), timeout=600)
  assert not (folder / "results.json").exists()
  before = lines(log)
  assert commands.run_here(study, *options(files, folder)) == 0
  assert lines(log)[: len(before) - 1] == before[:-1]
  assert digests(folder) == digests(finished)
  one, other = (commands.without_timing(results(path)) for path in (folder, finished))
  assert one == other


# What is refused, in one line.


def refused(capsys, *arguments, status=1):
  capsys.readouterr()
  assert commands.run_here(study, *arguments) == status
  said = capsys.readouterr().err
  assert "Traceback" not in said
  if status == 1:
    assert said.startswith("error: ")
    assert said.count("\n") == 1
  return said


@pytest.mark.parametrize(("index", "part"), [(0, "vocabulary"), (1, "validation")])
def test_other_sentences_in_the_same_folder_are_refused(
  copied, files, tmp_path, capsys, index, part
):
  changed = list(files)
  changed[index] = tmp_path / files[index].name
  text = files[index].read_text()
  changed[index].write_text(text.replace("\n\n", "\n\nIndeed O\nindeed O\n\n", 1))
  before = contents(copied)
  said = refused(capsys, *options(changed, copied))
  assert f"{part} was " in said
  assert "Use another --workdir, or delete that folder" in said
  after = contents(copied)
  assert {p for p in before if before[p] != after[p]} == set()
  assert before.keys() == after.keys()


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    (["--case", "2a"], "was "),
    (["--structural-kd.temperature", "2"], "temperature"),
    (["--min-count", "1"], "vocabulary was "),
    (["--student.dropout", "0.5"], "dropout was 0.2, now 0.5"),
  ],
)
def test_other_settings_in_the_same_folder_are_refused(copied, files, capsys, changed, message):
  said = refused(capsys, *options(files, copied), *changed)
  assert message in said
  assert "Use another --workdir, or delete that folder" in said


def broken(files, tmp_path, line, text):
  """The files, the first of them with one line replaced; lines count from 1."""
  content = files[0].read_text().split("\n")
  content[line - 1] = text
  path = tmp_path / files[0].name
  path.write_text("\n".join(content))
  return [path, *files[1:]]


def first_token(path):
  return next(
    number
    for number, line in enumerate(path.read_text().split("\n"), 1)
    if line and not line.startswith("#")
  )


@pytest.mark.parametrize(
  ("name", "bad"),
  [
    ("conll_ner", "Only-a-word"),
    ("conll_ner", "Word I-BROKEN-"),
    ("ud_parsing", "1\tIt\tit\tPRON\t_\t_\t99\tnsubj\t_\t_"),
    ("ud_parsing", "1\tIt\tit"),
  ],
)
def test_malformed_files_are_refused_by_line_and_skipped_on_request(
  name, bad, files, trees, tmp_path, capsys
):
  own = files if name == "conll_ner" else trees
  line = first_token(own[0])
  if name == "conll_ner" and bad.startswith("Word"):
    bad = "Word I-"  # a tag without a type
  changed = broken(own, tmp_path, line, bad)
  where = ("--workdir", tmp_path / "run")
  said = refused(capsys, name, "--files", *changed, *TINY, *where)
  assert "1 malformed sentence in " in said
  assert f"{changed[0]}:{line}: " in said
  assert not (tmp_path / "run").exists()

  arguments = [name, "--files", *changed, *TINY, *where, "--skip-malformed"]
  domain = commands.open_study(*arguments).folder.domain
  assert f"left out 1 malformed sentence, first {changed[0]}:{line}: " in capsys.readouterr().out
  whole = corpora.load_tagging if name == "conll_ner" else corpora.load_parsing
  assert len(domain.data.train) == len(whole([str(path) for path in own]).train) - 1


BAD = {
  (
    "conll_ner",
    "--dataset",
    "ontonotes",
  ): "dataset is auto or sample or conll2003, got 'ontonotes'",
  ("ud_parsing", "--dataset", "conll2003"): "dataset is auto or sample or en_ewt, got 'conll2003'",
  ("conll_ner", "--files", "a", "b"): "files are three: for training, validation and test; got 2",
  ("conll_ner", "--files", "a", "b", "c"): "cannot read ",
  ("conll_ner", "--dataset", "sample", "--max-length", "0"): "max_length must be at least 1, got 0",
  (
    "conll_ner",
    "--dataset",
    "sample",
    "--methods",
    "kd",
  ): "methods must be distinct names of scratch",
  (
    "conll_ner",
    "--dataset",
    "sample",
    "--token-kd.temperature",
    "0.5",
  ): "temperature must be finite",
  ("conll_ner", "--dataset", "sample", "--batch-size", "12"): "does not divide over 8 devices",
  ("conll_ner", "--dataset", "sample", "--cache-dtype", "int8"): "float16 or float32, got int8",
  ("conll_ner", "--dataset", "sample", "--student.dropout", "1.0"): "dropout is a probability",
}


@pytest.mark.parametrize("bad", BAD, ids=" ".join)
def test_bad_input_is_refused_before_anything_is_made(bad, tmp_path, capsys):
  said = refused(capsys, *bad, "--workdir", tmp_path / "run", "--data-dir", tmp_path / "none")
  assert BAD[bad] in said
  assert {path.name for path in (tmp_path / "run").glob("*")} <= {"study.json"}


@pytest.mark.parametrize("bad", [("conll_ner", "--case", "1b"), ("ud_parsing", "--case", "3")])
def test_a_case_of_the_other_task_is_no_option(bad, tmp_path, capsys):
  said = refused(capsys, *bad, "--workdir", tmp_path / "run", status=2)
  assert "case" in said


def test_without_a_prepared_corpus_the_sample_is_read_and_said(tmp_path, capsys):
  arguments = ["conll_ner", *TINY, "--workdir", tmp_path / "run", "--data-dir", tmp_path / "none"]
  asked, place, _ = parse("study", [str(argument) for argument in arguments])
  domain = domain_of(asked, place.data_dir)
  assert domain.data.train.name == "sample-tagging"
  assert any("conll2003 is not prepared here" in note for note in domain.data.notes)
  shorter = parse("study", [*map(str, arguments), "--max-length", "8"])[0]
  left_out = domain_of(shorter, None)
  assert any("training sentences of over 8 tokens" in note for note in left_out.data.notes)
  assert left_out.data.train.lengths.max() == 8
