"""config.json of Hugging Face folders: the sizes of a network, and the names of its labels."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_jax.models.bert import BertConfig

# Name in config.json of each field of BertConfig.
_FIELDS = {
  "vocab_size": "vocab_size",
  "width": "hidden_size",
  "layers": "num_hidden_layers",
  "heads": "num_attention_heads",
  "hidden": "intermediate_size",
  "max_positions": "max_position_embeddings",
  "type_vocab_size": "type_vocab_size",
  "pad_id": "pad_token_id",
  "norm_epsilon": "layer_norm_eps",
}
# What transformers takes where config.json is silent: it may leave its own defaults out.
_SILENT = {"type_vocab_size": 2, "layer_norm_eps": 1e-12}
_PAD_IDS = {"bert": 0, "roberta": 1}
_FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
_CLASSIFIER = "ForSequenceClassification"


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no JSON object in it.
  """
  if not path.is_file():
    raise FileNotFoundError(f"there is no {path}: name a folder in Hugging Face's layout")
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{path} is not JSON ({error}): copy it again") from error
  if not isinstance(value, dict):
    raise ValueError(f"{path} holds a {type(value).__name__}, not an object: copy it again")
  return value


def read_config(folder: str | os.PathLike) -> BertConfig:
  """The sizes of the BERT or RoBERTa in a Hugging Face folder.

  Args:
    folder: with a config.json.

  Raises:
    FileNotFoundError: no config.json.
    ValueError: another kind of network, one with parts that the encoder lacks (another activation,
      relative positions), or sizes that are absent or do not go together.
  """
  path = Path(folder) / "config.json"
  said = {name: value for name, value in read_json(path).items() if value is not None}
  kind = said.get("model_type")
  if kind is None:
    raise ValueError(f'{path} does not say its model_type: add "model_type": "bert" or "roberta"')
  if kind not in _PAD_IDS:
    raise ValueError(f"{path} describes a {kind!r} network: only bert and roberta can be read")
  for name, value in _FIXED.items():
    if said.get(name, value) != value:
      raise ValueError(f"{path} says {name} {said[name]!r}: only {value!r} can be read")
  said = {**_SILENT, "pad_token_id": _PAD_IDS[kind], **said}
  absent = [name for name in _FIELDS.values() if name not in said]
  if absent:
    raise ValueError(f"{path} does not say {', '.join(absent)}: copy it again")
  for name in _FIELDS.values():
    wanted = (int, float) if name == "layer_norm_eps" else int
    if not isinstance(said[name], wanted) or isinstance(said[name], bool):
      raise ValueError(f"{path} says {name} {said[name]!r}, which is no number: correct it")
  try:
    return BertConfig(kind, **{field: said[name] for field, name in _FIELDS.items()})
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def has_classifier(folder: str | os.PathLike) -> bool:
  """Whether config.json allows a classification head: names one, or names no architecture.

  Tensors called classifier.* belong to heads of other kinds too (of tokens, of choices).
  """
  architectures = read_json(Path(folder) / "config.json").get("architectures") or [_CLASSIFIER]
  return any(str(name).endswith(_CLASSIFIER) for name in architectures)


def _id2label(folder: str | os.PathLike) -> list[str] | None:
  """The labels that config.json lists, placeholders included."""
  path = Path(folder) / "config.json"
  listed = read_json(path).get("id2label")
  if not listed:
    return None
  if not isinstance(listed, dict):
    raise ValueError(f"{path} says id2label {listed!r:.60}: it must map numbers to names")
  names = {str(number): str(name) for number, name in listed.items()}
  absent = [number for number in range(len(names)) if str(number) not in names]
  if absent:
    raise ValueError(
      f"{path} lists {len(names)} labels in id2label but none with number {absent[0]}: number "
      "them 0, 1, ..."
    )
  return [names[str(number)] for number in range(len(names))]


def read_labels(folder: str | os.PathLike) -> list[str] | None:
  """The names of the classes in their order; None where config.json names none.

  Placeholders (LABEL_0, LABEL_1, ...) are no names.

  Args:
    folder: with a config.json.

  Raises:
    FileNotFoundError: no config.json.
    ValueError: labels that are not numbered 0, 1, ...
  """
  labels = _id2label(folder)
  placeholders = labels == [f"LABEL_{number}" for number in range(len(labels or ()))]
  return None if placeholders else labels


def count_labels(folder: str | os.PathLike) -> int | None:
  """How many outputs config.json says that the classifier has; None where it does not say."""
  labels = _id2label(folder)
  if labels is not None:
    return len(labels)
  path = Path(folder) / "config.json"
  number = read_json(path).get("num_labels")
  if number is not None and (not isinstance(number, int) or number < 1):
    raise ValueError(f"{path} says num_labels {number!r}: it must be a number of outputs")
  return number


def problem_type(folder: str | os.PathLike) -> str | None:
  """What config.json says that the classifier answers: None where it does not say."""
  return read_json(Path(folder) / "config.json").get("problem_type")


def config_json(
  config: BertConfig, labels: Sequence[str] | None, *, regression: bool = False
) -> Mapping[str, Any]:
  """What config.json says of a network; labels None: an encoder without classifier."""
  name = {"bert": "Bert", "roberta": "Roberta"}[config.kind]
  said: dict[str, Any] = {
    "architectures": [name + ("Model" if labels is None else _CLASSIFIER)],
    "model_type": config.kind,
    **{said: getattr(config, field) for field, said in _FIELDS.items()},
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
  }
  if labels is not None:
    said["id2label"] = {str(number): name for number, name in enumerate(labels)}
    said["label2id"] = {name: number for number, name in enumerate(labels)}
    said["problem_type"] = "regression" if regression else "single_label_classification"
  return said
