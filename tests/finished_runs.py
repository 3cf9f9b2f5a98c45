"""Folders of studies with a finished run, of every kind of data, without any training."""

import jax
import numpy as np

from experiments.domains.sequences import SequenceNetworkSpec, build_network
from experiments.domains.study import plain
from kd_jax.checkpoints import CheckpointStore, write_json
from kd_jax.data import Tokenizer
from kd_jax.models import ModelSpec, build_model, build_text_model
from kd_jax.types import Tokens
from tests import text_inputs

SEEDS = (4, 7)
SHAPE = (16, 16, 3)
IMAGES = {
  "mlp": ModelSpec(family="mlp", hidden=(8,)),
  "resnet": ModelSpec(family="resnet", pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.2,)),
  "plain_cnn": ModelSpec(family="plain_cnn", depth=2),
}
IMAGE_SOURCE = {"kind": "images", "name": "nowhere", "validation_examples": 1, "limit": None}
TEXT_SOURCE = {
  "kind": "texts",
  "task": "rte",
  "files": [],
  "weights": None,
  "columns": ["text", None, "label"],
}
TOKENIZER = Tokenizer.train(["a good soup", "a bad soup"] * 2, vocab_size=64, max_length=20)


def random_variables(model, example, seed):
  """Variables that no initialiser would give: none is 0 or 1, variances are positive."""
  shapes = jax.eval_shape(lambda key: model.init(key, example), jax.random.key(0))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: np.float32(0.05 + 0.3 * rng.random(s.shape)), shapes)


def make_run(root, source, model_settings, variables, **kept):
  """A study's folder with one run of two seeds, as training leaves it: best, last, heads of a loss."""
  last = jax.tree.map(lambda x: x + 1, variables)
  # The seeds are a factor apart, so that each can be told from the other.
  best, last = (jax.tree.map(lambda x: np.stack([x, 1.25 * x]), v) for v in (variables, last))
  heads = {"hints": {"kernel": np.ones((2, 3, 3), np.float32)}}
  for part in (best, last):
    part["params"] = part["params"] | {"auxiliary": heads}
  write_json(root / "study.json", {"study": {"name": "made"}, "data": source})
  meta = {"kind": "kd phase distil", "parents": [], **kept}
  meta["settings"] = {"model": plain(model_settings), "seeds": list(SEEDS)}
  store = CheckpointStore(root / "students" / "kd" / "seeds-4-7" / "distil" / "checkpoints")
  store.save(3, {"best": best, "train": {"variables": last, "step": np.zeros(2)}}, meta)
  return store


def make_images(root, family):
  spec = IMAGES[family]
  model = build_model(spec, 5)
  variables = random_variables(model, np.zeros((1, *SHAPE), np.uint8), 0)
  store = make_run(root, IMAGE_SOURCE, spec, variables, image_shape=SHAPE)
  return store, model, variables


def make_texts(root, family, source=TEXT_SOURCE, num_outputs=2):
  spec = text_inputs.spec(family)
  sizes = {"vocab_size": text_inputs.VOCAB, "max_positions": 20}
  model = build_text_model(spec, num_outputs=num_outputs, **sizes)
  variables = random_variables(model, text_inputs.subwords(), 1)
  if "encoder" in variables["params"]:
    pseudo = {"layer1": {"bias": np.zeros(num_outputs, np.float32)}}
    with_pseudo = {"params": variables["params"] | {"pseudo": pseudo}}
  settings = {"spec": plain(spec), "sizes": sizes, "layer_classifiers": True}
  make_run(root, source, settings, with_pseudo, tokenizer=TOKENIZER.to_json())
  return model, variables


def make_sentences(root, spec, head, vocabulary):
  model = build_network(SequenceNetworkSpec(spec, head), vocabulary)
  variables = random_variables(model, sentences(vocabulary, 1, 3), 2)
  source = {"kind": "sequences", "task": "tagging"}
  settings = {"spec": plain(spec), "head": head}
  make_run(root, source, settings, variables, vocabulary=vocabulary.to_json())
  return model, variables


def images(count):
  rng = np.random.default_rng(count)
  return rng.integers(0, 256, (count, *SHAPE)).astype(np.uint8)


def sentences(vocabulary, batch, length):
  rng = np.random.default_rng(length)
  mask = np.arange(length) < np.maximum(length - 2 * np.arange(batch), 1)[:, None]
  words = np.where(mask, rng.integers(2, vocabulary.num_words, mask.shape), 0).astype(np.int32)
  shape = (batch, length, vocabulary.max_characters)
  characters = rng.integers(0, vocabulary.num_characters, shape).astype(np.uint8)
  return Tokens(words, characters * mask[..., None], mask)


def scaled(variables, factor=1.25):
  return jax.tree.map(lambda x: np.float32(factor) * x, variables)
