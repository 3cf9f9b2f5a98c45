"""Reading prepared TFDS data sets into NumPy arrays, without TensorFlow and without network."""

import dataclasses
import json
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_jax._extras import extra
from kd_jax._sizes import is_whole
from kd_jax.data import digits
from kd_jax.data.dataset import Dataset
from kd_jax.data.quiet import quiet_tfds
from kd_jax.data.splits import balanced_rows, content_ids, hash_ids

KNOWN = ("digits", "cifar10", "cifar100", "mnist", "fashion_mnist")
OFFICIAL = {
  "cifar10": {"train": 50_000, "test": 10_000},
  "cifar100": {"train": 50_000, "test": 10_000},
  "mnist": {"train": 60_000, "test": 10_000},
  "fashion_mnist": {"train": 60_000, "test": 10_000},
}
"""Images of the official splits."""
FILE_FORMAT = "array_record"  # the one format that TFDS reads without TensorFlow
_CHUNK = 1024


class DatasetNotPrepared(ValueError):
  """The data set is not on disk in a form that can be read."""


class Splits(NamedTuple):
  """The three splits of one data set."""

  train: Dataset
  validation: Dataset
  test: Dataset


def default_data_dir() -> Path:
  """Returns TFDS's own default: $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
  return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def check_name(name: str) -> str:
  """Returns `name` if it is a known data set; raises ValueError listing the known ones."""
  if name not in KNOWN:
    raise ValueError(f"unknown data set {name!r}; known are {', '.join(KNOWN)}")
  return name


def prepared_formats(name: str, data_dir: str | Path | None = None) -> dict[Path, set[str]]:
  """Finds the prepared versions of a data set and the file formats that each is stored in.

  Args:
    name: one of `KNOWN`.
    data_dir: TFDS's data directory; None means `default_data_dir()`.

  Returns:
    Version folder -> formats, newest version first; empty where nothing is prepared.
  """
  root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
  found = prepared_versions([root / check_name(name)])
  return {p: f for p, f in found.items() if name != "digits" or p.name == digits.VERSION}


def prepared_versions(folders: Iterable[Path]) -> dict[Path, set[str]]:
  """The version folders below some folders and the file formats of each, newest version first.

  Raises:
    ValueError: a damaged `dataset_info.json`.
  """
  found = {}
  for file in (file for folder in folders for file in folder.glob("*.*.*/dataset_info.json")):
    if not file.parent.name.replace(".", "").isdigit():
      continue
    try:
      info = json.loads(file.read_text(encoding="utf-8-sig"))
      formats = {info.get("fileFormat"), *info.get("alternativeFileFormats", ())}
    except (OSError, ValueError, AttributeError) as error:
      raise ValueError(f"cannot read {file}: {error}; delete {file.parent}") from error
    found[file.parent] = formats - {None}
  newest_first = sorted(found, key=lambda path: [*map(int, path.name.split("."))], reverse=True)
  return {path: found[path] for path in newest_first}


def prepared_dir(name: str, data_dir: str | Path | None = None) -> Path | None:
  """Returns the newest version folder that can be read without TensorFlow, or None."""
  return _readable(prepared_formats(name, data_dir))


def newest_prepared(folders: Iterable[Path]) -> Path | None:
  """The newest version below some folders that can be read without TensorFlow, or None.

  Raises:
    ValueError: a damaged `dataset_info.json`.
  """
  return _readable(prepared_versions(folders))


def _readable(versions: dict[Path, set[str]]) -> Path | None:
  return next((path for path, formats in versions.items() if FILE_FORMAT in formats), None)


def load(
  name: str,
  *,
  data_dir: str | Path | None = None,
  validation_examples: int,
  limit: int | None = None,
) -> Splits:
  """Loads a data set and holds a validation split out of its official train split.

  Rows come in the order of a hash of their ids, whatever the order on disk. Validation
  rows are chosen by the same hash, balanced over the classes: every run holds out the same.
  `digits` is prepared on first use; other data sets are never prepared or downloaded here.

  Args:
    name: one of `KNOWN`.
    data_dir: TFDS's data directory; None means $TFDS_DATA_DIR or ~/tensorflow_datasets.
    validation_examples: size of the validation split, 0 to the train split's size less 1.
    limit: at most so many training rows, balanced over the classes; None keeps all.

  Returns:
    Train, validation and (the official) test split.

  Raises:
    DatasetNotPrepared: not on disk, or in TensorFlow's own format only.
    ValueError: unknown name, sizes that cannot be, or damaged files.
  """
  root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
  if not is_whole(validation_examples, 0) or (limit is not None and not is_whole(limit)):
    raise ValueError(
      f"validation_examples={validation_examples} must be at least 0 and limit={limit} "
      "at least 1 (or None)"
    )
  folder = prepared_dir(name, root)
  if folder is None:
    _refuse_unless_digits(name, root, data_dir)
    folder = digits.prepare_digits(root)
  with quiet_tfds():
    train = _read(name, folder, "train")
    test = _read(name, folder, "test")
  if validation_examples >= len(train):
    raise ValueError(
      f"validation_examples={validation_examples} leaves nothing of the {len(train)} "
      f"training examples of {name}; choose a smaller number"
    )
  held_out = np.zeros(len(train), bool)
  held_out[balanced_rows(train.labels, train.ids, validation_examples)] = True
  validation = dataclasses.replace(train.take(held_out), split="validation")
  train = train.take(~held_out)
  if limit is not None:
    train = train.take(balanced_rows(train.labels, train.ids, limit))
  return Splits(train, validation, test)


def _refuse_unless_digits(name: str, root: Path, data_dir: str | Path | None) -> None:
  """Raises DatasetNotPrepared, with the command that helps, for all that digits is not."""
  versions = prepared_formats(name, root)
  if name == "digits" and not versions:
    return
  found = ", ".join(f"{path.name} as {'/'.join(sorted(versions[path]))}" for path in versions)
  raise DatasetNotPrepared(
    f"{name} is not prepared: looked for {FILE_FORMAT} files in {root / name}, found "
    f"{found or 'nothing'}. Run: {prepare_command(name, data_dir)}"
  )


def prepare_command(name: str, data_dir: str | Path | None) -> str:
  """The command that prepares a data set there.

  >>> prepare_command("glue/rte", "my data")
  "kd-jax prepare glue/rte --data-dir 'my data'"
  """
  option = "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"
  return f"kd-jax prepare {name}{option}"


def parts_missing(name: str, data_dir: str | Path | None = None) -> tuple[str, ...]:
  """A note for each split that is prepared with fewer images than the official one; reads no image.

  Args:
    name: one of `KNOWN`.
    data_dir: TFDS's data directory; None means `default_data_dir()`.
  """
  folder = prepared_dir(name, data_dir)
  if folder is None:
    return ()
  info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8-sig"))
  counts = {
    split["name"]: sum(map(int, split.get("shardLengths", ()))) for split in info.get("splits", ())
  }
  return tuple(
    f"only a part of {name} is prepared in {folder}: {counts[split]:,} of {official:,} {split} images"
    for split, official in OFFICIAL.get(name, {}).items()
    if counts.get(split, official) < official
  )


def _read(name: str, folder: Path, split: str) -> Dataset:
  """Decodes one split into arrays; about 0.2 ms an image, so whole CIFAR takes some 12 s."""
  with extra("data"):
    import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder, file_format=FILE_FORMAT)
    expected = builder.info.splits[split].num_examples
    num_classes = builder.info.features["label"].num_classes
    source = builder.as_data_source(split=split)
    if len(source) != expected:
      raise ValueError(f"{len(source)} of {expected} examples")
    examples = []
    for start in range(0, expected, _CHUNK):
      examples += source.__getitems__(list(range(start, min(start + _CHUNK, expected))))
  except Exception as error:  # readers raise many kinds; all mean the same to the user
    raise ValueError(
      f"cannot read the {split} split in {folder}: {error}; delete that folder and prepare "
      f"{name} again"
    ) from error
  return from_examples(name, folder.name, split, examples, num_classes)


def from_examples(
  name: str, version: str, split: str, examples: list[dict], num_classes: int
) -> Dataset:
  """Builds a `Dataset`, sorted by the hash of the ids, from decoded TFDS examples.

  Args:
    name: of the data set.
    version: of its prepared form.
    split: "train" or "test".
    examples: dicts with `image`, `label` and, where the data set has ids, `id`.
    num_classes: C.

  Returns:
    The data set; ids are the examples' own, or hashes of their contents.

  Raises:
    ValueError: images of unequal shapes, or anything that `Dataset` refuses.
  """
  if not examples:
    raise ValueError(f"{name} {split}: no examples; prepare the data set again")
  shapes = {np.shape(example["image"]) for example in examples}
  if len(shapes) > 1:
    raise ValueError(
      f"{name} {split}: images of unequal shapes {sorted(shapes)}; resize them to one"
    )
  images = np.stack([example["image"] for example in examples])
  labels = np.asarray([example["label"] for example in examples])
  if "id" in examples[0]:
    ids = np.array([np.asarray(example["id"]).item() for example in examples])
    ids = np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids
  else:
    ids = content_ids(images, labels)
  rows = np.lexsort((ids, hash_ids(ids)[0]))
  return Dataset(name, version, split, images[rows], labels[rows], None, ids[rows], num_classes)
