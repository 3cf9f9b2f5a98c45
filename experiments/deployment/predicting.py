"""What a finished network says of new examples: labels with probabilities, tags, trees."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import structured
from kd_jax.data import Dataset, TextDataset, Tokenizer, Vocabulary
from kd_jax.data.image_files import read_unlabelled_images
from kd_jax.data.sentences import PlainSentence
from kd_jax.data.text_rows import read_lines, read_texts
from kd_jax.data.unlabelled_sentences import read_plain_sentences
from kd_jax.structured import DependencyScores, ParsingTags
from kd_jax.structured._parsing_tags import tags_of_tree
from kd_jax.teachers import predicting
from kd_jax.types import Outputs, PyTree

from .interfaces import Interface

PLAIN = ".txt"


class Row(NamedTuple):
  """What is said of an image or a text.

  Attributes:
    given: column -> what it is: its file, or its texts.
    label: the likeliest class, or the number.
    probabilities: class -> its probability; empty for a number.
  """

  given: dict[str, str]
  label: str | float
  probabilities: dict[str, float]


class Sentence(NamedTuple):
  """What is said of a sentence.

  Attributes:
    tokens: n words.
    tags: n tags; none of a tree.
    heads, relations: n each, of a tree; else none.
    probabilities: n, of each tag, or of each arc with its relation.
  """

  tokens: tuple[str, ...]
  tags: tuple[str, ...]
  heads: tuple[int, ...]
  relations: tuple[str, ...]
  probabilities: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Columns:
  """Columns of files of texts.

  Attributes:
    text: the text.
    pair: the second text, if the examples are pairs.
  """

  text: str
  pair: str | None = None


def predict_images(
  face: Interface, variables: PyTree, files: Sequence[Path], batch_size: int
) -> list[Row]:
  """Classes of images: files, folders of them at any depth, or .npz files with `images`.

  Raises:
    ValueError: files that cannot be read.
  """
  shape = face.inputs["images"].shape[1:]
  names, images = read_unlabelled_images(files, (int(shape[0]), int(shape[1]), int(shape[2])))
  classes = _num_classes(variables, "linear")
  count = len(images)
  dataset = Dataset(
    "images", "0", "test", images, np.zeros(count, int), None, np.arange(count).astype(str), classes
  )
  found = _of_all(face, variables, dataset, _class_probabilities, batch_size)
  given = [{"file": name} for name in names]
  return _rows(given, found, _class_names(face, classes))


def predict_texts(
  face: Interface, variables: PyTree, files: Sequence[Path], columns: Columns, batch_size: int
) -> list[Row]:
  """Classes or numbers of texts: CSV, TSV or JSONL with the columns, or a text a line (.txt).

  Raises:
    ValueError: files that cannot be read, or plain lines where the examples are pairs.
  """
  names = [columns.text, *([] if columns.pair is None else [columns.pair])]
  texts = [row for path in files for row in _texts_of(path, names)]
  tokenizer = Tokenizer.from_json(face.kept["tokenizer"])
  firsts, seconds = [row[0] for row in texts], [row[1] for row in texts if len(row) > 1]
  encoded = tokenizer.encode(firsts, seconds if columns.pair is not None else None)
  classes = _num_classes(variables, "classifier")
  class_names = () if classes == 1 else _class_names(face, classes)
  dataset = TextDataset(
    "texts",
    "0",
    "test",
    encoded.subwords,
    np.zeros(len(texts), np.float32 if classes == 1 else np.int32),
    np.arange(len(texts)).astype(str),
    classes,
    class_names,
    pad_id=tokenizer.pad_id,
  )
  function = _numbers if classes == 1 else _class_probabilities
  found = _of_all(face, variables, dataset, function, batch_size)
  given = [dict(zip(names, row, strict=True)) for row in texts]
  if classes == 1:
    return [Row(one, float(value), {}) for one, value in zip(given, found, strict=True)]
  return _rows(given, found, class_names)


def predict_sentences(
  face: Interface, variables: PyTree, files: Sequence[Path], batch_size: int
) -> list[Sentence]:
  """Tags or trees of sentences: CoNLL columns (words first), CoNLL-U, or words between spaces (.txt).

  Raises:
    ValueError: files that cannot be read, or malformed sentences.
  """
  words = Vocabulary.from_json(face.kept["vocabulary"])
  sentences = [sentence for path in files for sentence in read_plain_sentences(path)]
  ids = np.arange(len(sentences)).astype(str)
  dataset = words.encode(sentences, split="test", ids=ids)
  found = _of_all(face, variables, dataset, _decoded, batch_size)
  return [_sentence(one, words, labels) for one, labels in zip(sentences, found, strict=True)]


def _class_names(face: Interface, classes: int) -> tuple[str, ...]:
  """Names of the classes; their numbers, if the checkpoint has none."""
  return tuple(face.kept.get("class_names") or map(str, range(classes)))


def _num_classes(variables: PyTree, layer: str) -> int:
  return int(variables["params"][layer]["bias"].shape[-1])


def _texts_of(path: Path, names: Sequence[str]) -> list[list[str]]:
  if path.suffix.lower() != PLAIN:
    return read_texts(path, names)
  if len(names) > 1:
    raise ValueError(
      f"{path} has a text a line, and the network reads pairs: name a .csv, .tsv or .jsonl file"
    )
  return [[line] for line in read_lines(path)]


def _of_all(
  face: Interface,
  variables: PyTree,
  dataset: Any,
  function: Callable[[Outputs], PyTree],
  batch_size: int,
) -> list[PyTree]:
  """A function of the outputs, for each example in the order of the data set."""
  parts = predicting.predictions(face.model, variables, dataset, function, batch_size)
  rows = np.concatenate([bucket.rows for bucket in dataset.buckets])
  each = [values for part in parts for values in _unstacked(part)]
  found: list[PyTree] = [None] * len(rows)
  for row, values in zip(rows, each, strict=True):
    found[row] = values
  return found


def _unstacked(tree: PyTree) -> Iterator[PyTree]:
  leaves, treedef = jax.tree.flatten(tree)
  for values in zip(*leaves, strict=True):
    yield jax.tree.unflatten(treedef, values)


def _class_probabilities(outputs: Outputs) -> jax.Array:
  return jax.nn.softmax(jnp.asarray(outputs.logits), axis=-1)


def _numbers(outputs: Outputs) -> jax.Array:
  return jnp.asarray(outputs.logits)[..., 0]


def _rows(
  given: Sequence[dict[str, str]], found: Sequence[np.ndarray], class_names: Sequence[str]
) -> list[Row]:
  rows = []
  for one, values in zip(given, found, strict=True):
    shares = {name: float(p) for name, p in zip(class_names, values, strict=True)}
    rows.append(Row(one, class_names[int(np.argmax(values))], shares))
  return rows


def _decoded(outputs: Outputs) -> tuple[Any, jax.Array]:
  """The likeliest labelling, and the probability of each token's part of it."""
  scores = outputs.scores
  assert scores is not None
  labels = structured.argmax(scores)
  if isinstance(scores, ParsingTags):
    index, known = tags_of_tree(labels, scores)
    return labels, jnp.where(known, _taken(structured.marginals(scores), index), 0.0)
  if isinstance(scores, DependencyScores):
    heads = _taken(structured.head_marginals(scores), labels.heads)
    relations = jax.nn.softmax(jnp.asarray(scores.relation), axis=-1)
    of_head = jnp.take_along_axis(relations, labels.heads[..., None, None], axis=-2)[..., 0, :]
    return labels, heads * _taken(of_head, labels.relations)
  return labels, _taken(structured.tag_marginals(scores), labels)


def _taken(values: jax.Array, index: jax.Array) -> jax.Array:
  return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _sentence(
  sentence: PlainSentence, words: Vocabulary, found: tuple[Any, np.ndarray]
) -> Sentence:
  labels, probabilities = jax.tree.map(lambda x: x[: len(sentence.tokens)], found)
  shares = tuple(map(float, probabilities))
  if words.task == "tagging":
    tags = tuple(words.tag_names[tag] for tag in labels)
    return Sentence(sentence.tokens, tags, (), (), shares)
  relations = tuple(words.labels[relation] for relation in labels.relations)
  return Sentence(sentence.tokens, (), tuple(map(int, labels.heads)), relations, shares)
