"""CSV, TSV and JSON Lines files of texts: what is read, what is refused and where; the sample."""

import csv
import json
import re

import numpy as np
import pytest

from kd_jax.data.text_files import load_text_files, read_sample, read_text_files
from kd_jax.data.tokenization import Tokenizer

TRAIN = [("Good soup", "yes"), ("Bad tea, cold", "no"), ('A "fine" walk\nhome', "yes"), ("", "no")]
TEST = [("Cold soup", "no"), ("A fine tea", "yes")]


@pytest.fixture
def write(tmp_path):
  def write(content, name):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path

  return write


@pytest.fixture
def write_rows(tmp_path):
  def write_rows(rows, name, header=("text", "label")):
    path = tmp_path / name
    with path.open("w", newline="", encoding="utf-8") as file:
      if path.suffix == ".csv":
        csv.writer(file).writerows([header, *rows])
      elif path.suffix == ".tsv":
        file.writelines("\t".join(row) + "\n" for row in [header, *rows])
      else:
        file.writelines(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)
    return path

  return write_rows


def _examples(texts, names):
  """Texts and names of labels, in any order."""
  seconds = texts.seconds or [None] * len(texts.firsts)
  labels = [names[label] for label in texts.labels] if names else texts.labels.tolist()
  return sorted(zip(texts.firsts, seconds, labels, strict=True))


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".json", ".JSONL"])
def test_the_same_texts_in_each_kind_of_file(write_rows, kind):
  files = [write_rows(TRAIN, "train" + kind), write_rows(TEST, "test" + kind)]
  raw = read_text_files(files, validation_examples=1)
  assert (raw.name, raw.version, raw.num_classes) == ("train" + kind, "0", 2)
  assert raw.class_names == ("no", "yes")
  held = _examples(raw.validation, raw.class_names)
  assert len(held) == 1
  assert sorted(_examples(raw.train, raw.class_names) + held) == sorted(
    (a, None, b) for a, b in TRAIN
  )
  assert _examples(raw.test, raw.class_names) == sorted((a, None, b) for a, b in TEST)
  assert raw.notes == ()
  plain = read_text_files(
    [write_rows(TRAIN, "a.csv"), write_rows(TEST, "b.csv")], validation_examples=1
  )
  assert plain.train.ids.tolist() == raw.train.ids.tolist()


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl"])
def test_a_text_may_be_long(write_rows, kind):
  """The csv module by itself takes no field over 131,072 characters."""
  long = "word " * 40_000
  path = write_rows([(long, "yes"), ("b", "no")], "long" + kind)
  before = csv.field_size_limit()
  assert long.strip() in [text.strip() for text in read_text_files([path, path]).test.firsts]
  assert csv.field_size_limit() == before


def test_a_validation_file_leaves_nothing_to_hold_out(write_rows):
  files = [
    write_rows(rows, name) for rows, name in ((TRAIN, "a.csv"), (TEST, "b.csv"), (TEST, "c.csv"))
  ]
  assert len(read_text_files(files).validation.ids) == len(TEST)
  with pytest.raises(ValueError, match="second of three files is the validation split"):
    read_text_files(files, validation_examples=1)


def test_quotes_in_tsv_are_ordinary_characters(write):
  path = write('text\tlabel\n"so-called tea\tno\n5" of soup, hot\tyes\n', "a.tsv")
  raw = read_text_files([path, path, path])
  assert _examples(raw.train, raw.class_names) == [
    ('"so-called tea', None, "no"),
    ('5" of soup, hot', None, "yes"),
  ]


@pytest.mark.parametrize(
  "content",
  [
    "text,label\nGood,yes\nBad,no\n",
    "\ufefftext,label\r\nGood,yes\r\nBad,no",
    "\n label , text\n\n\nyes,Good\n no ,Bad\n \n",
    'number,"text",x,label\n1,"Good",,yes\n2,Bad,,"no"\n',
  ],
)
def test_the_same_rows_in_other_clothes(write, content):
  path = write(content, "a.csv")
  raw = read_text_files([path] * 3)
  assert _examples(raw.train, raw.class_names) == [("Bad", None, "no"), ("Good", None, "yes")]


def test_pairs_other_columns_and_a_validation_file(write_rows):
  header = ("answer", "premise", "hypothesis")
  rows = [("b", "x", "y"), ("a", "z", ""), ("b", "u", "v")]
  files = [
    write_rows(rows, "train.jsonl", header),
    write_rows([("a", "p", "q")], "dev.csv", header),
    write_rows([("b", "y", "x"), ("a", "z", "")], "test.tsv", header),
  ]
  columns = {"text_column": "premise", "pair_column": "hypothesis", "label_column": "answer"}
  raw = read_text_files(files, **columns)
  assert _examples(raw.train, raw.class_names) == [("u", "v", "b"), ("x", "y", "b"), ("z", "", "a")]
  assert _examples(raw.validation, raw.class_names) == [("p", "q", "a")]
  assert raw.notes == ("1 of 2 texts of test.tsv are among the training texts",)
  tokenizer = Tokenizer.train(["x y z u v p q"])
  splits = load_text_files(files, tokenizer=tokenizer, **columns)
  assert splits.notes == (
    *raw.notes,
    "1 of 3 training texts are empty: special tokens alone stand for them",
    "1 of 2 test texts are empty: special tokens alone stand for them",
  )
  assert splits.train.labels.tolist() == raw.train.labels.tolist()
  assert splits.train.inputs.types.any()
  assert len(load_text_files(files, tokenizer=tokenizer, limit=1, **columns).train) == 1
  with pytest.raises(ValueError, match="columns text, text, label are not all different"):
    read_text_files(files, pair_column="text")


@pytest.mark.parametrize(
  ("labels", "names"),
  [
    (["10", "9", "-1", "9"], ("-1", "9", "10")),
    ([10, 9, -1, 9], ("-1", "9", "10")),
    (["10", "9", "b", "a"], ("10", "9", "a", "b")),
    (["pos", " neg ", "Neg", "pos"], ("Neg", "neg", "pos")),
    ([True, False, True, True], ("false", "true")),
    ([1.0, 0.5, 1.0, "x"], ("0.5", "1.0", "x")),
  ],
)
def test_classes_in_order(write_rows, labels, names):
  path = write_rows([(f"text {row}", label) for row, label in enumerate(labels)], "a.jsonl")
  raw = read_text_files([path] * 3)
  assert raw.class_names == names
  called = {
    int(text.split()[1]): names[number]
    for text, number in zip(raw.train[0], raw.train[2], strict=True)
  }
  plain = [label.strip() if isinstance(label, str) else json.dumps(label) for label in labels]
  assert [called[row] for row in range(4)] == plain


def test_regression(write_rows):
  rows = [("a", "2.5"), ("b", "-1e3"), ("c", " 7 ")]
  raw = read_text_files([write_rows(rows, "a.csv")] * 3, regression=True)
  assert (raw.num_classes, raw.class_names) == (1, ())
  assert _examples(raw.test, ()) == [("a", None, 2.5), ("b", None, -1000.0), ("c", None, 7.0)]
  assert raw.test.labels.dtype == np.float32
  numbers = read_text_files(
    [write_rows([("a", 2.5), ("b", -1000)], "a.jsonl")] * 3, regression=True
  )
  assert _examples(numbers.train, ()) == [("a", None, 2.5), ("b", None, -1000.0)]
  for wrong in ("high", "", "nan", "inf", "1e60", "1,5"):
    path = write_rows([("a", "1"), ("b", wrong)], "b.csv")
    with pytest.raises(ValueError, match=r"b\.csv:3: 'label' is .*, no finite number; correct it"):
      read_text_files([path] * 3, regression=True)
  for wrong in (True, None, [1], 10**400):
    path = write_rows([("a", 1), ("b", wrong)], "b.jsonl")
    with pytest.raises(ValueError, match=r"b\.jsonl:2: 'label' is .*, no finite number"):
      read_text_files([path] * 3, regression=True)


GOOD = "text,label\nGood,yes\nBad,no\n"
LINE = '{"text": "Good", "label": "yes"}\n'


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.csv", "", "there are no texts in {}; give"),
    ("a.csv", "text,label\n\n", "there are no texts in {}; give"),
    ("a.jsonl", "\n \n", "there are no texts in {}; give"),
    ("a.txt", GOOD, "cannot tell what {} is; name it .csv, .tsv, .jsonl or .json"),
    ("a", GOOD, "cannot tell what {} is"),
    (
      "a.csv",
      "sentence,label\nGood,yes\n",
      "{} has no column 'text'; its columns are sentence, label",
    ),
    ("a.csv", "text;label\nGood;yes\n", "{} has no column 'text'; its columns are text;label"),
    ("a.csv", "text,target\nGood,yes\n", "{} has no column 'label'; its columns are text, target"),
    ("a.csv", "text,text,label\nx,y,z\n", "{} has more than one column 'text'"),
    ("a.csv", GOOD + "a,b,yes\n", "{}:4: 3 fields, but the header has 2; correct"),
    ("a.csv", GOOD + "\n\nalone\n", "{}:6: 1 field, but the header has 2"),
    ("a.csv", 'text,label\n"two\nlines",yes\nx\n', "{}:4: 1 field, but"),
    ("a.csv", GOOD + 'x,no\n"never ends,yes\n', "{}:5: unexpected end of data; correct"),
    ("a.csv", GOOD + '"x"y,yes\n', "{}:4: ',' expected after '\"'"),
    ("a.csv", GOOD + "x, \n", "{}:4: 'label' is \" \", no label; correct it"),
    ("a.csv", GOOD.encode() + b"caf\xe9,no\n", "{}:4: byte 0xe9 is not UTF-8; convert"),
    ("a.jsonl", GOOD.encode("utf-16"), "{}:1: byte 0xff is not UTF-8"),
    ("a.csv", "text,label\nx,yes\ny,yes\n", "{} has the one label 'yes' in column 'label'; give"),
    ("a.jsonl", LINE + '{"text": "x"\n', "{}:2: no JSON: Expecting ',' delimiter; write one"),
    ("a.jsonl", LINE + "\n[1]\n", "{}:3: a list, no object; write"),
    ("a.json", "[\n" + LINE + "]\n", "{}:1: no JSON: Expecting value; write one object a line"),
    (
      "a.jsonl",
      LINE + '{"text": "x", "labels": 1}\n',
      "{}:2: no column 'label'; its columns are text",
    ),
    ("a.jsonl", LINE + '{"text": 5, "label": 1}\n', "{}:2: 'text' is 5, no text; put it in quotes"),
    ("a.jsonl", LINE + '{"text": null, "label": 1}\n', "{}:2: 'text' is null, no text"),
    ("a.jsonl", LINE + '{"text": "\\ud800", "label": 1}\n', "{}:2: 'text' has half of a surrogate"),
    ("a.jsonl", LINE + '{"text": "x", "label": null}\n', "{}:2: 'label' is null, no label"),
    ("a.jsonl", LINE + '{"text": "x", "label": NaN}\n', "{}:2: 'label' is NaN, no label"),
    ("a.jsonl", LINE + '{"text": "x", "label": ["a"]}\n', "{}:2: 'label' is [\"a\"], no label"),
    ("a.jsonl", LINE + "1" * 5000 + "\n", "{}:2: no JSON: too large; write"),
    ("a.jsonl", LINE + "[" * 100_000 + "\n", "{}:2: no JSON: too large; write"),
  ],
)
def test_what_cannot_be_read(write, name, content, message):
  path = write(content, name)
  with pytest.raises(ValueError, match="^" + re.escape(message.format(path))) as caught:
    read_text_files([path] * 3)
  assert "\n" not in str(caught.value)
  assert len(str(caught.value)) < 400


def test_labels_that_training_lacks(write_rows):
  train = write_rows(TRAIN, "train.csv")
  other = write_rows([("x\ny", "yes"), ("z", "maybe")], "test.csv")
  message = f"{other}:4: label 'maybe' does not occur in {train}, which has no, yes; correct it"
  for files in ([train, other], [train, other, train]):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
      read_text_files(files)
  many = write_rows([(f"{row}", f"{row}") for row in range(40)], "many.csv")
  with pytest.raises(ValueError, match=r"which has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …; correct it"):
    read_text_files([many, other])


def test_how_many_files(write_rows, tmp_path):
  path = write_rows(TRAIN, "train.csv")
  for files, count in (
    ([path], "1 text file "),
    (str(path), "1 text file "),
    ([path] * 4, "4 text files "),
  ):
    with pytest.raises(ValueError, match=f"^{count}to load; give two, for training and test, or"):
      read_text_files(files)
  with pytest.raises(
    ValueError, match=r"^cannot read .*missing\.csv: No such file or directory; corr"
  ):
    read_text_files([path, tmp_path / "missing.csv"])
  (tmp_path / "folder.csv").mkdir()
  with pytest.raises(ValueError, match=r"^cannot read .*folder\.csv: Is a directory"):
    read_text_files([path, tmp_path / "folder.csv"])


def test_copies_have_ids_of_their_own(write_rows):
  path = write_rows([("Same", "yes")] * 3 + [("Same", "no")], "a.csv")
  raw = read_text_files([path] * 3)
  assert sorted(one[-2:] for one in raw.train.ids) == ["-0", "-0", "-1", "-2"]
  assert raw.notes == ("4 of 4 texts of a.csv are among the training texts",) * 2


def test_copies_across_the_held_out_split_are_counted(write_rows):
  rows = [("Same", label) for label in ("yes", "no") * 5]
  raw = read_text_files(
    [write_rows(rows, "a.csv"), write_rows([("Other", "no")], "b.csv")], validation_examples=3
  )
  assert raw.notes == ("3 of the 3 texts held out of a.csv are among its other training texts too",)


def test_texts_of_tsv_files_that_look_quoted_are_counted(write):
  path = write('text\tlabel\n"a ""q"""\tno\n"so-called\tyes\n"a "b" c"\tno\n', "a.tsv")
  test = write("text\tlabel\nother\tno\n", "b.tsv")
  notes = read_text_files([path, test]).notes
  assert any(note.startswith("1 of 3 values of 'text' in a.tsv look quoted: ") for note in notes)


# Files as people and programs leave them.

ROWS = ["text,label", "good tea,1", "bad tea,0", "fine soup,1"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_line_ends_and_byte_order_marks(write, end, name):
  rows = [row.split(",") for row in ROWS]
  lines = ["\t".join(row) if name == "a.tsv" else ",".join(row) for row in rows]
  if name == "a.jsonl":
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows[1:]]
  plain = read_text_files([write("\n".join(lines), name)] * 3)
  joined = end.join([lines[0], *lines[1:2], "\ufeff" + lines[2], *lines[3:], "", " ", ""])
  raw = read_text_files([write("\ufeff" + joined, name)] * 3)
  assert raw.train.ids.tolist() == plain.train.ids.tolist()
  assert raw.notes[0] == (
    f"{name} has byte order marks within, at 1 line, which are left out: are files joined there?"
  )
  assert sum("byte order" in note for note in plain.notes) == 0


@pytest.mark.parametrize(
  ("name", "rows", "line"),
  [
    ("a.csv", [*ROWS, "text, label"], 5),
    ("a.csv", [*ROWS, "\ufefftext,label", "x,1"], 5),
    ("a.tsv", [row.replace(",", "\t") for row in [*ROWS, ROWS[0]]], 5),
    ("a.jsonl", [LINE.strip(), '{"text": "text", "label": "label"}'], 2),
  ],
)
def test_a_second_header_is_not_an_example(write, name, rows, line):
  path = write("\n".join(rows), name)
  with pytest.raises(ValueError, match=rf"{name}:{line}: the row equals the header; remove it"):
    read_text_files([path] * 3)


def test_a_space_before_a_quote_is_refused(write):
  for row in ('bad, "sour ""green"" tea"', 'bad, "sour, green"', 'bad, "tea"'):
    path = write(f'label,text\n"good","nice tea"\n{row}\n', "a.csv")
    with pytest.raises(ValueError, match=r"a\.csv:3: a space before a quote, which then does not"):
      read_text_files([path] * 3)
  for row in ('bad," ""sour"" tea"', "bad, sour", 'bad,"a\n ""b""\n, ""c"""'):
    read_text_files([write(f"label,text\ngood,tea\n{row}\n", "a.csv")] * 3)


def test_nul_and_names_that_occur_twice_are_refused(write):
  for name in ("a.csv", "a.jsonl"):
    path = write("text,label\nx,1\ny\0,0\n", name)
    with pytest.raises(ValueError, match=rf"{name}:3: there is a NUL character; convert"):
      read_text_files([path] * 3)
  path = write('{"text": "a", "text": "b", "label": 1}\n', "a.jsonl")
  with pytest.raises(ValueError, match=r"a\.jsonl:1: no JSON: 'text' occurs twice in one object"):
    read_text_files([path] * 3)


def test_labels_that_look_alike_or_are_one_number_are_noted(write_rows):
  def notes(*labels):
    rows = [(f"text {row}", label) for row, label in enumerate(labels)]
    return read_text_files(
      [write_rows(rows, "a.csv"), write_rows([("x", labels[0])], "b.csv")]
    ).notes

  assert notes("1", "0", "1", "0") == ()
  assert notes("1.1", "1.2", "2", "x") == ()
  assert notes("1.0", "0", "1", "0") == (
    "classes '1' and '1.0' of a.csv are one number written in two ways: write it in one",
  )
  for other in ("good\u200b", "go\u00adod", "Good", '"good"', "ｇood"):
    (note,) = notes("good", "bad", other)
    assert note.endswith("of a.csv look alike: are they one?")
    assert ascii(other) in note
  with pytest.raises(ValueError, match=r"a\.csv are numbers and 'nan', which is no class"):
    notes("1", "0", "nan")
  assert notes("nan", "a", "1") == ()


def test_a_label_that_looks_like_one_of_training_is_spelled_out(write_rows):
  train = write_rows([("a", "café"), ("b", "no")], "a.csv")
  test = write_rows([("a", "cafe\u0301")], "b.csv")
  with pytest.raises(ValueError, match=r"label 'cafe\\u0301' does not occur .* write 'caf\\xe9'"):
    read_text_files([train, test])


def test_numbers_are_as_files_write_them(write_rows):
  for wrong in ("1_0", "٤", "infinity", "0x1"):
    path = write_rows([("a", "1"), ("b", wrong)], "b.csv")
    with pytest.raises(ValueError, match=r"b\.csv:3: 'label' is .*, no finite number; correct it"):
      read_text_files([path] * 3, regression=True)
  rows = [("a", "+1."), ("b", ".5"), ("c", "1E2")]
  raw = read_text_files([write_rows(rows, "a.csv")] * 3, regression=True)
  assert sorted(raw.test.labels.tolist()) == [0.5, 1.0, 100.0]


def test_the_sample_is_what_it_says():
  raw = read_sample()
  assert (raw.name, raw.version, raw.class_names) == ("sample-texts", "1", ("bad", "good"))
  assert [len(texts.firsts) for texts in raw[4:7]] == [180, 20, 80]
  assert raw.notes == ()  # no test sentence is in the training file
  for texts in raw[4:7]:
    assert 0.3 < texts.labels.mean() < 0.7
    assert all(
      text[0].isupper() and text[-1] in ".!" and "," not in text[-2:] for text in texts.firsts
    )
  # One word says little: negation turns it round.
  words = {word for text in raw.train.firsts for word in re.findall(r"\w+", text.lower())}
  best = max(
    np.mean(
      [
        (word in text.lower()) == label
        for text, label in zip(raw.train[0], raw.train[2], strict=True)
      ]
    )
    for word in words
  )
  assert best < 0.7
  assert len(read_sample(limit=5, validation_examples=50).train.firsts) == 5
