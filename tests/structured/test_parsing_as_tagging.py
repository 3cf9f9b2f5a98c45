"""Dependency parsing as tagging, against loops over tokens and tags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.structured import DependencyScores, ParsingTags, _parsing_tags as tagging
from kd_jax.structured._dependency_scores import log_head_marginals, log_relation_probs
from kd_jax.types import NEG_INF, Tree

N, RELATIONS = 4, 2
LENGTHS = (4, 3, 1, 0)
MASK = np.arange(N) < np.array(LENGTHS)[:, None]
# To the root, to both sides, and beyond every sentence.
OFFSETS = np.int32([0, 0, -1, -1, 1, 1, -2, 2, 3, 9])
NAMES = np.int32([0, 1, 0, 1, 0, 1, 0, 1, 1, 0])
TAGS = ParsingTags(np.zeros((len(LENGTHS), N, len(OFFSETS)), np.float32), OFFSETS, NAMES, MASK)


def draw(seed=0, refined=False):
  rng = np.random.default_rng(seed)

  def scores(*shape):
    return rng.standard_normal((len(LENGTHS), N, N + 1, *shape)).astype(np.float32)

  return DependencyScores(scores(), scores(RELATIONS), MASK, scores() if refined else None)


def heads_of(token, length):
  """The heads that the token at an index may have; 0 is the root."""
  return [0] + [head for head in range(1, length + 1) if head != token + 1]


def log_softmax(values):
  values = np.float64(values)
  return values - np.log(np.sum(np.exp(values - values.max()))) - values.max()


def arcs_by_loops(scores, row):
  """{(token, head): log P(head | token)}."""
  found, given = {}, scores.arc if scores.refined is None else scores.refined
  for token in range(LENGTHS[row]):
    heads = heads_of(token, LENGTHS[row])
    found |= dict(
      zip(((token, head) for head in heads), log_softmax(given[row, token, heads]), strict=True)
    )
  return found


@pytest.mark.parametrize("refined", [False, True])
def test_head_and_relation_marginals_by_loops(refined):
  scores = draw(refined=refined)
  arcs = jax.jit(log_head_marginals)(scores)
  names = jax.jit(log_relation_probs)(scores)
  for row in range(len(LENGTHS)):
    expected = arcs_by_loops(scores, row)
    for token in range(N):
      for head in range(N + 1):
        if (token, head) in expected:
          np.testing.assert_allclose(arcs[row, token, head], expected[token, head], atol=1e-5)
          probs = log_softmax(scores.relation[row, token, head])
          np.testing.assert_allclose(names[row, token, head], probs, atol=1e-5)
        else:
          assert arcs[row, token, head] == np.float32(NEG_INF)
          np.testing.assert_array_equal(names[row, token, head], 0)


def named_head(token, offset, length):
  """The head that a tag names, or None where there is none."""
  if offset == 0:
    return 0
  head = token + 1 + offset
  return head if 1 <= head <= length else None


def test_heads_of_tags_by_loops():
  heads, valid = jax.jit(tagging.heads_of_tags)(TAGS)
  assert (heads.dtype, valid.dtype) == (jnp.int32, bool)
  for row, length in enumerate(LENGTHS):
    for token in range(N):
      expected = [
        named_head(token, offset, length) if token < length else None for offset in OFFSETS
      ]
      assert valid[row, token].tolist() == [head is not None for head in expected]
      assert heads[row, token].tolist() == [head or 0 for head in expected]


def test_tag_marginals_share_out_what_the_tags_can_name():
  scores = draw(seed=1)

  @jax.jit
  def marginals(scores):
    return tagging.tags_of_arcs(log_head_marginals(scores), log_relation_probs(scores), TAGS)

  found = marginals(scores)
  for row, length in enumerate(LENGTHS):
    arcs = arcs_by_loops(scores, row)
    for token in range(N):
      weights = np.zeros(len(OFFSETS))
      if token < length:
        for tag, (offset, name) in enumerate(zip(OFFSETS, NAMES, strict=True)):
          head = named_head(token, offset, length)
          if head is not None:
            names = log_softmax(scores.relation[row, token, head])
            weights[tag] = np.exp(arcs[token, head] + names[name])
      expected = weights / weights.sum() if weights.any() else weights
      np.testing.assert_allclose(found[row, token], expected, atol=1e-5)


def test_a_token_that_no_tag_suits_has_no_targets_and_a_finite_gradient():
  """Only arcs to the second next token, which the last two have not."""
  tags = ParsingTags(TAGS.logits[..., :1], np.int32([2]), np.int32([0]), MASK)
  scores = draw(seed=2)

  def total(scores):
    found = tagging.tags_of_arcs(log_head_marginals(scores), log_relation_probs(scores), tags)
    return jnp.sum(found * found), found

  gradient, found = jax.jit(jax.grad(total, has_aux=True, allow_int=True))(scores)
  assert found[0, :, 0].tolist() == [1, 1, 0, 0]
  assert found[1, :, 0].tolist() == [1, 0, 0, 0]
  assert np.isfinite(gradient.arc).all()
  assert np.isfinite(gradient.relation).all()


def test_tags_of_a_tree_by_loops():
  heads = np.int32([[0, 1, 2, 2], [3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
  relations = np.int32([[1, 0, 1, 0], [1, 0, -1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
  tree = Tree(heads, relations, np.zeros(heads.shape, bool))
  indices, known = jax.jit(tagging.tags_of_tree)(tree, TAGS)
  assert indices.dtype == jnp.int32
  for row, length in enumerate(LENGTHS):
    for token in range(N):
      head, name = heads[row, token], relations[row, token]
      matching = [
        tag
        for tag, (offset, own) in enumerate(zip(OFFSETS, NAMES, strict=True))
        if token < length and named_head(token, offset, length) == head and own == name
      ]
      assert known[row, token] == bool(matching)
      assert indices[row, token] == (matching[0] if matching else 0)
  # The relation -1, unseen in training, is in no tag.
  assert not known[1, 2]
  assert known[0].all()


def test_garbage_in_padding_and_at_impossible_arcs_has_no_influence():
  scores = draw(seed=3, refined=True)
  possible = np.zeros(scores.arc.shape, bool)
  for row, length in enumerate(LENGTHS):
    for token in range(length):
      possible[row, token, heads_of(token, length)] = True
  dirty = DependencyScores(
    np.where(possible, scores.arc, np.nan),
    np.where(possible[..., None], scores.relation, np.inf),
    MASK,
    np.where(possible, scores.refined, np.nan),
  )
  for function in (log_head_marginals, log_relation_probs):
    np.testing.assert_array_equal(jax.jit(function)(dirty), jax.jit(function)(scores))


def test_other_tokens_are_refused_with_both_shapes():
  arcs, names = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 4, 2), np.float32)
  with pytest.raises(ValueError, match=r"\(2, 3, 4\) and tags \(4, 4, 10\) must be of the same"):
    tagging.tags_of_arcs(arcs, names, TAGS)
  short = np.zeros((4, 3), np.int32)
  with pytest.raises(ValueError, match=r"(?=.*\(4, 4\)).*\(4, 3\)"):
    tagging.tags_of_tree(Tree(short, short, short.astype(bool)), TAGS)
