"""Soft-target KD in Flax NNX: nothing special is needed.

python examples/nnx_loop.py
"""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import kd_jax


class MLP(nnx.Module):
  """One hidden layer."""

  def __init__(self, width: int, rngs: nnx.Rngs):
    self.hidden = nnx.Linear(64, width, rngs=rngs)
    self.out = nnx.Linear(width, 10, rngs=rngs)

  def __call__(self, x):
    return self.out(nnx.relu(self.hidden(x)))


@nnx.jit
def train_step(student, optimizer, x, labels, teacher_logits):
  """A quarter of the loss is on the labels, the rest on the teacher; without a teacher all is on the labels."""

  def objective(student):
    logits = student(x)
    hard = kd_jax.masked_mean(kd_jax.hard_label_loss(logits, labels))
    if teacher_logits is None:
      return hard
    soft = kd_jax.soft_target_kd_loss(logits, teacher_logits, temperature=4.0)
    return 0.25 * hard + 0.75 * kd_jax.masked_mean(soft)

  optimizer.update(student, nnx.grad(objective)(student))


def train(model, x, labels, steps, teacher=None):
  optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
  generator = np.random.default_rng(0)
  for _ in range(steps):
    rows = generator.integers(0, len(x), 64)
    teacher_logits = None if teacher is None else teacher(x[rows])
    train_step(model, optimizer, x[rows], labels[rows], teacher_logits)
  return model


def main(steps: int = 1000) -> dict[str, float]:
  images, labels = load_digits(return_X_y=True)
  x, y = jnp.float32(images / 16), jnp.int32(labels)
  teacher = train(MLP(256, nnx.Rngs(0)), x[:1200], y[:1200], steps)
  student = train(MLP(8, nnx.Rngs(1)), x[:1200], y[:1200], steps, teacher)
  return {
    name: float((model(x[1200:]).argmax(-1) == y[1200:]).mean())
    for name, model in (("teacher", teacher), ("kd", student))
  }


if __name__ == "__main__":
  print(main())
