"""CoNLL column files: one token a line with its columns, a blank line after each sentence."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kd_jax.data.sentences import (
  Line,
  MalformedSentence,
  PlainSentence,
  Problem,
  Reading,
  TaggedSentence,
  read_blocks,
  settle,
)
from kd_jax.data.tag_schemes import check_scheme, convert, detect_scheme, find_error, other_scheme

_DOCUMENT = "-DOCSTART-"
_TAG = re.compile(r"O|[BIES]-.+")


def read_columns(
  path: str | Path,
  *,
  token_column: int = 0,
  tag_column: int | None = -1,
  scheme: str | None = None,
  encoding: str = "utf-8",
  skip_malformed: bool = False,
) -> Reading:
  """Reads named entities from a file in the form of CoNLL-2002 and 2003 and their followers.

  Columns are divided by tabs where a line has any, else by spaces; the commonest number of
  columns is the right one. `-DOCSTART-` lines divide sentences. Before the first token of a
  sentence a line that begins with ``#`` is a comment unless it has the right number of columns
  and a tag among them, as the token ``#`` has; after it every line is a token.

  Args:
    path: of the file.
    token_column: which column has the words, from 0; negative numbers count from the end.
    tag_column: which column has the tags; None reads words alone.
    scheme: one of `tag_schemes.SCHEMES`; None takes the one that most sentences follow.
    encoding: of the file, for example "latin-1" for CoNLL-2002.
    skip_malformed: leave malformed sentences out instead of refusing the file.

  Returns:
    `TaggedSentence`s in BIOES, or `PlainSentence`s, the problems (one per malformed sentence) and notes.

  Raises:
    ValueError: the file cannot be read or has no sentences, columns that it does not have, or
      malformed sentences: a wrong number of columns, empty words, undecodable bytes, tags
      that break the scheme.
  """
  if scheme is not None:
    check_scheme(scheme)
  found, notes = read_blocks(path, encoding)
  blocks = _without_documents(found)
  width = _width(path, blocks, token_column, tag_column)
  rows: list[list[Line]] = []
  words: list[list[str]] = []
  tags: list[list[str]] = []
  problems = []
  for block in blocks:
    block = _without_comments(block, width, tag_column)
    try:
      fields = [_fields(*numbered, width, token_column) for numbered in enumerate(block)]
    except MalformedSentence as error:
      problems.append(Problem(str(path), block[error.position].number, str(error)))
      continue
    if fields:
      rows.append(block)
      words.append([columns[token_column] for columns in fields])
      tags.append([] if tag_column is None else [columns[tag_column] for columns in fields])
  if tag_column is None:
    plain = [PlainSentence(tuple(tokens)) for tokens in words]
    return settle(str(path), plain, problems, skip_malformed, notes)
  if other := other_scheme(tags):
    raise ValueError(f"the tags of {path} look like {other}")
  scheme = detect_scheme(tags) if scheme is None else scheme
  sentences = []
  for block, tokens, labels in zip(rows, words, tags, strict=True):
    try:
      sentences.append(tagged_sentence(tokens, labels, scheme))
    except MalformedSentence as error:
      problems.append(Problem(str(path), block[error.position].number, str(error)))
  named = sum(set(one) != {"O"} for one in tags)
  kept = sum(set(sentence.tags) != {"O"} for sentence in sentences)
  remedy = None if 2 * kept >= named else "correct the file, or name its scheme or its tag column"
  return settle(str(path), sentences, problems, skip_malformed, notes, remedy)


def tagged_sentence(tokens: Sequence[str], tags: Sequence[str], scheme: str) -> TaggedSentence:
  """Builds a sentence in BIOES from tags in any scheme.

  Args:
    tokens: n words.
    tags: n tags.
    scheme: that the tags are in.

  Returns:
    The sentence.

  Raises:
    MalformedSentence: unequal lengths, an empty word, or tags that break the scheme.

  >>> tagged_sentence(["Paris"], ["B-LOC"], "BIO2")
  TaggedSentence(tokens=('Paris',), tags=('S-LOC',))
  """
  if len(tokens) != len(tags):
    raise MalformedSentence(0, f"{len(tokens)} tokens but {len(tags)} tags")
  for position, token in enumerate(tokens):
    if not token.strip():
      raise MalformedSentence(position, "empty token")
  error = find_error(tags, scheme)
  if error:
    raise MalformedSentence(*error)
  return TaggedSentence(tuple(tokens), convert(tags, scheme, "BIOES"))


def _split(text: str) -> list[str]:
  """Columns of a line. Other white space than tabs and spaces may stand within a token."""
  if "\t" in text:
    return [field.strip(" ") for field in text.split("\t")]
  return re.split(" +", text.strip(" "))


def _without_documents(blocks: list[list[Line]]) -> list[list[Line]]:
  parts: list[list[Line]] = []
  for block in blocks:
    parts.append([])
    for line in block:
      if _split(line.text)[0] == _DOCUMENT:
        parts.append([])
      else:
        parts[-1].append(line)
  return [part for part in parts if part]


def _width(
  path: str | Path, blocks: list[list[Line]], token_column: int, tag_column: int | None
) -> int:
  """The commonest number of columns, which must include those that are asked for."""
  lines = [line for block in blocks for line in block if not line.error]
  lines = [line for line in lines if not line.text.startswith("#")] or lines
  if not lines:
    return 0
  width = Counter(len(_split(line.text)) for line in lines).most_common(1)[0][0]
  if tag_column is None:
    if not -width <= token_column < width:
      raise ValueError(
        f"most lines of {path} have {width} column{'s' * (width != 1)}, which does not fit "
        f"token_column={token_column}; choose a column that it has"
      )
    return width
  within = all(-width <= column < width for column in (token_column, tag_column))
  if not within or token_column % width == tag_column % width:
    raise ValueError(
      f"most lines of {path} have {width} column{'s' * (width != 1)}, which does not fit "
      f"token_column={token_column} and tag_column={tag_column}; choose two columns that it has"
    )
  return width


def _without_comments(block: list[Line], width: int, tag_column: int | None) -> list[Line]:
  for start, line in enumerate(block):
    fields = _split(line.text)
    last = -1 if tag_column is None else tag_column
    is_token = len(fields) == width and (width == 1 or _TAG.fullmatch(fields[last]))
    if line.error or is_token or not line.text.startswith("#"):
      return block[start:]
  return []


def _fields(position: int, line: Line, width: int, token_column: int) -> list[str]:
  """Columns of a token line."""
  if line.error:
    raise MalformedSentence(position, line.error)
  fields = _split(line.text)
  if len(fields) != width:
    plural = "s" * (width != 1)
    raise MalformedSentence(position, f"expected {width} column{plural}, got {len(fields)}")
  if not fields[token_column].strip():
    raise MalformedSentence(position, "empty token")
  return fields
