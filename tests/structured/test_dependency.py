"""Dependency trees, against lists of all trees and float64 eliminations of tokens one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import structured
from kd_jax.structured import DependencyScores, DependencyTrees
from kd_jax.structured._spanning_tree import maximum_spanning_tree
from kd_jax.types import NEG_INF
from tests.structured import contract, oracles
from tests.structured.contract import BATCH, GARBAGE, LENGTHS, MASK, TOKENS


def unread_arcs(n, mask):
  """bool [..., n, n + 1]: arcs from or to padding, and of a token to itself."""
  heads = np.concatenate([np.ones((*mask.shape[:-1], 1), bool), mask], -1)
  read = mask[..., :, None] & heads[..., None, :] & ~np.eye(n, n + 1, 1, dtype=bool)
  return ~read


class ArcContract(
  contract.EntropyContract,
  contract.LogProbContract,
  contract.DecodingContract,
  contract.StructureContract,
):
  """Trees scored by their arcs."""

  single_root = True
  projective = False
  axes = {"arc": (0, 1)}  # noqa: RUF012

  def build(self, arrays, mask):
    return DependencyTrees(
      arrays["arc"], mask, single_root=self.single_root, projective=self.projective
    )

  def gold(self, arrays, mask):
    """Each token below the one before it."""
    shape = arrays["arc"].shape[:-1]
    return np.broadcast_to(np.arange(shape[-1]), shape)

  def named_apart(self, labels):
    place = np.zeros((BATCH, TOKENS + 1), int)
    for i, length in enumerate(LENGTHS):
      place[i, 1 : length + 1] = self.positions(i) + 1
    return np.take_along_axis(place, labels, 1)

  def shapes(self, n):
    return {"arc": (n, n + 1)}

  def structures(self, length):
    return oracles.trees(length, self.single_root, self.projective)

  def parts(self, row, length):
    found = np.float64(row["arc"][:length, : length + 1])
    return np.where(np.eye(length, length + 1, 1, dtype=bool), 0, found).ravel()

  def spread(self, parts, row, length):
    found = np.zeros(row["arc"].shape)
    found[:length, : length + 1] = parts.reshape(length, length + 1)
    return {"arc": found}

  def unread(self, arrays, mask):
    return {"arc": unread_arcs(arrays["arc"].shape[-2], mask)}

  def exclude(self, arrays):
    arc = arrays["arc"].copy()
    arc[:, 0, 2] = arc[:, 1, 3] = arc[:, 2, 0] = NEG_INF
    return {"arc": arc}

  def misshapen(self, arrays):
    yield "arc", arrays["arc"][:, :, :-1]  # the root forgotten
    yield "arc", arrays["arc"][:, :-1, :-1]
    yield "arc", arrays["arc"][:-1]

  @pytest.mark.parametrize("kind", ["signs", "wide", "flat", "excluded"])
  def test_every_token_has_one_head(self, kind):
    arc = np.asarray(self.evaluate(self.extreme(kind))["counts"]["arc"])
    np.testing.assert_allclose(arc.sum(-1), MASK, atol=1e-3)
    assert arc.min() >= 0
    if self.single_root:
      np.testing.assert_allclose(arc[..., 0].sum(-1), MASK[:, 0], atol=1e-3)

  def long(self, scale):
    """Two longer sentences, and the reference's totals and marginals."""
    rng, lengths = np.random.default_rng(8), (10, 7)
    arc = np.float32(np.round(scale * rng.normal(size=(2, 10, 11)), 3))
    mask = np.arange(10) < np.array(lengths)[:, None]
    total = functools.partial(
      oracles.eisner_log_partition if self.projective else oracles.tree_log_partition,
      single_root=self.single_root,
    )
    rows = [arc[i, :length, : length + 1] for i, length in enumerate(lengths)]
    return (
      arc,
      mask,
      [total(row) for row in rows],
      [oracles.forced_marginals(total, row) for row in rows],
    )

  @pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
  def test_longer_sentences(self, scale):
    arc, mask, totals, marginals = self.long(scale)
    cls = type(self)
    if "_long" not in cls.__dict__:
      cls._long = jax.jit(
        lambda arrays: (self.log_partition(arrays, mask), self.counts(arrays, mask))
      )
    found, counts = cls._long({"arc": arc})
    np.testing.assert_allclose(found, totals, rtol=2e-5 if scale < 1e3 else 1e-4)
    np.testing.assert_allclose(counts["arc"].sum(-1), mask, atol=1e-4)
    for row, expected in zip(counts["arc"], marginals, strict=True):
      n = len(expected)
      np.testing.assert_allclose(row[:n, : n + 1], expected, atol=min(5e-5 * scale, 1e-2))


class TestSingleRootTrees(ArcContract):
  def test_is_the_default(self):
    trees = DependencyTrees(np.zeros((1, 2), np.float32))
    assert (trees.single_root, trees.projective) == (True, False)

  def test_against_the_determinant(self):
    """Matrix-tree theorem, at a length that no other reference reaches."""
    rng, lengths = np.random.default_rng(2), (30, 21)
    arc = rng.normal(0, 2, (2, 30, 31)).astype(np.float32)
    mask = np.arange(30) < np.array(lengths)[:, None]
    found = jax.jit(lambda arc: self.log_partition({"arc": arc}, mask))(arc)
    for i, length in enumerate(lengths):
      expected = oracles.matrix_tree(arc[i, :length, : length + 1], self.single_root)
      np.testing.assert_allclose(found[i], expected, rtol=2e-5)


class TestMultiRootTrees(ArcContract):
  single_root = False


class ProjectiveContract(ArcContract):
  projective = True

  def test_projective_trees_are_some_of_all_trees(self):
    """Up to two tokens all trees are projective; of three with one root 7 of 9."""
    flat = np.zeros((4, 3, 4), np.float32)
    mask = np.arange(3) < np.array([3, 2, 1, 0])[:, None]
    found = np.exp(jax.jit(self.log_partition)({"arc": flat}, mask))
    expected = [7, 2, 1, 1] if self.single_root else [12, 3, 1, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class TestProjectiveSingleRootTrees(ProjectiveContract):
  single_root = True


class TestProjectiveMultiRootTrees(ProjectiveContract):
  single_root = False


@pytest.mark.parametrize("projective", [True, False])
def test_search_and_divergences_under_holes_are_those_without_masked_tokens(projective):
  """Their values have tests of their own, of the functions on arc scores."""
  rng, place = np.random.default_rng(0), np.array([1, 3])
  closed = rng.normal(size=(2, 2, 3)).astype(np.float32)
  arc = np.full((2, 4, 5), np.nan, np.float32)
  arc[np.ix_([0, 1], place, np.append(0, place + 1))] = closed
  key = jax.random.key(0)

  @jax.jit
  def program(arc, mask):
    p, q = (DependencyTrees(a, mask, projective=projective) for a in arc)
    values = structured.cross_entropy(p, q), structured.kl_divergence(p, q)
    return structured.top_k(p, 2), structured.sample(p, key), values

  mask = np.array([False, True, False, True])
  (labels, scores), sample, values = program(arc, mask)
  (expected, wanted), _, expected_values = program(closed, np.ones(2, bool))
  names = np.append(0, place + 1)
  np.testing.assert_array_equal(labels[:, place], names[np.asarray(expected)])
  np.testing.assert_array_equal(labels[:, ~mask], 0)
  np.testing.assert_allclose(scores, wanted, rtol=1e-6)
  np.testing.assert_allclose(values, expected_values, rtol=1e-5)
  assert np.asarray(sample)[place].tolist() in names[np.asarray(expected)].tolist()
  np.testing.assert_array_equal(np.asarray(sample)[~mask], 0)


def head_marginals(arc, mask):
  """Of a parser with one relation."""
  return structured.head_marginals(DependencyScores(arc, jnp.zeros((*arc.shape, 1)), mask))


class TestHeadMarginals:
  def expected(self, arc):
    return oracles.mean_field(arc, None, None, 0)

  def arc(self, garbage=0.0, scale=2.0):
    arc = np.random.default_rng(0).normal(0, scale, (BATCH, TOKENS, TOKENS + 1)).astype(np.float32)
    return np.where(unread_arcs(TOKENS, MASK), np.float32(garbage), arc)

  def test_is_a_softmax_over_other_tokens_and_the_root(self):
    for scale in (1.0, 1e4):
      arc = self.arc(np.nan, scale)
      found = head_marginals(arc, MASK)
      assert found.dtype == jnp.float32
      for i, length in enumerate(LENGTHS):
        expected = self.expected(arc[i, :length, : length + 1])
        np.testing.assert_allclose(found[i, :length, : length + 1], expected, atol=1e-5)
      np.testing.assert_array_equal(np.asarray(found)[unread_arcs(TOKENS, MASK)], 0)

  @pytest.mark.parametrize("garbage", GARBAGE)
  def test_padding_has_no_effect(self, garbage):
    weights = np.cos(np.arange(BATCH * TOKENS * (TOKENS + 1))).reshape(BATCH, TOKENS, TOKENS + 1)

    @jax.jit
    @jax.value_and_grad
    def total(arc):
      return jnp.sum(weights * head_marginals(arc, MASK))

    (found, gradient), expected = total(self.arc(garbage)), total(self.arc())
    np.testing.assert_allclose(found, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(gradient)[unread_arcs(TOKENS, MASK)], 0)

  def test_scores_are_checked(self):
    arc = self.arc()
    for wrong in (arc[:, :, :-1], arc[:, :-1]):
      with pytest.raises(ValueError, match=r"\(6, "):
        head_marginals(wrong, MASK)
    with pytest.raises(ValueError, match="int32"):
      head_marginals(arc.astype(np.int32), MASK)
    arc[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
      head_marginals(arc, MASK)


# Second-order scores.


def second_order(scale=1.0, garbage=None, seed=0):
  """Arc, sibling and grandparent scores, with garbage wherever the scores mean nothing."""
  rng = np.random.default_rng(seed)
  n = TOKENS
  arc = rng.normal(0, scale, (BATCH, n, n + 1)).astype(np.float32)
  sibling = rng.normal(0, scale, (BATCH, n, n + 1, n)).astype(np.float32)
  grandparent = rng.normal(0, scale, (BATCH, n, n, n + 1)).astype(np.float32)
  unread = unread_second_order()
  if garbage is not None:
    arc, sibling, grandparent = (
      np.where(where, np.float32(garbage), values)
      for where, values in zip(unread, (arc, sibling, grandparent), strict=True)
    )
  return arc, sibling, grandparent


def unread_second_order():
  n = TOKENS
  arc = unread_arcs(n, MASK)  # [B, i, h]
  padding = ~MASK
  same = np.eye(n, dtype=bool)
  # sibling [B, i, h, k]: both arcs h -> i and h -> k, of two different dependents.
  sibling = arc[:, :, :, None] | padding[:, None, None, :] | same[None, :, None, :]
  # grandparent [B, i, h, g]: arcs h -> i and g -> h, i, h, g all different and h a token.
  grandparent = arc[:, :, 1:, None] | arc[:, None, :, :]  # second: h as a dependent of g
  grandparent = grandparent | np.eye(n, n + 1, 1, dtype=bool)[None, :, None, :]  # g is i
  return arc, sibling, grandparent


mean_field = jax.jit(structured.mean_field_marginals, static_argnames="iterations")


class TestMeanField:
  @pytest.mark.parametrize("iterations", [0, 1, 3])
  @pytest.mark.parametrize("parts", ["both", "sibling", "grandparent", "neither"])
  def test_against_the_formula(self, iterations, parts):
    arc, sibling, grandparent = second_order(1.5)
    sibling = sibling if parts in ("both", "sibling") else None
    grandparent = grandparent if parts in ("both", "grandparent") else None
    found = mean_field(arc, sibling, grandparent, MASK, iterations=iterations)
    assert found.shape == arc.shape
    assert found.dtype == jnp.float32
    for i, n in enumerate(LENGTHS):
      expected = oracles.mean_field(
        arc[i, :n, : n + 1],
        None if sibling is None else sibling[i, :n, : n + 1, :n],
        None if grandparent is None else grandparent[i, :n, :n, : n + 1],
        iterations,
      )
      np.testing.assert_allclose(found[i, :n, : n + 1], expected, atol=5e-5)
    np.testing.assert_array_equal(np.asarray(found)[unread_arcs(TOKENS, MASK)], 0)

  def test_the_order_of_sibling_and_grandparent_scores_matters(self):
    """Or the test above could not tell a transposed array."""
    arc, sibling, grandparent = second_order(1.5)
    found = mean_field(arc, sibling, grandparent, MASK)
    for changed in (
      (sibling.swapaxes(1, 3), grandparent),
      (sibling, grandparent.swapaxes(1, 2)),
      (sibling, grandparent[..., ::-1]),
    ):
      assert np.max(np.abs(found - mean_field(arc, *changed, MASK))) > 0.05

  def test_three_iterations_are_the_default(self):
    arc, sibling, grandparent = second_order()
    expected = mean_field(arc, sibling, grandparent, MASK, iterations=3)
    found = structured.mean_field_marginals(arc, sibling, grandparent, MASK)
    np.testing.assert_allclose(found, expected, atol=1e-5)

  @pytest.mark.parametrize("garbage", GARBAGE)
  def test_padding_has_no_effect(self, garbage):
    weights = np.cos(np.arange(BATCH * TOKENS * (TOKENS + 1))).reshape(BATCH, TOKENS, TOKENS + 1)

    def total(scores):
      found = structured.mean_field_marginals(*scores, MASK, iterations=2)
      return jnp.sum(weights * found), found

    program = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, expected), wanted = program(second_order(garbage=0.0))
    (_, found), gradients = program(second_order(garbage=garbage))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for gradient, want, where in zip(gradients, wanted, unread_second_order(), strict=True):
      np.testing.assert_allclose(gradient, want, atol=1e-5)
      np.testing.assert_array_equal(np.asarray(gradient)[where], 0)
    eager = structured.mean_field_marginals(*second_order(garbage=garbage), MASK, iterations=2)
    np.testing.assert_allclose(eager, expected, atol=1e-5)

  def test_extreme_scores(self):
    weights = np.cos(np.arange(BATCH * TOKENS * (TOKENS + 1))).reshape(BATCH, TOKENS, TOKENS + 1)

    @jax.jit
    @jax.value_and_grad
    def total(scores):
      return jnp.sum(weights * structured.mean_field_marginals(*scores, MASK))

    scores = second_order(1e4)
    value, gradients = total(scores)
    assert np.isfinite(value)
    for gradient in gradients:
      assert np.isfinite(gradient).all()
    found = mean_field(*scores, MASK)
    np.testing.assert_allclose(np.sum(found, -1), MASK, atol=1e-5)

  def test_scores_are_checked(self):
    arc, sibling, grandparent = second_order()
    with pytest.raises(ValueError, match=r"\(6, 4, 5, 3\)"):
      structured.mean_field_marginals(arc, sibling[..., :-1], grandparent, MASK)
    with pytest.raises(ValueError, match=r"\(6, 4, 5, 5\)"):
      structured.mean_field_marginals(arc, sibling, np.zeros((6, 4, 5, 5), np.float32), MASK)
    with pytest.raises(ValueError, match="iterations"):
      structured.mean_field_marginals(arc, sibling, grandparent, MASK, iterations=-1)
    # Dependent 2, head 1 (0 for the root) and a third token.
    for broken, where in enumerate([(0, 1, 0), (0, 1, 0, 3), (0, 1, 0, 3)]):
      scores = second_order()
      scores[broken][where] = np.nan
      with pytest.raises(ValueError, match="NaN"):
        structured.mean_field_marginals(*scores, MASK)


# The best tree.


decode = jax.jit(maximum_spanning_tree)


class TestMaximumSpanningTree:
  def assert_best(self, arc, heads, mask):
    """Trees of one root child, as good as the best of the list of all trees."""
    for row, found, length in zip(arc, np.asarray(heads), mask.sum(-1), strict=True):
      np.testing.assert_array_equal(found[length:], 0)
      if length == 0:
        continue
      found = found[:length].tolist()
      assert oracles.is_tree(found, single_root=True), found
      row = row[:length, : length + 1]
      if length <= 5:
        structures = oracles.trees(int(length), True, False)
        best = oracles.k_best(structures, np.where(np.isfinite(row), row, 0).ravel(), 1)[1][0]
      else:
        best = oracles.tree_score(row, oracles.maximum_spanning_tree(row))
      score = oracles.tree_score(row, found)
      assert score >= best - 1e-6 * max(1, abs(best)), (score, best)

  @pytest.mark.parametrize("kind", ["random", "ties", "signs", "wide"])
  @pytest.mark.parametrize("n", [5, 9])
  def test_is_the_best(self, n, kind):
    rng, count = np.random.default_rng(4), 40
    arc = rng.normal(size=(count, n, n + 1))
    arc = {
      "random": arc,
      "ties": rng.integers(-1, 2, arc.shape),
      "signs": 1e4 * np.sign(arc),
      "wide": np.round(1e4 * np.tanh(arc)),
    }[kind].astype(np.float32)
    lengths = np.append(np.arange(n), np.full(count - n, n))
    mask = np.arange(n) < lengths[:, None]
    arc = np.where(unread_arcs(n, mask), np.float32(np.nan), arc)
    heads = decode(arc, mask)
    assert heads.dtype == jnp.int32
    assert heads.shape == (count, n)
    self.assert_best(arc, heads, mask)

  def test_flat_scores(self):
    for n in (1, 2, 5, 9):
      heads = decode(np.zeros((n, n + 1), np.float32))
      assert oracles.is_tree(np.asarray(heads).tolist(), single_root=True)

  def test_greedy_heads_that_form_a_cycle(self):
    """Every token's best head makes cycles; the root is a bad head for all."""
    arc = np.full((4, 5), -5.0, np.float32)
    for dependent, head, score in (
      (1, 2, 9),
      (2, 1, 9),
      (3, 4, 9),
      (4, 3, 9),
      (3, 1, 2),
      (2, 0, -1),
    ):
      arc[dependent - 1, head] = score
    np.testing.assert_array_equal(maximum_spanning_tree(arc), [2, 0, 1, 3])

  def test_cycles_within_cycles(self):
    """Contracted cycles that close again into longer ones."""
    n = 9
    arc = np.random.default_rng(0).normal(0, 0.1, (20, n, n + 1)).astype(np.float32)
    for first in range(1, n + 1, 3):
      for step in range(3):
        arc[:, first + step - 1, first + (step + 1) % 3] += 30
      arc[:, first - 1, (first + 2) % n + 1] += 20
    arc[..., 0] -= 40
    mask = np.ones((20, n), bool)
    self.assert_best(arc, decode(arc, mask), mask)

  def test_one_child_of_the_root_though_more_would_score_higher(self):
    arc = np.zeros((3, 5, 6), np.float32)
    arc[..., 0] = np.array([10, 1e4, 1e6])[:, None]
    mask = np.ones((3, 5), bool)
    heads = np.asarray(decode(arc, mask))
    np.testing.assert_array_equal((heads == 0).sum(-1), 1)
    self.assert_best(arc, heads, mask)

  def test_excluded_arcs(self):
    """All arcs but those of one tree, and then but those of three trees, are ruled out."""
    rng, n = np.random.default_rng(5), 5
    structures = oracles.trees(n, True, False)
    arc = np.full((30, n, n + 1), NEG_INF, np.float32)
    trees = rng.integers(0, len(structures.decoded), (30, 3))
    for i, chosen in enumerate(trees):
      for tree in chosen[:1] if i < 15 else chosen:
        heads = structures.decoded[tree]
        arc[i, np.arange(n), heads] = rng.choice([-1e4, -3.0, 0.0, 2.0, 1e4], n)
    mask = np.ones((30, n), bool)
    heads = np.asarray(decode(arc, mask))
    self.assert_best(arc, heads, mask)
    np.testing.assert_array_equal(heads[:15], structures.decoded[trees[:15, 0]])
    assert (np.take_along_axis(arc, heads[..., None], -1) > NEG_INF / 2).all()

  def test_every_arc_excluded(self):
    """There is no such tree; a tree comes back all the same."""
    arc = np.full((2, 5, 6), NEG_INF, np.float32)
    arc[1, :, 0] = 0.0  # only the root, and it may have one child
    for heads in np.asarray(decode(arc, np.ones((2, 5), bool))).tolist():
      assert oracles.is_tree(heads, single_root=True)

  def test_scores_that_were_never_finite(self):
    """Garbage in padding and on the diagonal, eagerly too."""
    for garbage in GARBAGE:
      arc = np.random.default_rng(1).normal(size=(BATCH, TOKENS, TOKENS + 1)).astype(np.float32)
      arc = np.where(unread_arcs(TOKENS, MASK), np.float32(garbage), arc)
      heads = decode(arc, MASK)
      self.assert_best(arc, heads, MASK)
    np.testing.assert_array_equal(maximum_spanning_tree(arc, MASK), heads)

  def test_vmap_and_leading_axes(self):
    arc = np.random.default_rng(2).normal(size=(6, 5, 6)).astype(np.float32)
    expected = decode(arc, np.ones((6, 5), bool))
    np.testing.assert_array_equal(jax.jit(jax.vmap(decode))(arc), expected)
    np.testing.assert_array_equal(decode(arc.reshape(2, 3, 5, 6)).reshape(6, 5), expected)
    np.testing.assert_array_equal(decode(arc[0]), expected[0])

  def test_scores_are_checked(self):
    arc = np.zeros((2, 5, 6), np.float32)
    with pytest.raises(ValueError, match=r"\(2, 5, 5\)"):
      maximum_spanning_tree(arc[..., :-1])
    with pytest.raises(ValueError, match="int32"):
      maximum_spanning_tree(arc.astype(np.int32))
    with pytest.raises(ValueError, match=r"mask.*\(2, 4\)"):
      maximum_spanning_tree(arc, np.ones((2, 4), bool))
    arc[0, 1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
      maximum_spanning_tree(arc)
