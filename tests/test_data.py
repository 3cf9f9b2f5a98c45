"""Data sets: ids that do not depend on the files' order, fixed splits, readable refusals."""

import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import prepare
from kd_jax import data
from kd_jax.data import dataset, digits, sources, splits
from tests.commands import run_here
from tests.fake_tfds import fake_arrays, write_fake

ROOT = pathlib.Path(__file__).parent.parent
REAL = ROOT.parent / "shared" / "data" / "tfds"


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  write_fake("cifar10", folder)
  write_fake("mnist", folder)
  return folder


def _arguments(**changes):
  arguments = {
    "name": "fake",
    "version": "1.0.0",
    "split": "train",
    "images": np.zeros((3, 2, 2, 1), np.uint8),
    "labels": np.array([0, 1, 2]),
    "keys": None,
    "ids": np.array(["a", "b", "c"]),
    "num_classes": 3,
  }
  return {**arguments, **changes}


def test_loads_what_was_written_under_the_data_sets_own_ids(fakes):
  loaded = data.load("cifar10", data_dir=fakes, validation_examples=20)
  images, labels = fake_arrays("cifar10", 64, seed=0)
  for split in (loaded.train, loaded.validation):
    rows = [int(name.removeprefix("train_")) for name in split.ids]
    np.testing.assert_array_equal(split.images, images[rows])
    np.testing.assert_array_equal(split.labels, labels[rows])
  assert sorted([*loaded.train.ids, *loaded.validation.ids]) == [
    f"train_{i:05d}" for i in range(64)
  ]
  np.testing.assert_array_equal(np.bincount(loaded.validation.labels), [2] * 10)
  assert [part.split for part in loaded] == ["train", "validation", "test"]
  assert len(loaded.test) == 32
  assert loaded.train.keys.dtype == np.uint32
  assert len(set(loaded.train.keys)) == 44


def test_a_data_set_that_is_only_a_part_is_noted(fakes, tmp_path):
  notes = data.parts_missing("cifar10", fakes)
  assert [note.split(": ")[1] for note in notes] == [
    "64 of 50,000 train images",
    "32 of 10,000 test images",
  ]
  assert data.parts_missing("cifar10", tmp_path) == ()


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_order_of_the_prepared_files_does_not_matter(fakes, tmp_path, name):
  write_fake(name, tmp_path, reverse=True)
  first, second = ([raw["label"] for raw in _raw(name, folder)] for folder in (fakes, tmp_path))
  assert first != second  # the files do differ in order
  one = data.load(name, data_dir=fakes, validation_examples=10)
  other = data.load(name, data_dir=tmp_path, validation_examples=10)
  assert [part.fingerprint for part in one] == [part.fingerprint for part in other]
  np.testing.assert_array_equal(one.train.keys, other.train.keys)


def _raw(name, folder):
  import tensorflow_datasets as tfds

  return tfds.builder_from_directory(data.prepared_dir(name, folder)).as_data_source("train")


def test_fingerprint_follows_pixels_labels_and_ids():
  base = dataset.Dataset(**_arguments())
  changes = [
    {"images": np.ones((3, 2, 2, 1), np.uint8)},
    {"labels": np.array([0, 2, 1])},
    {"ids": np.array(["a", "b", "d"])},
  ]
  prints = {dataset.Dataset(**_arguments(**change)).fingerprint for change in changes}
  assert len({base.fingerprint, base.take(np.array([1, 0, 2])).fingerprint, *prints}) == 5
  assert base.take(np.arange(3)).fingerprint == base.fingerprint


def test_copies_of_an_example_have_ids_of_their_own():
  images = np.zeros((4, 2, 2, 1), np.uint8)
  images[2] = 1
  ids = splits.content_ids(images, np.array([5, 5, 5, 6]))
  assert len(set(ids)) == 4
  assert ids[0].removesuffix("-0") == ids[1].removesuffix("-1")


@pytest.mark.parametrize("count", [0, 1, 9, 10, 14, 22])
def test_balanced_rows_are_balanced_nested_and_free_of_order(count):
  labels = np.repeat([0, 1, 2], [10, 10, 2])
  ids = np.array([f"id{row}" for row in range(22)])
  rows = splits.balanced_rows(labels, ids, count)
  counts = np.bincount(labels[rows], minlength=3)
  assert counts.sum() == count
  assert counts[2] == min(2, counts.max()) or counts.max() - counts.min() <= 1
  assert abs(counts[0] - counts[1]) <= 1
  assert set(rows) <= set(splits.balanced_rows(labels, ids, min(count + 1, 22)))
  shuffled = np.random.default_rng(0).permutation(22)
  again = splits.balanced_rows(labels[shuffled], ids[shuffled], count)
  assert set(ids[rows]) == set(ids[shuffled][again])


def test_limit_keeps_the_validation_split_and_balances_training(fakes):
  whole = data.load("cifar10", data_dir=fakes, validation_examples=20)
  few = data.load("cifar10", data_dir=fakes, validation_examples=20, limit=20)
  np.testing.assert_array_equal(np.bincount(few.train.labels), [2] * 10)
  assert set(few.train.ids) < set(whole.train.ids)
  assert few.validation.fingerprint == whole.validation.fingerprint
  assert len(data.load("cifar10", data_dir=fakes, validation_examples=20, limit=99).train) == 44


def test_digits_prepare_themselves_once_even_when_two_processes_ask(tmp_path):
  code = (
    "import sys, kd_jax.data as data\n"
    "print(data.load('digits', data_dir=sys.argv[1], validation_examples=200).train.fingerprint)"
  )
  command = [sys.executable, "-c", code, str(tmp_path)]
  pair = [
    subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=subprocess.PIPE)
    for _ in range(2)
  ]
  (one, noise), (other, _) = (process.communicate(timeout=120) for process in pair)
  assert [process.returncode for process in pair] == [0, 0], noise
  assert one == other
  assert noise == ""  # no bars, no advice
  assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]

  loaded = data.load("digits", data_dir=tmp_path, validation_examples=200)
  assert [part.images.shape for part in loaded] == [(n, 8, 8, 1) for n in (1237, 200, 360)]
  assert loaded.train.fingerprint == one.strip()
  assert (loaded.train.images.min(), loaded.train.images.max()) == (0, 255)
  np.testing.assert_array_equal(np.bincount(loaded.test.labels), [36] * 10)
  np.testing.assert_array_equal(np.bincount(loaded.validation.labels), [20] * 10)
  images, labels, ids, _ = digits.digits_arrays()
  for part in loaded:
    rows = np.searchsorted(ids, part.ids)
    np.testing.assert_array_equal(part.images, images[rows])
    np.testing.assert_array_equal(part.labels, labels[rows])


def test_the_slower_of_two_preparations_gives_way(tmp_path, monkeypatch):
  build = digits._builder

  def overtaken(private):
    build(tmp_path).download_and_prepare()  # the other process finishes first
    return build(private)

  monkeypatch.setattr(digits, "_builder", overtaken)
  assert digits.prepare_digits(tmp_path) == tmp_path / "digits" / "1.0.0"
  assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_missing_data_is_refused_at_once_with_the_command(tmp_path, monkeypatch):
  folder = tmp_path / "my data"
  start = time.perf_counter()
  with pytest.raises(data.DatasetNotPrepared) as caught:
    data.load("cifar10", data_dir=folder, validation_examples=10)
  assert time.perf_counter() - start < 2
  assert str(caught.value) == (
    f"cifar10 is not prepared: looked for array_record files in {folder}/cifar10, found nothing. "
    f"Run: kd-jax prepare cifar10 --data-dir '{folder}'"
  )
  monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
  with pytest.raises(data.DatasetNotPrepared, match=r"kd-jax prepare mnist$"):
    data.load("mnist", validation_examples=10)
  assert not folder.exists()


def test_tensorflows_own_format_is_refused_with_the_command(tmp_path, capsys):
  folder = write_fake("mnist", tmp_path)
  info = json.loads((folder / "dataset_info.json").read_text())
  (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
  with pytest.raises(data.DatasetNotPrepared, match=r"found 3.0.1 as tfrecord. Run: kd-jax"):
    data.load("mnist", data_dir=tmp_path, validation_examples=10)
  assert run_here(prepare, "mnist", "--data-dir", str(tmp_path)) == 1
  assert f"(mv {folder} {folder}.old) and run this again" in capsys.readouterr().err
  folder.rename(f"{folder}.old")
  assert sources.prepared_formats("mnist", tmp_path) == {}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_files_are_named(tmp_path, damage):
  folder = write_fake("cifar10", tmp_path)
  (file,) = folder.glob("*-train*")
  content = bytearray(file.read_bytes())
  content[3000] ^= 1
  if damage == "missing":
    file.unlink()
  else:
    file.write_bytes(content[:5000] if damage == "truncated" else content)
  with pytest.raises(
    ValueError, match=rf"cannot read the train split in {folder}.*prepare cifar10"
  ):
    data.load("cifar10", data_dir=tmp_path, validation_examples=10)
  (folder / "dataset_info.json").write_text("{")
  with pytest.raises(ValueError, match=r"cannot read .*dataset_info.json"):
    data.load("cifar10", data_dir=tmp_path, validation_examples=10)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"validation_examples": 64}, "validation_examples=64 leaves nothing of the 64"),
    ({"validation_examples": -1}, "validation_examples=-1"),
    ({"limit": 0}, "limit=0"),
    ({"name": "imagenet"}, "unknown data set 'imagenet'; known are digits, cifar10, cifar100"),
  ],
)
def test_bad_requests_are_refused(fakes, changes, message):
  arguments = {"name": "cifar10", "data_dir": fakes, "validation_examples": 10, **changes}
  with pytest.raises(ValueError, match=message):
    data.load(arguments.pop("name"), **arguments)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"labels": np.array([0, 1, 3])}, r"labels run from 0 to 3, outside \[0, 3\)"),
    ({"labels": np.array([-1, 1, 2])}, "labels run from -1 to 2"),
    ({"labels": np.array([0.0, 1.0, 2.0])}, "labels must be integers, got float64"),
    ({"images": np.zeros((3, 2, 2, 1), np.float32)}, "images must be uint8 .* got float32"),
    ({"images": np.zeros((3, 2, 2), np.uint8)}, r"shape \(3, 2, 2\)"),
    ({"images": np.zeros((4, 2, 2, 1), np.uint8)}, "4 images but 3 labels: give one each"),
    ({"labels": np.zeros((3, 1), int)}, r"must be \[N\], got \(3, 1\): take labels\[:, 0\]"),
    ({"labels": np.eye(3, dtype=int)}, r"got \(3, 3\): take labels.argmax\(1\)"),
    ({"images": np.zeros((3, 3, 8, 8), np.uint8)}, r"channels first, .*transpose\(0, 2, 3, 1\)"),
    ({"ids": np.array(["a", "b", "a"])}, "id 'a' occurs 2 times"),
    ({"ids": np.array(["a", "b"])}, "3 images and ids of shape"),
    ({"keys": np.zeros(2, np.uint32)}, "2 keys for 3 ids"),
  ],
)
def test_bad_arrays_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataset.Dataset(**_arguments(**changes))


def test_bad_arrays_of_ones_own_are_refused_before_ids_are_made():
  images, labels = np.zeros((6, 8, 8, 1), np.uint8), np.arange(6) % 3
  for given, message in (
    ((images, labels[:, None]), r"got \(6, 1\): take labels\[:, 0\]"),
    ((images, np.eye(3, dtype=int)[labels]), r"got \(6, 3\): take labels.argmax\(1\)"),
    ((images[:4], labels), "4 images but 6 labels"),
    ((images, labels.astype(float)), "labels must be integers, got float64"),
    ((images.astype(float), labels), "images must be uint8 .* got float64"),
    ((images.reshape(6, 1, 8, 8), labels), "channels first"),
  ):
    with pytest.raises(ValueError, match=message):
      dataset.Dataset.from_arrays(*given, num_classes=3)


@pytest.mark.parametrize("size", [2.5, True, float("nan")])
def test_sizes_are_whole_numbers(fakes, size):
  for changes in ({"validation_examples": size}, {"limit": size}):
    with pytest.raises(ValueError, match=r"must be at least 0 and limit=.* at least 1"):
      data.load("cifar10", data_dir=fakes, **({"validation_examples": 10} | changes))


def test_images_of_unequal_shapes_are_refused():
  examples = [{"image": np.zeros((2, width, 1), np.uint8), "label": 0} for width in (2, 3)]
  with pytest.raises(ValueError, match=r"unequal shapes \[\(2, 2, 1\), \(2, 3, 1\)\]; resize"):
    sources.from_examples("fake", "1.0.0", "train", examples, 2)


def test_prepare_command(tmp_path, fakes, capsys, monkeypatch):
  assert run_here(prepare, "digits", "--data-dir", str(tmp_path)) == 0
  assert capsys.readouterr().out == f"digits is prepared in {tmp_path}/digits/1.0.0\n"
  assert run_here(prepare, "cifar10", "--data-dir", str(fakes)) == 0
  assert "already prepared" in capsys.readouterr().out

  monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr("tensorflow_datasets.builder", None)  # calling it would be an error of ours
  assert run_here(prepare, "cifar100", "--data-dir", str(tmp_path)) == 1
  assert "pip install tensorflow-cpu" in capsys.readouterr().err

  def no_network(*args, **kwargs):
    raise ConnectionError("no route\nto host")

  monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: name)
  monkeypatch.setattr("tensorflow_datasets.builder", no_network)
  assert run_here(prepare, "cifar100", "--data-dir", str(tmp_path)) == 1
  assert capsys.readouterr().err == "error: cannot prepare cifar100: no route to host\n"


@pytest.mark.parametrize(
  ("name", "builder"),
  [
    ("glue/rte", "glue/rte"),
    ("conll2003", "conll2003/conll2003"),
    ("en_ewt", "universal_dependencies/en_ewt"),
  ],
)
def test_prepare_texts_and_sentences(name, builder, tmp_path, capsys, monkeypatch):
  """TFDS's own builders, in the form that is read here; neither needs TensorFlow."""
  if (REAL / builder.split("/")[0]).is_dir():
    assert run_here(prepare, name, "--data-dir", str(REAL)) == 0
    assert f"{name} is already prepared in" in capsys.readouterr().out
  asked = []

  class Builder:
    data_dir = tmp_path / "made"

    def download_and_prepare(self):
      asked.append("prepared")

  def known(asked_for, *, data_dir, file_format):
    asked.append((asked_for, data_dir, file_format))
    return Builder()

  monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda module: module == "h5py" or None)
  monkeypatch.setattr("tensorflow_datasets.builder", known)
  assert run_here(prepare, name, "--data-dir", str(tmp_path)) == 0
  assert asked == [(builder, tmp_path, "array_record"), "prepared"]
  monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda module: None)
  capsys.readouterr()
  assert run_here(prepare, name, "--data-dir", str(tmp_path)) == (name == "glue/rte")
  assert ("pip install h5py" in capsys.readouterr().err) == (name == "glue/rte")


def test_importing_the_library_imports_no_data_set_code():
  code = "import sys, kd_jax.data; print('tensorflow_datasets' in sys.modules)"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert done.stdout == "False\n", done.stderr


@pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason="no ../shared/data/tfds/cifar10")
def test_real_cifar10():
  loaded = data.load("cifar10", data_dir=REAL, validation_examples=500)
  assert [len(part) for part in loaded] == [4500, 500, 1000]
  assert loaded.train.images.shape[1:] == (32, 32, 3)
  np.testing.assert_array_equal(np.bincount(loaded.train.labels), [450] * 10)
  np.testing.assert_array_equal(np.bincount(loaded.validation.labels), [50] * 10)
  assert not set(loaded.train.ids) & set(loaded.validation.ids)
  assert 110 < loaded.train.images.mean() < 130  # 120.7 over the whole set
