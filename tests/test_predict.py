"""Labels of new examples by a finished network: what the network itself says, decoded and named."""

import csv
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import predict
from kd_jax import structured
from kd_jax.data import corpora
from kd_jax.models.sequence_spec import SequenceSpec
from tests import commands, finished_runs
from tests.finished_runs import TEXT_SOURCE, TOKENIZER, make_images, make_sentences, make_texts

SPEC = SequenceSpec(
  word_width=4, character_width=3, width=6, arc_width=4, relation_width=4, second_order_width=4
)
SENTENCES = (("EU", "rejects", "German", "call"), ("Peter", "Blackburn"))


def run(capsys, *arguments):
  """What is printed."""
  capsys.readouterr()
  assert commands.run_here(predict, *arguments) == 0
  return capsys.readouterr().out


def refused(capsys, *arguments):
  capsys.readouterr()
  assert commands.run_here(predict, *arguments) == 1
  said = capsys.readouterr().err
  assert said.startswith("error: ")
  assert said.count("\n") == 1
  return said


def table(text):
  return list(csv.DictReader(io.StringIO(text)))


def of_seed(variables, seed):
  """The runs' second seed is a factor apart."""
  return finished_runs.scaled(variables) if seed == 7 else variables


# Images.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pictures")
  (folder / "deeper").mkdir()
  for index in range(3):
    place = folder / "deeper" if index else folder
    Image.fromarray(finished_runs.images(3)[index]).save(place / f"{index}.png")
  return folder


@pytest.mark.parametrize("seed", [None, 7])
def test_images(tmp_path, capsys, pictures, seed):
  _, model, variables = make_images(tmp_path, "mlp")
  expected = jax.nn.softmax(
    model.apply(of_seed(variables, seed), finished_runs.images(3), train=False).logits
  )
  which = [] if seed is None else ["--seed", seed]
  found = table(run(capsys, tmp_path, pictures, "--method", "kd", *which))
  assert [row["file"].rpartition("/")[2] for row in found] == ["0.png", "1.png", "2.png"]
  shares = np.array([[float(row[f"p({c})"]) for c in range(5)] for row in found])
  np.testing.assert_allclose(shares, expected, atol=1e-6)
  assert [int(row["label"]) for row in found] == shares.argmax(1).tolist()
  assert [float(row["probability"]) for row in found] == shares.max(1).tolist()


def test_images_of_arrays_and_of_other_sizes(tmp_path, capsys, pictures):
  make_images(tmp_path, "mlp")
  np.savez(tmp_path / "own.npz", images=finished_runs.images(3))
  of_files = table(run(capsys, tmp_path, pictures, "--method", "kd"))
  of_arrays = table(run(capsys, tmp_path, tmp_path / "own.npz", "--method", "kd"))
  assert [row.pop("file").rpartition(":")[2] for row in of_arrays] == ["0", "1", "2"]
  assert of_arrays == [{k: v for k, v in row.items() if k != "file"} for row in of_files]
  Image.new("L", (40, 30)).save(tmp_path / "grey.jpg")
  (row,) = table(run(capsys, tmp_path, tmp_path / "grey.jpg", "--method", "kd"))
  assert row["file"] == str(tmp_path / "grey.jpg")


def test_an_object_a_line(tmp_path, capsys, pictures):
  make_images(tmp_path, "mlp")
  out = tmp_path / "labels.jsonl"
  said = run(capsys, tmp_path, pictures, "--method", "kd", "--out", out)
  assert said == f"3 images labelled by MLP 8 (kd-distil-seed4): {out}\n"
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  as_csv = table(run(capsys, tmp_path, pictures, "--method", "kd"))
  for row, other in zip(rows, as_csv, strict=True):
    assert (row["file"], row["label"]) == (other["file"], other["label"])
    assert list(row["probabilities"]) == ["0", "1", "2", "3", "4"]
    assert row["probability"] == max(row["probabilities"].values()) == float(other["probability"])


# Texts.


def test_texts(tmp_path, capsys):
  model, variables = make_texts(tmp_path, "bert")
  texts = ["a good soup", 'a "bad", bad soup', "soup"]
  with open(tmp_path / "new.csv", "w", newline="") as file:
    csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
  expected = jax.nn.softmax(model.apply(variables, TOKENIZER.encode(texts).subwords).logits)
  found = table(run(capsys, tmp_path, tmp_path / "new.csv", "--method", "kd"))
  assert [row["text"] for row in found] == texts
  names = ("entailment", "not_entailment")
  shares = np.array([[float(row[f"p({name})"]) for name in names] for row in found])
  np.testing.assert_allclose(shares, expected, atol=1e-5)
  assert [row["label"] for row in found] == [names[index] for index in shares.argmax(1)]
  (tmp_path / "new.txt").write_text("a good soup\n\nsoup\n")
  lines = table(run(capsys, tmp_path, tmp_path / "new.txt", "--method", "kd"))
  assert lines == [found[0], found[2]]


def test_pairs_and_columns(tmp_path, capsys):
  source = TEXT_SOURCE | {"columns": ["question", "answer", "label"]}
  model, variables = make_texts(tmp_path, "bert", source)
  rows = [{"question": "a soup", "answer": "a good soup"}, {"question": "bad", "answer": "soup"}]
  (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  pairs = TOKENIZER.encode(*([row[name] for row in rows] for name in ("question", "answer")))
  expected = jax.nn.softmax(model.apply(variables, pairs.subwords).logits)
  found = table(run(capsys, tmp_path, tmp_path / "new.jsonl", "--method", "kd"))
  assert [(row["question"], row["answer"]) for row in found] == [tuple(r.values()) for r in rows]
  shares = [float(row["p(entailment)"]) for row in found]
  np.testing.assert_allclose(shares, expected[:, 0], atol=1e-5)
  (tmp_path / "new.txt").write_text("a soup\n")
  assert "the network reads pairs" in refused(
    capsys, tmp_path, tmp_path / "new.txt", "--method", "kd"
  )


def test_numbers(tmp_path, capsys):
  model, variables = make_texts(tmp_path, "bert", TEXT_SOURCE | {"task": "sample"}, num_outputs=1)
  (tmp_path / "new.txt").write_text("a good soup\nsoup\n")
  expected = model.apply(variables, TOKENIZER.encode(["a good soup", "soup"]).subwords).logits
  found = table(run(capsys, tmp_path, tmp_path / "new.txt", "--method", "kd"))
  assert list(found[0]) == ["text", "label"]
  np.testing.assert_allclose(
    [float(row["label"]) for row in found], expected[:, 0], rtol=1e-4, atol=1e-5
  )


# Sentences.


def read_blocks(text):
  blocks = text.strip("\n").split("\n\n")
  return [[line.split("\t") for line in block.split("\n")] for block in blocks]


def labelled_sentences(folder, capsys):
  """What the run in a folder prints of SENTENCES."""
  (folder / "new.txt").write_text("\n".join(map(" ".join, SENTENCES)) + "\n")
  return read_blocks(run(capsys, folder, folder / "new.txt", "--method", "kd"))


def outputs_of(model, variables, words):
  """Scores of each sentence by itself."""
  for tokens in SENTENCES:
    inputs = words.encode([corpora.PlainSentence(tokens)], split="test").inputs
    yield model.apply(variables, inputs).scores


@pytest.mark.parametrize("head", ["crf", "maxent", "spans"])
def test_tags(tmp_path, capsys, head):
  words = corpora.load_tagging("sample").vocabulary
  model, variables = make_sentences(tmp_path, SPEC, head, words)
  found = labelled_sentences(tmp_path, capsys)
  for tokens, block, scores in zip(
    SENTENCES, found, outputs_of(model, variables, words), strict=True
  ):
    tags = np.asarray(structured.argmax(scores))[0, : len(tokens)]
    shares = np.asarray(structured.tag_marginals(scores))[0, np.arange(len(tokens)), tags]
    assert [line[0] for line in block] == list(tokens)
    assert [line[1] for line in block] == [words.tag_names[tag] for tag in tags]
    np.testing.assert_allclose([float(line[2]) for line in block], shares, atol=1e-5)
  columns = "".join("".join(f"{token} O\n" for token in tokens) + "\n" for tokens in SENTENCES)
  (tmp_path / "new.conll").write_text(columns)
  again = read_blocks(run(capsys, tmp_path, tmp_path / "new.conll", "--method", "kd"))
  assert again == found


@pytest.mark.parametrize("head", ["parser", "second_order", "tags"])
def test_trees(tmp_path, capsys, head):
  words = corpora.load_parsing("sample").vocabulary
  model, variables = make_sentences(tmp_path, SPEC, head, words)
  found = labelled_sentences(tmp_path, capsys)
  for tokens, block, scores in zip(
    SENTENCES, found, outputs_of(model, variables, words), strict=True
  ):
    heads, relations = (np.asarray(x)[0, : len(tokens)] for x in structured.argmax(scores))
    tree = structured.Parse(heads, relations)
    assert [line[:2] for line in block] == [[str(i + 1), t] for i, t in enumerate(tokens)]
    assert {len(line) for line in block} == {10}
    assert [int(line[6]) for line in block] == tree.heads.tolist()
    assert [line[7] for line in block] == [words.labels[r] for r in tree.relations]
    for line, share in zip(block, shares_of(scores, tree), strict=True):
      assert float(line[9].removeprefix("P=")) == pytest.approx(share, abs=1e-5)


def shares_of(scores, tree):
  """P(head) P(relation), or the share of the tag that names both."""
  for i, (head, relation) in enumerate(zip(tree.heads, tree.relations, strict=True)):
    if isinstance(scores, structured.ParsingTags):
      offset = 0 if head == 0 else head - i - 1
      (tag,) = np.flatnonzero((scores.offsets == offset) & (scores.relations == relation))
      yield np.asarray(structured.marginals(scores))[0, i, tag]
    else:
      of_head = np.asarray(structured.head_marginals(scores))[0, i, head]
      yield of_head * np.asarray(jax.nn.softmax(scores.relation, axis=-1))[0, i, head, relation]


# What is refused.


def test_what_cannot_be_labelled_is_said_in_one_line(tmp_path, capsys, pictures):
  make_images(tmp_path, "mlp")
  assert "name one of its methods, --method kd" in refused(capsys, tmp_path, pictures)
  of_kd = (tmp_path, "--method", "kd")
  assert "name one file or more" in refused(capsys, *of_kd)
  assert "there is no file or folder" in refused(capsys, tmp_path, "nowhere.png", "--method", "kd")
  (tmp_path / "broken.png").write_bytes(b"no picture")
  said = refused(capsys, tmp_path, tmp_path / "broken.png", "--method", "kd")
  assert "broken.png cannot be read" in said
  said = refused(capsys, tmp_path, pictures, "--method", "kd", "--batch-size", "0")
  assert "--batch-size must be at least 1, got 0" in said


def test_a_student_that_is_not_finished_is_said_to_be_so(tmp_path, capsys, pictures):
  make_images(tmp_path, "mlp")
  begun = tmp_path / "students" / "scratch" / "seeds-0"
  begun.mkdir(parents=True)
  said = refused(capsys, tmp_path, pictures, "--method", "scratch")
  assert f"{begun} is not finished: run its study again" in said
