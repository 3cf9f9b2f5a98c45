"""Linear chains: what lists of all tag sequences do not show of the ways of computing them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import structured
from kd_jax.structured import LinearChain, MaxEnt, _generic
from kd_jax.structured._maxent import as_chain
from kd_jax.types import NEG_INF
from tests.structured import contract

LENGTHS, TOKENS, LABELS = (4, 3, 1, 0), 4, 3
MASK = np.arange(TOKENS) < np.array(LENGTHS)[:, None]


def draw(seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  unary = np.float32(scale * rng.normal(size=(len(LENGTHS), TOKENS, LABELS)))
  return unary, np.float32(scale * rng.normal(size=(LABELS, LABELS)))


def sufficient_statistics(unary, transition):
  """Every sequence of one row as counts of (unary, transition), and its probability; float64."""
  length, labels = unary.shape
  counts = []
  for tags in itertools.product(range(labels), repeat=length):
    of_tags, of_pairs = np.zeros((length, labels)), np.zeros((labels, labels))
    of_tags[np.arange(length), tags] = 1
    np.add.at(of_pairs, (tags[:-1], tags[1:]), 1)
    counts.append(np.append(of_tags, of_pairs))
  counts = np.array(counts)
  scores = counts @ np.append(np.float64(unary), np.float64(transition))
  weights = np.exp(scores - scores.max())
  return counts, weights / weights.sum()


@functools.cache
def program():
  """Everything of one chain with shared transitions, and its gradients: compiled once."""

  def run(unary, transition, mask):
    chain = LinearChain(unary, transition, mask)

    def log_z(unary, transition):
      return structured.log_partition(LinearChain(unary, transition, mask)).sum()

    return {
      "log_partition": structured.log_partition(chain),
      "marginals": structured.marginals(chain),
      "entropy": structured.entropy(chain),
      "gradients": jax.grad(log_z, (0, 1))(unary, transition),
    }

  return jax.jit(run)


@functools.cache
def second_derivatives(algorithm):
  def log_z(row):
    chain = LinearChain(row[:9].reshape(3, 3), row[9:].reshape(3, 3))
    return structured.log_partition(chain, algorithm=algorithm)

  gradient = jax.grad(log_z)
  return jax.jit(lambda row: (jax.jacfwd(gradient)(row), jax.jacrev(gradient)(row)))


class TestDerivatives:
  """The second derivative of log Z is the covariance of the counts."""

  @pytest.mark.parametrize("algorithm", ["scan", "associative"])
  @pytest.mark.parametrize("shift", [0.0, 50.0])  # past 30, sums are shifted, not factorised
  def test_hessian(self, algorithm, shift):
    unary, transition = draw()
    row = np.append(unary[0, :3], transition + np.float32(shift))
    counts, probs = sufficient_statistics(unary[0, :3], transition)
    centred = counts - probs @ counts
    expected = centred.T @ (probs[:, None] * centred)

    for found in second_derivatives(algorithm)(row):
      np.testing.assert_allclose(found, expected, atol=2e-6 * max(1, shift))

  @pytest.mark.parametrize("algorithm", ["scan", "associative"])
  def test_forward_mode(self, algorithm):
    unary, transition = draw()

    def log_z(shift):
      return structured.log_partition(LinearChain(unary + shift, transition), algorithm=algorithm)

    slope = jax.jit(lambda x: jax.jvp(log_z, (x,), (np.float32(1),))[1])(np.float32(0))
    np.testing.assert_allclose(slope, TOKENS, rtol=1e-5)  # log Z grows by 1 a token

  def test_gradient_of_the_loss_is_the_difference_of_the_marginals(self):
    teacher, student = LinearChain(*draw(1), MASK), LinearChain(*draw(2), MASK)

    @jax.jit
    def gradients(teacher, student):
      def total(unary, transition):
        return structured.cross_entropy(teacher, LinearChain(unary, transition, MASK)).sum()

      return jax.grad(total, (0, 1))(student.unary, student.transition)

    unary, transition = gradients(teacher, student)
    for i, length in enumerate(LENGTHS[:3]):
      pair = [
        sufficient_statistics(chain.unary[i, :length], chain.transition)
        for chain in (student, teacher)
      ]
      (expected, other) = (probs @ counts for counts, probs in pair)
      difference = (expected - other)[: length * LABELS].reshape(length, LABELS)
      np.testing.assert_allclose(unary[i, :length], difference, atol=1e-6)
      transition -= (expected - other)[length * LABELS :].reshape(LABELS, LABELS)
    np.testing.assert_allclose(transition, 0, atol=2e-6)  # shared: the sum over sentences


class TestTwoWaysOfSumming:
  """A constant on all transitions changes nothing but log Z, and decides how sums are taken."""

  @pytest.mark.parametrize("scale", [1.0, 8.0])
  def test_factorised_equals_shifted(self, scale):
    unary, transition = draw(3, scale)
    near, far = (program()(unary, transition + np.float32(c), MASK) for c in (0, 64))
    pairs = np.maximum(np.array(LENGTHS) - 1, 0)
    np.testing.assert_allclose(
      far["log_partition"] - 64 * pairs, near["log_partition"], rtol=2e-6, atol=2e-5
    )
    for name in ("marginals", "entropy", "gradients"):
      for actual, expected in zip(*map(jax.tree.leaves, (far[name], near[name])), strict=True):
        np.testing.assert_allclose(actual, expected, atol=5e-5)

  def test_what_underflows_in_a_prefix_may_be_all_that_is_allowed(self):
    unary, transition = np.zeros((2, 3, 2), np.float32), np.zeros((2, 2), np.float32)
    unary[:, 0, 0] = 1000.0
    allowed = np.array([[True, False], [True, True]])  # tag 1 follows only tag 1
    chain = structured.constrain(LinearChain(unary, transition), allowed, end=[False, True])
    found = program()(chain.unary, chain.transition, None)
    np.testing.assert_array_equal(found["log_partition"], 0)
    np.testing.assert_array_equal(found["marginals"][0][..., 1], 1)

  def test_vmap_over_both_kinds_of_sentences(self):
    """The way that is not taken must not spoil the gradient of the one that is."""
    unary, transition = draw(4)
    transitions = np.stack([transition, 1e4 * np.round(transition)])

    def spread(unary, transition):
      return structured.entropy(LinearChain(unary, transition)).sum()

    def total(unary, transitions):
      return jax.vmap(spread, (None, 0))(unary, transitions).sum()

    each = jax.grad(spread, (0, 1))
    (of_unary, of_transitions), *expected = jax.jit(
      lambda transitions: (
        jax.grad(total, (0, 1))(unary, transitions),
        *(each(unary, transition) for transition in transitions),
      )
    )(transitions)
    np.testing.assert_allclose(of_unary, expected[0][0] + expected[1][0], atol=2e-5)
    for i in range(2):
      np.testing.assert_allclose(of_transitions[i], expected[i][1], atol=2e-5)


class TestTransitions:
  def test_shared_equals_repeated(self):
    unary, transition = draw(5)
    found = program()(unary, transition, MASK)
    repeated = program()(unary, np.repeat(transition[None], len(LENGTHS), 0), MASK)
    gradients, repeated_gradients = found.pop("gradients"), repeated.pop("gradients")
    for actual, expected in zip(*map(jax.tree.leaves, (found, repeated)), strict=True):
      np.testing.assert_allclose(actual, expected, atol=2e-6)
    np.testing.assert_allclose(gradients[0], repeated_gradients[0], atol=1e-6)
    np.testing.assert_allclose(gradients[1], repeated_gradients[1].sum(0), atol=2e-6)

  def test_minus_infinity_is_not_allowed(self):
    unary, transition = draw(6)
    for arrays in ((unary, transition), (unary[0, :1], transition)):
      for which in (0, 1):
        infinite, finite = [*arrays], [*arrays]
        for pair, value in ((infinite, -np.inf), (finite, NEG_INF)):
          pair[which] = pair[which].copy()
          pair[which][..., 0, 1] = value
        actual, expected = (structured.entropy(LinearChain(*pair)) for pair in (infinite, finite))
        np.testing.assert_array_equal(actual, expected)
        assert np.isfinite(actual).all()

  def test_nothing_allowed_stays_finite(self):
    unary, transition = draw(7)
    chain = structured.constrain(LinearChain(unary, transition, MASK), np.zeros((3, 3), bool))
    found = program()(*chain)
    assert all(np.isfinite(values).all() for values in jax.tree.leaves(found))
    assert (found["log_partition"][:2] < NEG_INF / 2).all()
    tags, scores = structured.top_k(chain, 2)
    np.testing.assert_array_equal(tags[:2], 0)
    np.testing.assert_array_equal(scores[:2], np.float32(NEG_INF))

  @pytest.mark.parametrize("shape", [(2, 3, 3), (3, 1, 3, 3), (4, 2, 2), (3,)])
  def test_shapes_are_checked(self, shape):
    with pytest.raises(ValueError, match=r"transition.* \(" + ", ".join(map(str, shape))):
      structured.log_partition(LinearChain(draw()[0], np.zeros(shape, np.float32)))


class TestDivergences:
  def test_small_next_to_large_scores(self):
    """log Z is near 1e5 here: the difference of cross-entropy and entropy would be its rounding."""
    unary, transition = draw(8, 100.0)
    unary += 2e4
    values = structured.kl_divergence(*[LinearChain(unary, transition, MASK)] * 2)
    np.testing.assert_array_equal(values, 0)
    student = LinearChain(unary + np.float32([0, 0, 2**-6]), transition, MASK)
    values = structured.kl_divergence(LinearChain(unary, transition, MASK), student)
    assert np.min(values) >= 0
    assert np.max(values) < 1e-3

  def test_a_mask_may_be_given_once(self):
    teacher, student = LinearChain(*draw(1)), LinearChain(*draw(2))
    expected = structured.cross_entropy(teacher._replace(mask=MASK), student._replace(mask=MASK))
    assert np.ptp(expected) > 0
    for pair in ((teacher._replace(mask=MASK), student), (teacher, student._replace(mask=MASK))):
      np.testing.assert_array_equal(structured.cross_entropy(*pair), expected)

  def test_what_does_not_fit_is_refused(self):
    unary, transition = draw()
    teacher = LinearChain(unary, transition, MASK)
    for function in (structured.cross_entropy, structured.kl_divergence):
      with pytest.raises(ValueError, match="differ at 3 positions"):
        function(teacher, teacher._replace(mask=MASK & (np.arange(4) < 2)))
      with pytest.raises(ValueError, match=r"\(4, 4, 3\) and \(3, 4, 3\)"):
        function(teacher, LinearChain(unary[:3], transition, MASK[:3]))

  def test_independent_tokens_are_a_chain(self):
    teacher, student = MaxEnt(draw(1)[0], MASK), MaxEnt(draw(2)[0], MASK)
    chains = as_chain(teacher), as_chain(student)
    for name in ("cross_entropy", "kl_divergence"):
      function = getattr(structured, name)
      np.testing.assert_allclose(
        function(*chains), function(teacher, student), rtol=1e-5, atol=1e-6
      )


class TestDecoding:
  def test_the_lowest_of_equally_good_tags(self):
    unary = np.float32([[0, 1, 1], [2, 2, 2], [0, 0, 5]])
    tags, score = contract.viterbi(LinearChain(unary, np.zeros((3, 3), np.float32)))
    assert tags.tolist() == [1, 0, 2]
    assert score == 8

  def test_tags_out_of_range_are_refused_unless_masked(self):
    chain = LinearChain(*draw(), MASK)
    tags = np.where(MASK, 2, 7)
    np.testing.assert_array_equal(
      _generic.score(chain, tags), _generic.score(chain, np.full_like(tags, 2))
    )
    for wrong in (3, -1):
      tags[1, 2] = wrong
      for structure in (chain, MaxEnt(chain.unary, MASK)):
        with pytest.raises(ValueError, match=rf"\[0, 3\), got {wrong}"):
          structured.log_prob(structure, tags)

  def test_samples_follow_forbidden_and_masked(self):
    """Only one sequence is left, so every draw is that one."""
    unary, transition = draw(9)
    ring = np.roll(np.eye(LABELS, dtype=bool), 1, axis=1)  # 0 -> 1 -> 2 -> 0
    chain = structured.constrain(
      LinearChain(unary, transition, MASK), ring, start=[True, False, False]
    )
    expected = np.where(MASK, np.arange(TOKENS) % LABELS, 0)
    keys = jax.random.split(jax.random.key(0), 8)
    draws = jax.jit(jax.vmap(structured.sample, (None, 0)))(chain, keys)
    np.testing.assert_array_equal(draws, np.broadcast_to(expected, draws.shape))
    assert jnp.issubdtype(draws.dtype, jnp.int32)


def confident_chain(seed, length=60, size=40.0):
  """A chain that is sure of its tags, with a level for each token, as networks give: scores, and the tags."""
  rng = np.random.default_rng(seed)
  tags = rng.integers(5, size=length)
  unary = rng.normal(size=(length, 5)) + rng.normal(size=(length, 1)) * 10
  unary[np.arange(length), tags] += size
  return np.float32(unary), np.float32(3 * rng.normal(size=(5, 5))), tags


def test_losses_of_a_confident_chain_are_small_and_not_negative():
  """Scores of thousands less log Z would leave 1e-3 of either sign."""
  parts = [confident_chain(seed) for seed in range(6)]
  unary, transition, tags = map(np.stack, zip(*parts, strict=True))
  chain = LinearChain(unary, transition)
  for values in (-structured.log_prob(chain, tags), structured.cross_entropy(chain, chain)):
    assert np.all(values >= 0)
    assert np.all(values < 1e-4)


def test_the_log_prob_of_tags_has_its_digits_next_to_high_levels():
  unary, transition, tags = confident_chain(0, length=6, size=4.0)
  state = unary[0].astype(np.float64)
  for scores in unary[1:].astype(np.float64):
    state = np.logaddexp.reduce(state[:, None] + transition.astype(np.float64), axis=0) + scores
  gold = unary[np.arange(6), tags].astype(np.float64).sum() + transition[tags[:-1], tags[1:]].sum()
  expected = gold - np.logaddexp.reduce(state)
  found = structured.log_prob(LinearChain(unary + np.float32(2048), transition), tags)
  np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_what_is_excluded_costs_no_wrong_finite_number():
  unary, tags = np.zeros((3, 2), np.float32), np.array([0, 1, 0])
  free = LinearChain(unary, np.zeros((2, 2), np.float32))
  forbidden = LinearChain(unary, np.float32([[0, -np.inf], [0, 0]]))
  none = LinearChain(unary, np.full((2, 2), -np.inf, np.float32))
  assert structured.log_prob(forbidden, tags) <= -1e30
  assert structured.log_prob(none, tags) <= -1e30
  assert structured.cross_entropy(free, none) >= 1e30
  assert structured.cross_entropy(free, forbidden) > 1e28
  grad = jax.grad(lambda u: structured.log_prob(forbidden._replace(unary=u), tags))(unary)
  one_hot = np.eye(2)[tags]
  np.testing.assert_allclose(grad, one_hot - structured.tag_marginals(forbidden), atol=1e-6)
