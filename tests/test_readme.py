"""The code and the commands of the README and the documentation work as printed."""

import doctest
import importlib
import importlib.util
import pathlib
import re
import shlex
import textwrap

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

import kd_jax
from experiments import __main__ as command
from experiments.command_line import options
from kd_jax import recipes
from kd_jax.data import Tokenizer
from kd_jax.models import BertConfig, bert_spec, build_text_model, save_bert, text_sizes
from kd_jax.recipes import registry

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {
  path: path.read_text(encoding="utf-8")
  for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README, ALL = PAGES[ROOT / "README.md"], "\n".join(PAGES.values())


def code(holding):
  """The one block of Python in which a text occurs."""
  blocks = re.findall(r"```python\n(.*?)```", ALL, re.DOTALL)
  (found,) = (block for block in blocks if holding in block)
  return found


LOSS, METHOD, LAYERS = code("def loss("), code("def reverse_kd("), code("def layer_loss(")
WEIGHTS, STRUCTURES, ARRAYS = code("def encode("), code("def crf_to_crf("), code("from_arrays")


def test_one_loss_in_a_plain_jit():
  names = {}
  exec(LOSS, names)
  student, teacher = np.zeros((4, 10), np.float32), np.ones((4, 10), np.float32)
  # T = 6 of 10: the factor is one half, so ten squares of one half.
  assert names["loss"](student, teacher, 6.0) == pytest.approx(2.5)


def test_a_new_method(tmp_path, monkeypatch):
  """The file exactly as printed, and the command beneath it."""
  monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
  monkeypatch.chdir(tmp_path)
  (tmp_path / "my_methods.py").write_text(METHOD, encoding="utf-8")
  command = re.search(r"kd-jax study (digits --recipes .*)", ALL)[1].split()
  study, _, _ = options.parse("study", command)
  assert study.methods == ("scratch", "kd", "reverse_kd")
  made = study.recipe("reverse_kd", recipes.Classes(3))
  outputs = [kd_jax.Outputs(logits=np.eye(3, dtype=np.float32)[i : i + 1]) for i in (0, 1)]
  found = made.phases[0].objective[0].loss_at(*outputs, kd_jax.Batch(None, None), 0)
  expected = kd_jax.reverse_kl(outputs[0].logits, outputs[1].logits, temperature=4.0)
  np.testing.assert_array_equal(found, expected)
  assert recipes.describe(made)["phases"][0]["terms"][0]["options"] == {"temperature": 4.0}


def test_a_loss_on_layers_in_a_plain_jit():
  names = {}
  exec(LAYERS, names)
  student, teacher = np.zeros((4, 2, 3)), np.zeros((4, 5, 3))
  assert names["layer_loss"](student, teacher) == 0
  # Attention is even, so the mix is a fifth of the one layer that says something.
  teacher[:, 0, 0] = 5 * np.log(4)
  divergence = np.log(3) - (4 * np.log(6 / 4) + 2 * np.log(6)) / 6
  assert names["layer_loss"](student, teacher) == pytest.approx(2 * divergence, rel=1e-5)


def test_weights_from_a_folder(tmp_path):
  """A small BERT, written and read back: equal texts have equal vectors, whatever stands beside them."""
  names = {}
  exec(WEIGHTS, names)
  texts = ["a small text", "another one", "a small text"]
  tokenizer = Tokenizer.train(texts * 5, vocab_size=80)
  tokenizer.save(tmp_path)
  config = BertConfig(
    vocab_size=tokenizer.vocab_size, width=8, layers=2, heads=2, hidden=16, max_positions=32
  )
  model = build_text_model(bert_spec(config), num_outputs=2, **text_sizes(config))
  params = model.init(jax.random.key(0), tokenizer.encode(texts).subwords)["params"]
  save_bert(tmp_path, params, config)
  first, second, third = names["encode"](tmp_path, texts)
  np.testing.assert_array_equal(first, third)
  assert np.abs(first - second).max() > 0.01


def test_structural_losses_in_a_plain_jit():
  names = {}
  exec(STRUCTURES, names)
  unary, transition, mask = np.zeros((2, 3, 4)), np.zeros((4, 4)), np.array([[1, 1, 1], [1, 0, 0]])
  # All tags are equally likely: log 4 nats a token, 3 + 1 tokens in 2 sentences.
  assert names["crf_to_crf"](unary, transition, unary, transition, mask) == pytest.approx(
    2 * np.log(4)
  )
  assert names["crf_to_tagger"](unary, transition, unary, mask) == pytest.approx(2 * np.log(4))


def test_one_s_own_arrays():
  digits = load_digits()
  images, labels = (15 * digits.images[..., None]).astype(np.uint8), digits.target
  names = {
    "images": images[:600],
    "labels": labels[:600],
    "held_out_images": images[600:900],
    "held_out_labels": labels[600:900],
    "teacher_logits": 8 * np.eye(10, dtype=np.float32)[labels[:600], None],
  }
  exec(
    ARRAYS.replace("epochs=40", "epochs=24").replace(
      "budget)\nteacher", "budget, max_temperature=4)\nteacher"
    ),
    names,
  )
  assert min(names["report"].record.validation) > 0.8


def commands(program):
  """The command lines of a program that are printed in full."""
  lines = re.findall(rf"^    {program} (.*)$", ALL, re.MULTILINE)
  return [line for line in lines if not re.search(r"CONFIG|DIR|RUN|[\[|…]", line)]


def test_the_modules_exist():
  for name in set(re.findall(r"python -m (experiments[.\w]*)", ALL)):
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):  # a package is run by its __main__
      module = importlib.import_module(f"{name}.__main__")
    assert callable(module.main)


def test_the_commands_exist():
  named = set(re.findall(r"(?:`|^    )kd-jax ([a-z]+)", ALL, re.MULTILINE))
  assert {"study", "predict", "export", "compare"} <= named <= set(command.COMMANDS)


def test_the_options_of_studies_exist():
  printed = [line for line in commands("kd-jax study") if "--recipes" not in line]
  assert len(printed) >= 6
  for line in printed:
    options.parse("study", shlex.split(line))


def test_every_link_leads_somewhere():
  for path, text in PAGES.items():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
      assert target.startswith("https://") or (path.parent / target).exists(), (path.name, target)


def test_the_readme_is_short_and_the_tables_are_whole():
  assert len(README.splitlines()) <= 150
  for path, text in PAGES.items():
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
      first, second, *_ = block.splitlines()
      assert re.fullmatch(r"[|\s:-]+", second), (path.name, first)


def test_every_method_is_in_the_tables():
  for kind in ("images", "texts", "sentences"):
    for name in recipes.methods_for(kind):
      if name != "scratch":
        assert f"`{name}`" in README, name


def test_docstrings_become_markdown():
  pytest.importorskip("griffe")
  path = ROOT / "docs" / "_build" / "docstrings.py"
  spec = importlib.util.spec_from_file_location("docstrings", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  assert doctest.testmod(module).attempted > 0
  assert doctest.testmod(module).failed == 0
  shown = module.rewritten(kd_jax.annealing_factor.__doc__)
  assert "$$\n\\Phi(T) = 1 - (T - 1) / \\tau_{max}\n$$" in textwrap.dedent(shown.partition("\n")[2])
  assert "Examples:" in shown


def test_every_public_name_is_in_the_reference():
  reference = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
  modules = set(re.findall(r"^::: ([\w.]+)$", reference, re.MULTILINE))
  assert {f"kd_jax.structured.{name}" for name in ("LinearChain", "log_partition")} <= modules
  for name in kd_jax.__all__:
    value = getattr(kd_jax, name)
    if callable(value):
      assert {value.__module__, f"{value.__module__}.{name}"} & modules, name
