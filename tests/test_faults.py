"""Faults as a user meets them: kill -9, damaged files, other settings, bad input, all at the command line."""

import ast
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest

from experiments import lineage, study
from experiments.pipeline.lineage import starts
from kd_jax.checkpoints import CheckpointStore
from tests import commands
from tests.commands import TINY, lines
from tests.conftest import ROOT
from tests.fake_tfds import write_fake

ANNEAL, FINETUNE = (f"students/annealing_kd/seeds-0-1/{phase}" for phase in ("anneal", "finetune"))
TEACHER, DISTIL = "teacher/train/train", "students/kd/seeds-0-1/distil"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
  """The folder of a study that nothing interrupted."""
  folder = tmp_path_factory.mktemp("uninterrupted") / "run"
  assert commands.run_here(study, *options(folder, data_dir)) == 0
  return folder


@pytest.fixture
def copied(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "run")


def options(folder, data_dir):
  return ("digits", *TINY, "--workdir", folder, "--data-dir", data_dir)


def run_study(capsys, folder, data_dir, *more):
  """Runs a study in this process: its status, and all that it says."""
  capsys.readouterr()
  status = commands.run_here(study, *options(folder, data_dir), *more)
  return status, "".join(capsys.readouterr())


def outcome(folder):
  """All that must be the same bits, however often a study was stopped."""
  results = json.loads((folder / "results.json").read_text())
  manifest = json.loads((folder / "cache" / "manifest.json").read_text())
  del manifest["versions"]
  stores = {path.parent for path in folder.rglob("seals")}
  assert len(stores) == 6  # teacher's training, teacher, cache, and three phases of students
  return {
    "results": commands.without_timing(results),
    "states": {
      str(path.relative_to(folder)): CheckpointStore(path).restore().digest for path in stores
    },
    "cache": manifest,
  }


# kill -9.


def logged(phase, epochs):
  return lambda folder: len(lines(folder / phase / "metrics.jsonl")) >= epochs


def while_saving(phase, epoch):
  """A step's folder is there, or half there, and its seal is not, or no longer."""

  def condition(folder):
    checkpoints = folder / phase / "checkpoints"
    begun = {p.name.split(".")[0] for p in (checkpoints / "steps").glob("*")}
    sealed = {p.stem for p in (checkpoints / "seals").glob("[0-9]*.json")}
    return any(int(step) >= epoch for step in begun - sealed)

  return condition


MOMENTS = {
  "teacher training": logged(TEACHER, 2),
  "precompute": lambda folder: (
    (folder / "cache/chunks/seals/0.json").exists()
    and not (folder / "cache/manifest.json").exists()
  ),
  "phase I": while_saving(ANNEAL, 4),
  "phase II": logged(FINETUNE, 2),
  "evaluation": lambda folder: (folder / DISTIL / "checkpoints/seals/16.json").exists(),
}


@pytest.mark.slow
def test_killed_again_and_again_a_study_ends_with_the_same_bits(finished, data_dir, tmp_path):
  """Real processes are killed; this one, on as many devices, ends what they began."""
  folder = tmp_path / "run"
  recorded = {}
  for moment, condition in MOMENTS.items():
    output = tmp_path / "output.txt"
    process = commands.start("study", *options(folder, data_dir), output=output, devices=8)
    commands.kill_when(process, lambda condition=condition: condition(folder))
    assert process.returncode == -signal.SIGKILL, moment
    assert not (folder / "results.json").exists(), moment
    for log in folder.rglob("metrics.jsonl"):
      # Lines hold the seconds an epoch took: trained again, an epoch would have another line.
      recorded.setdefault(log, lines(log))
      recorded[log] = max(recorded[log], lines(log), key=len)
    said = output.read_text()
    assert ("was changed or cut short" in said) == (moment == "evaluation"), said
    if moment == "phase II":
      steps = folder / FINETUNE / "checkpoints/steps"
      sealed = CheckpointStore(steps.parent).steps()
      flip(largest_file(steps / str(sealed[-1])))
  assert commands.run_here(study, *options(folder, data_dir)) == 0
  assert outcome(folder) == outcome(finished)
  assert len(recorded) == 4
  for log, before in recorded.items():
    assert before, log
    assert lines(log)[: len(before) - 1] == before[:-1]
    assert len(lines(log)) == len(lines(finished / log.relative_to(folder)))


# Damaged files.


def largest_file(folder):
  return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.slow
def test_damaged_files_are_named_and_made_good(finished, copied, data_dir, capsys):
  victims = [copied / "cache/chunks/steps/1", copied / "teacher/final/steps/0"]
  victims = [largest_file(folder) for folder in victims]
  for path in victims:
    flip(path)
  (copied / "results.json").unlink()
  status, said = run_study(capsys, copied, data_dir)
  assert status == 0, said
  warnings = [line for line in said.splitlines() if line.startswith("warning: ")]
  for path in victims:
    assert any(f"{path} was changed or cut short" in line for line in warnings)
  assert len(warnings) == len(victims)
  assert outcome(copied) == outcome(finished)


def test_with_no_good_checkpoint_left_the_file_is_named_with_the_remedy(copied, data_dir, capsys):
  victim = largest_file(copied / DISTIL / "checkpoints/steps/16")
  os.truncate(victim, 10)
  said = refused(capsys, *options(copied, data_dir))
  assert "no intact checkpoint is left" in said
  assert str(victim) in said
  assert f"delete {copied / DISTIL / 'checkpoints'} to train this phase again" in said


def test_a_copy_of_a_run_that_a_user_made_is_no_run(copied, capsys):
  run = copied / "students/kd/seeds-0-1"
  shutil.copytree(run, run.with_name("seeds-0-1.bak"))
  shutil.copytree(run / "distil", run / "distil.bak")
  flip(largest_file(run.with_name("seeds-0-1.bak")))
  assert commands.run_here(lineage, copied) == 0
  assert ".bak" not in capsys.readouterr().out
  assert [path.name for path in starts(run)] == ["checkpoints"]


# Other settings in the same folder.


def refused(capsys, *arguments, status=1):
  """Runs a study that is to be refused: in one line, and without a traceback, which would fail here."""
  capsys.readouterr()
  assert commands.run_here(study, *arguments) == status
  said = capsys.readouterr().err
  assert "Traceback" not in said
  if status == 1:
    assert said.startswith("error: ")
    assert said.count("\n") == 1
  return said


def contents(folder):
  """All checkpoints and logs with the time they were written."""
  files = (p for p in folder.rglob("*") if p.is_file() and p.name != "study.json")
  return {p: p.stat().st_mtime_ns for p in files}


@pytest.mark.parametrize(
  ("changed", "parts"),
  [
    (["--augmentation.seed", "1"], ["augmentation.seed was 0, now 1"]),
    (["--teacher-optimizer.learning-rate", "0.2"], ["learning_rate was 0.1, now 0.2"]),
    (["--optimizer.learning-rate", "0.06"], ["learning_rate was 0.05, now 0.06"]),
    (["--annealing-kd.max-temperature", "4"], ["max_temperature", "was 3, now 4"]),
    (["--kd.temperature", "2"], ["temperature was 4.0, now 2.0"]),
    (["--student.hidden", "9"], ["model.hidden[0] was 8, now 9"]),
    (["--validation-examples", "100"], ["validation was ", "now "]),
  ],
)
def test_resuming_with_another_setting_is_refused(copied, data_dir, capsys, changed, parts):
  before = contents(copied)
  said = refused(capsys, *options(copied, data_dir), *changed)
  assert all(part in said for part in parts), said
  assert "Use another --workdir, or delete that folder" in said
  assert contents(copied) == before


def test_a_cache_of_another_kind_is_refused_before_any_training(copied, data_dir, capsys):
  shutil.rmtree(copied / "students")
  before = contents(copied)
  said = refused(capsys, *options(copied, data_dir), "--cache-dtype", "float16")
  assert "dtype of the cache is 'float32', this run has 'float16'" in said
  assert "delete this one to precompute again" in said
  assert contents(copied) == before


# NaN.


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_state(
  copied, data_dir, capsys
):
  # A weight decay of three times the inverse rate doubles every weight in every step, with the other sign.
  diverge = ["--methods", "scratch", "--optimizer.momentum", "0", "--optimizer.weight-decay", "60"]
  status, said = run_study(capsys, copied, data_dir, *diverge, "--optimizer.decay", "constant")
  assert status == 1, said
  assert "Traceback" not in said
  error = said.strip().splitlines()[-1]
  good = CheckpointStore(copied / "students/scratch/seeds-0-1/train/checkpoints").restore()
  steps = 1150 // 64
  first = good.step * steps + 1
  where = f"error: scratch, phase train, epoch {good.step + 1}, steps {first}-{first + steps - 1}: "
  assert error.startswith(where)
  assert good.step >= 1
  assert all(np.isfinite(array).all() for array in good.state.values())
  assert not list((copied / "students/scratch").rglob(f"seals/{good.step + 1}.json"))


def test_a_teacher_that_diverges_stops_the_study(data_dir, tmp_path, capsys):
  diverge = ["--teacher-optimizer.learning-rate", "1e30"]
  said = refused(capsys, *options(tmp_path / "run", data_dir), *diverge)
  assert "teacher, phase train, epoch 1, steps 1-17: " in said
  assert not (tmp_path / "run" / "cache").exists()


# Bad input.


BAD = {
  ("--kd.temperature", "0.5"): "temperature must be finite and at least 1, got 0.5",
  ("--annealing-kd.max-temperature", "0"): "max_temperature must be at least 1, got 0",
  ("--annealing-kd.max-temperature", "40"): "max_temperature 40 needs as many epochs",
  ("--methods", "kd", "magic"): "methods must be distinct names of scratch, kd, takd",
  ("--methods", "kd", "kd"): "methods must be distinct",
  ("--seeds", "0"): "seeds must be at least 1, got 0",
  (
    "--first-seed",
    "-1",
  ): "first_seed must be at least 0, and every seed below 2^32, got first_seed -1",
  ("--first-seed", "4294967295", "--seeds", "2"): "got first_seed 4294967295 with seeds 2",
  ("--seeds-together", "0"): "seeds_together must be at least 1, got 0",
  ("--batch-size", "60"): "does not divide over 8 devices: 56 or 64 would",
  ("--batch-size", "-8"): "a global batch of -8 does not divide over 8 devices: 8 would",
  ("--batch-size", "4096"): "a batch of 4096 exceeds the 1150 training examples",
  ("--validation-examples", "5000"): "leaves nothing of the 1437 training examples",
  ("--validation-examples", "0"): "validation_examples must be at least 1",
  ("--train-limit", "0"): "limit=0",
  ("--dataset", "imagenet"): "unknown data set 'imagenet'; known are digits",
  ("--teacher-weights", "absent.safetensors"): "there is no weights file absent.safetensors",
  ("--teacher-weights", "pyproject.toml"): "pyproject.toml is not a whole safetensors file",
  ("--student.family", "resnet", "--student.depth", "9"): "depth 6n + 2 with n >= 1, got 9",
  ("--student.pixel-std", "0"): "pixel_std must be positive",
  ("--views", "19"): "between 1 and the augmentation's 18 distinct views, got 19",
  ("--views", "0"): "between 1 and the augmentation's 18 distinct views, got 0",
  ("--cache-dtype", "int8"): "a cache holds float16 or float32, got int8",
  ("--cache-top-k", "10"): "cache_top_k must be at least 1 and below 10, got 10",
  ("--num-processes", "2"): "several processes need --coordinator HOST:PORT",
}


@pytest.mark.parametrize("bad", BAD, ids=" ".join)
def test_bad_input_is_refused_in_one_line_before_anything_is_made(
  bad, data_dir, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(ROOT)
  said = refused(capsys, *options(tmp_path / "run", data_dir), *bad)
  assert BAD[bad] in said
  made = {path.name for path in (tmp_path / "run").glob("*")}
  assert made <= {"study.json"}


@pytest.mark.parametrize(
  "bad",
  [
    ("--epochs", "many"),
    ("--optimizer.name", "magic"),
    ("--optimizer.learning-rate", "-1"),
    ("--augmentation.pad", "-1"),
  ],
  ids=" ".join,
)
def test_malformed_options_are_refused_by_name(bad, data_dir, tmp_path, capsys):
  said = refused(capsys, *options(tmp_path / "run", data_dir), *bad, status=2)
  assert bad[0].removeprefix("--no-").split(".")[0].removeprefix("--") in said
  assert not (tmp_path / "run").exists()


def test_data_that_are_not_prepared_are_refused_at_once_with_the_command(tmp_path, capsys):
  begun = time.monotonic()
  said = refused(capsys, "cifar10_resnet8", "--data-dir", tmp_path, "--workdir", tmp_path / "run")
  assert "cifar10 is not prepared" in said
  assert f"kd-jax prepare cifar10 --data-dir {tmp_path}" in said
  assert time.monotonic() - begun < 5
  assert not (tmp_path / "run").exists()


def test_labels_out_of_range_are_refused(tmp_path, capsys):
  features = write_fake("mnist", tmp_path) / "features.json"
  text = features.read_text()
  assert '"numClasses": "10"' in text
  features.write_text(text.replace('"numClasses": "10"', '"numClasses": "7"'))
  for names in features.parent.glob("*.labels.txt"):
    names.write_text("\n".join("0123456") + "\n")
  said = refused(capsys, "digits", *("--dataset", "mnist", "--data-dir", tmp_path))
  assert "labels run from 0 to 9, outside [0, 7)" in said


@pytest.mark.slow
def test_real_processes_end_with_one_line_and_a_status(data_dir, tmp_path):
  # The whole path, from the interpreter to its exit, for one fault of each kind; all at a time.
  cases = {
    ("precompute", "nonsense"): (1, 1, "error: unknown config 'nonsense': known are "),
    ("student", "digits", "--epochs", "many"): (2, 1, "--epochs"),
    ("teacher", *options(tmp_path / "run", data_dir)): (
      *(1, 3),
      "error: a global batch of 64 does not divide over 3 devices: 63 or 66 would",
    ),
  }
  running = []
  for index, ((command, *arguments), (status, devices, message)) in enumerate(cases.items()):
    output = tmp_path / f"{index}.txt"
    process = commands.start(command, *arguments, output=output, devices=devices)
    running.append((process, output, status, message))
  for process, output, status, message in running:
    assert commands.finish(process) == status, output.read_text()
    said = output.read_text()
    assert message in said
    assert "Traceback" not in said
    assert status == 2 or said.count("\n") == 1


# Nothing is ever unpickled.

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def test_no_source_file_can_unpickle():
  files = [path for room in ("kd_jax", "experiments") for path in (ROOT / room).rglob("*.py")]
  assert len(files) > 30
  for path in files:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      complaint = unpickles(node)
      # The benchmark's PyTorch contenders compute; they may not load.
      computes = "benchmarks" in path.parts and str(complaint).split(".")[0] == "torch"
      assert not complaint or computes, f"{path}:{node.lineno}: {complaint}"


def unpickles(node):
  if isinstance(node, ast.Import):
    return ", ".join({name.name.split(".")[0] for name in node.names} & {*UNPICKLERS, "torch"})
  if isinstance(node, ast.ImportFrom):
    return (node.module or "").split(".")[0] in {*UNPICKLERS, "torch"} and node.module
  if not isinstance(node, ast.Call):
    return ""
  keywords = {keyword.arg: keyword.value for keyword in node.keywords}
  allowed = keywords.get("allow_pickle")
  if allowed is not None and not (isinstance(allowed, ast.Constant) and allowed.value is False):
    return "allow_pickle"
  name = ast.unparse(node.func)
  loads = name.split(".")[-1] in ("load", "read_array", "fromfile", "memmap")
  if loads and name.split(".")[0] in ("np", "numpy", "torch") and allowed is None:
    return f"{name} without allow_pickle=False"
  return ""


@pytest.mark.parametrize(
  "code",
  [
    "import pickle",
    "from torch import load",
    "np.load(path)",
    "np.load(path, allow_pickle=True)",
    "numpy.lib.format.read_array(file)",
    "torch.load(path)",
  ],
)
def test_what_could_unpickle_would_be_noticed(code):
  assert any(unpickles(node) for node in ast.walk(ast.parse(code)))
  good = "np.load(path, allow_pickle=False); json.load(file); import numpy as np"
  assert not any(unpickles(node) for node in ast.walk(ast.parse(good)))
