"""Sentences without labels: from files, or training sentences whose labels are hidden."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_jax.data.columns import read_columns
from kd_jax.data.conllu import read_conllu
from kd_jax.data.labelled import choose_labelled
from kd_jax.data.sentences import (
  PlainSentence,
  Problem,
  Reading,
  Sentence,
  read_blocks,
  sentence_ids,
  settle,
)
from kd_jax.data.splits import hash_ids
from kd_jax.data.unlabelled_texts import note

_PLAIN = ".txt"


class Unlabelled(NamedTuple):
  """What files of unlabelled sentences held.

  Attributes:
    sentences: without copies of others.
    problems: malformed sentences that were left out.
    notes: what a user should know, a line for each file.
  """

  sentences: tuple[PlainSentence, ...] = ()
  problems: tuple[Problem, ...] = ()
  notes: tuple[str, ...] = ()


def with_unlabelled(
  sentences: Sequence[Sentence],
  ids: np.ndarray,
  unlabelled_share: float,
  added: Sequence[PlainSentence] = (),
) -> tuple[list[Sentence], np.ndarray]:
  """Leaves only the words of a share of the sentences, and adds others that have no labels.

  Args:
    sentences: N sentences with labels.
    ids: [N] str, unique.
    unlabelled_share: share of the N that lose their labels, in [0, 1): see `choose_labelled`.
    added: M sentences without labels.

  Returns:
    N + M sentences and their ids, in the order of the ids' hashes; those without labels are `PlainSentence`s.

  Raises:
    ValueError: as `choose_labelled`.
  """
  labelled = choose_labelled(ids, unlabelled_share)
  kept = np.ones(len(ids), bool) if labelled is None else labelled
  pairs = zip(sentences, kept, strict=True)
  found = [s if keeps else PlainSentence(s.tokens) for s, keeps in pairs] + list(added)
  ids = np.concatenate([ids, sentence_ids(added)])
  rows = np.lexsort((ids, hash_ids(ids)[0]))
  return [found[row] for row in rows], ids[rows]


def read_unlabelled_sentences(
  files: Sequence[str | Path],
  known: dict[str, Sequence[Sentence]],
  *,
  token_column: int = 0,
  encoding: str = "utf-8",
  skip_malformed: bool = False,
) -> Unlabelled:
  """Reads the words of sentences, whatever else the files hold.

  The ending of its name tells what a file is: .conllu is CoNLL-U; .txt has one sentence a line, with spaces
  between the tokens; any other has columns, one token a line. Exact copies of known sentences are left out and
  counted in the notes.

  Args:
    files: to read.
    known: sentences by the name of their split.
    token_column: of column files, see `read_columns`.
    encoding: of column files and plain lines.
    skip_malformed: leave malformed sentences out instead of raising.

  Returns:
    Sentences, problems and notes.

  Raises:
    ValueError: files that cannot be read, malformed sentences, or files that hold only copies.
  """
  split_of = {s.tokens: split for split, sentences in known.items() for s in sentences}
  sentences: list[PlainSentence] = []
  problems: list[Problem] = []
  notes: list[str] = []
  for path in (Path(file).expanduser() for file in files):
    reading = _read(path, token_column, encoding, skip_malformed)
    fresh = [PlainSentence(s.tokens) for s in reading.sentences if s.tokens not in split_of]
    copies = Counter(split_of[s.tokens] for s in reading.sentences if s.tokens in split_of)
    ignored = "" if path.suffix.lower() == _PLAIN else "only its words are read"
    sentences += fresh
    problems += reading.problems
    notes += [*reading.notes, note(path, len(fresh), "sentences", copies, ignored)]
  if files and not sentences:
    raise ValueError(f"the unlabelled files hold no new sentence: {'; '.join(notes)}")
  return Unlabelled(tuple(sentences), tuple(problems), tuple(notes))


def read_plain_sentences(path: str | Path) -> tuple[PlainSentence, ...]:
  """Reads the words of the sentences of a file, whatever else it holds.

  Args:
    path: CoNLL-U (.conllu), a sentence a line (.txt), or columns with the words first.

  Raises:
    ValueError: a file that cannot be read, or malformed sentences.
  """
  reading = _read(Path(path).expanduser(), 0, "utf-8", skip_malformed=False)
  return tuple(PlainSentence(sentence.tokens) for sentence in reading.sentences)


def _read(path: Path, token_column: int, encoding: str, skip_malformed: bool) -> Reading:
  match path.suffix.lower():
    case ".conllu":
      return read_conllu(path, words_alone=True, skip_malformed=skip_malformed)
    case ".txt":
      return _read_lines(path, encoding, skip_malformed)
  return read_columns(
    path,
    token_column=token_column,
    tag_column=None,
    encoding=encoding,
    skip_malformed=skip_malformed,
  )


def _read_lines(path: Path, encoding: str, skip_malformed: bool) -> Reading:
  """One sentence a line; blank lines are skipped."""
  sentences, problems = [], []
  blocks, notes = read_blocks(path, encoding)
  for line in (line for block in blocks for line in block):
    if line.error:
      problems.append(Problem(str(path), line.number, line.error))
    else:
      sentences.append(PlainSentence(tuple(line.text.split())))
  return settle(str(path), sentences, problems, skip_malformed, notes)
