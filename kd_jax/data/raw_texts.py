"""Texts as they were read, before a tokenizer makes arrays of them."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kd_jax._sizes import is_whole
from kd_jax.data.splits import hash_ids
from kd_jax.data.texts import TextDataset, text_bucket_lengths
from kd_jax.data.tokenization import Tokenizer

_MOST_HELD_OUT = 1000
_SPLITS = ("train", "validation", "test")
_NOUNS = ("training", "validation", "test")


class RawTexts(NamedTuple):
  """Texts, or pairs of texts, of one split.

  Attributes:
    firsts: N texts.
    seconds: N texts that go with them, or None.
    labels: [N] int32 class numbers or float32 numbers.
    ids: [N] str, unique.
    labelled: [N] bool, which texts have labels; None if all have. The labels of the others are 0.
  """

  firsts: tuple[str, ...]
  seconds: tuple[str, ...] | None
  labels: np.ndarray
  ids: np.ndarray
  labelled: np.ndarray | None = None

  def take(self, rows: np.ndarray) -> "RawTexts":
    """Returns the texts of the given rows, in that order."""
    firsts = tuple(self.firsts[row] for row in rows)
    seconds = None if self.seconds is None else tuple(self.seconds[row] for row in rows)
    labelled = None if self.labelled is None else self.labelled[rows]
    if labelled is not None and labelled.all():
      labelled = None
    return RawTexts(firsts, seconds, self.labels[rows], self.ids[rows], labelled)

  def texts(self) -> Iterator[str]:
    """All texts, to train a tokenizer on."""
    yield from self.firsts
    yield from self.seconds or ()


class RawSplits(NamedTuple):
  """The three splits of a source as read, rows in the order of a hash of their ids.

  Attributes:
    name: of the source.
    version: of its prepared form.
    num_classes: C; 1 means regression.
    class_names: C names; none in regression.
    train: without what is held out.
    validation: held out from the training texts, or a file of its own.
    test: read once, at the end.
    notes: what a user should know, a line each.
  """

  name: str
  version: str
  num_classes: int
  class_names: tuple[str, ...]
  train: RawTexts
  validation: RawTexts
  test: RawTexts
  notes: tuple[str, ...] = ()


class TextSplits(NamedTuple):
  """The three splits of a source as arrays.

  Attributes:
    train: rows in the order of a hash of their ids, as in the other two.
    validation: held out from the training texts, or a file of its own.
    test: read once, at the end.
    notes: what a user should know, a line each: texts that were truncated or empty.
  """

  train: TextDataset
  validation: TextDataset
  test: TextDataset
  notes: tuple[str, ...]


def pairs(firsts: Sequence[str], seconds: Sequence[str] | None) -> list[tuple[str, str]]:
  """What examples say without their labels."""
  return list(zip(firsts, seconds or [""] * len(firsts), strict=True))


def text_ids(
  firsts: Sequence[str], seconds: Sequence[str] | None, labels: Sequence[str | float | None]
) -> np.ndarray:
  """Makes ids: a hash of texts and label, and a count of copies.

  Args:
    firsts: N texts.
    seconds: N texts that go with them, or None.
    labels: N names or numbers; None for texts without a label.

  Returns:
    [N] str, unique; copies of one example are told apart by ``-0``, ``-1``, … in their order,
    which is sound because they are identical.

  >>> [name[-2:] for name in text_ids(["Yes", "Yes"], None, ["true", "true"])]
  ['-0', '-1']
  """
  seen: dict[str, int] = {}
  ids = []
  others: Sequence[str | None] = seconds or [None] * len(firsts)
  for example in zip(firsts, others, labels, strict=True):
    digest = hashlib.sha256(json.dumps(example).encode()).hexdigest()[:32]
    seen[digest] = seen.get(digest, -1) + 1
    ids.append(f"{digest}-{seen[digest]}")
  return np.array(ids, str)


def make_splits(
  name: str,
  version: str,
  class_names: Sequence[str],
  train: RawTexts,
  validation: RawTexts | None,
  test: RawTexts,
  *,
  validation_examples: int | None = None,
  limit: int | None = None,
  notes: Sequence[str] = (),
) -> RawSplits:
  """Orders the rows, holds a validation split out where there is none, and limits the training rows.

  Rows are held out in the order of a hash of their ids: every run holds out the same, a larger
  number always contains a smaller one, and classes keep their shares but for chance.

  Args:
    name: of the source.
    version: of its prepared form.
    class_names: C names; none in regression.
    train: all training texts.
    validation: None has it held out.
    test: of the same columns.
    validation_examples: how many to hold out, 1 to the number of training texts less 1; None
      takes a tenth, at most 1,000.
    limit: at most so many training texts; None keeps all.
    notes: a line each.

  Returns:
    The splits.

  Raises:
    ValueError: sizes that cannot be.
  """
  if limit is not None and not is_whole(limit):
    raise ValueError(f"limit={limit} must be at least 1, or None for all training texts")
  train, test = in_hash_order(train), in_hash_order(test)
  if validation is None:
    size = len(train.ids)
    count = validation_examples
    count = min(-(-size // 10), _MOST_HELD_OUT) if count is None else count
    if not is_whole(count) or count >= size:
      raise ValueError(
        f"validation_examples={count} must be at least 1 and below the {size} training texts of {name}"
      )
    validation, train = train.take(np.arange(count)), train.take(np.arange(count, size))
    known = set(pairs(train.firsts, train.seconds))
    repeated = sum(pair in known for pair in pairs(validation.firsts, validation.seconds))
    if repeated:
      notes = [
        *notes,
        f"{repeated:,} of the {count:,} texts held out of {name} are among its other training texts too",
      ]
  else:
    validation = in_hash_order(validation)
  train = train.take(np.arange(len(train.ids))[:limit])
  class_names = tuple(class_names)
  num_classes = max(len(class_names), 1)
  return RawSplits(name, version, num_classes, class_names, train, validation, test, tuple(notes))


def tokenize(raw: RawSplits, tokenizer: Tokenizer) -> TextSplits:
  """Makes arrays of texts.

  An over-long text is truncated to `tokenizer.max_length`; an empty one becomes its special tokens
  alone. Both are counted in the notes, and so are unknown subwords of the training texts, if they are
  over a twentieth.

  Args:
    raw: what was read.
    tokenizer: of the teacher, or trained on `raw.train.texts()`.

  Returns:
    The splits; all have the same bucket lengths.

  >>> from kd_jax.data.text_files import read_sample
  >>> raw = read_sample()
  >>> splits = tokenize(raw, Tokenizer.train(raw.train.texts(), max_length=8))
  >>> splits.train.inputs.ids.shape[1], splits.train.class_names
  (8, ('bad', 'good'))
  """
  datasets, notes = [], [*raw.notes, *tokenizer.notes]
  for split, noun in zip(_SPLITS, _NOUNS, strict=True):
    texts: RawTexts = getattr(raw, split)
    encoded = tokenizer.encode(texts.firsts, texts.seconds)
    count = f"of {len(texts.ids):,} {noun} texts"
    if encoded.truncated:
      notes.append(f"truncated {encoded.truncated:,} {count} to {tokenizer.max_length} subwords")
    if encoded.empty:
      notes.append(f"{encoded.empty:,} {count} are empty: special tokens alone stand for them")
    read = encoded.subwords.ids[encoded.subwords.mask]
    unknown = int((read == tokenizer.unknown_id).sum()) if tokenizer.unknown_id is not None else 0
    if split == "train" and unknown * 20 > len(read):
      notes.append(
        f"{unknown:,} of {len(read):,} subwords of the {noun} texts are unknown: is the tokenizer of their "
        "language, and do its capitals fit?"
      )
    datasets.append(
      TextDataset(
        raw.name,
        raw.version,
        split,
        encoded.subwords,
        texts.labels,
        texts.ids,
        raw.num_classes,
        raw.class_names,
        bucket_lengths=text_bucket_lengths(tokenizer.max_length),
        pad_id=tokenizer.pad_id,
        labelled=texts.labelled,
      )
    )
  train, validation, test = datasets
  return TextSplits(train, validation, test, tuple(notes))


def in_hash_order(texts: RawTexts) -> RawTexts:
  """The texts in the order of a hash of their ids: the same in every run."""
  return texts.take(np.lexsort((texts.ids, hash_ids(texts.ids)[0])))
