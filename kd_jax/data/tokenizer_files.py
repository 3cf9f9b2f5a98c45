"""Tokenizers in the files that models come with."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kd_jax._extras import extra
from kd_jax._text_files import parse_json, read_text

if TYPE_CHECKING:
  import tokenizers

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_BLANK = "\r\n\t "
# Settings of tokenizer_config.json, and what the tokenizers library calls them.
_NORMALIZER = {
  "do_lower_case": "lowercase",
  "strip_accents": "strip_accents",
  "tokenize_chinese_chars": "handle_chinese_chars",
}


def read_tokenizer(
  folder: str | Path,
) -> tuple["tokenizers.Tokenizer", list[str], list[str]]:
  """Reads the tokenizer of a model in the form of Hugging Face.

  Args:
    folder: with tokenizer.json; or vocab.txt; or vocab.json and merges.txt. The first is taken.

  Returns:
    (tokenizer, names that the settings next to it give to the padding token, notes for the user).

  Raises:
    ValueError: none of these files, one that cannot be read, or some that contradict each other.
  """
  folder = Path(folder).expanduser()
  config = _settings(folder / "tokenizer_config.json")
  special = _read_json(folder / "special_tokens_map.json")
  named = [_name(settings.get("pad_token")) for settings in (config, special)]
  pad_tokens = [name for name in named if name]
  if (file := folder / "tokenizer.json").is_file():
    return _as_set(parse_tokenizer(_read(file), file), config), pad_tokens, []
  notes: list[str] = []
  if (file := folder / "vocab.txt").is_file():
    tokens = _read(file).rstrip(_BLANK).split("\n")
    vocabulary = {token.rstrip("\r"): number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
      notes.append(
        f"{len(tokens) - len(vocabulary):,} lines of {file} repeat a subword, which has the last number"
      )
    if "do_lower_case" not in config:
      notes += _cased_notes(vocabulary, folder)
    inner = word_piece(vocabulary, config, file)
  elif (file := folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
    inner = byte_level(file, folder / "merges.txt", config)
  else:
    raise ValueError(
      f"no tokenizer in {folder}: looked for tokenizer.json, for vocab.txt, and for vocab.json with "
      "merges.txt; copy those of the model there"
    )
  _add_tokens(inner, folder, config, special)
  return inner, pad_tokens, notes


def _cased_notes(vocabulary: Mapping[str, int], folder: Path) -> list[str]:
  """A note about subwords that lower-cased texts never use."""
  cased = [token for token in vocabulary if token != token.lower() and token not in BERT_SPECIAL]
  cased = [token for token in cased if not (token.startswith("[") and token.endswith("]"))]
  if len(cased) * 100 < len(vocabulary):
    return []
  return [
    f"texts are lower-cased, but {len(cased):,} of {len(vocabulary):,} subwords of {folder / 'vocab.txt'} have "
    'capitals: write {"do_lower_case": false} to tokenizer_config.json if the model is cased'
  ]


def _settings(file: Path) -> dict:
  """The settings that a file states; null is as good as none."""
  config = {name: value for name, value in _read_json(file).items() if value is not None}
  for name in (*_NORMALIZER, "add_prefix_space"):
    if not isinstance(config.get(name, False), bool):
      raise ValueError(f"{file} says {name} {config[name]!r}: write true or false")
  return config


def _as_set(inner: "tokenizers.Tokenizer", config: Mapping) -> "tokenizers.Tokenizer":
  """What tokenizer_config.json states goes before what tokenizer.json does, as in transformers."""
  with extra("data"):
    from tokenizers import normalizers, pre_tokenizers

  for part, kind, names in (
    (inner.normalizer, normalizers.BertNormalizer, _NORMALIZER),
    (inner.pre_tokenizer, pre_tokenizers.ByteLevel, {"add_prefix_space": "add_prefix_space"}),
  ):
    if isinstance(part, kind):
      for name, own in names.items():
        if name in config:
          setattr(part, own, config[name])
  return inner


def _add_tokens(
  inner: "tokenizers.Tokenizer", folder: Path, config: Mapping, special: Mapping
) -> None:
  """Adds what a model learnt beyond the files of its vocabulary.

  Raises:
    ValueError: a token that would not have the number by which the model knows it.
  """
  with extra("data"):
    from tokenizers import AddedToken

  names = {_name(t) for said in (config, special) for t in said.values() if _is_token(t)}
  plain = {
    number: {"content": name, "normalized": name not in names, "special": name in names}
    for name, number in _read_json(folder / "added_tokens.json").items()
  }
  try:
    given = {**plain, **config.get("added_tokens_decoder", {})}
    listed = {int(number): AddedToken(**_fields(token)) for number, token in given.items()}
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"cannot read the added tokens in {folder}: {error}; copy them again"
    ) from error
  for number, token in sorted(listed.items()):
    (inner.add_special_tokens if token.special else inner.add_tokens)([token])
    found = inner.token_to_id(token.content)
    if found != number:
      raise ValueError(
        f"{folder} has the added token {token.content!r} as number {number}, its vocabulary as {found}: "
        "copy all files of the tokenizer from one model"
      )


def _is_token(value: object) -> bool:
  return isinstance(value, str) or (isinstance(value, Mapping) and "content" in value)


def _fields(token: Mapping) -> dict:
  if not isinstance(token, Mapping) or "content" not in token:
    raise ValueError(f"{token!r:.60} is no token with its content")
  return {name: value for name, value in token.items() if name != "__type"}


def parse_tokenizer(text: str, source: str | Path) -> "tokenizers.Tokenizer":
  """Restores a tokenizer from the text of a tokenizer.json.

  Args:
    text: of the file.
    source: what it is called in messages.

  Raises:
    ValueError: it cannot be parsed.
  """
  with extra("data"):
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
  with extra("data"):
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
  with extra("data"):
    import tokenizers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

  vocabulary = _read_json(vocab_file)
  missing = [token for token in _ROBERTA_SPECIAL if token not in vocabulary]
  if missing:
    raise ValueError(f"{vocab_file} lacks {', '.join(missing)}; it is none of RoBERTa's kind")
  lines = [line.rstrip("\r") for line in _read(merges_file).rstrip(_BLANK).split("\n")]
  merges = []
  for number, line in enumerate(lines, 1):
    first, space, second = line.partition(" ")
    if space and " " not in second and not line.startswith("#version"):
      merges.append((first, second))
    elif line and not line.startswith("#version"):
      raise ValueError(
        f"{merges_file}:{number}: {line!r:.40} is not a pair to merge; copy it again"
      )
  try:
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
  except Exception as error:  # the library raises bare exceptions
    reason = " ".join(str(error).split())
    raise ValueError(f"cannot read {merges_file}: {reason}; copy it again") from error
  inner.add_special_tokens(list(_ROBERTA_SPECIAL))
  if "<mask>" in vocabulary:
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
  add_prefix_space = bool(config.get("add_prefix_space", False))
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
  end, start = ((token, vocabulary[token]) for token in ("</s>", "<s>"))
  inner.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=add_prefix_space)
  inner.decoder = decoders.ByteLevel()
  return inner


def _read(file: Path) -> str:
  """The text of a file; a mark within it may be a subword of its own."""
  return read_text(file, inner_marks=False).text


def _read_json(file: Path) -> dict:
  """A JSON object; empty where there is no such file."""
  if not file.is_file():
    return {}
  text = _read(file)
  try:
    content = parse_json(text)
  except ValueError as error:
    raise ValueError(f"cannot read {file}: {error}; copy it again") from error
  if not isinstance(content, dict):
    raise ValueError(f"cannot read {file}: it is no JSON object; copy it again")
  return content


def _name(token: str | Mapping | None) -> str | None:
  """Settings have a token as its name, or as an object with the name as its content."""
  return token.get("content") if isinstance(token, Mapping) else token
