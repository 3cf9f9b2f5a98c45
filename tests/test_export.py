"""Export: what other programs read is the network of the checkpoint, in every format and family."""

import dataclasses
import json
import sys
from pathlib import Path
from shutil import copytree

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from experiments import export, study
from experiments.deployment import formats, interfaces
from experiments.domains.study import plain
from kd_jax.checkpoints import CheckpointError, digest_arrays, flatten
from kd_jax.data import Tokenizer, corpora
from kd_jax.export import Input, _max_pool, from_stablehlo, to_onnx, to_stablehlo
from kd_jax.models import build_text_model, load_bert
from kd_jax.models.sequence_spec import SequenceSpec
from kd_jax.models.weights import load_torch_cifar_resnet
from kd_jax.types import Subwords
from tests import commands, text_inputs
from tests.finished_runs import (
  IMAGE_SOURCE,
  IMAGES,
  SHAPE,
  TEXT_SOURCE,
  TOKENIZER,
  images,
  make_images,
  make_sentences,
  make_texts,
  random_variables,
  scaled,
  sentences,
)


@pytest.fixture(scope="module")
def vocabulary():
  return corpora.load_tagging("sample").vocabulary


def applied(model, variables, inputs):
  return jax.jit(model.apply)(variables, inputs)


def run_export(*arguments):
  assert commands.run_here(export, *arguments) == 0


def onnx_session(path):
  onnxruntime = pytest.importorskip("onnxruntime")
  return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture
def jax2onnx():
  pytest.importorskip("jax2onnx")
  pytest.importorskip("onnxruntime")
  if tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 12):
    pytest.skip("jax2onnx 0.17 does not know jax 0.12")


@pytest.mark.usefixtures("jax2onnx")
@pytest.mark.parametrize("family", IMAGES)
def test_onnx_of_images_gives_the_logits(family, tmp_path):
  store, model, variables = make_images(tmp_path, family)
  run_export(
    tmp_path, "--method", "kd", "--to", "onnx", "--seed", "7", "--out", tmp_path / "a.onnx"
  )
  session = onnx_session(tmp_path / "a.onnx")
  for count in (1, 5):
    (found,) = session.run(["logits"], {"images": images(count)})
    expected = applied(model, scaled(variables), images(count)).logits
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
  assert session.get_modelmeta().custom_metadata_map["digest"] == store.restore().digest


@pytest.mark.usefixtures("jax2onnx")
@pytest.mark.parametrize("family", text_inputs.FAMILIES)
def test_onnx_of_texts_gives_the_logits_at_any_length(family, tmp_path):
  model, variables = make_texts(tmp_path, family)
  run_export(tmp_path, "--method", "kd", "--to", "onnx", "--out", tmp_path / "a.onnx")
  session = onnx_session(tmp_path / "a.onnx")
  batch = text_inputs.subwords(3)
  for texts in (batch, text_inputs.with_garbage(batch), Subwords(*(part[:1] for part in batch))):
    (found,) = session.run(["logits"], texts._asdict())
    np.testing.assert_allclose(found, applied(model, variables, texts).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("jax2onnx")
@pytest.mark.parametrize("encoder", ["bilstm", "transformer"])
def test_onnx_of_a_tagger_gives_emissions_and_transitions(encoder, tmp_path, vocabulary):
  spec = SequenceSpec(encoder=encoder, width=8, heads=2, layers=1, word_width=6, character_width=4)
  model, variables = make_sentences(tmp_path, spec, "crf", vocabulary)
  run_export(
    *(tmp_path, "--method", "kd", "--to", "onnx", "--out", tmp_path / "a.onnx", "--length", "6")
  )
  session = onnx_session(tmp_path / "a.onnx")
  for batch, length in ((2, 6),) if encoder == "transformer" else ((2, 6), (3, 9)):
    tokens = sentences(vocabulary, batch, length)
    unary, transition = session.run(["unary", "transition"], tokens._asdict())
    expected = applied(model, variables, tokens).scores
    # What stands in padding is nobody's.
    difference = np.abs(unary - expected.unary)[tokens.mask]
    assert difference.max() < 1e-4
    np.testing.assert_allclose(transition, expected.transition, atol=1e-6)


@pytest.mark.usefixtures("jax2onnx")
def test_onnx_states_the_limits_of_free_dimensions(tmp_path):
  """Beyond a network's positions onnxruntime answers NaN, and does not check the limits itself."""
  inputs = {"x": Input(("batch", "length"), "float32")}
  data = to_onnx(lambda x: {"y": 2 * x["x"]}, inputs, ["length <= 8"], metadata={"a": "b"})
  (tmp_path / "a.onnx").write_bytes(data)
  held = onnx_session(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map
  assert held == {"constraints": "length <= 8", "a": "b"}


@pytest.mark.usefixtures("jax2onnx")
def test_what_onnx_cannot_hold_is_one_line_and_no_file(tmp_path, vocabulary, capsys):
  spec = SequenceSpec(width=4, word_width=4, character_width=0, second_order_width=4)
  make_sentences(tmp_path, spec, "second_order", vocabulary)
  arguments = (tmp_path, "--method", "kd", "--to", "onnx", "--out", tmp_path / "out" / "a.onnx")
  assert commands.run_here(export, *arguments) == 1
  said = capsys.readouterr().err
  assert said.startswith("error: ")
  assert said.count("\n") == 1
  assert not list((tmp_path / "out").iterdir())


def test_without_jax2onnx_the_remedy_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "jax2onnx", None)
  with pytest.raises(
    ModuleNotFoundError, match=r"jax2onnx is not installed: pip install 'kd_jax\[onnx\]'"
  ):
    to_onnx(lambda x: x, {"x": Input((2,), "float32")})


@pytest.mark.parametrize("family", ["resnet", "plain_cnn"])
def test_stablehlo_gives_the_logits(family, tmp_path):
  store, model, variables = make_images(tmp_path, family)
  run_export(tmp_path, "--method", "kd", "--to", "stablehlo")
  (file,) = tmp_path.glob("students/kd/seeds-4-7/export/*.stablehlo")
  assert file.name == "kd-distil-seed4.stablehlo"
  program = jax.export.deserialize(bytearray(file.read_bytes()))
  assert program.platforms == ("cpu", "cuda", "tpu")
  for count in (1, 3):
    found = program.call({"images": images(count)})
    expected = applied(model, variables, images(count)).logits
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5, rtol=1e-5)
  said = json.loads(file.with_name(file.name + ".json").read_text())
  assert said["inputs"] == {"images": [["batch", *SHAPE], "uint8"]}
  assert said["outputs"] == {"logits": [["batch", 5], "float32"]}
  assert said["digest"] == store.restore().digest
  assert said["parameters"] == sum(x.size for x in jax.tree.leaves(variables["params"]))


def test_stablehlo_of_sentences_of_any_length(tmp_path, vocabulary):
  spec = SequenceSpec(width=4, word_width=4, character_width=0)
  model, variables = make_sentences(tmp_path, spec, "maxent", vocabulary)
  run_export(tmp_path, "--method", "kd", "--to", "stablehlo", "--out", tmp_path / "a")
  tokens = sentences(vocabulary, 3, 5)
  found = from_stablehlo((tmp_path / "a").read_bytes())(tokens._asdict())
  np.testing.assert_allclose(
    found["logits"], applied(model, variables, tokens).scores.logits, atol=1e-5
  )
  assert json.loads((tmp_path / "a.json").read_text())["vocabulary"] == vocabulary.to_json()


def test_safetensors_of_a_resnet_have_the_names_of_pytorch(tmp_path):
  store, _, variables = make_images(tmp_path, "resnet")
  run_export(tmp_path, "--method", "kd", "--seed", "7", "--out", tmp_path / "a.safetensors")
  loaded = load_torch_cifar_resnet(tmp_path / "a.safetensors", None, 5)
  jax.tree.map(np.testing.assert_array_equal, loaded, scaled(variables))
  with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
    assert file.metadata()["digest"] == store.restore().digest
    assert "shortcut" in file.metadata()


def test_safetensors_of_other_networks_have_the_names_of_flax(tmp_path):
  store, _, variables = make_images(tmp_path, "mlp")
  run_export(tmp_path, "--method", "kd", "--which", "last", "--out", tmp_path / "a.safetensors")
  loaded = load_file(tmp_path / "a.safetensors")
  assert loaded.keys() == {
    *("params.hidden1.kernel", "params.hidden1.bias", "params.linear.kernel", "params.linear.bias")
  }
  last = jax.tree.map(lambda x: x + 1, variables)
  assert digest_arrays(loaded) == digest_arrays(flatten(last))
  with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
    assert file.metadata()["digest"] == store.restore().digest


def test_safetensors_of_bert_are_a_hugging_face_folder(tmp_path):
  _, variables = make_texts(tmp_path, "bert")
  run_export(tmp_path, "--method", "kd", "--out", tmp_path / "folder")
  jax.tree.map(np.testing.assert_array_equal, load_bert(tmp_path / "folder"), variables["params"])
  config = json.loads((tmp_path / "folder" / "config.json").read_text())
  assert config["id2label"] == {"0": "entailment", "1": "not_entailment"}
  held = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())
  assert held["tokenizer_class"] == "PreTrainedTokenizerFast"
  assert Tokenizer.from_folder(tmp_path / "folder").digest == TOKENIZER.digest


def test_another_kind_of_network_keeps_the_tokenizer_without_its_files(tmp_path):
  """Over a RoBERTa's subwords a BERT's folder must not be read by the rules of BERT's tokenizer."""
  source = tmp_path / "roberta"
  copytree(Path(__file__).parent / "data" / "tiny_roberta", source)
  TOKENIZER.save(source)
  (source / "merges.txt").write_text("")
  make_texts(tmp_path, "bert", TEXT_SOURCE | {"weights": str(source), "max_length": 20})
  run_export(tmp_path, "--method", "kd", "--out", tmp_path / "folder")
  assert not (tmp_path / "folder" / "merges.txt").exists()
  held = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())
  assert held["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_study_is_exported_by_method_and_as_its_teacher(tmp_path, capsys):
  folder = tmp_path / "run"
  small = ["digits", "--epochs=1", "--teacher-epochs=1", "--seeds=2", "--methods", "scratch"]
  small += ["--teacher.hidden", "8", "--student.hidden", "4", "--student.no-batch-norm"]
  assert study.main([*small, f"--workdir={folder}", f"--data-dir={tmp_path / 'data'}"]) == 0
  runs = folder / "students" / "scratch" / "seeds-0-1"
  for index, path in enumerate((runs, runs / "train", folder / "teacher")):
    run_export(path, "--to", "stablehlo", "--out", tmp_path / str(index))
  read = [from_stablehlo((tmp_path / str(index)).read_bytes()) for index in range(3)]
  digits = {"images": np.full((2, 8, 8, 1), 99, np.uint8)}
  one, same, teacher = (program(digits)["logits"] for program in read)
  np.testing.assert_array_equal(one, same)
  assert not np.allclose(one, teacher)
  found = json.loads((folder / "results.json").read_text())
  for index, role in ((0, "student"), (2, "teacher")):
    said = json.loads((tmp_path / f"{index}.json").read_text())
    assert said["parameters"] == found[role]["parameters"]
    assert found[role]["bytes"] == 4 * found[role]["parameters"]
    assert found[role]["latency_ms"] > 0
    assert found[role]["examples_per_second"] > 0
  capsys.readouterr()
  assert commands.run_here(export, folder) == 1
  assert "--method scratch" in capsys.readouterr().err
  assert commands.run_here(export, folder / "teacher", "--seed", 1) == 1
  assert "holds one network for all seeds: leave --seed out" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    (["--method", "kd", "--seed", "5"], "has no student of kd with seed 5"),
    (["--method", "takd"], "has no student of takd"),
    ([], "is a study: name one of its methods, --method kd"),
  ],
)
def test_what_is_not_there_is_refused(arguments, expected, tmp_path, capsys):
  make_images(tmp_path, "mlp")
  assert commands.run_here(export, tmp_path, *arguments) == 1
  assert expected in capsys.readouterr().err


def test_variables_of_another_network_are_refused(tmp_path):
  _, _, variables = make_images(tmp_path, "mlp")
  del variables["params"]["hidden1"]["bias"]
  face = interfaces.interface(
    {"settings": {"model": plain(IMAGES["mlp"])}, "image_shape": SHAPE}, IMAGE_SOURCE, variables
  )
  with pytest.raises(CheckpointError, match=r"params\.hidden1\.bias is missing"):
    export.check_fit(face, variables)


def test_a_program_that_gives_something_else_is_refused(tmp_path):
  _, _, variables = make_images(tmp_path, "mlp")
  meta = {"settings": {"model": plain(IMAGES["mlp"])}, "image_shape": SHAPE}
  face = interfaces.interface(meta, IMAGE_SOURCE, variables)
  right, wrong = face.function(variables), face.function(scaled(variables, 1.01))
  assert formats.compare(face, right, right) == 0
  with pytest.raises(ValueError, match="differ from the network's"):
    formats.compare(face, right, wrong)
  with pytest.raises(ValueError, match="of shape"):
    formats.compare(face, right, lambda x: {"logits": right(x)["logits"][:1]})


@pytest.mark.parametrize("shape", [(2, 6, 6, 3), (2, 7, 5, 3)])
def test_pooling_by_reshaping_is_max_pooling(shape):
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  window = {"window_shape": (2, 2), "strides": (2, 2)}
  np.testing.assert_array_equal(_max_pool(x, **window), nn.max_pool(x, **window))
  with pytest.raises(ValueError, match="without overlap"):
    _max_pool(x, (3, 3), (2, 2))


def test_constraints_on_free_dimensions_hold():
  def function(x):
    if x["x"].shape[1] > 4:  # decidable only by the constraint
      raise ValueError("too long")
    return {"y": x["x"].sum(axis=1)}

  inputs = {"x": Input(("batch", "length"), "float32")}
  run = from_stablehlo(to_stablehlo(function, inputs, ("length <= 4",)))
  np.testing.assert_array_equal(run({"x": np.ones((2, 3), np.float32)})["y"], [3, 3])
  with pytest.raises(ValueError, match="shapes"):
    run({"x": np.ones((2, 5), np.float32)})


def test_a_text_model_in_bfloat16_is_exported_in_float32(tmp_path):
  spec = dataclasses.replace(text_inputs.spec("gated_cnn"), dtype="bfloat16")
  sizes = {"vocab_size": text_inputs.VOCAB}
  model = build_text_model(spec, num_outputs=2, **sizes)
  variables = random_variables(model, text_inputs.subwords(), 1)
  meta = {"settings": {"model": {"spec": plain(spec), "sizes": sizes}}}
  face = interfaces.interface(meta, TEXT_SOURCE, variables)
  assert face.model.dtype == np.float32
