"""Numbers for words, characters and labels, taken from the training split alone."""

import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from kd_jax._sizes import is_whole
from kd_jax.data.sentences import (
  ParsedSentence,
  PlainSentence,
  Sentence,
  TaggedSentence,
  sentence_ids,
)
from kd_jax.data.sequences import UNSEEN, UNSEEN_TAGS, SequenceDataset, default_bucket_lengths
from kd_jax.data.tag_schemes import OUTSIDE, tag_names
from kd_jax.types import Tokens, Tree

_FORMAT = 1
_RESERVED = 2  # 0 is padding, 1 an unknown word or character
_MOST_CHARACTERS = 256 - _RESERVED  # they are stored as uint8
_PUNCTUATION = frozenset(["PUNCT", "``", "''", ":", ",", "."])  # of UD, and of the Penn Treebank
TASKS = {"tagging": TaggedSentence, "parsing": ParsedSentence}


@dataclass(frozen=True)
class Vocabulary:
  """What the numbers in a `SequenceDataset` stand for.

  Attributes:
    task: "tagging" or "parsing".
    words: the i-th has number i + 2, commonest first; 0 is padding, 1 any other word.
    characters: the i-th has number i + 2, at most 254; 0 is padding, 1 any other character.
    labels: R entity types or relations, in alphabetical order, numbered from 0.
    parsing_tags: L pairs (offset, relation number) for dependency parsing as tagging, commonest
      first; offset 0 is the root, else head minus dependent.
    lower_case: whether words, not characters, are lower-cased.
    normalise_digits: whether digits in words, not in characters, are all written as 0.
    max_characters: c: words are cut to so many characters.
  """

  task: str
  words: tuple[str, ...]
  characters: tuple[str, ...]
  labels: tuple[str, ...]
  parsing_tags: tuple[tuple[int, int], ...] = ()
  lower_case: bool = True
  normalise_digits: bool = True
  max_characters: int = 20

  @classmethod
  def build(
    cls,
    sentences: Sequence[Sentence],
    *,
    min_count: int = 2,
    parsing_tag_min_count: int = 1,
    lower_case: bool = True,
    normalise_digits: bool = True,
    max_characters: int = 20,
  ) -> "Vocabulary":
    """Collects what occurs in the training sentences.

    Args:
      sentences: of the training split, all tagged or all parsed.
      min_count: a word occurs so often, or it is unknown. With 1 nothing in the training split
        is unknown, and the unknown word is never trained.
      parsing_tag_min_count: the same for pairs of offset and relation; those of the root stay.
      lower_case: see the attribute.
      normalise_digits: see the attribute.
      max_characters: see the attribute.

    Returns:
      The vocabulary.

    Raises:
      ValueError: no sentences, both kinds mixed, or counts below 1.

    >>> vocabulary = Vocabulary.build([TaggedSentence(("In", "Paris"), ("O", "S-LOC"))], min_count=1)
    >>> vocabulary.words, vocabulary.tag_names
    (('in', 'paris'), ('O', 'S-LOC', 'B-LOC', 'I-LOC', 'E-LOC'))
    """
    if not all(map(is_whole, (min_count, parsing_tag_min_count, max_characters))):
      raise ValueError(
        f"min_count={min_count}, parsing_tag_min_count={parsing_tag_min_count} and "
        f"max_characters={max_characters} must be at least 1"
      )
    tasks = [task for task, kind in TASKS.items() if any(isinstance(s, kind) for s in sentences)]
    if len(tasks) != 1:
      raise ValueError(f"sentences for {' and '.join(tasks) or 'nothing'}; give those of one task")
    bare = cls(
      tasks[0],
      words=(),
      characters=(),
      labels=(),
      lower_case=lower_case,
      normalise_digits=normalise_digits,
      max_characters=max_characters,
    )
    words = Counter(bare.normalise(token) for s in sentences for token in s.tokens)
    characters = Counter(
      character for s in sentences for token in s.tokens for character in token[:max_characters]
    )
    tagged = [s for s in sentences if isinstance(s, TaggedSentence)]
    parsed = [s for s in sentences if isinstance(s, ParsedSentence)]
    types = {tag[2:] for s in tagged for tag in s.tags if tag != OUTSIDE}
    relations = {relation for s in parsed for relation in s.relations}
    labels = sorted(types | relations)  # of the task, one of the two is empty
    counts = Counter(pair for s in parsed for pair in _offsets_and_relations(s))
    pairs = [
      pair for pair in _commonest(counts) if counts[pair] >= parsing_tag_min_count or not pair[0]
    ]
    return replace(
      bare,
      words=tuple(word for word in _commonest(words) if words[word] >= min_count),
      characters=tuple(_commonest(characters)[:_MOST_CHARACTERS]),
      labels=tuple(labels),
      parsing_tags=tuple((offset, labels.index(relation)) for offset, relation in pairs),
    )

  def normalise(self, token: str) -> str:
    """Returns a token as it stands among the words."""
    token = token.lower() if self.lower_case else token
    return re.sub("[0-9]", "0", token) if self.normalise_digits else token

  @property
  def num_words(self) -> int:
    """How many rows a table of words needs, padding and unknown included."""
    return len(self.words) + _RESERVED

  @property
  def num_characters(self) -> int:
    """How many rows a table of characters needs, padding and unknown included."""
    return len(self.characters) + _RESERVED

  @property
  def tag_names(self) -> tuple[str, ...]:
    """Names of the 4R+1 BIOES tags by number."""
    return tag_names(self.labels)

  @property
  def offsets(self) -> np.ndarray:
    """[L] int32 offsets of the parsing tags."""
    return np.array([offset for offset, _ in self.parsing_tags], np.int32)

  @property
  def relations(self) -> np.ndarray:
    """[L] int32 relation numbers of the parsing tags."""
    return np.array([relation for _, relation in self.parsing_tags], np.int32)

  def encode(
    self,
    sentences: Sequence[Sentence],
    *,
    split: str,
    name: str = "sentences",
    version: str = "0",
    ids: np.ndarray | None = None,
    bucket_lengths: tuple[int, ...] | None = None,
  ) -> SequenceDataset:
    """Turns sentences into arrays.

    Entity types and relations unseen in training get negative labels; see `SequenceDataset`. `PlainSentence`s
    have no labels.

    Args:
      sentences: N sentences of this vocabulary's task, or without labels.
      split: what part of the data they are.
      name: of the data set.
      version: of its prepared form.
      ids: [N] unique names; None makes them of the contents.
      bucket_lengths: see `SequenceDataset`.

    Returns:
      The data set, rows in the order of `sentences`.

    Raises:
      ValueError: sentences of the other task, or anything that `SequenceDataset` refuses.
    """
    kind = TASKS[self.task]
    if not all(isinstance(sentence, kind | PlainSentence) for sentence in sentences):
      raise ValueError(f"a vocabulary for {self.task} encodes {kind.__name__}s; build another one")
    ids = sentence_ids(sentences) if ids is None else ids
    longest = max((len(sentence.tokens) for sentence in sentences), default=0)
    shape = (len(sentences), default_bucket_lengths(longest)[-1])
    words, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    characters = np.zeros((*shape, self.max_characters), np.uint8)
    labels = [np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)]
    number_of = {word: number for number, word in enumerate(self.words, _RESERVED)}
    spelling_of: dict[str, np.ndarray] = {}
    for row, sentence in enumerate(sentences):
      length = len(sentence.tokens)
      mask[row, :length] = True
      words[row, :length] = [number_of.get(self.normalise(one), 1) for one in sentence.tokens]
      for position, token in enumerate(sentence.tokens):
        if token not in spelling_of:
          spelling_of[token] = self._spell(token)
        characters[row, position] = spelling_of[token]
      if isinstance(sentence, PlainSentence):
        continue
      for array, numbers in zip(labels, self._number_labels(sentence), strict=False):
        array[row, :length] = numbers
    inputs = Tokens(words, characters, mask)
    gold = labels[0] if self.task == "tagging" else Tree(*labels)
    labelled = np.array([not isinstance(one, PlainSentence) for one in sentences], bool)
    return SequenceDataset(name, version, split, inputs, gold, ids, None, bucket_lengths, labelled)

  @functools.cached_property
  def _character_numbers(self) -> dict[str, int]:
    return {character: number for number, character in enumerate(self.characters, _RESERVED)}

  @functools.cached_property
  def _label_numbers(self) -> dict[str, int]:
    names = self.tag_names if self.task == "tagging" else self.labels
    return {label: number for number, label in enumerate(names)}

  def _spell(self, token: str) -> np.ndarray:
    """[c] uint8 character numbers of a token."""
    numbers = [self._character_numbers.get(one, 1) for one in token[: self.max_characters]]
    return np.array(numbers + [0] * (self.max_characters - len(numbers)), np.uint8)

  def _number_labels(self, sentence: TaggedSentence | ParsedSentence) -> tuple[list, ...]:
    """(tags,) of a tagged sentence; (heads, relations, punctuation) of a parsed one."""
    numbers = self._label_numbers
    if isinstance(sentence, TaggedSentence):
      return ([numbers.get(tag, UNSEEN_TAGS.get(tag[0], 0)) for tag in sentence.tags],)
    relations = [numbers.get(relation, UNSEEN) for relation in sentence.relations]
    return list(sentence.heads), relations, [upos in _PUNCTUATION for upos in sentence.upos]

  def number_parsing_tags(self, tree: Tree, mask: np.ndarray) -> np.ndarray:
    """Numbers the gold (offset, relation) pair of every token.

    Args:
      tree: heads and relations [..., n].
      mask: [..., n] bool, True for tokens.

    Returns:
      [..., n] int32 in [0, L); -1 (`UNSEEN`) for pairs that are no parsing tag, 0 for padding.
    """
    heads, relations = np.asarray(tree.heads), np.asarray(tree.relations)
    length = heads.shape[-1]
    offsets = np.where(heads == 0, 0, heads - np.arange(1, length + 1))
    table = np.full((2 * length + 1, len(self.labels) + 1), UNSEEN, np.int32)
    for number, (offset, relation) in enumerate(self.parsing_tags):
      if abs(offset) <= length:
        table[offset + length, relation] = number
    return np.where(mask, table[offsets + length, relations], 0).astype(np.int32)

  def to_json(self) -> dict[str, Any]:
    """Returns the vocabulary as plain dicts, lists, strings and numbers."""
    return {"format": _FORMAT, **json.loads(json.dumps(asdict(self)))}

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> "Vocabulary":
    """Rebuilds a vocabulary from what `to_json` returned.

    Args:
      data: the plain dict.

    Raises:
      ValueError: another format, or fields missing, unknown or malformed.
    """
    names = {field.name for field in fields(cls)}
    if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
      raise ValueError(f"not a vocabulary of format {_FORMAT}; build it again from the data")
    if set(data) != names | {"format"}:
      wrong = ", ".join(sorted(set(data) ^ (names | {"format"})))
      raise ValueError(f"vocabulary fields missing or unknown: {wrong}; build it again")
    values = {name: data[name] for name in names}
    for name in ("words", "characters", "labels"):
      values[name] = tuple(values[name])
      if not all(isinstance(one, str) for one in values[name]) or (
        len(set(values[name])) < len(values[name])
      ):
        raise ValueError(f"vocabulary {name} repeat or are no strings; build it again")
    if values["task"] not in TASKS or len(values["characters"]) > _MOST_CHARACTERS:
      raise ValueError("vocabulary of an unknown task or with over 254 characters; build it again")
    values["parsing_tags"] = tuple(tuple(map(int, pair)) for pair in values["parsing_tags"])
    if not all(0 <= relation < len(values["labels"]) for _, relation in values["parsing_tags"]):
      raise ValueError("vocabulary parsing_tags name relations it has not; build it again")
    return cls(**values)

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 of all fields, as hex."""
    return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def _commonest(counts: Counter) -> list:
  """Keys by falling count, equal ones in their own order."""
  return sorted(counts, key=lambda key: (-counts[key], key))


def _offsets_and_relations(sentence: ParsedSentence) -> list[tuple[int, str]]:
  arcs = enumerate(zip(sentence.heads, sentence.relations, strict=True), 1)
  return [(head - dependent if head else 0, relation) for dependent, (head, relation) in arcs]
