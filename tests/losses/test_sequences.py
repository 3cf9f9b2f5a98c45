"""Likelihoods, token KD, posterior KD, k-best KD and the fuzzy CRF, against lists of all structures."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import structured
from kd_jax.losses import sequences
from kd_jax.losses.logits import soft_target_kd_loss
from kd_jax.structured import DependencyScores, LinearChain, MaxEnt, ParsingTags, SpanScores
from kd_jax.types import Tree
from tests.losses import structures as builders
from tests.losses.structures import LENGTHS, EagerContract, N, Pair, StructuredLossContract, refused
from tests.structured import oracles


def log_prob(scores, gold):
  """log P(gold) of one sentence, from the list of all structures or token by token."""
  match scores:
    case MaxEnt():
      rows = zip(scores.logits, gold, strict=True)
      return sum(builders.log_softmax(row)[tag] for row, tag in rows)
    case LinearChain():
      listed = builders.sequences(scores)
      found = oracles.log_probs(listed, builders.parts(scores))
    case SpanScores():
      listed = oracles.flat_spans(*scores.scores.shape[1:])
      found = oracles.log_probs(listed, scores.scores.ravel())
    case DependencyScores():
      arcs, relations = builders.log_arc_probs(scores), builders.log_relation_probs(scores)
      each = zip(gold.heads, gold.relations, strict=True)
      return sum(arcs[i, head] + relations[i, head, r] for i, (head, r) in enumerate(each))
    case ParsingTags():
      total = 0.0
      for i, row in enumerate(scores.logits):
        wanted = gold.heads[i], gold.relations[i]
        for label, *named in builders.heads_named(i, scores):
          if tuple(named) == wanted:
            total += builders.log_softmax(row)[label]
      return total
  (which,) = np.flatnonzero((listed.decoded == gold).all(axis=1))
  return found[which]


# Likelihood.


class Gold(NamedTuple):
  tags: Any


def gold_nll(student, teacher):
  """The contract's teacher is the gold standard here."""
  gold = teacher.tags if isinstance(teacher, Gold) else teacher
  return sequences.structure_nll_loss(student, gold)


class NLLContract(EagerContract, StructuredLossContract):
  loss = staticmethod(gold_nll)
  temperatures = (None,)
  learns = teacher_learns = False
  kind: str

  def reference(self, teacher, student):
    return -log_prob(student, teacher.tags if isinstance(teacher, Gold) else teacher)

  def pair(self, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return Pair(self.gold(rng), builders.build(self.kind, rng, scale))

  def gold(self, rng):
    return Gold(np.where(builders.mask(), rng.integers(0, builders.TAGS, (len(LENGTHS), N)), 0))

  def test_labels_of_padding_do_not_matter(self):
    pair = self.pair(5)
    expected = self.find(pair)
    for filler in (-100, 10**6):

      def replace(labels, filler=filler):
        return np.where(builders.mask(), labels, np.asarray(filler, labels.dtype))

      found = self.find(pair._replace(teacher=jax.tree.map(replace, pair.teacher)))
      jax.tree.map(np.testing.assert_array_equal, found, expected)


class TestChainNLL(NLLContract):
  kind = "chain"


class TestTokensNLL(NLLContract):
  kind = "tokens"


class TestSpansNLL(NLLContract):
  kind = "spans"

  def gold(self, rng):
    tags = np.zeros((len(LENGTHS), N), np.int32)
    for row, length in enumerate(LENGTHS):
      if length:
        listed = oracles.flat_spans(length, builders.LABELS).decoded
        tags[row, :length] = listed[rng.integers(1, len(listed))]
    return Gold(tags)


class TestParserNLL(NLLContract):
  kind = "parser"

  def gold(self, rng):
    heads = np.zeros((len(LENGTHS), N), np.int32)
    for row, length in enumerate(LENGTHS):
      for i in range(length):
        heads[row, i] = rng.choice([h for h in range(length + 1) if h != i + 1])
    relations = rng.integers(0, builders.LABELS, heads.shape).astype(np.int32)
    return Tree(heads, relations, np.zeros(heads.shape, bool))


class TestRefinedParserNLL(TestParserNLL):
  kind = "refined parser"


class TestParsingTagsNLL(TestParserNLL):
  """Tokens whose head and relation no label names are left out."""

  kind = "parsing tags"

  def test_labels_that_do_not_exist(self):
    """The first token's head is three to the right, which has relation 1 only."""
    student = builders.pair_of("parsing tags", "parsing tags", seed=3).student
    heads, relations = np.int32([[4, 0, 2, 2]] * 2), np.int32([[1, 0, 1, 0], [0, 0, 1, 0]])
    logits = np.stack([student.logits[0]] * 2)
    scores = ParsingTags(logits, student.offsets, student.relations, None)
    loss = jax.jit(
      lambda logits: gold_nll(scores._replace(logits=logits), Tree(heads, relations, None))
    )
    whole, partial = loss(logits)
    log_probs = np.array([builders.log_softmax(row) for row in np.float64(logits[0])])
    expected = [log_probs[0, 6], log_probs[1, 0], log_probs[2, 4], log_probs[3, 5]]
    np.testing.assert_allclose(whole, -sum(expected), rtol=1e-5)
    np.testing.assert_allclose(partial, -sum(expected[1:]), rtol=1e-5)
    gradient = jax.grad(lambda logits: jnp.sum(loss(logits)))(logits)
    np.testing.assert_array_equal(gradient[1, 0], 0)
    assert np.all(gradient[0, 0] != 0)


def test_nll_of_no_structure():
  with pytest.raises(ValueError, match="no structure"):
    sequences.structure_nll_loss(np.zeros((3, 2)), np.zeros(3, int))


# Token KD.


class TestTokenKD(StructuredLossContract):
  loss = staticmethod(sequences.token_kd_loss)
  kinds = ("chain", "chain")

  def targets(self, teacher, student, temperature):
    """Tempered distribution of each token."""
    emissions = teacher.unary if isinstance(teacher, LinearChain) else teacher.logits
    return [np.exp(builders.log_softmax(row / temperature)) for row in emissions]

  def reference(self, teacher, student, temperature=1.0):
    logits = student.unary if isinstance(student, LinearChain) else student.logits
    total = 0.0
    targets = self.targets(teacher, student, temperature)
    for target, row in zip(targets, logits, strict=True):
      log_student = builders.log_softmax(row / temperature)
      total += sum(
        p * (np.log(p) - log_q) for p, log_q in zip(target, log_student, strict=True) if p > 0
      )
    return temperature**2 * total

  def test_is_soft_target_kd_summed_over_tokens(self):
    pair = builders.pair_of("chain", "chain", seed=3)
    emissions = pair.student.unary, pair.teacher.unary
    of_tokens = jax.jit(soft_target_kd_loss)(*emissions, temperature=3.0, mask=builders.mask())
    found = TestTokenKD().find(pair, 3.0).values
    np.testing.assert_allclose(found, of_tokens.sum(axis=-1), rtol=1e-5)

  def test_is_zero_at_equality(self):
    for scale in (1.0, 100.0):
      pair = self.pair(4, scale)
      field = pair.student._fields[0]
      scores = np.zeros_like(pair.student[0])
      for row, length in enumerate(LENGTHS):
        if length:
          targets = self.targets(*(builders.sentence(side, row) for side in pair), 1.0)
          # Of log-probabilities T makes the tempered distribution.
          scores[row, :length] = np.log(np.maximum(targets, 1e-300))
      pair = pair._replace(student=pair.student._replace(**{field: scores}))
      for temperature in self.temperatures:
        found = self.find(pair, temperature)
        np.testing.assert_allclose(found.values, 0, atol=2e-5)
        for gradient in found.student.values():
          np.testing.assert_allclose(gradient, 0, atol=2e-5)


class TestTokenKDFromSpans(TestTokenKD):
  """A tag's score sums the spans that give a token this tag, whatever else the sentence has."""

  kinds = ("spans", "bioes")

  def targets(self, teacher, student, temperature):
    n, _, num_labels = teacher.scores.shape
    found = []
    for i in range(n):
      gathered = {0: [0.0]}
      for start, end, label in np.ndindex(n, n, num_labels):
        if start <= i <= end:
          tag = oracles.tags_of_spans([(start, end, label)], n)[i]
          gathered.setdefault(tag, []).append(teacher.scores[start, end, label])
      tags = range(4 * num_labels + 1)
      scores = np.array([oracles.log_sum_exp(gathered.get(tag, [])) for tag in tags])
      found.append(np.exp(builders.log_softmax(scores / temperature)))
    return found


class TestTokenKDFromParser(TestTokenKD):
  kinds = ("parser", "parsing tags")

  def targets(self, teacher, student, temperature):
    scores = teacher._replace(refined=None)
    log_arcs, log_relations = builders.log_arc_probs(scores), builders.log_relation_probs(scores)
    targets = builders.parsing_targets(log_arcs, log_relations, student)
    return [builders.softened(row, temperature) for row in targets]

  def test_a_token_that_no_label_can_name_counts_nothing(self):
    pair = self.pair(9)
    right = ParsingTags(
      pair.student.logits[..., :2], np.int32([1, 1]), np.int32([0, 1]), pair.student.mask
    )
    pair = pair._replace(student=right)
    for temperature in self.temperatures:
      found = self.find(pair, temperature)
      assert found.values[LENGTHS.index(1)] == 0
      np.testing.assert_array_equal(found.student["logits"][0, 3], 0)
      self.assert_close(found.values, self.expect(pair, temperature))


# Posterior KD.


class TestPosteriorKD(StructuredLossContract):
  loss = staticmethod(sequences.posterior_kd_loss)
  kinds = ("chain", "chain")

  def targets(self, teacher, student):
    return builders.tag_marginals(teacher)

  def reference(self, teacher, student, temperature=1.0):
    targets = self.targets(teacher, student)
    if not isinstance(student, LinearChain):
      return builders.independent(targets, student.logits, temperature)
    cooled = LinearChain(student.unary / temperature, student.transition / temperature, None)
    listed = builders.sequences(cooled)
    log_probs, total = oracles.log_probs(listed, builders.parts(cooled)), 0.0
    for i, target in enumerate(targets):
      for tag, p in enumerate(builders.softened(target, temperature)):
        if p > 0:
          total -= p * oracles.log_sum_exp(log_probs[listed.decoded[:, i] == tag])
    return temperature**2 * total


class TestPosteriorKDFromParser(TestPosteriorKD):
  """Arcs by the list of all trees with one child of the root."""

  kinds = ("refined parser", "parsing tags")
  scales = (0.3, 1.0, 3.0)
  exact_when_certain = False

  def targets(self, teacher, student):
    log_arcs = builders.log_arc_probs(teacher)
    listed = oracles.trees(len(log_arcs), True, False)
    own = np.isneginf(log_arcs)  # in no tree
    arcs = oracles.marginals(listed, np.where(own, 0, log_arcs).ravel()).reshape(own.shape)
    log_marginals = np.log(np.maximum(arcs, 1e-300))
    return builders.parsing_targets(log_marginals, builders.log_relation_probs(teacher), student)


# The k best.


def best(teacher, k):
  """The k best structures of one sentence, and the logarithms of their weights."""
  match teacher:
    case SpanScores():
      listed = oracles.flat_spans(*teacher.scores.shape[1:])
      return oracles.k_best(listed, teacher.scores.ravel(), k)
    case DependencyScores():
      given = teacher.arc if teacher.refined is None else teacher.refined
      listed = oracles.trees(len(given), True, False)
      heads, scores = oracles.k_best(listed, given.ravel(), k)
      chosen = [[teacher.relation[i, h].argmax() for i, h in enumerate(row)] for row in heads]
      return [Tree(*tree, None) for tree in zip(heads, chosen, strict=True)], scores
  return oracles.k_best(builders.sequences(teacher), builders.parts(teacher), k)


class TestWeightedKBest(StructuredLossContract):
  """The sentence of one token has 3 structures, fewer than k."""

  loss = staticmethod(sequences.k_best_kd_loss)
  kinds = ("chain", "chain")
  options = (("k", 5), ("weighted", True))
  temperatures = (None,)
  exact_when_certain = False  # ties: any k will do

  def reference(self, teacher, student, k, weighted):
    paths, scores = best(teacher, k)
    weights = builders.log_softmax(scores if weighted else 0 * scores)
    return -sum(
      np.exp(weight) * log_prob(student, path) for weight, path in zip(weights, paths, strict=True)
    )


class TestKBest(TestWeightedKBest):
  options = (("k", 5), ("weighted", False))
  teacher_learns = False


class TestKBestSpans(TestWeightedKBest):
  """A sentence of one token has 3 segmentations here too."""

  kinds = ("spans", "bioes")


class TestBestTree(TestKBest):
  kinds = ("parser", "parsing tags")
  options = (("k", 1), ("weighted", False))


class TestFuzzyCRF(StructuredLossContract):
  loss = staticmethod(sequences.fuzzy_crf_loss)
  kinds = ("chain", "chain")
  options = (("k", 5),)
  temperatures = (None,)
  teacher_learns = False
  exact_when_certain = False

  def reference(self, teacher, student, k):
    return -oracles.log_sum_exp([log_prob(student, path) for path in best(teacher, k)[0]])

  def test_the_best_path_alone_is_its_likelihood(self):
    @jax.jit
    def both(pair):
      tags = structured.argmax(pair.teacher)
      losses = sequences.fuzzy_crf_loss, sequences.k_best_kd_loss
      nll = sequences.structure_nll_loss(pair.student, tags)
      return nll, [loss(*pair[::-1], k=1) for loss in losses]

    expected, found = both(builders.pair_of("chain", "chain", seed=11))
    for values in found:
      np.testing.assert_allclose(values, expected, rtol=1e-6)

  def test_all_paths_are_certain(self):
    pair = self.pair(12)
    found = self.find(pair, k=builders.TAGS**N)
    assert np.all(found.values >= 0)
    np.testing.assert_allclose(found.values, 0, atol=2e-6)
    for gradient in found.student.values():
      np.testing.assert_allclose(gradient, 0, atol=1e-5)
    # 5 paths are all of the shortest sentence's, and not of the longest one's.
    of_five = self.find(pair).values
    np.testing.assert_allclose(of_five[LENGTHS.index(1)], 0, atol=2e-6)
    assert of_five[LENGTHS.index(N)] > 0.1


@pytest.mark.parametrize(
  ("contract", "kinds"),
  [
    (TestTokenKD(), ("chain", "tokens")),
    (TestTokenKD(), ("tokens", "chain")),
    (TestTokenKDFromParser(), ("refined parser", "parsing tags")),  # by the scores of arcs
    (TestPosteriorKD(), ("chain", "tokens")),
    (TestPosteriorKD(), ("tokens", "chain")),
    (TestPosteriorKD(), ("spans", "bioes")),
    (TestPosteriorKD(), ("spans", "bioes chain")),
    (TestPosteriorKDFromParser(), ("parser", "parsing tags")),
    (TestWeightedKBest(), ("chain", "tokens")),
    (TestWeightedKBest(), ("tokens", "chain")),
    (TestBestTree(), ("refined parser", "parser")),
    (TestFuzzyCRF(), ("chain", "tokens")),
    (TestFuzzyCRF(), ("spans", "spans")),
  ],
)
def test_other_pairs_equal_the_reference(contract, kinds):
  pair, options = builders.pair_of(*kinds, seed=13), dict(contract.options)
  tempered = {} if contract.temperatures[0] is None else {"temperature": 3.0}
  found = jax.jit(lambda pair: contract.loss(*pair[::-1], **options, **tempered))(pair)
  contract.assert_close(found, contract.expect(pair, **tempered))


@pytest.mark.parametrize("contract", [TestTokenKD(), TestPosteriorKD(), TestWeightedKBest()])
def test_both_have_one_mask(contract):
  pair = contract.pair(14)
  expected = contract.find(pair, 1.0).values
  builders.assert_one_mask(contract.loss, pair, expected, **dict(contract.options))


def test_k_best_of_a_constrained_teacher():
  """Three tokens of BIOES with one type have 13 legal sequences; 20 are asked for."""
  rng, tags, n = np.random.default_rng(21), 5, 3
  teacher, student = (
    LinearChain(
      rng.standard_normal((n, tags)).astype(np.float32),
      rng.standard_normal((tags, tags)).astype(np.float32),
      None,
    )
    for _ in range(2)
  )
  allowed = oracles.legal_transitions(1)
  teacher = structured.constrain(teacher, *allowed)
  exact = [type(s)(np.float64(s.unary), np.float64(s.transition), None) for s in (teacher, student)]
  listed = builders.sequences(exact[0])
  scores = oracles.scores(listed, builders.parts(exact[0]))
  legal = scores > -1e29
  assert legal.sum() == 13
  log_student = oracles.log_probs(listed, builders.parts(exact[1]))[legal]
  weights = np.exp(builders.log_softmax(scores[legal]))
  for weighted, expected in ((True, -weights @ log_student), (False, -log_student.mean())):
    loss, gradient = jax.jit(
      jax.value_and_grad(
        lambda student, weighted=weighted: sequences.k_best_kd_loss(
          LinearChain(*student, None), teacher, k=20, weighted=weighted
        )
      )
    )(student[:2])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in gradient)
  fuzzy = jax.jit(lambda s: sequences.fuzzy_crf_loss(LinearChain(*s, None), teacher, k=20))
  np.testing.assert_allclose(fuzzy(student[:2]), -oracles.log_sum_exp(log_student), rtol=1e-5)


# What is refused.


@pytest.mark.parametrize("k", [0, -1])
@pytest.mark.parametrize("teacher", ["chain", "spans"])
def test_k_below_one(teacher, k):
  pair = builders.pair_of(teacher, "chain" if teacher == "chain" else "bioes")
  for loss in (sequences.k_best_kd_loss, sequences.fuzzy_crf_loss):
    refused(loss, *pair, match=f"k must be at least 1, got {k}", k=k)


def test_the_k_best_trees_of_a_parser():
  contract, pair = TestBestTree(), builders.pair_of("parser", "parsing tags", seed=16)
  found = jax.jit(lambda pair: sequences.k_best_kd_loss(*pair[::-1], k=3, weighted=True))(pair)
  expected = builders.over_batch(
    lambda teacher, student: contract.reference(teacher, student, k=3, weighted=True), pair
  )
  contract.assert_close(found, expected)


@pytest.mark.parametrize(
  ("teacher", "student"),
  [("chain", "spans"), ("parser", "tokens"), ("chain", "parsing tags"), ("tokens", "parser")],
)
def test_labellings_of_another_kind_are_refused(teacher, student):
  for loss in (sequences.k_best_kd_loss, sequences.fuzzy_crf_loss):
    refused(loss, *builders.pair_of(teacher, student), match="are no labels for a", k=2)


@pytest.mark.parametrize("loss", [sequences.token_kd_loss, sequences.posterior_kd_loss])
@pytest.mark.parametrize(
  ("teacher", "student", "named"),
  [
    ("chain", "spans", "SpanScores"),
    ("parser", "tokens", "MaxEnt"),
    ("parser", "parser", "DependencyScores"),
    ("parsing tags", "parsing tags", "ParsingTags"),
  ],
)
def test_structures_without_tokens_are_refused_by_name(loss, teacher, student, named):
  refused(loss, *builders.pair_of(teacher, student), match=named)


@pytest.mark.parametrize("loss", [sequences.token_kd_loss, sequences.posterior_kd_loss])
def test_other_numbers_of_tags_are_refused(loss):
  chain, tokens = builders.pair_of("chain", "tokens")
  wider, bioes = builders.pair_of("bioes chain", "bioes")
  spans = builders.pair_of("spans", "bioes").teacher
  for teacher, student in ((chain, wider), (tokens, bioes), (spans, chain), (spans, tokens)):
    refused(loss, teacher, student, match=r"4, 4, 3.*4, 4, 9|4, 4, 9.*4, 4, 3")
