"""Tokenizers in the files that models come with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import tokenizers

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def read_tokenizer(folder: str | Path) -> tuple["tokenizers.Tokenizer", list[str]]:
  """Reads the tokenizer of a model in the form of Hugging Face.

  Args:
    folder: with tokenizer.json; or vocab.txt; or vocab.json and merges.txt. The first is taken.

  Returns:
    (tokenizer, names that the settings beside it give to the padding token).

  Raises:
    ValueError: none of these files, or one that cannot be read.
  """
  folder = Path(folder).expanduser()
  config, special = (
    _read_json(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json")
  )
  pad_tokens = [_name(settings.get("pad_token")) for settings in (config, special)]
  pad_tokens = [name for name in pad_tokens if name]
  if (file := folder / "tokenizer.json").is_file():
    return parse_tokenizer(_read(file), file), pad_tokens
  if (file := folder / "vocab.txt").is_file():
    tokens = _read(file).removesuffix("\n").split("\n")
    vocabulary = {token.rstrip("\r"): number for number, token in enumerate(tokens)}
    return word_piece(vocabulary, config, file), pad_tokens
  if (file := folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
    return byte_level(file, folder / "merges.txt", config), pad_tokens
  raise ValueError(
    f"no tokenizer in {folder}: looked for tokenizer.json, for vocab.txt, and for vocab.json with "
    "merges.txt; copy those of the model there"
  )


def parse_tokenizer(text: str, source: str | Path) -> "tokenizers.Tokenizer":
  """Restores a tokenizer from the text of a tokenizer.json.

  Args:
    text: of the file.
    source: what it is called in messages.

  Raises:
    ValueError: it cannot be parsed.
  """
  import tokenizers

  try:
    return tokenizers.Tokenizer.from_str(text)
  except Exception as error:  # the library raises bare exceptions
    reason = " ".join(str(error).split())
    raise ValueError(f"cannot read {source}: {reason}; copy it again") from error


def word_piece(
  vocabulary: Mapping[str, int],
  config: Mapping | None = None,
  source: str | Path = "the vocabulary",
) -> "tokenizers.Tokenizer":
  """Builds BERT's tokenizer over a vocabulary.

  Args:
    vocabulary: subword -> id.
    config: settings `do_lower_case` (default True), `strip_accents` (None: as lower case) and
      `tokenize_chinese_chars` (True).
    source: what the vocabulary is called in messages.

  Raises:
    ValueError: special tokens that are missing.

  >>> vocabulary = {token: number for number, token in enumerate([*BERT_SPECIAL, "tea", "##s"])}
  >>> word_piece(vocabulary).encode("Teas").tokens
  ['[CLS]', 'tea', '##s', '[SEP]']
  """
  import tokenizers
  from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

  config = config or {}
  missing = [token for token in BERT_SPECIAL[:4] if token not in vocabulary]
  if missing:
    raise ValueError(f"{source} lacks {', '.join(missing)}; it is no vocabulary of BERT's kind")
  inner = tokenizers.Tokenizer(models.WordPiece(dict(vocabulary), unk_token="[UNK]"))
  inner.add_special_tokens([token for token in BERT_SPECIAL if token in vocabulary])
  inner.normalizer = normalizers.BertNormalizer(
    lowercase=bool(config.get("do_lower_case", True)),
    strip_accents=config.get("strip_accents"),
    handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
  )
  inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  ends = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
  inner.post_processor = processors.BertProcessing(*ends)
  inner.decoder = decoders.WordPiece()
  return inner


def byte_level(vocab_file: Path, merges_file: Path, config: Mapping) -> "tokenizers.Tokenizer":
  """Builds RoBERTa's tokenizer.

  Args:
    vocab_file: JSON object of subword -> id.
    merges_file: pairs to merge, one a line, the first merged first.
    config: setting `add_prefix_space` (default False).

  Raises:
    ValueError: files that cannot be read, or special tokens that are missing.
  """
  import tokenizers
  from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

  vocabulary = _read_json(vocab_file)
  missing = [token for token in _ROBERTA_SPECIAL if token not in vocabulary]
  if missing:
    raise ValueError(f"{vocab_file} lacks {', '.join(missing)}; it is none of RoBERTa's kind")
  try:
    inner = tokenizers.Tokenizer(models.BPE.from_file(str(vocab_file), str(merges_file)))
  except Exception as error:  # the library raises bare exceptions
    reason = " ".join(str(error).split())
    raise ValueError(f"cannot read {merges_file}: {reason}; copy it again") from error
  inner.add_special_tokens(list(_ROBERTA_SPECIAL))
  if "<mask>" in vocabulary:
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
  add_prefix_space = bool(config.get("add_prefix_space", False))
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
  inner.post_processor = processors.RobertaProcessing(
    *((token, vocabulary[token]) for token in ("</s>", "<s>")), add_prefix_space=add_prefix_space
  )
  inner.decoder = decoders.ByteLevel()
  return inner


def _read(file: Path) -> str:
  try:
    return file.read_bytes().decode("utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"cannot read {file}: {error}; copy it again") from error


def _read_json(file: Path) -> dict:
  """A JSON object; empty where there is no such file."""
  if not file.is_file():
    return {}
  try:
    content = json.loads(_read(file))
  except json.JSONDecodeError as error:
    raise ValueError(f"cannot read {file}: {error}; copy it again") from error
  if not isinstance(content, dict):
    raise ValueError(f"cannot read {file}: it is no JSON object; copy it again")
  return content


def _name(token: str | Mapping | None) -> str | None:
  """Settings have a token as its name, or as an object with the name as its content."""
  return token.get("content") if isinstance(token, Mapping) else token
