"""Corpus files: what is read, what is refused and where, samples, prepared and real corpora."""

import random
from pathlib import Path

import numpy as np
import pytest

from kd_jax.data import corpora
from kd_jax.data.columns import read_columns
from kd_jax.data.conllu import find_tree_error, read_conllu
from kd_jax.data.corpora import load_parsing, load_tagging
from kd_jax.data.quiet import quiet_tfds
from kd_jax.data.sources import DatasetNotPrepared
from kd_jax.data.tag_schemes import spans
from kd_jax.data.unlabelled_sentences import read_plain_sentences

SAMPLES = Path(corpora.__file__).parent / "samples"


@pytest.fixture
def write(tmp_path):
  def write(text, name="corpus.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path

  return write


def _word(number, head, relation="dep", form="word", upos="NOUN"):
  return f"{number}\t{form}\t_\t{upos}\t_\t_\t{head}\t{relation}\t_\t_\n"


def _tree(*heads):
  return "".join(_word(number, head) for number, head in enumerate(heads, 1)) + "\n"


# Column files.

GOOD = "EU B-ORG\nrejects O\n\nPeter B-PER\nBlackburn I-PER\n"


def test_sentences_end_at_blank_lines_and_tags_become_bioes(write):
  first, second = read_columns(write(GOOD)).sentences
  assert first.tokens == ("EU", "rejects")
  assert first.tags == ("S-ORG", "O")
  assert second.tags == ("B-PER", "E-PER")


@pytest.mark.parametrize(
  "text",
  [
    GOOD.replace("\n", "\r\n"),
    "\ufeff" + GOOD,
    GOOD.replace(" ", "\t"),
    GOOD.replace(" ", "   "),
    "\n\n \n" + GOOD.replace("\n\n", "\n \n\t\n\n") + "\n\n",
    "-DOCSTART- O\n\n" + GOOD,
    "-DOCSTART- -X- -X- O\n" + GOOD.replace("\n\n", "\n-DOCSTART-\n"),
    GOOD.replace("B-ORG", "S-ORG").replace("I-PER", "E-PER"),
    GOOD.replace("B-", "I-"),
    "#begin document (a); part 0\n\n# id 8f3e\tdomain=en\n# text EU rejects\n" + GOOD,
  ],
)
def test_the_same_sentences_in_other_clothes(write, text):
  assert read_columns(write(text)) == read_columns(write(GOOD, "plain.txt"))


def test_columns_may_stand_anywhere(write):
  path = write("B-ORG 1 EU x\nO 2 rejects x\n\nB-PER 3 Peter x\nI-PER 4 Blackburn x\n")
  wanted = read_columns(write(GOOD, "plain.txt"))
  assert read_columns(path, token_column=2, tag_column=0) == wanted
  assert read_columns(path, token_column=-2, tag_column=-4) == wanted
  for token, tag in ((0, 0), (0, 4), (-5, 0), (3, -1)):
    with pytest.raises(
      ValueError, match=rf"4 columns, .* token_column={token} and tag_column={tag};"
    ):
      read_columns(path, token_column=token, tag_column=tag)


@pytest.mark.parametrize("between", [" ", "\t", "\tNN\t"])
def test_a_number_sign_may_be_a_token(write, between):
  text = f"# comment\n#{between}O\n1{between}O\n\n# a second comment of words\nNo.{between}O\n#{between}O\n"
  sentences = read_columns(write(text)).sentences
  assert [sentence.tokens for sentence in sentences] == [("#", "1"), ("No.", "#")]


def test_white_space_within_tokens_is_kept(write):
  text = "a\u2028b O\nc\x0cd O\n\u00a0e O\n\nNew York\tB-LOC\n"
  sentences = read_columns(write(text)).sentences
  assert [one.tokens for one in sentences] == [("a\u2028b", "c\x0cd", "\u00a0e"), ("New York",)]


def test_other_encodings(write):
  path = write("Señor B-PER\n".encode("latin-1"))
  assert read_columns(path, encoding="latin-1").sentences[0].tokens == ("Señor",)
  with pytest.raises(ValueError, match=r"1: byte 0xf1 at column 3 is not utf-8"):
    read_columns(path)
  with pytest.raises(ValueError, match="unknown encoding 'utf-9'"):
    read_columns(path, encoding="utf-9")


@pytest.mark.parametrize(
  ("bad", "line", "message"),
  [
    (b"EU\n", 5, "expected 2 columns, got 1"),
    (b"EU NNP O\n", 5, "expected 2 columns, got 3"),
    (b"ok O\nEU\n", 6, "expected 2 columns, got 1"),
    (b"ok O\n#1\n", 6, "expected 2 columns, got 1"),
    (b"ok O\n\tO\n", 6, "empty token"),
    (b"ok\t\n", 5, "'' is no BIO2 tag"),
    (b"ok o\n", 5, "'o' is no BIO2 tag"),
    (b"ok O\nEU I-ORG\n", 6, "I-ORG after O is not BIO2"),
    (b"ok B-PER\nEU I-ORG\n", 6, "I-ORG after B-PER is not BIO2"),
    (b"ok I-PER\n", 5, "I-PER after the start is not BIO2"),
    (b"ok O\nE\xffU O\n", 6, "byte 0xff at column 2 is not utf-8"),
    (b"\xff\xfe O\n", 5, "byte 0xff at column 1 is not utf-8"),
  ],
)
def test_malformed_sentences_are_found_with_their_line(write, bad, line, message):
  good = b"EU B-ORG\nrejects O\nPeter B-PER\n\n"
  path = write(good + bad + b"\n" + good + good)
  with pytest.raises(ValueError, match="1 malformed sentence in ") as caught:
    read_columns(path)
  assert f"{path}:{line}: {message}" in str(caught.value)
  assert "\n" not in str(caught.value)
  kept, problems, _ = read_columns(path, skip_malformed=True)
  assert [sentence.tokens for sentence in kept] == [("EU", "rejects", "Peter")] * 3
  assert [(problem.file, problem.line) for problem in problems] == [(str(path), line)]


@pytest.mark.parametrize(
  ("tags", "line", "message"),
  [
    ("B-PER O", 1, "B-PER before O is not BIOES"),
    ("O B-PER", 2, "B-PER before the end is not BIOES"),
    ("B-PER I-PER", 2, "I-PER before the end is not BIOES"),
    ("B-PER E-LOC", 1, "B-PER before E-LOC is not BIOES"),
    ("O E-PER", 2, "E-PER after O is not BIOES"),
    ("S-PER I-PER", 2, "I-PER after S-PER is not BIOES"),
  ],
)
def test_malformed_bioes(write, tags, line, message):
  path = write("".join(f"word {tag}\n" for tag in tags.split()))
  with pytest.raises(ValueError, match=f"{line}: {message}"):
    read_columns(path, scheme="BIOES")


def test_all_problems_are_counted_and_three_shown(write):
  path = write(GOOD + "\n" + "word I-PER\n\n" * 3 + "word\n\nword O\n")
  with pytest.raises(ValueError, match="4 malformed sentences") as caught:
    read_columns(path, scheme="BIO2")
  shown = str(caught.value)
  assert [shown.count(f"{path}:{line}:") for line in (7, 9, 11, 13)] == [1, 1, 1, 0]
  assert "; …" in shown
  problems = read_columns(path, scheme="BIO2", skip_malformed=True).problems
  assert [problem.line for problem in problems] == [7, 9, 11, 13]


def test_a_scheme_may_be_named(write):
  path = write("Peter I-PER\n")
  assert read_columns(path).sentences[0].tags == ("S-PER",)  # BIO (IOB1) is all that fits
  with pytest.raises(ValueError, match="I-PER after the start is not BIO2"):
    read_columns(path, scheme="BIO2")
  with pytest.raises(ValueError, match="unknown tag scheme 'IOB2'"):
    read_columns(path, scheme="IOB2")


@pytest.mark.parametrize("read", [read_columns, read_conllu])
@pytest.mark.parametrize("text", ["", "\n\n", "# comment\n"])
@pytest.mark.parametrize("skip", [False, True])
def test_a_file_without_sentences_is_refused(write, read, text, skip):
  with pytest.raises(ValueError, match=r"no sentences in|without words|column"):
    read(write(text), skip_malformed=skip)


@pytest.mark.parametrize("read", [read_columns, read_conllu])
def test_files_that_cannot_be_opened(read, tmp_path):
  for path in (tmp_path / "absent.txt", tmp_path):
    with pytest.raises(ValueError, match=f"cannot read {path}: "):
      read(path)


def test_nothing_left_after_skipping_is_refused(write):
  with pytest.raises(ValueError, match=r"no sentences in .* but 1 malformed sentence: .*2 roots"):
    read_conllu(write(_tree(0, 0)), skip_malformed=True)


# CoNLL-U.


def test_only_words_are_kept(write):
  text = (
    "# sent_id = 1\n# text = don't\n1-2\tdon't"
    + "\t_" * 8
    + "\n"
    + _word(1, 2, "aux:pass", "do", "AUX")
    + "1.1\tghost"
    + "\t_" * 8
    + "\n"
    + _word(2, 0, "root", "n't", "PART")
  )
  (sentence,) = read_conllu(write(text)).sentences
  assert sentence.tokens == ("do", "n't")
  assert sentence.heads == (2, 0)
  assert sentence.relations == ("aux", "root")
  assert sentence.upos == ("AUX", "PART")
  (sentence,) = read_conllu(write(text), universal_relations=False).sentences
  assert sentence.relations == ("aux:pass", "root")


@pytest.mark.parametrize(
  ("bad", "line", "message"),
  [
    (_word(1, 0) + "2\tword\n", 5, "expected 10 columns divided by tabs, got 2"),
    (_word(1, 0).replace("\t", " "), 4, "expected 10 columns divided by tabs, got 1"),
    (_word(1, 0) + _word(3, 1), 5, "expected id 2, got '3'"),
    (_word(0, 0), 4, "expected id 1, got '0'"),
    (_word("one", 0), 4, "expected id 1, got 'one'"),
    (_word(1, 0) + _word(2, "_"), 5, "head '_' is not a whole number"),
    (_word(1, 0) + _word(2, "-1"), 5, "head '-1' is not a whole number"),
    (_word(1, 0) + _word(2, "1.0"), 5, "head '1.0' is not a whole number"),
    (_word(1, 0) + _word(2, "9" * 5000), 5, "is not a whole number"),
    (_word(1, 0) + _word(2, 3), 5, "head 3 in a sentence of 2 tokens"),
    (_word(1, 0) + _word(2, 0), 5, "2 roots, need one"),
    ("# text\n1-2\tx" + "\t_" * 8 + "\n" + _word(1, 0) + _word(2, 2), 7, "cycle 2 -> 2"),
    (_word(1, 2) + _word(2, 3) + _word(3, 1), 4, "cycle 1 -> 2 -> 3 -> 1"),
    (_word(1, 0) + _word(2, 1, form=""), 5, "empty token"),
    (_word(1, 0) + _word(2, 1, form="\u00a0"), 5, "empty token"),
    (_word(1, 0) + _word(2, 1, "_"), 5, "relation '_' is empty"),
    (_word(1, 0) + _word(2, 1, ":pass"), 5, "relation ':pass' is empty"),
    ("# only a comment\n", 4, "a sentence without words"),
  ],
)  # fmt: skip
def test_malformed_trees_are_found_with_their_line(write, bad, line, message):
  path = write(_tree(2, 0) + bad + "\n" + _tree(0))
  with pytest.raises(ValueError, match="1 malformed sentence in ") as caught:
    read_conllu(path)
  assert f"{path}:{line}: " in str(caught.value)
  assert message in str(caught.value)
  kept, problems, _ = read_conllu(path, skip_malformed=True)
  assert [sentence.heads for sentence in kept] == [(2, 0), (0,)]
  assert [problem.line for problem in problems] == [line]


def test_undecodable_bytes_in_a_tree(write):
  path = write(_tree(0).encode() + b"# caf\xe9\n" + _tree(0).encode())
  with pytest.raises(ValueError, match=r":3: byte 0xe9 at column 6 is not utf-8"):
    read_conllu(path)


# Files as people and programs leave them.

CONLLU = _tree(2, 0) + _tree(0, 1)


@pytest.mark.parametrize(("read", "text"), [(read_columns, GOOD), (read_conllu, CONLLU)])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_byte_order_marks(write, read, text, end):
  plain = read(write(text))
  again = text.replace("\n\n", "\n\n\ufeff", 1) + "\n \n"
  found = read(write("\ufeff" + again.replace("\n", end)))
  assert found.sentences == plain.sentences
  assert plain.notes == ()
  assert found.notes == (
    "corpus.txt has byte order marks within, at 1 line, which are left out: are files joined there?",
  )


@pytest.mark.parametrize("read", [read_columns, read_conllu, read_plain_sentences])
def test_returns_and_nul_within_lines_are_found_with_their_line(write, read):
  good = {read_columns: GOOD, read_conllu: CONLLU}.get(read, "a b\nc d\n")
  for character, message in (
    ("\r", "a carriage return within the line"),
    ("\0", "a NUL character"),
  ):
    path = write(good.replace("\n", character, 1), "a.txt")
    with pytest.raises(ValueError, match=rf"a\.txt:1: there is {message}"):
      read(path)


def test_encodings_without_ascii_are_refused(write):
  with pytest.raises(ValueError, match="unknown encoding 'utf-16'; write utf-8 or latin-1"):
    read_columns(write(GOOD.encode("utf-16")), encoding="utf-16")


def test_other_schemes_are_named(write):
  bilou = "Mona B-PER\nField L-PER\n\nOslo U-LOC\n\nIt O\n"
  with pytest.raises(
    ValueError, match=r"look like BILOU \(U- and L-\): write S- for U- and E- for L-"
  ):
    read_columns(write(bilou), skip_malformed=True)
  with pytest.raises(ValueError, match=r"look like BMES \(M-\): write I- for M-"):
    read_columns(write("Mona B-PER\nvan M-PER\nField E-PER\n\nIt O\n"))
  with pytest.raises(ValueError, match="correct the file, or name its scheme or its tag column"):
    read_columns(write("Mona b-PER\n\nIt O\n\nIt O\n"))


def _corpus(write, *splits):
  return [write(text, f"{name}.conll") for name, text in zip(corpora.SPLITS, splits, strict=True)]


def test_copies_across_splits_are_counted(write):
  files = _corpus(write, GOOD, "EU B-ORG\nrejects O\n", "Lyon B-LOC\n\nEU O\nrejects O\n")
  assert load_tagging(files).notes == (
    "1 of 1 validation sentences are among the training sentences",
    "1 of 2 test sentences are among the training sentences",
  )


def test_names_that_look_alike_and_invisible_characters_are_noted(write):
  files = _corpus(write, GOOD, "a B-ORG\n", "b B-ORG\u200b\nzero\u200bwidth O\n")
  assert load_tagging(files).notes == (
    "entity types 'ORG' and 'ORG\\u200b' of the corpus look alike: are they one?",
    "1 word holds an invisible character, such as 'zero\\u200bwidth': "
    "it is a word of its own to the vocabulary",
  )
  trees = _corpus(write, _word(1, 0, "root"), _word(1, 0, "root "), _word(1, 0, "Root"))
  assert load_parsing(trees).notes[-1] == (
    "relations 'Root' and 'root' of the corpus look alike, as do 1 more: are they one?"
  )


def test_trees_are_exactly_what_hangs_together_from_one_root():
  # Independently: powers of the arc matrix reach the root from everywhere, and one arc leaves it.
  for length in (1, 2, 3, 4):
    for number in range((length + 1) ** length):
      heads = [number // (length + 1) ** position % (length + 1) for position in range(length)]
      arcs = np.zeros((length + 1, length + 1), int)
      arcs[0, 0] = 1
      arcs[np.arange(1, length + 1), heads] = 1
      connected = (np.linalg.matrix_power(arcs, length)[:, 0] == 1).all()
      assert (find_tree_error(heads) is None) == (connected and heads.count(0) == 1), heads


# Loading.


def test_the_sample_of_entities():
  splits = load_tagging("sample", min_count=1)
  assert [len(split) for split in splits[:3]] == [48, 16, 16]
  assert [split.split for split in splits[:3]] == ["train", "validation", "test"]
  assert splits.vocabulary.labels == ("LOC", "MISC", "ORG", "PER")
  assert splits.problems == ()
  assert all((split.labels >= 0).all() for split in splits[:3])
  # Row by row against the file, read in another way.
  names = np.array(splits.vocabulary.tag_names)
  words = np.array(["", "?", *splits.vocabulary.words])
  train = splits.train
  decoded = {
    tuple(zip(words[train.inputs.words[row, :n]], names[train.labels[row, :n]], strict=True))
    for row, n in enumerate(train.lengths)
  }
  text = (SAMPLES / "tagging-train.conll").read_text()
  expected = set()
  for block in text.strip().split("\n\n"):
    lines = [line.split(" ") for line in block.split("\n")]
    following = [*(tag for _, tag in lines[1:]), "O"]
    tags = [
      {"BI": "B", "B": "S", "II": "I", "I": "E"}[tag[0] + "I" * (after[0] == "I")] + tag[1:]
      if tag != "O"
      else tag
      for (_, tag), after in zip(lines, following, strict=True)
    ]
    expected.add(tuple(zip([word.lower() for word, _ in lines], tags, strict=True)))
  assert {tuple((w, t) for w, t in row if not w.isdigit()) for row in decoded} == {
    tuple((w, t) for w, t in row if not w.isdigit()) for row in expected
  }


def test_the_sample_of_trees():
  splits = load_parsing("sample")
  assert [len(split) for split in splits[:3]] == [40, 12, 12]
  assert splits.problems == ()
  assert len(splits.vocabulary.labels) >= 20
  assert all((split.labels.relations >= 0).all() for split in splits[:3])
  for split in splits[:3]:
    for heads, n in zip(split.labels.heads, split.lengths, strict=True):
      arcs = [sorted((head, dependent)) for dependent, head in enumerate(heads[:n], 1)]
      assert (heads[:n] == 0).sum() == 1
      assert not any(a < c < b < d for a, b in arcs for c, d in arcs), "arcs cross"
  punctuation = splits.train.labels.punctuation
  assert (
    splits.train.labels.relations[punctuation] == splits.vocabulary.labels.index("punct")
  ).all()
  assert punctuation.any(axis=1).all()


@pytest.mark.parametrize("load", [load_tagging, load_parsing])
def test_splits_share_no_sentence(load):
  splits = load("sample")
  ids = [name for split in splits[:3] for name in split.ids]
  assert len(set(ids)) == len(ids)


def _shuffled(task, suffix, tmp_path):
  files = []
  for split in corpora.SPLITS:
    blocks = (SAMPLES / f"{task}-{split}.{suffix}").read_text().strip().split("\n\n")
    random.Random(0).shuffle(blocks)
    files.append(tmp_path / f"{split}.{suffix}")
    files[-1].write_text("\n\n".join(blocks) + "\n")
  return files


@pytest.mark.parametrize(
  ("load", "task", "suffix"),
  [(load_tagging, "tagging", "conll"), (load_parsing, "parsing", "conllu")],
)
def test_the_order_of_a_file_is_without_effect(load, task, suffix, tmp_path):
  files = _shuffled(task, suffix, tmp_path)
  for limit in (None, 10):
    ours, theirs = load("sample", limit=limit), load(files, limit=limit)
    assert ours.vocabulary == theirs.vocabulary
    assert [one.fingerprint for one in ours[:3]] == [one.fingerprint for one in theirs[:3]]
  assert theirs.train.name == f"train.{suffix}"


@pytest.mark.parametrize("load", [load_tagging, load_parsing])
def test_limits_are_nested_and_leave_the_other_splits_alone(load):
  whole, ten, five = load("sample"), load("sample", limit=10), load("sample", limit=5)
  assert list(ten.train.ids) == list(whole.train.ids[:10])
  assert list(five.train.ids) == list(ten.train.ids[:5])
  assert list(five.test.ids) == list(whole.test.ids)
  assert len(load("sample", limit=1000).train) == len(whole.train)
  # The vocabulary knows the limited sentences only.
  assert set(five.vocabulary.words) < set(whole.vocabulary.words)
  assert (five.test.inputs.words == 1).sum() > (whole.test.inputs.words == 1).sum()


def test_copies_of_a_sentence_are_kept_under_ids_of_their_own(write):
  path = write("Yes O\n\nNo O\n\nYes O\n\nYes B-ORG\n")
  train = load_tagging((path, path, path)).train
  assert len(set(train.ids)) == 4
  assert sorted(name.rpartition("-")[2] for name in train.ids) == ["0", "0", "0", "1"]


def test_problems_of_all_files_are_handed_over(write):
  good, bad = write(GOOD, "good"), write(GOOD + "\nword\n\nword I-LOC\n", "bad")
  with pytest.raises(ValueError, match=r"2 malformed sentences in .*bad"):
    load_tagging((good, bad, good), scheme="BIO2")
  splits = load_tagging((bad, bad, good), scheme="BIO2", skip_malformed=True)
  assert [(Path(one.file).name, one.line) for one in splits.problems] == [
    ("bad", 7),
    ("bad", 9),
  ] * 2
  assert len(splits.validation) == 2


@pytest.mark.parametrize("load", [load_tagging, load_parsing])
def test_refusals_when_loading(load, tmp_path):
  with pytest.raises(ValueError, match=r"unknown corpus 'ptb' for .*; known are sample, "):
    load("ptb")
  for files in (["a", "b"], Path("a")):
    with pytest.raises(ValueError, match="give three"):
      load(files)
  with pytest.raises(ValueError, match="limit=0 must be at least 1"):
    load("sample", limit=0)
  with pytest.raises(ValueError, match="min_count=0"):
    load("sample", min_count=0)
  name = "conll2003" if load is load_tagging else "en_ewt"
  with pytest.raises(DatasetNotPrepared, match=f"{name} is not prepared: found no array_record"):
    load(name, data_dir=tmp_path)


# Prepared corpora.


def _prepare(root, name, features, rows, config=None):
  import tensorflow_datasets as tfds

  with quiet_tfds():

    class Fake(tfds.core.GeneratorBasedBuilder, skip_registration=True):
      VERSION = tfds.core.Version("1.0.0")
      BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

      def _info(self):
        return tfds.core.DatasetInfo(
          builder=self, features=tfds.features.FeaturesDict(features(tfds))
        )

      def _split_generators(self, dl_manager):
        return {split: enumerate(rows) for split in ("train", "dev", "test")}

      def _generate_examples(self):
        raise NotImplementedError

    Fake.name = name
    Fake(data_dir=root, file_format="array_record").download_and_prepare()


def _ner_features(tfds):
  tags = tfds.features.ClassLabel(names=["O", "B-PER", "I-PER"])
  return {
    "tokens": tfds.features.Sequence(tfds.features.Text()),
    "ner": tfds.features.Sequence(tags),
  }


def _tree_features(tfds):
  texts = tfds.features.Sequence(tfds.features.Text())
  upos = tfds.features.Sequence(tfds.features.ClassLabel(names=["VERB", "PUNCT", "_"]))
  return {"tokens": texts, "head": texts, "deprel": texts, "upos": upos}


@pytest.mark.parametrize("config", [None, "conll2003"])
def test_prepared_entities(tmp_path, config):
  rows = [
    {"tokens": ["Marie", "Curie", "left"], "ner": [1, 2, 0]},
    {"tokens": ["Go"], "ner": [0]},
    {"tokens": [], "ner": []},
  ]
  _prepare(tmp_path, "conll2003", _ner_features, rows, config)
  splits = load_tagging("conll2003", data_dir=tmp_path, min_count=1)
  assert [len(split) for split in splits[:3]] == [2, 2, 2]
  assert (splits.train.name, splits.train.version) == ("conll2003", "1.0.0")
  longest = int(splits.train.lengths.argmax())
  names = splits.vocabulary.tag_names
  assert [names[tag] for tag in splits.train.labels[longest, :3]] == ["B-PER", "E-PER", "O"]


def test_malformed_prepared_entities(tmp_path):
  rows = [{"tokens": ["Go"], "ner": [0]}, {"tokens": ["Marie", "Curie"], "ner": [0, 2]}]
  _prepare(tmp_path, "conll2003", _ner_features, rows)
  with pytest.raises(ValueError, match=r"train:[12]: token 2: I-PER after O is not BIO2"):
    load_tagging("conll2003", data_dir=tmp_path)
  assert len(load_tagging("conll2003", data_dir=tmp_path, skip_malformed=True).problems) == 3


def test_prepared_trees_lose_their_multiword_rows(tmp_path):
  rows = [
    {
      "tokens": ["don't", "do", "n't", "."],
      "head": ["None", "2", "0", "2"],
      "deprel": ["_", "aux:neg", "root", "punct"],
      "upos": [2, 0, 0, 1],
    }
  ]
  _prepare(tmp_path, "universal_dependencies", _tree_features, rows, "en_ewt")
  splits = load_parsing("en_ewt", data_dir=tmp_path, min_count=1)
  tree, n = splits.train.labels, splits.train.lengths[0]
  assert n == 3
  assert list(tree.heads[0, :n]) == [2, 0, 2]
  assert [splits.vocabulary.labels[r] for r in tree.relations[0, :n]] == ["aux", "root", "punct"]
  assert list(tree.punctuation[0, :n]) == [False, False, True]


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ({"head": ["None", "None"]}, "train:[12]: token 1: a sentence without words"),
    ({"head": ["0"]}, r"train:[12]: token 1: columns of unequal lengths \[2, 1, 2, 2\]"),
    ({"tokens": ["a", b"\xff"]}, "train:[12]: token 1: tokens are not utf-8"),
    ({"head": ["2", "1"]}, "train:[12]: token 1: cycle 1 -> 2 -> 1"),
  ],
)
def test_malformed_prepared_trees(tmp_path, rows, message):
  good = {"tokens": ["a", "b"], "head": ["2", "0"], "deprel": ["x", "root"], "upos": [0, 0]}
  _prepare(tmp_path, "universal_dependencies", _tree_features, [good, good | rows], "en_ewt")
  with pytest.raises(ValueError, match=message):
    load_parsing("en_ewt", data_dir=tmp_path)
  splits = load_parsing("en_ewt", data_dir=tmp_path, skip_malformed=True)
  assert (len(splits.train), len(splits.problems)) == (1, 3)


def test_damaged_prepared_files_are_named(tmp_path):
  _prepare(tmp_path, "conll2003", _ner_features, [{"tokens": ["Go"], "ner": [0]}])
  folder = tmp_path / "conll2003" / "1.0.0"
  next(folder.glob("*train*")).unlink()
  with pytest.raises(ValueError, match=f"cannot read the train split in {folder}"):
    load_tagging("conll2003", data_dir=tmp_path)
  (folder / "dataset_info.json").write_text("{")
  with pytest.raises(ValueError, match=r"cannot read .*dataset_info\.json"):
    load_tagging("conll2003", data_dir=tmp_path)


@pytest.mark.slow
def test_the_real_conll2003_has_its_published_counts(shared_data):
  splits = load_tagging("conll2003", data_dir=shared_data / "tfds")
  assert splits.problems == ()
  assert [len(split) for split in splits[:3]] == [14041, 3250, 3453]
  assert [int(split.lengths.sum()) for split in splits[:3]] == [203621, 51362, 46435]
  assert [int(split.lengths.max()) for split in splits[:3]] == [113, 109, 124]
  # Entities by type, table 2 of arXiv cs/0306050.
  published = {
    "LOC": [7140, 1837, 1668],
    "MISC": [3438, 922, 702],
    "ORG": [6321, 1341, 1661],
    "PER": [6600, 1842, 1617],
  }
  names = np.array(splits.vocabulary.tag_names)
  for number, split in enumerate(splits[:3]):
    found = [
      span.label
      for row, n in zip(split.labels, split.lengths, strict=True)
      for span in spans(names[row[:n]])
    ]
    assert {label: found.count(label) for label in published} == {
      label: counts[number] for label, counts in published.items()
    }


@pytest.mark.slow
def test_the_real_english_web_treebank(shared_data):
  splits = load_parsing("en_ewt", data_dir=shared_data / "tfds")
  assert splits.problems == ()
  assert [len(split) for split in splits[:3]] == [12544, 2001, 2077]
  assert [int(split.lengths.max()) for split in splits[:3]] == [159, 75, 81]
  assert len(splits.vocabulary.labels) == 36  # all of UD's 37 but clf
  assert "clf" not in splits.vocabulary.labels
  assert all(
    int((split.labels.heads[split.inputs.mask] == 0).sum()) == len(split) for split in splits[:3]
  )
