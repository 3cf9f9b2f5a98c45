"""The k best sequences of independent tags and samples of them, against the list of all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.structured._independent_tags import k_best_tags, sample_tags
from kd_jax.types import NEG_INF
from tests.structured import oracles
from tests.structured.contract import BATCH, LENGTHS, MASK, TOKENS
from tests.structured.frequencies import assert_drawn
from tests.structured.tree_search import QUICKLY

TAGS, K = 3, 12


def draw(seed=0, scale=1.0):
  found = np.random.default_rng(seed).standard_normal((BATCH, TOKENS, TAGS))
  return np.float32(scale * found)


def parts(logits, length):
  return oracles.chain_parts(logits[:length], np.zeros((TAGS, TAGS)))


@functools.partial(jax.jit, compiler_options=QUICKLY)
def search(logits):
  keys = jax.random.split(jax.random.key(1), 3000)
  samples = jax.vmap(lambda key: sample_tags(logits, key, MASK))(keys)
  return *k_best_tags(logits, K, MASK), samples


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_the_k_best_of_all_sequences(scale):
  logits = draw(scale=scale)
  tags, values, _ = search(logits)
  assert (tags.shape, tags.dtype) == ((BATCH, K, TOKENS), jnp.int32)
  for row, length in enumerate(LENGTHS):
    listed = oracles.tag_sequences(length, TAGS)
    paths, expected = oracles.k_best(listed, parts(logits[row], length), K)
    exist = len(expected)
    np.testing.assert_allclose(values[row, :exist], expected, rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_array_equal(tags[row, :exist, :length], paths)
    np.testing.assert_array_equal(values[row, exist:], np.float32(NEG_INF))
    np.testing.assert_array_equal(tags[row, exist:], 0)
    np.testing.assert_array_equal(tags[row, :, length:], 0)


def test_equal_scores_still_give_distinct_sequences():
  tags, values, _ = search(np.zeros((BATCH, TOKENS, TAGS), np.float32))
  np.testing.assert_array_equal(values[0], 0)
  assert len({tuple(path) for path in tags[0].tolist()}) == K


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_samples_have_the_frequencies_of_the_distribution(scale):
  logits = draw(seed=1, scale=scale)
  samples = np.asarray(search(logits)[2])
  assert samples.dtype == jnp.int32
  assert not samples[:, ~MASK].any()
  for row, length in enumerate(LENGTHS):
    listed = oracles.tag_sequences(length, TAGS)
    assert_drawn(samples[:, row, :length], listed, parts(logits[row], length))


def test_excluded_tags():
  logits = draw(seed=2)
  logits[:, 0, :2] = -np.inf
  logits[:, 1, 1:] = NEG_INF
  tags, values, samples = search(logits)
  exists = np.asarray(values) > NEG_INF / 2
  np.testing.assert_array_equal(exists.sum(1), [9, 9, 3, 1, 1, 1])
  assert (np.asarray(tags)[:5, :, 0] == 2 * exists[:5]).all()
  assert not np.asarray(tags)[..., 1].any()
  assert (np.asarray(samples)[:, :5, 0] == 2).all()
  assert not np.asarray(samples)[..., 1].any()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_padding_has_no_influence(garbage):
  logits = draw(seed=3)
  dirty = np.where(MASK[..., None], logits, np.float32(garbage))
  jax.tree.map(np.testing.assert_array_equal, search(dirty), search(logits))


def test_the_gradient_of_a_score_is_its_sequence():
  logits = draw(seed=4)
  tags, _, _ = search(logits)
  second = functools.partial(jax.jit, compiler_options=QUICKLY)(
    jax.grad(lambda logits: k_best_tags(logits, K, MASK)[1][:, 1].sum())
  )
  gradient = second(logits)
  for row in range(4):  # shorter sentences have a second sequence too, but no more than one token
    np.testing.assert_array_equal(gradient[row], np.eye(TAGS)[tags[row, 1]] * MASK[row, :, None])


def test_arguments_are_checked():
  with pytest.raises(ValueError, match="at least 1"):
    k_best_tags(np.zeros((3, 4), np.float32), 0)
  with pytest.raises(ValueError, match="NaN"):
    k_best_tags(np.full((3, 4), np.nan, np.float32), 2)
  with pytest.raises(ValueError, match="at least one tag"):
    sample_tags(np.zeros((3, 0), np.float32), jax.random.key(0))
