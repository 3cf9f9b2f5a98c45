"""Tag schemes: all short tag sequences, against an independent enumeration and seqeval."""

import itertools

import pytest

from kd_jax.data import tag_schemes
from kd_jax.data.tag_schemes import SCHEMES, Span

TYPES = ("PER", "LOC")


def _segmentations(start, length):
  """All ways to lay entities of two types on positions start to length - 1."""
  if start >= length:
    yield ()
    return
  yield from _segmentations(start + 1, length)
  for end in range(start, length):
    for label in TYPES:
      for rest in _segmentations(end + 1, length):
        yield ((start, end, label), *rest)


def _write(entities, length, scheme):
  tags = ["O"] * length
  for number, (start, end, label) in enumerate(entities):
    if scheme == "BIOES":
      kinds = "S" if start == end else "B" + "I" * (end - start - 1) + "E"
    elif scheme == "BIO2":
      kinds = "B" + "I" * (end - start)
    else:
      touches = number and entities[number - 1][1:] == (start - 1, label)
      kinds = ("B" if touches else "I") + "I" * (end - start)
    tags[start : end + 1] = [f"{kind}-{label}" for kind in kinds]
  return tuple(tags)


WELL_FORMED = {
  scheme: {
    _write(entities, length, scheme): entities
    for length in range(5)
    for entities in _segmentations(0, length)
  }
  for scheme in SCHEMES
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_exactly_the_writable_sequences_are_well_formed(scheme):
  alphabet = ["O", *(f"{prefix}-{label}" for prefix in "BIES" for label in TYPES)]
  for length in range(5):
    for tags in itertools.product(alphabet, repeat=length):
      error = tag_schemes.find_error(tags, scheme)
      assert (error is None) == (tags in WELL_FORMED[scheme]), (tags, error)
      if error is not None:
        assert 0 <= error[0] < length


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_are_read_and_written_back(scheme):
  for tags, entities in WELL_FORMED[scheme].items():
    assert tag_schemes.spans(tags, scheme) == entities
    assert tag_schemes.span_tags(entities[::-1], len(tags), scheme) == tags


@pytest.mark.parametrize(("source", "target"), [*itertools.permutations(SCHEMES, 2)])
def test_conversions_keep_the_entities_and_return(source, target):
  for tags, entities in WELL_FORMED[source].items():
    there = tag_schemes.convert(tags, source, target)
    assert there == _write(entities, len(tags), target)
    assert tag_schemes.convert(there, target, source) == tags


@pytest.mark.parametrize(
  ("scheme", "theirs"), [("BIO", "IOB1"), ("BIO2", "IOB2"), ("BIOES", "IOBES")]
)
def test_entities_are_those_of_seqeval(scheme, theirs):
  pytest.importorskip("seqeval")
  from seqeval import scheme as schemes
  from seqeval.metrics.sequence_labeling import get_entities
  from seqeval.scheme import Tokens

  for tags in [tags for tags in WELL_FORMED[scheme] if tags]:
    ours = tag_schemes.spans(tags, scheme)
    assert [(label, start, end) for start, end, label in ours] == get_entities(list(tags))
    strict = Tokens(list(tags), getattr(schemes, theirs)).entities
    assert {(one.start, one.end - 1, one.tag) for one in strict} == set(ours)


@pytest.mark.parametrize(
  "tag", ["", "B", "B-", "-PER", "X-PER", "PER", "BI-PER", "o", "b-PER", "U-PER"]
)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_no_tag_is_found(tag, scheme):
  position, message = tag_schemes.find_error(["O", tag], scheme)
  assert position == 1
  assert repr(tag) in message


def test_a_type_may_have_hyphens():
  assert tag_schemes.spans(["B-work-of-art", "I-work-of-art"], "BIO2") == ((0, 1, "work-of-art"),)


def test_numbers_of_tags():
  names = tag_schemes.tag_names(["LOC", "PER"])
  assert len(names) == 9
  for r, label in enumerate(["LOC", "PER"]):
    assert names[1 + 4 * r : 5 + 4 * r] == tuple(f"{prefix}-{label}" for prefix in "SBIE")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_few_mistakes_do_not_mislead_the_detection(scheme):
  sentences = [tags for tags in WELL_FORMED[scheme] if any(tag != "O" for tag in tags)]
  others = [("I-PER", "O", "E-LOC"), ("O", "I-LOC"), ("B-PER", "S-LOC")] * 9
  assert tag_schemes.detect_scheme([*sentences, *others]) == scheme


def test_without_entities_the_scheme_is_bio2():
  assert tag_schemes.detect_scheme([("O", "O")]) == "BIO2"


def test_refusals():
  with pytest.raises(ValueError, match="unknown tag scheme 'IOB'; known are BIO2, BIOES, BIO"):
    tag_schemes.find_error(["O"], "IOB")
  with pytest.raises(ValueError, match="position 1: I-PER after O is not BIO2"):
    tag_schemes.spans(["O", "I-PER"], "BIO2")
  for entities in ([Span(0, 1, "A"), Span(1, 2, "A")], [Span(2, 3, "A")], [Span(1, 0, "A")]):
    with pytest.raises(ValueError, match="overlaps another one or leaves the sentence of 3"):
      tag_schemes.span_tags(entities, 3)
