"""Rows of CSV, TSV and JSON Lines files: texts and labels by the names of their columns."""

import csv
import io
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_JSON = (".jsonl", ".json")
_LARGEST = float(np.finfo(np.float32).max)
_SHOWN, _LONGEST = 10, 40  # names that a message spells out, and their characters


class Table(NamedTuple):
  """The columns of one file that are used.

  Attributes:
    path: of the file.
    lines: N numbers of lines, from 1.
    firsts: N texts.
    seconds: N texts that go with them, or None.
    labels: N names of classes, or numbers in regression.
  """

  path: Path
  lines: list[int]
  firsts: list[str]
  seconds: list[str] | None
  labels: list[str] | list[float]


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
  for line, values in _rows(path, columns):
    where = f"{path}:{line}"
    lines.append(line)
    texts.append([_text(where, *named) for named in zip(columns[:-1], values[:-1], strict=True)])
    labels.append((_number if regression else _label)(where, columns[-1], values[-1]))
  firsts, *seconds = map(list, zip(*texts, strict=True))
  return Table(path, lines, firsts, seconds[0] if seconds else None, labels)


def read_texts(path: Path, columns: Sequence[str]) -> list[list[str]]:
  """Reads the named columns of a file, which are all texts; otherwise as `read_table`."""
  return [
    [_text(f"{path}:{line}", *named) for named in zip(columns, values, strict=True)]
    for line, values in _rows(path, columns)
  ]


def read_lines(path: Path) -> list[str]:
  """Reads a file of plain text, in UTF-8; blank lines are skipped.

  Raises:
    ValueError: a file that cannot be read, or that has no text.
  """
  lines = [line.strip("\r") for line in _read(path).split("\n") if line.strip()]
  if not lines:
    raise ValueError(f"there are no texts in {path}; give it at least one")
  return lines


def has_column(path: Path, column: str) -> bool:
  """Whether the header of a file, or its first object, has a column of that name."""
  try:
    return bool(_rows(path, [column]))
  except ValueError:
    return False


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, list]]:
  """(line, the values of columns) of each row of a file; raises ValueError if it has none."""
  kind = path.suffix.lower()
  if kind not in (".csv", ".tsv", *_JSON):
    raise ValueError(f"cannot tell what {path} is; name it .csv, .tsv, .jsonl or .json")
  content = _read(path)
  rows = _json_rows(path, content, columns) if kind in _JSON else _csv_rows(path, content, columns)
  if not rows:
    raise ValueError(f"there are no texts in {path}; give it at least one")
  return rows


def shown(names: Sequence[str]) -> str:
  """Names on one line, the first ten of them.

  >>> shown(["text", "label"])
  'text, label'
  """
  short = [textwrap.shorten(name, _LONGEST, placeholder=" …") for name in names[:_SHOWN]]
  return ", ".join(short) + (", …" if len(names) > _SHOWN else "")


def _read(path: Path) -> str:
  try:
    content = path.read_bytes()
  except OSError as error:
    raise ValueError(f"cannot read {path}: {error.strerror or error}; correct the path") from error
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = content.count(b"\n", 0, error.start) + 1
    raise ValueError(
      f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8; convert the file to UTF-8"
    ) from error


def _csv_rows(path: Path, content: str, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
  tabs = path.suffix.lower() == ".tsv"
  reader = csv.reader(
    io.StringIO(content, newline=""),
    strict=True,
    delimiter="\t" if tabs else ",",
    quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
  )
  # A text may be of any length; the limit is the module's own and is put back.
  limit = csv.field_size_limit(max(len(content), 1))
  try:
    return _placed_rows(path, reader, columns)
  finally:
    csv.field_size_limit(limit)


def _placed_rows(path: Path, reader: Any, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
  """(line, the fields of columns) of each row below the header."""
  header, places, rows = None, [], []
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
    else:
      rows.append((line, [fields[place] for place in places]))
  return rows


def _json_rows(path: Path, content: str, columns: Sequence[str]) -> list[tuple[int, list]]:
  rows = []
  for line, text in enumerate(content.split("\n"), 1):
    if not text.strip():
      continue
    try:
      row = json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
      reason = getattr(error, "msg", "too large")
      raise ValueError(f"{path}:{line}: no JSON: {reason}; write one object a line") from error
    if not isinstance(row, dict):
      raise ValueError(f"{path}:{line}: a {type(row).__name__}, no object; write one object a line")
    for column in columns:
      if column not in row:
        raise ValueError(f"{path}:{line}: no column {column!r}; its columns are {shown(list(row))}")
    rows.append((line, [row[column] for column in columns]))
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
  return _text(where, column, name)


def _number(where: str, column: str, value: Any) -> float:
  try:
    number = math.nan if isinstance(value, bool) else float(value)
  except (TypeError, ValueError, OverflowError):
    number = math.nan
  if not abs(number) <= _LARGEST:
    raise ValueError(
      f"{where}: {column!r} is {json.dumps(value)[:40]}, no finite number; correct it, or read "
      "classes with regression=False"
    )
  return number
