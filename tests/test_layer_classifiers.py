"""Pseudo classifiers of a finished teacher: on its states, the teacher frozen; found again, in the lineage."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from experiments import lineage
from experiments.command_line import options
from experiments.pipeline import layer_classifiers
from kd_jax.checkpoints import CheckpointStore
from kd_jax.models.text_spec import TextSpec
from kd_jax.optimizers import Optimizer
from kd_jax.teachers import predicting
from kd_jax.training.evaluation import texts
from tests import commands

WORDS = ("red", "green", "blue")
ADAM = Optimizer(name="adam", learning_rate=0.05, decay="linear", weight_decay=0.0)


def write_files(folder):
  """Each text is of the class of the word that it repeats: any encoder's states are separable."""
  rng = np.random.default_rng(0)
  paths = [folder / f"{split}.csv" for split in ("train", "validation", "test")]
  for path, size in zip(paths, (48, 24, 16), strict=True):
    lines = ["text,label"]
    for number in range(size):
      word = WORDS[number % len(WORDS)]
      noise = " ".join(rng.choice(["one", "two", "three"], rng.integers(1, 4)))
      lines.append(f"{word} {word} {noise} {word},{word}")
    path.write_text("\n".join(lines) + "\n")
  return tuple(paths)


def study(files, **changes):
  spec = TextSpec("gated_cnn", layers=3, width=8, dropout=0.0, start="random")
  return dataclasses.replace(
    options.configs()["texts"],
    files=files,
    teacher_weights=None,
    teacher=spec,
    assistant=spec,
    student=dataclasses.replace(spec, layers=2),
    batch_size=16,
    max_length=16,
    vocab_size=80,
    teacher_epochs=1,
    layer_classifier_epochs=12,
    layer_classifier_optimizer=ADAM,
    methods=("universal_kd_capacity_gap",),
    epochs=2,
    seeds=1,
    **changes,
  )


def teachers(asked, folder, *, may_train=True):
  where = options.Where(workdir=folder)
  return commands.students_of(asked, where, may_train=may_train).teachers


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
  """The teachers, with the teacher and its cache made."""
  made = teachers(study(files), tmp_path_factory.mktemp("study") / "run")
  made.caches.fill(made.teacher())
  return made


@pytest.fixture
def copied(finished, tmp_path):
  return shutil.copytree(finished.folder.root, tmp_path / "run")


def store(root, name):
  return CheckpointStore(root / "teacher" / name)


TRAINED, LAYERS, FINAL = "train/train/checkpoints", "layers/layers/checkpoints", "final"


def test_the_teacher_is_frozen(finished):
  """What is used is the best epoch of its own training, bit for bit, and the classifiers beside it."""
  best = {
    path.removeprefix("best.params."): array[0]
    for path, array in store(finished.folder.root, TRAINED).restore().state.items()
    if path.startswith("best.params.")
  }
  final = {
    path.removeprefix("params."): array
    for path, array in store(finished.folder.root, FINAL).restore().state.items()
  }
  own = {path for path in final if path.startswith("pseudo.")}
  assert own == {f"pseudo.layer{i}.{name}" for i in (1, 2) for name in ("kernel", "bias")}
  assert final.keys() - own == best.keys()
  for path, array in best.items():
    np.testing.assert_array_equal(final[path], array, err_msg=path)
  # The classifiers are those of the best epoch of theirs.
  theirs = store(finished.folder.root, LAYERS).restore().state
  for path in own:
    np.testing.assert_array_equal(final[path], theirs[f"best.params.{path}"][0])


def test_the_classifiers_beat_chance_on_separable_states(finished):
  """On the held-out texts, by hand: the teacher's own states times the classifiers' matrices."""
  teacher, data = finished.teacher(), finished.folder.domain.data.validation
  outputs = jax.jit(teacher.model.apply)(teacher.variables, data.inputs)
  maps = teacher.variables["params"]["pseudo"]
  accuracies = []
  for number in (1, 2):
    own = maps[f"layer{number}"]
    logits = np.asarray(outputs.layers[number - 1]) @ own["kernel"] + own["bias"]
    np.testing.assert_allclose(outputs.layer_logits[:, number - 1], logits, rtol=1e-4, atol=1e-4)
    accuracies.append(np.mean(logits.argmax(axis=1) == data.labels))
  assert min(accuracies) > 0.8
  history = store(finished.folder.root, LAYERS).restore().meta["history"]
  np.testing.assert_allclose(
    max(record["validation_accuracy"][0] for record in history), np.mean(accuracies), atol=1e-6
  )
  assert history[-1]["train_loss"][0] < 0.5 * history[0]["train_loss"][0]


def test_the_cache_holds_what_the_teacher_says(finished):
  teacher, data = finished.teacher(), finished.folder.domain.data.train
  outputs = jax.jit(teacher.model.apply)(teacher.variables, data.inputs)
  cached = finished.caches.fill(teacher).outputs
  np.testing.assert_allclose(cached.layer_logits[:, 0], outputs.layer_logits, atol=1e-4)
  np.testing.assert_allclose(cached.logits[:, 0], outputs.logits, atol=1e-4)
  np.testing.assert_allclose(cached.layers[:, 0], np.stack(outputs.layers, axis=1), atol=1e-4)


def refuse(*arguments, **options):
  raise AssertionError("the states are computed once")


def test_a_finished_study_reads_them_back_without_the_states(copied, files, monkeypatch):
  monkeypatch.setattr(predicting, "fields_predictor", refuse)
  before = store(copied, FINAL).restore().digest
  network = teachers(study(files), copied, may_train=False).teacher()
  assert network.digest == before
  assert set(network.variables["params"]["pseudo"]) == {"layer1", "layer2"}
  # But a study that has them not must compute them, or say that it must not.
  shutil.rmtree(copied / "teacher" / "layers")
  with pytest.raises(AssertionError, match="computed once"):
    teachers(study(files), copied).teacher()
  with pytest.raises(ValueError, match="are not trained: run the study first"):
    teachers(study(files), copied, may_train=False).teacher()


def test_interrupted_they_end_with_the_same_bits(copied, files, monkeypatch):
  expected = store(copied, LAYERS).restore()
  final = store(copied, FINAL).restore().digest
  for folder in ("layers", "final"):
    shutil.rmtree(copied / "teacher" / folder)
  save, saved = CheckpointStore.save, []

  def interrupted(self, step, *arguments, **options):
    if step == 4:
      raise KeyboardInterrupt
    saved.append(step)
    return save(self, step, *arguments, **options)

  monkeypatch.setattr(CheckpointStore, "save", interrupted)
  with pytest.raises(KeyboardInterrupt):
    teachers(study(files), copied).teacher()
  assert saved == [1, 2, 3]
  monkeypatch.undo()
  teachers(study(files), copied).teacher()
  assert store(copied, LAYERS).restore().digest == expected.digest
  assert store(copied, FINAL).restore().digest == final


def test_other_settings_of_theirs_are_refused_in_the_same_folder(copied, files):
  changed = dataclasses.replace(study(files), layer_classifier_epochs=13)
  with pytest.raises(ValueError, match=r"epochs was 12, now 13.*Use another --workdir") as refused:
    teachers(changed, copied).teacher()
  assert "\n" not in str(refused.value)


# The lineage.


def test_the_lineage_leads_from_the_teacher_to_them_and_on_to_the_data(finished, capsys):
  assert commands.run_here(lineage, finished.folder.root / "teacher" / FINAL) == 0
  said = capsys.readouterr().out
  digests = {
    name: store(finished.folder.root, name).restore().digest[:12] for name in (TRAINED, LAYERS)
  }
  assert f"├─ train  {digests[TRAINED]}" in said
  assert f"└─ layer classifiers  {digests[LAYERS]}" in said
  assert said.count(f"teacher/{LAYERS}/steps/12  matches") == 1
  # They came from the very training that the teacher came from, and from the texts.
  assert said.count(f"teacher/{TRAINED}/steps/1  matches") == 2
  assert said.count("data  ") == 3
  assert "every link matches" in said


def test_the_lineage_notices_changed_ones(copied, capsys):
  kept = store(copied, LAYERS)
  restored = kept.restore()
  changed = {path: array + (array.dtype == np.float32) for path, array in restored.state.items()}
  shutil.rmtree(kept.directory)
  kept = store(copied, LAYERS)
  kept.save(restored.step, changed, restored.meta)
  assert commands.run_here(lineage, copied / "teacher" / FINAL) == 1
  said = capsys.readouterr().out
  assert "layer classifiers" in said
  assert f"DIFFERS: it is now {kept.restore().digest[:12]}" in said
  assert "NOT every link matches" in said


# Their parts.


def test_the_loss_is_the_sum_over_layers_and_the_score_the_mean():
  model = layer_classifiers.StateClassifiers(3)
  states = np.random.default_rng(0).standard_normal((5, 2, 4)).astype(np.float32)
  labels = np.array([0, 1, 2, 0, 1])
  outputs, made = model.init_with_output(jax.random.key(0), states)
  assert outputs.layer_logits.shape == (5, 2, 3)
  expected = 0
  for index in (0, 1):
    own = made["params"]["pseudo"][f"layer{index + 1}"]
    logits = states[:, index] @ own["kernel"] + own["bias"]
    np.testing.assert_allclose(outputs.layer_logits[:, index], logits, rtol=1e-4, atol=1e-5)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = expected - log_p[np.arange(5), labels]
  loss = layer_classifiers.label_loss(outputs.layer_logits, labels)
  np.testing.assert_allclose(loss, expected, rtol=1e-4)
  evaluation = layer_classifiers.mean_over_layers(texts("accuracy"))
  found = evaluation.whole(np.asarray(outputs.layer_logits), labels)
  guesses = np.asarray(outputs.layer_logits).argmax(axis=2)
  assert found == {"accuracy": pytest.approx(np.mean(guesses == labels[:, None]))}


def test_numbers_are_predicted_by_squared_errors():
  """With one output a softmax would be 1 whatever is learnt."""
  logits = np.float32([[[1.0], [2.0]], [[0.0], [-1.0]]])
  loss = layer_classifiers.label_loss(logits, np.float32([3.0, 1.0]), regression=True)
  np.testing.assert_allclose(loss, [4 + 1, 1 + 4])
