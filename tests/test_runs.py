"""Runs in their folders: what a finished phase keeps, what resumption accepts, what a run was made with.

Training is scripted: what counts here is what lies on disk.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from unittest import mock

import jax
import numpy as np
import pytest

from experiments.pipeline import phases, runs
from experiments.pipeline.differences import differences
from kd_jax import checkpoints, recipes
from kd_jax.checkpoints import CheckpointError, CheckpointStore, flatten
from kd_jax.models.heads import LayerClassifiers
from kd_jax.models.safetensors_files import nest
from kd_jax.recipes import Phase, Recipe
from kd_jax.training import EpochRecord, EpochReport
from kd_jax.training.loop import begin_phase, fresh_variables
from kd_jax.training.state import network_of, track_best
from tests.training import CLASSES, OPTIMIZER, changed, mlp

TASK = changed(model=mlp(6, 5))

LABELS = dataclasses.replace(
  recipes.Classes(CLASSES).label_term(), name="labels", head=LayerClassifiers(CLASSES)
)
RECIPE = Recipe(
  "scripted", "", "", "",
  (Phase("one", (LABELS,), 4, OPTIMIZER), Phase("two", (LABELS,), 2, OPTIMIZER, "best")),
)  # fmt: skip
SCORES = {"one": [[0.1, 0.2], [0.5, 0.4], [0.3, 0.4], [0.2, 0.1]], "two": [[0.2, 0.1], [0.3, 0.3]]}
"""Of the first phase epochs 2 and 3 are best, of the second the last of both seeds."""


def scripted(task, phase, state, teacher, *, label, epochs_before):
  """Stands in for training: weights follow from the weights before, as they do there."""
  for epoch in range(int(state.train.step[0]) + 1, phase.epochs + 1):
    rest = state.train._replace(step=state.train.step + 1)
    train = jax.tree.map(lambda x: x + x.dtype.type(1), rest)._replace(step=rest.step)
    score = SCORES[phase.name][epoch - 1]
    state = track_best(state, train, np.array(score), epoch)
    record = EpochRecord(epoch, (0.0, 0.0), {}, {}, (0.0, 0.0), "accuracy", tuple(score), {}, 0.1)
    yield EpochReport(record, state)


@pytest.fixture(autouse=True)
def _scripted(monkeypatch):
  monkeypatch.setattr(phases, "train_phase", scripted)
  monkeypatch.setattr(phases, "RunLog", lambda folder, history: contextlib.nullcontext(mock.Mock()))
  monkeypatch.setattr(phases, "is_logged", lambda folder, history: True)


def run_in(folder, **more):
  return runs.Run(folder / "run", folder, RECIPE, TASK, {"batch_size": 8}, (), **more)


def train(folder, **more):
  return runs.train(run_in(folder, **more), lambda: None, lambda epochs, detail: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp("finished")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(phases, "train_phase", scripted)
    patch.setattr(phases, "RunLog", lambda folder, history: contextlib.nullcontext(mock.Mock()))
    train(folder)
  return folder


@pytest.fixture
def copied(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "copy")


def store(folder, phase):
  return CheckpointStore(folder / "run" / phase / "checkpoints")


def size(folder):
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def digests(folder):
  return {phase: store(folder, phase).restore().digest for phase in SCORES}


# What is kept.


def test_a_finished_phase_keeps_its_last_and_best_networks_alone(finished):
  for phase, epochs in (("one", 4), ("two", 2)):
    assert store(finished, phase).steps() == [epochs]
    folder = finished / "run" / phase / "checkpoints"
    assert os.listdir(folder / "steps") == [str(epochs)]
    state = store(finished, phase).restore().state
    network = flatten(network_of(fresh_variables(TASK)))
    expected = {f"{which}.{name}" for which in ("best", "train.variables") for name in network}
    assert state.keys() == expected | {"best_score", "best_epoch"}
  # Of the second phase the best is the last: it is there once.
  assert len(os.listdir(finished / "run/one/checkpoints/parts")) == 1
  assert not list((finished / "run/two/checkpoints").glob("parts/*"))


def test_the_best_and_the_last_are_read_back_and_the_next_phase_starts_from_them(finished):
  one, two = runs.load(run_in(finished))
  start = begin_phase(TASK, RECIPE.phases[0], fresh_variables(TASK), None)

  def weight(state):
    return [x["params"]["hidden1"]["kernel"][:, 0, 0] for x in (state.best, state.train.variables)]

  first = weight(start)[0]
  np.testing.assert_allclose(weight(one.state)[0], first + np.array([2, 3]))
  np.testing.assert_allclose(weight(one.state)[1], first + 4)
  np.testing.assert_allclose(weight(two.state)[0], first + np.array([4, 5]))
  assert one.state.best_epoch.tolist() == [2, 3]
  (link,) = store(finished, "two").restore().meta["parents"]
  assert link["digest"] == one.digest == digests(finished)["one"]
  assert link["path"] == "run/one/checkpoints/steps/4"


# Stopped and gone on with.


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("stop", [("one", 3), ("one", 4), ("two", 2)])
def test_stopped_before_any_save_a_run_ends_with_the_same_digests(
  finished, tmp_path, monkeypatch, background, stop
):
  save = CheckpointStore.save

  def interrupted(self, step, *arguments, **options):
    if (self.directory.parent.name, step) == stop:
      raise KeyboardInterrupt
    return save(self, step, *arguments, **options)

  if background:
    monkeypatch.setattr(checkpoints, "BACKGROUND_BYTES", 0)
  with monkeypatch.context() as context:
    context.setattr(CheckpointStore, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
      train(tmp_path)
  assert store(tmp_path, stop[0]).steps()[-1] == stop[1] - 1  # sealed, also in the background
  train(tmp_path)
  assert digests(tmp_path) == digests(finished)


def test_what_a_killed_process_left_of_a_finished_phase_is_removed(copied):
  folder = copied / "run/one/checkpoints"
  shutil.copytree(folder / "steps/4", folder / "steps/3")
  shutil.copytree(next((folder / "parts").iterdir()), folder / "parts/best-0123456789abcdef")
  train(copied)
  assert os.listdir(folder / "steps") == ["4"]
  assert len(os.listdir(folder / "parts")) == 1


def test_a_broken_finished_phase_is_named_with_the_remedy(copied, finished):
  victim = copied / "run/one/checkpoints/steps/4/_CHECKPOINT_METADATA"
  victim.write_bytes(b"")
  with pytest.raises(CheckpointError) as caught:
    train(copied)
  assert str(victim) in str(caught.value)
  assert f"delete {copied}/run/one/checkpoints to train this phase again" in str(caught.value)
  shutil.rmtree(copied / "run/one/checkpoints")
  train(copied)
  assert digests(copied) == digests(finished)  # so the link of the second phase still fits


# Runs of older versions.


@contextlib.contextmanager
def changed_meta(folder):
  """The JSON of the finished first phase, which is saved again with what is changed in it."""
  kept = store(folder, "one")
  restored = kept.restore()
  meta = json.loads(json.dumps(restored.meta))
  yield meta
  shutil.rmtree(kept.directory)
  state = nest({tuple(path.split(".")): leaf for path, leaf in restored.state.items()})
  kept.save(restored.step, state, meta)


def test_a_run_that_a_version_without_a_name_described_is_refused_in_one_line(copied):
  """Before 0.2, checkpoints named wrappers of losses, and no version."""
  with changed_meta(copied) as meta:
    del meta["made_with"]
    (term,) = meta["settings"]["phases"][0]["terms"]
    term["function"] = f"{term.pop('loss')}_of_outputs"
  with pytest.raises(
    CheckpointError, match=r"\(by kd_jax of an earlier version, this is .*Use another --workdir"
  ) as caught:
    train(copied)
  assert "\n" not in str(caught.value)


def test_a_setting_that_a_run_was_not_described_by_is_named(copied):
  with changed_meta(copied) as meta:
    del meta["settings"]["batch_size"]
  with pytest.raises(CheckpointError, match="batch_size was null, now 8"):
    train(copied)


SCHEDULED = [
  # old, new, same
  ([1e-9, 0.5], [2e-9, 0.5], False),
  ([1e-9, 0.5], [1e-9, 0.5], True),
  ([3.14159265], [3.14159274], True),  # of float32
  ([0.001], [0.00100001], False),
  ([1, 2], [1, 3], False),
]


@pytest.mark.parametrize(("old", "new", "same"), SCHEDULED)
def test_scheduled_values_are_compared_by_significant_digits(old, new, same):
  assert (differences("weight", old, new) == []) is same


def test_a_field_that_is_missing_has_its_default():
  old, new = {"width": 8}, {"width": 8, "bias": True}
  assert differences("model", old, new, defaults={"bias": True}) == []
  assert differences("model", old, new, defaults={"bias": False}) == [
    "model.bias was false, now true"
  ]
  assert differences("model", old, new) == ["model.bias was null, now true"]


# What it was made with.


def test_a_run_gone_on_with_in_another_environment_says_so_and_records_both(
  tmp_path, monkeypatch, capsys
):
  first, second = {"jax": "0.10.1", "devices": "1 × cpu"}, {"jax": "0.10.2", "devices": "1 × cpu"}
  monkeypatch.setattr(phases, "environment", lambda: first)
  stop = mock.Mock(side_effect=[None, None, KeyboardInterrupt])
  with pytest.raises(KeyboardInterrupt):
    runs.train(run_in(tmp_path), lambda: None, lambda epochs, detail: stop())
  assert capsys.readouterr().out == ""
  monkeypatch.setattr(phases, "environment", lambda: second)
  one, two = train(tmp_path)
  said = capsys.readouterr().out.splitlines()
  assert said[0] == "warning: run was begun with jax 0.10.1, now 0.10.2"
  assert len(said) == 1
  assert (one.made_with, two.made_with) == ([first, second], [second])
  assert store(tmp_path, "one").restore().meta["made_with"] == [first, second]
  assert [result.made_with for result in runs.load(run_in(tmp_path))] == [
    [first, second],
    [second],
  ]


def test_a_run_of_another_version_that_does_not_fit_is_refused_by_the_version(copied):
  with changed_meta(copied) as meta:
    meta["made_with"][-1]["kd_jax"] = "0.0.7"
    meta["settings"]["batch_size"] = 4
  with pytest.raises(
    CheckpointError, match=r"\(by kd_jax 0\.0\.7, this is .*batch_size was 4, now 8"
  ) as caught:
    train(copied)
  assert "\n" not in str(caught.value)


# Folders of runs.


def test_only_the_folders_of_runs_are_taken_for_runs(tmp_path):
  for name in (
    "seeds-0",
    "seeds-1-2",
    "seeds-10",
    "seeds-0.bak",
    "seeds-01",
    "seeds-1-1",
    "seeds-",
  ):
    (tmp_path / name).mkdir()
  (tmp_path / "seeds-3").write_text("a file")
  found = {path.name: runs.seeds_of(path) for path in tmp_path.iterdir()}
  assert {name: seeds for name, seeds in found.items() if seeds} == {
    "seeds-0": (0,),
    "seeds-1-2": (1, 2),
    "seeds-10": (10,),
  }
  assert runs.run_name((1, 2)) == "seeds-1-2"
