"""The README's code runs as it stands."""

import functools
import importlib
import pathlib
import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

import kd_jax
from kd_jax import phases, recipes

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
LOSS, METHOD, STRUCTURES, ARRAYS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_one_loss_in_a_plain_jit():
  names = {}
  exec(LOSS, names)
  student, teacher = np.zeros((4, 10), np.float32), np.ones((4, 10), np.float32)
  # T = 6 of 10: the factor is one half, so ten squares of one half.
  assert names["loss"](student, teacher, 6.0) == pytest.approx(2.5)


def test_a_new_method(monkeypatch):
  monkeypatch.setattr(recipes, "RECIPES", dict(recipes.RECIPES))
  names = {name: getattr(phases, name) for name in ("Budget", "Phase", "Recipe", "Term")}
  names |= {"functools": functools, "RECIPES": recipes.RECIPES, "reverse_kl": kd_jax.reverse_kl}
  exec(METHOD, names)
  budget = phases.Budget(3, phases.Optimizer(), 10)
  made = recipes.make_recipe("reverse_kd", budget, {"temperature": 4.0})
  outputs = [kd_jax.Outputs(logits=np.eye(3, dtype=np.float32)[i : i + 1]) for i in (0, 1)]
  found = made.phases[0].objective[0].loss_at(*outputs, None, 0)
  expected = kd_jax.reverse_kl(outputs[0].logits, outputs[1].logits, temperature=4.0)
  np.testing.assert_array_equal(found, expected)


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
  exec(ARRAYS.replace("epochs=40", "epochs=24").replace("annealing_kd(budget)", SMALLER), names)
  assert min(names["report"].record["validation_accuracy"]) > 0.8


SMALLER = "annealing_kd(budget, max_temperature=4)"


def test_the_commands_exist():
  for name in set(re.findall(r"python -m (experiments[.\w]*)", README)):
    assert callable(importlib.import_module(name).main)
