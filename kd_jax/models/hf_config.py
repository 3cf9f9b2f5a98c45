"""config.json of Hugging Face folders: the sizes of a network, and the names of its labels."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_jax._text_files import parse_json, read_text
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
# Classes of transformers whose heads, if any, do not classify texts.
_OTHER_HEADS = re.compile(
  r".*(Model|For(PreTraining|(Masked|Causal)LM|MultipleChoice|NextSentencePrediction|QuestionAnswering|"
  r"TokenClassification))"
)


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no JSON object in it.
  """
  if not path.is_file():
    raise FileNotFoundError(f"there is no {path}: name a folder in Hugging Face's layout")
  text = read_text(path).text
  try:
    value = parse_json(text)
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
  """Whether config.json allows a classification head: unless all classes that it names are of another kind.

  Tensors called classifier.* belong to heads of other kinds too (of tokens, of choices).

  Raises:
    ValueError: architectures that are no names.
  """
  path = Path(folder) / "config.json"
  named = read_json(path).get("architectures") or [_CLASSIFIER]
  architectures = [named] if isinstance(named, str) else named
  if not isinstance(architectures, list) or not all(isinstance(n, str) for n in architectures):
    raise ValueError(f"{path} says architectures {named!r:.60}: it must be a list of names")
  return not all(_OTHER_HEADS.fullmatch(name) for name in architectures)


def _labels(folder: str | os.PathLike) -> list[str] | None:
  """The labels that config.json lists, placeholders included, in their order.

  Raises:
    ValueError: id2label, label2id and num_labels that contradict each other, or are not of their form.
  """
  path = Path(folder) / "config.json"
  said = read_json(path)
  by_number, by_name = (_mapping(path, said, name) for name in ("id2label", "label2id"))
  names = _numbered(path, "id2label", {str(n): str(name) for n, name in by_number.items()})
  others = _numbered(path, "label2id", {str(n): name for name, n in by_name.items()})
  if len(others) < len(by_name):
    raise ValueError(f"{path} gives two labels of label2id one number: correct it")
  if names and others:
    named = not (_is_placeholders(names) or _is_placeholders(others))
    differ = [one.casefold() for one in names] != [one.casefold() for one in others]
    if len(names) != len(others) or (named and differ):
      raise ValueError(
        f"{path} contradicts itself: id2label has {names!r:.60}, label2id {others!r:.60}: correct one"
      )
  found = others if not names or (others and _is_placeholders(names)) else names
  number = _num_labels(path, said)
  if found and number is not None and number != len(found):
    raise ValueError(f"{path} says num_labels {number} but lists {len(found)} labels: correct one")
  return found or None


def _mapping(path: Path, said: Mapping[str, Any], name: str) -> dict[str, Any]:
  listed = said.get(name) or {}
  if not isinstance(listed, dict):
    raise ValueError(f"{path} says {name} {listed!r:.60}: it must map numbers and names")
  return listed


def _numbered(path: Path, field: str, names: Mapping[str, str]) -> list[str]:
  absent = [number for number in range(len(names)) if str(number) not in names]
  if absent:
    raise ValueError(
      f"{path} lists {len(names)} labels in {field} but none with number {absent[0]}: number "
      "them 0, 1, ..."
    )
  found = [names[str(number)] for number in range(len(names))]
  if len(set(found)) < len(found):
    raise ValueError(f"{path} has one label twice in {field}, got {found!r:.60}: correct it")
  return found


def _is_placeholders(names: Sequence[str]) -> bool:
  return list(names) == [f"LABEL_{number}" for number in range(len(names))]


def _num_labels(path: Path, said: Mapping[str, Any]) -> int | None:
  number = said.get("num_labels")
  if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
    raise ValueError(f"{path} says num_labels {number!r}: it must be a number of outputs")
  return number


def read_labels(folder: str | os.PathLike) -> list[str] | None:
  """The names of the classes in their order, of id2label or label2id; None if config.json names none.

  Placeholders (LABEL_0, LABEL_1, ...) are no names.

  Args:
    folder: with a config.json.

  Raises:
    FileNotFoundError: no config.json.
    ValueError: labels that are not numbered 0, 1, ..., or contradict each other.
  """
  labels = _labels(folder)
  return None if labels is None or _is_placeholders(labels) else labels


def count_labels(folder: str | os.PathLike) -> int | None:
  """How many outputs config.json says that the classifier has; None if it does not."""
  labels = _labels(folder)
  path = Path(folder) / "config.json"
  return len(labels) if labels is not None else _num_labels(path, read_json(path))


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
