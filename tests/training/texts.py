"""Texts of several lengths, and a network for them with layers that is quick to compile."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data.texts import TextDataset
from kd_jax.models.text_classifier import PseudoClassifiers
from kd_jax.types import Outputs, Subwords

WORDS, CLASSES, WIDTH = 9, 3, 5
BUCKETS = (4, 8, 12)
LENGTHS = (3, 8, 12, 4, 6, 2, 4, 5, 7, 1, 4, 3, 8, 9, 2, 2, 3)  # 10, 5 and 2 texts, mixed


def dataset(lengths=LENGTHS, *, regression=False, split="train", seed=0):
  """Random subwords; all texts differ, and so do the numbers in regression."""
  rng = np.random.default_rng((seed, len(lengths)))
  shape = (len(lengths), max(BUCKETS))
  mask = np.arange(shape[1]) < np.array(lengths)[:, None]
  ids = (rng.integers(1, WORDS, shape) * mask).astype(np.int32)
  classes = rng.integers(0, CLASSES, shape[0])
  labels = rng.standard_normal(shape[0]).astype(np.float32) if regression else classes
  return TextDataset(
    "fake",
    "1",
    split,
    Subwords(ids, np.zeros_like(ids), mask),
    labels,
    np.array([f"{split} {row}" for row in range(shape[0])]),
    1 if regression else CLASSES,
    () if regression else tuple("abcdefg"[:CLASSES]),
    bucket_lengths=BUCKETS,
  )


class Network(nn.Module):
  """Dense layers on a sum of word vectors that depends on the words' places."""

  num_outputs: int = CLASSES
  widths: tuple[int, ...] = (WIDTH, WIDTH, WIDTH)
  pseudo_classifiers: bool = True

  @nn.compact
  def __call__(self, subwords, train=False):
    del train
    mask = jnp.asarray(subwords.mask).astype(jnp.float32)
    places = mask * (1 + jnp.arange(mask.shape[1]))
    x = jnp.sum(nn.Embed(WORDS, WIDTH)(subwords.ids) * places[..., None], axis=1)
    layers = []
    for number, width in enumerate(self.widths, start=1):
      x = nn.tanh(nn.Dense(width, name=f"layer{number}")(x))
      layers.append(x)
    pseudo = PseudoClassifiers(self.num_outputs) if self.pseudo_classifiers else None
    return Outputs(
      nn.Dense(self.num_outputs, name="classifier")(x),
      tuple(layers),
      layer_logits=None if pseudo is None else pseudo(layers[:-1]),
    )


def variables(model, data, seed=7):
  """Of a network that nobody trained, without zeros."""
  example = jax.tree.map(lambda x: x[:1], data.buckets[0].inputs)
  shapes = jax.eval_shape(model.init, jax.random.key(0), example)
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)


def said(model, params, data) -> Outputs:
  """Of all texts at once, in the order of the data set: no buckets, no batches, no devices."""
  return jax.device_get(jax.jit(model.apply)(params, data.inputs))
