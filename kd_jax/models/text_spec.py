"""A network for texts as data: what a configuration says of it, and how it is built."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.bert import BertConfig, BertEncoder
from kd_jax.models.text_classifier import TextClassifier
from kd_jax.models.text_encoders import BiLSTMText, GatedCNNText


@dataclass(frozen=True)
class TextSpec:
  """Which network reads texts, and where its parameters start."""

  family: Literal["bert", "roberta", "bilstm", "gated_cnn"] = "bert"
  """Kind of network."""
  layers: int = 3
  """Layers of the encoder."""
  width: int | None = None
  """Width of the states, of each direction in bilstm; None: the teacher's, or 384 (bilstm, gated_cnn: 128)."""
  heads: int | None = None
  """Attention heads (bert, roberta); they divide the width. None: the teacher's, or 12."""
  hidden: int | None = None
  """Width between the dense layers of a block (bert, roberta). None: the teacher's, or 1536."""
  word_width: int | None = None
  """Width of the word vectors (bilstm, gated_cnn), copied from a teacher where as wide; None: width."""
  dropout: float = 0.1
  """Probability that an entry is dropped: of embeddings, of what layers add, before the classifier."""
  dtype: Literal["float32", "bfloat16"] = "float32"
  """Of the computation; parameters, logits and losses are float32 always."""
  start: Literal["pretrained", "teacher", "random"] = "pretrained"
  """Where parameters come from: the teacher's weights folder, the fine-tuned teacher, or random numbers."""
  teacher_layers: tuple[int, ...] = ()
  """Teacher layers, numbered from 1, that a BERT student's layers are copied from; empty: the lowest."""
  freeze_words: bool = False
  """Keep the word vectors as they start (bilstm, gated_cnn): no gradient, optimiser state or weight decay."""
  vocabulary: Literal["full", "data"] = "full"
  """Word vectors of all subwords, or of those in the training texts; others become the unknown subword (bilstm,
  gated_cnn)."""


class TextFamily(NamedTuple):
  """One kind of network.

  Attributes:
    build: (spec, sizes, shared, collect) -> encoder; `sizes` are those of `text_sizes` and kept_subwords,
      `shared` is what every encoder takes: dropout and dtype; `collect` asks for all of `TokenStates`.
    attends: whether it has [CLS], heads and positions: whether a `BertConfig` describes it.
    label: what tables call it.
  """

  build: Callable[..., nn.Module]
  attends: bool
  label: str


def _bert(
  spec: TextSpec, sizes: dict[str, Any], shared: dict[str, Any], collect: bool
) -> nn.Module:
  sizes = {name: size for name, size in sizes.items() if name != "kept_subwords"}
  assert spec.width is not None  # `with_sizes` has filled these in
  assert spec.heads is not None
  assert spec.hidden is not None
  config = BertConfig(
    "roberta" if spec.family == "roberta" else "bert",
    width=spec.width,
    layers=spec.layers,
    heads=spec.heads,
    hidden=spec.hidden,
    **sizes,
  )
  return BertEncoder(config, **shared, collect_attentions=collect)


def _plain(module: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
  def build(
    spec: TextSpec, sizes: dict[str, Any], shared: dict[str, Any], collect: bool
  ) -> nn.Module:
    del collect  # without attention there is no more than the states
    shape = {
      name: getattr(spec, name) for name in ("width", "layers", "word_width", "freeze_words")
    }
    shape["kept_subwords"] = sizes["kept_subwords"]
    return module(sizes["vocab_size"], **shape, **shared)

  return build


TEXT_FAMILIES: dict[str, TextFamily] = {
  "bert": TextFamily(_bert, True, "BERT"),
  "roberta": TextFamily(_bert, True, "RoBERTa"),
  "bilstm": TextFamily(_plain(BiLSTMText), False, "BiLSTM"),
  "gated_cnn": TextFamily(_plain(GatedCNNText), False, "gated CNN"),
}
"""Every family by its name in a configuration: a new one is one entry here (and one name above)."""


def with_sizes(spec: TextSpec) -> TextSpec:
  """The specification with the sizes that it leaves out.

  >>> with_sizes(TextSpec(family="bilstm")).width
  128
  """
  if spec.family not in TEXT_FAMILIES:
    raise ValueError(f"text family is one of {', '.join(TEXT_FAMILIES)}, got {spec.family!r}")
  width = 384 if TEXT_FAMILIES[spec.family].attends else 128
  sizes = {"width": width, "heads": 12, "hidden": 1536}
  absent: dict[str, Any] = {n: size for n, size in sizes.items() if getattr(spec, n) is None}
  return dataclasses.replace(spec, **absent)


def _check(spec: TextSpec) -> TextFamily:
  for name in ("layers", "width", "heads", "hidden"):
    if getattr(spec, name) < 1:
      raise ValueError(f"{name} must be at least 1, got {getattr(spec, name)}")
  if spec.word_width is not None and spec.word_width < 1:
    raise ValueError(f"word_width must be at least 1, got {spec.word_width}")
  if not 0 <= spec.dropout < 1:
    raise ValueError(f"dropout is a probability in [0, 1), got {spec.dropout}")
  for name, known in (
    ("dtype", ("float32", "bfloat16")),
    ("start", ("pretrained", "teacher", "random")),
    ("vocabulary", ("full", "data")),
  ):
    if getattr(spec, name) not in known:
      raise ValueError(f"{name} is one of {', '.join(known)}, got {getattr(spec, name)!r}")
  family = TEXT_FAMILIES[spec.family]
  if family.attends and (spec.freeze_words or spec.vocabulary != "full"):
    raise ValueError(
      f"freeze_words and vocabulary='data' need a family without attention, got {spec.family}: use bilstm "
      "or gated_cnn, or leave both out"
    )
  chosen = tuple(spec.teacher_layers)
  if chosen and not family.attends:
    raise ValueError(f"a {spec.family} copies no teacher_layers, got {chosen}: leave them empty")
  if chosen and (len(chosen) != spec.layers or min(chosen) < 1):
    raise ValueError(
      f"teacher_layers must be {spec.layers} numbers from 1, one a layer, got {chosen}"
    )
  return family


def build_text_model(
  spec: TextSpec,
  *,
  vocab_size: int,
  num_outputs: int,
  max_positions: int = 512,
  pad_id: int = 0,
  type_vocab_size: int = 2,
  norm_epsilon: float = 1e-12,
  pseudo_classifiers: bool = False,
  collect_tokens: bool = False,
  output_mean: float = 0.0,
  kept_subwords: int | None = None,
) -> TextClassifier:
  """Builds the network that a specification describes.

  Args:
    spec: the specification.
    vocab_size: subwords of the tokenizer.
    num_outputs: C; 1 in regression.
    max_positions: rows of the position embedding (bert, roberta); RoBERTa's are pad_id + 1 more than the
      longest text.
    pad_id: number of the padding subword.
    type_vocab_size: rows of the type embedding (bert, roberta); 1: types are not read.
    norm_epsilon: of layer normalisation (bert, roberta).
    pseudo_classifiers: whether inner layers have classifiers.
    collect_tokens: whether `Outputs.tokens` are returned.
    output_mean: what outputs start around: the mean label in regression.
    kept_subwords: rows of the word embedding (needed for vocabulary="data", and only then): see
      `kd_jax.models.word_embedding`.

  Returns:
    A Linen module: `module.apply(variables, subwords, train=..., rngs={"dropout": key})` gives `Outputs`.
    Variables are "params", with freeze_words also "frozen", and with vocabulary="data" also "vocabulary".
    Its encoder's `config` is the `BertConfig` (bert, roberta).

  Raises:
    ValueError: an unknown family, a size out of range, or pseudo classifiers for a single layer.

  >>> model = build_text_model(TextSpec(layers=2), vocab_size=100, num_outputs=3)
  >>> model.encoder.config.layers, model.summary
  (2, 'first')
  """
  spec = with_sizes(spec)
  family = _check(spec)
  for name, value in (("vocab_size", vocab_size), ("num_outputs", num_outputs)):
    if value < 1:
      raise ValueError(f"{name} must be at least 1, got {value}")
  if (kept_subwords is not None) != (spec.vocabulary == "data"):
    raise ValueError(
      f"kept_subwords must be given for vocabulary='data' alone, got {kept_subwords} and "
      f"vocabulary={spec.vocabulary!r}"
    )
  if kept_subwords is not None and not 1 <= kept_subwords <= vocab_size:
    raise ValueError(f"kept_subwords must lie in [1, {vocab_size}], got {kept_subwords}")
  if pseudo_classifiers and spec.layers < 2:
    raise ValueError(
      "pseudo classifiers stand on layers below the last, and layers=1 has none: set layers=2"
    )
  dtype = jnp.dtype(spec.dtype)
  sizes = {
    "vocab_size": vocab_size,
    "max_positions": max_positions,
    "pad_id": pad_id,
    "type_vocab_size": type_vocab_size,
    "norm_epsilon": norm_epsilon,
    "kept_subwords": kept_subwords,
  }
  return TextClassifier(
    family.build(spec, sizes, {"dropout": spec.dropout, "dtype": dtype}, collect_tokens),
    num_outputs,
    summary="first" if family.attends else "mean",
    dropout=spec.dropout,
    pseudo_classifiers=pseudo_classifiers,
    collect_tokens=collect_tokens,
    output_mean=output_mean,
    dtype=dtype,
  )


def text_sizes(config: BertConfig) -> dict[str, Any]:
  """What a student shares with its teacher's vocabulary: arguments of `build_text_model`.

  >>> text_sizes(BertConfig(vocab_size=100))["vocab_size"]
  100
  """
  names = ("vocab_size", "max_positions", "pad_id", "type_vocab_size", "norm_epsilon")
  return {name: getattr(config, name) for name in names}


def bert_spec(config: BertConfig, layers: int | None = None, **changes: Any) -> TextSpec:
  """The specification of a BERT of a config's sizes, or of a shallower one.

  Args:
    config: the sizes, such as `read_config` gives.
    layers: T; None: as many as the config has.
    **changes: other fields of the specification.

  >>> text_model_name(bert_spec(BertConfig(width=384), layers=3))
  'BERT-3 (384)'
  """
  fields = {name: getattr(config, name) for name in ("width", "heads", "hidden")}
  fields |= {"family": config.kind, "layers": config.layers if layers is None else layers}
  return TextSpec(**(fields | changes))


def text_model_name(spec: TextSpec) -> str:
  """What tables call the network.

  >>> text_model_name(TextSpec(family="gated_cnn", layers=4, width=128))
  'gated CNN-4 (128)'
  """
  spec = with_sizes(spec)
  return f"{_check(spec).label}-{spec.layers} ({spec.width})"
