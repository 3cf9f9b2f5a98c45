"""Small sentences, and networks and teachers for them: real heads on an encoder that is quick to compile."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data.sequences import SequenceDataset
from kd_jax.models.parsers import BiaffineParser
from kd_jax.models.taggers import CRFTagger, MaxEntTagger, ParsingTagger, SpanTagger
from kd_jax.structured import layout
from kd_jax.teachers import predicting
from kd_jax.teachers.sources import cached_structures, live_teacher
from kd_jax.training.evaluation import PARSING, TAGGING
from kd_jax.training.loop import Task
from kd_jax.types import Tokens, Tree

WORDS, LABELS = 12, 1
TAGS = 4 * LABELS + 1
BUCKETS = (4, 8)
LENGTHS = (3, 8, 1, 4, 6, 2, 4, 5, 7, 1, 4, 3, 8)  # 8 short sentences and 5 longer ones
OFFSETS, RELATIONS = (0, -1, 1, 0, -1, 1), (0, 0, 0, 1, 1, 1)


class Encoder(nn.Module):
  """The vector of a word and of the next one."""

  dropout: float = 0.0
  width: int = 4

  @nn.compact
  def __call__(self, tokens, train=False):
    mask = jnp.asarray(tokens.mask).astype(bool)[..., None]
    x = jnp.where(mask, nn.Embed(WORDS, self.width)(tokens.words), 0)
    x = x + 0.5 * jnp.pad(x[..., 1:, :], ((0, 0), (0, 1), (0, 0)))
    return nn.Dropout(self.dropout, deterministic=not train)(x)


def model(head, dropout=0.0):
  """A network by the name of its scores; "refined" is the parser of second order."""
  encoder = Encoder(dropout)
  match head:
    case "LinearChain":
      return CRFTagger(encoder, TAGS)
    case "MaxEnt":
      return MaxEntTagger(encoder, TAGS)
    case "SpanScores":
      return SpanTagger(encoder, LABELS, width=3)
    case "DependencyScores":
      return BiaffineParser(encoder, 2, arc_width=3, relation_width=3)
    case "refined":
      return BiaffineParser(encoder, 2, arc_width=3, relation_width=3, second_order_width=3)
    case "ParsingTags":
      return ParsingTagger(encoder, OFFSETS, RELATIONS)
  raise AssertionError(head)


STUDENTS = {
  "LinearChain": "LinearChain",
  "MaxEnt": "LinearChain",
  "SpanScores": "MaxEnt",
  "DependencyScores": "ParsingTags",
  "refined": "ParsingTags",
}
"""A student for every teacher, by their heads."""


def is_parser(head):
  return head in ("DependencyScores", "refined", "ParsingTags")


def dataset(lengths=LENGTHS, *, trees=False, split="train", seed=0, buckets=BUCKETS):
  """Random words; the trees are chains to the left or to the right."""
  rng = np.random.default_rng((seed, len(lengths)))
  shape = (len(lengths), max(buckets))
  mask = np.arange(shape[1]) < np.array(lengths)[:, None]
  words = rng.integers(2, WORDS, shape).astype(np.int32) * mask
  characters = rng.integers(1, 9, (*shape, 2)).astype(np.uint8) * mask[..., None].astype(np.uint8)
  if trees:
    to_the_left = rng.random((shape[0], 1)) < 0.5
    before, after = np.arange(shape[1]), np.arange(2, shape[1] + 2)
    after = np.where(after > np.array(lengths)[:, None], 0, after)
    heads = (np.where(to_the_left, before, after) * mask).astype(np.int32)
    relations = (rng.integers(0, 2, shape) * mask).astype(np.int32)
    labels = Tree(heads, relations, (words % 5 == 0) & mask)
  else:
    labels = (rng.integers(0, TAGS, shape) * mask).astype(np.int32)
  ids = np.array([f"{split} {row}" for row in range(shape[0])])
  tokens = Tokens(words, characters, mask)
  return SequenceDataset("fake", "1", split, tokens, labels, ids, None, buckets)


def task(head, **changes):
  """What a student with this head is trained on."""
  parser = is_parser(head)
  return Task(
    **{
      "model": model(head),
      "train": dataset(trees=parser),
      "validation": dataset((2, 5, 8, 1), trees=parser, split="validation", seed=1),
      "batch_size": 8,
      "seeds": (3, 5),
      "one_dispatch": True,
      "evaluation": PARSING if parser else TAGGING,
    }
    | changes
  )


def network(head, data, seed=7):
  """A network that nobody trained, all of whose parameters are random: (model, variables)."""
  made = model(head)
  example = jax.tree.map(lambda x: x[:1], data.buckets[0].inputs)
  variables = made.init(jax.random.key(seed), example)
  rng = np.random.default_rng(seed)
  return made, jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), variables)


def live(head, data, seed=7):
  return live_teacher(*network(head, data, seed))


def cached(head, data, seed=7):
  """The teacher of `live`, from its scores at the sentences' true lengths."""
  predict = predicting.structure_predictor(*network(head, data, seed), data)
  ragged = predict(np.arange(len(data)), 0, 8)
  return cached_structures(
    [layout.unpack(ragged.take(bucket.rows), bucket.length) for bucket in data.buckets]
  )
