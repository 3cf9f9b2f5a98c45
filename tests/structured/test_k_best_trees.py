"""The best dependency trees, the k best and samples, crossing arcs allowed, against lists of all trees."""

import functools

import jax
import numpy as np
import pytest

from kd_jax.structured import _k_best_trees
from kd_jax.structured._k_best_trees import best_spanning_tree, k_best_spanning_trees
from kd_jax.structured._spanning_tree_sampling import sample_spanning_tree
from tests.structured import oracles
from tests.structured.contract import MASK
from tests.structured.tree_search import QUICKLY, SAMPLES, K, TreeSearchContract, draw, unread


class SpanningTreeSearch(TreeSearchContract):
  projective = False

  def best(self, arc, mask):
    return best_spanning_tree(arc, mask, single_root=self.single_root)

  def k_best(self, arc, k, mask):
    return k_best_spanning_trees(arc, k, mask, single_root=self.single_root)

  def sample(self, arc, key, mask):
    return sample_spanning_tree(arc, key, mask, single_root=self.single_root)


class TestSingleRoot(SpanningTreeSearch):
  single_root = True

  def test_sets_that_are_searched_in_turn(self, monkeypatch):
    """As in sentences of more than `SETS_AT_ONCE` tokens."""
    monkeypatch.setattr(_k_best_trees, "SETS_AT_ONCE", 3)  # read when the function is traced
    arc = draw(scale=3.0)
    in_turn = jax.jit(lambda arc: self.k_best(arc, K, MASK), compiler_options=QUICKLY)
    jax.tree.map(np.testing.assert_array_equal, in_turn(arc), self.search(arc)[1])


class TestMultiRoot(SpanningTreeSearch):
  single_root = False

  def test_eager_equals_jit(self):
    arc = np.where(unread(), np.float32(np.nan), draw(seed=6))
    key = jax.random.split(jax.random.key(3), SAMPLES)[0]
    np.testing.assert_array_equal(self.sample(arc, key, MASK), self.search(arc)[2][0])


@pytest.mark.parametrize("depth", [0.0, 3.0])
def test_marginals_of_samples_of_longer_sentences(depth):
  """Longer than enumeration reaches, with cycles of three that several subtrees hang on."""
  n, count = 9, 4000
  arc = draw(seed=7, n=n, batch=1)[0]
  for i in range(n):
    arc[i, 1 + 3 * (i // 3) + (i + 1) % 3] += depth
  samples = np.asarray(_many(arc, count))
  assert all(oracles.is_tree(list(tree), single_root=True) for tree in samples[:50])
  found = np.stack([(samples == head).mean(axis=0) for head in range(n + 1)], axis=1)
  expected = oracles.forced_marginals(lambda arc: oracles.tree_log_partition(arc, True), arc)
  deviation = np.sqrt(expected * (1 - expected) / count)
  assert (np.abs(found - expected) < 4.5 * deviation + 2 / count).all()


@functools.partial(jax.jit, compiler_options=QUICKLY)
def _samples(arc, keys):
  return jax.vmap(lambda key: sample_spanning_tree(arc, key))(keys)


def _many(arc, count):
  return _samples(arc, jax.random.split(jax.random.key(8), count))
