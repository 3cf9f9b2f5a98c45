"""Heads of objectives: trained with the student, left behind with their phase. Networks from others' values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kd_jax
from kd_jax import recipes
from kd_jax.data import Augmentation
from kd_jax.models.heads import LayerClassifiers, LayerProjections
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import Budget, Phase, Recipe, Term
from kd_jax.teachers.sources import cached_teacher
from kd_jax.training.loop import begin_phase, fresh_variables, train_phase, train_recipe
from kd_jax.training.state import (
  AUXILIARY,
  init_heads,
  network_of,
  one_seed,
  start_variables,
)
from kd_jax.types import Outputs
from tests.training import CLASSES, TASK, assert_close, assert_same_bits, changed, mlp

HEAD_RATE = 3.0
OPTIMIZER = Optimizer(learning_rate=0.1, decay="constant", weight_decay=0.0, head_rate=HEAD_RATE)
SEEDS = (3, 5)
# All examples in one step: its order does not matter, and a step can be done by hand.
HEADED = changed(
  model=mlp(6, 5),
  augmentation=Augmentation("none"),
  views=1,
  batch_size=len(TASK.train),
  seeds=SEEDS,
)
TEACHER_WIDTH, TEACHER_LAYERS = 7, 4
BUDGET, TARGET = Budget(4, OPTIMIZER), recipes.Classes(CLASSES)
WIDTHS = (TEACHER_WIDTH,) * TEACHER_LAYERS


def own_recipe():
  """Two terms with heads of their own, then Universal-KD's second phase."""
  distil, finetune = recipes.universal_kd(TARGET, BUDGET).phases
  soft, layers = distil.objective
  projected = recipes.alp_kd(TARGET, BUDGET, project=True, layer_weight=0.3, teacher_widths=WIDTHS)
  states = projected.phases[0].objective[-1]
  terms = (soft, layers, dataclasses.replace(states, name="states"))
  return Recipe("own", "", "", "", (Phase("distil", terms, 2, OPTIMIZER), finetune))


RECIPE = own_recipe()
DISTIL, FINETUNE = RECIPE.phases
FINETUNE_FRESH = dataclasses.replace(FINETUNE, start="fresh")


def said():
  """[N, 1, ...] of a teacher that nobody trained, as a cache keeps them."""
  rng = np.random.default_rng(0)

  def random(*shape):
    return rng.standard_normal((len(HEADED.train), 1, *shape)).astype(np.float32)

  return Outputs(
    random(CLASSES),
    random(TEACHER_LAYERS, TEACHER_WIDTH),
    layer_logits=random(TEACHER_LAYERS - 1, CLASSES),
  )


SAID = said()


@pytest.fixture(scope="module")
def whole():
  """(phase, report, a copy of its state) of every epoch of the recipe, both seeds together."""
  return [
    (phase, report, jax.tree.map(np.array, report.state))
    for phase, report in train_recipe(HEADED, RECIPE, cached_teacher(SAID))
  ]


def start():
  return begin_phase(HEADED, DISTIL, fresh_variables(HEADED), None)


# Where they are, and where they are not.


def test_heads_stand_beside_the_network_and_only_in_their_phase(whole):
  network = set(fresh_variables(HEADED)["params"])
  assert network == {"hidden1", "hidden2", "linear"}
  shapes = {
    "layers": {"pseudo": {"layer1": {"kernel": (2, 6, CLASSES), "bias": (2, CLASSES)}}},
    "states": {"layer1": {"kernel": (2, 6, TEACHER_WIDTH), "bias": (2, TEACHER_WIDTH)}},
  }
  assert [phase.name for phase, _, _ in whole] == ["distil", "distil", "finetune", "finetune"]
  for phase, _, state in whole:
    for variables in (state.train.variables, state.best):
      if phase is DISTIL:
        assert set(variables["params"]) == network | {AUXILIARY}
        assert jax.tree.map(np.shape, variables["params"][AUXILIARY]) == shapes
      else:
        assert set(variables["params"]) == network
  # The optimiser's state of the second phase knows nothing of them either.
  paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(whole[-1][2].train)]
  assert not [path for path in paths if AUXILIARY in path or "pseudo" in path]
  before = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(whole[0][2].train)]
  assert [path for path in before if AUXILIARY in path and "opt_state" in path]


def test_network_of_drops_the_heads_and_nothing_else(whole):
  _, _, state = whole[1]
  variables = state.train.variables | {"batch_stats": {"norm": np.ones(2)}}
  kept = network_of(variables)
  assert set(kept["params"]) == {"hidden1", "hidden2", "linear"}
  assert AUXILIARY in variables["params"]  # the original is as it was
  for name, value in kept["params"].items():
    assert_same_bits(value, variables["params"][name])
  assert_same_bits(kept["batch_stats"], variables["batch_stats"])
  for source in ("best", "last"):
    assert AUXILIARY not in start_variables(source, None, state)["params"]


def test_the_network_reads_its_inputs_the_same_with_and_without_heads(whole):
  """What evaluation does with the best variables of a phase with heads."""
  variables = one_seed(whole[1][2].best, 0)
  images = HEADED.validation.images
  with_heads, without = (
    HEADED.model.apply(v, images, train=False).logits for v in (variables, network_of(variables))
  )
  np.testing.assert_array_equal(with_heads, without)


# What training does.


def by_hand(params, seed):
  """The objective of the phase on all examples, in one expression."""
  heads = params[AUXILIARY]
  outputs = HEADED.model.apply({"params": network_of({"params": params})["params"]}, seed)
  log_p = jax.nn.log_softmax(outputs.logits)
  teacher = jax.nn.softmax(SAID.logits[:, 0])
  soft = jnp.sum(teacher * (jnp.log(teacher) - log_p), axis=-1)

  def attended(queries, keys):
    return jax.nn.softmax(queries @ keys.swapaxes(-1, -2), axis=-1) @ keys

  first = outputs.layers[0]
  pseudo = heads["layers"]["pseudo"]["layer1"]
  own = first @ pseudo["kernel"] + pseudo["bias"]
  mixed = attended(own[:, None], SAID.layer_logits[:, 0])[:, 0]
  target = jax.nn.softmax(mixed)
  layers = jnp.sum(target * (jnp.log(target) - jax.nn.log_softmax(own)), axis=-1)
  state = first @ heads["states"]["layer1"]["kernel"] + heads["states"]["layer1"]["bias"]
  aim = attended(state[:, None], SAID.layers[:, 0, :-1])[:, 0]
  states = jnp.mean((state - aim) ** 2, axis=-1)
  return jnp.mean(0.5 * soft + 0.5 * layers + 0.3 * states)


def test_the_first_step_is_the_one_by_hand(whole):
  before, after = start().train.variables["params"], whole[0][2].train.variables["params"]
  images = HEADED.train.images
  step = jax.jit(jax.value_and_grad(lambda params: by_hand(params, images)))
  for index in range(len(SEEDS)):
    own = one_seed(before, index)
    loss, gradient = step(own)
    np.testing.assert_allclose(whole[0][1].record.train_loss[index], loss, rtol=1e-5)
    rates = dict.fromkeys(own, OPTIMIZER.learning_rate)
    rates[AUXILIARY] *= HEAD_RATE
    expected = {
      name: jax.tree.map(lambda x, g, rate=rates[name]: x - rate * g, own[name], gradient[name])
      for name in own
    }
    assert_close(one_seed(after, index), expected, 1e-5)
    # The loss moves all heads: there are none of the last layer, which it does not read.
    moved = jax.tree.map(lambda g: bool(np.any(np.abs(g) > 1e-4)), gradient[AUXILIARY])
    assert moved == {
      "layers": {"pseudo": {"layer1": {"kernel": True, "bias": True}}},
      "states": {"layer1": {"kernel": True, "bias": True}},
    }


def test_the_next_phase_starts_from_the_network_alone(whole):
  """Its first step, by hand, from the best variables of the phase before."""
  variables = whole[1][2].best["params"]
  labels = HEADED.train.labels

  def loss(params):
    logits = HEADED.model.apply({"params": params}, HEADED.train.images).logits
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

  step = jax.jit(jax.grad(loss))
  for index in range(len(SEEDS)):
    own = {k: v for k, v in one_seed(variables, index).items() if k != AUXILIARY}
    expected = jax.tree.map(lambda x, g: x - OPTIMIZER.learning_rate * g, own, step(own))
    assert_close(one_seed(whole[2][2].train.variables["params"], index), expected, 1e-5)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_resumption_after_any_epoch_ends_with_the_same_bits(whole, after):
  """As from files: the state after an epoch, in a process that knows nothing else."""
  phase, report, state = whole[after - 1]
  teacher, fresh = cached_teacher(SAID), fresh_variables(HEADED)
  rest = []
  for index in range(RECIPE.phases.index(phase), 2):
    if index > RECIPE.phases.index(phase):
      state = begin_phase(HEADED, RECIPE.phases[index], fresh, state)
    for report in train_phase(
      HEADED, RECIPE.phases[index], state, teacher, label="own", epochs_before=2 * index
    ):
      state = report.state
      rest.append(report)
  assert len(rest) == 4 - after
  for report, (_, expected, _) in zip(rest, whole[after:], strict=True):
    assert_same_bits(report.state, expected.state)
    assert report.record == expected.record


def test_seeds_together_are_seeds_alone(whole):
  alone = list(train_recipe(changed(HEADED, seeds=SEEDS[1:]), RECIPE, cached_teacher(SAID)))
  for (_, report), (_, _, together) in zip(alone, whole, strict=True):
    for mine, both in ((report.state.train, together.train), (report.state, together)):
      name = "variables" if mine is report.state.train else "best"
      own, theirs = (one_seed(getattr(mine, name), 0), one_seed(getattr(both, name), 1))
      assert_close(own, theirs, 1e-5)
  kernels = whole[1][2].train.variables["params"][AUXILIARY]["states"]["layer1"]["kernel"]
  assert not np.allclose(*kernels)


# Where they start.


def test_heads_start_from_seed_phase_and_term():
  network = fresh_variables(HEADED)
  names = ("student.layers[:-1]", "teacher.layers[:-1]")
  term = Term("one", kd_jax.alp_kd_loss, names, head=LayerProjections(TEACHER_WIDTH))
  both = Phase("p", (term, dataclasses.replace(term, name="other")), 1, OPTIMIZER)

  def heads_of(phase, seeds=SEEDS, variables=network):
    return init_heads(HEADED.model, phase, variables, HEADED.example, seeds)

  def kernel(heads, name="one", seed=0):
    return heads[name]["layer1"]["kernel"][seed]

  found = heads_of(both)
  assert set(found) == {"one", "other"}
  assert not np.allclose(kernel(found), kernel(found, seed=1))
  assert not np.allclose(kernel(found), kernel(found, "other"))
  only = dataclasses.replace(both, objective=(term,))
  assert not np.allclose(kernel(found), kernel(heads_of(dataclasses.replace(only, name="q"))))
  # And from nothing else: not from the seeds beside it, the terms, the epochs, the network's values.
  assert_same_bits(one_seed(heads_of(only, seeds=(9, 3))["one"], 1), one_seed(found["one"], 0))
  ones = jax.tree.map(np.ones_like, network)
  longer = dataclasses.replace(both, objective=both.objective[1:], epochs=3)
  assert_same_bits(heads_of(longer, variables=ones), {"other": found["other"]})


def test_a_phase_without_heads_has_no_auxiliary_parameters():
  labels = Phase("p", (TARGET.label_term(),), 1, OPTIMIZER)
  fresh = fresh_variables(HEADED)
  assert init_heads(HEADED.model, labels, fresh, HEADED.example, SEEDS) == {}
  state = begin_phase(HEADED, labels, fresh, None)
  assert AUXILIARY not in state.train.variables["params"]


def test_a_network_without_inner_layers_is_refused():
  shallow = changed(HEADED, model=mlp(6))
  with pytest.raises(ValueError, match="give the student at least 2 layers"):
    begin_phase(shallow, DISTIL, fresh_variables(shallow), None)
  assert DISTIL.objective[1].head == LayerClassifiers(CLASSES)


# Networks that start from others.


def test_initial_variables_take_the_place_of_fresh_ones_in_every_seed():
  fresh = fresh_variables(HEADED)
  rng = np.random.default_rng(0)
  bias, kernel = rng.standard_normal(6), rng.standard_normal((6, 5)).astype(np.float32)
  initial = {"params": {"hidden1": {"bias": bias}, "hidden2": {"kernel": kernel}}}
  found = fresh_variables(changed(HEADED, initial=initial))
  assert jax.tree.structure(found) == jax.tree.structure(fresh)
  for leaf, before in zip(jax.tree.leaves(found), jax.tree.leaves(fresh), strict=True):
    assert (leaf.shape, leaf.dtype) == (before.shape, before.dtype)
  for seed in range(len(SEEDS)):
    np.testing.assert_array_equal(found["params"]["hidden1"]["bias"][seed], bias.astype(np.float32))
    np.testing.assert_array_equal(found["params"]["hidden2"]["kernel"][seed], kernel)
  for layer, name in (("hidden1", "kernel"), ("hidden2", "bias"), ("linear", "kernel")):
    assert_same_bits(found["params"][layer][name], fresh["params"][layer][name])
  assert not np.allclose(*found["params"]["linear"]["kernel"])
  # What was given, and what comes without it, are as they were.
  assert bias.dtype == np.float64
  assert_same_bits(fresh_variables(HEADED), fresh)


def test_training_goes_on_from_initial_variables(whole):
  """The network of one seed as the start of both."""
  network = one_seed(network_of(whole[-1][2].train.variables), 0)
  labels = Recipe("labels", "", "", "", (FINETUNE_FRESH,))
  (_, report), *_ = train_recipe(changed(HEADED, initial=network), labels)
  logits = HEADED.model.apply(network, HEADED.train.images).logits
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, HEADED.train.labels).mean()
  np.testing.assert_allclose(report.record.train_loss, float(loss), rtol=1e-5)


@pytest.mark.parametrize(
  ("initial", "message"),
  [
    ({"params": {"hidden3": {"bias": np.zeros(6)}}}, r"has no params\.hidden3 to start from"),
    ({"batch_stats": {}}, r"has no batch_stats to start from: it has \['params'\]"),
    (
      {"params": {"hidden1": {"bias": np.zeros(5)}}},
      r"initial params\.hidden1\.bias is of shape \(5,\), the network's of \(6,\)",
    ),
    (
      {"params": {"hidden1": {"bias": np.zeros((2, 6))}}},
      r"initial params\.hidden1\.bias is of shape \(2, 6\), the network's of \(6,\)",
    ),
    (
      {"params": {"hidden1": np.zeros(6)}},
      r"initial params\.hidden1 is an array, the network's has \['bias', 'kernel'\]",
    ),
    ({"params": {"hidden1": {"bias": {"a": 0}}}}, r"has no params\.hidden1\.bias\.a to start from"),
  ],
)
def test_initial_variables_that_do_not_fit_are_refused(initial, message):
  with pytest.raises(ValueError, match=message) as refused:
    fresh_variables(changed(HEADED, initial=initial))
  assert "\n" not in str(refused.value)
