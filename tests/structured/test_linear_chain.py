"""Linear chains, against lists of all tag sequences and float64 forward-backward."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_jax import structured
from kd_jax.structured import LinearChain, _generic
from kd_jax.types import NEG_INF
from tests.structured import contract, oracles

LABELS = 3
K = 30  # more than the paths of the shorter rows


def as_chain(arrays, mask):
  return LinearChain(arrays["unary"], arrays["transition"], mask)


class TestLinearChain(
  contract.EntropyContract,
  contract.LogProbContract,
  contract.DivergenceContract,
  contract.DecodingContract,
  contract.SearchContract,
  contract.StructureContract,
):
  k = K
  axes = {"unary": (0,)}  # noqa: RUF012

  build = staticmethod(as_chain)

  def more_functions(self):
    functions = {
      "associative": functools.partial(structured.log_partition, algorithm="associative"),
      "marginals": structured.marginals,
    }
    return super().more_functions() | {
      name: lambda arrays, mask, function=function: function(as_chain(arrays, mask))
      for name, function in functions.items()
    }

  def shapes(self, n):
    return {"unary": (n, LABELS), "transition": (LABELS, LABELS)}

  def counts(self, arrays, mask):
    unary, pairwise = structured.marginals(as_chain(arrays, mask))
    return {"unary": unary, "transition": pairwise.sum(-3)}

  def gold(self, arrays, mask):
    return np.arange(arrays["unary"].shape[-2]) % LABELS + jnp.zeros(
      arrays["unary"].shape[:-1], jnp.int32
    )

  def found_apart(self, name, values):
    if name != "marginals":
      return super().found_apart(name, values)
    unary, pairwise = (np.asarray(x) for x in values)
    # A pair stands before its later token; the first token has none.
    by_later = np.concatenate([np.zeros_like(pairwise[:, :1]), pairwise], 1)
    return self.apart(unary, (0,), 0), self.apart(by_later, (0,), 0)[:, 1:]

  def structures(self, length):
    return oracles.tag_sequences(length, LABELS)

  def parts(self, row, length):
    return oracles.chain_parts(row["unary"][:length], row["transition"])

  def spread(self, parts, row, length):
    unary = np.zeros(row["unary"].shape)
    unary[:length] = parts[: length * LABELS].reshape(length, LABELS)
    pairwise = parts[length * LABELS :].reshape(-1, LABELS, LABELS)
    return {"unary": unary, "transition": pairwise.sum(0)}

  def unread(self, arrays, mask):
    return {
      "unary": np.broadcast_to(~mask[..., None], arrays["unary"].shape),
      "transition": np.zeros(arrays["transition"].shape, bool),
    }

  def exclude(self, arrays):
    unary, transition = arrays["unary"].copy(), arrays["transition"].copy()
    unary[:, 0, 2] = NEG_INF
    transition[:, 0, 1] = transition[:, 2, 2] = NEG_INF
    return {"unary": unary, "transition": transition}

  def misshapen(self, arrays):
    yield "unary", arrays["unary"][:, :, :-1]
    yield "unary", arrays["unary"][0]
    yield "transition", arrays["transition"][:, :, :-1]
    yield "transition", arrays["transition"][:, :-1, :-1]
    yield "transition", arrays["transition"][:-1]

  # What chains have beside the contract.

  def test_pairwise_marginals(self):
    arrays = self.draw()
    unary, pairwise = self.evaluate(arrays)["marginals"]
    assert pairwise.shape == (contract.BATCH, contract.TOKENS - 1, LABELS, LABELS)
    for i, length in enumerate(contract.LENGTHS):
      row = contract.row_of(arrays, i)
      expected = oracles.marginals(self.structures(length), self.parts(row, length))
      pairs = expected[length * LABELS :].reshape(-1, LABELS, LABELS)
      np.testing.assert_allclose(pairwise[i, : len(pairs)], pairs, atol=2e-5)
      np.testing.assert_array_equal(pairwise[i, len(pairs) :], 0)
    # Each token's tag is that of the pairs on both its sides.
    inside = contract.MASK[:, 1:, None]
    np.testing.assert_allclose(pairwise.sum(-1), np.where(inside, unary[:, :-1], 0), atol=1e-5)
    np.testing.assert_allclose(pairwise.sum(-2), np.where(inside, unary[:, 1:], 0), atol=1e-5)

  @pytest.mark.parametrize("kind", ["signs", "wide", "flat", "excluded"])
  def test_marginals_of_extreme_scores_are_distributions(self, kind):
    unary, pairwise = self.evaluate(self.extreme(kind))["marginals"]
    np.testing.assert_allclose(unary.sum(-1), contract.MASK, atol=1e-3)
    np.testing.assert_allclose(pairwise.sum((-1, -2)), contract.MASK[:, 1:], atol=1e-3)
    assert np.min(unary) >= 0
    assert np.min(pairwise) >= 0

  @pytest.mark.parametrize("kind", ["signs", "flat"])
  def test_k_best_of_ties_are_distinct_paths(self, kind):
    arrays = self.extreme(kind)
    tags, scores = self.evaluate(arrays)["top_k"]
    for i, length in enumerate(contract.LENGTHS):
      parts = self.parts(contract.row_of(arrays, i), length)
      _, expected = oracles.k_best(self.structures(length), parts, K)
      np.testing.assert_array_equal(scores[i, : len(expected)], expected)
      paths = {tuple(path) for path in np.asarray(tags[i, : len(expected), :length])}
      assert len(paths) == len(expected)

  def test_the_best_of_k_is_viterbi_s(self):
    found = self.evaluate(self.draw(seed=8))
    np.testing.assert_array_equal(found["top_k"][0][:, 0], found["decode"])

  def test_the_algorithm_is_checked(self):
    with pytest.raises(ValueError, match="algorithm"):
      structured.log_partition(as_chain(self.draw(), contract.MASK), algorithm="parallel")

  def test_associative_equals_scan(self):
    arrays = self.draw(seed=9)
    found = self.evaluate(arrays)
    np.testing.assert_allclose(found["associative"], found["log_partition"], rtol=1e-5, atol=1e-5)
    for kind in ("signs", "wide", "excluded"):
      found = self.evaluate(self.extreme(kind))
      np.testing.assert_allclose(found["associative"], found["log_partition"], rtol=1e-5)

  def test_tags_of_a_wrong_shape_or_type_are_refused(self):
    chain = as_chain(self.draw(), contract.MASK)
    for function in (_generic.score, structured.log_prob):
      with pytest.raises(ValueError, match=r"\(6, 3\)"):
        function(chain, np.zeros((6, 3), np.int32))
      with pytest.raises(ValueError, match="float32"):
        function(chain, np.zeros((6, 4), np.float32))


LONG = 65
LONG_LENGTHS = (65, 64, 33)
LONG_MASK = np.arange(LONG) < np.array(LONG_LENGTHS)[:, None]


@functools.cache
def long_program():
  def program(chain):
    def total(unary, transition, algorithm):
      values = structured.log_partition(
        LinearChain(unary, transition, chain.mask), algorithm=algorithm
      )
      return jnp.sum(values), values

    results = {}
    for algorithm in ("scan", "associative"):
      (_, values), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(
        chain.unary, chain.transition, algorithm
      )
      results[algorithm] = values, gradients
    results["marginals"] = structured.marginals(chain)
    results["entropy"] = structured.entropy(chain)
    results["viterbi"] = contract.viterbi(chain)
    return results

  return jax.jit(program)


class TestLongChains:
  """As long as sentences get: enumeration ends at five tokens."""

  def chain(self, scale):
    rng = np.random.default_rng(11)
    unary = np.float32(scale * rng.uniform(-1, 1, (3, LONG, 5)))
    transition = np.float32(scale * rng.uniform(-1, 1, (3, 5, 5)))
    return LinearChain(unary, transition, LONG_MASK)

  @pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
  def test_against_float64(self, scale):
    chain = self.chain(scale)
    found = long_program()(chain)
    for i, length in enumerate(LONG_LENGTHS):
      total, tags, pairs = oracles.forward_backward(chain.unary[i, :length], chain.transition[i])
      # Rounding of totals near 65e4 moves rare paths; at that scale one path has nearly all.
      tolerance = {1.0: 1e-4, 10.0: 1e-3, 1e4: 2e-2}[scale]
      for algorithm in ("scan", "associative"):
        values, (unary, transition) = found[algorithm]
        np.testing.assert_allclose(values[i], total, rtol=1e-4 if scale > 1e3 else 1e-5)
        np.testing.assert_allclose(unary[i, :length], tags, atol=tolerance)
        np.testing.assert_array_equal(unary[i, length:], 0)
        np.testing.assert_allclose(transition[i], pairs.sum(0), atol=10 * tolerance)
      unary, pairwise = found["marginals"]
      np.testing.assert_allclose(unary[i, :length], tags, atol=tolerance)
      np.testing.assert_allclose(pairwise[i, : length - 1], pairs, atol=tolerance)
    assert np.isfinite(found["entropy"]).all()

  def test_associative_equals_scan(self):
    found = long_program()(self.chain(3.0))
    both = (jax.tree.leaves(found[name]) for name in ("associative", "scan"))
    for actual, expected in zip(*both, strict=True):
      np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)

  def test_viterbi_beats_every_change_of_a_tag(self):
    chain = self.chain(3.0)
    tags, scores = long_program()(chain)["viterbi"]
    tags = np.asarray(tags)
    for i, length in enumerate(LONG_LENGTHS):
      unary, transition = np.float64(chain.unary[i]), np.float64(chain.transition[i])

      def score(path, unary=unary, transition=transition):
        return unary[np.arange(len(path)), path].sum() + transition[path[:-1], path[1:]].sum()

      best = score(tags[i, :length])
      np.testing.assert_allclose(scores[i], best, rtol=1e-5)
      for position in range(length):
        for tag in range(5):
          changed = tags[i, :length].copy()
          changed[position] = tag
          assert score(changed) <= best + 1e-4


class TestBoundaries:
  def test_start_and_end_scores(self):
    rng = np.random.default_rng(0)
    unary = rng.normal(0, 1, (4, 3, LABELS)).astype(np.float32)
    transition = rng.normal(0, 1, (4, LABELS, LABELS)).astype(np.float32)
    start, end = rng.normal(0, 1, (2, LABELS)).astype(np.float32)
    lengths = (3, 2, 1, 0)
    mask = np.arange(3) < np.array(lengths)[:, None]
    unary[~mask] = np.nan
    chain = structured.with_boundaries(unary, transition, start, end, mask)
    assert isinstance(chain, LinearChain)
    found = jax.jit(structured.log_partition)(chain)
    for i, length in enumerate(lengths):
      folded = np.float64(unary[i, :length])
      if length:
        folded[0] += start
        folded[-1] += end
      parts = oracles.chain_parts(folded, transition[i])
      expected = oracles.log_partition(oracles.tag_sequences(length, LABELS), parts)
      np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)

    def total(unary, start, end):
      chain = structured.with_boundaries(unary, transition, start, end, mask)
      return structured.log_partition(chain).sum()

    gradients = jax.jit(jax.grad(total, (0, 1, 2)))(unary, start, end)
    np.testing.assert_array_equal(np.asarray(gradients[0])[~mask], 0)
    # Each of the three sentences begins and ends with some tag.
    np.testing.assert_allclose(gradients[1].sum(), 3, rtol=1e-5)
    np.testing.assert_allclose(gradients[2].sum(), 3, rtol=1e-5)

  def test_without_a_mask(self):
    unary, transition = (
      np.zeros((2, 3, LABELS), np.float32),
      np.zeros((2, LABELS, LABELS), np.float32),
    )
    start, end = np.float32([0, 0, 9]), np.float32([0, 7, 0])
    chain = structured.with_boundaries(unary, transition, start, end, None)
    tags, score = jax.jit(contract.viterbi)(chain)
    assert tags[0, 0] == 2
    assert tags[0, -1] == 1
    np.testing.assert_allclose(score, 16)

  @pytest.mark.parametrize("wrong", ["start", "end"])
  def test_shapes_are_checked(self, wrong):
    scores = {"start": np.zeros(LABELS, np.float32), "end": np.zeros(LABELS, np.float32)}
    scores[wrong] = np.zeros(LABELS + 1, np.float32)
    unary, transition = (
      np.zeros((2, 3, LABELS), np.float32),
      np.zeros((2, LABELS, LABELS), np.float32),
    )
    with pytest.raises(ValueError, match=rf"(?s){wrong}.*\(4,\)"):
      structured.with_boundaries(unary, transition, scores["start"], scores["end"], None)


class TestConstraints:
  """BIOES tags of one label: of 5⁴ sequences of four tokens few are legal."""

  lengths = (4, 3, 1, 0)
  mask = np.arange(4) < np.array(lengths)[:, None]
  rules = oracles.legal_transitions(1)

  def legal(self, tags):
    allowed, start, end = self.rules
    tags = np.asarray(tags)
    return len(tags) == 0 or bool(
      start[tags[0]] and end[tags[-1]] and allowed[tags[:-1], tags[1:]].all()
    )

  @functools.cached_property
  def found(self):
    rng = np.random.default_rng(3)
    unary = rng.normal(0, 2, (4, 4, 5)).astype(np.float32)
    unary[..., 3] += 5  # tempts to illegal I
    transition = rng.normal(0, 1, (4, 5, 5)).astype(np.float32)
    allowed, start, end = self.rules
    keys = jax.random.split(jax.random.key(0), 200)

    @jax.jit
    def program(unary, transition):
      free = LinearChain(unary, transition, self.mask)
      chain = structured.constrain(free, allowed, start=start, end=end)
      return {
        "log_partition": structured.log_partition(chain),
        "marginals": structured.marginals(chain),
        "viterbi": contract.viterbi(chain),
        "top_k": structured.top_k(chain, 20),
        "samples": jax.vmap(structured.sample, (None, 0))(chain, keys),
        "entropy": structured.entropy(chain),
        "kl": structured.kl_divergence(chain, free),
      }

    return unary, transition, jax.tree.map(np.asarray, program(unary, transition))

  def test_only_legal_paths_remain(self):
    unary, transition, found = self.found
    for i, length in enumerate(self.lengths):
      everything = oracles.tag_sequences(length, 5)
      keep = np.array([self.legal(tags) for tags in everything.decoded])
      structures = oracles.Structures(everything.decoded[keep], everything.counts[keep])
      parts = oracles.chain_parts(unary[i, :length], transition[i])
      expected = oracles.log_partition(structures, parts)
      np.testing.assert_allclose(found["log_partition"][i], expected, rtol=1e-5, atol=1e-5)
      expected = oracles.marginals(structures, parts)
      tags, pairs = (
        found["marginals"][0][i, :length],
        found["marginals"][1][i, : max(length - 1, 0)],
      )
      actual = np.append(tags.ravel(), pairs.ravel())
      np.testing.assert_allclose(actual, expected, atol=2e-5)
      np.testing.assert_array_equal(actual[expected == 0], 0)
      expected = oracles.entropy(structures, parts)
      np.testing.assert_allclose(found["entropy"][i], expected, rtol=1e-4, atol=1e-4)
      # KL of the conditioned to the free chain: log Z of the free minus that of the conditioned.
      expected = oracles.log_partition(everything, parts) - oracles.log_partition(structures, parts)
      np.testing.assert_allclose(found["kl"][i], expected, rtol=1e-4, atol=1e-4)
      best, scores = oracles.k_best(structures, parts, 20)
      np.testing.assert_array_equal(found["viterbi"][0][i, :length], best[0])
      np.testing.assert_allclose(found["viterbi"][1][i], scores[0], rtol=1e-5, atol=1e-5)
      count = len(scores)
      np.testing.assert_array_equal(found["top_k"][0][i, :count, :length], best)
      np.testing.assert_allclose(found["top_k"][1][i, :count], scores, rtol=1e-5, atol=1e-5)
      # What remains are no paths.
      assert (found["top_k"][1][i, count:] <= NEG_INF / 2).all()
      np.testing.assert_array_equal(found["top_k"][0][i, count:], 0)

  def test_samples_are_legal(self):
    for sample in self.found[2]["samples"]:
      for i, length in enumerate(self.lengths):
        assert self.legal(sample[i, :length])
        np.testing.assert_array_equal(sample[i, length:], 0)

  def test_transitions_alone(self):
    chain = LinearChain(np.zeros((3, 5), np.float32), np.zeros((5, 5), np.float32), None)
    allowed = self.rules[0]
    found = jax.jit(structured.log_partition)(structured.constrain(chain, allowed))
    expected = sum(
      allowed[tags[:-1], tags[1:]].all() for tags in oracles.tag_sequences(3, 5).decoded
    )
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-5)

  def test_shapes_are_checked(self):
    chain = LinearChain(np.zeros((3, 5), np.float32), np.zeros((5, 5), np.float32), None)
    with pytest.raises(ValueError, match=r"\(5, 4\)"):
      structured.constrain(chain, np.ones((5, 4), bool))
    for side in ("start", "end"):
      with pytest.raises(ValueError, match=r"\(4,\)"):
        structured.constrain(chain, np.ones((5, 5), bool), **{side: np.ones(4, bool)})


class TestSampling:
  def test_rows_of_a_batch_are_drawn_independently(self):
    chain = LinearChain(np.zeros((64, 3, 2), np.float32), np.zeros((64, 2, 2), np.float32), None)
    samples = np.asarray(jax.jit(structured.sample)(chain, jax.random.key(0)))
    assert len({tuple(sample) for sample in samples}) == 8


@hypothesis.settings(max_examples=3, deadline=None, derandomize=True, database=None)
@hypothesis.given(
  n=st.integers(1, 4),
  labels=st.integers(1, 3),
  scale=st.sampled_from([0.1, 3.0, 1e3]),
  data=st.data(),
)
def test_sizes_of_every_kind(n, labels, scale, data):
  rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
  unary = np.float32(scale * rng.normal(size=(n, labels)))
  transition = np.float32(scale * rng.normal(size=(labels, labels)))
  chain = LinearChain(unary, transition, None)
  found = jax.jit(lambda chain: (structured.log_partition(chain), *structured.marginals(chain)))(
    chain
  )
  for actual, expected in zip(found, oracles.forward_backward(unary, transition), strict=True):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-5 * max(1, scale))
