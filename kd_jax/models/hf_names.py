"""Names and shapes of the tensors of BERT and RoBERTa in Hugging Face's files.

With D the width, and with or without the prefix "bert." or "roberta.":

    embeddings.{word,position,token_type}_embeddings.weight       [rows, D]
    encoder.layer.{k}.attention.self.{query,key,value}.*          [D, D], [D]
    encoder.layer.{k}.{attention.output,intermediate,output}.dense.*
    {embeddings,encoder.layer.{k}.attention.output,encoder.layer.{k}.output}.LayerNorm.*
    pooler.dense.*, classifier.*                                  BERT; classifier has no prefix
    classifier.dense.*, classifier.out_proj.*                     RoBERTa; neither has

where .* is weight and bias.
"""

from typing import NamedTuple

from kd_jax.models.bert import BertConfig


class Entry(NamedTuple):
  """One tensor: its place in the Linen parameters, and its shape in the file."""

  path: tuple[str, ...]
  shape: tuple[int, ...]

  @property
  def transposed(self) -> bool:
    return self.path[-1] == "kernel"


def dense_entries(name: str, outputs: int, inputs: int, *path: str) -> dict[str, Entry]:
  return {
    f"{name}.weight": Entry((*path, "kernel"), (outputs, inputs)),
    f"{name}.bias": Entry((*path, "bias"), (outputs,)),
  }


def encoder_entries(config: BertConfig, prefix: str) -> dict[str, Entry]:
  """All tensors of the encoder by their names in the file."""
  entries = {}

  def norm(name: str, *path: str) -> None:
    for in_file, leaf in (("weight", "scale"), ("bias", "bias")):
      entries[f"{name}.LayerNorm.{in_file}"] = Entry(("encoder", *path, leaf), (config.width,))

  for in_file, ours, rows in (
    ("word", "word", config.vocab_size),
    ("position", "position", config.max_positions),
    ("token_type", "type", config.type_vocab_size),
  ):
    place = ("encoder", "embedding", f"{ours}_embedding", "embedding")
    shape = (rows, config.width)
    entries[f"{prefix}embeddings.{in_file}_embeddings.weight"] = Entry(place, shape)
  norm(f"{prefix}embeddings", "embedding", "embedding_norm")
  for number in range(config.layers):
    start, layer = f"{prefix}encoder.layer.{number}.", f"layer{number + 1}"
    for in_file, ours, outputs, inputs in (
      *((f"attention.self.{n}", n, config.width, config.width) for n in ("query", "key", "value")),
      ("attention.output.dense", "attention_output", config.width, config.width),
      ("intermediate.dense", "expansion", config.hidden, config.width),
      ("output.dense", "contraction", config.width, config.hidden),
    ):
      entries |= dense_entries(start + in_file, outputs, inputs, "encoder", layer, ours)
    norm(f"{start}attention.output", layer, "attention_norm")
    norm(f"{start}output", layer, "output_norm")
  return entries


def head_names(kind: str, prefix: str, classifier: bool) -> dict[str, str]:
  """Names in the file of the dense layers of the head, by their names here."""
  if kind == "roberta" and classifier:
    return {"pooler": "classifier.dense", "classifier": "classifier.out_proj"}
  return {"pooler": f"{prefix}pooler.dense"} | ({"classifier": "classifier"} if classifier else {})
