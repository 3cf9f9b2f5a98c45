"""Sentences as arrays: buckets, checks, fingerprints, vocabularies, labels unseen in training."""

import dataclasses
import json

import numpy as np
import pytest

from kd_jax.data.corpora import load_parsing, load_tagging
from kd_jax.data.examples import worthwhile_lengths
from kd_jax.data.sentences import ParsedSentence, TaggedSentence
from kd_jax.data.sequences import SequenceDataset, default_bucket_lengths
from kd_jax.data.vocabulary import Vocabulary
from kd_jax.types import Tokens, Tree


def _arguments(lengths=(3, 1, 2), width=4, tree=False, **changes):
  """Random arrays of the given lengths."""
  random = np.random.default_rng(0)
  mask = np.arange(width) < np.array(lengths)[:, None]
  words = random.integers(1, 50, mask.shape).astype(np.int32) * mask
  characters = random.integers(1, 50, (*mask.shape, 5)).astype(np.uint8) * mask[..., None]
  labels = random.integers(0, 9, mask.shape).astype(np.int32) * mask
  if tree:
    heads = np.arange(width, dtype=np.int32) * mask  # each on the token before it
    labels = Tree(heads, labels, (labels % 2 == 1) & mask)
  arguments = {
    "name": "fake",
    "version": "1",
    "split": "train",
    "inputs": Tokens(words, characters.astype(np.uint8), mask),
    "labels": labels,
    "ids": np.array([f"s{i}" for i in range(len(lengths))]),
  }
  return {**arguments, **changes}


@pytest.mark.parametrize(
  ("longest", "lengths"), [(0, (8,)), (8, (8,)), (9, (8, 16)), (159, (8, 16, 32, 64, 128, 256))]
)
def test_default_bucket_lengths(longest, lengths):
  assert default_bucket_lengths(longest) == lengths


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("bucket_lengths", [None, (2, 3, 9, 17, 30)])
def test_buckets_hold_each_row_once_and_whole(tree, bucket_lengths):
  lengths = np.array([3, 17, 1, 2, 9, 8, 16, 3, 10])
  data = SequenceDataset(**_arguments(lengths, 20, tree, bucket_lengths=bucket_lengths))
  np.testing.assert_array_equal(data.lengths, lengths)
  assert sorted(row for bucket in data.buckets for row in bucket.rows) == list(range(9))
  assert [bucket.length for bucket in data.buckets] == sorted({b.length for b in data.buckets})
  given = _arguments(lengths, 20, tree)
  for bucket in data.buckets:
    shorter = [length for length in data.bucket_lengths if length < bucket.length]
    assert all(max(shorter, default=0) < lengths[row] <= bucket.length for row in bucket.rows)
    np.testing.assert_array_equal(bucket.keys, data.keys[bucket.rows])
    ours = [*bucket.inputs, *(bucket.labels if tree else [bucket.labels])]
    theirs = [*given["inputs"], *(given["labels"] if tree else [given["labels"]])]
    for mine, original in zip(ours, theirs, strict=True):
      assert mine.shape[:2] == (len(bucket.rows), bucket.length)
      assert mine.dtype == original.dtype
      for number, row in enumerate(bucket.rows):
        n = lengths[row]
        np.testing.assert_array_equal(mine[number, :n], original[row, :n])
        assert not mine[number, n:].any()


@pytest.mark.parametrize("tree", [False, True])
def test_take_keeps_rows_together(tree):
  data = SequenceDataset(**_arguments(tree=tree))
  for rows in (np.array([2, 0]), np.array([True, False, True])):
    taken = data.take(rows)
    assert list(taken.ids) == list(data.ids[rows])
    np.testing.assert_array_equal(taken.inputs.words, data.inputs.words[rows])
    np.testing.assert_array_equal(taken.lengths, data.lengths[rows])
    np.testing.assert_array_equal(taken.keys, data.keys[rows])
    np.testing.assert_array_equal(
      taken.labels.heads if tree else taken.labels,
      (data.labels.heads if tree else data.labels)[rows],
    )
    assert len(taken) == 2


@pytest.mark.parametrize("tree", [False, True])
def test_fingerprints_see_content_and_order_but_neither_padding_nor_buckets(tree):
  data = SequenceDataset(**_arguments(tree=tree))
  wide = SequenceDataset(**_arguments(width=12, tree=tree))  # other random numbers: not equal
  assert wide.fingerprint != data.fingerprint
  for same in (
    SequenceDataset(**_arguments(tree=tree)),
    dataclasses.replace(data, bucket_lengths=(3, 11)),
    dataclasses.replace(data, split="test"),
  ):
    assert same.fingerprint == data.fingerprint
  assert data.take([1, 0, 2]).fingerprint != data.fingerprint
  assert dataclasses.replace(data, ids=np.array(["a", "b", "c"])).fingerprint != data.fingerprint
  arrays = [*data.inputs, *(data.labels if tree else [data.labels])]
  assert len(arrays) == (6 if tree else 4)
  for number in range(len(arrays)):
    if number == 2:  # the mask: a sentence of one token more
      continue
    changed = [array.copy() for array in arrays]
    one = changed[number][0, 0]
    changed[number][0, 0] = ~one if one.dtype == bool else one + 1
    labels = Tree(*changed[3:]) if tree else changed[3]
    other = dataclasses.replace(data, inputs=Tokens(*changed[:3]), labels=labels)
    assert other.fingerprint != data.fingerprint, number
  mask = arrays[2].copy()
  mask[1, 1] = True
  longer = dataclasses.replace(data, inputs=data.inputs._replace(mask=mask))
  assert longer.fingerprint != data.fingerprint


def _with(field, place, value, tree=True):
  arguments = _arguments(tree=tree)
  part = "inputs" if field in Tokens._fields else "labels"
  array = getattr(arguments[part], field).copy()
  array[place] = value
  return {**arguments, part: arguments[part]._replace(**{field: array})}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (_with("mask", (0, 1), False), "row 0 has no tokens, or padding before its end"),
    (_with("mask", (1, 0), False), "row 1 has no tokens"),
    (_with("words", (1, 3), 7), "words are not 0 in the padding"),
    (_with("characters", (1, 3, 2), 7), "characters are not 0 in the padding"),
    (_with("punctuation", (1, 3), True), "punctuation are not 0 in the padding"),
    (_with("heads", (2, 0), 3), "heads must be at least 0 and at most 2, got 3 in row 2"),
    (_with("heads", (2, 0), -1), "heads must be at least 0"),
    (_with("relations", (2, 0), -2), "relations must be at least -1, got -2"),
    (_with("words", (2, 0), -1), "words must be at least 0"),
    (_arguments(ids=np.array(["a", "b", "a"])), "id 'a' occurs 2 times"),
    (_arguments(ids=np.array(["a", "b"])), "3 sentences but ids of shape"),
    (_arguments(keys=np.zeros(2)), "2 keys for 3 ids"),
    (_arguments(bucket_lengths=(2,)), "the last be at least the longest sentence's 3 tokens"),
    (_arguments(bucket_lengths=(8, 4)), "must ascend"),
    (_arguments(bucket_lengths=()), "must ascend"),
    (_arguments(labels=np.zeros((3, 5), np.int32)), r"labels must be int32 of shape \[N, n\] = \[3, 4\]"),
    (_arguments(labels=np.zeros((3, 4))), "labels must be int32 .* got float64"),
    (_arguments(labels=np.full((3, 4), -4, np.int32)), "labels are not 0 in the padding"),
    (_arguments((4, 4, 4), labels=np.full((3, 4), -4, np.int32)), "labels must be at least -3"),
  ],
)  # fmt: skip
def test_what_a_data_set_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    SequenceDataset(**arguments)


def test_keys_are_those_of_the_ids():
  from kd_jax.data.splits import hash_ids

  data = SequenceDataset(**_arguments())
  assert data.keys.dtype == np.uint32
  np.testing.assert_array_equal(data.keys, hash_ids(["s0", "s1", "s2"])[1])


# Vocabularies.

TAGGED = [
  TaggedSentence(("Paris", "and", "PARIS", "1906"), ("S-LOC", "O", "S-LOC", "O")),
  TaggedSentence(("Marie", "Curie", "and", "1911"), ("B-PER", "E-PER", "O", "O")),
]
PARSED = [
  ParsedSentence(
    ("It", "rained", "."), (2, 0, 2), ("expl", "root", "punct"), ("PRON", "VERB", "PUNCT")
  ),
  ParsedSentence(
    ("Snow", "fell", ","), (2, 0, 2), ("nsubj", "root", "punct"), ("NOUN", "VERB", ",")
  ),
]


def test_words_are_counted_after_normalisation():
  vocabulary = Vocabulary.build(TAGGED, min_count=2)
  assert vocabulary.words == ("0000", "and", "paris")
  assert vocabulary.num_words == 5
  exact = Vocabulary.build(TAGGED, min_count=1, lower_case=False, normalise_digits=False)
  assert exact.words == ("and", "1906", "1911", "Curie", "Marie", "PARIS", "Paris")
  data = vocabulary.encode(TAGGED, split="train")
  assert data.inputs.words[:, :4].tolist() == [[4, 3, 4, 2], [1, 1, 3, 2]]
  assert exact.encode(TAGGED, split="train").inputs.words[0, :4].tolist() == [8, 2, 7, 3]


def test_characters_keep_case_and_words_are_cut():
  vocabulary = Vocabulary.build(TAGGED, max_characters=3)
  assert set(vocabulary.characters) == set("ParandPAR190MarCurand191")
  characters = vocabulary.encode(TAGGED, split="train").inputs.characters
  assert characters.shape == (2, 8, 3)
  lookup = ["", "?", *vocabulary.characters]
  assert "".join(lookup[number] for number in characters[0, 2]) == "PAR"
  unknown = vocabulary.encode([TaggedSentence(("Pé",), ("O",))], split="test")
  assert "".join(lookup[number] for number in unknown.inputs.characters[0, 0]) == "P?"
  assert unknown.inputs.words[0, 0] == 1


def test_more_characters_than_a_byte_numbers():
  letters = [chr(0x4E00 + i) for i in range(300)]
  vocabulary = Vocabulary.build([TaggedSentence((c, c), ("O", "O")) for c in letters[::-1]])
  assert vocabulary.num_characters == 256
  data = vocabulary.encode([TaggedSentence((c,), ("O",)) for c in letters], split="test")
  numbers = data.inputs.characters[:, 0, 0]
  assert (numbers == 1).sum() == 300 - 254
  assert len(set(numbers)) == 255


def test_entities_of_unseen_types_are_errors_that_count_once():
  from kd_jax.metrics.spans import span_f1

  vocabulary = Vocabulary.build(TAGGED)
  assert vocabulary.labels == ("LOC", "PER")
  names = (
    "S-LOC",
    "S-GEO",
    "S-GEO",
    "B-GEO",
    "E-GEO",
    "B-GEO",
    "I-GEO",
    "E-GEO",
    "B-PER",
    "E-PER",
    "O",
  )
  data = vocabulary.encode([TaggedSentence(tuple("abcdefghijk"), names)], split="test")
  gold, mask = data.labels, data.inputs.mask
  assert gold[0, 0] == 1
  assert gold[0, 8:11].tolist() == [6, 8, 0]
  assert (gold[0, 1:8] < 0).all()
  predicted = np.where(gold < 0, 0, gold)
  correct, count = span_f1(predicted, gold, mask)["recall"]
  assert (float(correct), float(count)) == (2, 6)  # two S-, two longer ones, and two known


def test_relations_unseen_in_training():
  vocabulary = Vocabulary.build(PARSED[:1])
  data = vocabulary.encode(PARSED, split="test")
  assert data.labels.relations[1, :3].tolist() == [-1, 2, 1]
  assert vocabulary.labels == ("expl", "punct", "root")
  assert data.labels.punctuation[:, :3].tolist() == [[False, False, True]] * 2
  assert vocabulary.number_parsing_tags(data.labels, data.inputs.mask)[1, 0] == -1


def test_parsing_tags_say_where_the_head_is():
  splits = load_parsing("sample")
  vocabulary = splits.vocabulary
  assert len(set(vocabulary.parsing_tags)) == len(vocabulary.parsing_tags)
  for split in splits[:3]:
    tags = vocabulary.number_parsing_tags(split.labels, split.inputs.mask)
    assert tags.dtype == np.int32
    seen = set()
    for row, n in enumerate(split.lengths):
      for position in range(n):
        head, relation = split.labels.heads[row, position], split.labels.relations[row, position]
        pair = (head - (position + 1) if head else 0, relation)
        seen.add(pair)
        tag = tags[row, position]
        assert (
          pair == vocabulary.parsing_tags[tag] if tag >= 0 else pair not in vocabulary.parsing_tags
        )
    assert not tags[~split.inputs.mask].any()
    if split.split == "train":
      assert seen == set(vocabulary.parsing_tags)
  np.testing.assert_array_equal(
    vocabulary.offsets, [offset for offset, _ in vocabulary.parsing_tags]
  )
  np.testing.assert_array_equal(vocabulary.relations, [pair[1] for pair in vocabulary.parsing_tags])


def test_rare_parsing_tags_are_left_out_but_never_the_root():
  vocabulary = Vocabulary.build(PARSED, parsing_tag_min_count=2)
  names = {(offset, vocabulary.labels[relation]) for offset, relation in vocabulary.parsing_tags}
  assert names == {(0, "root"), (-1, "punct")}
  only_root = Vocabulary.build(PARSED, parsing_tag_min_count=3)
  assert [vocabulary.labels[relation] for relation in only_root.relations] == ["root"]


@pytest.mark.parametrize("load", [load_tagging, load_parsing])
def test_vocabularies_survive_json(load):
  vocabulary = load("sample").vocabulary
  data = json.loads(json.dumps(vocabulary.to_json()))
  assert data == vocabulary.to_json()
  again = Vocabulary.from_json(data)
  assert again == vocabulary
  assert again.digest == vocabulary.digest
  for change in (
    {"words": vocabulary.words[::-1]},
    {"max_characters": 5},
    {"lower_case": False},
    {"labels": (*vocabulary.labels, "x")},
  ):
    assert dataclasses.replace(vocabulary, **change).digest != vocabulary.digest


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"format": 2}, "not a vocabulary of format 1"),
    ({"extra": 1}, "missing or unknown: extra"),
    ({"words": ["a", "a"]}, "words repeat"),
    ({"labels": [1]}, "labels repeat or are no strings"),
    ({"task": "mixing"}, "unknown task"),
    ({"parsing_tags": [[0, 99]]}, "relations it has not"),
  ],
)
def test_damaged_vocabularies_are_refused(change, message):
  data = {**Vocabulary.build(PARSED).to_json(), **change}
  with pytest.raises(ValueError, match=message):
    Vocabulary.from_json(data)


def test_kinds_of_sentences_are_not_mixed():
  with pytest.raises(ValueError, match="sentences for tagging and parsing"):
    Vocabulary.build([*TAGGED, *PARSED])
  with pytest.raises(ValueError, match="sentences for nothing"):
    Vocabulary.build([])
  with pytest.raises(ValueError, match="a vocabulary for tagging encodes TaggedSentences"):
    Vocabulary.build(TAGGED).encode(PARSED, split="train")


def test_bucket_lengths_that_save_little_are_left_out():
  lengths = np.array([3] * 300 + [12] * 10 + [40] * 50)
  candidates = (8, 16, 32, 64)
  # 300 × 8 positions are worth a program, 10 × 16 are not; the last stays.
  assert worthwhile_lengths(lengths, candidates) == (8, 64)
  assert worthwhile_lengths(lengths, candidates, positions=1) == (8, 16, 64)
  assert worthwhile_lengths(lengths, candidates, positions=10**9) == (64,)
  assert worthwhile_lengths(lengths[:0], candidates) == (64,)
  # What is left out by one bucket counts for the next: 100 × 4 and then 110 × 8.
  mixed = np.array([3] * 100 + [7] * 10 + [15])
  assert worthwhile_lengths(mixed, (4, 8, 16), positions=800) == (8, 16)
