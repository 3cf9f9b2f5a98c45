"""The examples run, and learn something."""

import importlib.util
import re

import numpy as np
import pytest

from experiments.command_line import options
from kd_jax import Batch, Outputs, recipes
from kd_jax.recipes import registry
from tests.conftest import ROOT

EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}


def load(name):
  spec = importlib.util.spec_from_file_location(name, EXAMPLES[name])
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_a_loop_in_linen():
  found = load("linen_loop").main(steps=400)
  assert found["teacher"] > 0.85
  assert found["annealing_kd"] > 0.6


def test_a_loop_in_nnx():
  found = load("nnx_loop").main(steps=300)
  assert found["teacher"] > 0.85
  assert found["kd"] > 0.6


def test_own_arrays(tmp_path):
  onnxruntime = pytest.importorskip("onnxruntime")
  file = tmp_path / "student.onnx"
  assert load("own_arrays").main(epochs=15, onnx=file) > 0.8
  session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
  (logits,) = session.run(None, {"images": np.zeros((3, 8, 8, 1), np.uint8)})
  assert logits.shape == (3, 10)


def test_own_texts():
  assert load("own_texts").main(epochs=15) == ["good", "bad"]


def test_a_new_method(monkeypatch):
  monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
  monkeypatch.chdir(ROOT)
  text = EXAMPLES["new_method"].read_text()
  command = re.search(r"kd-jax study (digits .*)", text)[1].split()
  study, _, _ = options.parse("study", command)
  made = study.recipe("confident_kd", recipes.Classes(3))
  soft = made.phases[0].objective[1]
  assert soft.options == {"power": 2.0, "temperature": 4.0}
  student, teacher = (Outputs(logits=np.float32([row])) for row in ([0, 0, 0], [9, 0, 0]))
  sure = soft.loss_at(student, teacher, Batch(None, None), 0)
  unsure = soft.loss_at(student, Outputs(logits=np.float32([[1, 0, 0]])), Batch(None, None), 0)
  assert sure > 4 * unsure


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short(name):
  assert len(EXAMPLES[name].read_text().splitlines()) <= 80
