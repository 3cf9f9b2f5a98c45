"""Flat spans, against lists of all segmentations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import structured
from kd_jax.structured import SpanScores, _spans as spans
from kd_jax.types import NEG_INF
from tests.structured import contract, oracles

LABELS = 2
TAGS = 4 * LABELS + 1


class TestSpans(
  contract.EntropyContract,
  contract.LogProbContract,
  contract.DivergenceContract,
  contract.DecodingContract,
  contract.SearchContract,
  contract.StructureContract,
):
  axes = {"scores": (0, 0)}  # noqa: RUF012

  def more_functions(self):
    return super().more_functions() | {
      "tag_marginals": lambda arrays, mask: structured.tag_marginals(self.build(arrays, mask))
    }

  def shapes(self, n):
    return {"scores": (n, n, LABELS)}

  def build(self, arrays, mask):
    return SpanScores(arrays["scores"], mask)

  def gold(self, arrays, mask):
    """Every token a span of its own, of the second label."""
    return np.full(arrays["scores"].shape[:-2], 5)

  def structures(self, length):
    return oracles.flat_spans(length, LABELS)

  def parts(self, row, length):
    found = np.float64(row["scores"][:length, :length])
    return np.where(np.tri(length, dtype=bool).T[..., None], found, 0).ravel()

  def spread(self, parts, row, length):
    found = np.zeros(row["scores"].shape)
    found[:length, :length] = parts.reshape(length, length, LABELS)
    return {"scores": found}

  def unread(self, arrays, mask):
    n = arrays["scores"].shape[-2]
    read = np.tri(n, dtype=bool).T & mask[..., None, :] & mask[..., :, None]
    return {"scores": np.broadcast_to(~read[..., None], arrays["scores"].shape)}

  def exclude(self, arrays):
    scores = arrays["scores"].copy()
    scores[:, 0, 1] = scores[:, 2, 2, 0] = NEG_INF
    return {"scores": scores}

  def misshapen(self, arrays):
    yield "scores", arrays["scores"][:-1]
    yield "scores", arrays["scores"][:, :-1]
    yield "scores", arrays["scores"][:, :, :-1]

  # What spans have beside the contract.

  @pytest.mark.parametrize("scale", [1.0, 5.0])
  def test_tag_marginals(self, scale):
    arrays = self.draw(scale, seed=4)
    found = self.evaluate(arrays)["tag_marginals"]
    assert found.shape == (contract.BATCH, contract.TOKENS, TAGS)
    assert found.dtype == jnp.float32
    for i, length in enumerate(contract.LENGTHS):
      parts = self.parts(contract.row_of(arrays, i), length)
      expected = oracles.tag_marginals(self.structures(length), parts, TAGS)
      np.testing.assert_allclose(found[i, :length], expected, atol=2e-5 * scale)
      np.testing.assert_array_equal(found[i, length:], 0)

  @pytest.mark.parametrize("kind", ["signs", "wide", "flat", "excluded"])
  def test_tag_marginals_of_extreme_scores(self, kind):
    arrays = self.extreme(kind)
    found = self.evaluate(arrays)["tag_marginals"]
    assert np.min(found) >= 0
    np.testing.assert_allclose(found.sum(-1), contract.MASK, atol=1e-3)
    for i, length in enumerate(contract.LENGTHS):
      parts = self.parts(contract.row_of(arrays, i), length)
      expected = oracles.tag_marginals(self.structures(length), parts, TAGS)
      np.testing.assert_allclose(found[i, :length], expected, atol=5e-3)

  def test_gradient_of_the_tag_marginals_is_finite(self):
    weights = self.weights(np.zeros((contract.BATCH, contract.TOKENS, TAGS)))

    @jax.jit
    @jax.grad
    def gradient(scores):
      return jnp.sum(weights * structured.tag_marginals(SpanScores(scores, contract.MASK)))

    for kind in ("signs", "wide", "flat", "excluded"):
      assert np.isfinite(gradient(self.extreme(kind)["scores"])).all(), kind
    # Scores are raised where they raise the probability of a tag.
    scores = self.draw(1.0)["scores"]
    direction = (
      self.draw(1.0, seed=9)["scores"] * ~self.unread({"scores": scores}, contract.MASK)["scores"]
    )

    def value(step):
      total = 0.0
      for i, length in enumerate(contract.LENGTHS):
        parts = self.parts({"scores": np.float64(scores[i]) + step * direction[i]}, length)
        expected = oracles.tag_marginals(self.structures(length), parts, TAGS)
        total += np.sum(weights[i, :length] * expected)
      return total

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    np.testing.assert_allclose(np.sum(gradient(scores) * direction), slope, rtol=1e-3)

  @pytest.mark.parametrize("scale", [1.0, 1e4])
  def test_long_sentences(self, scale):
    rng, lengths = np.random.default_rng(6), (40, 17)
    scores = np.float32(scale * rng.uniform(-1, 0.2, (2, 40, 40, LABELS)))
    mask = np.arange(40) < np.array(lengths)[:, None]
    found = jax.jit(structured.log_partition)(SpanScores(scores, mask))
    for i, length in enumerate(lengths):
      expected = oracles.span_log_partition(scores[i, :length, :length])
      np.testing.assert_allclose(found[i], expected, rtol=1e-4 if scale > 1 else 1e-5)
    gradient = jax.jit(
      jax.grad(lambda scores: structured.log_partition(SpanScores(scores, mask)).sum())
    )(scores)
    assert np.isfinite(gradient).all()

  def test_without_spans_worth_their_score_all_is_outside(self):
    scores = np.full((3, 3, LABELS), NEG_INF, np.float32)
    np.testing.assert_allclose(jax.jit(structured.log_partition)(SpanScores(scores)), 0, atol=1e-6)
    np.testing.assert_array_equal(jax.jit(contract.viterbi)(SpanScores(scores))[0], 0)
    np.testing.assert_allclose(
      jax.jit(structured.tag_marginals)(SpanScores(scores))[:, 0], 1, atol=1e-6
    )

  def test_one_long_span(self):
    scores = np.zeros((4, 4, LABELS), np.float32)
    scores[0, 3, 1] = 50
    tags, score = jax.jit(contract.viterbi)(SpanScores(scores))
    np.testing.assert_array_equal(tags, [6, 7, 7, 8])  # B I I E of the second label
    np.testing.assert_allclose(score, 50)


spans_of_tags = jax.jit(spans.spans_of_tags, static_argnums=1)


class TestSpansOfTags:
  """Numbers: O 0; S B I E of the first label 1 2 3 4, of the second 5 6 7 8."""

  def test_well_formed(self):
    for length in (1, 2, 4):
      structures = oracles.flat_spans(length, LABELS)
      found = spans_of_tags(structures.decoded, LABELS)
      assert found.dtype == jnp.bool_
      np.testing.assert_array_equal(found.reshape(len(found), -1), structures.counts)

  @pytest.mark.parametrize(
    ("tags", "expected"),
    [
      ([2, 2, 4, 0], {(1, 2, 0)}),  # the second B begins anew
      ([2, 3, 8, 0], set()),  # ends as another label
      ([2, 7, 4, 0], set()),  # goes on as another label
      ([2, 1, 4, 5], {(1, 1, 0), (3, 3, 1)}),  # S breaks off what was open
      ([3, 4, 0, 4], set()),  # never begun
      ([6, 7, 7, 7], set()),  # never ended
      ([2, 0, 4, 0], set()),  # interrupted
      ([2, 4, 4, 0], {(0, 1, 0)}),  # ended twice
      ([6, 8, 2, 4], {(0, 1, 1), (2, 3, 0)}),
    ],
  )
  def test_ill_formed(self, tags, expected):
    found = np.asarray(spans_of_tags(np.array(tags), LABELS))
    assert {tuple(map(int, span)) for span in np.argwhere(found)} == expected

  def test_random_tags_under_a_mask(self):
    rng = np.random.default_rng(0)
    tags = rng.integers(0, TAGS, (300, 4))
    tags[:150] = rng.choice([2, 3, 4], (150, 4))  # where more is well formed
    lengths = rng.integers(0, 5, 300)
    mask = np.arange(4) < lengths[:, None]
    found = spans_of_tags(tags, LABELS, mask)
    for i, length in enumerate(lengths):
      expected = np.zeros((4, 4, LABELS), bool)
      expected[:length, :length] = oracles.spans_of_tags(tags[i, :length], LABELS)
      np.testing.assert_array_equal(found[i], expected)

  def test_tags_are_checked(self):
    with pytest.raises(ValueError, match="float32"):
      spans.spans_of_tags(np.zeros(4, np.float32), LABELS)
    with pytest.raises(ValueError, match=r"\(3,\)"):
      spans.spans_of_tags(np.zeros(4, np.int32), LABELS, np.ones(3, bool))
