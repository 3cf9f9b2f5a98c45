"""Exclusions, confident scores, empty arrays and wrong labels: where an outside check found faults."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import structured
from kd_jax.structured import (
  DependencyScores,
  DependencyTrees,
  LinearChain,
  MaxEnt,
  Parse,
  ParsingTags,
  SpanScores,
)
from kd_jax.types import NEG_INF
from tests.structured import oracles

FLAGS = list(itertools.product([True, False], repeat=2))


def trees(arc, flags):
  return DependencyTrees(jnp.asarray(arc, jnp.float32), None, *flags)


def exact(p, q, flags):
  """Entropy, cross-entropy and KL in float64, from the list of all trees."""
  listed = oracles.trees(len(p), *flags)
  log_p, log_q = (oracles.log_probs(listed, np.float64(x).ravel()) for x in (p, q))
  shares = np.exp(log_p)
  entropy = -np.sum(shares * np.where(shares > 0, log_p, 0))
  crossed = -np.sum(np.where(shares > 0, shares * log_q, 0))
  return entropy, crossed, crossed - entropy


# Trees of which one side excludes arcs.


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_divergences_of_trees_where_the_first_excludes_arcs(flags):
  """Its arcs are a part of the second's: near it on those, it is not near it."""
  compared = jax.jit(
    lambda p, q: (
      structured.cross_entropy(trees(p, flags), trees(q, flags)),
      structured.kl_divergence(trees(p, flags), trees(q, flags)),
    )
  )
  rng, checked = np.random.default_rng(0), 0
  for scale in (0.0, 0.01, 1.0) * 4:
    q = np.float32(scale * rng.standard_normal((3, 4)))
    p = q + np.float32(0.01 * rng.standard_normal((3, 4)))
    p[rng.random((3, 4)) < 0.4] = NEG_INF
    listed = oracles.trees(3, *flags)
    if (oracles.log_partition(listed, np.float64(p).ravel())) < -1e20:
      continue
    checked += 1
    found = compared(p, q)
    np.testing.assert_allclose(found, exact(p, q, flags)[1:], rtol=1e-4, atol=1e-5)
  assert checked >= 3


def test_kl_of_two_tokens_by_hand():
  """p has the tree of two arcs from the root alone, q all three trees."""
  p = trees([[0, 0, NEG_INF], [NEG_INF, 0, 0]], (False, False))
  q = trees(np.zeros((2, 3)), (False, False))
  assert float(structured.kl_divergence(p, q)) == pytest.approx(np.log(3), rel=1e-5)


def test_an_arc_that_is_in_no_tree_does_not_count():
  """Its marginal is rounding, and an excluded score of the other would blow it up."""
  p = np.float32(
    [
      [NEG_INF, -1.1698, 1.7394, NEG_INF],
      [0.3290, -0.2586, 1.5835, 1.3204],
      [0.6334, -2.2035, 0.0520, 0.6837],
    ]
  )
  q = np.zeros((3, 4), np.float32)
  q[1, 1] = NEG_INF
  for flags in ((False, False), (True, False)):
    _, crossed, kl = exact(p, q, flags)
    sides = trees(p, flags), trees(q, flags)
    assert float(structured.cross_entropy(*sides)) == pytest.approx(crossed, rel=1e-5)
    assert float(structured.kl_divergence(*sides)) == pytest.approx(kl, rel=1e-5)


def test_gradients_of_confident_trees():
  """A pivot of e^-62 and one of e^62 make up for each other in the sum, and not in its second derivative."""
  arc = jnp.array(
    [[-12.9, -84.5, 32.1, -21.3], [9.5, -44.1, -3.6, 17.6], [39.0, -54.8, 33.3, -7.0]]
  )
  for function in (
    structured.entropy,
    lambda one: structured.kl_divergence(one, DependencyTrees(jax.lax.stop_gradient(one.arc))),
    lambda one: structured.marginals(one)[0, 2],
  ):
    gradient = jax.jit(jax.grad(lambda arc, f=function: f(DependencyTrees(arc))))(arc)
    assert np.abs(gradient).max() < 1e-3


@pytest.mark.parametrize("value", [NEG_INF, -1e29])
def test_the_gradient_for_an_excluded_score_is_whole(value):
  """q - p = -p, where the clipping of scores begins too."""
  p, q = jnp.array([[0.3, -0.2]]), jnp.array([[value, 0.0]])
  gradient = jax.grad(lambda q: structured.cross_entropy(MaxEnt(p), MaxEnt(q)).sum())(q)
  np.testing.assert_allclose(gradient[0, 0], -jax.nn.softmax(p)[0, 0], rtol=1e-5)


# Nothing to sum over.

EMPTY = {
  "chains": LinearChain(jnp.zeros((0, 3, 2)), jnp.zeros((2, 2))),
  "tags": MaxEnt(jnp.zeros((0, 3, 2))),
  "spans": SpanScores(jnp.zeros((0, 3, 3, 1))),
  "trees": DependencyTrees(jnp.zeros((0, 2, 3))),
  "multi-root trees": DependencyTrees(jnp.zeros((0, 2, 3)), None, False),
  "tags without tokens": MaxEnt(jnp.zeros((0, 2))),
  "spans without tokens": SpanScores(jnp.zeros((0, 0, 1))),
  "trees without tokens": DependencyTrees(jnp.zeros((0, 1))),
  "multi-root trees without tokens": DependencyTrees(jnp.zeros((0, 1)), None, False),
}


@pytest.mark.parametrize("name", EMPTY)
def test_no_sentences_and_no_tokens(name):
  structure, one = EMPTY[name], "tokens" in name
  for function in (structured.log_partition, structured.entropy):
    np.testing.assert_array_equal(function(structure), np.zeros(() if one else (0,)))
  np.testing.assert_array_equal(structured.kl_divergence(structure, structure), 0)
  assert structured.argmax(structure).size == 0
  assert structured.sample(structure, jax.random.key(0)).size == 0
  labels, scores = structured.top_k(structure, 2)
  assert labels.size == 0
  assert scores.shape[-1] == 2


# Labels that are none.


def test_heads_and_relations_out_of_range_are_refused():
  for flags in FLAGS:
    for head in (99, 4, -1):
      with pytest.raises(
        ValueError, match=f"heads must be 0 or a token of the sentence, got {head}"
      ):
        structured.log_prob(trees(np.zeros((3, 4)), flags), jnp.array([0, head, 0]))
  scores = DependencyScores(jnp.zeros((1, 2)), jnp.zeros((1, 2, 2)))
  with pytest.raises(ValueError, match="relations must be below 2, got 7"):
    structured.log_prob(scores, Parse(jnp.array([0]), jnp.array([7])))
  assert (
    structured.log_prob(scores, Parse(jnp.array([0]), jnp.array([-1]))) == 0
  )  # unseen: left out


@pytest.mark.parametrize("k", [2.5, 2.0, True, "3", None])
def test_k_is_an_integer(k):
  structure = ParsingTags(jnp.zeros((2, 1)), jnp.array([0]), jnp.array([0]))
  for one in (MaxEnt(jnp.zeros((2, 3))), DependencyTrees(jnp.zeros((2, 3))), structure):
    with pytest.raises(ValueError, match="k must be a Python integer, got"):
      structured.top_k(one, k)
