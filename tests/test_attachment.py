"""Attachment scores against a loop over tokens."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_jax import metrics
from kd_jax.types import Tree
from tests import contract

SENTENCES, LENGTH, RELATIONS = 5, 6, 4
NAMES = ("uas", "las", "uas_no_punctuation", "las_no_punctuation")

attachment_scores = jax.jit(metrics.attachment_scores)


def draw(seed):
  """Predicted heads and relations, the gold tree, and the sentences' lengths."""
  rng = np.random.default_rng(seed)
  shape = (SENTENCES, LENGTH)
  tree = Tree(
    rng.integers(0, LENGTH + 1, shape).astype(np.int32),
    rng.integers(-1, RELATIONS, shape).astype(np.int32),
    rng.random(shape) < 0.3,
  )
  changed = rng.random((2, *shape)) < 0.4
  heads = np.where(changed[0], rng.integers(0, LENGTH + 1, shape), tree.heads)
  relations = np.where(changed[1], rng.integers(0, RELATIONS, shape), tree.relations)
  return heads, relations, tree, rng.integers(0, LENGTH + 1, SENTENCES)


def reference(heads, relations, tree, lengths):
  """(right, tokens) of each score."""
  totals = {name: [0, 0] for name in NAMES}
  for i, length in enumerate(lengths):
    for j in range(length):
      head_right = heads[i][j] == tree.heads[i][j]
      both_right = head_right and relations[i][j] == tree.relations[i][j] != -1
      for name, right in (("uas", head_right), ("las", both_right)):
        for counted in (name, name + "_no_punctuation"):
          if counted == name or not tree.punctuation[i][j]:
            totals[counted][0] += int(right)
            totals[counted][1] += 1
  return totals


def mask_of(lengths):
  return np.arange(LENGTH) < np.asarray(lengths)[:, None]


@contract.sampled
@hypothesis.given(seed=st.integers(0, 10**9))
def test_equals_a_loop_over_tokens(seed):
  heads, relations, tree, lengths = draw(seed)
  scores = attachment_scores(heads, relations, tree, mask_of(lengths))
  expected = reference(heads, relations, tree, lengths)
  assert set(scores) == set(NAMES)
  for name, pair in scores.items():
    np.testing.assert_array_equal(pair, expected[name], err_msg=name)


def test_sentences_add_up_and_padding_is_no_matter():
  heads, relations, tree, lengths = draw(3)
  mask = mask_of(lengths)
  whole = attachment_scores(heads, relations, tree, mask)
  parts = [
    attachment_scores(heads, relations, tree, mask & (np.arange(SENTENCES) == i)[:, None])
    for i in range(SENTENCES)
  ]
  garbage = [np.where(mask, x, 0) for x in (heads, relations, *tree)]
  blank = attachment_scores(*garbage[:2], Tree(*garbage[2:]), mask)
  for name in NAMES:
    np.testing.assert_array_equal(np.sum([part[name] for part in parts], axis=0), whole[name])
    np.testing.assert_array_equal(blank[name], whole[name])
    assert 0 < whole[name][0] < whole[name][1]


def test_a_tree_against_itself_is_perfect():
  _, _, tree, _ = draw(1)
  tree = tree._replace(relations=np.abs(tree.relations))
  scores = attachment_scores(tree.heads, tree.relations, tree, np.ones((SENTENCES, LENGTH)))
  for name in NAMES:
    assert metrics.compute(*scores[name]) == 1, name
  assert scores["uas"][1] == SENTENCES * LENGTH
  assert scores["uas_no_punctuation"][1] == np.sum(~tree.punctuation)


def test_an_unknown_relation_is_never_right():
  _, _, tree, _ = draw(1)
  tree = tree._replace(relations=np.full_like(tree.relations, -1))
  scores = attachment_scores(tree.heads, tree.relations, tree, np.ones((SENTENCES, LENGTH)))
  assert (scores["uas"][0], scores["las"][0]) == (SENTENCES * LENGTH, 0)


def test_refuses_other_shapes_and_scores_for_heads():
  heads, relations, tree, lengths = draw(0)
  mask = mask_of(lengths)
  with pytest.raises(ValueError, match="one shape"):
    metrics.attachment_scores(heads[:, :4], relations, tree, mask)
  with pytest.raises(ValueError, match="one shape"):
    metrics.attachment_scores(heads, relations, tree, mask[0])
  with pytest.raises(ValueError, match="decode scores"):
    metrics.attachment_scores(heads.astype(np.float32), relations, tree, mask)
