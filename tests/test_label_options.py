"""Label smoothing and class weights: the loss, the target, the options of a study."""

import jax
import numpy as np
import pytest

import kd_jax
from experiments.command_line import options
from experiments.domains.classes import target_of
from kd_jax import recipes
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import Classes


def reference(logits, labels, smoothing, weights):
  """By loops, in float64."""
  found = []
  for row, label in zip(np.float64(logits), labels, strict=True):
    log_probs = row - np.log(np.exp(row - row.max()).sum()) - row.max()
    total = 0.0
    for c, log_prob in enumerate(log_probs):
      share = smoothing / len(row) + (1 - smoothing) * (c == label)
      total -= weights[c] * share * log_prob
    found.append(total)
  return np.array(found)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weights", [None, (1.0, 0.0, 2.5, 1.0)])
def test_the_loss_equals_the_reference(smoothing, weights):
  rng = np.random.default_rng(0)
  logits, labels = 4 * rng.standard_normal((7, 4), np.float32), rng.integers(0, 4, 7)
  given = {"label_smoothing": smoothing, "class_weights": weights}
  expected = reference(logits, labels, smoothing, weights or (1.0,) * 4)
  loss = jax.jit(lambda logits, labels: kd_jax.hard_label_loss(logits, labels, **given))
  np.testing.assert_allclose(loss(logits, labels), expected, rtol=2e-5, atol=1e-6)
  masked = kd_jax.hard_label_loss(
    np.where(np.arange(7)[:, None] < 5, logits, np.nan), labels, mask=np.arange(7) < 5, **given
  )
  np.testing.assert_allclose(masked, np.where(np.arange(7) < 5, expected, 0), rtol=2e-5, atol=1e-6)


def test_without_options_nothing_changes():
  logits, labels = np.float32([[2, -1, 0.5]]), np.array([1])
  plain = kd_jax.hard_label_loss(logits, labels)
  assert plain == kd_jax.hard_label_loss(
    logits, labels, label_smoothing=0.0, class_weights=(1.0,) * 3
  )
  recipe = recipes.scratch(Classes(3), recipes.Budget(2, Optimizer()))
  assert recipes.describe(recipe)["phases"][0]["terms"][0]["options"] == {}


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
    ({"label_smoothing": float("nan")}, "label_smoothing must be in"),
    ({"class_weights": (1.0, 2.0)}, r"class_weights \(2,\) must be one for each of the 3 classes"),
    ({"class_weights": (1.0, -2.0, 1.0)}, "class_weights must be finite and at least 0"),
  ],
)
def test_values_that_cannot_be_are_refused(given, message):
  with pytest.raises(ValueError, match=message):
    kd_jax.hard_label_loss(np.zeros((1, 3)), np.array([0]), **given)


def test_the_target_gives_its_label_term_the_options():
  target = Classes(2, label_smoothing=0.1, class_weights=(1.0, 3.0))
  term = target.label_term(0.5)
  assert term.options == {"label_smoothing": 0.1, "class_weights": (1.0, 3.0)}
  for bad in ({"label_smoothing": -0.1}, {"class_weights": (1.0,)}, {"class_weights": (0.0, 0.0)}):
    with pytest.raises(ValueError, match=next(iter(bad))):
      Classes(2, **bad)


def test_balanced_weights_give_every_class_the_same_total():
  labels = np.array([0] * 6 + [1] * 2 + [2])
  target = target_of(labels, 3, class_weights=("balanced",))
  totals = np.array(target.class_weights) * np.bincount(labels)
  np.testing.assert_allclose(totals, 3)
  assert target_of(labels, 3, class_weights=("1", "2.5", "0")).class_weights == (1.0, 2.5, 0.0)
  with pytest.raises(ValueError, match="1 of 4 classes have no training example"):
    target_of(labels, 4, class_weights=("balanced",))
  with pytest.raises(ValueError, match="must be 3 numbers or `balanced`, got even"):
    target_of(labels, 3, class_weights=("even",))


def test_they_are_options_of_studies():
  line = "digits --label-smoothing 0.1 --class-weights balanced --methods scratch"
  study, _, _ = options.parse("study", line.split())
  assert (study.label_smoothing, study.class_weights) == (0.1, ("balanced",))
  with pytest.raises(ValueError, match="are of classes, and the labels are numbers"):
    options.parse(
      "study", ["texts", "--files", "a.csv", "b.csv", "--regression", "--label-smoothing", "0.1"]
    )
