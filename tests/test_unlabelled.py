"""Training examples without labels: which they are, and where they come from."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.command_line.options import configs
from experiments.domains import images
from kd_jax.data import Dataset, load_parsing, load_tagging, read_sample, tokenize
from kd_jax.data.columns import read_columns
from kd_jax.data.conllu import read_conllu
from kd_jax.data.labelled import choose_labelled, hide_labels, labelled_part, num_labelled
from kd_jax.data.sentences import in_hash_order
from kd_jax.data.splits import hash_ids
from kd_jax.data.text_files import read_text_files
from kd_jax.data.tokenization import Tokenizer
from kd_jax.data.unlabelled_texts import add_unlabelled_texts, hide_text_labels
from kd_jax.data.vocabulary import Vocabulary
from tests import training
from tests.conftest import ROOT
from tests.training import sentences, texts

CONFIGS = configs()
SAMPLES = ROOT / "kd_jax" / "data" / "samples"
IMAGES, TAGS = training.dataset(24), sentences.dataset()
TREES, TEXTS = sentences.dataset(trees=True), texts.dataset()
NUMBERS = texts.dataset(regression=True)
IDS_IN_ORDER = np.array([f"id {i}" for i in range(150)])
IDS_IN_ORDER = IDS_IN_ORDER[np.argsort(hash_ids(IDS_IN_ORDER)[0])]
KINDS = {"images": IMAGES, "tags": TAGS, "trees": TREES, "texts": TEXTS, "numbers": NUMBERS}


def every_other(data):
  return np.arange(len(data)) % 2 == 0


def marked(data, labelled):
  return dataclasses.replace(data, labelled=labelled)


# Which examples.


def test_students_see_a_part_of_the_teachers_images_and_hide_labels_in_it(data_dir):
  study = dataclasses.replace(CONFIGS["digits"], student_limit=60, unlabelled_share=0.5)
  data = images.open_images(study, data_dir).data
  assert (len(data.train), num_labelled(data.train)) == (60, 30)
  # Chosen by their labels before these are hidden: six of each class, as without a share.
  plain = images.open_images(dataclasses.replace(study, unlabelled_share=0.0), data_dir).data
  np.testing.assert_array_equal(np.bincount(plain.train.labels), [6] * 10)
  np.testing.assert_array_equal(data.train.ids, plain.train.ids)
  # What students do not know, the teacher does not know either.
  hidden = data.train.ids[~data.train.labelled]
  taught = labelled_part(data.teacher_train).ids
  assert set(taught) == set(plain.teacher_train.ids) - set(hidden)
  for one in (data, plain):
    assert images.fingerprint(one.source, data_dir) == one.train.fingerprint
    of_teacher = images.fingerprint(one.source | {"of": "teacher"}, data_dir)
    assert of_teacher == one.teacher_train.fingerprint


def test_a_smaller_share_keeps_the_labels_of_a_larger_one():
  ids = np.array([f"id {i}" for i in range(40)])
  kept = [choose_labelled(ids, share) for share in (0.9, 0.5, 0.26, 0.01)]
  assert [mask.sum() for mask in kept[:3]] == [4, 20, 30]
  assert kept[3] is None  # less than half an example
  assert choose_labelled(ids, 0.0) is None
  assert not (kept[0] & ~kept[1]).any()
  assert not (kept[1] & ~kept[2]).any()


def test_the_choice_does_not_follow_the_order_of_the_rows():
  """Rows are in the order of hashes that hold out a split by class: their first half is of few classes."""
  rows = np.flatnonzero(choose_labelled(IDS_IN_ORDER, 0.5))
  assert 30 < (rows < 50).sum() + (rows >= 100).sum() < 70


def test_the_choice_follows_from_the_ids_and_not_from_their_order():
  ids = np.array([f"id {i}" for i in range(40)])
  rows = np.random.default_rng(0).permutation(40)
  np.testing.assert_array_equal(choose_labelled(ids[rows], 0.3), choose_labelled(ids, 0.3)[rows])


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share):
  with pytest.raises(ValueError, match=r"unlabelled_share must be at least 0 and below 1, got"):
    choose_labelled(np.array(["a", "b"]), share)


def test_what_leaves_too_few_labels_is_refused_with_both_numbers():
  with pytest.raises(ValueError, match="leaves 0 labelled examples of 24"):
    hide_labels(IMAGES, 0.99)
  with pytest.raises(ValueError, match=r"the 1 labelled of 24 .* are of 1 of the 3 classes"):
    hide_labels(IMAGES, 0.96)
  with pytest.raises(ValueError, match="are of 1 of the 2 classes"):
    hide_text_labels(read_sample(), 0.994)


# What data sets make of it.


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_unlabelled_examples_are_erased(kind):
  data = KINDS[kind]
  labelled = every_other(data)
  hidden = marked(data, labelled)
  for array, before in zip(
    jax.tree.leaves(hidden.labels), jax.tree.leaves(data.labels), strict=True
  ):
    assert not array[~labelled].any()
    np.testing.assert_array_equal(array[labelled], before[labelled])
  assert num_labelled(hidden) == labelled.sum()
  for bucket in hidden.buckets:
    np.testing.assert_array_equal(bucket.labelled, labelled[bucket.rows])
  # The labelled part is the data set that one would have without the others.
  part, alone = labelled_part(hidden), data.take(labelled)
  assert part.labelled is None
  assert part.fingerprint == alone.fingerprint
  assert hidden.take(np.arange(len(data))[::-1]).labelled.tolist() == labelled[::-1].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_depends_on_the_mask_only_if_something_is_unlabelled(kind):
  data = KINDS[kind]
  one, other = (np.arange(len(data)) != row for row in (0, 1))
  found = {marked(data, mask).fingerprint for mask in (one, other)} | {data.fingerprint}
  assert len(found) == 3
  whole = marked(data, np.ones(len(data), bool))
  assert whole.labelled is None
  assert whole.fingerprint == data.fingerprint
  assert all(bucket.labelled is None for bucket in whole.buckets)


def test_an_unlabelled_image_with_the_labels_of_0_is_another_data_set():
  zeros = dataclasses.replace(IMAGES, labels=np.zeros(24, int))
  assert marked(zeros, every_other(IMAGES)).fingerprint != zeros.fingerprint


@pytest.mark.parametrize("mask", [np.ones(23, bool), np.ones(24), "labels"])
def test_another_mask_is_refused(mask):
  with pytest.raises(ValueError, match=r"`labelled` must be bool of shape \[24\], got"):
    marked(IMAGES, mask)


def test_arrays_of_ones_own_need_no_label_where_there_is_none():
  images, labels = IMAGES.images, IMAGES.labels.copy()
  labelled = every_other(IMAGES)
  made = []
  for nothing in (-1, 99):
    labels[~labelled] = nothing
    made.append(Dataset.from_arrays(images, labels, num_classes=3, labelled=labelled))
  assert made[0].fingerprint == made[1].fingerprint
  np.testing.assert_array_equal(made[0].labels[labelled], IMAGES.labels[labelled])


# Texts.


def write(path, *lines):
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return path


def test_texts_of_all_kinds_of_files_are_added_without_labels(tmp_path):
  raw = read_sample(limit=20)
  copies = [getattr(raw, split).firsts[0] for split in ("train", "validation", "test")]
  files = [
    write(tmp_path / "a.csv", "label,text", *(f'bad,"{t}"' for t in ["one, two", *copies])),
    write(tmp_path / "b.jsonl", '{"text": "three"}', "", '{"text": "four"}'),
    write(tmp_path / "c.txt", "five, as it is", "", "  ", 'six "quoted"'),
    write(tmp_path / "d.tsv", "n\ttext", "1\tseven"),
  ]
  found = add_unlabelled_texts(raw, files, label_column="label")
  added = [t for t, has in zip(found.train.firsts, found.train.labelled, strict=True) if not has]
  expected = ["one, two", "three", "four", "five, as it is", 'six "quoted"', "seven"]
  assert sorted(added) == sorted(expected)
  assert not found.train.labels[~found.train.labelled].any()
  assert labelled_part(found.train).ids.tolist() == raw.train.ids.tolist()
  assert found.notes[-4:] == (
    "1 unlabelled text from a.csv; left out copies of texts: 1 of test, 1 of train, 1 of validation; its "
    "column 'label' is not read",
    "2 unlabelled texts from b.jsonl",
    "2 unlabelled texts from c.txt",
    "1 unlabelled text from d.tsv",
  )
  again = add_unlabelled_texts(raw, files[::-1], label_column="label")
  assert again.train.ids.tolist() == found.train.ids.tolist()  # in the order of hashes
  splits = tokenize(found, Tokenizer.train(raw.train.texts(), max_length=16))
  np.testing.assert_array_equal(splits.train.labelled, found.train.labelled)
  assert splits.validation.labelled is None


def test_hidden_and_added_texts_go_together(tmp_path):
  raw = hide_text_labels(read_sample(limit=20), 0.5)
  hidden = dict(zip(raw.train.ids, raw.train.labelled, strict=True))
  found = add_unlabelled_texts(raw, [write(tmp_path / "c.txt", "new")])
  assert len(found.train.ids) == 21
  for name, has in zip(found.train.ids, found.train.labelled, strict=True):
    assert has == hidden.get(name, False)


def test_pairs_and_numbers(tmp_path):
  rows = [f"a{i},b{i},{i}.5" for i in range(6)]
  train, test = (write(tmp_path / f"{n}.csv", "s,t,label", *rows) for n in ("train", "test"))
  columns = {"text_column": "s", "pair_column": "t"}
  raw = read_text_files([train, test], **columns, regression=True, validation_examples=1)
  more = write(tmp_path / "more.csv", "t,s", "b1,a2", "b2,a2")
  found = add_unlabelled_texts(raw, [more], **columns)
  (row,) = np.flatnonzero(~found.train.labelled)
  assert (found.train.firsts[row], found.train.seconds[row]) == ("a2", "b1")
  assert found.train.labels.dtype == np.float32
  with pytest.raises(ValueError, match=r"1 of 6 examples have no label already"):
    hide_text_labels(found, 0.5)
  with pytest.raises(ValueError, match=r"has pairs, the unlabelled files would give single texts"):
    add_unlabelled_texts(raw, [more], text_column="s")
  with pytest.raises(ValueError, match=r"has single texts, .* would give pairs"):
    add_unlabelled_texts(read_sample(), [more], **columns)
  with pytest.raises(ValueError, match="one text a line; write pairs as"):
    add_unlabelled_texts(raw, [write(tmp_path / "more.txt", "a")], **columns)


@pytest.mark.parametrize(
  ("name", "lines", "message"),
  [
    ("a.csv", ["text,n", "one,1", "two"], r"a.csv:3: 1 field, but the header has 2"),
    ("a.csv", ["words", "one"], r"a.csv has no column 'text'; its columns are words"),
    ("a.jsonl", ['{"text": "one"}', "{"], r"a.jsonl:2: no JSON"),
    ("a.txt", ["", " "], "there are no texts in .*a.txt"),
    ("a.pdf", ["one"], "cannot tell what .*a.pdf is"),
  ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path, name, lines, message):
  with pytest.raises(ValueError, match=message):
    add_unlabelled_texts(read_sample(), [write(tmp_path / name, *lines)])


def test_files_of_copies_alone_are_refused(tmp_path):
  raw = read_sample()
  with pytest.raises(
    ValueError, match=r"hold no new text: 0 unlabelled texts from a\.txt; left out"
  ):
    add_unlabelled_texts(raw, [write(tmp_path / "a.txt", raw.test.firsts[0])])


# Sentences.


def word_sets(data, vocabulary):
  """The words of each sentence without a label, unknown ones as 1."""
  return sorted(
    tuple(data.inputs.words[row][data.inputs.mask[row]].tolist())
    for row in np.flatnonzero(~data.labelled)
  )


def test_sentences_of_all_kinds_of_files_are_added_without_labels(tmp_path):
  plain = load_tagging("sample", limit=20)
  files = [
    write(
      tmp_path / "a.conll", "# a comment", "In IN O", "Rome NNP B-NEW", "", "# 1 B-NEW", "two X O"
    ),
    write(tmp_path / "b.tokens", "In", "", "Rome", "left"),
    write(tmp_path / "c.txt", "He left Rome .", "", "In In In"),
    write(
      tmp_path / "d.conllu",
      *("\t".join([n, w, *["_"] * 8]) for n, w in (("1-2", "Inrome"), ("1", "In"), ("2", "Rome"))),
    ),
  ]
  found = load_tagging("sample", limit=20, unlabelled=files)
  assert len(found.train) == 27
  assert found.vocabulary == plain.vocabulary
  assert labelled_part(found.train).ids.tolist() == plain.train.ids.tolist()
  assert not found.train.labels[~found.train.labelled].any()
  lengths = sorted(found.train.lengths[~found.train.labelled].tolist())
  assert lengths == [1, 2, 2, 2, 2, 3, 4]
  assert found.notes == (
    "2 unlabelled sentences from a.conll; only its words are read",
    "2 unlabelled sentences from b.tokens; only its words are read",
    "2 unlabelled sentences from c.txt",
    "1 unlabelled sentence from d.conllu; only its words are read",
  )
  for split in ("validation", "test"):
    assert getattr(found, split).fingerprint == getattr(plain, split).fingerprint


@pytest.mark.parametrize("task", ["tagging", "parsing"])
def test_a_share_of_the_sentences_keeps_only_its_words(task):
  load, read, suffix = {
    "tagging": (load_tagging, read_columns, "conll"),
    "parsing": (load_parsing, read_conllu, "conllu"),
  }[task]
  plain, found = load("sample", limit=20), load("sample", limit=20, unlabelled_share=0.4)
  assert found.train.ids.tolist() == plain.train.ids.tolist()
  np.testing.assert_array_equal(found.train.lengths, plain.train.lengths)
  labelled = found.train.labelled
  assert labelled.sum() == 12
  # The labelled part is what the other sentences had no part in, the vocabulary included.
  sentences, _ = in_hash_order(read(SAMPLES / f"{task}-train.{suffix}").sentences)
  kept = [sentence for sentence, has in zip(sentences[:20], labelled, strict=True) if has]
  vocabulary = Vocabulary.build(kept)
  assert found.vocabulary == vocabulary != plain.vocabulary
  alone = vocabulary.encode(kept, split="train")
  assert labelled_part(found.train).fingerprint == alone.fingerprint


def test_copies_of_known_sentences_are_left_out_and_malformed_ones_named(tmp_path):
  copies = write(tmp_path / "a.txt", "Zz yy xx", "")
  known = load_parsing("sample", limit=5, unlabelled=[copies])
  assert known.notes == ("1 unlabelled sentence from a.txt",)
  broken = write(tmp_path / "b.conllu", "1\tIn\t_", "", "\t".join(["1", "Rome", *["_"] * 8]))
  with pytest.raises(ValueError, match=r"b.conllu:1: expected 10 columns divided by tabs, got 3"):
    load_parsing("sample", unlabelled=[broken])
  found = load_parsing("sample", limit=5, unlabelled=[broken], skip_malformed=True)
  assert len(found.train) == 6
  assert [problem.line for problem in found.problems] == [1]
