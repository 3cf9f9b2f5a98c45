"""Texts to subwords, by the tokenizer in the model's own folder."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kd_jax._extras import extra
from kd_jax._sizes import is_whole
from kd_jax.data.tokenizer_files import BERT_SPECIAL, parse_tokenizer, read_tokenizer, word_piece
from kd_jax.types import Subwords

if TYPE_CHECKING:
  import tokenizers

_CHUNK = 1024
_SMALLEST_VOCABULARY = 64


class Encoded(NamedTuple):
  """Encoded texts.

  Attributes:
    subwords: NumPy arrays [N, n], n the length of the longest.
    truncated: how many examples were over-long and lost their end.
    empty: how many examples have a text without any subword.
  """

  subwords: Subwords
  truncated: int
  empty: int


class Tokenizer:
  """A tokenizer of the `tokenizers` library that truncates to `max_length` and makes padding masks.

  Special tokens are put in by the tokenizer's own post-processor. Of a pair that is over-long, the
  longer text is cut first. An empty or blank text is no error: its special tokens stand alone, as in
  ``[CLS][SEP]``, and it is counted.

  Attributes:
    max_length: n at most, special tokens included.
    pad_id: the id that fills up short texts.
    vocab_size: the largest id + 1, added tokens included.
    notes: what a user should know of its files, a line each.
  """

  def __init__(
    self,
    inner: "tokenizers.Tokenizer",
    *,
    max_length: int | None = 128,
    pad_tokens: Sequence[str] = (),
    notes: Sequence[str] = (),
  ):
    """Wraps a tokenizer; truncation and padding that it brings along are replaced.

    Args:
      inner: of the `tokenizers` library.
      max_length: n at most; None takes the one that `inner` stores.
      pad_tokens: names of the padding token to try, before those that are usual.
      notes: see the attribute.

    Raises:
      ValueError: no special tokens, no token for padding, or too small a `max_length`.
    """
    stored = inner.padding or {}
    if max_length is None:
      max_length = (inner.truncation or {}).get("max_length", 128)
    vocabulary = inner.get_vocab(with_added_tokens=True)
    names = [*pad_tokens, stored.get("pad_token"), "[PAD]", "<pad>"]
    pad_token = next((name for name in names if name in vocabulary), None)
    if pad_token is None:
      raise ValueError(
        "the tokenizer has no token for padding, neither [PAD] nor <pad>; name one as pad_token in "
        "its tokenizer_config.json"
      )
    self.pad_id = vocabulary[pad_token]
    inner.enable_padding(pad_id=self.pad_id, pad_token=pad_token)
    single, pair = (inner.num_special_tokens_to_add(is_pair) for is_pair in (False, True))
    if not single:
      raise ValueError(
        "the tokenizer adds no special tokens such as [CLS], which text encoders read; give its "
        "tokenizer.json a post_processor"
      )
    if not is_whole(max_length, pair + 2):
      raise ValueError(
        f"max_length={max_length} leaves no room for a pair of texts beside its {pair} special "
        f"tokens; choose at least {pair + 2}"
      )
    inner.enable_truncation(max_length, strategy="longest_first")
    self.max_length, self.notes = max_length, tuple(notes)
    self._json = inner.to_str()
    inner.no_padding()
    self._inner, self._specials = inner, single
    used = inner.encode("", "").ids
    self.vocab_size = max(*vocabulary.values(), *used) + 1

  @classmethod
  def from_folder(cls, folder: str | Path, *, max_length: int = 128) -> "Tokenizer":
    """Reads the tokenizer of a model in the form of Hugging Face.

    That is tokenizer.json; else vocab.txt (WordPiece, as BERT's), with `do_lower_case`,
    `strip_accents` and `tokenize_chinese_chars` of tokenizer_config.json; else vocab.json and
    merges.txt (byte-level BPE, as RoBERTa's), with `add_prefix_space`. These settings go before those in
    tokenizer.json; to a vocabulary come the added tokens of tokenizer_config.json or added_tokens.json.

    Args:
      folder: of the model.
      max_length: n at most, special tokens included.

    Raises:
      ValueError: none of these files, one that cannot be read, or added tokens of other numbers.
    """
    inner, pad_tokens, notes = read_tokenizer(folder)
    return cls(inner, max_length=max_length, pad_tokens=pad_tokens, notes=notes)

  @classmethod
  def train(
    cls, texts: Iterable[str], *, vocab_size: int = 2000, max_length: int = 128
  ) -> "Tokenizer":
    """Learns WordPiece subwords with BERT's special tokens; the same texts give the same ones.

    Rare characters that would fill over half of the vocabulary are left out, as unknown.

    Args:
      texts: of the training examples.
      vocab_size: how many subwords at most, special tokens included.
      max_length: n at most, special tokens included.

    Returns:
      An uncased tokenizer.

    Raises:
      ValueError: texts without words, or too small a vocabulary.

    >>> tokenizer = Tokenizer.train(["good soup", "bad soup"] * 9)
    >>> tokenizer.encode(["soup", "Bad, good"]).subwords.mask.astype(int).tolist()
    [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    """
    with extra("data"):
      import tokenizers
      from tokenizers import models, pre_tokenizers, trainers

    if not is_whole(vocab_size, _SMALLEST_VOCABULARY):
      raise ValueError(
        f"vocab_size={vocab_size} is too small; choose {_SMALLEST_VOCABULARY} or more"
      )
    splitter = word_piece({token: i for i, token in enumerate(BERT_SPECIAL)})
    words: Counter[str] = Counter()
    for text in texts:
      _check_text(text)
      normal = splitter.normalizer.normalize_str(text)
      words.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(normal))
    characters: Counter[str] = Counter()
    for word, count in words.items():
      characters.update(dict.fromkeys(word, count))
    if not characters:
      raise ValueError("there are no words in the training texts to learn subwords from")
    kept = sorted(characters, key=lambda one: (-characters[one], one))[: vocab_size // 4]
    known = sorted(word for word in words if set(word) <= set(kept))
    # The library numbers what continues a word in no fixed order, unless it is given beforehand.
    given = [*BERT_SPECIAL, *sorted(kept), *sorted(f"##{one}" for one in kept)]
    learner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
      vocab_size=vocab_size, min_frequency=2, special_tokens=given, show_progress=False
    )
    learner.train_from_iterator((" ".join([word] * words[word]) for word in known), trainer)
    inner = word_piece(learner.get_vocab(with_added_tokens=False))
    return cls(inner, max_length=max_length)

  @classmethod
  def from_json(cls, text: str) -> "Tokenizer":
    """Restores what `to_json` returned; raises ValueError where it cannot be parsed."""
    return cls(parse_tokenizer(text, "the stored tokenizer"), max_length=None)

  def to_json(self) -> str:
    """The whole tokenizer, `max_length` included, as the text of a tokenizer.json."""
    return self._json

  def save(self, folder: str | Path) -> Path:
    """Writes tokenizer.json and tokenizer_config.json into a folder, made where absent.

    Together they give transformers the same ids, types and truncation.

    Args:
      folder: where to.

    Returns:
      The path of tokenizer.json.
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tokenizer.json"
    file.write_text(self._json, encoding="utf-8")
    ends = self._inner.encode("").tokens
    roles: dict[str, Sequence[str | None]] = {
      "pad_token": [self._inner.id_to_token(self.pad_id)],
      "cls_token": ends[:1],
      "sep_token": ends[-1:],
      "unk_token": ("[UNK]", "<unk>"),
      "mask_token": ("[MASK]", "<mask>"),
    }
    known = self.vocabulary
    settings = {
      "tokenizer_class": "PreTrainedTokenizerFast",
      "model_max_length": self.max_length,
      "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
      **{role: name for role, names in roles.items() for name in names if name in known},
    }
    settings_file = folder / "tokenizer_config.json"
    settings_file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return file

  @property
  def digest(self) -> str:
    """SHA-256 of what gives a text its ids, as hex; `max_length` and padding have no part in it."""
    content = {**json.loads(self._json), "padding": None, "truncation": None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

  @property
  def vocabulary(self) -> dict[str, int]:
    """The number of each subword, added ones included."""
    return self._inner.get_vocab(with_added_tokens=True)

  @property
  def unknown_id(self) -> int | None:
    """The number of the subword that stands for what has none; None if the tokenizer has no such subword."""
    name = getattr(self._inner.model, "unk_token", None)
    return None if name is None else self._inner.token_to_id(name)

  def encode(self, firsts: Sequence[str], seconds: Sequence[str] | None = None) -> Encoded:
    """Encodes texts, or pairs of texts.

    Args:
      firsts: N texts.
      seconds: N texts that go with them, or None.

    Returns:
      Subwords padded at their end to the longest, and how many examples were truncated or empty.

    Raises:
      ValueError: unequal numbers of texts, one text in place of several, something else than a text, or half of
        a surrogate pair.
    """
    if isinstance(firsts, str) or isinstance(seconds, str):
      raise ValueError("encode takes a list of texts, got one str; write [text]")
    if seconds is not None and len(firsts) != len(seconds):
      raise ValueError(f"{len(firsts)} first texts but {len(seconds)} second ones; give pairs")
    for one in (*firsts, *(seconds or ())):
      if not isinstance(one, str):
        raise ValueError(f"encode takes texts, got {type(one).__name__} {one!r:.40}; leave it out")
      _check_text(one)
    texts = list(firsts) if seconds is None else list(zip(firsts, seconds, strict=True))
    ids, types, lengths, truncated, empty = [], [], [], 0, 0
    for start in range(0, len(texts), _CHUNK):
      encodings = self._inner.encode_batch_fast(texts[start : start + _CHUNK])
      for encoding in encodings:
        lengths.append(len(encoding.ids))
        truncated += bool(encoding.overflowing)
        empty += self._is_empty(encoding, seconds is not None)
      ids.append(np.array([i for encoding in encodings for i in encoding.ids], np.int32))
      types.append(np.array([i for encoding in encodings for i in encoding.type_ids], np.int32))
    mask = np.arange(max(lengths, default=0)) < np.array(lengths, int)[:, None]
    padded_ids = np.full(mask.shape, self.pad_id, np.int32)
    padded_types = np.zeros(mask.shape, np.int32)
    if texts:
      padded_ids[mask], padded_types[mask] = np.concatenate(ids), np.concatenate(types)
    return Encoded(Subwords(padded_ids, padded_types, mask), truncated, empty)

  def _is_empty(self, encoding: "tokenizers.Encoding", is_pair: bool) -> bool:
    if not is_pair:
      return len(encoding.ids) == self._specials
    return not {0, 1} <= set(encoding.sequence_ids)


def _check_text(text: str) -> None:
  """Refuses what no file in UTF-8 can hold, and what the tokenizers library has no words for."""
  if text.isascii():
    return
  try:
    text.encode()
  except UnicodeEncodeError as error:
    place = ascii(text[max(error.start - 10, 0) : error.start + 10])
    raise ValueError(f"a text has half of a surrogate pair, in {place}; correct it") from error


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
  """Checks that every id has a row in the embedding; rows that no id reads do no harm.

  Args:
    tokenizer: that makes the ids.
    vocab_size: rows of the embedding.

  Raises:
    ValueError: ids that exceed the embedding.

  >>> check_vocabulary(Tokenizer.train(["good soup"]), 10)
  Traceback (most recent call last):
  ...
  ValueError: the tokenizer has ids up to 16, the embedding rows for ids up to 9; take both from one folder
  """
  if tokenizer.vocab_size > vocab_size:
    raise ValueError(
      f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, the embedding rows for ids up to "
      f"{vocab_size - 1}; take both from one folder"
    )
