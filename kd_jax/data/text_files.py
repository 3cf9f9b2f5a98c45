"""Texts with labels from CSV, TSV and JSON Lines files, and a small built-in sample."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd_jax._text_files import look_alike_notes, plain_form
from kd_jax.data.raw_texts import (
  RawSplits,
  RawTexts,
  TextSplits,
  make_splits,
  pairs,
  text_ids,
  tokenize,
)
from kd_jax.data.text_rows import Table, number_notes, read_table, shown
from kd_jax.data.tokenization import Tokenizer

_SAMPLES = Path(__file__).parent / "samples"
_INTEGER = re.compile(r"[+-]?\d{1,18}")


def read_text_files(
  files: Sequence[str | Path],
  *,
  text_column: str = "text",
  pair_column: str | None = None,
  label_column: str = "label",
  regression: bool = False,
  validation_examples: int | None = None,
  limit: int | None = None,
) -> RawSplits:
  """Reads texts, or pairs of texts, and their labels.

  The ending of its name says what a file is, in UTF-8: .csv has commas between columns and quotes
  around texts that hold one; .tsv has tabs, and quotes are ordinary characters; .jsonl or .json
  has one object a line. CSV and TSV begin with the names of their columns. Blank lines are skipped.
  A blank text is no error (see `Tokenizer`); one that is missing is.

  Classes are the labels of the training file, in alphabetical order, or in that of the numbers
  where all are integers.

  Args:
    files: of the training, the validation and the test texts; of two, the second is the test.
    text_column: name of the column of texts.
    pair_column: name of the column of second texts; None for single texts.
    label_column: name of the column of labels.
    regression: labels are numbers to predict.
    validation_examples: how many training texts to hold out where no file has the validation
      texts; None takes a tenth, at most 1,000.
    limit: at most so many training texts, those with the lowest hashes; None keeps all.

  Returns:
    The splits as texts.

  Raises:
    ValueError: files that cannot be read, columns that they lack, malformed lines, labels that the
      training file lacks, labels that are no numbers in regression, or a single class.
  """
  files = [files] if isinstance(files, str | Path) else list(files)
  if len(files) not in (2, 3):
    raise ValueError(
      f"{len(files)} text file{'s' * (len(files) != 1)} to load; give two, for training and test, or "
      "three, for training, validation and test"
    )
  columns = [text_column, *([] if pair_column is None else [pair_column]), label_column]
  if len(set(columns)) < len(columns):
    raise ValueError(f"columns {', '.join(columns)} are not all different; name one of each kind")
  tables = [read_table(Path(file).expanduser(), columns, regression) for file in files]
  if len(tables) == 3 and validation_examples is not None:
    raise ValueError(
      f"the second of three files is the validation split: validation_examples={validation_examples} has none "
      "to hold out"
    )
  train, *others = tables
  class_names = [] if regression else _class_names(train, label_column)
  splits = [_raw_texts(table, class_names, train) for table in tables]
  validation = splits[1] if len(splits) == 3 else None
  known = set(pairs(train.firsts, train.seconds))
  notes = [note for table in tables for note in table.notes]
  if class_names:
    notes += look_alike_notes("classes", train.path.name, class_names)
    notes += number_notes(class_names, train.path.name)
  for table in others:
    repeated = sum(pair in known for pair in pairs(table.firsts, table.seconds))
    if repeated:
      notes.append(
        f"{repeated:,} of {len(table.lines):,} texts of {table.path.name} are among the training texts"
      )
  return make_splits(
    train.path.name,
    "0",
    class_names,
    splits[0],
    validation,
    splits[-1],
    validation_examples=validation_examples,
    limit=limit,
    notes=notes,
  )


def load_text_files(
  files: Sequence[str | Path],
  *,
  tokenizer: Tokenizer,
  text_column: str = "text",
  pair_column: str | None = None,
  label_column: str = "label",
  regression: bool = False,
  validation_examples: int | None = None,
  limit: int | None = None,
) -> TextSplits:
  """Reads texts and encodes them: `read_text_files`, then `tokenize`.

  Args:
    files: see `read_text_files`, as all but the tokenizer.
    tokenizer: of the teacher.
    text_column: name of the column of texts.
    pair_column: name of the column of second texts.
    label_column: name of the column of labels.
    regression: labels are numbers to predict.
    validation_examples: how many training texts to hold out.
    limit: at most so many training texts.

  Returns:
    The splits as arrays.

  Raises:
    ValueError: as `read_text_files`.
  """
  raw = read_text_files(
    files,
    text_column=text_column,
    pair_column=pair_column,
    label_column=label_column,
    regression=regression,
    validation_examples=validation_examples,
    limit=limit,
  )
  return tokenize(raw, tokenizer)


def read_sample(*, validation_examples: int | None = None, limit: int | None = None) -> RawSplits:
  """Reads the built-in sample: short sentences that say something is good or bad, some by negation.

  Args:
    validation_examples: how many of the 200 training sentences to hold out; None takes a tenth.
    limit: at most so many training sentences; None keeps all.

  Returns:
    The splits as texts.

  Raises:
    ValueError: sizes that cannot be.

  >>> raw = read_sample(validation_examples=40)
  >>> len(raw.train.firsts), len(raw.validation.firsts), len(raw.test.firsts), raw.class_names
  (160, 40, 80, ('bad', 'good'))
  """
  files = [_SAMPLES / f"texts-{split}.csv" for split in ("train", "test")]
  raw = read_text_files(files, validation_examples=validation_examples, limit=limit)
  return raw._replace(name="sample-texts", version="1")


def _class_names(train: Table, label_column: str) -> list[str]:
  names = {str(label) for label in train.labels}
  if len(names) == 1:
    raise ValueError(
      f"{train.path} has the one label {train.labels[0]!r} in column {label_column!r}; give examples "
      "of at least two classes"
    )
  if all(_INTEGER.fullmatch(name) for name in names):
    return sorted(names, key=lambda name: (int(name), name))
  return sorted(names)


def _raw_texts(table: Table, class_names: Sequence[str], train: Table) -> RawTexts:
  if class_names:
    numbers: dict[str | float, int] = {name: number for number, name in enumerate(class_names)}
    for line, label in zip(table.lines, table.labels, strict=True):
      if label not in numbers:
        alike = [name for name in class_names if plain_form(name) == plain_form(str(label))]
        remedy = f"write {alike[0]!a}" if alike else "correct it, or add training examples of it"
        raise ValueError(
          f"{table.path}:{line}: label {ascii(label) if alike else repr(label)} does not occur in "
          f"{train.path}, which has {shown(class_names)}; {remedy}"
        )
    labels = np.array([numbers[label] for label in table.labels], np.int32)
  else:
    labels = np.array(table.labels, np.float32)
  ids = text_ids(table.firsts, table.seconds, table.labels)
  seconds = None if table.seconds is None else tuple(table.seconds)
  return RawTexts(tuple(table.firsts), seconds, labels, ids)
