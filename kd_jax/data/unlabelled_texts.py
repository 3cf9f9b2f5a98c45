"""Texts without labels, which are added to the training texts of a source, and labels that are hidden."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd_jax.data.labelled import check_all_labelled, check_classes, choose_labelled, erase_labels
from kd_jax.data.raw_texts import RawSplits, RawTexts, in_hash_order, pairs, text_ids
from kd_jax.data.text_rows import has_column, noted_lines, noted_texts

_PLAIN = ".txt"


def hide_text_labels(raw: RawSplits, unlabelled_share: float) -> RawSplits:
  """Erases the labels of a share of the training texts, chosen by `choose_labelled`.

  Args:
    raw: a source whose training texts all have labels.
    unlabelled_share: share of the training texts that lose their labels, in [0, 1).

  Returns:
    The source, with fewer labels.

  Raises:
    ValueError: as `choose_labelled`, a class without a labelled text, or texts that have no label already.

  >>> from kd_jax.data.text_files import read_sample
  >>> hide_text_labels(read_sample(), 0.75).train.labelled.sum()
  np.int64(45)
  """
  check_all_labelled(raw.train)
  labelled = choose_labelled(raw.train.ids, unlabelled_share)
  if raw.class_names:
    check_classes(raw.train.labels, labelled)
  labels = erase_labels(raw.train.labels, labelled)
  return raw._replace(train=raw.train._replace(labels=labels, labelled=labelled))


def add_unlabelled_texts(
  raw: RawSplits,
  files: Sequence[str | Path],
  *,
  text_column: str = "text",
  pair_column: str | None = None,
  label_column: str | None = None,
) -> RawSplits:
  """Adds the texts of files to the training texts, without labels.

  Files are read as `read_text_files` reads them, and .txt has one text a line. Exact copies of the source's
  training, validation and test texts are left out and counted in the notes.

  Args:
    raw: the source.
    files: of texts.
    text_column: name of the column of texts.
    pair_column: name of the column of second texts; None for single texts.
    label_column: a column that the notes mention if a file has it; it is not read.

  Returns:
    The source with more training texts, in the order of the hashes of their ids.

  Raises:
    ValueError: files that cannot be read, columns that they lack, malformed lines, single texts for a source of
      pairs or the reverse, or files that hold only copies.
  """
  if not files:
    return raw
  paired = raw.train.seconds is not None
  if paired != (pair_column is not None):
    wanted, given = ("pairs", "single texts") if paired else ("single texts", "pairs")
    raise ValueError(
      f"{raw.name} has {wanted}, the unlabelled files would give {given}; "
      + ("name pair_column" if paired else "leave pair_column out")
    )
  known: dict[tuple[str, str], str] = {}
  for split in ("test", "validation", "train"):  # the last one counts for texts of several
    texts = getattr(raw, split)
    known |= dict.fromkeys(pairs(texts.firsts, texts.seconds), split)
  firsts, seconds, notes = [], [], []
  for path in (Path(file).expanduser() for file in files):
    found, ignored, said = _read(path, text_column, pair_column, label_column)
    copies = Counter(known[pair] for pair in found if pair in known)
    fresh = [pair for pair in found if pair not in known]
    firsts += [first for first, _ in fresh]
    seconds += [second for _, second in fresh]
    notes += [*said, note(path, len(fresh), "texts", copies, ignored)]
  if not firsts:
    raise ValueError(f"the unlabelled files hold no new text: {'; '.join(notes)}")
  return raw._replace(
    train=in_hash_order(_joined(raw.train, firsts, seconds if paired else None)),
    notes=(*raw.notes, *notes),
  )


def note(path: Path, count: int, noun: str, copies: Counter, ignored: str = "") -> str:
  """What a user should know of an unlabelled file, in a line."""
  copied = [f"{number:,} of {split}" for split, number in sorted(copies.items())]
  return (
    f"{count:,} unlabelled {noun if count != 1 else noun[:-1]} from {path.name}"
    + (f"; left out copies of {noun}: {', '.join(copied)}" if copied else "")
    + (f"; {ignored}" if ignored else "")
  )


def _read(
  path: Path, text_column: str, pair_column: str | None, label_column: str | None
) -> tuple[list[tuple[str, str]], str, tuple[str, ...]]:
  """Texts or pairs of one file, a note about labels that are not read, and notes about the others."""
  if path.suffix.lower() == _PLAIN:
    if pair_column is not None:
      raise ValueError(f"{path} has one text a line; write pairs as .csv, .tsv or .jsonl")
    lines, notes = noted_lines(path)
    return pairs(lines, None), "", notes
  columns = [text_column, *([] if pair_column is None else [pair_column])]
  texts, notes = noted_texts(path, columns)
  firsts, *seconds = map(list, zip(*texts, strict=True))
  labels = label_column is not None and has_column(path, label_column)
  ignored = f"its column {label_column!r} is not read" if labels else ""
  return pairs(firsts, seconds[0] if seconds else None), ignored, notes


def _joined(train: RawTexts, firsts: list[str], seconds: list[str] | None) -> RawTexts:
  """The training texts and then the unlabelled ones."""
  count = len(firsts)
  known = np.ones(len(train.ids), bool) if train.labelled is None else train.labelled
  return RawTexts(
    (*train.firsts, *firsts),
    None if seconds is None else (*(train.seconds or ()), *seconds),
    np.concatenate([train.labels, np.zeros(count, train.labels.dtype)]),
    np.concatenate([train.ids, text_ids(firsts, seconds, [None] * count)]),
    np.concatenate([known, np.zeros(count, bool)]),
  )
