"""The references against one another: lists of all structures, dynamic programmes, determinants."""

import functools

import numpy as np
import pytest

from tests.structured import oracles

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_forward_backward(n):
  unary, transition = RNG.normal(0, 2, (n, 3)), RNG.normal(0, 2, (3, 3))
  structures, parts = oracles.tag_sequences(n, 3), oracles.chain_parts(unary, transition)
  total, tags, pairs = oracles.forward_backward(unary, transition)
  np.testing.assert_allclose(total, oracles.log_partition(structures, parts))
  expected = oracles.marginals(structures, parts)
  np.testing.assert_allclose(np.append(tags.ravel(), pairs.ravel()), expected, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_flat_spans(n):
  span_scores = RNG.normal(0, 2, (n, n, 2))
  structures = oracles.flat_spans(n, 2)
  expected = oracles.log_partition(structures, span_scores.ravel())
  np.testing.assert_allclose(oracles.span_log_partition(span_scores), expected)
  for tags, count in zip(structures.decoded, structures.counts, strict=True):
    np.testing.assert_array_equal(oracles.spans_of_tags(tags, 2), count.reshape(n, n, 2))
  # They are the legal BIOES sequences, once each.
  allowed, start, end = oracles.legal_transitions(2)
  legal = [
    tuple(tags)
    for tags in oracles.tag_sequences(n, 9).decoded
    if start[tags[0]] and end[tags[-1]] and allowed[tags[:-1], tags[1:]].all()
  ]
  assert sorted(map(tuple, structures.decoded)) == sorted(legal)


@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_trees(n, single_root):
  arc = RNG.normal(0, 2, (n, n + 1))
  structures = oracles.trees(n, single_root, False)
  assert len(structures.counts) == (n ** (n - 1) if single_root else (n + 1) ** (n - 1))
  expected = oracles.log_partition(structures, arc.ravel())
  np.testing.assert_allclose(oracles.matrix_tree(arc, single_root), expected)
  np.testing.assert_allclose(oracles.tree_log_partition(arc, single_root), expected)
  total = functools.partial(oracles.tree_log_partition, single_root=single_root)
  found = oracles.forced_marginals(total, arc)
  expected = oracles.marginals(structures, arc.ravel())
  np.testing.assert_allclose(found.ravel(), expected, atol=1e-12)
  projective = oracles.trees(n, single_root, True)
  expected = oracles.log_partition(projective, arc.ravel())
  np.testing.assert_allclose(oracles.eisner_log_partition(arc, single_root), expected)


def test_numbers_of_projective_trees():
  """The integer sequences A001764 and A006013."""
  assert [len(oracles.trees(n, False, True).counts) for n in range(1, 6)] == [1, 3, 12, 55, 273]
  assert [len(oracles.trees(n, True, True).counts) for n in range(1, 6)] == [1, 2, 7, 30, 143]


def test_maximum_spanning_tree():
  for n in (1, 2, 3, 4, 5):
    structures = oracles.trees(n, True, False)
    for scale in (1, 100):
      for arc in RNG.normal(0, scale, (20, n, n + 1)).round():
        heads = oracles.maximum_spanning_tree(arc)
        assert oracles.is_tree(heads, single_root=True)
        _, (best,) = oracles.k_best(structures, arc.ravel(), 1)
        assert oracles.tree_score(arc, heads) == best


def test_mean_field_of_independent_scores_does_not_move():
  arc, zeros = RNG.normal(0, 2, (4, 5)), np.zeros((4, 5, 5))
  first = oracles.mean_field(arc, None, None, 0)
  np.testing.assert_allclose(first.sum(-1), 1)
  np.testing.assert_allclose(oracles.mean_field(arc, zeros, zeros, 3), first)
