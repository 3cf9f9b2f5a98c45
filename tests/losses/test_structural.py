"""Structural KD: every case against sums over all structures, and the approximation at T > 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import structured
from kd_jax.losses import structural
from kd_jax.structured import LinearChain, MaxEnt, ParsingTags
from tests.losses import structures as builders
from tests.losses.structures import EagerContract, Pair, StructuredLossContract, refused
from tests.structured import oracles


class TestCase1a(EagerContract, StructuredLossContract):
  loss = staticmethod(structural.structural_kd_case_1a)
  kinds = ("chain", "chain")

  def reference(self, teacher, student, temperature=1.0):
    """Pairs of tags one after another; at T = 1 the list of all sequences, which knows no pairs."""
    listed = builders.sequences(teacher)
    if temperature == 1:
      return oracles.cross_entropy(listed, builders.parts(teacher), builders.parts(student))
    n, num_tags = teacher.unary.shape
    marginals = oracles.marginals(listed, builders.parts(teacher))
    first = builders.softened(marginals[:num_tags], temperature)
    expected = first @ student.unary[0]
    for i, pairs in enumerate(marginals[n * num_tags :].reshape(n - 1, num_tags, num_tags)):
      scores = student.transition + student.unary[i + 1]
      expected += np.sum(builders.softened(pairs, temperature) * scores)
    log_z = oracles.log_partition(listed, builders.parts(student) / temperature)
    return temperature**2 * (log_z - expected / temperature)


class TestCase1b(EagerContract, StructuredLossContract):
  loss = staticmethod(structural.structural_kd_case_1b)
  kinds = ("parser", "parsing tags")

  def reference(self, teacher, student, temperature=1.0):
    arcs, relations = builders.log_arc_probs(teacher), builders.log_relation_probs(teacher)
    targets = builders.parsing_targets(arcs, relations, student)
    return builders.independent(targets, student.logits, temperature)


class TestCase2a(StructuredLossContract):
  loss = staticmethod(structural.structural_kd_case_2a)
  kinds = ("chain", "tokens")

  def reference(self, teacher, student, temperature=1.0):
    if temperature == 1:
      listed = builders.sequences(teacher)
      return oracles.cross_entropy(listed, builders.parts(teacher), builders.parts(student))
    return builders.independent(builders.tag_marginals(teacher), student.logits, temperature)


class TestCase2b(TestCase1b):
  loss = staticmethod(structural.structural_kd_case_2b)
  kinds = ("refined parser", "parsing tags")


class TestCase3(StructuredLossContract):
  loss = staticmethod(structural.structural_kd_case_3)
  kinds = ("tokens", "chain")

  def reference(self, teacher, student, temperature=1.0):
    """A cross-entropy of whole sequences at every temperature."""
    parts = [builders.parts(scores) / temperature for scores in (teacher, student)]
    return temperature**2 * oracles.cross_entropy(builders.sequences(teacher), *parts)


class TestCase4(EagerContract, StructuredLossContract):
  loss = staticmethod(structural.structural_kd_case_4)
  kinds = ("spans", "bioes")

  def reference(self, teacher, student, temperature=1.0):
    if temperature != 1:
      return builders.independent(builders.tag_marginals(teacher), student.logits, temperature)
    n, _, num_labels = teacher.scores.shape
    listed = oracles.flat_spans(n, num_labels)
    log_probs = np.array([builders.log_softmax(row) for row in student.logits])
    of_structures = [log_probs[np.arange(n), tags].sum() for tags in listed.decoded]
    return -np.exp(oracles.log_probs(listed, teacher.scores.ravel())) @ of_structures


class TestTokensToTokens(StructuredLossContract):
  loss = staticmethod(structural.structural_kd_loss)
  kinds = ("tokens", "tokens")
  reference = TestCase3.reference


class TestParserToParser(StructuredLossContract):
  """Cases 1b and 2b with a first-order parser as the student."""

  loss = staticmethod(structural.structural_kd_loss)
  kinds = ("parser", "parser")

  def reference(self, teacher, student, temperature=1.0):
    """A token at a time: its head, and given that its relation."""
    arcs = np.exp(builders.log_arc_probs(teacher))
    relations = np.exp(builders.log_relation_probs(teacher))
    total = 0.0
    for i, row in enumerate(arcs):
      heads = [h for h in range(len(row)) if h != i + 1]
      given = student.arc if student.refined is None else student.refined
      log_heads = builders.log_softmax(given[i, heads] / temperature)
      target = builders.softened(row[heads], temperature)
      for head, weight, log_head in zip(heads, target, log_heads, strict=True):
        log_relations = builders.log_softmax(student.relation[i, head] / temperature)
        inner = builders.softened(relations[i, head], temperature) @ log_relations
        total -= weight * (log_head + inner)
    return temperature**2 * total


class TestSecondOrderParserToParser(TestParserToParser):
  kinds = ("refined parser", "parser")


BY_NAME = {
  "1a": TestCase1a,
  "1b": TestCase1b,
  "2a": TestCase2a,
  "2b": TestCase2b,
  "3": TestCase3,
  "4": TestCase4,
}


class TestDispatch:
  @pytest.mark.parametrize("name", structural.STRUCTURAL_KD_CASES)
  def test_types_decide_the_case(self, name):
    case = BY_NAME[name]
    assert structural.STRUCTURAL_KD_CASES[name] is case.loss
    pair = case().pair(seed=1)
    by_type, by_name = (
      jax.make_jaxpr(lambda pair, loss=loss: loss(*pair[::-1], temperature=2.0))(pair)
      for loss in (structural.structural_kd_loss, case.loss)
    )
    assert str(by_type) == str(by_name)

  def test_all_cases_of_the_paper_are_named(self):
    assert list(structural.STRUCTURAL_KD_CASES) == ["1a", "1b", "2a", "2b", "3", "4"]

  @pytest.mark.parametrize(
    ("teacher", "student"),
    [
      ("tokens", "spans"),
      ("spans", "chain"),
      ("chain", "parsing tags"),
      ("parser", "tokens"),
      ("parsing tags", "parsing tags"),
    ],
  )
  def test_other_pairs_are_refused_by_name(self, teacher, student):
    pair = builders.pair_of(teacher, student)
    with pytest.raises(ValueError, match="no case of structural KD") as raised:
      structural.structural_kd_loss(*pair[::-1])
    for scores in pair:
      assert type(scores).__name__ in str(raised.value)

  def test_no_structure_at_all(self):
    with pytest.raises(ValueError, match="ndarray"):
      structural.structural_kd_loss(np.zeros((2, 3)), builders.pair_of("chain", "chain").student)

  @pytest.mark.parametrize("name", structural.STRUCTURAL_KD_CASES)
  def test_a_named_case_refuses_other_structures(self, name):
    teacher, student = BY_NAME[name]().pair()
    other = builders.pair_of("parsing tags", "spans")
    loss = structural.STRUCTURAL_KD_CASES[name]
    refused(loss, teacher, other.student, match="SpanScores")
    refused(loss, other.teacher, student, match="ParsingTags")

  def test_case_2b_needs_a_second_order_teacher(self):
    pair = builders.pair_of("parser", "parsing tags")
    refused(structural.structural_kd_case_2b, *pair, match="refined")

  def test_case_1b_takes_a_second_order_teacher_by_its_arcs(self):
    teacher, student = builders.pair_of("refined parser", "parsing tags")
    found = jax.jit(structural.structural_kd_case_1b)(student, teacher)
    reference = TestCase1b().expect(Pair(teacher._replace(refined=None), student))
    np.testing.assert_allclose(found, reference, rtol=2e-5)

  def test_other_numbers_of_tags_are_refused(self):
    chain, tokens = builders.pair_of("chain", "tokens")
    wider, bioes = builders.pair_of("bioes chain", "bioes")
    spans = builders.pair_of("spans", "bioes").teacher
    for teacher, student in (
      (chain, wider),
      (chain, bioes),
      (tokens, wider),
      (tokens, bioes),
      (spans, tokens),
    ):
      match = r"4, 4, 3.*4, 4, 9|4, 4, 9.*4, 4, 3"
      refused(structural.structural_kd_loss, teacher, student, match=match)


class TestExactness:
  def test_own_scores_give_the_entropy(self):
    """And no other student is below it."""
    chain, other = builders.pair_of("chain", "chain", seed=8)
    find = TestCase1a().find
    found = find(Pair(chain, chain), 1.0)
    for row, length in enumerate(builders.LENGTHS):
      if length:
        own = builders.sentence(chain, row)
        expected = oracles.entropy(builders.sequences(own), builders.parts(own))
        np.testing.assert_allclose(found.values[row], expected, rtol=2e-5)
        assert find(Pair(chain, other), 1.0).values[row] > expected + 1e-3
    for gradient in found.student.values():
      np.testing.assert_allclose(gradient, 0, atol=1e-5)

  def test_tempered_pairs_of_case_1a_are_no_distribution(self):
    """Then the loss falls below zero.

    The paths 0-2-4, 0-2-5, 0-3-4 and 1-3-4 are equally likely. At T = 3 the first pairs make 3 the likelier
    tag in the middle, the last pairs 2. A student that rewards 3 in the first and 2 in the last gains on
    both, though it rewards every path alike.
    """
    impossible, reward = -50.0, 60.0
    teacher = LinearChain(
      np.float32([[0, 0, impossible, impossible, impossible, impossible], [0] * 6, [0] * 6]),
      np.full((6, 6), impossible, np.float32),
      None,
    )
    student = LinearChain(teacher.unary.copy(), teacher.transition.copy(), None)
    for before, after in ((0, 2), (2, 4), (2, 5), (0, 3), (1, 3), (3, 4)):
      teacher.transition[before, after] = student.transition[before, after] = 0
    student.unary[1, 3] += reward
    student.transition[2, 4:] += reward
    for temperature in (1.0, 3.0):
      found = structural.structural_kd_case_1a(student, teacher, temperature=temperature)
      reference = TestCase1a().reference(teacher, student, temperature)
      np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-3)
      parts = builders.parts(student) / temperature
      entropy = oracles.entropy(builders.sequences(student), parts)
      if temperature == 1:
        np.testing.assert_allclose(found, np.log(4), atol=1e-3)
      else:
        assert found < 0 < temperature**2 * entropy

  def test_a_token_that_no_label_can_name_counts_nothing(self):
    teacher, student = builders.pair_of("parser", "parsing tags", seed=9)
    student = ParsingTags(student.logits[..., :2], np.int32([1, 1]), np.int32([0, 1]), student.mask)
    last = [length - 1 for length in builders.LENGTHS if length]  # nothing to the right of it
    for temperature in (1.0, 3.0):
      found = TestCase1b().find(Pair(teacher, student), temperature)
      expected = TestCase1b().expect(Pair(teacher, student), temperature)
      np.testing.assert_allclose(found.values, expected, rtol=2e-5, atol=1e-6)
      assert found.values[builders.LENGTHS.index(1)] == 0
      np.testing.assert_array_equal(found.student["logits"][[0, 1, 3], last], 0)

  def test_second_order_scores_reach_the_student(self):
    """Case 2b from arc, sibling and grandparent scores, three mean-field iterations."""
    n, (teacher, student) = builders.N, builders.pair_of("parser", "parsing tags", seed=10)
    rng = np.random.default_rng(11)
    batch = len(builders.LENGTHS)
    sibling = rng.standard_normal((batch, n, n + 1, n)).astype(np.float32)
    grandparent = rng.standard_normal((batch, n, n, n + 1)).astype(np.float32)

    @jax.jit
    def loss(teacher, student):
      arcs = structured.mean_field_marginals(teacher.arc, sibling, grandparent, teacher.mask)
      refined = teacher._replace(refined=jnp.log(jnp.maximum(arcs, 1e-30)))
      return structural.structural_kd_loss(student, refined)

    expected = np.zeros(batch)
    for row, length in enumerate(builders.LENGTHS):
      if length:
        parser, tags = (builders.sentence(s, row) for s in (teacher, student))
        cut = np.s_[:length, : length + 1, :length], np.s_[:length, :length, : length + 1]
        arcs = oracles.mean_field(parser.arc, sibling[row][cut[0]], grandparent[row][cut[1]], 3)
        with np.errstate(divide="ignore"):  # the token itself is never its head
          log_arcs = np.log(arcs)
        relations = builders.log_relation_probs(parser)
        targets = builders.parsing_targets(log_arcs, relations, tags)
        expected[row] = builders.independent(targets, tags.logits, 1.0)
    np.testing.assert_allclose(loss(teacher, student), expected, rtol=5e-5)

  @pytest.mark.parametrize("case", [TestCase1a(), TestCase1b(), TestCase4()])
  def test_other_leading_axes_and_no_mask(self, case):
    pair = case.pair(seed=12)
    expected = case.find(pair, 1.0).values

    def reshape(scores, leading, **changes):
      fields = {
        name: getattr(scores, name) for name, yes in builders.batched(scores).items() if yes
      }
      return scores._replace(
        **(
          {name: np.reshape(x, (*leading, *np.shape(x)[1:])) for name, x in fields.items()}
          | changes
        )
      )

    loss = jax.jit(case.loss)
    found = loss(*(reshape(scores, (2, 2)) for scores in pair[::-1]))
    np.testing.assert_allclose(found, np.reshape(expected, (2, 2)), rtol=1e-5)
    found = loss(
      *(reshape(builders.take(scores, np.s_[:1]), (), mask=None) for scores in pair[::-1])
    )
    np.testing.assert_allclose(found, expected[0], rtol=1e-5)


@pytest.mark.parametrize("case", [TestCase1a(), TestCase1b(), TestCase4(), TestParserToParser()])
def test_both_have_one_mask(case):
  """At T = 1 and above, which are two ways through case 1a."""
  pair = case.pair(seed=15)
  for temperature in (1.0, 3.0):
    expected = case.find(pair, temperature).values
    builders.assert_one_mask(case.loss, pair, expected, temperature=temperature)


def test_relations_that_the_teacher_does_not_know():
  teacher, student = builders.pair_of("parser", "parsing tags")
  wrong = student._replace(relations=student.relations + 1)
  with pytest.raises(ValueError, match=r"relation 2.*2 relations"):
    structural.structural_kd_loss(wrong, teacher)


class TestHardConstraints:
  """BIOES on both sides: illegal transitions at NEG_INF, begin and end included."""

  kinds = ("bioes chain", "bioes chain")
  lengths = (3, 1)
  n, labels = 3, 1

  def pair(self):
    rng, tags = np.random.default_rng(13), 4 * self.labels + 1
    valid = np.arange(self.n) < np.array(self.lengths)[:, None]
    allowed = oracles.legal_transitions(self.labels)

    def chain():
      unary = rng.standard_normal((2, self.n, tags)).astype(np.float32)
      transition = rng.standard_normal((2, tags, tags)).astype(np.float32)
      return structured.constrain(LinearChain(unary, transition, valid), *allowed)

    return Pair(chain(), chain())

  def sentences(self, pair):
    for row, length in enumerate(self.lengths):
      yield (
        LinearChain(np.float64(s.unary[row, :length]), np.float64(s.transition[row]), None)
        for s in pair
      )

  @pytest.mark.parametrize("temperature", [1.0, 3.0])
  def test_case_1a(self, temperature):
    pair = self.pair()
    found = TestCase1a().find(pair, temperature)
    expected = [
      TestCase1a().reference(*scores, temperature=temperature) for scores in self.sentences(pair)
    ]
    assert np.all(np.abs(expected) < 100)
    np.testing.assert_allclose(found.values, expected, rtol=2e-5)
    for leaf in jax.tree.leaves(found):
      assert np.isfinite(leaf).all()
    for name in ("unary", "transition"):  # what is excluded on both sides is not pulled either way
      excluded = np.asarray(getattr(pair.student, name)) < -1e29
      assert excluded.any()
      np.testing.assert_allclose(np.where(excluded, found.student[name], 0), 0, atol=1e-6)

  def test_case_2a(self):
    teacher, _ = self.pair()
    student = MaxEnt(np.random.default_rng(14).standard_normal(teacher.unary.shape), teacher.mask)
    student = student._replace(logits=np.float32(student.logits))
    found = TestCase2a().find(Pair(teacher, student), 1.0)
    for row, (chain, _) in enumerate(self.sentences(Pair(teacher, teacher))):
      tokens = MaxEnt(np.float64(student.logits[row, : len(chain.unary)]), None)
      np.testing.assert_allclose(
        found.values[row], TestCase2a().reference(chain, tokens), rtol=2e-5
      )
    for leaf in jax.tree.leaves(found):
      assert np.isfinite(leaf).all()

  @pytest.mark.parametrize("temperature", [1.0, 3.0])
  def test_a_student_that_excludes_what_the_teacher_does_not(self, temperature):
    """The cross-entropy is infinite by right: large and finite here, as are its gradients."""
    student = self.pair().student
    chain = LinearChain(0 * student.unary, 0 * student.transition, student.mask)
    for case, teacher in ((TestCase1a(), chain), (TestCase3(), MaxEnt(chain.unary, chain.mask))):
      found = case.find(Pair(teacher, student), temperature)
      assert np.all(found.values > 1e20)
      for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()


def test_scores_must_be_floats():
  chain = builders.pair_of("chain", "chain").teacher
  tags = chain._replace(unary=np.ones(chain.unary.shape, np.int32))
  for pair in ((tags, chain), (chain, tags)):
    refused(structural.structural_kd_loss, *pair, match="unary must be floating point")
