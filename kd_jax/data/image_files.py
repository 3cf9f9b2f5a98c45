"""Images of one's own: folders of class folders, or NumPy's .npz files.

A folder holds one folder for each class, with its PNG, JPEG, BMP or WebP files. An .npz file holds `images`,
uint8 [N, H, W] or [N, H, W, D], `labels` [N], and perhaps `class_names`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_jax._sizes import is_whole
from kd_jax._text_files import look_alikes
from kd_jax.data._image_reading import Form, Read, common_form, plain_images, read, sources
from kd_jax.data.dataset import Dataset
from kd_jax.data.splits import balanced_rows, content_ids, hash_ids

_MOST_HELD_OUT = 1000
_NAMED = 3


class ImageSplits(NamedTuple):
  """Images of one's own.

  Attributes:
    train, validation, test: the splits.
    class_names: C names, in the order of the labels.
    notes: what a user should know of how they were read, a line each.
  """

  train: Dataset
  validation: Dataset
  test: Dataset
  class_names: tuple[str, ...]
  notes: tuple[str, ...]


def read_image_files(
  files: Sequence[str | Path],
  *,
  image_size: int | None = None,
  colour: bool | None = None,
  skip_malformed: bool = False,
  validation_examples: int | None = None,
  limit: int | None = None,
) -> ImageSplits:
  """Reads images and their classes.

  Classes are those of the training images: in the order of the numbers if all names are integers, else
  alphabetical. Rows come in the order of a hash of the image and its class: every run holds out the same.

  Args:
    files: folders or .npz files with the training, the validation and the test images; of two, the second is
      the test. Of one, which may be a folder of folders `train`, `test` and perhaps `validation`, a fifth is
      the test otherwise.
    image_size: height and width: the shorter side is resized to it, and the middle cut out. None keeps images
      that are all of one size; others become 32 × 32.
    colour: three channels, or else one; None: one if every training image is grey.
    skip_malformed: leave images out that cannot be read.
    validation_examples: how many training images to hold out, balanced over the classes, if no path has them;
      None takes a tenth, at most 1,000.
    limit: at most so many training images, balanced over the classes; None keeps all.

  Returns:
    The splits.

  Raises:
    ValueError: paths that hold no images, files that cannot be read, arrays of another form, classes that the
      training images lack, a single class, or sizes that cannot be.

  References:
    The layout of folders is that of torchvision's ImageFolder.
  """
  paths = sources(files)
  if image_size is not None and not (is_whole(image_size, 2) and image_size <= 1024):
    raise ValueError(f"image_size must be from 2 to 1024, got {image_size}")
  if limit is not None and not is_whole(limit):
    raise ValueError(f"limit must be at least 1, or None for all training images; got {limit}")
  if "validation" in paths and validation_examples is not None:
    raise ValueError(
      f"{paths['validation']} has the validation images: leave validation_examples={validation_examples} out"
    )
  form = common_form(paths["train"], image_size, colour)
  found = {split: read(path, form, skip_malformed) for split, path in paths.items()}
  notes = [note for each in found.values() for note in each.notes]
  class_names = _class_names(found["train"])
  name = paths["train"].stem if paths["train"].suffix else paths["train"].name
  sets = {split: _dataset(name, split, each, class_names) for split, each in found.items()}
  if "test" not in sets:
    count = -(-len(sets["train"]) // 5)
    sets["train"], sets["test"] = _held_out(sets["train"], "test", count)
    notes.append(f"a fifth of {paths['train'].name}, {count:,} images, is held out as the test")
  if "validation" not in sets:
    size = len(sets["train"])
    tenth = max(min(-(-size // 10), _MOST_HELD_OUT), min(len(class_names), size - 1))
    count = tenth if validation_examples is None else validation_examples
    if not is_whole(count) or count >= size:
      raise ValueError(
        f"validation_examples must be at least 1 and below the {size} training images, got {count}"
      )
    sets["train"], sets["validation"] = _held_out(sets["train"], "validation", count)
  train = sets["train"]
  for split in ("validation", "test"):
    known = set(_without_copies(train.ids))
    repeated = sum(name in known for name in _without_copies(sets[split].ids))
    if repeated:
      notes.append(
        f"{repeated:,} of the {len(sets[split]):,} {split} images are among the training images"
      )
  if limit is not None:
    train = train.take(balanced_rows(train.labels, train.ids, limit))
  return ImageSplits(train, sets["validation"], sets["test"], class_names, tuple(notes))


def read_unlabelled_images(
  files: Sequence[str | Path], shape: tuple[int, int, int]
) -> tuple[list[str], np.ndarray]:
  """Reads images without classes, in the form that a network reads.

  Args:
    files: image files, folders that hold them at any depth, or .npz files with `images`.
    shape: (H, W, D) to bring them to, D = 1 or 3.

  Returns:
    what each is called (its path, or file and number), and images [N, H, W, D] uint8.

  Raises:
    ValueError: paths that are not there or hold no images, or images that cannot be read.
  """
  form = Form(shape[:2], shape[2] == 1)
  parts = [plain_images(Path(file).expanduser(), form) for file in files]
  names = [name for found, _ in parts for name in found]
  return names, np.concatenate([images for _, images in parts])


# Splits.


def _class_names(train: Read) -> tuple[str, ...]:
  names = sorted(set(train.names.tolist()))
  if len(names) < 2:
    raise ValueError(f"{train.path} has images of one class, {names[0]!r}: two are needed")
  for other, name in look_alikes(names):
    raise ValueError(f"classes {other!a} and {name!a} of {train.path.name} look alike: rename one")
  try:
    return tuple(sorted(names, key=int))
  except ValueError:
    return tuple(names)


def _dataset(name: str, split: str, held: Read, class_names: Sequence[str]) -> Dataset:
  numbers = {label: number for number, label in enumerate(class_names)}
  if unknown := sorted(set(held.names.tolist()) - set(numbers)):
    raise ValueError(
      f"{held.path} has classes that the training images lack: {', '.join(map(repr, unknown[:_NAMED]))}; the "
      f"training images have {', '.join(map(repr, class_names[:10]))}"
    )
  labels = np.array([numbers[label] for label in held.names.tolist()], np.int32)
  ids = content_ids(held.images, labels)
  rows = np.lexsort((ids, hash_ids(_without_copies(ids))[0]))
  return Dataset(
    name, "0", split, held.images[rows], labels[rows], None, ids[rows], len(class_names)
  )


def _without_copies(ids: np.ndarray) -> list[str]:
  """Ids without the number that tells copies of one image apart."""
  return [one.rpartition("-")[0] for one in ids.tolist()]


def _held_out(whole: Dataset, split: str, count: int) -> tuple[Dataset, Dataset]:
  """The rest, and as many of each class as there are, lowest hashes first."""
  chosen = np.zeros(len(whole), bool)
  chosen[balanced_rows(whole.labels, whole.ids, count)] = True
  if chosen.all():
    raise ValueError(f"{whole.name} has {len(whole)} images: too few to hold {count} out")
  return whole.take(~chosen), dataclasses.replace(whole.take(chosen), split=split)
