"""The k best segmentations against lists of all of them, and tokens' own scores against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import structured
from kd_jax.structured import SpanScores, _generic, _span_paths as span_paths, spans_of_tags
from kd_jax.types import NEG_INF
from tests.structured import oracles
from tests.structured.contract import BATCH, LENGTHS, MASK, TOKENS

LABELS = 2
TAGS = 4 * LABELS + 1
best = jax.jit(span_paths.k_best, static_argnums=1)
own = jax.jit(span_paths.scores_of_tokens)


def draw(seed=0, scale=1.0):
  shape = (BATCH, TOKENS, TOKENS, LABELS)
  return np.float32(scale) * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def parts(scores, length):
  """The scores as the lists of segmentations have them."""
  found = np.float64(scores[:length, :length])
  return np.where(np.tri(length, dtype=bool).T[..., None], found, 0).ravel()


# The k best.


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_k_best_of_all_segmentations(k, scale):
  scores = draw(scale=scale)
  tags, values = best(scores, k, MASK)
  assert (tags.shape, tags.dtype) == ((BATCH, k, TOKENS), jnp.int32)
  for row, length in enumerate(LENGTHS):
    listed = oracles.flat_spans(length, LABELS)
    paths, expected = oracles.k_best(listed, parts(scores[row], length), k)
    exist = len(expected)
    np.testing.assert_allclose(values[row, :exist], expected, rtol=1e-5, atol=1e-4 * scale)
    np.testing.assert_array_equal(tags[row, :exist, :length], paths)
    # Where there are fewer, the rest does not exist.
    np.testing.assert_array_equal(values[row, exist:], np.float32(NEG_INF))
    np.testing.assert_array_equal(tags[row, exist:], 0)
    np.testing.assert_array_equal(tags[row, :, length:], 0)
    assert exist == min(k, len(listed.decoded))


def test_every_segmentation_where_k_is_their_number():
  """Distinct, whole and in order: with as many as there are, the list itself."""
  listed = oracles.flat_spans(3, LABELS)
  number = len(listed.decoded)
  scores = draw(seed=1)[0, :3, :3]
  tags, values = jax.jit(span_paths.k_best, static_argnums=1)(scores, number + 2)
  assert {tuple(path) for path in tags[:number].tolist()} == {
    tuple(path) for path in listed.decoded.tolist()
  }
  np.testing.assert_array_equal(np.diff(values[:number]) <= 0, True)
  np.testing.assert_array_equal(values[number:], np.float32(NEG_INF))
  np.testing.assert_allclose(
    values[:number],
    jax.vmap(functools.partial(_generic.score, SpanScores(scores)))(tags[:number]),
    atol=1e-5,
  )


def test_equal_scores_still_give_distinct_segmentations():
  tags, values = best(np.zeros((BATCH, TOKENS, TOKENS, LABELS), np.float32), 7, MASK)
  np.testing.assert_array_equal(values[:3], 0)
  assert len({tuple(path) for path in tags[0].tolist()}) == 7


def test_the_best_is_the_viterbi_segmentation():
  scores = draw(seed=2, scale=3.0)
  tags, _ = best(scores, 1, MASK)
  viterbi = jax.jit(structured.argmax)(SpanScores(scores, MASK))
  np.testing.assert_array_equal(tags[:, 0], viterbi)


def unread():
  """Entries that no segmentation has: an end before the start, and padding."""
  read = np.tri(TOKENS, dtype=bool).T & MASK[:, None, :] & MASK[:, :, None]
  return ~read[..., None]


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
def test_what_is_not_read_has_no_influence(garbage):
  scores = draw(seed=3)
  dirty = np.where(unread(), np.float32(garbage), scores)
  for function in (functools.partial(best, k=7), own):
    options = {"mask": MASK}
    clean, found = (function(values, **options) for values in (scores, dirty))
    jax.tree.map(np.testing.assert_array_equal, found, clean)


def test_excluded_spans_are_in_no_segmentation_that_exists():
  scores = draw(seed=4)
  scores[:, 0, 1] = scores[:, 2, 2, 0] = NEG_INF
  tags, values = best(scores, 7, MASK)
  found = jax.vmap(lambda path: spans_of_tags(path, LABELS, MASK), in_axes=1, out_axes=1)(tags)
  exists = np.asarray(values > NEG_INF / 2)
  assert exists[0].all()
  assert not (found[:, :, 0, 1].any(-1) & exists).any()
  assert not (found[:, :, 2, 2, 0] & exists).any()


def test_gradients_of_the_k_best_scores_count_their_spans():
  scores = draw(seed=5)
  tags, _ = best(scores, 3, MASK)

  @jax.jit
  @jax.grad
  def gradient(scores):
    return jnp.sum(span_paths.k_best(scores, 3, MASK)[1][0])

  expected = sum(oracles.spans_of_tags(path, LABELS) for path in tags[0].tolist())
  found = gradient(scores)
  np.testing.assert_allclose(found[0], expected, atol=1e-6)
  np.testing.assert_array_equal(found[1:], 0)


def test_bad_arguments_of_the_k_best_are_refused():
  with pytest.raises(ValueError, match="k must be at least 1, got 0"):
    structured.top_k(SpanScores(draw()), 0)
  with pytest.raises(ValueError, match="mask"):
    span_paths.k_best(draw(), 2, MASK[:, :-1])
  with pytest.raises(ValueError, match="NaN"):
    span_paths.k_best(np.full((2, 2, 1), np.nan, np.float32), 1)


# Scores of tokens.


def tokens_alone(scores, length):
  """Each tag's log-sum over the spans that give it to a token, by loops."""
  found = np.full((length, TAGS), -np.inf)
  found[:, 0] = 0
  for token in range(length):
    for label in range(LABELS):
      by_kind = {"S": [], "B": [], "I": [], "E": []}
      for start in range(token + 1):
        for end in range(token, length):
          kind = {
            (True, True): "S",
            (True, False): "B",
            (False, False): "I",
            (False, True): "E",
          }[start == token, end == token]
          by_kind[kind].append(float(scores[start, end, label]))
      for place, values in enumerate(by_kind.values()):
        found[token, 1 + 4 * label + place] = oracles.log_sum_exp(values)
  return found


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_token_scores_by_loops(scale):
  scores = draw(seed=6, scale=scale)
  found = own(scores, MASK)
  assert (found.shape, found.dtype) == ((BATCH, TOKENS, TAGS), jnp.float32)
  assert np.isfinite(found).all()
  for row, length in enumerate(LENGTHS):
    expected = tokens_alone(scores[row], length)
    impossible = np.isneginf(expected)
    np.testing.assert_allclose(
      found[row, :length][~impossible], expected[~impossible], rtol=1e-5, atol=1e-5 * scale
    )
    # A first token ends no longer span, a last one begins none.
    assert (np.asarray(found[row, :length])[impossible] <= NEG_INF / 2).all()
    assert impossible.any() or not length


def test_token_scores_have_finite_gradients_of_what_they_read():
  @jax.jit
  @jax.grad
  def gradient(scores):
    return jnp.sum(jax.nn.softmax(span_paths.scores_of_tokens(scores, MASK))[..., 1] * MASK)

  for scores in (draw(seed=7), draw(seed=7, scale=1e4), np.full(draw().shape, NEG_INF)):
    found = np.asarray(gradient(scores))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[np.broadcast_to(unread(), found.shape)], 0)
  assert np.abs(gradient(draw(seed=7))).max() > 0.01
