"""Optimisers against updates written out as PyTorch's documentation has them."""

import jax
import numpy as np
import pytest

from kd_jax.optimizers import Optimizer

STEPS = 7
START = {"w": np.array([1.0, -2.0, 0.5]), "b": np.array([0.3])}
GRADIENTS = [
  {"w": rng.standard_normal(3), "b": rng.standard_normal(1)}
  for rng in (np.random.default_rng(seed) for seed in range(STEPS))
]


def run(optimizer, total_steps=STEPS):
  """Parameters after each step, with gradients that do not depend on them."""
  transformation = optimizer.build(total_steps)
  update = jax.jit(transformation.update)
  params = jax.tree.map(np.float32, START)
  state, after = transformation.init(params), []
  for gradient in GRADIENTS:
    change, state = update(jax.tree.map(np.float32, gradient), state, params)
    params = jax.tree.map(lambda p, c: p + c, params, change)
    after.append(params)
  return after


def check(optimizer, reference, rates=None):
  """Compares with `reference(name)` -> update(parameter, gradient, rate, step), for each array."""
  rates = [optimizer.learning_rate] * STEPS if rates is None else rates
  after = run(optimizer)
  for name, parameter in START.items():
    update = reference()
    for step, (gradient, rate) in enumerate(zip(GRADIENTS, rates, strict=True), start=1):
      parameter = update(parameter, gradient[name], rate, step)
      np.testing.assert_allclose(after[step - 1][name], parameter, rtol=2e-5, atol=1e-6)


def pytorch_sgd(momentum, weight_decay):
  def start():
    buffer = None

    def update(parameter, gradient, rate, step):
      nonlocal buffer
      gradient = gradient + weight_decay * parameter
      buffer = gradient if buffer is None else momentum * buffer + gradient
      return parameter - rate * buffer

    return update

  return start


def pytorch_adam(weight_decay, decoupled):
  def start():
    first = second = 0.0

    def update(parameter, gradient, rate, step):
      nonlocal first, second
      if decoupled:
        parameter = parameter - rate * weight_decay * parameter
      else:
        gradient = gradient + weight_decay * parameter
      first = 0.9 * first + 0.1 * gradient
      second = 0.999 * second + 0.001 * gradient**2
      first_hat, second_hat = first / (1 - 0.9**step), second / (1 - 0.999**step)
      return parameter - rate * first_hat / (np.sqrt(second_hat) + 1e-8)

    return update

  return start


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 0.01), (0.0, 0.01), (0.5, 0.0)])
def test_sgd(momentum, weight_decay):
  optimizer = Optimizer(
    learning_rate=0.1, decay="constant", momentum=momentum, weight_decay=weight_decay
  )
  check(optimizer, pytorch_sgd(momentum, weight_decay))


def test_sgd_with_step_decay():
  """The buffer holds gradients, not steps: a lower rate acts on all of them at once."""
  optimizer = Optimizer(learning_rate=0.1, decay="step", weight_decay=0.01)
  rates = [0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
  check(optimizer, pytorch_sgd(0.9, 0.01), rates)


@pytest.mark.parametrize(("name", "decoupled"), [("adam", False), ("adamw", True)])
def test_adam(name, decoupled):
  optimizer = Optimizer(name=name, learning_rate=0.05, decay="constant", weight_decay=0.1)
  check(optimizer, pytorch_adam(0.1, decoupled))


def test_the_decay_of_adamw_is_not_scaled_by_the_gradient():
  """Without a gradient adamw shrinks by rate × decay; adam steps by its rate."""
  zero = {"w": np.zeros(3, np.float32)}
  params = {"w": np.float32(START["w"])}
  for name, expected in [
    ("adamw", -0.05 * 0.1 * START["w"]),
    ("adam", -0.05 * np.sign(START["w"])),
  ]:
    built = Optimizer(name=name, learning_rate=0.05, decay="constant", weight_decay=0.1).build(4)
    change, _ = built.update(zero, built.init(params), params)
    np.testing.assert_allclose(change["w"], expected, rtol=1e-4)


def test_clipping_is_by_the_global_norm_before_weight_decay():
  optimizer = Optimizer(
    learning_rate=1.0, decay="constant", momentum=0.0, weight_decay=0.1, clip_norm=2.0
  )
  parameters = START
  for gradient, after in zip(GRADIENTS, run(optimizer), strict=True):
    norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
    scale = min(1.0, 2.0 / norm)
    parameters = {n: p - (scale * gradient[n] + 0.1 * p) for n, p in parameters.items()}
    for name, expected in parameters.items():
      np.testing.assert_allclose(after[name], expected, rtol=2e-5, atol=1e-6)
  norms = [np.sqrt(sum(np.sum(g**2) for g in gradient.values())) for gradient in GRADIENTS]
  assert min(norms) < 2 < max(norms)


@pytest.mark.parametrize("total", [4, 7, 100, 62_500])
def test_step_decay_falls_at_one_half_and_three_quarters(total):
  schedule = jax.jit(Optimizer(learning_rate=0.1, decay="step").schedule(total))
  for boundary, before, after in [(total // 2, 0.1, 0.01), (3 * total // 4, 0.01, 0.001)]:
    np.testing.assert_allclose(schedule(boundary - 1), before, rtol=1e-6)
    np.testing.assert_allclose(schedule(boundary), after, rtol=1e-6)
  np.testing.assert_allclose(schedule(0), 0.1, rtol=1e-6)
  np.testing.assert_allclose(schedule(total - 1), 0.001, rtol=1e-6)


def test_other_courses_of_the_learning_rate():
  steps = np.arange(9)
  for decay, expected in [
    ("constant", np.full(9, 0.2)),
    ("linear", 0.2 * (1 - steps / 8)),
    ("cosine", 0.1 * (1 + np.cos(np.pi * steps / 8))),
  ]:
    schedule = Optimizer(learning_rate=0.2, decay=decay).schedule(8)
    np.testing.assert_allclose(schedule(steps), expected, rtol=1e-5, atol=1e-8)
  # Too short to be divided in four.
  np.testing.assert_allclose(Optimizer(learning_rate=0.2).schedule(3)(steps), 0.2, rtol=1e-6)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"learning_rate": 0.0}, "learning_rate.*0"),
    ({"learning_rate": float("nan")}, "learning_rate.*nan"),
    ({"weight_decay": -1.0}, "weight_decay.*-1"),
    ({"momentum": 1.0}, "momentum.*1"),
    ({"clip_norm": 0.0}, "clip_norm.*0"),
    ({"name": "lamb"}, "name.*sgd.*'lamb'"),
    ({"decay": "exponential"}, "decay.*cosine.*'exponential'"),
  ],
)
def test_impossible_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    Optimizer(**settings)
