"""Rows of CSV, TSV and JSON Lines files: texts and labels by the names of their columns."""

import csv
import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_jax._text_files import RETURN, parse_json, read_text

_JSON = (".jsonl", ".json")
_LARGEST = float(np.finfo(np.float32).max)
_SHOWN, _LONGEST = 10, 40  # names that a message spells out, and their characters
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SPACE_AND_QUOTE = re.compile(r'(^|[,\r\n]) +"')


class Table(NamedTuple):
  """The columns of one file that are used.

  Attributes:
    path: of the file.
    lines: N numbers of lines, from 1.
    firsts: N texts.
    seconds: N texts that go with them, or None.
    labels: N names of classes, or numbers in regression.
    notes: what a user should know of how they were read, a line each.
  """

  path: Path
  lines: list[int]
  firsts: list[str]
  seconds: list[str] | None
  labels: list[str] | list[float]
  notes: tuple[str, ...] = ()


class _Rows(NamedTuple):
  """(line, the values of columns) of each row of a file, and notes."""

  rows: list[tuple[int, list]]
  notes: tuple[str, ...]


def read_table(path: Path, columns: Sequence[str], regression: bool) -> Table:
  """Reads the named columns of a file.

  Args:
    path: its ending says what it is: .csv, .tsv, .jsonl or .json.
    columns: of texts, one or two, and then of labels.
    regression: labels are numbers.

  Raises:
    ValueError: a file that cannot be read, columns that it lacks, malformed rows, or none.
  """
  lines: list[int] = []
  texts: list[list[str]] = []
  labels: list[Any] = []  # all names, or all numbers
  rows, notes = _rows(path, columns)
  for line, values in rows:
    where = f"{path}:{line}"
    lines.append(line)
    texts.append([_text(where, *named) for named in zip(columns[:-1], values[:-1], strict=True)])
    labels.append((_number if regression else _label)(where, columns[-1], values[-1]))
  firsts, *seconds = map(list, zip(*texts, strict=True))
  return Table(path, lines, firsts, seconds[0] if seconds else None, labels, notes)


def read_texts(path: Path, columns: Sequence[str]) -> list[list[str]]:
  """Reads the named columns of a file, which are all texts; otherwise as `read_table`."""
  return noted_texts(path, columns)[0]


def noted_texts(path: Path, columns: Sequence[str]) -> tuple[list[list[str]], tuple[str, ...]]:
  """As `read_texts`, and what a user should know of how they were read."""
  rows, notes = _rows(path, columns)
  texts = [
    [_text(f"{path}:{line}", *named) for named in zip(columns, values, strict=True)]
    for line, values in rows
  ]
  return texts, notes


def read_lines(path: Path) -> list[str]:
  """Reads a file of plain text, in UTF-8; blank lines are skipped.

  Raises:
    ValueError: a file that cannot be read, or that has no text.
  """
  return noted_lines(path)[0]


def noted_lines(path: Path) -> tuple[list[str], tuple[str, ...]]:
  """As `read_lines`, and what a user should know of how they were read."""
  content, notes = read_text(path)
  lines = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
  if not lines:
    raise ValueError(f"there are no texts in {path}; give it at least one")
  for number, line in lines:
    if "\r" in line:
      raise ValueError(f"{path}:{number}: {RETURN}")
  return [line for _, line in lines], notes


def has_column(path: Path, column: str) -> bool:
  """Whether the header of a file, or its first object, has a column of that name."""
  try:
    return bool(_rows(path, [column]).rows)
  except ValueError:
    return False


def _rows(path: Path, columns: Sequence[str]) -> _Rows:
  """The rows of a file; raises ValueError if it has none."""
  kind = path.suffix.lower()
  if kind not in (".csv", ".tsv", *_JSON):
    raise ValueError(f"cannot tell what {path} is; name it .csv, .tsv, .jsonl or .json")
  # A carriage return within quotes is a part of the text.
  content, notes = read_text(path, line_ends=kind in _JSON)
  rows = _json_rows(path, content, columns) if kind in _JSON else _csv_rows(path, content, columns)
  if not rows:
    raise ValueError(f"there are no texts in {path}; give it at least one")
  if kind == ".tsv":
    notes += tuple(_quoted_notes(path, columns, [values for _, values in rows]))
  return _Rows(rows, notes)


def _quoted_notes(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """Values in quotes, as programs write them, but for .tsv no rule says that they do."""
  notes = []
  for place, column in enumerate(columns):
    values = [row[place] for row in rows]
    quoted = [value for value in values if len(value) > 2 and value[0] == value[-1] == '"']
    # A quotation is in quotes as well: what is quoted for the file has every text in them, or doubled ones.
    count = len(quoted) if len(quoted) == len(values) else sum('""' in q[1:-1] for q in quoted)
    if count:
      notes.append(
        f"{count:,} of {len(values):,} values of {column!r} in {path.name} look quoted: in .tsv a quote is an "
        "ordinary character; in .csv quotes enclose"
      )
  return notes


def shown(names: Sequence[str]) -> str:
  """Names on one line, the first ten of them.

  >>> shown(["text", "label"])
  'text, label'
  """
  short = [textwrap.shorten(name, _LONGEST, placeholder=" …") for name in names[:_SHOWN]]
  return ", ".join(short) + (", …" if len(names) > _SHOWN else "")


def _csv_rows(path: Path, content: str, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
  tabs = path.suffix.lower() == ".tsv"

  def reader(**options: Any) -> Any:
    return csv.reader(
      io.StringIO(content, newline=""),
      strict=True,
      delimiter="\t" if tabs else ",",
      quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
      **options,
    )

  # A text may be of any length; the limit is the module's own and is put back.
  limit = csv.field_size_limit(max(len(content), 1))
  try:
    if not tabs and _SPACE_AND_QUOTE.search(content):
      _refuse_spaces_before_quotes(path, reader)
    return _placed_rows(path, reader(), columns)
  finally:
    csv.field_size_limit(limit)


def _refuse_spaces_before_quotes(path: Path, reader: Callable[..., Any]) -> None:
  """Such quotes do not enclose: they would be a part of the text, or divide it at its commas."""
  plain, skipping = reader(), reader(skipinitialspace=True)
  while True:
    line = plain.line_num + 1
    try:
      fields, others = next(plain, None), next(skipping, None)
    except csv.Error:  # said where the rows are read
      return
    if fields is None or others is None:
      return
    if [field.lstrip(" ") for field in fields] != [field.lstrip(" ") for field in others]:
      raise ValueError(
        f"{path}:{line}: a space before a quote, which then does not enclose its text; remove the spaces "
        "between commas and quotes"
      )


def _placed_rows(path: Path, reader: Any, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
  """(line, the fields of columns) of each row below the header."""
  header, places, names, rows = None, [], [], []
  while True:
    line = reader.line_num + 1  # where the next row begins; it may go on for several lines
    try:
      fields = next(reader)
    except StopIteration:
      break
    except csv.Error as error:
      raise ValueError(f"{path}:{line}: {error}; correct the row that begins there") from error
    if len(fields) < 2 and not "".join(fields).strip():  # a blank line
      continue
    if header is None:
      names = [name.strip() for name in fields]
      for column in columns:
        if names.count(column) != 1:
          count = "no" if column not in names else "more than one"
          raise ValueError(f"{path} has {count} column {column!r}; its columns are {shown(names)}")
      header, places = len(names), [names.index(column) for column in columns]
    elif len(fields) != header:
      raise ValueError(
        f"{path}:{line}: {len(fields)} field{'s' * (len(fields) != 1)}, but the header has {header}; "
        "correct the row that begins there"
      )
    elif [name.strip() for name in fields] == names:
      raise ValueError(_second_header(path, line))
    else:
      rows.append((line, [fields[place] for place in places]))
  return rows


def _second_header(path: Path, line: int) -> str:
  return f"{path}:{line}: the row equals the header; remove it: are files joined there?"


def _json_rows(path: Path, content: str, columns: Sequence[str]) -> list[tuple[int, list]]:
  rows = []
  for line, text in enumerate(content.split("\n"), 1):
    if not text.strip():
      continue
    try:
      row = parse_json(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
      twice = str(error) if "occurs twice" in str(error) else "too large"
      reason = getattr(error, "msg", twice)
      raise ValueError(f"{path}:{line}: no JSON: {reason}; write one object a line") from error
    if not isinstance(row, dict):
      raise ValueError(f"{path}:{line}: a {type(row).__name__}, no object; write one object a line")
    for column in columns:
      if column not in row:
        raise ValueError(f"{path}:{line}: no column {column!r}; its columns are {shown(list(row))}")
    values = [row[column] for column in columns]
    if len(columns) > 1 and values == list(columns):
      raise ValueError(_second_header(path, line))
    rows.append((line, values))
  return rows


def _text(where: str, column: str, value: object) -> str:
  if not isinstance(value, str):
    raise ValueError(f"{where}: {column!r} is {json.dumps(value)[:40]}, no text; put it in quotes")
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise ValueError(f"{where}: {column!r} has half of a surrogate pair; correct it") from error
  return value


def _label(where: str, column: str, value: object) -> str:
  """A class's name; numbers and truth values are called as JSON writes them."""
  name = value.strip() if isinstance(value, str) else json.dumps(value)
  if not name or value is None or value != value or isinstance(value, list | dict):
    raise ValueError(f"{where}: {column!r} is {json.dumps(value)[:40]}, no label; correct it")
  if "\0" in name:
    raise ValueError(f"{where}: {column!r} has a NUL character; remove it")
  return _text(where, column, name)


def as_number(text: str) -> float | None:
  """The number that a text is, as files write numbers; None if it is none.

  Python's own `float` also reads 1_0 as 10, and the digits of all scripts.

  >>> as_number(" 1e3"), as_number("1_0"), as_number("٤")
  (1000.0, None, None)
  """
  return float(text) if _NUMBER.fullmatch(text.strip()) else None


def number_notes(labels: Iterable[str], where: str) -> list[str]:
  """A note about classes that are one number written in two ways.

  Raises:
    ValueError: "nan" as a class among numbers.

  >>> number_notes(["0", "1", "1.0"], "a.csv")
  ["classes '1' and '1.0' of a.csv are one number written in two ways: write it in one"]
  """
  names = sorted(set(labels))
  numbers = {name: as_number(name) for name in names}
  missing = [name for name in names if name.casefold() in ("nan", "+nan", "-nan")]
  if missing and len(names) > len(missing):
    others = [number for name, number in numbers.items() if name not in missing]
    if None not in others:
      raise ValueError(
        f"the labels of {where} are numbers and {missing[0]!r}, which is no class; give those examples a "
        "label, or remove them"
      )
  first: dict[float, str] = {}
  alike = [
    (other, name)
    for name, number in numbers.items()
    if number is not None and (other := first.setdefault(number, name)) != name
  ]
  if not alike:
    return []
  more = f", as are {len(alike) - 1:,} more" if len(alike) > 1 else ""
  return [
    f"classes {alike[0][0]!r} and {alike[0][1]!r} of {where} are one number written in two ways{more}: write "
    "it in one"
  ]


def _number(where: str, column: str, value: Any) -> float:
  try:
    found = as_number(value) if isinstance(value, str) else float(value)
    number = math.nan if isinstance(value, bool) or found is None else found
  except (TypeError, ValueError, OverflowError):
    number = math.nan
  if not abs(number) <= _LARGEST:
    raise ValueError(
      f"{where}: {column!r} is {json.dumps(value)[:40]}, no finite number; correct it, or read "
      "classes with regression=False"
    )
  return number
