"""Annotated sentences as plain Python, what is wrong in their files, and their ids."""

import codecs
import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_jax._text_files import NUL, NUL_REMEDY, RETURN, read_bytes
from kd_jax.data.splits import hash_ids

_SHOWN = 3  # problems that a message spells out


@dataclass(frozen=True)
class TaggedSentence:
  """A sentence with named entities.

  Attributes:
    tokens: n words.
    tags: n BIOES tags, whatever scheme they were read in.
  """

  tokens: tuple[str, ...]
  tags: tuple[str, ...]


@dataclass(frozen=True)
class ParsedSentence:
  """A sentence with a dependency tree.

  Attributes:
    tokens: n words.
    heads: n numbers: 0 is the root, j the j-th token (from 1).
    relations: n names.
    upos: n parts of speech.
  """

  tokens: tuple[str, ...]
  heads: tuple[int, ...]
  relations: tuple[str, ...]
  upos: tuple[str, ...]


@dataclass(frozen=True)
class PlainSentence:
  """A sentence without labels.

  Attributes:
    tokens: n words.
  """

  tokens: tuple[str, ...]


Sentence = TaggedSentence | ParsedSentence | PlainSentence


class Problem(NamedTuple):
  """The first thing that is wrong with a malformed sentence.

  Attributes:
    file: where it was read.
    line: from 1; the number of the example in a prepared data set.
    message: what is wrong.
  """

  file: str
  line: int
  message: str

  def __str__(self) -> str:
    return f"{self.file}:{self.line}: {self.message}"


class Reading(NamedTuple):
  """What a file held.

  Attributes:
    sentences: the well-formed ones, in their order.
    problems: one per malformed sentence.
    notes: what a user should know of how the file was read, a line each.
  """

  sentences: tuple[Sentence, ...]
  problems: tuple[Problem, ...]
  notes: tuple[str, ...] = ()


class MalformedSentence(ValueError):
  """A sentence that cannot be used.

  Attributes:
    position: of the token at fault, from 0.
  """

  def __init__(self, position: int, message: str):
    super().__init__(message)
    self.position = position


class Line(NamedTuple):
  """One line of a file: its number from 1, and its text or why that cannot be read."""

  number: int
  text: str
  error: str | None = None


class Blocks(NamedTuple):
  """The blocks of lines of a file, none of them empty, and notes for the user."""

  blocks: list[list[Line]]
  notes: tuple[str, ...]


def read_blocks(path: str | Path, encoding: str = "utf-8") -> Blocks:
  """Reads a text file as blocks of lines between blank lines.

  Lines end at line feeds, or at carriage returns in a file without any: the other characters that Python
  takes for line ends occur within tokens of real corpora.

  Args:
    path: of the file.
    encoding: one that has ASCII as a part.

  Raises:
    ValueError: the file cannot be opened, or an unknown encoding.
  """
  try:
    fits = "a\n".encode(encoding) == b"a\n"
  except (LookupError, ValueError):
    fits = False
  if not fits:
    raise ValueError(f"unknown encoding {encoding!r}; write utf-8 or latin-1")
  in_utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
  content, notes = read_bytes(path, inner_marks=in_utf8)
  blocks: list[list[Line]] = [[]]
  for number, raw in enumerate(content.split(b"\n"), 1):
    line = _line(number, raw, encoding)
    if line.error or line.text.strip():
      blocks[-1].append(line)
    elif blocks[-1]:
      blocks.append([])
  return Blocks([block for block in blocks if block], notes)


def _line(number: int, raw: bytes, encoding: str) -> Line:
  try:
    text = raw.decode(encoding).rstrip("\r")
  except UnicodeDecodeError as error:
    byte = raw[error.start]
    return Line(number, "?", f"byte 0x{byte:02x} at column {error.start + 1} is not {encoding}")
  if "\0" in text:
    return Line(number, "?", f"{NUL}; {NUL_REMEDY}")
  return Line(number, "?", RETURN) if "\r" in text else Line(number, text)


def settle(
  file: str,
  sentences: Sequence[Sentence],
  problems: Sequence[Problem],
  skip_malformed: bool,
  notes: Sequence[str] = (),
  remedy: str | None = None,
) -> Reading:
  """Applies the rule for malformed input: refuse the file, or leave those sentences out.

  Args:
    file: what was read.
    sentences: the well-formed ones.
    problems: one per malformed sentence.
    skip_malformed: True leaves them out; they are reported in the result.
    notes: of how the file was read.
    remedy: what the message asks for, if leaving the sentences out is none.

  Returns:
    All of them, problems in the order of lines.

  Raises:
    ValueError: problems that may not be skipped, or nothing left to use.

  >>> settle("f", [], [Problem("f", 7, "cycle")], skip_malformed=False)
  Traceback (most recent call last):
  ...
  ValueError: 1 malformed sentence in f: f:7: cycle; correct the file or pass skip_malformed=True
  """
  problems = sorted(problems, key=lambda problem: problem.line)
  shown = "; ".join(map(str, problems[:_SHOWN])) + ("; …" if len(problems) > _SHOWN else "")
  counted = f"{len(problems)} malformed sentence{'s' * (len(problems) != 1)}"
  if problems and not skip_malformed:
    remedy = remedy or "correct the file or pass skip_malformed=True"
    raise ValueError(f"{counted} in {file}: {shown}; {remedy}")
  if not sentences:
    raise ValueError(f"no sentences in {file}" + (f" but {counted}: {shown}" if problems else ""))
  return Reading(tuple(sentences), tuple(problems), tuple(notes))


def sentence_ids(sentences: Sequence[Sentence]) -> np.ndarray:
  """Makes ids: a hash of words and annotation, and a count of copies.

  Args:
    sentences: N sentences.

  Returns:
    [N] str, unique; copies of one sentence are told apart by ``-0``, ``-1``, … in their order,
    which is sound because they are identical.

  >>> copies = [TaggedSentence(("Yes",), ("O",))] * 2
  >>> [name[-2:] for name in sentence_ids(copies)]
  ['-0', '-1']
  """
  seen: dict[str, int] = {}
  ids = []
  for sentence in sentences:
    digest = hashlib.sha256(json.dumps(astuple(sentence)).encode()).hexdigest()[:32]
    seen[digest] = seen.get(digest, -1) + 1
    ids.append(f"{digest}-{seen[digest]}")
  return np.array(ids, str)


def in_hash_order(sentences: Sequence[Sentence]) -> tuple[list[Sentence], np.ndarray]:
  """Sorts sentences by the hash of their ids: the same rows in every run, whatever the file.

  Args:
    sentences: N sentences.

  Returns:
    (sentences, ids [N]) in that order.
  """
  ids = sentence_ids(sentences)
  rows = np.lexsort((ids, hash_ids(ids)[0]))
  return [sentences[row] for row in rows], ids[rows]
