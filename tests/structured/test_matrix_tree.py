"""The two ways of summing over trees: plain float32 weights where these can be trusted, else scaled ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.structured import _matrix_tree as matrix_tree
from kd_jax.structured._tree_divergences import tree_entropy
from kd_jax.types import NEG_INF
from tests.structured import oracles

N = 6
BOTH = pytest.mark.parametrize("single_root", [True, False])


def cycle(depth):
  """Scores [2, n, n+1]; the best heads of one sentence form a cycle that it costs `depth` nats to leave."""
  arc = np.random.default_rng(0).normal(size=(2, N, N + 1)).astype(np.float32)
  arc[0, 4, 4] += depth  # token 5 below 4, and 4 below 5
  arc[0, 3, 5] += depth
  return arc


def totals(arc, single_root):
  return matrix_tree.spanning_tree_log_partition(arc, single_root=single_root)


def evaluate(arc, single_root):
  marginals = matrix_tree.spanning_tree_marginals(arc, single_root=single_root)
  weights = jnp.cos(jnp.arange(arc.size)).reshape(arc.shape)

  def second_order(arc):
    entropy = tree_entropy(arc, single_root=single_root)
    gradient = jax.grad(lambda arc: totals(arc, single_root).sum())(arc)
    return entropy.sum() + jnp.sum(weights * gradient)

  return totals(arc, single_root), marginals, jax.grad(second_order)(arc)


plain_or_scaled = jax.jit(evaluate, static_argnums=1)


@functools.cache
def always_scaled():
  return jax.jit(lambda arc, single_root: evaluate(arc, single_root), static_argnums=1)


@functools.partial(jax.jit, static_argnums=1)
def is_plain(arc, single_root):
  """Whether plain weights are used."""
  scores, _ = matrix_tree.shift_rows(matrix_tree.as_arcs(arc, None)[0])
  return matrix_tree._plain(scores, single_root)[-1]


class TestPlainWeights:
  @BOTH
  @pytest.mark.parametrize(("depth", "plain"), [(1, True), (36, True), (46, False), (200, False)])
  def test_agree_with_scaled_weights(self, single_root, depth, plain, monkeypatch):
    arc = cycle(depth)
    assert bool(is_plain(arc, single_root)) == plain
    found = plain_or_scaled(arc, single_root)
    monkeypatch.setattr(matrix_tree, "MAX_CYCLES", -jnp.inf)  # read when a function is traced
    expected = always_scaled()(arc, single_root)
    scores, _ = matrix_tree.shift_rows(matrix_tree.as_arcs(arc, None)[0])
    assert not matrix_tree._plain(scores, single_root)[-1]
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for mine, its in zip(found[1:], expected[1:], strict=True):
      np.testing.assert_allclose(mine, its, atol=2e-5)

  @BOTH
  def test_a_branch_not_a_selection(self, single_root):
    """Else both ways would run."""
    text = jax.jit(totals, static_argnums=1).lower(cycle(1), single_root).as_text()
    assert "stablehlo.case" in text or "stablehlo.if" in text

  @BOTH
  def test_derivatives_of_a_selection(self, single_root):
    """vmap runs both ways; what overflows in the one must not reach the other's derivatives."""
    arc = np.stack([cycle(1), cycle(200), cycle(1e4)])

    def entropies(arc):
      return tree_entropy(arc, single_root=single_root)

    alone = jax.jit(jax.grad(lambda arc: entropies(arc).sum()))
    found = jax.jit(jax.grad(lambda arc: jax.vmap(entropies)(arc).sum()))(arc)
    assert np.isfinite(found).all()
    for i in range(2):
      np.testing.assert_allclose(found[i], alone(arc[i]), atol=2e-5)

  def test_a_root_far_above_or_below(self):
    """One arc from the root has a scale of its own: no reason for scaled weights."""
    for root in (-500.0, 500.0):
      arc = cycle(1)
      arc[..., 0] += root
      assert bool(is_plain(arc, True))
      expected = [oracles.matrix_tree(row, True) for row in cycle(1)]
      np.testing.assert_allclose(totals(arc, True) - root, expected, atol=2e-4)

  @BOTH
  def test_excluded_arcs(self, single_root):
    """Trees from few arcs: a chain below the root, and one more arc."""
    arc = np.full((1, N, N + 1), NEG_INF, np.float32)
    arc[0, np.arange(N), np.arange(N)] = 0.5
    arc[0, 3, 2] = 0.5
    assert bool(is_plain(arc, single_root))
    np.testing.assert_allclose(totals(arc, single_root), np.log(2) + N / 2, rtol=1e-6)
