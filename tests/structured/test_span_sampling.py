"""Samples of segmentations against the list of all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.structured._span_sampling import sample_spans
from tests.structured import oracles
from tests.structured.contract import LENGTHS, MASK
from tests.structured.frequencies import assert_drawn
from tests.structured.test_span_paths import LABELS, draw, parts, unread
from tests.structured.tree_search import QUICKLY


@functools.partial(jax.jit, compiler_options=QUICKLY)
def samples(scores):
  keys = jax.random.split(jax.random.key(1), 3000)
  return jax.vmap(lambda key: sample_spans(scores, key, MASK))(keys)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_frequencies_are_those_of_the_distribution(scale):
  scores = draw(seed=1, scale=scale)
  found = np.asarray(samples(scores))
  assert found.dtype == jnp.int32
  assert not found[:, ~MASK].any()
  for row, length in enumerate(LENGTHS):
    listed = oracles.flat_spans(length, LABELS)
    assert_drawn(found[:, row, :length], listed, parts(scores[row], length))


def test_great_scores_and_excluded_spans():
  scores = draw(seed=2)
  scores[:, 0, 1, 0] = scores[:, 2, 2] = -np.inf
  scores[:, 1, 2] += 1e4  # labels of one span still share its probability
  found = np.asarray(samples(scores))
  scores = np.where(np.isneginf(scores), oracles.EXCLUDED, scores)
  for row, length in enumerate(LENGTHS):
    listed = oracles.flat_spans(length, LABELS)
    assert_drawn(found[:, row, :length], listed, parts(scores[row], length))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
def test_what_is_not_read_has_no_influence(garbage):
  scores = draw(seed=3)
  dirty = np.where(unread(), np.float32(garbage), scores)
  np.testing.assert_array_equal(samples(dirty), samples(scores))


def test_arguments_are_checked():
  key = jax.random.key(0)
  with pytest.raises(ValueError, match="NaN"):
    sample_spans(np.full((2, 2, 1), np.nan, np.float32), key)
  with pytest.raises(ValueError, match="by start, end and label"):
    sample_spans(np.zeros((2, 3, 1), np.float32), key)
