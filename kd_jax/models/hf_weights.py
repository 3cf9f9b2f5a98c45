"""BERT and RoBERTa weights from and to Hugging Face folders; nothing is ever unpickled.

A folder holds config.json, model.safetensors (or its shards and model.safetensors.index.json) and the
files of the tokenizer; `hf_names` lists the tensors. Left out are buffers (position_ids, token_type_ids),
heads that do not classify texts (cls.*, lm_head.*, qa_outputs.*, and classifier.* where config.json names
an architecture of another kind) and RoBERTa's pooler beside a classifier. In old files gamma and beta of
LayerNorm are its weight and bias. Every other name must be expected, and every expected name there.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.models.bert import BertConfig
from kd_jax.models.hf_config import (
  config_json,
  count_labels,
  has_classifier,
  read_config,
  read_json,
)
from kd_jax.models.hf_names import dense_entries, encoder_entries, head_names
from kd_jax.models.safetensors_files import (
  FLOATS,
  flatten,
  nest,
  open_safetensors,
  write_safetensors,
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_BUFFERS = ("position_ids", "token_type_ids")
_OTHER_HEADS = ("cls.", "lm_head.", "qa_outputs.")
# What transformers leaves next to the weights while it trains.
_OF_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*)\.")
_TOKENIZER_FILES = (
  *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
  *("vocab.txt", "vocab.json", "merges.txt"),
)


def _refuse(faults: Mapping[str, Iterable[str]], what: str) -> None:
  """One line that names the first few tensors of each fault, and counts them all."""
  parts = []
  for fault, named in faults.items():
    names = sorted(named)
    if names:
      more = f" and {len(names) - 4} more" if len(names) > 4 else ""
      parts.append(f"{len(names)} {fault}: {', '.join(names[:4])}{more}")
  if parts:
    raise ValueError(f"{what} does not fit, {'; '.join(parts)}")


def _files(folder: Path) -> list[Path]:
  """The file with the weights, or its shards."""
  if (folder / WEIGHTS).is_file():
    return [folder / WEIGHTS]
  if (folder / INDEX).is_file():
    shards = read_json(folder / INDEX).get("weight_map")
    names = sorted(map(str, set(shards.values()))) if isinstance(shards, dict) else []
    if not names or any(Path(name).name != name for name in names):
      raise ValueError(f"{folder / INDEX} names no files of its own folder: copy it again")
    return [folder / name for name in names]
  held = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
  if any(name.endswith((".bin", ".pt", ".pth")) and not _OF_TRAINING.match(name) for name in held):
    raise ValueError(
      f"{folder} holds pickled weights only, and nothing is unpickled here, since a pickle can run any "
      "program: save the model again where you trust it, with save_pretrained(folder, "
      "safe_serialization=True)"
    )
  others = [name for name in held if name.endswith((".h5", ".msgpack", ".ckpt", ".index", ".onnx"))]
  remedy = "name a folder in Hugging Face's layout"
  if others:
    remedy = (
      f"save the model of {others[0]} again as safetensors, with transformers' save_pretrained"
    )
  raise FileNotFoundError(f"there is no {folder / WEIGHTS}: {remedy}")


def _read(folder: Path, config: BertConfig, classifier: bool) -> dict[str, np.ndarray]:
  """All tensors that could be meant, by name: others are left unread."""
  tensors: dict[str, np.ndarray] = {}
  wrong, twice = [], []
  for path in _files(folder):
    with open_safetensors(path) as file:
      for held in sorted(file.keys()):
        name = held
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
          if held.endswith(f"LayerNorm{old}"):
            name = held.removesuffix(old) + new
        other = _OTHER_HEADS if classifier else (*_OTHER_HEADS, "classifier.")
        if name.split(".")[-1] in _BUFFERS or name.startswith(other):
          continue
        if name in tensors:
          twice.append(name)
        dtype = file.get_slice(held).get_dtype()
        if dtype in FLOATS:
          tensors[name] = np.asarray(file.get_tensor(held))
        else:
          wrong.append(f"{name} ({dtype})")
  faults = {
    f"not of {', '.join(FLOATS)}": wrong,
    "twice, under old and new names or in two shards": twice,
  }
  _refuse(faults, f"{folder}, read as {config.kind},")
  return tensors


def load_bert(folder: str | os.PathLike) -> dict[str, Any]:
  """Reads the weights in a Hugging Face folder as parameters of a `TextClassifier`.

  Args:
    folder: config.json and model.safetensors of a BERT or a RoBERTa, a classifier or not.

  Returns:
    {"encoder": ...} and, where the folder has them, "pooler" and "classifier": float32 NumPy arrays,
    dense kernels transposed to [inputs, outputs].

  Raises:
    FileNotFoundError: no config.json, or no weights.
    ValueError: a config that cannot be read; pickled weights only; tensors missing, extra, of another
      shape or type, or not finite: the first few are named.
  """
  folder = Path(folder)
  config = read_config(folder)
  tensors = _read(folder, config, has_classifier(folder))
  prefix = f"{config.kind}."
  if not any(name.startswith(prefix) for name in tensors):
    prefix = ""
  entries = encoder_entries(config, prefix)
  classifier = any(name.startswith("classifier.") for name in tensors)
  heads = head_names(config.kind, prefix, classifier)
  if config.kind == "roberta" and classifier:
    for leaf in ("weight", "bias"):
      tensors.pop(f"{prefix}pooler.dense.{leaf}", None)
  if any(name.startswith(heads["pooler"] + ".") for name in tensors) or classifier:
    entries |= dense_entries(heads["pooler"], config.width, config.width, "pooler")
  if classifier:
    bias = tensors.get(heads["classifier"] + ".bias", np.zeros(1))
    outputs = count_labels(folder) or bias.shape[0]
    entries |= dense_entries(heads["classifier"], outputs, config.width, "classifier")
  both = entries.keys() & tensors.keys()
  _refuse(
    {
      "missing": entries.keys() - tensors.keys(),
      "extra": tensors.keys() - entries.keys(),
      "of another shape": (
        f"{name} {list(tensors[name].shape)}, not {list(entries[name].shape)}"
        for name in both
        if tensors[name].shape != entries[name].shape
      ),
      "not finite": (name for name in both if not np.isfinite(tensors[name]).all()),
    },
    f"{folder}, read as {config.kind} of {config.layers} layers and width {config.width},",
  )
  leaves = {}
  for name, entry in entries.items():
    tensor = tensors[name].astype(np.float32)
    leaves[entry.path] = np.ascontiguousarray(tensor.T) if entry.transposed else tensor
  return nest(leaves)


def _copy_tokenizer(source: Path, folder: Path) -> None:
  found = [name for name in _TOKENIZER_FILES if (source / name).is_file()]
  if not found:
    raise ValueError(
      f"{source} holds no tokenizer (none of {', '.join(_TOKENIZER_FILES)}): name the folder that the "
      "teacher came from"
    )
  for name in found:
    if (source / name).resolve() != (folder / name).resolve():
      shutil.copyfile(source / name, folder / name)


def save_bert(
  folder: str | os.PathLike,
  params: Mapping[str, Any],
  config: BertConfig,
  *,
  tokenizer_from: str | os.PathLike | None = None,
  labels: Sequence[str] | None = None,
  regression: bool = False,
) -> None:
  """Writes parameters as a Hugging Face folder, which `load_bert` and other libraries read.

  With a classifier it is a BertForSequenceClassification (or Roberta...), else a BertModel. Loading it
  again gives the same bits. Pseudo classifiers have no place there and are left out.

  Args:
    folder: made where it does not exist; files of the same names are replaced.
    params: of a `TextClassifier` over a `BertEncoder`, float32, not replicated over devices.
    config: the encoder's sizes.
    tokenizer_from: a folder whose tokenizer files are copied, if any.
    labels: names of the C outputs; None: LABEL_0, LABEL_1, ...
    regression: whether the output is a number.

  Raises:
    ValueError: parameters that are not those of such a network, or not finite; labels that are not C
      different ones; several outputs in regression; no tokenizer in tokenizer_from.
  """
  folder = Path(folder)
  leaves = {path: np.asarray(v) for path, v in flatten(params) if path[0] != "pseudo"}
  classifier = any(path[0] == "classifier" for path in leaves)
  pooled = classifier or any(path[0] == "pooler" for path in leaves)
  prefix = f"{config.kind}." if classifier else ""
  entries = encoder_entries(config, prefix)
  heads = head_names(config.kind, prefix, classifier)
  if pooled:
    entries |= dense_entries(heads["pooler"], config.width, config.width, "pooler")
  if classifier:
    outputs = leaves.get(("classifier", "bias"), np.zeros(1)).shape[-1]
    entries |= dense_entries(heads["classifier"], outputs, config.width, "classifier")
    labels = [f"LABEL_{number}" for number in range(outputs)] if labels is None else list(labels)
    if len(labels) != outputs or len(set(labels)) != outputs:
      raise ValueError(f"labels must be {outputs} different names, one an output, got {labels}")
    if regression and outputs != 1:
      raise ValueError(f"regression has one output, got a classifier with {outputs}")
  elif labels is not None or regression:
    raise ValueError("labels and regression describe a classifier, but params have none")
  tensors = {
    name: leaves[entry.path].T if entry.transposed else leaves[entry.path]
    for name, entry in entries.items()
    if entry.path in leaves
  }
  places = {entry.path for entry in entries.values()}
  _refuse(
    {
      "missing": ("/".join(path) for path in places - leaves.keys()),
      "extra": ("/".join(path) for path in leaves.keys() - places),
      "of another shape or type": (
        f"{name} {tensor.dtype}{list(tensor.shape)}, not float32{list(entries[name].shape)}"
        for name, tensor in tensors.items()
        if tensor.shape != entries[name].shape or tensor.dtype != np.float32
      ),
      "not finite": (name for name, tensor in tensors.items() if not np.isfinite(tensor).all()),
    },
    f"the network to save as {config.kind} of {config.layers} layers and width {config.width}",
  )
  folder.mkdir(parents=True, exist_ok=True)
  if tokenizer_from is not None:
    _copy_tokenizer(Path(tokenizer_from), folder)
  said = config_json(config, labels, regression=regression)
  (folder / "config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
  write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
