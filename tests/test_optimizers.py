"""Optimisers against updates written out as PyTorch's documentation has them."""

import jax
import numpy as np
import pytest

from kd_jax.optimizers import UNCHANGED, Optimizer, PhaseOptimizer

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
    ({"weight_decay": float("nan")}, "weight_decay must be finite and at least 0"),
    ({"weight_decay": float("inf")}, "weight_decay must be finite"),
    ({"learning_rate": float("inf")}, "learning_rate must be finite and above 0, got inf"),
    ({"learning_rate": float("nan")}, "learning_rate must be finite"),
    ({"clip_norm": float("inf")}, "clip_norm must be above 0, got inf"),
    ({"head_rate": float("inf")}, "head_rate"),
    ({"weight_decay": -1.0}, "weight_decay.*-1"),
    ({"momentum": 1.0}, "momentum.*1"),
    ({"clip_norm": 0.0}, "clip_norm.*0"),
    ({"warmup": 1.0}, r"`warmup` must be .*\[0, 1\), got 1.0"),
    ({"warmup": float("nan")}, "`warmup`.*nan"),
    ({"decay_mask": "biases"}, "decay_mask.*matrices.*'biases'"),
    ({"head_rate": -1.0}, "`head_rate` must be at least 0 .*got -1"),
    ({"name": "lamb"}, "name.*sgd.*'lamb'"),
    ({"decay": "exponential"}, "decay.*cosine.*'exponential'"),
  ],
)
def test_impossible_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    Optimizer(**settings)


# Warm-up.


def test_the_rate_rises_over_the_warm_up_and_decays_over_the_rest():
  steps = np.arange(13)
  rise = [0.0, 0.05, 0.1, 0.15]
  for decay, rest in [
    ("constant", np.full(9, 0.2)),
    ("linear", 0.2 * (1 - np.arange(9) / 8)),
    ("cosine", 0.1 * (1 + np.cos(np.pi * np.arange(9) / 8))),
    ("step", [0.2] * 4 + [0.02] * 2 + [0.002] * 3),
  ]:
    optimizer = Optimizer(learning_rate=0.2, decay=decay, warmup=1 / 3)
    schedule = jax.jit(optimizer.schedule(12))
    np.testing.assert_allclose(schedule(steps), [*rise, *rest], rtol=1e-5, atol=1e-8)
    assert float(schedule(4)) == np.float32(0.2)


@pytest.mark.parametrize(("warmup", "total"), [(0.99, 1), (0.99, 2), (0.1, 3), (0.9, 0)])
def test_a_short_phase_reaches_the_peak_whatever_its_warm_up(warmup, total):
  schedule = Optimizer(learning_rate=0.2, decay="linear", warmup=warmup).schedule(total)
  rates = [float(schedule(step)) for step in range(max(total, 1))]
  assert max(rates) == np.float32(0.2)


def test_updates_follow_the_warm_up():
  optimizer = Optimizer(learning_rate=0.1, decay="constant", warmup=0.3, weight_decay=0.01)
  check(optimizer, pytorch_sgd(0.9, 0.01), [0.0, 0.05, *[0.1] * 5])


# What decays.

NAMED = {
  "dense": {"kernel": np.ones((2, 3)), "bias": np.ones(3)},
  "norm": {"scale": np.ones(3), "bias": np.ones(3)},
  "heads": {"kernel": np.ones((2, 2, 2)), "bias": np.ones((2, 2))},
  "embedding": np.ones((4, 2)),
}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("head_rate", [None, 1.0])
@pytest.mark.parametrize("decay_mask", ["all", "matrices"])
def test_weight_decay_of_all_parameters_or_of_matrices_alone(name, head_rate, decay_mask):
  """Without a gradient a parameter moves only by its decay."""
  params = {"network": NAMED, "auxiliary": {"layers": NAMED}}
  params = jax.tree.map(np.float32, params)
  optimizer = Optimizer(
    name, 0.1, "constant", weight_decay=0.5, decay_mask=decay_mask, head_rate=head_rate
  )
  built = optimizer.build(4)
  change, _ = built.update(jax.tree.map(np.zeros_like, params), built.init(params), params)
  moved = jax.tree.map(lambda x: bool(np.all(np.isclose(x, -0.05))), change)
  still = jax.tree.map(lambda x: bool(np.all(x == 0)), change)
  everything = decay_mask == "all"
  expected = {
    "dense": {"kernel": True, "bias": everything},
    "norm": {"scale": everything, "bias": everything},
    "heads": {"kernel": True, "bias": everything},
    "embedding": True,
  }
  assert moved == {"network": expected, "auxiliary": {"layers": expected}}
  assert jax.tree.map(lambda x: not x, moved) == still


# Heads of loss terms.


def first_change(optimizer, gradient):
  params = jax.tree.map(np.zeros_like, gradient)
  built = optimizer.build(4)
  return jax.jit(built.update)(gradient, built.init(params), params)[0]


HEADED = {"w": np.float32([3.0, 0.0]), "auxiliary": {"term": np.float32([0.0, 4.0])}}


@pytest.mark.parametrize(
  ("head_rate", "clip", "network", "heads"),
  [
    (None, None, 0.3, 0.4),
    (5.0, None, 0.3, 2.0),
    (0.0, None, 0.3, 0.0),
    (None, 1.0, 0.06, 0.08),  # one norm, 5
    (1.0, 1.0, 0.1, 0.1),  # two norms, 3 and 4
    (5.0, 3.5, 0.3, 1.75),
  ],
)
def test_heads_have_a_rate_and_a_norm_of_their_own(head_rate, clip, network, heads):
  optimizer = Optimizer(
    learning_rate=0.1, decay="constant", weight_decay=0.0, clip_norm=clip, head_rate=head_rate
  )
  change = first_change(optimizer, HEADED)
  np.testing.assert_allclose(change["w"], [-network, 0], rtol=1e-5)
  np.testing.assert_allclose(change["auxiliary"]["term"], [0, -heads], rtol=1e-5)


def test_the_rate_of_heads_scales_the_steps_of_adam():
  """Adam's step does not depend on the gradient's size: only a rate can make heads faster."""
  optimizer = Optimizer("adamw", 0.1, "constant", weight_decay=0.0, head_rate=20.0)
  change = first_change(optimizer, HEADED)
  np.testing.assert_allclose(change["w"], [-0.1, 0], rtol=1e-4)
  np.testing.assert_allclose(change["auxiliary"]["term"], [0, -2.0], rtol=1e-4)


def test_a_network_without_heads_trains_as_without_their_rate():
  for plain, apart in zip(
    run(Optimizer(decay="linear", clip_norm=1.0)),
    run(Optimizer(decay="linear", clip_norm=1.0, head_rate=9.0)),
    strict=True,
  ):
    assert jax.tree.all(jax.tree.map(np.array_equal, plain, apart))


# Phases that differ.


def test_a_phase_changes_only_what_is_given():
  base = Optimizer("adamw", 0.2, "linear", weight_decay=0.3, warmup=0.1)
  assert UNCHANGED.applied_to(base) == base
  changed = PhaseOptimizer(rate=0.5, decay="constant", warmup=0.0).applied_to(base)
  assert changed == Optimizer("adamw", 0.1, "constant", weight_decay=0.3)
  with pytest.raises(ValueError, match="`rate` of a phase must be a factor above 0, got 0"):
    PhaseOptimizer(rate=0.0)
