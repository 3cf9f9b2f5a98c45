"""Texts as arrays: checks, buckets, fingerprints, features; hold-out and notes before that."""

import dataclasses

import numpy as np
import pytest

from kd_jax.data.raw_texts import RawTexts, make_splits, text_ids, tokenize
from kd_jax.data.splits import hash_ids
from kd_jax.data.texts import TextDataset, text_bucket_lengths
from kd_jax.data.tokenization import Tokenizer
from kd_jax.types import Subwords


def _arguments(lengths=(3, 20, 17, 33), width=40, pad_id=0, **changes):
  """Random arrays of the given lengths."""
  random = np.random.default_rng(0)
  mask = np.arange(width) < np.array(lengths)[:, None]
  drawn = random.integers(5, 50, (2, len(lengths), 64))[..., :width]
  ids = np.where(mask, drawn[0], pad_id).astype(np.int32)
  types = (drawn[1] % 2 * mask).astype(np.int32)
  given = {
    "name": "made up",
    "version": "1",
    "split": "train",
    "inputs": Subwords(ids, types, mask),
    "labels": np.arange(len(lengths)) % 3,
    "ids": np.array([f"t{row}" for row in range(len(lengths))]),
    "num_classes": 3,
    "class_names": ("a", "b", "c"),
    "pad_id": pad_id,
  }
  return given | changes


def _numbers(**changes):
  labels = np.array([0.0, 2.5, 5.0, -1.0])
  return _arguments(labels=labels, num_classes=1, class_names=(), **changes)


def test_default_bucket_lengths():
  assert text_bucket_lengths(128) == (16, 32, 64, 128)
  assert text_bucket_lengths(100) == (16, 32, 64, 100)
  assert text_bucket_lengths(7) == (7,)
  assert text_bucket_lengths(1000) == (16, 32, 64, 128, 256, 512, 1000)


@pytest.mark.parametrize("pad_id", [0, 1])
@pytest.mark.parametrize(("lengths", "width"), [(None, 40), ((20, 33), 33), ((16, 32, 64), 33)])
def test_buckets_hold_each_row_once(lengths, width, pad_id):
  given = _arguments(width=width, pad_id=pad_id, bucket_lengths=lengths)
  data = TextDataset(**given)
  used = {None: (16, 32, 33), (20, 33): (20, 33), (16, 32, 64): (16, 32, 64)}[lengths]
  wanted = {used[0]: [0], used[1]: [1, 2], used[-1]: [3]}
  if lengths == (20, 33):
    wanted = {20: [0, 1, 2], 33: [3]}
  assert {bucket.length: bucket.rows.tolist() for bucket in data.buckets} == wanted
  for bucket in data.buckets:
    np.testing.assert_array_equal(bucket.labels, data.labels[bucket.rows])
    np.testing.assert_array_equal(bucket.keys, data.keys[bucket.rows])
    assert isinstance(bucket.inputs, Subwords)
    for field, ours, original in zip(Subwords._fields, bucket.inputs, given["inputs"], strict=True):
      assert ours.shape == (len(bucket.rows), bucket.length)
      for mine, row in zip(ours, bucket.rows, strict=True):
        n = data.lengths[row]
        np.testing.assert_array_equal(mine[:n], original[row, :n])
        assert (mine[n:] == (pad_id if field == "ids" else 0)).all()


def test_columns_beyond_the_longest_bucket_go():
  data = TextDataset(**_arguments(bucket_lengths=(16, 32, 36, 128)))
  assert data.inputs.ids.shape == data.inputs.mask.shape == (4, 36)
  assert data.lengths.tolist() == [3, 20, 17, 33]
  assert data.take(np.array([0])).inputs.ids.shape == (1, 16)
  assert data.take(np.array([0])).bucket_lengths == (16, 32, 36, 128)


def test_types_and_keys():
  data = TextDataset(**_arguments())
  assert (data.labels.dtype, data.keys.dtype, len(data)) == (np.int32, np.uint32, 4)
  np.testing.assert_array_equal(data.keys, hash_ids(data.ids)[1])
  numbers = TextDataset(**_numbers())
  assert numbers.labels.dtype == np.float32
  assert numbers.labels.tolist() == [0.0, 2.5, 5.0, -1.0]


@pytest.mark.parametrize("rows", [np.array([2, 0]), np.array([True, False, True, False])])
def test_take_keeps_rows_together(rows):
  data = TextDataset(**_arguments())
  taken = data.take(rows)
  n = taken.inputs.ids.shape[1]
  for ours, original in zip(taken.inputs, data.inputs, strict=True):
    np.testing.assert_array_equal(ours, original[rows, :n])
  for field in ("labels", "ids", "keys", "lengths"):
    np.testing.assert_array_equal(getattr(taken, field), getattr(data, field)[rows])
  assert taken.class_names == ("a", "b", "c")


def test_features_are_one_bucket_of_the_same_examples():
  data = TextDataset(**_arguments())
  features = (np.random.default_rng(1).normal(size=(4, 6, 5)).astype(np.float32), np.ones((4, 2)))
  other = data.with_inputs(features)
  (bucket,) = other.buckets
  assert bucket.length is None
  assert other.lengths is None
  assert bucket.rows.tolist() == [0, 1, 2, 3]
  np.testing.assert_array_equal(bucket.inputs[0], features[0])
  np.testing.assert_array_equal(bucket.labels, data.labels)
  np.testing.assert_array_equal(other.keys, data.keys)
  np.testing.assert_array_equal(other.take(np.array([3, 1])).inputs[0], features[0][[3, 1]])
  assert other.with_inputs(data.inputs).fingerprint == data.fingerprint != other.fingerprint
  assert data.with_inputs(features[0]).fingerprint != other.fingerprint
  features[0][2, 0, 0] = np.nan
  with pytest.raises(ValueError, match="features of row 2 are not finite"):
    data.with_inputs(features)
  with pytest.raises(ValueError, match=r"shape \(3, 2\) has not one row per id"):
    data.with_inputs(np.ones((3, 2)))
  with pytest.raises(ValueError, match="no arrays among the inputs"):
    data.with_inputs(())


def test_the_fingerprint_depends_on_content_alone():
  data = TextDataset(**_arguments())
  same = [
    TextDataset(**_arguments(width=64)),
    TextDataset(**_arguments(bucket_lengths=(64,))),
    TextDataset(**_arguments(pad_id=1)),
    dataclasses.replace(data, split="test"),
  ]
  assert {one.fingerprint for one in same} == {data.fingerprint}
  changed = _arguments()["inputs"]
  other = changed.ids.copy()
  other[1, 4] += 1
  types = changed.types.copy()
  types[1, 4] ^= 1
  short = [np.where(np.arange(40) < np.array([3, 20, 17, 32])[:, None], a, 0) for a in changed]
  short[2] = short[2].astype(bool)
  different = [
    _arguments(inputs=changed._replace(ids=other)),
    _arguments(inputs=changed._replace(types=types)),
    _arguments(
      inputs=Subwords(*(array.astype(old.dtype) for array, old in zip(short, changed, strict=True)))
    ),
    _arguments(labels=np.array([0, 1, 2, 1])),
    _arguments(ids=np.array(["t0", "t1", "t2", "t4"])),
    _arguments(class_names=("a", "b", "d")),
    _arguments(num_classes=4, class_names=("a", "b", "c", "d")),
    _numbers(),
    _numbers() | {"labels": np.array([0.0, 2.5, 5.0, -1.5])},
  ]
  prints = {data.fingerprint, data.take(np.array([0, 1, 3, 2])).fingerprint}
  assert len(prints | {TextDataset(**one).fingerprint for one in different}) == len(different) + 2


def _inputs(**changes):
  """Inputs with one element of an array changed."""
  inputs = _arguments()["inputs"]._asdict()
  for field, (place, value) in changes.items():
    inputs[field] = inputs[field].copy()
    inputs[field][place] = value
  return Subwords(**inputs)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (
      _arguments(inputs=_inputs(mask=((0, slice(None)), False))),
      "row 0 has no subwords, or padding",
    ),
    (_arguments(inputs=_inputs(mask=((1, 4), False))), "row 1 has no subwords, or padding before"),
    (_arguments(inputs=_inputs(ids=((0, 5), 7))), "padding has other ids than pad_id=0"),
    (_arguments() | {"pad_id": 1}, "padding has other ids than pad_id=1"),
    (_arguments(inputs=_inputs(types=((0, 5), 1))), "or types other than 0"),
    (_arguments(inputs=_inputs(ids=((0, 1), -7))), "an id or a type is negative"),
    (_arguments(ids=np.array(["t"] * 4)), "id 't' occurs 4 times"),
    (_arguments(ids=np.array(["t0"])), r"ids of shape \(1,\)"),
    (_arguments(labels=np.array([0, 1, 2])), r"labels of shape \(3,\)"),
    (
      _arguments(labels=np.zeros((4, 2), int)),
      r"must be \[N\], got \(4, 2\): take labels.argmax\(1\)",
    ),
    (_arguments(labels=np.array([0, 1, 2, 3])), r"run from 0 to 3, outside \[0, 3\)"),
    (_arguments(labels=np.array([0, 1, 2, -1])), r"run from -1 to 2, outside \[0, 3\)"),
    (_arguments(labels=np.array([0.0, 1, 2, 1])), "labels must be integers, got float64"),
    (_arguments(class_names=("a", "b")), "2 class names for num_classes=3"),
    (_arguments(num_classes=1), "3 class names for num_classes=1"),
    (_arguments(num_classes=0, class_names=()), "0 class names for num_classes=0"),
    (_numbers() | {"labels": np.array([0, 1, np.nan, 3])}, "the label of row 2 is nan"),
    (_numbers() | {"labels": np.array([0, 1, 2, 1e60])}, "the label of row 3 is inf"),
    (_arguments(bucket_lengths=(16, 32)), r"bucket lengths \(16, 32\) must ascend .* 33 subwords"),
    (_arguments(bucket_lengths=(40, 36)), "must ascend"),
    (_arguments(bucket_lengths=()), "must ascend"),
    (_arguments(keys=np.zeros(3)), "3 keys for 4 ids"),
    (_arguments(inputs=np.ones((4, 2)), bucket_lengths=(8,)), "features have no lengths"),
  ],
)
def test_what_does_not_fit_is_refused(given, message):
  with pytest.raises(ValueError, match=f"^(labels of )?made up train.*{message}") as caught:
    TextDataset(**given)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", Subwords._fields)
def test_arrays_of_another_type_or_shape_are_refused(field):
  inputs = _arguments()["inputs"]
  for wrong in (getattr(inputs, field).astype(np.int64), getattr(inputs, field)[:, :-1]):
    with pytest.raises(ValueError, match=r"must be \w+ of shape \[N, n\] = .*pad all arrays"):
      TextDataset(**_arguments(inputs=inputs._replace(**{field: wrong})))


# Before a tokenizer makes arrays of them.

WORDS = ["soup", "tea", "bread", "garden", "lamp", "walk", "song", "room"]


def _raw(count, split, pairs=False):
  texts = tuple(f"{split} {WORDS[row % 8]} {row}" for row in range(count))
  labels = (np.arange(count) % 2).astype(np.int32)
  ids = np.array([f"{split}-{row}" for row in range(count)])
  return RawTexts(texts, texts[::-1] if pairs else None, labels, ids)


def _splits(train=40, validation=None, **options):
  return make_splits(
    "x", "1", ("no", "yes"), _raw(train, "train"), validation, _raw(9, "test"), **options
  )


def test_hold_out_hangs_on_ids_alone():
  raw = _splits(validation_examples=10)
  assert (len(raw.train.ids), len(raw.validation.ids), len(raw.test.ids)) == (30, 10, 9)
  assert not set(raw.train.ids) & set(raw.validation.ids)
  assert set(raw.train.ids) | set(raw.validation.ids) == set(_raw(40, "train").ids)
  backwards = _raw(40, "train").take(np.arange(40)[::-1])
  again = make_splits(
    "x", "1", ("no", "yes"), backwards, None, _raw(9, "test"), validation_examples=10
  )
  assert again.train.ids.tolist() == raw.train.ids.tolist()
  assert again.validation.firsts == raw.validation.firsts
  assert set(_splits(validation_examples=20).validation.ids) > set(raw.validation.ids)
  everything = np.concatenate([raw.validation.ids, raw.train.ids])
  assert everything.tolist() == sorted(everything, key=lambda one: hash_ids([one])[0][0])
  for texts in raw[4:7]:  # texts and labels stay with their ids
    for text, label, one in zip(texts.firsts, texts.labels, texts.ids, strict=True):
      split, row = one.split("-")
      assert text == f"{split} {WORDS[int(row) % 8]} {row}"
      assert label == int(row) % 2


def test_sizes():
  assert len(_splits().validation.ids) == 4  # a tenth
  assert len(_splits(15).validation.ids) == 2
  assert len(_splits(12_000).validation.ids) == 1000
  raw = _splits(validation_examples=10)
  limited = _splits(validation_examples=10, limit=7)
  assert limited.train.ids.tolist() == raw.train.ids[:7].tolist()
  assert limited.validation.ids.tolist() == raw.validation.ids.tolist()
  assert len(_splits(limit=999).train.ids) == 36
  given = _splits(validation=_raw(5, "validation"), validation_examples=10)
  assert (len(given.train.ids), len(given.validation.ids)) == (40, 5)
  for wrong in (0, 40, -1):
    with pytest.raises(
      ValueError, match=f"^validation_examples={wrong} must be .* below the 40 training"
    ):
      _splits(validation_examples=wrong)
  with pytest.raises(ValueError, match=r"^limit=0 must be at least 1"):
    _splits(limit=0)
  with pytest.raises(ValueError, match=r"must be at least 1 and below the 1 training texts of x$"):
    _splits(1)


def test_ids_are_hashes_of_content():
  ids = text_ids(["a", "b", "a", "a"], None, ["x", "x", "x", "y"])
  assert len(set(ids)) == 4
  assert ids[2] == ids[0][:-1] + "1"
  assert text_ids(["a"], None, ["x"])[0] == ids[0]
  others = [(["a"], [""], ["x"]), (["a"], ["a"], ["x"]), (["a"], None, [1.0]), (["ax"], None, [""])]
  assert len({ids[0], *(text_ids(*one)[0] for one in others)}) == 5


def test_tokenize_notes_many_unknown_subwords_and_what_the_tokenizer_notes(tmp_path):
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Tea", "soup"]
  (tmp_path / "vocab.txt").write_text("\n".join(words))
  texts = RawTexts(("Tea", "soup soup"), None, np.array([0, 1], np.int32), np.array(["a", "b"]))
  raw = make_splits("x", "1", ("no", "yes"), texts, texts, texts)
  tokenizer = Tokenizer.from_folder(tmp_path)
  assert tokenize(raw, tokenizer).notes == (
    *tokenizer.notes,
    "1 of 7 subwords of the training texts are unknown: "
    "is the tokenizer of their language, and do its capitals fit?",
  )


@pytest.mark.parametrize("pairs", [False, True])
def test_tokenize_says_what_it_cut_and_what_was_empty(pairs):
  train = _raw(40, "train", pairs)
  train = train._replace(firsts=("soup " * 90, "", " ", "tea " * 60, *train.firsts[4:]))
  raw = make_splits(
    "x", "1", ("no", "yes"), train, _raw(4, "dev", pairs), _raw(9, "test", pairs), notes=["first"]
  )
  tokenizer = Tokenizer.train(raw.train.texts(), max_length=40)
  assert sorted(raw.train.texts()) == sorted([*train.firsts, *(train.seconds or ())])
  splits = tokenize(raw, tokenizer)
  assert splits.notes == (
    "first",
    "truncated 2 of 40 training texts to 40 subwords",
    "2 of 40 training texts are empty: special tokens alone stand for them",
  )
  assert splits.train.lengths.max() == 40
  for split, texts, data in zip(("train", "validation", "test"), raw[4:7], splits[:3], strict=True):
    assert (data.name, data.version, data.split) == ("x", "1", split)
    assert (data.num_classes, data.class_names) == (2, ("no", "yes"))
    assert data.bucket_lengths == (16, 32, 40)
    assert data.ids.tolist() == texts.ids.tolist()
    assert data.labels.tolist() == texts.labels.tolist()
    encoded = tokenizer.encode(texts.firsts, texts.seconds).subwords
    assert data.lengths.tolist() == encoded.mask.sum(axis=1).tolist()
    np.testing.assert_array_equal(data.inputs.ids[data.inputs.mask], encoded.ids[encoded.mask])
    assert bool(data.inputs.types.any()) == pairs
