"""The names by which a term says what its loss is given, such as "student.logits" or "batch.labels".

A name is a side, a field of its `Outputs` (or of the `Batch`), and perhaps an index or a slice:

    student.logits                 [B, C]
    teacher.layers                 all of its layers, a tuple of [B, ...]
    student.layers[-1]             one of them, [B, ...]
    student.layers[:-1]            some of them, stacked: [B, S, D]; [:] stacks all
    teacher.layer_logits           [B, T - 1, C]
    student.tokens.queries[-1]     [B, H, n, d], of the last layer
    teacher.top_k                  what a cache keeps of a large distribution
    student.scores                 a structure of `kd_jax.structured`
    batch.inputs, batch.labels

Reserved for methods that need them, and refused until then: "key" (random numbers of the step),
"teachers.NAME.logits" (one of several teachers), "student@VIEW.logits" (another view of the inputs), and
"student.of_embeddings" (the student as a function of its embeddings).
"""

import dataclasses
import re
from typing import Any, Literal, cast

import jax.numpy as jnp

from kd_jax.types import Batch, Outputs, TokenStates

Source = Literal["student", "teacher", "batch"]

_BY_LAYER = (
  "layers",
  "layer_logits",
  *(f"tokens.{field}" for field in TokenStates._fields if field != "mask"),
)
_OF_NETWORKS = (
  "logits",
  "layers",
  "layer_logits",
  "scores",
  *(f"tokens.{field}" for field in TokenStates._fields),
)
_FIELDS: dict[str, tuple[str, ...]] = {
  "student": _OF_NETWORKS,
  "teacher": (*_OF_NETWORKS, "top_k"),
  "batch": ("inputs", "labels"),
}
_NAME = re.compile(r"(?P<side>[^.\[\]]+)\.(?P<field>[^\[\]]+)(?:\[(?P<index>[^\[\]]*)\])?")
_INDEX = re.compile(r"-?[0-9]{1,9}")
_SLICE = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?(?::(-?[0-9]{1,9})?)?")
_RESERVED = re.compile(r"key$|teachers\.|student@|student\.of_embeddings")


@dataclasses.dataclass(frozen=True)
class Name:
  """A name, read.

  Attributes:
    text: as it was written.
    source: whose it is.
    path: fields, from the outside in.
    index: of a layer; None for no index.
    cut: start, stop and step of a slice of layers; None for no slice.
  """

  text: str
  source: Source
  path: tuple[str, ...]
  index: int | None = None
  cut: tuple[int | None, int | None, int | None] | None = None

  @property
  def field(self) -> str:
    """The field of `Outputs` or `Batch`."""
    return self.path[0]


def valid_names() -> tuple[str, ...]:
  """All names without an index, and "[i]" where one may follow."""
  return tuple(
    f"{side}.{field}" + ("[i]" if field in _BY_LAYER else "")
    for side, fields in _FIELDS.items()
    for field in fields
  )


def parse(text: str) -> Name:
  """Reads a name.

  Raises:
    ValueError: no name, with those that there are.
  """
  if not isinstance(text, str):
    raise ValueError(f"a name is a text such as 'student.logits', got {text!r}")
  if _RESERVED.match(text):
    raise ValueError(f"{text!r} is reserved and not built yet: {_known()}")
  found = _NAME.fullmatch(text)
  side, field = (found["side"], found["field"]) if found else ("", "")
  if found is None or field not in _FIELDS.get(side, ()):
    raise ValueError(f"{text!r} is not a name of what a loss reads: {_known()}")
  name = Name(text, cast(Source, side), tuple(field.split(".")))
  written = found["index"]
  if written is None:
    return name
  if field not in _BY_LAYER:
    raise ValueError(f"{text!r} has an index, and {side}.{field} is not a list of layers")
  if _INDEX.fullmatch(written):
    return dataclasses.replace(name, index=int(written))
  found = _SLICE.fullmatch(written)
  parts = found.groups() if found else (None, None, "0")
  start, stop, step = (None if part is None else int(part) for part in parts)
  if step == 0:
    raise ValueError(f"{text!r} must have an index such as [-1] or a slice such as [:-1]")
  return dataclasses.replace(name, cut=(start, stop, step))


def look_up(name: Name, student: Outputs, teacher: Outputs, batch: Batch) -> Any:
  """What a name stands for.

  Raises:
    ValueError: outputs that a network does not have, with the remedy; or a layer that is not there.
  """
  value: Any = {"student": student, "teacher": teacher, "batch": batch}[name.source]
  for field in name.path:
    value = getattr(value, field)
    if value is None or (isinstance(value, tuple) and not value):
      raise ValueError(_absent(name, student, teacher))
  if name.index is None and name.cut is None:
    return value
  layers = value if isinstance(value, tuple) else tuple(jnp.unstack(value, axis=1))
  return _layer(name, layers) if name.cut is None else _stacked(name, layers)


def _layer(name: Name, layers: tuple[Any, ...]) -> Any:
  assert name.index is not None
  if not -len(layers) <= name.index < len(layers):
    raise ValueError(
      f"{name.text!r} is no layer: the {name.source} has {len(layers)}, {-len(layers)} to {len(layers) - 1}"
    )
  return layers[name.index]


def _stacked(name: Name, layers: tuple[Any, ...]) -> Any:
  chosen = layers[slice(*name.cut or ())]
  if not chosen:
    found = (
      f"{name.text!r} is empty: the {name.source} has {len(layers)} layer{'s'[: len(layers) > 1]}"
    )
    remedy = "name others" if len(layers) > 1 else "give it at least 2"
    raise ValueError(f"{found}, {remedy}")
  shapes = {layer.shape for layer in chosen}
  if len(shapes) > 1:
    raise ValueError(
      f"{name.text!r} cannot be stacked: layers of {sorted(shapes)} differ, name one by its index"
    )
  return jnp.stack(chosen, axis=1)


def _known() -> str:
  return f"names are {', '.join(valid_names())}, with i a number or a slice such as :-1"


def _absent(name: Name, student: Outputs, teacher: Outputs) -> str:
  """Why a name stands for nothing, and what to do."""
  source, field = name.source, name.field
  if source == "batch":
    return f"the batch has no {field}"
  outputs = student if source == "student" else teacher
  if field == "logits" and outputs.top_k is not None:
    return "all of the teacher's logits are read: precompute the cache without top-k"
  if field == "tokens" and outputs.tokens is not None:
    return (
      f"{name.text!r} is empty: attention is compared between networks that attend, BERT or RoBERTa on both "
      f"sides{', built with collect_attentions' if 'attentions' in name.path else ''}"
    )
  said = {
    "layer_logits": "logits of inner layers",
    "tokens": "states of tokens",
    "scores": "scores of structures",
    "top_k": "top k",
  }.get(field, field)
  if source == "student":
    remedy = {
      "layer_logits": ": give the term a head, LayerClassifiers",
      "tokens": ": build it with collect_tokens (studies do with --live-teacher)",
    }.get(field, "")
  else:
    remedy = {
      "tokens": ": build it with collect_tokens and run it live (--live-teacher)",
      "layer_logits": ": it needs at least 2 layers and pseudo classifiers; cache their logits "
      "(--cache-outputs), or run it live (--live-teacher)",
      "scores": "",
      "top_k": ": precompute a cache with top-k",
    }.get(field, ": cache them (--cache-outputs), or run it live (--live-teacher)")
  return f"the {source} gives no {said}{remedy}"
