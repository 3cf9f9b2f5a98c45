"""What the best tree, the k best, and samples must satisfy, for any kind of dependency trees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.types import NEG_INF
from tests.structured import oracles
from tests.structured.contract import BATCH, LENGTHS, MASK, TOKENS
from tests.structured.frequencies import assert_drawn

SAMPLES = 3000
K = 7
QUICKLY = {"xla_backend_optimization_level": 0}
"""Compiles in half the time what runs for milliseconds."""


def draw(seed=0, scale=1.0, n=TOKENS, batch=BATCH):
  arc = np.random.default_rng(seed).standard_normal((batch, n, n + 1))
  return np.float32(scale * arc)


def parts(arc, length):
  """The scores as the lists of trees have them."""
  found = np.float64(arc[:length, : length + 1])
  return np.where(np.eye(length, length + 1, 1, dtype=bool), 0, found).ravel()


def unread(mask=MASK):
  """Arcs from or to padding, and of a token to itself."""
  n = mask.shape[-1]
  heads = np.concatenate([np.ones((*mask.shape[:-1], 1), bool), mask], -1)
  return ~(mask[..., :, None] & heads[..., None, :] & ~np.eye(n, n + 1, 1, dtype=bool))


class TreeSearchContract:
  """A subclass says which trees there are, and which functions search among them."""

  single_root: bool
  projective: bool

  def best(self, arc, mask):
    raise NotImplementedError

  def k_best(self, arc, k, mask):
    raise NotImplementedError

  def sample(self, arc, key, mask):
    raise NotImplementedError

  def listed(self, length):
    return oracles.trees(int(length), self.single_root, self.projective)

  def is_tree(self, heads):
    heads = [int(head) for head in heads]
    return oracles.is_tree(heads, self.single_root) and (
      not self.projective or oracles.is_projective(heads)
    )

  def search(self, arc):
    """(best, k best, samples) in one program, compiled once for each class."""
    cls = type(self)
    if "_search" not in cls.__dict__:

      def search(arc, keys):
        samples = jax.vmap(lambda key: self.sample(arc, key, MASK))(keys)
        return self.best(arc, MASK), self.k_best(arc, K, MASK), samples

      cls._search = functools.partial(
        jax.jit(search, compiler_options=QUICKLY), keys=jax.random.split(jax.random.key(3), SAMPLES)
      )
    return jax.tree.map(np.asarray, cls._search(arc))

  @pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
  def test_the_k_best_of_all_trees(self, scale):
    arc = draw(scale=scale)
    best, (heads, values), _ = self.search(arc)
    assert (heads.shape, heads.dtype) == ((BATCH, K, TOKENS), jnp.int32)
    assert (best.shape, best.dtype) == ((BATCH, TOKENS), jnp.int32)
    for row, length in enumerate(LENGTHS):
      listed = self.listed(length)
      trees, expected = oracles.k_best(listed, parts(arc[row], length), K)
      exist = len(expected)
      np.testing.assert_array_equal(heads[row, :exist, :length], trees)
      np.testing.assert_allclose(values[row, :exist], expected, rtol=1e-5, atol=1e-5 * scale)
      np.testing.assert_array_equal(best[row, :length], trees[0])
      np.testing.assert_array_equal(values[row, exist:], np.float32(NEG_INF))
      np.testing.assert_array_equal(heads[row, exist:], 0)
      np.testing.assert_array_equal(best[row, length:], 0)
      np.testing.assert_array_equal(heads[row, :, length:], 0)

  def test_equal_scores_still_give_distinct_trees(self):
    _, (heads, values), _ = self.search(np.zeros((BATCH, TOKENS, TOKENS + 1), np.float32))
    for row, length in enumerate(LENGTHS):
      exist = min(K, len(self.listed(length).decoded))
      np.testing.assert_array_equal(values[row, :exist], 0)
      assert len({tuple(tree) for tree in heads[row, :exist].tolist()}) == exist
      assert all(self.is_tree(tree[:length]) for tree in heads[row, :exist])

  @pytest.mark.parametrize("scale", [1.0, 3.0])
  def test_samples_have_the_frequencies_of_the_distribution(self, scale):
    arc = draw(seed=1, scale=scale)
    _, _, samples = self.search(arc)
    assert samples.dtype == jnp.int32
    assert not samples[:, ~MASK].any()
    for row, length in enumerate(LENGTHS):
      assert_drawn(samples[:, row, :length], self.listed(length), parts(arc[row], length))

  def test_samples_between_great_scores(self):
    """Two tokens are each other's best head by 1e4; what decides is the way out, of scores near 0."""
    arc = draw(seed=2)
    arc[:, 0, 2] += 1e4
    arc[:, 1, 1] += 1e4
    _, _, samples = self.search(arc)
    for row, length in enumerate(LENGTHS[:3]):
      assert_drawn(samples[:, row, :length], self.listed(length), parts(arc[row], length))

  def test_excluded_arcs(self):
    arc = draw(seed=4)
    arc[:, 0, 2] = arc[:, 1, 3] = -np.inf
    arc[:, 2, 0] = NEG_INF
    best, (heads, values), samples = self.search(arc)
    arc = np.where(arc <= NEG_INF, oracles.EXCLUDED, arc)
    for row, length in enumerate(LENGTHS):
      listed = self.listed(length)
      trees, expected = oracles.k_best(listed, parts(arc[row], length), K)
      trees, expected = trees[expected > -1e20], expected[expected > -1e20]
      exist = len(expected)
      np.testing.assert_array_equal(heads[row, :exist, :length], trees)
      np.testing.assert_array_equal(values[row, exist:], np.float32(NEG_INF))
      if exist:
        np.testing.assert_array_equal(best[row, :length], trees[0])
        assert_drawn(samples[:, row, :length], listed, parts(arc[row], length))

  def test_a_tree_even_if_none_does_without_excluded_arcs(self):
    rng = np.random.default_rng(5)
    arc = draw(seed=5)
    arc[rng.random(arc.shape) < 0.8] = NEG_INF
    arc[1] = NEG_INF
    best, (heads, values), samples = self.search(arc)
    excluded = arc <= NEG_INF
    for row, length in enumerate(LENGTHS):
      listed = self.listed(length).decoded
      rows = np.arange(length)
      worth = [
        (-excluded[row][rows, t].sum(), np.where(excluded, 0, arc)[row][rows, t].sum())
        for t in listed
      ]
      tree = best[row, :length]
      assert self.is_tree(tree)
      assert all(self.is_tree(sample) for sample in np.unique(samples[:, row, :length], axis=0))
      found = (
        -excluded[row][rows, tree].sum(),
        np.where(excluded, 0, arc)[row][rows, tree].sum(),
      )
      assert found[0] == max(worth)[0]
      np.testing.assert_allclose(found[1], max(worth)[1], atol=1e-5)
      if found[0] < 0:
        np.testing.assert_array_equal(values[row], np.float32(NEG_INF))
        np.testing.assert_array_equal(heads[row], 0)
    assert (values[:, 0] == NEG_INF).any()

  @pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
  def test_what_is_not_read_has_no_influence(self, garbage):
    arc = draw(seed=6)
    dirty = np.where(unread(), np.float32(garbage), arc)
    jax.tree.map(np.testing.assert_array_equal, self.search(dirty), self.search(arc))

  def test_arguments_are_checked(self):
    key = jax.random.key(0)
    for function in (
      lambda arc: self.best(arc, None),
      lambda arc: self.k_best(arc, 2, None),
      lambda arc: self.sample(arc, key, None),
    ):
      with pytest.raises(ValueError, match="floating point"):
        function(np.zeros((3, 4), np.int32))
      with pytest.raises(ValueError, match="NaN"):
        function(np.full((3, 4), np.nan, np.float32))
      with pytest.raises(ValueError, match="n, n"):
        function(np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="at least 1"):
      self.k_best(np.zeros((3, 4), np.float32), 0, None)

  def test_no_positions(self):
    arc = np.zeros((2, 0, 1), np.float32)
    found = jax.eval_shape(lambda arc: self.best(arc, None), arc)
    drawn = jax.eval_shape(lambda arc: self.sample(arc, jax.random.key(0), None), arc)
    assert found.shape == drawn.shape == (2, 0)
    heads, values = self.k_best(arc, 2, None)
    assert heads.shape == (2, 2, 0)
    np.testing.assert_array_equal(values, [[0, np.float32(NEG_INF)]] * 2)
