"""Small random data sets in TFDS's own format, under official names, for tests without network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd_jax.data.quiet import quiet_tfds

SHAPES = {
  "cifar10": (32, 32, 3),
  "cifar100": (32, 32, 3),
  "mnist": (28, 28, 1),
  "fashion_mnist": (28, 28, 1),
}


def fake_arrays(
  name: str, count: int, seed: int, *, shift: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Draws `count` images: a fixed random picture per class plus noise, labels in turn.

  Args:
    name: a key of SHAPES.
    count: number of images.
    seed: of the noise; the pictures of the classes depend on `name` alone.
    shift: added to every pixel (modulo 256), to make another data set of the same ids.

  Returns:
    (images [count, H, W, D] uint8, labels [count] int64).
  """
  num_classes = 100 if name == "cifar100" else 10
  means = np.random.default_rng(sum(map(ord, name))).integers(40, 216, (num_classes, *SHAPES[name]))
  labels = np.arange(count) % num_classes
  noise = np.random.default_rng(seed).integers(-40, 40, (count, *SHAPES[name]))
  return ((means[labels] + noise + shift) % 256).astype(np.uint8), labels


def write_fake(
  name: str,
  data_dir: str | Path,
  train: int = 64,
  test: int = 32,
  seed: int = 0,
  shift: int = 0,
  *,
  reverse: bool = False,
) -> Path:
  """Prepares a tiny data set that TFDS takes for the official one.

  Args:
    name: cifar10, cifar100, mnist or fashion_mnist.
    data_dir: TFDS's data directory.
    train: number of training images.
    test: number of test images.
    seed: of the noise in the images.
    shift: see `fake_arrays`.
    reverse: give the rows to TFDS in the opposite order, under keys that sort differently.

  Returns:
    The version folder.
  """
  import tensorflow_datasets as tfds
  from PIL import Image

  base = tfds.builder_cls(name)

  def examples(split, count, split_seed):
    images, labels = fake_arrays(name, count, split_seed, shift=shift)
    for row in range(count)[::-1] if reverse else range(count):
      pixels = images[row] if images.shape[-1] == 3 else images[row, ..., 0]
      example = {"image": Image.fromarray(pixels), "label": int(labels[row])}
      if name.startswith("cifar"):
        example["id"] = f"{split}_{row:05d}"
      if name == "cifar100":
        example["coarse_label"] = 0
      yield (f"reversed {row}" if reverse else row), example

  class Fake(base, skip_registration=True):
    """Random images under an official name."""

    def _split_generators(self, dl_manager):
      for feature, size in (("label", 100 if name == "cifar100" else 10), ("coarse_label", 20)):
        if feature in self.info.features and not self.info.features[feature].num_classes:
          self.info.features[feature].names = [f"{feature}_{i}" for i in range(size)]
      return {
        "train": examples("train", train, 2 * seed),
        "test": examples("test", test, 2 * seed + 1),
      }

    def _generate_examples(self):
      raise NotImplementedError("each split brings its own generator")

  Fake.name = name
  builder = Fake(data_dir=data_dir, file_format="array_record")
  with quiet_tfds():
    builder.download_and_prepare()
  return Path(builder.data_dir)


def write_fake_glue(
  task: str,
  data_dir: str | Path,
  splits: dict[str, Sequence[dict]],
  *,
  class_names: Sequence[str],
  file_format: str = "array_record",
) -> Path:
  """Prepares a task of GLUE with rows of one's own, in the folders of the official one.

  Args:
    task: the name of the configuration.
    data_dir: TFDS's data directory.
    splits: rows of each split, with texts, `label` and `idx`.
    class_names: empty for numbers.
    file_format: that TFDS writes.

  Returns:
    The version folder.
  """
  import tensorflow_datasets as tfds

  first = next(iter(splits.values()))[0]
  features = {
    field: tfds.features.Text() for field, value in first.items() if isinstance(value, str)
  }
  features["idx"] = np.int32
  features["label"] = (
    tfds.features.ClassLabel(names=list(class_names)) if class_names else np.float32
  )

  class Glue(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Invented texts."""

    name = "glue"
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=task)]  # noqa: RUF012

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {split: enumerate(rows) for split, rows in splits.items()}

    def _generate_examples(self):
      raise NotImplementedError("each split brings its own generator")

  with quiet_tfds():
    builder = Glue(config=task, data_dir=data_dir, file_format=file_format)
    builder.download_and_prepare()
  return Path(builder.data_dir)
