"""Recipes as data, against hand-worked numbers."""

import copy
import dataclasses
import json

import jax
import numpy as np
import optax
import pytest

import kd_jax
from kd_jax import recipes
from kd_jax.models.heads import LayerClassifiers, LayerProjections
from kd_jax.optimizers import Optimizer, PhaseOptimizer
from kd_jax.recipes import Budget, Phase, Recipe, Term, describe, make_recipe
from kd_jax.types import Batch, Outputs, TopK
from tests import oracles

TARGET = recipes.Classes(4)
BUDGET = Budget(epochs=12, optimizer=Optimizer(learning_rate=0.2))
OF_NUMBERS = ("scratch", "kd", "takd", "annealing_kd", "continuation_kd")
OF_CLASSES = ("dkd", "dist", "reverse_kl", "jensen_shannon")
METHODS = (*OF_NUMBERS, *OF_CLASSES)
EPOCHS = np.arange(0, 12, 0.25)


def shape_of(recipe):
  return [
    (
      phase.name,
      phase.epochs,
      phase.start,
      phase.needs_teacher,
      [(term.name, term.needs_teacher) for term in phase.objective],
    )
    for phase in recipe.phases
  ]


def outputs_and_batch(size=5, classes=4):
  rng = np.random.default_rng(0)
  student, teacher = 2 * rng.standard_normal((2, size, classes)).astype(np.float32)
  labels = rng.integers(0, classes, size)
  return Outputs(student), Outputs(teacher), Batch(np.zeros((size, 1)), labels)


def loss_of(phase, epoch):
  """The objective by hand: the sum of weight × mean over the batch, at one epoch."""
  student, teacher, batch = outputs_and_batch()
  total = 0.0
  for term in phase.objective:
    values = np.asarray(term.loss_at(student, teacher, batch, epoch), np.float64)
    # Over the batch, or over the classes.
    assert values.shape == ((4,) if term.name == "intra" else (5,))
    total += float(term.weight_at(epoch)) * values.mean()
  return total


def label_loss():
  student, _, batch = outputs_and_batch()
  return np.mean(
    [-np.log(oracles.softmax(z)[y]) for z, y in zip(student.logits, batch.labels, strict=True)]
  )


def test_the_methods_that_exist():
  assert set(METHODS) < set(recipes.methods_for("images"))
  assert set(METHODS) < set(recipes.methods_for("texts"))
  for name in METHODS:
    recipe = make_recipe(name, TARGET, dataclasses.replace(BUDGET, epochs=20))
    assert recipe.name == name
    assert recipe.title
    assert recipe.equation
    # No method of a comparison trains longer than another.
    assert sum(phase.epochs for phase in recipe.phases) == 20


def test_scratch_is_cross_entropy():
  recipe = recipes.scratch(TARGET, BUDGET)
  assert shape_of(recipe) == [("train", 12, "fresh", False, [("cross_entropy", False)])]
  assert not recipe.needs_teacher
  assert recipe.phases[0].optimizer == BUDGET.optimizer
  np.testing.assert_allclose(loss_of(recipe.phases[0], 3.5), label_loss(), rtol=1e-6)


def test_kd_is_the_weighted_sum_of_its_two_terms():
  recipe = recipes.kd(TARGET, BUDGET, temperature=3.0, soft_weight=0.7)
  terms = [("cross_entropy", False), ("soft_targets", True)]
  assert shape_of(recipe) == [("distil", 12, "fresh", True, terms)]
  student, teacher, _ = outputs_and_batch()
  soft = oracles.soft_target_kd_loss(student.logits, teacher.logits, 3.0).mean()
  for epoch in (0, 11.9):
    expected = 0.3 * label_loss() + 0.7 * soft
    np.testing.assert_allclose(loss_of(recipe.phases[0], epoch), expected, rtol=1e-5)
  for soft_weight in (0.0, 0.25, 1.0):
    weights = [
      t.weight for t in recipes.kd(TARGET, BUDGET, soft_weight=soft_weight).phases[0].objective
    ]
    assert weights == [1 - soft_weight, soft_weight]


def test_kd_reads_top_k_outputs_where_the_cache_has_only_those():
  student, teacher, batch = outputs_and_batch()
  target = recipes.Classes(4, top_k=2)
  term = recipes.kd(target, BUDGET, temperature=1.0).phases[0].objective[1]
  assert term.reads == {"top_k"}
  indices, log_probs, tail = oracles.top_k(teacher.logits, 2, 1.0)
  cut = Outputs(top_k=TopK(indices, log_probs.astype(np.float32), tail.astype(np.float32)))
  np.testing.assert_allclose(
    term.loss_at(student, cut, batch, 0),
    oracles.top_k_kd_loss(student.logits, teacher.logits, 2),
    rtol=1e-4,
    atol=1e-6,
  )
  anneal = recipes.annealing_kd(target, BUDGET, max_temperature=3).phases[0].objective[0]
  with pytest.raises(ValueError, match=r"all of the teacher's logits are read: .* without top-k"):
    anneal.loss_at(student, cut, batch, 0)
  with pytest.raises(ValueError, match="the teacher gives no top k: precompute a cache with top-k"):
    term.loss_at(student, teacher, batch, 0)


@pytest.mark.parametrize(("share", "epochs"), [(0.25, 12), (1.0, 3), (0.0, 12)])
def test_dkd_rises_over_its_warm_up(share, epochs):
  budget = dataclasses.replace(BUDGET, epochs=epochs)
  settings = {"temperature": 2.0, "target_weight": 0.5, "non_target_weight": 3.0}
  recipe = recipes.dkd(TARGET, budget, **settings, warmup_share=share)
  terms = [("cross_entropy", False), ("decoupled", True)]
  assert shape_of(recipe) == [("distil", epochs, "fresh", True, terms)]
  student, teacher, batch = outputs_and_batch()
  decoupled = oracles.decoupled_kd_loss(student.logits, teacher.logits, batch.labels, **settings)
  # The ramp has three epochs, or none.
  for epoch, weight in [(0, 0), (0.75, 0.25), (1.5, 0.5), (3, 1), (epochs, 1)]:
    expected = label_loss() + (weight if share else 1.0) * decoupled.mean()
    np.testing.assert_allclose(loss_of(recipe.phases[0], epoch), expected, rtol=1e-5)
  assert recipes.dkd(TARGET, BUDGET).phases[0].objective[1].options == {
    "temperature": 4.0,
    "target_weight": 1.0,
    "non_target_weight": 8.0,
  }


def test_dist_has_both_relations_times_the_square_of_the_temperature():
  recipe = recipes.dist(TARGET, BUDGET, temperature=2.0, inter_weight=3.0, intra_weight=0.5)
  terms = [("cross_entropy", False), ("inter", True), ("intra", True)]
  assert shape_of(recipe) == [("distil", 12, "fresh", True, terms)]
  student, teacher, _ = outputs_and_batch()
  inter = oracles.dist_inter_loss(student.logits, teacher.logits, 2.0).mean()
  intra = oracles.dist_intra_loss(student.logits, teacher.logits, 2.0).mean()
  expected = label_loss() + 4 * (3.0 * inter + 0.5 * intra)
  np.testing.assert_allclose(loss_of(recipe.phases[0], 1.5), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon"])
def test_other_divergences_stand_where_kd_has_its_own(name):
  recipe = make_recipe(name, TARGET, BUDGET, {"temperature": 2.0, "soft_weight": 0.3})
  terms = [("cross_entropy", False), (name, True)]
  assert shape_of(recipe) == [("distil", 12, "fresh", True, terms)]
  student, teacher, _ = outputs_and_batch()
  divergence = getattr(oracles, name)(student.logits, teacher.logits, 2.0).mean()
  expected = 0.7 * label_loss() + 0.3 * divergence
  np.testing.assert_allclose(loss_of(recipe.phases[0], 0), expected, rtol=1e-5)


def test_takd_trains_its_assistant_by_kd():
  recipe = recipes.takd(TARGET, BUDGET, temperature=2.0, soft_weight=0.5)
  plain = recipes.kd(TARGET, BUDGET, temperature=2.0, soft_weight=0.5)
  assert recipe.assistant.name == "assistant"
  assert recipe.assistant.assistant is None
  for one in (recipe, recipe.assistant):
    assert describe(one)["phases"] == describe(plain)["phases"]
  assert plain.assistant is None


def test_annealing_kd_has_two_phases():
  recipe = recipes.annealing_kd(TARGET, BUDGET, max_temperature=3)
  assert shape_of(recipe) == [
    ("anneal", 6, "fresh", True, [("annealed_regression", True)]),
    ("finetune", 6, "best", False, [("cross_entropy", False)]),
  ]
  temperature = recipe.phases[0].objective[0].options["temperature"]
  assert [int(temperature(e)) for e in (0, 1.75, 2, 3.75, 4, 5.75)] == [3, 3, 2, 2, 1, 1]
  lengths = [
    phase.epochs
    for phase in recipes.annealing_kd(TARGET, BUDGET, max_temperature=2, anneal_epochs=9).phases
  ]
  assert lengths == [9, 3]


@pytest.mark.parametrize(("tau", "epochs"), [(3, 6), (3, 8), (4, 7), (1, 5), (5, 5)])
def test_the_best_of_phase_i_can_be_taken_at_temperature_one_alone(tau, epochs):
  budget = dataclasses.replace(BUDGET, epochs=epochs + 2)
  options = {"max_temperature": tau, "anneal_epochs": epochs}
  late, plain = (
    recipes.annealing_kd(TARGET, budget, **options, best_at_temperature_one=chosen)
    for chosen in (True, False)
  )
  temperature = late.phases[0].objective[0].options["temperature"]
  at_one = [epoch + 1 for epoch in range(epochs) if temperature(epoch) == 1]
  assert late.phases[0].best_from == at_one[0]
  assert [phase.best_from for phase in (*plain.phases, late.phases[1])] == [1, 1, 1]
  # Runs that were described without the option are described alike.
  assert "best_from" not in str(describe(plain))
  assert (describe(late) == describe(plain)) == (tau == 1)


@pytest.mark.parametrize("best_from", [0, 4])
def test_the_best_is_taken_from_an_epoch_of_the_phase(best_from):
  with pytest.raises(
    ValueError, match=f"`best_from` of phase 'one' must be .* 1 to 3, got {best_from}"
  ):
    Phase("one", (TARGET.label_term(),), 3, BUDGET.optimizer, best_from=best_from)


def test_each_phase_of_annealing_kd_may_have_an_optimizer_of_its_own():
  recipe = recipes.annealing_kd(
    TARGET,
    BUDGET,
    max_temperature=3,
    phase1=PhaseOptimizer(decay="constant"),
    phase2=PhaseOptimizer(rate=0.1, warmup=0.25),
  )
  first, second = (phase.optimizer for phase in recipe.phases)
  assert first == dataclasses.replace(BUDGET.optimizer, decay="constant")
  assert second == dataclasses.replace(
    BUDGET.optimizer, learning_rate=0.1 * BUDGET.optimizer.learning_rate, warmup=0.25
  )


@pytest.mark.parametrize("name", METHODS)
def test_equal_label_epochs_leave_the_last_phase_the_whole_budget(name):
  """Phase I comes on top, and stays what it is; methods of one phase stay as they are."""
  budget = dataclasses.replace(BUDGET, epochs=20)
  total = make_recipe(name, TARGET, budget)
  labels = make_recipe(name, TARGET, dataclasses.replace(budget, equal_epochs="labels"))
  assert labels.phases[-1].epochs == 20
  described = [describe(recipe)["phases"] for recipe in (total, labels)]
  assert described[0][:-1] == described[1][:-1]
  if name == "annealing_kd":
    assert [phase.epochs for phase in labels.phases] == [10, 20]
    longer = recipes.annealing_kd(
      TARGET, dataclasses.replace(budget, equal_epochs="labels"), anneal_epochs=30
    )
    assert [phase.epochs for phase in longer.phases] == [30, 20]
  else:
    assert described[0] == described[1]


def test_annealing_kd_has_the_scale_of_the_released_code():
  """nn.MSELoss: the mean over the batch and the classes of (z_s - Phi(T) z_t)²."""
  phase = recipes.annealing_kd(TARGET, BUDGET, max_temperature=3).phases[0]
  student, teacher, _ = outputs_and_batch()
  for epoch, factor in [(0, 1 / 3), (1.75, 1 / 3), (2.0, 2 / 3), (4.0, 1.0), (5.9, 1.0)]:
    expected = np.mean((student.logits - factor * teacher.logits) ** 2)
    np.testing.assert_allclose(loss_of(phase, epoch), expected, rtol=1e-5)


@pytest.mark.parametrize(("max_temperature", "epochs"), [(10, 160), (7, 40), (4, 6), (5, 5)])
def test_a_phase_that_does_not_divide_holds_temperature_one(max_temperature, epochs):
  budget = dataclasses.replace(BUDGET, epochs=2 * epochs)
  schedule = (
    recipes.annealing_kd(TARGET, budget, max_temperature=max_temperature)
    .phases[0]
    .objective[0]
    .options["temperature"]
  )
  temperatures = np.asarray(schedule(np.arange(epochs + 1)))
  each = epochs // max_temperature
  expected = np.repeat(np.arange(max_temperature, 0, -1), each)
  np.testing.assert_array_equal(temperatures[: len(expected)], expected)
  np.testing.assert_array_equal(temperatures[len(expected) - each :], 1)
  factors = 1 - (temperatures - 1) / max_temperature
  assert factors.max() == 1
  assert np.all(np.diff(factors) >= 0)


@pytest.mark.parametrize("name", ["annealing_kd", "continuation_kd"])
def test_numbers_are_annealed_around_the_mean_label(name):
  """The hottest teacher says nothing but the mean; the coldest says what it thinks."""
  number, settings = recipes.Number(2.5), {"max_temperature": 4}
  recipe = make_recipe(name, number, BUDGET, settings)
  term = recipe.phases[0].objective[-1]
  student = Outputs(np.float32([[2.5], [1.0]]))
  teacher = Outputs(np.float32([[4.5], [1.0]]))
  batch = Batch(np.zeros((2, 1)), np.zeros(2))
  temperature = term.options["temperature"]
  losses = {
    float(temperature(epoch)): term.loss_at(student, teacher, batch, epoch) for epoch in (0, 11)
  }
  # Phi(4) = 1/4: targets 3 and 2.125; Phi(1) = 1: the teacher's own 4.5 and 1.
  np.testing.assert_allclose(losses[4], [0.25, 1.125**2], rtol=1e-5)
  np.testing.assert_allclose(losses[1], [4.0, 0.0], atol=1e-6)
  assert term.options["center"] == 2.5
  assert "ȳ" in recipe.equation
  assert "center" not in str(describe(make_recipe(name, TARGET, BUDGET, settings)))


@pytest.mark.parametrize("name", ["annealing_kd", "continuation_kd"])
def test_a_center_is_not_rounded_to_the_caches_precision(name):
  number = recipes.Number(2048.7)  # 2048 in float16
  term = make_recipe(name, number, BUDGET, {"max_temperature": 4}).phases[0].objective[-1]
  student, batch = Outputs(np.float32([[2048.7]])), Batch(np.zeros((1, 1)), np.zeros(1))
  losses = [
    term.loss_at(student, Outputs(np.full((1, 1), 2050, dtype)), batch, 0.0)
    for dtype in (np.float16, np.float32)
  ]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
  np.testing.assert_allclose(losses[1], [(1.3 / 4) ** 2], rtol=1e-2)


def test_continuation_kd_moves_from_regression_to_labels():
  recipe = recipes.continuation_kd(TARGET, BUDGET, max_temperature=3, margin=1.5)
  terms = [("cross_entropy", False), ("annealed_regression", True)]
  assert shape_of(recipe) == [("continue", 12, "fresh", True, terms)]
  student, teacher, _ = outputs_and_batch()
  # The ramp is 9 of the 12 epochs: psi = epoch / 9, and three epochs at each temperature.
  for epoch, psi, factor in [(0, 0, 1 / 3), (3, 1 / 3, 2 / 3), (4.5, 0.5, 2 / 3), (9, 1, 1)]:
    squares = np.sum((student.logits - factor * teacher.logits) ** 2, axis=-1)
    hinge = np.maximum(0, squares - 1.5 * factor)
    expected = psi * label_loss() + (1 - psi) * hinge.mean() / 4
    np.testing.assert_allclose(loss_of(recipe.phases[0], epoch), expected, rtol=1e-5)
  labels, regression = recipe.phases[0].objective
  np.testing.assert_allclose(labels.weight(EPOCHS) + 4 * regression.weight(EPOCHS), 1, rtol=1e-6)
  assert float(regression.weight(9)) == float(regression.weight(12)) == 0
  # A ramp shorter than tau_max lowers tau_max to its length.
  short = recipes.continuation_kd(TARGET, dataclasses.replace(BUDGET, epochs=4), max_temperature=20)
  regression = short.phases[0].objective[1]
  assert regression.options["max_temperature"] == 3
  assert [int(regression.options["temperature"](e)) for e in range(4)] == [3, 2, 1, 1]


def test_continuation_kd_without_margin_is_annealing_kd():
  """With a weight that steps from regression to labels, the two methods have equal losses."""
  anneal, finetune = recipes.annealing_kd(TARGET, BUDGET, max_temperature=3).phases
  phase = recipes.continuation_kd(
    TARGET, BUDGET, max_temperature=3, margin=0.0, label_ramp=0.5
  ).phases[0]
  labels, regression = phase.objective
  step = dataclasses.replace(
    phase,
    objective=(
      dataclasses.replace(labels, weight=lambda epoch: 0.0 if epoch < 6 else 1.0),
      dataclasses.replace(regression, weight=lambda epoch: 0.25 if epoch < 6 else 0.0),
    ),
  )
  for epoch in (0, 1.5, 2, 4, 5.5):
    np.testing.assert_allclose(loss_of(step, epoch), loss_of(anneal, epoch), rtol=1e-6)
  for epoch in (6, 11.5):
    np.testing.assert_allclose(loss_of(step, epoch), loss_of(finetune, epoch - 6), rtol=1e-6)


def test_weights_and_temperatures_may_be_traced():
  phase = recipes.continuation_kd(TARGET, BUDGET, max_temperature=3).phases[0]
  student, teacher, batch = outputs_and_batch()

  @jax.jit
  def traced(epoch):
    return [t.weight_at(epoch) * t.loss_at(student, teacher, batch, epoch) for t in phase.objective]

  for epoch in (0.0, 4.5, 11.0):
    total = sum(float(values.mean()) for values in traced(epoch))
    np.testing.assert_allclose(total, loss_of(phase, epoch), rtol=1e-5)
  assert traced._cache_size() == 1


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_predicted_number_is_learnt_by_squared_errors(name):
  """C = 1: a softmax over one class is always 1, and would teach nothing."""
  rng = np.random.default_rng(1)
  student, teacher = rng.standard_normal((2, 5, 1)).astype(np.float32)
  numbers = (5 * rng.random(5)).astype(np.float32)
  batch = Batch(np.zeros((5, 1)), numbers)
  budget = dataclasses.replace(BUDGET, epochs=20)
  factor = {"annealing_kd": 0.1, "continuation_kd": 1 / 15}.get(name, 1.0)  # Phi at the first epoch
  squares = {
    "cross_entropy": np.square(student[:, 0] - numbers),
    "soft_targets": np.square(student[:, 0] - teacher[:, 0]),
    "annealed_regression": np.square(student[:, 0] - factor * teacher[:, 0]),
  }
  for phase in make_recipe(name, recipes.Number(), budget).phases:
    for term in phase.objective:

      def loss(logits, term=term):
        return term.loss_at(Outputs(logits), Outputs(teacher), batch, 0.0)

      np.testing.assert_allclose(loss(student), squares[term.name], rtol=1e-5)
      gradient = jax.grad(lambda logits, loss=loss: loss(logits).sum())(student)
      assert np.isfinite(gradient).all()
      assert np.all(gradient != 0)
      if term.name != "cross_entropy" and callable(term.weight):
        np.testing.assert_allclose(term.weight_at(0.0), 1.0)  # divided by C


VARIANTS = [
  ("scratch", TARGET, BUDGET, {}),
  ("scratch", recipes.Number(), BUDGET, {}),
  ("scratch", TARGET, dataclasses.replace(BUDGET, epochs=11), {}),
  *[
    (
      "scratch",
      TARGET,
      dataclasses.replace(BUDGET, optimizer=Optimizer(**{"learning_rate": 0.2} | change)),
      {},
    )
    for change in (
      {"learning_rate": 0.3},
      {"name": "adam"},
      {"decay": "cosine"},
      {"momentum": 0.8},
      {"weight_decay": 0.0},
      {"clip_norm": 1.0},
      {"warmup": 0.1},
      {"decay_mask": "matrices"},
      {"head_rate": 1.0},
    )
  ],
  *[
    (name, TARGET, BUDGET, settings)
    for name, changes in {
      "kd": {"temperature": 2.0, "soft_weight": 0.5},
      "takd": {"temperature": 2.0, "soft_weight": 0.5},
      "dkd": {
        "temperature": 2.0,
        "target_weight": 2.0,
        "non_target_weight": 2.0,
        "warmup_share": 0.5,
      },
      "dist": {"temperature": 2.0, "inter_weight": 1.0, "intra_weight": 1.0},
      "reverse_kl": {"temperature": 2.0, "soft_weight": 0.5},
      "jensen_shannon": {"temperature": 2.0, "soft_weight": 0.5},
    }.items()
    for settings in ({}, *({key: value} for key, value in changes.items()))
  ],
  ("kd", recipes.Classes(4, top_k=2), BUDGET, {}),
  ("kd", recipes.Number(), BUDGET, {}),
  ("dkd", TARGET, BUDGET, {"warmup_share": 0.0}),
  ("annealing_kd", TARGET, BUDGET, {"max_temperature": 3}),
  ("annealing_kd", TARGET, BUDGET, {"max_temperature": 2}),
  ("annealing_kd", TARGET, BUDGET, {"max_temperature": 3, "anneal_epochs": 7}),
  ("annealing_kd", TARGET, BUDGET, {"max_temperature": 3, "best_at_temperature_one": True}),
  ("annealing_kd", recipes.Classes(5), BUDGET, {"max_temperature": 3}),
  ("annealing_kd", recipes.Number(), BUDGET, {"max_temperature": 3}),
  ("annealing_kd", recipes.Number(1.0), BUDGET, {"max_temperature": 3}),
  (
    "annealing_kd",
    TARGET,
    dataclasses.replace(BUDGET, equal_epochs="labels"),
    {"max_temperature": 3},
  ),
  *[
    ("annealing_kd", TARGET, BUDGET, {"max_temperature": 3, phase: PhaseOptimizer(**change)})
    for phase in ("phase1", "phase2")
    for change in ({"rate": 0.1}, {"decay": "constant"}, {"warmup": 0.1})
  ],
  ("continuation_kd", TARGET, BUDGET, {"max_temperature": 3}),
  ("continuation_kd", TARGET, BUDGET, {"max_temperature": 2}),
  ("continuation_kd", TARGET, BUDGET, {"max_temperature": 3, "margin": 0.5}),
  ("continuation_kd", TARGET, BUDGET, {"max_temperature": 3, "label_ramp": 0.5}),
  ("continuation_kd", recipes.Number(1.0), BUDGET, {"max_temperature": 3}),
]


def test_descriptions_are_json_and_tell_all_settings_apart():
  texts = []
  for variant in VARIANTS:
    description = describe(make_recipe(*variant))
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    assert describe(make_recipe(*variant)) == description
    texts.append(json.dumps({**description, "name": ""}, sort_keys=True))
  assert len(set(texts)) == len(VARIANTS)


def test_recipes_made_twice_are_equal_and_other_settings_make_others():
  made = [make_recipe(*variant) for variant in VARIANTS]
  again = [make_recipe(*variant) for variant in VARIANTS]
  assert made == again
  assert [hash(recipe) for recipe in made] == [hash(recipe) for recipe in again]
  assert len(set(made)) == len(made)


def test_descriptions_of_equal_training_are_equal():
  long = recipes.continuation_kd(TARGET, BUDGET, max_temperature=99)
  assert describe(long) == describe(recipes.continuation_kd(TARGET, BUDGET, max_temperature=9))
  half = recipes.annealing_kd(TARGET, BUDGET, max_temperature=3, anneal_epochs=6)
  assert describe(half) == describe(recipes.annealing_kd(TARGET, BUDGET, max_temperature=3))
  whole = recipes.kd(TARGET, BUDGET, temperature=4)
  assert describe(whole) == describe(recipes.kd(TARGET, BUDGET, temperature=4.0))


def described(weight=1.0, options=None, head=None, loss=kd_jax.soft_target_kd_loss):
  options = {"temperature": 2.0} if options is None else options
  term = Term("t", loss, ("student.logits", "teacher.logits"), options, weight, head)
  phase = Phase("p", (term,), 2, BUDGET.optimizer)
  return describe(Recipe("own", "", "", "", (phase,)))["phases"][0]["terms"][0]


def test_describe_names_the_loss_and_what_it_is_given():
  term = described(options={"temperature": 3})
  assert term == {
    "name": "t",
    "loss": "kd_jax.losses.logits.soft_target_kd_loss",
    "of": ["student.logits", "teacher.logits"],
    "options": {"temperature": 3.0},
    "weight": 1.0,
  }


def test_describe_tells_schedules_by_their_fields():
  """Those of the library are described as they were written, at any length of the phase."""
  ramp = kd_jax.linear_schedule(0.0, 1.0, 2)
  linear = {
    "kind": "kd_jax.schedules._Linear",
    "start": 0.0,
    "end": 1.0,
    "steps": 2.0,
    "begin": 0.0,
  }
  assert described(ramp)["weight"] == linear
  assert described(options={"temperature": ramp})["options"] == {"temperature": linear}
  assert described(kd_jax.scaled_schedule(ramp, -1.0, offset=1.0))["weight"] == {
    "kind": "kd_jax.schedules._Scaled",
    "schedule": linear,
    "factor": -1.0,
    "offset": 1.0,
  }
  assert described(kd_jax.annealing_temperature(3, 2))["weight"] == {
    "kind": "kd_jax.schedules._AnnealingTemperature",
    "max_temperature": 3.0,
    "steps_per_temperature": 2.0,
  }
  assert described(kd_jax.step_schedule([1.0, 0.5], [1]))["weight"] == {
    "kind": "kd_jax.schedules._Steps",
    "values": [1.0, 0.5],
    "boundaries": [1.0],
  }


def test_describe_tells_other_functions_of_the_epoch_by_their_values():
  assert described(optax.constant_schedule(0.5))["weight"] == [0.5] * 5
  assert described(optax.linear_schedule(0.0, 1.0, 2))["weight"] == [0, 0.25, 0.5, 0.75, 1]
  options = described(options={"temperature": lambda epoch: 1 + epoch})["options"]
  assert options == {"temperature": [1, 1.5, 2, 2.5, 3]}
  tiny = [described(optax.constant_schedule(w))["weight"] for w in (1e-9, 2e-9)]
  assert tiny == [[1e-9] * 5, [2e-9] * 5]


def test_describe_names_heads_by_class_and_changed_fields():
  kind = "kd_jax.models.heads.LayerClassifiers"
  assert described(head=LayerClassifiers(3))["head"] == {"kind": kind, "num_outputs": 3}
  changed = described(head=LayerClassifiers(3, output_mean=2.5))["head"]
  assert changed == {"kind": kind, "num_outputs": 3, "output_mean": 2.5}
  chosen = described(head=LayerProjections(4, (0, -2)))["head"]
  assert chosen == {"kind": "kd_jax.models.heads.LayerProjections", "width": 4, "layers": [0, -2]}


def test_describe_refuses_a_loss_that_cannot_be_found_again():
  with pytest.raises(ValueError, match="the loss of term 't' must be importable") as refused:
    described(options={}, loss=lambda student, teacher: student)
  assert "\n" not in str(refused.value)


def test_make_recipe_refuses_with_what_exists():
  with pytest.raises(ValueError, match=r"unknown method 'annealing'.*annealing_kd"):
    make_recipe("annealing", TARGET, BUDGET)
  with pytest.raises(ValueError, match=r"kd has no setting \['temp'\].*temperature.*soft_weight"):
    make_recipe("kd", TARGET, BUDGET, {"temp": 3})
  assert describe(make_recipe("kd", TARGET, BUDGET, None)) == describe(
    make_recipe("kd", TARGET, BUDGET, {})
  )


@pytest.mark.parametrize(
  ("name", "settings", "message"),
  [
    ("kd", {"soft_weight": 1.5}, "soft_weight.*1.5"),
    ("kd", {"temperature": 0.5}, "temperature.*0.5"),
    ("annealing_kd", {"max_temperature": 0}, "max_temperature.*0"),
    ("annealing_kd", {"max_temperature": -3}, "max_temperature.*-3"),
    ("annealing_kd", {"max_temperature": 2.5}, "max_temperature.*2.5"),
    ("annealing_kd", {"max_temperature": 7}, "max_temperature 7.*got 6"),
    ("annealing_kd", {"anneal_epochs": 12}, "12 of 12"),
    ("annealing_kd", {"anneal_epochs": 0}, "0 of 12"),
    ("continuation_kd", {"max_temperature": 0}, "max_temperature.*0"),
    ("continuation_kd", {"margin": -1.0}, "margin.*-1"),
    ("continuation_kd", {"label_ramp": 0.0}, "label_ramp.*0"),
    ("continuation_kd", {"label_ramp": 1.1}, "label_ramp.*1.1"),
    ("dkd", {"temperature": 0.5}, "temperature.*0.5"),
    ("dkd", {"warmup_share": 1.5}, "warmup_share.*1.5"),
    ("dkd", {"warmup_share": -0.5}, "warmup_share.*-0.5"),
    ("dist", {"temperature": 0.5}, "temperature.*0.5"),
    ("reverse_kl", {"soft_weight": -0.5}, "soft_weight.*-0.5"),
    ("reverse_kl", {"temperature": 0.0}, "temperature.*0.0"),
    ("jensen_shannon", {"soft_weight": 1.5}, "soft_weight.*1.5"),
    ("jensen_shannon", {"temperature": float("nan")}, "temperature.*nan"),
  ],
)
def test_impossible_settings_are_refused(name, settings, message):
  with pytest.raises(ValueError, match=message):
    make_recipe(name, TARGET, BUDGET, settings)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "scratch"])
@pytest.mark.parametrize("target", [recipes.Number(), TARGET])
def test_a_teacher_without_logits_is_refused_in_one_line(name, target):
  if name in OF_CLASSES and target != TARGET:
    with pytest.raises(
      ValueError, match=f"^{name} compares distributions over classes, got Number"
    ):
      make_recipe(name, target, BUDGET)
    return
  recipe = make_recipe(name, target, dataclasses.replace(BUDGET, epochs=20))
  student, _, batch = outputs_and_batch(classes=target.outputs)
  terms = [t for t in recipe.phases[0].objective if t.needs_teacher]
  assert terms
  for term in terms:
    with pytest.raises(ValueError, match=r"^the teacher gives no logits: cache them.*\)$"):
      term.loss_at(student, Outputs(None), batch, np.float32(0))


def test_malformed_parts_are_refused():
  term = TARGET.label_term()
  phase = Phase("p", (term,), 1, BUDGET.optimizer)
  for epochs, terms, start, message in [
    (0, (term,), "fresh", "at least 1 epoch"),
    (1, (), "fresh", "distinct names"),
    (1, (term, copy.copy(term)), "fresh", "distinct names"),
    (1, (term,), "bset", "'bset'.*best"),
  ]:
    with pytest.raises(ValueError, match=message):
      Phase("p", terms, epochs, BUDGET.optimizer, start)
  for phases, message in [
    ((), "distinct names"),
    ((phase, phase), "distinct names"),
    ((dataclasses.replace(phase, start="best"),), "fresh"),
  ]:
    with pytest.raises(ValueError, match=message):
      Recipe("r", "", "", "", phases)
  for epochs in (0, -1):
    with pytest.raises(ValueError, match=f"a budget has at least 1 epoch, got {epochs}"):
      Budget(epochs, BUDGET.optimizer)
  with pytest.raises(ValueError, match="`equal_epochs` must be total or labels, got 'all'"):
    dataclasses.replace(BUDGET, equal_epochs="all")
