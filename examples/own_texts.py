"""Your own texts, in Python: a tokenizer, a teacher, a smaller student, and labels of new texts.

python examples/own_texts.py
"""

import tempfile
from pathlib import Path

import jax
import numpy as np

from kd_jax import recipes
from kd_jax.data import Tokenizer, read_text_files, tokenize
from kd_jax.models import BertConfig, bert_spec, build_text_model, text_sizes
from kd_jax.optimizers import Optimizer
from kd_jax.training import Task, live_teacher, train_recipe
from kd_jax.training.state import one_seed

WORDS = {"good": ("good", "fine", "lovely", "great"), "bad": ("bad", "awful", "dull", "poor")}
THINGS = ("soup", "table", "film", "book", "song", "room", "cake", "talk")
NEW = ("a lovely film and a fine talk", "what an awful cake")


def network(tokenizer, layers):
  config = BertConfig(
    vocab_size=tokenizer.vocab_size,
    width=32,
    layers=layers,
    heads=2,
    hidden=64,
    max_positions=tokenizer.max_length,
  )
  return build_text_model(bert_spec(config), num_outputs=2, **text_sizes(config))


def trained(task, recipe, teacher=None):
  """The variables of the best epoch."""
  *_, (_, report) = train_recipe(task, recipe, teacher)
  print(recipe.title, "validation accuracy", report.record.validation)
  return one_seed(report.state.best, 0)


def write_files(folder):
  """Stands for your own files: a training and a test file with the columns text and label."""
  rows = [(f"a {w} {t}", label) for label in ("good", "bad") for w in WORDS[label] for t in THINGS]
  for name, share in (("train.csv", rows), ("test.csv", rows[::5])):
    lines = [f"{text},{label}" for text, label in share]
    (folder / name).write_text("\n".join(["text,label", *lines]) + "\n")
  return [folder / "train.csv", folder / "test.csv"]


def main(epochs: int = 20) -> list[str]:
  with tempfile.TemporaryDirectory() as folder:
    raw = read_text_files(write_files(Path(folder)))
  tokenizer = Tokenizer.train(raw.train.texts(), vocab_size=500, max_length=32)
  splits = tokenize(raw, tokenizer)
  budget = recipes.Budget(epochs, Optimizer(name="adamw", learning_rate=2e-3))
  target = recipes.Classes(2)

  def task(model):
    return Task(model=model, train=splits.train, validation=splits.validation, batch_size=8)

  teacher, student = network(tokenizer, 2), network(tokenizer, 1)
  taught = live_teacher(teacher, trained(task(teacher), recipes.scratch(target, budget)))
  variables = trained(task(student), recipes.kd(target, budget), taught)
  subwords = tokenizer.encode(list(NEW)).subwords
  logits = jax.jit(lambda x: student.apply(variables, x, train=False).logits)(subwords)
  return [splits.train.class_names[label] for label in np.asarray(logits).argmax(-1)]


if __name__ == "__main__":
  for text, label in zip(NEW, main(), strict=True):
    print(f"{text}: {label}")
