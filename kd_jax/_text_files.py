"""Text files as people and programs leave them: byte order marks, line ends, characters that nobody sees."""

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

_MARK = b"\xef\xbb\xbf"  # U+FEFF in UTF-8
_MARK_AT_A_LINE = re.compile(rb"(?<=[\r\n])(?:\xef\xbb\xbf)+")
_UNSEEN = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")


class Raw(NamedTuple):
  """The bytes of a file.

  Attributes:
    data: without byte order marks.
    notes: what a user should know of how they were read, a line each.
  """

  data: bytes
  notes: tuple[str, ...]


class Text(NamedTuple):
  """The text of a file, and what a user should know of how it was read, a line each."""

  text: str
  notes: tuple[str, ...]


def read_bytes(path: str | Path, *, line_ends: bool = True, inner_marks: bool = True) -> Raw:
  """Reads a file without the byte order marks at its start, and at the start of its lines.

  Args:
    path: of the file.
    line_ends: make CRLF a line feed, and CR too if the file has no line feed.
    inner_marks: leave marks within the file out, as where files were joined, and count them in the notes.

  Raises:
    ValueError: a file that cannot be opened.
  """
  path = Path(path).expanduser()
  try:
    data = path.read_bytes()
  except OSError as error:
    raise ValueError(f"cannot read {path}: {error.strerror or error}; correct the path") from error
  while data.startswith(_MARK):
    data = data.removeprefix(_MARK)
  notes: tuple[str, ...] = ()
  if inner_marks and _MARK in data:
    data, count = _MARK_AT_A_LINE.subn(b"", data)
    if count:
      notes = (
        f"{path.name} has byte order marks within, at {count:,} line{'s' * (count != 1)}, which are left "
        "out: are files joined there?",
      )
  if line_ends and b"\r" in data:
    data = data.replace(b"\r\n", b"\n")
    data = data if b"\n" in data else data.replace(b"\r", b"\n")
  return Raw(data, notes)


def read_text(path: str | Path, *, line_ends: bool = True, inner_marks: bool = True) -> Text:
  """Reads a file in UTF-8: as `read_bytes`.

  Raises:
    ValueError: a file that cannot be opened, bytes that are not UTF-8, or NUL: with the line.
  """
  data, notes = read_bytes(path, line_ends=line_ends, inner_marks=inner_marks)
  try:
    text = data.decode("utf-8")
  except UnicodeDecodeError as error:
    line = _line(data, error.start)
    raise ValueError(
      f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file to UTF-8"
    ) from error
  if "\0" in text:
    line = _line(data, data.index(0))
    raise ValueError(f"{path}:{line}: {NUL}; {NUL_REMEDY}")
  return Text(text, notes)


NUL = "there is a NUL character"
NUL_REMEDY = "convert the file from UTF-16 to UTF-8, or remove it"
RETURN = "there is a carriage return within the line; end lines by line feeds"


def _line(data: bytes, position: int) -> int:
  """The number of a line from 1, whatever ends it."""
  return len(re.findall(rb"\r\n|\r|\n", data[:position])) + 1


def parse_json(text: str | bytes) -> Any:
  """Parses JSON; unlike `json.loads`, refuses an object that has a name twice.

  Raises:
    ValueError: no JSON, or a name that occurs twice.

  >>> parse_json('{"label": 1, "label": 2}')
  Traceback (most recent call last):
  ...
  ValueError: 'label' occurs twice in one object
  """
  return json.loads(text, object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for name, value in pairs:
    if name in found:
      raise ValueError(f"{name!r:.60} occurs twice in one object")
    found[name] = value
  return found


# Characters that nobody sees.


def plain_form(name: str) -> str:
  r"""What a reader sees of a name: without case, kinds of space, composition, quotes and what is invisible.

  >>> plain_form("Caf\u0065\u0301\u200b\u00a0") == plain_form("caf\u00e9")
  True
  """
  shown = (c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
  form = unicodedata.normalize("NFKC", " ".join("".join(shown).split()).casefold())
  return form.strip("\"' ") or form


def look_alikes(names: Iterable[str]) -> list[tuple[str, str]]:
  """Pairs of different names that look alike, each name with the first that looks like it.

  >>> look_alikes(["PER", "LOC", "per"])
  [('PER', 'per')]
  """
  first: dict[str, str] = {}
  return [
    (other, name)
    for name in sorted(set(names))
    if (other := first.setdefault(plain_form(name), name)) != name
  ]


def look_alike_notes(noun: str, where: str, names: Iterable[str]) -> list[str]:
  r"""A note about names that look alike, if there are some.

  >>> look_alike_notes("classes", "a.csv", ["good", "good\u200b"])
  ["classes 'good' and 'good\\u200b' of a.csv look alike: are they one?"]
  """
  alike = look_alikes(names)
  if not alike:
    return []
  more = f", as do {len(alike) - 1:,} more" if len(alike) > 1 else ""
  return [f"{noun} {alike[0][0]!a} and {alike[0][1]!a} of {where} look alike{more}: are they one?"]


def unseen_note(words: Iterable[str]) -> list[str]:
  r"""A note about words that hold characters which nobody sees, if there are some.

  >>> unseen_note(["tea", "soup\u200b"])
  ["1 word holds an invisible character, such as 'soup\\u200b': it is a word of its own to the vocabulary"]
  """
  found = [word for word in words if not word.isascii() and _UNSEEN.search(word)]
  if not found:
    return []
  many, hold = ("words", "hold") if len(found) > 1 else ("word", "holds")
  each = "each is" if len(found) > 1 else "it is"
  return [
    f"{len(found):,} {many} {hold} an invisible character, such as {found[0]!a}: {each} a word "
    "of its own to the vocabulary"
  ]
