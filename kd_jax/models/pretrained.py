"""A text network with pretrained parameters, in one call."""

import os
from typing import Literal

import jax
import numpy as np

from kd_jax.models.hf_config import read_config
from kd_jax.models.hf_weights import load_bert
from kd_jax.models.text_classifier import TextClassifier
from kd_jax.models.text_params import merge
from kd_jax.models.text_spec import bert_spec, build_text_model, text_sizes
from kd_jax.types import PyTree, Subwords


def load_text_model(
  folder: str | os.PathLike,
  *,
  num_outputs: int | None = None,
  dropout: float = 0.1,
  dtype: Literal["float32", "bfloat16"] = "float32",
  collect_tokens: bool = False,
  seed: int = 0,
) -> tuple[TextClassifier, PyTree]:
  """The BERT or RoBERTa of a Hugging Face folder, ready to be applied or fine-tuned.

  Args:
    folder: with config.json and model.safetensors.
    num_outputs: C of a classifier, drawn anew; None: the folder's own, or 2 fresh outputs where it has none.
    dropout: probability that an entry is dropped in training.
    dtype: of the computation; parameters and logits are float32 always.
    collect_tokens: whether `Outputs.tokens` are returned.
    seed: of what the folder does not have.

  Returns:
    The network and its variables: `model.apply(variables, subwords)` gives `Outputs`.

  Raises:
    FileNotFoundError: no such files.
    ValueError: weights or a configuration that cannot be read, or that do not go together.
  """
  config, given = read_config(folder), load_bert(folder)
  if num_outputs is not None:
    given.pop("classifier", None)
  own = given["classifier"]["bias"].shape[0] if "classifier" in given else 2
  model = build_text_model(
    bert_spec(config, dropout=dropout, dtype=dtype),
    num_outputs=own if num_outputs is None else num_outputs,
    collect_tokens=collect_tokens,
    **text_sizes(config),
  )
  one = np.ones((1, 1), np.int32)
  fresh = jax.jit(model.init)(jax.random.key(seed), Subwords(one, 0 * one, one.astype(bool)))
  return model, {"params": merge(fresh["params"], given)}
