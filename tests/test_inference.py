"""How many examples are read at once, and that data go to the devices once."""

import jax
import numpy as np
import pytest

from kd_jax import parallel
from kd_jax._reading import examples_at_once
from kd_jax.data.examples import Bucket
from kd_jax.teachers import predicting
from kd_jax.types import Tokens
from tests import training
from tests.training import sentences, texts


def bucket(rows, length):
  """Examples of which nothing but their shape is read."""
  words = np.zeros((rows, length), np.int32)
  tokens = Tokens(words, np.zeros((rows, length, 2), np.uint8), words == 0)
  return Bucket(np.arange(rows), length, tokens, None, None)


@pytest.mark.parametrize("length", [16, 128, 512])
@pytest.mark.parametrize("head", ["LinearChain", "MaxEnt", "ParsingTags"])
def test_networks_that_score_positions_take_the_whole_batch(head, length):
  assert examples_at_once(sentences.model(head), bucket(2000, length), 512) == 512


@pytest.mark.parametrize("head", ["SpanScores", "DependencyScores", "refined"])
def test_networks_that_score_pairs_take_fewer_long_sentences(head):
  """2^17 pairs of positions on each of the eight devices."""
  sizes = [
    examples_at_once(sentences.model(head), bucket(2000, n), 512) for n in (16, 64, 128, 256, 1000)
  ]
  assert sizes == [512, 256, 64, 16, 8]


@pytest.mark.parametrize("length", [12, 128])
def test_texts_take_the_whole_batch(length):
  data = texts.dataset().buckets[-1]
  inputs = jax.tree.map(lambda x: np.zeros((1000, length), x.dtype), data.inputs)
  wide = Bucket(np.arange(1000), length, inputs, None, None)
  assert examples_at_once(texts.Network(), wide, 512) == 512


@pytest.mark.parametrize(("rows", "size"), [(3, 8), (8, 8), (9, 16), (500, 32)])
def test_no_more_than_there_are_and_as_many_on_each_device(rows, size):
  images = training.dataset(rows).buckets[0]
  assert examples_at_once(training.mlp(8), images, 32) == size


@pytest.mark.parametrize("head", ["LinearChain", "refined"])
def test_chunks_of_sentences_cost_neither_uploads_nor_programs(head, monkeypatch):
  data = sentences.dataset(trees=sentences.is_parser(head))
  model, variables = sentences.network(head, data)
  uploads, shapes = [], []
  original, apply = parallel.replicate, type(model).apply

  def counted(tree):
    uploads.append(sum(np.asarray(x).nbytes for x in jax.tree.leaves(tree)))
    return original(tree)

  def traced(model, held, inputs, **options):
    shapes.append(inputs.words.shape)
    return apply(model, held, inputs, **options)

  predict = predicting.structure_predictor(model, variables, data)
  whole = predict(np.arange(len(data)), 0, 8)
  monkeypatch.setattr(parallel, "replicate", counted)
  monkeypatch.setattr(type(model), "apply", traced)
  for first in range(0, len(data), 3):
    rows = np.arange(first, min(first + 3, len(data)))
    part = predict(rows, 0, 8)
    for name, values in whole.take(rows).values.items():
      np.testing.assert_array_equal(part.values[name], values)  # the same program: the same bits
  assert shapes == []
  assert sum(uploads) <= 4 * 10  # the number of each step, and nothing else
