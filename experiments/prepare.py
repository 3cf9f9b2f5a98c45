"""Prepares a data set for reading without TensorFlow.

    python -m experiments.prepare NAME

The one place that downloads. `digits` needs neither network nor TensorFlow; the official builders
of the other images unpack their archives and encode them with TensorFlow, once.
"""

import dataclasses
import importlib.util
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kd_jax._extras import extra
from kd_jax.data import corpora, digits, glue, sources

from .command_line import console
from .command_line.asking import ask

IMAGES = ("digits", "cifar10", "cifar100", "mnist", "fashion_mnist")
SENTENCES = {"conll2003": "conll2003/conll2003", "en_ewt": "universal_dependencies/en_ewt"}
"""Corpora by name: what TFDS calls them."""
TEXTS = tuple(f"glue/{task}" for task in glue.TASKS)
NAMES = (*IMAGES, *SENTENCES, *TEXTS)


@dataclasses.dataclass(frozen=True)
class Options:
  """Downloads a data set and writes it in the form that kd_jax reads."""

  name: Annotated[Literal[NAMES], tyro.conf.Positional]
  """Which data set."""
  data_dir: Path | None = None
  """TFDS's data directory; by default $TFDS_DATA_DIR, or ~/tensorflow_datasets."""


def main(argv: Sequence[str] | None = None) -> int:
  options = ask(Options, argv, "prepare")
  root = sources.default_data_dir() if options.data_dir is None else options.data_dir.expanduser()
  try:
    ready = prepared_dir(options.name, root)
    if ready is not None:
      console.say(f"{options.name} is already prepared in {ready}")
      return 0
    folder = _prepare(options.name, root)
  except Exception as error:  # downloads fail in many ways; the user needs one readable line
    reason = str(error) or type(error).__name__
    raise ValueError(f"cannot prepare {options.name}: {reason}") from error
  console.say(f"{options.name} is prepared in {folder}")
  return 0


def prepared_dir(name: str, root: Path) -> Path | None:
  """The folder of a data set that can be read, or None."""
  if name in IMAGES:
    return sources.prepared_dir(name, root)
  if name in SENTENCES:
    return corpora.prepared_dir(name, root)
  return glue.prepared_dir(name.removeprefix("glue/"), root)


def _prepare(name: str, root: Path) -> Path:
  """Writes the data set below `root`; returns its folder."""
  if name in IMAGES:
    return _prepare_images(name, root)
  if name in TEXTS and importlib.util.find_spec("h5py") is None:
    raise ValueError(
      "TFDS reads GLUE's description with h5py: `pip install h5py`, and run this again"
    )
  return _download(name, SENTENCES.get(name, name), root)


def _prepare_images(name: str, root: Path) -> Path:
  others = sources.prepared_formats(name, root)
  if others:
    folder, formats = next(iter(others.items()))
    raise ValueError(
      f"{folder} holds {'/'.join(sorted(formats))} files, which only TensorFlow reads; move them "
      f"away (mv {shlex.quote(str(folder))} {shlex.quote(f'{folder}.old')}) and run this again"
    )
  if name == digits.NAME:
    return digits.prepare_digits(root)
  if importlib.util.find_spec("tensorflow") is None:
    raise ValueError(
      "TensorFlow is needed for this one-off step (TFDS unpacks and encodes with it); "
      "`pip install tensorflow-cpu`, and run this again"
    )
  return _download(name, name, root)


def _download(name: str, builder_name: str, root: Path) -> Path:
  with extra("data"):
    import tensorflow_datasets as tfds

  logging.getLogger("urllib3").setLevel(logging.ERROR)  # it announces each of its 40 retries
  console.say(f"downloading {name}; without a connection this gives up after 4 minutes")
  builder = tfds.builder(builder_name, data_dir=root, file_format=sources.FILE_FORMAT)
  builder.download_and_prepare()
  return Path(builder.data_dir)


if __name__ == "__main__":
  sys.exit(console.run(main))
