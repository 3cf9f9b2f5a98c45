"""CoNLL-U files of Universal Dependencies, and what makes a dependency tree well-formed."""

import re
from collections.abc import Sequence
from pathlib import Path

from kd_jax.data.sentences import (
  Line,
  MalformedSentence,
  ParsedSentence,
  PlainSentence,
  Problem,
  Reading,
  Sentence,
  read_blocks,
  settle,
)

_COLUMNS = 10  # ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC
_NOT_A_WORD = re.compile(r"[0-9]+(-|\.)[0-9]+")  # 1-2 is a multiword token, 1.1 an empty node
_NUMBER = re.compile(r"[0-9]{1,9}")


def read_conllu(
  path: str | Path,
  *,
  universal_relations: bool = True,
  words_alone: bool = False,
  skip_malformed: bool = False,
) -> Reading:
  """Reads dependency trees; comments, multiword tokens and empty nodes are dropped.

  Args:
    path: of the file, in UTF-8.
    universal_relations: keep the part of a relation before ``:``, for example nsubj of nsubj:pass.
    words_alone: read no heads and relations, which may be absent (``_``).
    skip_malformed: leave malformed sentences out instead of refusing the file.

  Returns:
    `ParsedSentence`s, or `PlainSentence`s, the problems (one per malformed sentence) and notes.

  Raises:
    ValueError: the file cannot be read or has no sentences, or malformed sentences: other than
      ten columns divided by tabs, ids out of order, no words, empty words, undecodable bytes,
      and all that `parsed_sentence` refuses.
  """
  sentences: list[Sentence] = []
  problems: list[Problem] = []
  blocks, notes = read_blocks(path)
  for block in blocks:
    lines: list[Line] = []
    try:
      fields = _words(block, lines)
      if words_alone:
        sentences.append(_plain_sentence([row[1] for row in fields]))
        continue
      sentences.append(
        parsed_sentence(
          *([row[column] for row in fields] for column in (1, 6, 7, 3)),
          universal_relations=universal_relations,
        )
      )
    except MalformedSentence as error:
      line = lines[error.position] if lines else block[0]
      problems.append(Problem(str(path), line.number, str(error)))
  return settle(str(path), sentences, problems, skip_malformed, notes)


def _plain_sentence(tokens: Sequence[str]) -> PlainSentence:
  if not tokens:
    raise MalformedSentence(0, "a sentence without words")
  for position, token in enumerate(tokens):
    if not token.strip():
      raise MalformedSentence(position, "empty token")
  return PlainSentence(tuple(tokens))


def parsed_sentence(
  tokens: Sequence[str],
  heads: Sequence[str],
  relations: Sequence[str],
  upos: Sequence[str],
  *,
  universal_relations: bool = True,
) -> ParsedSentence:
  """Builds a sentence from the texts of its columns.

  Args:
    tokens: n words.
    heads: n numbers as text.
    relations: n names.
    upos: n parts of speech.
    universal_relations: keep the part of a relation before ``:``.

  Returns:
    The sentence.

  Raises:
    MalformedSentence: unequal lengths, no words, an empty word or relation, a head that is no
      number, and all that `find_tree_error` finds.

  >>> parsed_sentence(["It", "rains"], ["2", "0"], ["nsubj:expl", "root"], ["PRON", "VERB"]).relations
  ('nsubj', 'root')
  """
  lengths = [len(tokens), len(heads), len(relations), len(upos)]
  if len(set(lengths)) > 1:
    raise MalformedSentence(0, f"columns of unequal lengths {lengths}")
  if not tokens:
    raise MalformedSentence(0, "a sentence without words")
  for position, (token, head, relation) in enumerate(zip(tokens, heads, relations, strict=True)):
    if not token.strip():
      raise MalformedSentence(position, "empty token")
    if not _NUMBER.fullmatch(head):
      raise MalformedSentence(position, f"head {head!r} is not a whole number")
    if not relation.split(":")[0].strip() or relation == "_":
      raise MalformedSentence(position, f"relation {relation!r} is empty")
  numbers = tuple(map(int, heads))
  error = find_tree_error(numbers)
  if error:
    raise MalformedSentence(*error)
  if universal_relations:
    relations = [relation.split(":")[0] for relation in relations]
  return ParsedSentence(tuple(tokens), numbers, tuple(relations), tuple(upos))


def find_tree_error(heads: Sequence[int]) -> tuple[int, str] | None:
  """Finds what keeps heads from being a tree with one root.

  Args:
    heads: n numbers: 0 is the root, j the j-th token (from 1).

  Returns:
    (position, what is wrong there), or None for a tree.

  >>> find_tree_error([2, 0, 2])
  >>> find_tree_error([2, 1, 0])
  (0, 'cycle 1 -> 2 -> 1')
  """
  for position, head in enumerate(heads):
    if not 0 <= head <= len(heads):
      return position, f"head {head} in a sentence of {len(heads)} tokens"
  roots = [position for position, head in enumerate(heads) if head == 0]
  if len(roots) > 1:
    return roots[1], f"{len(roots)} roots, need one"
  reached = [False] * len(heads)  # by a walk that ended at the root
  for position in range(len(heads)):
    path: list[int] = []
    token = position + 1
    while token and not reached[token - 1]:
      if token in path:
        cycle = [*path[path.index(token) :], token]
        return min(cycle) - 1, "cycle " + " -> ".join(map(str, cycle))
      path.append(token)
      token = heads[token - 1]
    for one in path:
      reached[one - 1] = True
  return None if roots else (0, "no root")


def _words(block: list[Line], lines: list[Line]) -> list[list[str]]:
  """Columns of the words of a sentence; appends their lines to `lines`, at last the faulty one."""
  rows: list[list[str]] = []
  for line in block:
    if line.text.startswith("#") and not line.error:
      continue
    fields = line.text.split("\t")
    message = line.error
    if not message and len(fields) != _COLUMNS:
      message = f"expected {_COLUMNS} columns divided by tabs, got {len(fields)}"
    if not message and _NOT_A_WORD.fullmatch(fields[0]):
      continue
    if not message and fields[0] != str(len(rows) + 1):
      message = f"expected id {len(rows) + 1}, got {fields[0]!r}"
    lines.append(line)
    if message:
      raise MalformedSentence(len(lines) - 1, message)
    rows.append(fields)
  return rows
