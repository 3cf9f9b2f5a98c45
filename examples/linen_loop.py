"""Annealing-KD in a training loop of your own: Flax Linen, optax, two phases.

python examples/linen_loop.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import kd_jax

TAU_MAX = 5


class MLP(nn.Module):
  """One hidden layer."""

  width: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(10)(nn.relu(nn.Dense(self.width)(x)))


def train(model, params, loss, x, y, steps, seed=0):
  """`loss(logits, labels, rows, step)` gives one value for each example."""
  optimizer = optax.adam(3e-3)

  @jax.jit
  def step(params, state, rows, number):
    def objective(params):
      return kd_jax.masked_mean(loss(model.apply(params, x[rows]), y[rows], rows, number))

    updates, state = optimizer.update(jax.grad(objective)(params), state, params)
    return optax.apply_updates(params, updates), state

  state, generator = optimizer.init(params), np.random.default_rng(seed)
  for number in range(steps):
    params, state = step(params, state, generator.integers(0, len(x), 64), number)
  return params


def main(steps: int = 1000) -> dict[str, float]:
  images, labels = load_digits(return_X_y=True)
  x, y = jnp.float32(images / 16), jnp.int32(labels)
  train_x, train_y, test_x, test_y = x[:1200], y[:1200], x[1200:], y[1200:]
  teacher, student = MLP(256), MLP(8)
  start = student.init(jax.random.key(1), x[:1])

  def hard(logits, labels, rows, step):
    return kd_jax.hard_label_loss(logits, labels)

  trained = train(teacher, teacher.init(jax.random.key(0), x[:1]), hard, train_x, train_y, steps)
  teacher_logits = teacher.apply(trained, train_x)
  # The temperature falls from 5 to 1; `step` is traced, so nothing is compiled again.
  temperature = kd_jax.annealing_temperature(TAU_MAX, -(-steps // TAU_MAX))

  def annealed(logits, labels, rows, step):
    return kd_jax.annealing_kd_loss(logits, teacher_logits[rows], temperature(step), TAU_MAX) / 10

  phase1 = train(student, start, annealed, train_x, train_y, steps)
  phase2 = train(student, phase1, hard, train_x, train_y, steps // 4)
  alone = train(student, start, hard, train_x, train_y, steps + steps // 4)

  def accuracy(model, params):
    return float((model.apply(params, test_x).argmax(-1) == test_y).mean())

  found = {"teacher": accuracy(teacher, trained), "scratch": accuracy(student, alone)}
  return found | {"annealing_kd": accuracy(student, phase2)}


if __name__ == "__main__":
  print(main())
