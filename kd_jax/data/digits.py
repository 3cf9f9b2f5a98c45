"""scikit-learn's 1,797 handwritten digits as a TFDS data set: the embedded default.

The images ship with scikit-learn, so nothing is downloaded, and they reach TFDS as Pillow
images, which it encodes to PNG without TensorFlow.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax._extras import extra
from kd_jax.data.quiet import quiet_tfds
from kd_jax.data.splits import balanced_rows

NAME = "digits"
VERSION = "1.0.0"
TEST_EXAMPLES = 360


def digits_arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Reads the digits: pixel = floor(255 · intensity / 16) for intensities 0 to 16.

  Returns:
    (images [1797, 8, 8, 1] uint8, labels [1797] int64, ids [1797] str such as "digits_0042",
    by scikit-learn's row number, test rows [360]: 36 of each class, those with the lowest
    hash of their id).

  >>> images, labels, ids, test_rows = digits_arrays()
  >>> images.shape, int(images.max()), len(test_rows)
  ((1797, 8, 8, 1), 255, 360)
  """
  with extra("data"):
    from sklearn.datasets import load_digits

  digits = load_digits()
  images = (digits.images.astype(np.int64) * 255 // 16).astype(np.uint8)[..., None]
  labels = digits.target.astype(np.int64)
  ids = np.array([f"digits_{row:04d}" for row in range(len(labels))])
  return images, labels, ids, balanced_rows(labels, ids, TEST_EXAMPLES)


def _builder(data_dir: Path) -> Any:
  with extra("data"):
    import tensorflow_datasets as tfds
    from PIL import Image

  images, labels, ids, test_rows = digits_arrays()
  train_rows = np.setdiff1d(np.arange(len(labels)), test_rows)

  def examples(rows):
    for row in rows:
      image = Image.fromarray(images[row, ..., 0])
      yield ids[row], {"id": str(ids[row]), "image": image, "label": int(labels[row])}

  # TFDS takes the keyword in a base class that its annotations do not show.
  class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Handwritten digits, 8x8, grey."""

    name = NAME
    VERSION = tfds.core.Version(VERSION)

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        description="Handwritten digits, 8x8 grey, as shipped with scikit-learn.",
        homepage="https://archive.ics.uci.edu/dataset/80",
        features=tfds.features.FeaturesDict(
          {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
          }
        ),
        supervised_keys=("image", "label"),
      )

    def _split_generators(self, dl_manager):
      return {"train": examples(train_rows), "test": examples(test_rows)}

    def _generate_examples(self):
      raise NotImplementedError("each split brings its own generator")

  return Digits(data_dir=data_dir, file_format="array_record")


def prepare_digits(data_dir: Path) -> Path:
  """Writes the digits below `data_dir` as array_record, unless that is done already.

  Safe when several processes do it at once: each writes a private folder and moves it into
  place in one step; whoever comes second throws its copy away.

  Args:
    data_dir: TFDS's data directory.

  Returns:
    The prepared folder, data_dir/digits/1.0.0.

  Raises:
    ValueError: `data_dir` cannot be written.
  """
  target = Path(data_dir) / NAME / VERSION
  if (target / "dataset_info.json").exists():
    return target
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    private = Path(tempfile.mkdtemp(prefix=".preparing-", dir=target.parent))
  except OSError as error:
    raise ValueError(
      f"cannot write {target.parent} ({error.strerror}); name a writable folder by "
      "--data-dir or the variable TFDS_DATA_DIR"
    ) from error
  try:
    with quiet_tfds():
      _builder(private).download_and_prepare()
    try:
      os.rename(private / NAME / VERSION, target)
    except OSError:
      if not (target / "dataset_info.json").exists():
        raise
  finally:
    shutil.rmtree(private, ignore_errors=True)
  return target
