"""A network for sentences as data: what a configuration says of it, and how it is built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.embeddings import TokenEmbedding
from kd_jax.models.encoders import SentenceEncoder, Transformer
from kd_jax.models.lstm import BiLSTM
from kd_jax.models.parsers import BiaffineParser
from kd_jax.models.taggers import CRFTagger, MaxEntTagger, ParsingTagger, SpanTagger

Head = Literal["maxent", "crf", "spans", "tags", "parser", "second_order"]


@dataclass(frozen=True)
class SequenceSpec:
  """Which network reads sentences; what it predicts, its head, is said apart."""

  encoder: Literal["bilstm", "transformer"] = "bilstm"
  """Kind of encoder."""
  word_width: int = 64
  """Width of the word vectors."""
  character_width: int = 32
  """Width of what the character CNN says of a word; 0 leaves spelling out."""
  width: int = 128
  """Width of the encoder: of each direction (bilstm), or of the states (transformer)."""
  layers: int = 1
  """Layers of the encoder."""
  heads: int = 4
  """Attention heads (transformer only); they divide the width."""
  dropout: float = 0.3
  """Probability that an entry is dropped: of embeddings, between layers, of projections."""
  word_dropout: float = 0.05
  """Probability that a word is read as unknown in training."""
  arc_width: int = 128
  """Width of the projections for arcs (parsers), and for first and last tokens (spans)."""
  relation_width: int = 64
  """Width of the projections for relations (parsers only)."""
  second_order_width: int = 64
  """Width of the projections for pairs of arcs (second_order only)."""
  iterations: int = 3
  """Iterations of mean field (second_order only)."""
  bioes: bool = False
  """Whether tag sequences that are not well-formed BIOES are excluded (crf only)."""


class _HeadKind(NamedTuple):
  """One kind of head.

  Attributes:
    build: (spec, encoder=, dtype=, **inventory) -> module.
    needs: the inventory that it takes: arguments of `build_sequence_model`.
    label: what tables call it.
  """

  build: Callable[..., nn.Module]
  needs: tuple[str, ...]
  label: str


def _parser(
  spec: SequenceSpec, second_order_width: int = 0, *, num_labels: int, **shared: Any
) -> BiaffineParser:
  return BiaffineParser(
    num_relations=num_labels,
    arc_width=spec.arc_width,
    relation_width=spec.relation_width,
    second_order_width=second_order_width,
    iterations=spec.iterations,
    dropout=spec.dropout,
    **shared,
  )


HEADS: dict[str, _HeadKind] = {
  "maxent": _HeadKind(lambda spec, **rest: MaxEntTagger(**rest), ("num_labels",), "MaxEnt"),
  "crf": _HeadKind(
    lambda spec, **rest: CRFTagger(bioes=spec.bioes, **rest), ("num_labels",), "CRF"
  ),
  "spans": _HeadKind(
    lambda spec, **rest: SpanTagger(width=spec.arc_width, dropout=spec.dropout, **rest),
    ("num_labels",),
    "spans",
  ),
  "tags": _HeadKind(
    lambda spec, **rest: ParsingTagger(**rest), ("offsets", "relations"), "parsing tags"
  ),
  "parser": _HeadKind(_parser, ("num_labels",), "parser"),
  "second_order": _HeadKind(
    lambda spec, **rest: _parser(spec, spec.second_order_width, **rest),
    ("num_labels",),
    "second-order parser",
  ),
}
"""Every head by its name in a configuration: a new one is one entry here (and one name above)."""

_ENCODERS = {
  "bilstm": ("BiLSTM", lambda spec, **shared: BiLSTM(**shared)),
  "transformer": ("transformer", lambda spec, **shared: Transformer(heads=spec.heads, **shared)),
}


def _check(spec: SequenceSpec) -> None:
  if spec.encoder not in _ENCODERS:
    raise ValueError(f"encoder is one of {', '.join(_ENCODERS)}, got {spec.encoder!r}")
  sizes = ("word_width", "width", "layers", "heads", "arc_width", "relation_width", "iterations")
  for name in (*sizes, "second_order_width"):
    if getattr(spec, name) < 1:
      raise ValueError(f"{name} must be at least 1, got {getattr(spec, name)}")
  if spec.character_width < 0:
    raise ValueError(f"character_width must be at least 0, got {spec.character_width}")
  for name in ("dropout", "word_dropout"):
    if not 0 <= getattr(spec, name) < 1:
      raise ValueError(f"{name} is a probability in [0, 1), got {getattr(spec, name)}")


def _head(head: str) -> _HeadKind:
  if head not in HEADS:
    raise ValueError(f"head is one of {', '.join(HEADS)}, got {head!r}")
  return HEADS[head]


def build_sequence_model(
  spec: SequenceSpec,
  head: Head,
  *,
  num_words: int,
  num_characters: int,
  num_labels: int | None = None,
  offsets: Sequence[int] | None = None,
  relations: Sequence[int] | None = None,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> nn.Module:
  """Builds the network that a specification and a head describe.

  Args:
    spec: the specification.
    head: what it predicts: "maxent" tags by themselves, "crf" a chain of tags, "spans" labelled spans, "tags"
      dependency parsing as tagging, "parser" dependency trees, "second_order" those with pairs of arcs.
    num_words: how many word numbers there are, padding and unknown included.
    num_characters: how many character numbers there are, padding and unknown included.
    num_labels: L tags for "maxent" and "crf"; R entity types for "spans"; R relations for parsers.
    offsets: of the L parsing tags ("tags" only): label l says that the head of token i is i + offsets[l], 0
      the root.
    relations: of the L parsing tags ("tags" only).
    dtype: of the computation; parameters and scores are float32 always.

  Returns:
    A Linen module: `module.apply(variables, tokens, train=..., rngs={"dropout": key})` gives `Outputs` whose
    scores are a structure.

  Raises:
    ValueError: an unknown encoder or head, a size out of range, or labels that the head lacks or does not
      read.

  >>> model = build_sequence_model(
  ...   SequenceSpec(width=16), "crf", num_words=50, num_characters=20, num_labels=9
  ... )
  >>> model.num_labels, model.encoder.encoder.width
  (9, 16)
  """
  _check(spec)
  kind = _head(head)
  inventory = {
    "num_labels": num_labels,
    "offsets": None if offsets is None else tuple(int(offset) for offset in offsets),
    "relations": None if relations is None else tuple(int(relation) for relation in relations),
  }
  given = tuple(name for name, value in inventory.items() if value is not None)
  if given != kind.needs:
    raise ValueError(
      f"head {head!r} needs {' and '.join(kind.needs)}, got {' and '.join(given) or 'none'}"
    )
  if num_labels is not None and num_labels < 1:
    raise ValueError(f"num_labels must be at least 1, got {num_labels}")
  if min(num_words, num_characters) < 2:
    raise ValueError(
      f"num_words {num_words} and num_characters {num_characters} must be at least 2: 0 is padding, "
      "1 is unknown"
    )
  embedding = TokenEmbedding(
    num_words,
    num_characters,
    word_width=spec.word_width,
    character_width=spec.character_width,
    dropout=spec.dropout,
    word_dropout=spec.word_dropout,
    dtype=dtype,
  )
  _, build_encoder = _ENCODERS[spec.encoder]
  encoder = build_encoder(
    spec, width=spec.width, layers=spec.layers, dropout=spec.dropout, dtype=dtype
  )
  chosen = {name: inventory[name] for name in kind.needs}
  return kind.build(spec, encoder=SentenceEncoder(embedding, encoder), dtype=dtype, **chosen)


def sequence_model_name(spec: SequenceSpec, head: Head) -> str:
  """What tables call the network.

  >>> sequence_model_name(SequenceSpec(width=128), "crf")
  'BiLSTM-128 CRF'
  >>> sequence_model_name(SequenceSpec(encoder="transformer", layers=2), "second_order")
  'transformer-2x128 second-order parser'
  """
  _check(spec)
  depth = f"{spec.layers}x" if spec.layers > 1 else ""
  return f"{_ENCODERS[spec.encoder][0]}-{depth}{spec.width} {_head(head).label}"
