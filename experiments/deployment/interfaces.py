"""Finished networks as other programs see them: built again from their checkpoints, named arrays in and out.

No data are needed: a checkpoint says what its network is, and keeps what the network's numbers stand for.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
import numpy as np

from kd_jax.data import glue
from kd_jax.data.tokenization import Tokenizer
from kd_jax.data.vocabulary import Vocabulary
from kd_jax.export import Function, Input, Named
from kd_jax.models.sequence_spec import SequenceSpec, sequence_model_name
from kd_jax.models.spec import ModelSpec, build_model, model_name
from kd_jax.models.text_spec import TEXT_FAMILIES, TextSpec, build_text_model, text_model_name
from kd_jax.models.word_embedding import thaw
from kd_jax.training.state import AUXILIARY
from kd_jax.types import Outputs, PyTree, Subwords, Tokens

from ..domains import images
from ..domains.sequences import SequenceNetworkSpec, build_network
from ..domains.text_sources import weights_folder

ONLY_TRAINED_WITH = (AUXILIARY, "pseudo")
"""In "params": heads that no prediction reads."""


@dataclasses.dataclass(frozen=True)
class Interface:
  """What a network reads and returns.

  Attributes:
    label: what tables call it.
    spec: which network.
    model: to apply, in float32.
    inputs: by name; dimensions called "batch" and "length" are free.
    below: name -> what its numbers stay below.
    read: inputs by name -> what the network reads.
    constraints: on the free dimensions.
    kept: what the numbers stand for, as JSON.
  """

  label: str
  spec: Any
  model: nn.Module
  inputs: Mapping[str, Input]
  below: Mapping[str, int]
  read: Callable[[Named], PyTree]
  constraints: tuple[str, ...] = ()
  kept: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def function(self, variables: PyTree) -> Function:
    """The network with its weights, named arrays to named arrays."""
    return lambda arrays: named(self.model.apply(variables, self.read(arrays), train=False))

  def example(self, batch: int, length: int) -> dict[str, np.ndarray]:
    """Random inputs; the first is of full length, the others are padded."""
    rng, found = np.random.default_rng(length), {}
    for name, given in self.inputs.items():
      shape = tuple({"batch": batch, "length": length}.get(d, d) for d in given.shape)
      if given.dtype == "bool":
        lengths = np.maximum(shape[1] - np.arange(batch), 1)
        found[name] = np.arange(shape[1]) < lengths[:, None]
      else:
        found[name] = rng.integers(0, self.below[name], shape).astype(given.dtype)
    return found


def deployed(variables: PyTree) -> PyTree:
  """Variables without the heads that only training reads, and without the mark that word vectors are frozen."""
  thawed = thaw(variables)
  params = {k: v for k, v in thawed["params"].items() if k not in ONLY_TRAINED_WITH}
  return {**thawed, "params": params}


def named(outputs: Outputs) -> dict[str, Any]:
  """What a network is asked for: "logits", or the scores of a structure by their names in it."""
  if outputs.scores is None:
    return {"logits": outputs.logits}
  parts = outputs.scores._asdict().items()
  return {name: part for name, part in parts if name != "mask" and part is not None}


def interface(
  meta: Mapping[str, Any],
  source: Mapping[str, Any],
  variables: PyTree,
  *,
  length: int = 128,
  data_dir: Path | None = None,
) -> Interface:
  """Builds the network of a checkpoint again.

  Args:
    meta: the JSON of the checkpoint.
    source: the study's data, as `Data.source`.
    variables: of the network, as `deployed` leaves them.
    length: that sentences are padded to, for networks that are traced for one length.
    data_dir: of prepared data, read only for images whose checkpoint does not say their shape.
  """
  build = {"images": _images, "sequences": _sequences, "texts": _texts}[source["kind"]]
  return build(meta, source, variables["params"], length, data_dir)


def _images(meta, source, params, length, data_dir) -> Interface:
  del length
  spec = _dataclass(ModelSpec, meta["settings"]["model"])
  shape = meta.get("image_shape") or images.image_shape(dict(source), data_dir)
  return Interface(
    model_name(spec),
    spec,
    build_model(spec, params["linear"]["bias"].shape[-1]),
    {"images": Input(("batch", *shape), "uint8")},
    {"images": 256},
    lambda arrays: arrays["images"],
    kept={name: meta[name] for name in ("class_names",) if name in meta},
  )


def _sequences(meta, source, params, length, data_dir) -> Interface:
  del source, params, data_dir
  given, words = meta["settings"]["model"], Vocabulary.from_json(meta["vocabulary"])
  spec = _dataclass(SequenceSpec, given["spec"])
  # A transformer's positions are numbers of the program, made for one length.
  n = length if spec.encoder == "transformer" else "length"
  inputs = {
    "words": Input(("batch", n), "int32"),
    "characters": Input(("batch", n, words.max_characters), "uint8"),
    "mask": Input(("batch", n), "bool"),
  }
  return Interface(
    sequence_model_name(spec, given["head"]),
    spec,
    build_network(SequenceNetworkSpec(spec, given["head"]), words),
    inputs,
    {"words": words.num_words, "characters": words.num_characters},
    lambda arrays: Tokens(**arrays),
    kept={"vocabulary": meta["vocabulary"]},
  )


def _texts(meta, source, params, length, data_dir) -> Interface:
  del length, data_dir
  given = meta["settings"]["model"]
  spec = _dataclass(TextSpec, given["spec"])
  spec = dataclasses.replace(spec, dtype="float32", freeze_words=False)
  outputs = params["classifier"]["bias"].shape[-1]
  model = build_text_model(spec, num_outputs=outputs, **given["sizes"])
  longest = model.encoder.config.max_length if TEXT_FAMILIES[spec.family].attends else None
  inputs = {name: Input(("batch", "length"), "int32") for name in ("ids", "types")}
  kept = {name: meta[name] for name in ("tokenizer", "class_names") if name in meta}
  if "tokenizer" not in kept and source["weights"] is not None:
    folder, longest_text = weights_folder(source["weights"]), source["max_length"]
    kept["tokenizer"] = Tokenizer.from_folder(folder, max_length=longest_text).to_json()
  if not source["files"] and source["task"] in glue.TASKS:
    kept.setdefault("class_names", list(glue.check_task(source["task"]).class_names))
  return Interface(
    text_model_name(spec),
    spec,
    model,
    {**inputs, "mask": Input(("batch", "length"), "bool")},
    {"ids": given["sizes"]["vocab_size"], "types": given["sizes"].get("type_vocab_size", 2)},
    lambda arrays: Subwords(**arrays),
    constraints=() if longest is None else (f"length <= {longest}",),
    kept=kept,
  )


Kind = TypeVar("Kind")


def _dataclass(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
  """A flat configuration from its JSON values."""
  return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
