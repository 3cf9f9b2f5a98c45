"""Your own images and a teacher's logits, in Python: several seeds, predictions, an ONNX file.

python examples/own_arrays.py
"""

from pathlib import Path

import jax
import numpy as np
from sklearn.datasets import load_digits

from kd_jax import Outputs, recipes
from kd_jax.data import Dataset
from kd_jax.export import Input, to_onnx
from kd_jax.models import MLP
from kd_jax.optimizers import Optimizer
from kd_jax.training import Task, cached_teacher, train_recipe
from kd_jax.training.state import one_seed


def main(epochs: int = 40, onnx: Path | None = Path("student.onnx")) -> float:
  digits = load_digits()
  images, labels = (15 * digits.images[..., None]).astype(np.uint8), digits.target
  # The logits of a teacher for the training images, [N, C]: here of one that is almost sure of the labels.
  noise = np.random.default_rng(0).normal(size=(1000, 10))
  teacher_logits = np.float32(8 * np.eye(10)[labels[:1000]] + noise)

  train = Dataset.from_arrays(images[:1000], labels[:1000], num_classes=10)
  held_out = Dataset.from_arrays(images[1000:1300], labels[1000:1300], num_classes=10)
  model = MLP(hidden=(16,), num_classes=10)
  task = Task(model=model, train=train, validation=held_out, batch_size=48, seeds=(0, 1, 2))
  budget = recipes.Budget(epochs, Optimizer(learning_rate=0.05))
  recipe = recipes.kd(recipes.Classes(10), budget)
  teacher = cached_teacher(Outputs(logits=teacher_logits))
  *_, (_, report) = train_recipe(task, recipe, teacher)
  print("validation accuracy of each seed:", report.record.validation)

  variables = one_seed(report.state.best, 0)
  logits = jax.jit(lambda x: model.apply(variables, x, train=False).logits)(images[1300:])
  if onnx is not None:
    reads = {"images": Input(("batch", 8, 8, 1), "uint8")}
    program = to_onnx(lambda x: {"logits": model.apply(variables, x["images"]).logits}, reads)
    onnx.write_bytes(program)
  return float((np.asarray(logits).argmax(-1) == labels[1300:]).mean())


if __name__ == "__main__":
  print("test accuracy of the first:", main())
