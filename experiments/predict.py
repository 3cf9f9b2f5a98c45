"""Labels new images, texts or sentences with a finished network.

    python -m experiments.predict RUN FILES ... [--method kd] [--seed 1] [--out FILE]

RUN is a run, a phase or a checkpoint; a study's folder with --method; or a teacher's or assistant's folder.
FILES are what the network was trained on, without labels:

images      image files, folders of them, or .npz files with `images`
texts       CSV, TSV or JSONL with the study's columns of texts, or a text a line (.txt)
sentences   CoNLL columns with the words first, CoNLL-U, or words between spaces (.txt)

Labels and their probabilities are written as CSV or JSONL; of sentences as columns of word, tag and
probability, or as CoNLL-U with the probability of each arc and its relation in the last column.
"""

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import tyro

from kd_jax.checkpoints import write_text

from .command_line import console
from .command_line.asking import ask
from .command_line.wording import counted
from .deployment import predicting
from .deployment.finding import check_fit, find
from .deployment.interfaces import interface
from .deployment.predicting import Columns, Row, Sentence


@dataclasses.dataclass(frozen=True)
class Options:
  """Labels of new examples."""

  run: tyro.conf.Positional[Path]
  """A run, a phase, a checkpoint, a study's folder (with --method), or a teacher's folder."""
  files: tyro.conf.Positional[tuple[Path, ...]]
  """The examples."""
  method: str | None = None
  """Whose student, if RUN is a study's folder."""
  seed: int | None = None
  """Which student of those trained together; by default the first."""
  which: Literal["best", "last"] = "best"
  """Of the epochs: the best on the validation split, or the last."""
  out: Path | None = None
  """The file to write; by default the labels are printed."""
  format: Literal["csv", "jsonl"] | None = None
  """Of images and texts: the form of the output; by default what the ending of --out says, else csv."""
  text_column: str | None = None
  """Of texts: the column of the text; by default that of the study."""
  pair_column: str | None = None
  """Of texts: the column of the second text; by default that of the study."""
  batch_size: int = 64
  """Examples at once, on each device."""
  data_dir: Path | None = None
  """Prepared TFDS data, read only if an old checkpoint does not say the shape of images."""


def main(argv: Sequence[str] | None = None) -> int:
  options = ask(Options, argv, "predict")
  if not options.files:
    raise ValueError("name one file or more to label")
  if options.batch_size < 1:
    raise ValueError(f"--batch-size must be at least 1, got {options.batch_size}")
  files = [path.expanduser() for path in options.files]
  found = find(options.run, options.method, options.seed, options.which)
  face = interface(found.meta, found.source, found.variables, data_dir=options.data_dir)
  check_fit(face, found.variables)
  batch, variables = options.batch_size * jax.device_count(), found.variables
  if found.source["kind"] == "sequences":
    sentences = predicting.predict_sentences(face, variables, files, batch)
    text, count = _columns(sentences), counted(len(sentences), "sentences")
  else:
    if found.source["kind"] == "images":
      rows, noun = predicting.predict_images(face, variables, files, batch), "images"
    else:
      text_column, pair_column, _ = found.source["columns"]
      columns = Columns(options.text_column or text_column, options.pair_column or pair_column)
      rows, noun = predicting.predict_texts(face, variables, files, columns, batch), "texts"
    text, count = _table(rows, _format(options)), counted(len(rows), noun)
  if options.out is None:
    sys.stdout.write(text)
  else:
    write_text(options.out, text)
    console.say(f"{count} labelled by {face.label} ({found.name}): {options.out}")
  return 0


def _format(options: Options) -> str:
  if options.format is not None:
    return options.format
  endings = {".jsonl": "jsonl", ".json": "jsonl"}
  return "csv" if options.out is None else endings.get(options.out.suffix.lower(), "csv")


def _table(rows: Sequence[Row], form: str) -> str:
  """Rows as CSV, with a column p(CLASS) for each class, or as an object a line."""
  if form == "jsonl":
    return "".join(json.dumps(_object(row), ensure_ascii=False) + "\n" for row in rows)
  written = io.StringIO()
  writer = csv.writer(written, lineterminator="\n")
  classes = list(rows[0].probabilities)
  shares = ["probability", *(f"p({name})" for name in classes)] if classes else []
  writer.writerow([*rows[0].given, "label", *shares])
  for row in rows:
    values = list(row.probabilities.values())
    numbers = [f"{value:.6f}" for value in ([max(values), *values] if values else [])]
    label = row.label if classes else f"{row.label:.6g}"
    writer.writerow([*row.given.values(), label, *numbers])
  return written.getvalue()


def _object(row: Row) -> dict:
  found = {**row.given, "label": row.label}
  if row.probabilities:
    shares = {name: round(value, 6) for name, value in row.probabilities.items()}
    found |= {"probability": max(shares.values()), "probabilities": shares}
  return found


def _columns(sentences: Sequence[Sentence]) -> str:
  return "".join(_block(sentence) + "\n" for sentence in sentences)


def _block(sentence: Sentence) -> str:
  """A sentence in lines: word, tag and probability; or CoNLL-U's ten columns."""
  lines = []
  for index, (token, share) in enumerate(zip(sentence.tokens, sentence.probabilities, strict=True)):
    if sentence.tags:
      fields = [token, sentence.tags[index], f"{share:.6f}"]
    else:
      arc = [str(sentence.heads[index]), sentence.relations[index]]
      fields = [str(index + 1), token, *"____", *arc, "_", f"P={share:.6f}"]
    lines.append("\t".join(fields) + "\n")
  return "".join(lines)


if __name__ == "__main__":
  sys.exit(console.run(main))
