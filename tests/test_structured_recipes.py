"""Recipes for structures as data: which losses, with which weights, at which epochs."""

import itertools
import json
import math

import numpy as np
import pytest

from kd_jax import recipes
from kd_jax.losses import sequences, structural
from kd_jax.optimizers import Optimizer
from kd_jax.recipes.parts import Budget
from kd_jax.structured import LinearChain, log_prob
from kd_jax.types import Batch, Outputs
from tests import oracles

BUDGET = Budget(epochs=8, optimizer=Optimizer(learning_rate=0.2))
TARGET = recipes.Structures()
MASK = np.arange(4) < np.array([4, 2, 1])[:, None]
LABELS = np.int32([[0, 2, 1, 1], [1, 0, 0, 0], [2, 0, 0, 0]])

TERMS = {
  "scratch": ["labels"],
  "token_kd": ["token_kd", "labels"],
  "posterior_kd": ["posterior_kd", "labels"],
  "topk_kd": ["topk_kd", "labels"],
  "structural_kd": ["structural_kd", "labels"],
  "multi_grained": ["topk_kd", "fuzzy_crf", "labels"],
}
DISTILLING = [name for name in TERMS if name != "scratch"]


def make(name, **settings):
  return recipes.make_recipe(name, TARGET, BUDGET, settings)


def chain(seed):
  rng = np.random.default_rng(seed)
  unary, transition = rng.standard_normal((3, 4, 3)), rng.standard_normal((3, 3))
  return LinearChain(unary.astype(np.float32), transition.astype(np.float32), MASK)


STUDENT, TEACHER = chain(0), chain(1)
BATCH = Batch(np.zeros(3), LABELS)


def values(term, epoch=0.0):
  found = term.loss_at(Outputs(scores=STUDENT), Outputs(scores=TEACHER), BATCH, epoch)
  assert found.shape == (3,)
  return np.asarray(found)


def test_the_methods_and_their_terms():
  assert set(recipes.methods_for("sentences")) == set(TERMS)
  for name, terms in TERMS.items():
    recipe = make(name)
    (phase,) = recipe.phases
    assert (recipe.name, phase.epochs, phase.start) == (name, BUDGET.epochs, "fresh")
    assert phase.optimizer == BUDGET.optimizer
    assert [term.name for term in phase.objective] == terms
    assert [term.needs_teacher for term in phase.objective] == [t != "labels" for t in terms]
    assert recipe.needs_teacher == (name != "scratch")
    assert phase.reads == ({"scores"} if recipe.needs_teacher else set())
    assert [term.reads_labels for term in phase.objective] == [t == "labels" for t in terms]
    assert recipe.title
    assert recipe.equation
    assert recipe.assistant is None


@pytest.mark.parametrize("name", DISTILLING)
@pytest.mark.parametrize(
  ("anneal", "expected"),
  [
    # By default lambda falls to 0 over the training: 100 / 8 points an epoch.
    (None, {0: 1.0, 0.5: 0.9375, 2: 0.75, 4: 0.5, 7.5: 0.0625, 8: 0.0}),
    (25.0, {0: 1.0, 1: 0.75, 2: 0.5, 4: 0.0, 6: 0.0}),
    (1.5, {0: 1.0, 2: 0.97, 8: 0.88}),
    (0.0, {0: 1.0, 8: 1.0}),
  ],
)
def test_weights_by_teacher_annealing(name, anneal, expected):
  *distilling, labels = make(name, anneal=anneal).phases[0].objective
  for epoch, weight in expected.items():
    for term in distilling:
      np.testing.assert_allclose(term.weight_at(epoch), weight, atol=1e-6)
    np.testing.assert_allclose(labels.weight_at(epoch), 1 - weight, atol=1e-6)


def test_scratch_is_the_likelihood_of_the_labels_alone():
  (only,) = make("scratch").phases[0].objective
  assert only.weight_at(3.0) == 1
  np.testing.assert_allclose(values(only), -log_prob(STUDENT, LABELS), rtol=1e-6)


@pytest.mark.parametrize("name", DISTILLING)
def test_losses_get_the_student_first_and_their_settings(name):
  settings = {"k": 3} if name in ("topk_kd", "multi_grained") else {"temperature": 2.0}
  *terms, labels = make(name, **settings).phases[0].objective
  expected = {
    "token_kd": lambda: sequences.token_kd_loss(STUDENT, TEACHER, temperature=2.0),
    "posterior_kd": lambda: sequences.posterior_kd_loss(STUDENT, TEACHER, temperature=2.0),
    "topk_kd": lambda: sequences.k_best_kd_loss(STUDENT, TEACHER, k=3, weighted=True),
    "fuzzy_crf": lambda: sequences.fuzzy_crf_loss(STUDENT, TEACHER, k=3),
    "structural_kd": lambda: structural.structural_kd_loss(STUDENT, TEACHER, temperature=2.0),
  }
  for term in terms:
    np.testing.assert_allclose(values(term), expected[term.name](), rtol=1e-6)
  np.testing.assert_allclose(values(labels), -log_prob(STUDENT, LABELS), rtol=1e-6)


def by_enumeration(row):
  """{labelling: (P_t, P_s)} of one sentence, from the scores of all of its labellings."""
  length = int(MASK[row].sum())

  def scores(chain, tags):
    unary, transition = np.asarray(chain.unary[row], np.float64), np.asarray(chain.transition)
    pairs = itertools.pairwise(tags)
    return sum(unary[i, y] for i, y in enumerate(tags)) + sum(transition[a, b] for a, b in pairs)

  every = list(itertools.product(range(3), repeat=length))
  teacher, student = (
    oracles.softmax([scores(chain, tags) for tags in every]) for chain in (TEACHER, STUDENT)
  )
  return dict(zip(every, zip(teacher, student, strict=True), strict=True))


def hand_formulas(row, k):
  """The equations of the recipes at temperature 1, for one sentence."""
  paths = by_enumeration(row)
  length = len(next(iter(paths)))

  def marginal(side, position, tag):
    return sum(p[side] for tags, p in paths.items() if tags[position] == tag)

  places = [(i, y) for i in range(length) for y in range(3)]
  best = sorted(paths.values(), reverse=True)[:k]
  kept = sum(t for t, _ in best)
  return {
    "token_kd": sum(
      oracles.kl(oracles.softmax(TEACHER.unary[row, i]), oracles.softmax(STUDENT.unary[row, i]))
      for i in range(length)
    ),
    "posterior_kd": -sum(marginal(0, *at) * math.log(marginal(1, *at)) for at in places),
    "topk_kd": -sum(t / kept * math.log(s) for t, s in best),
    "fuzzy_crf": -math.log(sum(s for _, s in best)),
    "structural_kd": -sum(t * math.log(s) for t, s in paths.values()),
    "labels": -math.log(paths[tuple(LABELS[row, :length].tolist())][1]),
  }


@pytest.mark.parametrize("name", TERMS)
def test_losses_are_those_of_the_equations(name):
  settings = {"k": 3} if name in ("topk_kd", "multi_grained") else {}
  expected = [hand_formulas(row, 3) for row in range(3)]
  total = 0.0
  for term in make(name, **settings).phases[0].objective:
    by_hand = [one[term.name] for one in expected]
    np.testing.assert_allclose(values(term), by_hand, rtol=1e-4, atol=1e-5)
    total += float(term.weight_at(2.0)) * np.mean(by_hand)
  # A quarter of the training is over: lambda is 0.75.
  means = {key: np.mean([one[key] for one in expected]) for key in expected[0]}
  distilled = sum(means[term] for term in TERMS[name][:-1])
  whole = means["labels"] if name == "scratch" else 0.75 * distilled + 0.25 * means["labels"]
  np.testing.assert_allclose(total, whole, rtol=1e-5)


def test_the_weighting_of_the_k_best_reaches_the_loss():
  (plain, _), (weighted, _) = (
    make("topk_kd", weighted=flag).phases[0].objective for flag in (False, True)
  )
  even = sequences.k_best_kd_loss(STUDENT, TEACHER, k=5, weighted=False)
  np.testing.assert_allclose(values(plain), even, rtol=1e-6)
  assert not np.allclose(values(plain)[0], values(weighted)[0])


SETTINGS = {
  "token_kd": [{"temperature": 3.0}, {"anneal": 1.0}],
  "posterior_kd": [{"temperature": 3.0}, {"anneal": 1.0}],
  "topk_kd": [{"k": 2}, {"weighted": False}, {"anneal": 1.0}],
  "structural_kd": [{"temperature": 3.0}, {"anneal": 1.0}],
  "multi_grained": [{"k": 2}, {"anneal": 1.0}],
}


@pytest.mark.parametrize("name", DISTILLING)
def test_another_setting_is_another_description(name):
  """What a run is compared by on resumption; JSON, the same in every process."""
  described = [recipes.describe(make(name, **settings)) for settings in ({}, *SETTINGS[name])]
  assert recipes.describe(make(name)) == described[0]
  texts = [json.dumps(one["phases"], sort_keys=True) for one in described]
  assert len(set(texts)) == len(texts)
  longer = Budget(9, BUDGET.optimizer)
  other = recipes.make_recipe(name, TARGET, longer)
  assert recipes.describe(other)["phases"] != described[0]["phases"]


@pytest.mark.parametrize("name", DISTILLING)
def test_recipes_made_twice_are_equal_and_other_settings_make_others(name):
  made, again = ([make(name, **settings) for settings in ({}, *SETTINGS[name])] for _ in range(2))
  assert made == again
  assert [hash(one) for one in made] == [hash(one) for one in again]
  assert len(set(made)) == len(made)


@pytest.mark.parametrize("name", DISTILLING)
def test_networks_without_scores_are_refused_in_one_line(name):
  *distilling, labels = make(name).phases[0].objective
  for term in distilling:
    with pytest.raises(ValueError, match=r"^the teacher gives no scores of structures$"):
      term.loss_at(Outputs(scores=STUDENT), Outputs(np.zeros((3, 3))), BATCH, 0.0)
  for term in (*distilling, labels):
    with pytest.raises(ValueError, match=r"^the student gives no scores of structures$"):
      term.loss_at(Outputs(np.zeros((3, 3))), Outputs(scores=TEACHER), BATCH, 0.0)


@pytest.mark.parametrize("name", DISTILLING)
def test_other_targets_are_refused(name):
  for target in (recipes.Classes(3), recipes.Number()):
    with pytest.raises(ValueError, match=f"^{name} is for sentences: it does not learn to predict"):
      recipes.make_recipe(name, target, BUDGET)
  with pytest.raises(ValueError, match=r"^kd is for images, texts: .* Structures"):
    recipes.make_recipe("kd", TARGET, BUDGET)


@pytest.mark.parametrize(
  ("name", "settings", "message"),
  [
    ("token_kd", {"temperature": 0.5}, "temperature must be finite and at least 1, got 0.5"),
    ("posterior_kd", {"temperature": np.nan}, "temperature must be finite"),
    ("structural_kd", {"temperature": np.inf}, "temperature must be finite"),
    ("topk_kd", {"k": 0}, "k must be at least 1, got 0"),
    ("multi_grained", {"k": -1}, "k must be at least 1, got -1"),
    ("structural_kd", {"anneal": -1.0}, "rate must be at least 0, got -1"),
    ("structural_kd", {"k": 3}, r"structural_kd has no setting \['k'\]"),
    ("scratch", {"temperature": 2.0}, "scratch has no setting"),
    ("kd", {}, "kd is for images, texts: it does not learn to predict Structures"),
  ],
)
def test_bad_settings_are_refused(name, settings, message):
  with pytest.raises(ValueError, match=message):
    make(name, **settings)
