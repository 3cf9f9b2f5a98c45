"""Loading corpora of tagged and parsed sentences: built-in samples, prepared TFDS sets, files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kd_jax._extras import extra
from kd_jax._sizes import is_whole
from kd_jax._text_files import look_alike_notes, unseen_note
from kd_jax.data.columns import read_columns, tagged_sentence
from kd_jax.data.conllu import parsed_sentence, read_conllu
from kd_jax.data.quiet import quiet_tfds
from kd_jax.data.sentences import (
  MalformedSentence,
  ParsedSentence,
  PlainSentence,
  Problem,
  Reading,
  Sentence,
  TaggedSentence,
  in_hash_order,
  settle,
)
from kd_jax.data.sequences import SequenceDataset
from kd_jax.data.sources import (
  FILE_FORMAT,
  DatasetNotPrepared,
  default_data_dir,
  newest_prepared,
  prepare_command,
)
from kd_jax.data.unlabelled_sentences import read_unlabelled_sentences, with_unlabelled
from kd_jax.data.vocabulary import Vocabulary

TAGGING = ("sample", "conll2003")
PARSING = ("sample", "en_ewt")
SPLITS = ("train", "validation", "test")
_SAMPLES = Path(__file__).parent / "samples"
_SAMPLE_VERSION = "1"
# TFDS puts a data set under its name, or under that and the name of a configuration.
_FOLDERS = {
  "conll2003": ("conll2003", "conll2003/conll2003"),
  "en_ewt": ("universal_dependencies/en_ewt",),
}
_PREPARED_SPLITS = {"train": "train", "validation": "dev", "test": "test"}

Files = Sequence[str | Path]
"""Paths of a training, a validation and a test file."""


class SequenceSplits(NamedTuple):
  """The three splits of a corpus.

  Attributes:
    train: rows in the order of a hash of their ids, as in the other two.
    validation: the corpus's own development split.
    test: the official one.
    vocabulary: of the training rows that have labels.
    problems: malformed sentences that were left out; always empty without `skip_malformed`.
    notes: what a user should know of the files, of copies across the splits, of names that look alike, and of
      unlabelled sentences, a line each.
  """

  train: SequenceDataset
  validation: SequenceDataset
  test: SequenceDataset
  vocabulary: Vocabulary
  problems: tuple[Problem, ...]
  notes: tuple[str, ...] = ()


def load_tagging(
  source: str | Files,
  *,
  data_dir: str | Path | None = None,
  limit: int | None = None,
  unlabelled_share: float = 0.0,
  unlabelled: Sequence[str | Path] = (),
  min_count: int = 2,
  skip_malformed: bool = False,
  token_column: int = 0,
  tag_column: int = -1,
  scheme: str | None = None,
  encoding: str = "utf-8",
  lower_case: bool = True,
  normalise_digits: bool = True,
  max_characters: int = 20,
) -> SequenceSplits:
  """Loads named entities.

  Args:
    source: "sample" (built in), "conll2003" (prepared by TFDS), or three column files: training,
      validation and test.
    data_dir: TFDS's data directory; None means $TFDS_DATA_DIR or ~/tensorflow_datasets.
    limit: at most so many training sentences, those with the lowest hashes; None keeps all.
    unlabelled_share: share of them that lose their labels, in [0, 1): see `choose_labelled`.
    unlabelled: files of more training sentences, whose words alone are read: see `read_unlabelled_sentences`.
    min_count: how often a word occurs in the labelled training sentences, or it is unknown.
    skip_malformed: leave malformed sentences out instead of raising.
    token_column: of the files, see `read_columns`.
    tag_column: of the files.
    scheme: of the files' tags; None takes the one that most sentences of a file follow.
    encoding: of the files.
    lower_case: see `Vocabulary`.
    normalise_digits: see `Vocabulary`.
    max_characters: see `Vocabulary`.

  Returns:
    Splits whose labels are BIOES tags.

  Raises:
    DatasetNotPrepared: not on disk, or in TensorFlow's own format only.
    ValueError: unknown name, files that cannot be read, malformed sentences, sizes below 1.

  >>> splits = load_tagging("sample", limit=8)
  >>> len(splits.train), splits.train.labels.dtype
  (8, dtype('int32'))
  """

  def read_file(path: str | Path) -> Reading:
    return read_columns(
      path,
      token_column=token_column,
      tag_column=tag_column,
      scheme=scheme,
      encoding=encoding,
      skip_malformed=skip_malformed,
    )

  def read_example(example: dict, features: dict) -> Sentence:
    names = features["ner"].feature.names
    tags = [names[number] for number in example["ner"]]
    return tagged_sentence(_texts(example, "tokens"), tags, "BIO2")

  options = {
    "lower_case": lower_case,
    "normalise_digits": normalise_digits,
    "max_characters": max_characters,
    "min_count": min_count,
  }
  name, version, readings = _read(
    source, TAGGING, "tagging", "conll", data_dir, skip_malformed, read_file, read_example
  )
  return _encode(
    name,
    version,
    readings,
    limit,
    options,
    unlabelled_share=unlabelled_share,
    unlabelled=unlabelled,
    encoding=encoding,
    token_column=token_column,
    skip_malformed=skip_malformed,
  )


def load_parsing(
  source: str | Files,
  *,
  data_dir: str | Path | None = None,
  limit: int | None = None,
  unlabelled_share: float = 0.0,
  unlabelled: Sequence[str | Path] = (),
  min_count: int = 2,
  parsing_tag_min_count: int = 1,
  skip_malformed: bool = False,
  universal_relations: bool = True,
  lower_case: bool = True,
  normalise_digits: bool = True,
  max_characters: int = 20,
) -> SequenceSplits:
  """Loads dependency trees.

  Args:
    source: "sample" (built in), "en_ewt" (prepared by TFDS), or three CoNLL-U files: training,
      validation and test.
    data_dir: TFDS's data directory; None means $TFDS_DATA_DIR or ~/tensorflow_datasets.
    limit: at most so many training sentences, those with the lowest hashes; None keeps all.
    unlabelled_share: share of them that lose their labels, in [0, 1): see `choose_labelled`.
    unlabelled: files of more training sentences, whose words alone are read: see `read_unlabelled_sentences`.
    min_count: how often a word occurs in the labelled training sentences, or it is unknown.
    parsing_tag_min_count: the same for pairs of offset and relation.
    skip_malformed: leave malformed sentences out instead of raising.
    universal_relations: keep the part of a relation before ``:``.
    lower_case: see `Vocabulary`.
    normalise_digits: see `Vocabulary`.
    max_characters: see `Vocabulary`.

  Returns:
    Splits whose labels are `Tree`s.

  Raises:
    DatasetNotPrepared: not on disk, or in TensorFlow's own format only.
    ValueError: unknown name, files that cannot be read, malformed sentences, sizes below 1.

  >>> splits = load_parsing("sample")
  >>> bool((splits.train.labels.heads == 0).any()), len(splits.problems)
  (True, 0)
  """

  def read_file(path: str | Path) -> Reading:
    return read_conllu(path, universal_relations=universal_relations, skip_malformed=skip_malformed)

  def read_example(example: dict, features: dict) -> Sentence:
    names = features["upos"].feature.names
    columns = [_texts(example, field) for field in ("tokens", "head", "deprel")]
    columns.append([names[number] for number in example["upos"]])
    # TFDS keeps the rows of multiword tokens and empty nodes, with the text "None" for a head.
    kept = [row for row, head in enumerate(columns[1]) if head != "None"]
    if len({len(column) for column in columns}) == 1:
      columns = [[column[row] for row in kept] for column in columns]
    return parsed_sentence(*columns, universal_relations=universal_relations)

  options = {
    "lower_case": lower_case,
    "normalise_digits": normalise_digits,
    "max_characters": max_characters,
    "min_count": min_count,
    "parsing_tag_min_count": parsing_tag_min_count,
  }
  name, version, readings = _read(
    source, PARSING, "parsing", "conllu", data_dir, skip_malformed, read_file, read_example
  )
  return _encode(
    name,
    version,
    readings,
    limit,
    options,
    unlabelled_share=unlabelled_share,
    unlabelled=unlabelled,
    skip_malformed=skip_malformed,
  )


def prepared_dir(name: str, data_dir: str | Path | None = None) -> Path | None:
  """Returns the newest version folder of a corpus that can be read without TensorFlow, or None.

  Args:
    name: "conll2003" or "en_ewt".
    data_dir: TFDS's data directory; None means `default_data_dir()`.

  Raises:
    ValueError: unknown name, or a damaged `dataset_info.json`.
  """
  if name not in _FOLDERS:
    raise ValueError(f"unknown prepared corpus {name!r}; known are {', '.join(_FOLDERS)}")
  root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
  return newest_prepared(root / folder for folder in _FOLDERS[name])


def _read(
  source: str | Path | Files,
  known: tuple[str, ...],
  task: str,
  suffix: str,
  data_dir: str | Path | None,
  skip_malformed: bool,
  read_file: Callable[[str | Path], Reading],
  read_example: Callable[[dict, dict], Sentence],
) -> tuple[str, str, list[Reading]]:
  """Returns (name, version, train, validation and test as read) of any kind of source."""
  if not isinstance(source, str):
    files: list[str | Path] = [source] if isinstance(source, Path) else list(source)
    if len(files) != len(SPLITS):
      raise ValueError(f"{len(files)} files to load; give three: for training, validation and test")
    return Path(files[0]).name, "0", [read_file(file) for file in files]
  if source not in known:
    raise ValueError(
      f"unknown corpus {source!r} for {task}; known are {', '.join(known)}, or give three files"
    )
  if source == "sample":
    samples = [_SAMPLES / f"{task}-{split}.{suffix}" for split in SPLITS]
    return f"sample-{task}", _SAMPLE_VERSION, [read_file(file) for file in samples]
  folder = prepared_dir(source, data_dir)
  if folder is None:
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    raise DatasetNotPrepared(
      f"{source} is not prepared: found no {FILE_FORMAT} files in {root / _FOLDERS[source][0]}. "
      f"Run: {prepare_command(source, data_dir)}; or load your own three files"
    )
  with quiet_tfds():
    readings = [_read_prepared(folder, split, skip_malformed, read_example) for split in SPLITS]
  return source, folder.name, readings


def _read_prepared(
  folder: Path, split: str, skip_malformed: bool, read_example: Callable[[dict, dict], Sentence]
) -> Reading:
  with extra("data"):
    import tensorflow_datasets as tfds

  stored = _PREPARED_SPLITS[split]
  try:
    builder = tfds.builder_from_directory(folder, file_format=FILE_FORMAT)
    expected, features = builder.info.splits[stored].num_examples, builder.info.features
    source = builder.as_data_source(split=stored)
    if len(source) != expected:
      raise ValueError(f"{len(source)} of {expected} examples")
    examples = source.__getitems__(list(range(expected)))
  except Exception as error:  # readers raise many kinds; all mean the same to the user
    raise ValueError(
      f"cannot read the {stored} split in {folder}: {error}; delete that folder and prepare it "
      "again"
    ) from error
  file = str(folder / stored)
  sentences, problems = [], []
  for number, example in enumerate(examples, 1):
    if not len(example["tokens"]):  # TFDS writes one such row after the last sentence of a file
      continue
    try:
      sentences.append(read_example(example, features))
    except MalformedSentence as error:
      problems.append(Problem(file, number, f"token {error.position + 1}: {error}"))
  return settle(file, sentences, problems, skip_malformed)


def _texts(example: dict, field: str) -> list[str]:
  try:
    return [text.decode() for text in example[field]]
  except UnicodeDecodeError as error:
    raise MalformedSentence(0, f"{field} are not utf-8") from error


def _encode(
  name: str,
  version: str,
  readings: list[Reading],
  limit: int | None,
  options: dict,
  *,
  unlabelled_share: float,
  unlabelled: Sequence[str | Path],
  **reading_options: Any,
) -> SequenceSplits:
  if limit is not None and not is_whole(limit):
    raise ValueError(f"limit={limit} must be at least 1, or None for all training sentences")
  ordered = [in_hash_order(reading.sentences) for reading in readings]
  sentences, ids = ordered[0]
  ordered[0] = sentences[:limit], ids[:limit]
  notes = [note for reading in readings for note in reading.notes]
  notes += _copies(readings[0].sentences, ordered) + _unseen_characters(readings)
  known = {split: own for split, (own, _) in reversed(list(zip(SPLITS, ordered, strict=True)))}
  added = read_unlabelled_sentences(unlabelled, known, **reading_options)
  ordered[0] = with_unlabelled(*ordered[0], unlabelled_share, added.sentences)
  labelled = [s for s in ordered[0][0] if not isinstance(s, PlainSentence)]
  vocabulary = Vocabulary.build(labelled, **options)
  train, validation, test = (
    vocabulary.encode(sentences, split=split, name=name, version=version, ids=ids)
    for split, (sentences, ids) in zip(SPLITS, ordered, strict=True)
  )
  problems = sum((reading.problems for reading in readings), ()) + added.problems
  return SequenceSplits(train, validation, test, vocabulary, problems, (*notes, *added.notes))


def _copies(train: Sequence[Sentence], ordered: Sequence[tuple[list[Sentence], Any]]) -> list[str]:
  """A note for each split some of whose sentences are training sentences too."""
  known = {sentence.tokens for sentence in train}
  notes = []
  for split, (sentences, _) in list(zip(SPLITS, ordered, strict=True))[1:]:
    repeated = sum(sentence.tokens in known for sentence in sentences)
    if repeated:
      notes.append(
        f"{repeated:,} of {len(sentences):,} {split} sentences are among the training sentences"
      )
  return notes


def _unseen_characters(readings: Sequence[Reading]) -> list[str]:
  """Notes about entity types or relations that look alike, and words with invisible characters."""
  sentences = [sentence for reading in readings for sentence in reading.sentences]
  types = {tag[2:] for s in sentences if isinstance(s, TaggedSentence) for tag in s.tags} - {""}
  relations = {r for s in sentences if isinstance(s, ParsedSentence) for r in s.relations}
  words = dict.fromkeys(token for s in sentences for token in s.tokens)
  return [
    *look_alike_notes("entity types", "the corpus", types),
    *look_alike_notes("relations", "the corpus", relations),
    *unseen_note(words),
  ]
