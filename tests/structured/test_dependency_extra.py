"""Dependency trees beyond enumeration contracts: long sentences, excluded arcs, taggers, parsing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import structured
from kd_jax.structured import DependencyScores, DependencyTrees, ParsingTags, _parsing_tags
from kd_jax.structured._spanning_tree import maximum_spanning_tree
from kd_jax.types import NEG_INF
from tests.structured import oracles

spanning = jax.jit(maximum_spanning_tree)


def single_root_trees(n):
  heads = itertools.product(range(n + 1), repeat=n)
  return np.array([tree for tree in heads if oracles.is_tree(list(tree), single_root=True)])


def best_arborescence(scores):
  """Heads of the best tree below node 0 of [m, m] scores by (dependent, head): Chu-Liu-Edmonds, float64."""
  m = len(scores)
  heads = [0] + [
    max((h for h in range(m) if h != i), key=lambda h: scores[i, h]) for i in range(1, m)
  ]
  for start in range(1, m):
    path, node = [], start
    while node != 0 and node not in path:
      path.append(node)
      node = heads[node]
    if node != 0:
      cycle = path[path.index(node) :]
      break
  else:
    return heads
  rest = [i for i in range(m) if i not in cycle]
  new = len(rest)
  small = np.full((new + 1, new + 1), -np.inf)
  small[:new, :new] = scores[np.ix_(rest, rest)]
  enter, leave = {}, {}
  for place, outer in enumerate(rest):
    gain = {i: scores[i, outer] - scores[i, heads[i]] for i in cycle}
    enter[place] = max(cycle, key=gain.get)
    small[new, place] = gain[enter[place]]
    leave[place] = max(cycle, key=lambda i: scores[outer, i])
    small[place, new] = scores[outer, leave[place]]
  found = best_arborescence(small)
  heads = list(heads)
  for place in range(1, new):
    above = found[place]
    heads[rest[place]] = leave[place] if above == new else rest[above]
  above = found[new]
  heads[enter[above]] = rest[above]
  return heads


def best_single_root_score(arc):
  """Of float64 arc scores [n, n+1]: every token tried as the only child of the root."""
  n = len(arc)
  scores = np.full((n + 1, n + 1), -np.inf)
  best = -np.inf
  for top in range(n):
    scores[1:] = arc
    scores[1:, 0] = -1e12
    scores[top + 1, 0] = arc[top, 0]
    heads = best_arborescence(scores)[1:]
    if heads.count(0) == 1:
      best = max(best, sum(arc[i, head] for i, head in enumerate(heads)))
  return best


class TestMaximumSpanningTree:
  @pytest.mark.parametrize("scale", [1.0, 1e4])
  def test_long_sentences(self, scale):
    rng = np.random.default_rng(3)
    arc = (scale * rng.standard_normal((5, 24, 25))).astype(np.float32)
    arc[1] = np.round(arc[1] / scale)  # ties
    arc[2, :, 0] += 3 * scale  # many tokens would be the root's children
    arc[3] += 5 * scale * (np.arange(25) % 5 == np.arange(24)[:, None] % 5)  # cycles
    lengths = np.array([24, 24, 24, 24, 17])
    heads = np.asarray(spanning(arc, np.arange(24) < lengths[:, None]))
    for row, length in enumerate(lengths):
      tree = heads[row, :length]
      assert oracles.is_tree(list(tree), single_root=True)
      assert not heads[row, length:].any()
      wide = arc[row, :length, : length + 1].astype(np.float64)
      found = wide[np.arange(length), tree].sum()
      np.testing.assert_allclose(found, best_single_root_score(wide), rtol=1e-6)

  @pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
  def test_fewest_excluded_arcs_and_then_the_best(self, share):
    rng = np.random.default_rng(int(10 * share))
    arc = rng.integers(-9, 10, (40, 4, 5)).astype(np.float32)
    excluded = rng.random(arc.shape) < share
    trees = single_root_trees(4)
    heads = np.asarray(spanning(np.where(excluded, np.float32(NEG_INF), arc)))
    rows = np.arange(4)
    infeasible = 0
    for i in range(len(arc)):
      worth = [(-excluded[i, rows, t].sum(), (arc[i] * ~excluded[i])[rows, t].sum()) for t in trees]
      tree = heads[i]
      assert oracles.is_tree(list(tree), single_root=True)
      found = (-excluded[i, rows, tree].sum(), (arc[i] * ~excluded[i])[rows, tree].sum())
      assert found == max(worth)
      infeasible += found[0] < 0
    assert infeasible > 0  # both kinds are among them, but for the last share
    assert infeasible < len(arc) or share == 0.9

  @pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
  def test_always_a_tree(self, garbage):
    rng = np.random.default_rng(0)
    arc = rng.standard_normal((20, 5, 6)).astype(np.float32)
    arc[rng.random(arc.shape) < 0.5] = garbage
    for tree in np.asarray(spanning(arc)):
      assert oracles.is_tree(list(tree), single_root=True)


class TestTreeLogProb:
  @pytest.mark.parametrize("single_root", [True, False])
  @pytest.mark.parametrize("projective", [True, False])
  def test_adds_up_to_1(self, single_root, projective):
    arc = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    trees = [
      heads
      for heads in itertools.product(range(5), repeat=4)
      if oracles.is_tree(list(heads), single_root)
      and (not projective or oracles.is_projective(list(heads)))
    ]

    def log_prob(heads):
      options = {"single_root": single_root, "projective": projective}
      return structured.log_prob(DependencyTrees(arc, **options), heads)

    log_probs = np.asarray(jax.jit(jax.vmap(log_prob))(np.array(trees)))
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1.0, rtol=1e-5)
    weights = [arc[np.arange(4), tree].sum() for tree in trees]
    np.testing.assert_allclose(log_probs - log_probs[0], np.array(weights) - weights[0], atol=1e-5)

  def test_heads_are_checked(self):
    with pytest.raises(ValueError, match=r"\(4,\).*\(3,\)"):
      structured.log_prob(DependencyTrees(np.zeros((4, 5), np.float32)), np.zeros(3, np.int32))


def arcs_of_tags(tags):
  log_probs, offsets, _, mask = _parsing_tags._log_probs(tags)
  return _parsing_tags._arcs_of_tags(log_probs, offsets, mask)


class TestParsingTags:
  OFFSETS = np.array([0, 0, -1, -1, 1, 2, -2, 7, -9], np.int32)
  RELATIONS = np.array([4, 2, 0, 1, 1, 3, 0, 0, 1], np.int32)
  MASK = np.arange(5) < np.array([5, 3, 1, 0])[:, None]

  def tags(self, seed=0):
    logits = np.random.default_rng(seed).standard_normal((4, 5, 9)).astype(np.float32)
    return ParsingTags(logits, self.OFFSETS, self.RELATIONS, self.MASK)

  def named(self, row, i, head):
    """Labels that give token i (from 0) this head."""
    offset = head - (i + 1) if head else 0
    return [label for label, named in enumerate(self.OFFSETS) if named == offset]

  def log_probs(self, tags):
    logits = tags.logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

  def test_arcs_are_the_best_labels(self):
    tags = self.tags()
    expected = np.full((4, 5, 6), NEG_INF)
    for row, i, head in itertools.product(range(4), range(5), range(6)):
      length = self.MASK[row].sum()
      labels = self.named(row, i, head)
      if i < length and head <= length and head != i + 1 and labels:
        expected[row, i, head] = self.log_probs(tags)[row, i, labels].max()
    found = jax.jit(arcs_of_tags)(tags)
    np.testing.assert_allclose(found, expected, rtol=1e-5)

  def test_parse(self):
    parse = jax.jit(structured.argmax)
    for seed in range(3):
      tags = self.tags(seed)
      heads, relations = (np.asarray(x) for x in parse(tags))
      log_probs = self.log_probs(tags)
      for row, length in enumerate(self.MASK.sum(-1)):
        assert not heads[row, length:].any()
        assert not relations[row, length:].any()
        assert oracles.is_tree(list(heads[row, :length]), single_root=True)
        arc = np.asarray(arcs_of_tags(tags))[row].astype(np.float64)
        if length:
          rows = np.arange(length)
          trees = single_root_trees(length)
          best = max(arc[rows, tree].sum() for tree in trees)
          np.testing.assert_allclose(arc[rows, heads[row, :length]].sum(), best, rtol=1e-5)
        for i in range(length):
          labels = self.named(row, i, heads[row, i])
          chosen = max(labels, key=lambda label: log_probs[row, i, label])
          assert relations[row, i] == self.RELATIONS[chosen]

  def test_a_tree_even_where_no_label_names_one(self):
    """Both tokens say root: one of them gets the other as head, and its best label's relation."""
    logits = np.float32([[3.0, 1.0], [1.0, 2.0]])
    tags = ParsingTags(logits, np.int32([0, 0]), np.int32([5, 6]))
    heads, relations = structured.argmax(tags)
    assert sorted(map(int, heads)) in ([0, 1], [0, 2])
    assert relations.tolist() == [5, 6]

  def test_offsets_and_relations_must_fit(self):
    with pytest.raises(ValueError, match=r"\(8,\).*\(4, 5, 9\)"):
      arcs_of_tags(self.tags()._replace(offsets=self.OFFSETS[1:]))


class TestParse:
  def test_relations_of_the_best_tree(self):
    rng = np.random.default_rng(2)
    arc, refined = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    relation = rng.standard_normal((3, 4, 5, 6)).astype(np.float32)
    mask = np.arange(4) < np.array([4, 2, 0])[:, None]
    scores = DependencyScores(arc, relation, mask)
    for structure, weighed in ((scores, arc), (scores._replace(refined=refined), refined)):
      heads, relations = jax.jit(structured.argmax)(structure)
      np.testing.assert_array_equal(heads, spanning(weighed, mask))
      for row, i in np.argwhere(mask):
        assert relations[row, i] == relation[row, i, heads[row, i]].argmax()
      assert not np.asarray(relations)[~mask].any()

  def test_relation_scores_must_fit(self):
    scores = DependencyScores(jnp.zeros((4, 5)), jnp.zeros((4, 4, 2)))
    with pytest.raises(ValueError, match=r"\(4, 4, 2\).*\(4, 5\)"):
      structured.argmax(scores)
