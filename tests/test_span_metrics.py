"""Entity F1 against seqeval, and against a plain reading of its rule."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_jax import metrics
from tests import contract

TYPES = ("PER", "LOC", "X-Y")
SENTENCES, LENGTH = 6, 7

span_f1 = jax.jit(metrics.span_f1)
by_type = jax.jit(metrics.span_f1_by_type, static_argnames="num_types")


def name_of(tag):
  """The tag's name; -1 is inside an entity of a type that nobody knows."""
  if tag == -1:
    return "I-UNKNOWN"
  return "O" if tag == 0 else "SBIE"[(tag - 1) % 4] + "-" + TYPES[(tag - 1) // 4]


def names(tags, lengths):
  return [[name_of(tag) for tag in row[:length]] for row, length in zip(tags, lengths, strict=True)]


def numbers(text):
  """Tags from names such as "B-PER E-PER O"."""
  known = {name_of(tag): tag for tag in range(-1, 1 + 4 * len(TYPES))}
  return [known[name] for name in text.split()]


def entities(sentence):
  """(type, first, last) of every entity of a sentence of names: the rule, token by token."""
  found, first = [], None
  for i, tag in enumerate(sentence):
    kind, _, entity_type = tag.partition("-")
    if kind == "O":
      continue
    before = sentence[i - 1] if i else "O"
    goes_on = before[0] in "BI" and kind in "IE" and before.partition("-")[2] == entity_type
    first = first if goes_on else i
    after = sentence[i + 1] if i + 1 < len(sentence) else "O"
    if not (kind in "BI" and after[0] in "IE" and after.partition("-")[2] == entity_type):
      found.append((entity_type, first, i))
  return set(found)


def counts(predicted, gold, entity_type=None):
  """(correct, predicted, gold) entities of sentences of names."""
  total = np.zeros(3, int)
  for one, other in zip(predicted, gold, strict=True):
    sets = [
      {e for e in entities(s) if entity_type is None or e[0] == entity_type} for s in (one, other)
    ]
    total += [len(sets[0] & sets[1]), len(sets[0]), len(sets[1])]
  return total


def unpack(pairs):
  """(correct, predicted, gold) from the pairs, which must agree with one another."""
  (correct, predicted), (again, gold), (doubled, both) = (
    pairs[name] for name in ("precision", "recall", "f1")
  )
  np.testing.assert_array_equal(correct, again)
  np.testing.assert_array_equal(doubled, 2 * np.asarray(correct))
  np.testing.assert_array_equal(both, np.asarray(predicted) + np.asarray(gold))
  return np.array([correct, predicted, gold])


def draw(seed, kinds=13):
  """Tags that need not be well-formed, and sentences' lengths; what stands after them is no matter."""
  rng = np.random.default_rng(seed)
  gold = rng.integers(-1, kinds, (SENTENCES, LENGTH))
  # Alike enough for some entities to be right.
  predicted = np.where(rng.random(gold.shape) < 0.3, rng.integers(0, kinds, gold.shape), gold)
  predicted = np.maximum(predicted, 0)
  lengths = rng.integers(0, LENGTH + 1, SENTENCES)
  return predicted.astype(np.int32), gold.astype(np.int32), lengths


def mask_of(lengths):
  return np.arange(LENGTH) < lengths[:, None]


many = hypothesis.settings(contract.sampled, max_examples=200)


@many
@hypothesis.given(seed=st.integers(0, 10**9), kinds=st.sampled_from([3, 5, 9, 13]))
def test_equals_seqeval_on_any_tags(seed, kinds):
  seqeval = pytest.importorskip("seqeval.metrics.sequence_labeling")
  predicted, gold, lengths = draw(seed, kinds)
  pairs = span_f1(predicted, gold, mask_of(lengths))
  told, wanted = names(predicted, lengths), names(gold, lengths)
  expected = seqeval.precision_recall_fscore_support(wanted, told, average="micro", zero_division=0)
  actual = [metrics.compute(*pairs[name]) for name in ("precision", "recall", "f1")]
  np.testing.assert_allclose(actual, expected[:3], rtol=1e-6)
  assert pairs["recall"][1] == expected[3]


@many
@hypothesis.given(seed=st.integers(0, 10**9), kinds=st.sampled_from([3, 5, 9, 13]))
def test_equals_the_rule_token_by_token(seed, kinds):
  predicted, gold, lengths = draw(seed, kinds)
  mask = mask_of(lengths)
  told, wanted = names(predicted, lengths), names(gold, lengths)
  np.testing.assert_array_equal(unpack(span_f1(predicted, gold, mask)), counts(told, wanted))
  of_types = unpack(by_type(predicted, gold, mask, num_types=len(TYPES)))
  for number, entity_type in enumerate(TYPES):
    np.testing.assert_array_equal(of_types[:, number], counts(told, wanted, entity_type))


@pytest.mark.parametrize(
  ("tags", "found"),
  [
    ("O O O", 0),
    ("S-PER S-PER", 2),
    ("B-PER I-PER E-PER", 1),
    # Ill-formed: entities without a beginning, an end, or a change of type inside.
    ("I-PER", 1),
    ("E-PER E-PER", 2),
    ("B-PER B-PER", 2),
    ("B-PER O E-PER", 2),
    ("I-PER I-LOC", 2),
    ("I-PER I-PER", 1),
    ("S-PER I-PER", 2),
    ("E-LOC B-LOC I-LOC O I-LOC", 3),
  ],
)
def test_what_makes_up_an_entity(tags, found):
  tags = np.array([numbers(tags)])
  correct, predicted, gold = unpack(metrics.span_f1(tags, tags, np.ones(tags.shape)))
  assert (correct, predicted, gold) == (found, found, found)


def test_type_first_and_last_token_must_all_be_right():
  gold = np.array([numbers("B-PER I-PER E-PER O")])
  for wrong in (
    "B-LOC I-LOC E-LOC O",
    "O B-PER E-PER O",
    "B-PER E-PER O O",
    "B-PER I-PER I-PER E-PER",
  ):
    predicted = np.array([numbers(wrong)])
    assert unpack(metrics.span_f1(predicted, gold, np.ones((1, 4))))[0] == 0
  # Other tags of the same entity are the same entity.
  same = np.array([numbers("I-PER I-PER I-PER O")])
  np.testing.assert_array_equal(unpack(metrics.span_f1(same, gold, np.ones((1, 4)))), [1, 1, 1])


def test_an_unknown_gold_type_counts_and_cannot_be_found():
  gold = np.array([[-1, -1, 0, -1, 1]])
  for predicted in (gold, np.zeros((1, 5), int), np.array([[2, 4, 0, 1, 1]])):
    correct, _, wanted = unpack(metrics.span_f1(predicted, gold, np.ones((1, 5))))
    assert wanted == 3
    assert correct == (predicted[0, 4] == 1)


def test_entities_do_not_run_from_one_sentence_into_the_next():
  tags = np.array([numbers("O B-PER"), numbers("I-PER O")])
  assert unpack(metrics.span_f1(tags, tags, np.ones((2, 2))))[0] == 2


def test_batches_add_up_and_padding_is_no_matter():
  predicted, gold, lengths = draw(5)
  mask = mask_of(lengths)
  whole = unpack(span_f1(predicted, gold, mask))
  parts = [unpack(span_f1(predicted, gold, mask * (np.arange(6) == i)[:, None])) for i in range(6)]
  np.testing.assert_array_equal(sum(parts), whole)
  garbage = np.where(mask, predicted, 5), np.where(mask, gold, 7)
  np.testing.assert_array_equal(unpack(span_f1(*garbage, mask)), whole)
  assert whole[0] > 0


def test_nothing_over_nothing_is_zero():
  tags = np.zeros((2, 3), int)
  for pair in metrics.span_f1(tags, tags, np.zeros((2, 3))).values():
    assert metrics.compute(*pair) == 0


def test_token_accuracy_counts_every_token_once():
  predicted, gold, lengths = draw(8)
  right, count = metrics.token_accuracy(predicted, gold, mask_of(lengths))
  expected = [
    predicted[i, j] == gold[i, j] for i, length in enumerate(lengths) for j in range(length)
  ]
  assert (right, count) == (sum(expected), len(expected))
  assert 0 < right < count
  # An unknown tag is not right, even when it is "predicted".
  assert metrics.token_accuracy(gold, np.full_like(gold, -1), mask_of(lengths))[0] == 0


@pytest.mark.parametrize("metric", [metrics.span_f1, metrics.token_accuracy])
def test_refuses_other_shapes_and_scores_for_tags(metric):
  tags, mask = np.zeros((2, 3), int), np.ones((2, 3))
  with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
    metric(tags, np.zeros((2, 4), int), mask)
  with pytest.raises(ValueError, match=r"\(2, 3\).*\(2,\)"):
    metric(tags, tags, np.ones(2))
  with pytest.raises(ValueError, match="decode scores"):
    metric(tags.astype(np.float32), tags, mask)
