"""The tasks of GLUE, prepared by TFDS, read without TensorFlow and without network."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_jax._extras import extra
from kd_jax.data.quiet import quiet_tfds
from kd_jax.data.raw_texts import RawSplits, RawTexts, TextSplits, make_splits, tokenize
from kd_jax.data.sources import (
  FILE_FORMAT,
  DatasetNotPrepared,
  default_data_dir,
  newest_prepared,
  prepare_command,
)
from kd_jax.data.tokenization import Tokenizer

_CHUNK = 4096


class GlueTask(NamedTuple):
  """A task of GLUE (Wang et al. 2018, arXiv 1804.07461).

  Attributes:
    name: as TFDS has it.
    title: as tables have it.
    columns: of the first text and, in pairs, of the second.
    class_names: C names, in TFDS's order; none in regression.
    metric: that GLUE reports: "matthews", "accuracy", "f1" (of class 1), "accuracy_f1" or
      "correlation".
    sizes: how many training texts there are officially, and how many in the split for evaluation.
    evaluation: TFDS's split whose labels are public.
  """

  name: str
  title: str
  columns: tuple[str, ...]
  class_names: tuple[str, ...]
  metric: str
  sizes: tuple[int, int]
  evaluation: str = "validation"

  @property
  def num_classes(self) -> int:
    """C; 1 means regression."""
    return max(len(self.class_names), 1)


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")

TASKS: dict[str, GlueTask] = {
  task.name: task
  for task in (
    GlueTask(
      "cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), "matthews", (8_551, 1_043)
    ),
    GlueTask("sst2", "SST-2", ("sentence",), ("negative", "positive"), "accuracy", (67_349, 872)),
    GlueTask("mrpc", "MRPC", _PAIR, ("not_equivalent", "equivalent"), "f1", (3_668, 408)),
    GlueTask("stsb", "STS-B", _PAIR, (), "correlation", (5_749, 1_500)),
    GlueTask(
      "qqp",
      "QQP",
      ("question1", "question2"),
      ("not_duplicate", "duplicate"),
      "accuracy_f1",
      (363_846, 40_430),
    ),
    GlueTask(
      "mnli",
      "MNLI",
      ("premise", "hypothesis"),
      ("entailment", "neutral", "contradiction"),
      "accuracy",
      (392_702, 9_815),
      "validation_matched",
    ),
    GlueTask("qnli", "QNLI", ("question", "sentence"), _ENTAILMENT, "accuracy", (104_743, 5_463)),
    GlueTask("rte", "RTE", _PAIR, _ENTAILMENT, "accuracy", (2_490, 277)),
    GlueTask("wnli", "WNLI", _PAIR, _ENTAILMENT[::-1], "accuracy", (635, 71)),
  )
}
"""Tasks by name, in the order of GLUE's own table."""

_STSB_RANGE = (0.0, 5.0)


def check_task(name: str) -> GlueTask:
  """Returns the task; raises ValueError listing the known ones.

  >>> check_task("RTE")
  Traceback (most recent call last):
  ...
  ValueError: unknown GLUE task 'RTE'; known are cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli
  """
  if name not in TASKS:
    raise ValueError(f"unknown GLUE task {name!r}; known are {', '.join(TASKS)}")
  return TASKS[name]


def prepared_dir(task: str, data_dir: str | Path | None = None) -> Path | None:
  """Returns the newest version folder of a task that can be read without TensorFlow, or None.

  Args:
    task: a key of `TASKS`.
    data_dir: TFDS's data directory; None means $TFDS_DATA_DIR or ~/tensorflow_datasets.

  Raises:
    ValueError: unknown task, or a damaged `dataset_info.json`.
  """
  check_task(task)
  root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
  return newest_prepared([root / "glue" / task])


def read_glue(
  task: str,
  *,
  data_dir: str | Path | None = None,
  validation_examples: int | None = None,
  limit: int | None = None,
) -> RawSplits:
  """Reads the texts of a task.

  The labels of GLUE's test sets are not public. So the test split is GLUE's validation split, to be
  read once, at the end, and the validation split is held out from the training split.

  Args:
    task: a key of `TASKS`.
    data_dir: TFDS's data directory; None means $TFDS_DATA_DIR or ~/tensorflow_datasets.
    validation_examples: how many to hold out; None takes a tenth, at most 1,000.
    limit: at most so many training texts, those with the lowest hashes; None keeps all.

  Returns:
    The splits as texts; ids are the split's name and GLUE's index.

  Raises:
    DatasetNotPrepared: not on disk, or in TensorFlow's own format only.
    ValueError: unknown task, sizes that cannot be, damaged files, or labels that are not public.
  """
  known = check_task(task)
  folder = prepared_dir(task, data_dir)
  if folder is None:
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    raise DatasetNotPrepared(
      f"glue/{task} is not prepared: found no {FILE_FORMAT} files in {root / 'glue' / task}. Run: "
      f"{prepare_command(f'glue/{task}', data_dir)}; or load text files of your own"
    )
  with quiet_tfds():
    train, test = (_read(known, folder, split) for split in ("train", known.evaluation))
  notes = [
    f"glue/{task} has {len(texts.ids):,} {noun} texts here, {official:,} officially"
    for texts, noun, official in zip((train, test), ("training", "test"), known.sizes, strict=True)
    if len(texts.ids) != official
  ]
  return make_splits(
    f"glue/{task}",
    folder.name,
    known.class_names,
    train,
    None,
    test,
    validation_examples=validation_examples,
    limit=limit,
    notes=notes,
  )


def load_glue(
  task: str,
  *,
  tokenizer: Tokenizer,
  data_dir: str | Path | None = None,
  validation_examples: int | None = None,
  limit: int | None = None,
) -> TextSplits:
  """Reads a task and encodes it: `read_glue`, then `tokenize`.

  Args:
    task: a key of `TASKS`.
    tokenizer: of the teacher.
    data_dir: see `read_glue`, as the two below.
    validation_examples: how many to hold out.
    limit: at most so many training texts.

  Returns:
    The splits as arrays.

  Raises:
    DatasetNotPrepared: not on disk, or in TensorFlow's own format only.
    ValueError: as `read_glue`.
  """
  sizes = {"validation_examples": validation_examples, "limit": limit}
  return tokenize(read_glue(task, data_dir=data_dir, **sizes), tokenizer)


def _read(task: GlueTask, folder: Path, split: str) -> RawTexts:
  with extra("data"):
    import tensorflow_datasets as tfds

  fields = (*task.columns, "label", "idx")
  columns: dict[str, list] = {field: [] for field in fields}
  try:
    builder = tfds.builder_from_directory(folder, file_format=FILE_FORMAT)
    expected = builder.info.splits[split].num_examples
    names = getattr(builder.info.features["label"], "names", ())
    source = builder.as_data_source(split=split)
    if len(source) != expected:
      raise ValueError(f"{len(source)} of {expected} examples")
    for start in range(0, expected, _CHUNK):
      for example in source.__getitems__(list(range(start, min(start + _CHUNK, expected)))):
        for field in fields:
          columns[field].append(example[field])
    texts = [tuple(text.decode("utf-8") for text in columns[column]) for column in task.columns]
  except Exception as error:  # readers raise many kinds; all mean the same to the user
    reason = " ".join(str(error).split())
    raise ValueError(
      f"cannot read the {split} split in {folder}: {reason}; delete that folder and prepare "
      f"glue/{task.name} again"
    ) from error
  if tuple(names) != task.class_names:
    raise ValueError(
      f"{folder} has the classes {', '.join(names) or 'of no name'}, glue/{task.name} "
      f"{', '.join(task.class_names) or 'numbers'}; prepare it again"
    )
  labels = np.array(columns["label"], np.int32 if task.class_names else np.float32)
  low, high = (0, task.num_classes - 1) if task.class_names else _STSB_RANGE
  wrong = ~((labels >= low) & (labels <= high))
  if wrong.any():
    raise ValueError(
      f"glue/{task.name} {split}: {wrong.sum()} labels are outside {low} to {high}, the first "
      f"{labels[wrong][0]}: GLUE publishes no labels of its test sets; use splits with labels"
    )
  ids = np.array([f"{split}-{int(index)}" for index in columns["idx"]])
  return RawTexts(texts[0], texts[1] if len(texts) > 1 else None, labels, ids)
