"""Metrics of text tasks against scikit-learn and scipy."""

import warnings

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import strategies as st

from kd_jax import metrics
from kd_jax.metrics import text
from tests import contract

sizes = st.sampled_from([2, 3, 10, 400])
seeds = st.integers(0, 10**6)


def classes(rng, size, count, right=0.6):
  """(predictions, labels) that agree more often than chance."""
  labels = rng.integers(0, count, size)
  return np.where(rng.random(size) < right, labels, rng.integers(0, count, size)), labels


@contract.sampled
@hypothesis.given(size=sizes, seed=seeds, count=st.integers(2, 5))
def test_class_metrics_equal_scikit_learn_s(size, seed, count):
  predictions, labels = classes(np.random.default_rng(seed), size, count)
  expected = sklearn.metrics.accuracy_score(labels, predictions)
  assert text.accuracy(predictions, labels) == pytest.approx(expected)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # It mentions samples of one class.
    expected = sklearn.metrics.matthews_corrcoef(labels, predictions)
  assert metrics.matthews_correlation(predictions, labels) == pytest.approx(expected, abs=1e-12)
  if count == 2:
    expected = sklearn.metrics.f1_score(labels, predictions, zero_division=0.0)
    assert metrics.f1(predictions, labels) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_f1_equals_scikit_learn_s(seed):
  rng = np.random.default_rng(seed)
  # As skewed as paraphrases are.
  labels = (rng.random(300) < 0.68).astype(int)
  predictions = np.where(rng.random(300) < 0.8, labels, 1 - labels)
  expected = sklearn.metrics.f1_score(labels, predictions)
  assert metrics.f1(predictions, labels) == pytest.approx(expected, rel=1e-12)


@contract.sampled
@hypothesis.given(size=sizes, seed=seeds, step=st.sampled_from([0.0, 0.2, 1.0]))
def test_correlations_equal_scipy_s(size, seed, step):
  """With ties: similarities are marked in steps, and predictions may be rounded too."""
  rng = np.random.default_rng(seed)
  labels = np.round(rng.uniform(0, 5, size) * 5) / 5
  predictions = labels + rng.standard_normal(size)
  if step:
    predictions = np.round(predictions / step) * step
  hypothesis.assume(np.ptp(labels) > 0 and np.ptp(predictions) > 0)
  expected = scipy.stats.pearsonr(predictions, labels).statistic
  assert metrics.pearson(predictions, labels) == pytest.approx(expected, abs=1e-12)
  expected = scipy.stats.spearmanr(predictions, labels).statistic
  assert metrics.spearman(predictions, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7, 1e8])
def test_constant_predictions_have_no_correlation(constant):
  """Of 0.1 the float64 mean of a few is not 0.1; the rest must not pass for a correlation."""
  for size in (1, 3, 7, 100):
    numbers, labels = np.full(size, constant), np.linspace(0, 5, size)
    for metric in (metrics.pearson, metrics.spearman):
      assert metric(numbers, labels) == 0.0
      assert metric(labels, numbers) == 0.0
  labels = np.array([0, 1, 1, 2])
  for kind in range(3):
    assert metrics.matthews_correlation(np.full(4, kind), labels) == 0.0
    assert metrics.matthews_correlation(labels, np.full(4, kind)) == 0.0
  assert metrics.f1(np.zeros(4, int), np.zeros(4, int)) == 0.0


def test_perfect_and_opposite_predictions():
  labels = np.array([0.0, 1.5, 1.5, 4.0])
  for metric in (metrics.pearson, metrics.spearman):
    assert metric(labels, labels) == pytest.approx(1)
    assert metric(-labels, labels) == pytest.approx(-1)
    assert metric(-labels, labels) >= -1
    assert metric(labels, labels) <= 1
  # Far from 0 and close together; only the order matters to one of them.
  assert metrics.pearson(1e6 + 1e-3 * labels, labels) == pytest.approx(1, abs=1e-5)
  assert metrics.spearman(np.exp(9 * labels), labels) == pytest.approx(1)
  assert metrics.matthews_correlation([0, 1, 2], [0, 1, 2]) == pytest.approx(1)
  assert metrics.matthews_correlation([1, 0, 1, 0], [0, 1, 0, 1]) == pytest.approx(-1)
  assert metrics.f1([0, 1, 1], [0, 1, 1]) == 1


# What a task reports.


def test_first_metric_of_each_kind_and_the_rest():
  rng = np.random.default_rng(3)
  outputs, labels = rng.standard_normal((200, 2)), rng.integers(0, 2, 200)
  guesses = outputs.argmax(1)
  expected = {
    "accuracy": sklearn.metrics.accuracy_score(labels, guesses),
    "f1": sklearn.metrics.f1_score(labels, guesses),
    "matthews": sklearn.metrics.matthews_corrcoef(labels, guesses),
  }
  for kind, names in (
    ("accuracy", ["accuracy"]),
    ("matthews", ["matthews", "accuracy"]),
    ("f1", ["f1", "accuracy"]),
    ("accuracy_f1", ["accuracy", "f1"]),
  ):
    found = metrics.text_metrics(kind)(outputs, labels)
    assert list(found) == names
    for name, value in found.items():
      assert type(value) is float
      assert value == pytest.approx(expected[name], abs=1e-12)


def test_correlation_is_the_mean_of_the_two():
  rng = np.random.default_rng(4)
  labels = np.round(rng.uniform(0, 5, 100), 1).astype(np.float32)
  outputs = (labels + rng.standard_normal(100)).astype(np.float32)[:, None]
  found = metrics.text_metrics("correlation")(outputs, labels)
  assert list(found) == ["pearson_spearman", "pearson", "spearman", "rmse"]
  pearson = scipy.stats.pearsonr(outputs[:, 0].astype(float), labels.astype(float)).statistic
  spearman = scipy.stats.spearmanr(outputs[:, 0], labels).statistic
  rmse = np.linalg.norm(outputs[:, 0].astype(float) - labels) / 10
  expected = [(pearson + spearman) / 2, pearson, spearman, rmse]
  np.testing.assert_allclose(list(found.values()), expected, rtol=1e-9)
  assert {type(value) for value in found.values()} == {float}


def test_arrays_of_any_kind_serve():
  outputs, labels = [[0.0, 1.0, 0.5], [2.0, 1.0, 0.5]], [1, 2]
  expected = {"accuracy": 0.5}
  for dtype in (np.float32, np.float16, jnp.bfloat16):
    array = jnp.asarray(outputs, dtype)
    assert metrics.text_metrics("accuracy")(array, jnp.asarray(labels, jnp.int32)) == expected
    assert metrics.text_metrics("accuracy")(np.asarray(array), np.uint8(labels)) == expected


def test_no_warnings():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    constant = np.zeros((3, 2))
    for kind in ("accuracy", "matthews", "f1", "accuracy_f1"):
      metrics.text_metrics(kind)(constant, np.zeros(3, int))
    assert metrics.text_metrics("correlation")(constant[:, :1], np.zeros(3))["pearson"] == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["accuracy", "matthews", "f1", "accuracy_f1", "correlation"])
def test_outputs_that_are_not_finite_are_refused(kind, wrong):
  outputs, labels = np.zeros((4, 1 if kind == "correlation" else 2)), np.array([0, 1, 0, 1])
  outputs[1:3, 0] = wrong
  with pytest.raises(ValueError, match=r"outputs of 2 of 4 examples are not finite"):
    metrics.text_metrics(kind)(outputs, labels)


def test_what_does_not_fit_is_refused():
  good, labels = np.zeros((3, 2)), np.zeros(3, int)
  for outputs, gold, kind, message in (
    (good, labels, "correlation", r"\[N, 1\].*\(3, 2\)"),
    (good[:, :1], labels, "f1", r"at least two.*\(3, 1\)"),
    (good[:, 0], labels, "f1", r"\[N, C\].*\(3,\)"),
    (good, labels[:2], "accuracy", r"\(3,\).*\(2,\)"),
    (good, labels - 1, "accuracy", r"-1.*no class"),
    (good, labels + 2, "accuracy", "label 2 is none of the 2"),
    (good, labels.astype(float), "matthews", r"labels.*float64"),
    (good[:0], labels[:0], "f1", "at least one"),
    (good[:0, :1], labels[:0], "correlation", "at least one"),
    (np.zeros((3, 3)), labels + 2, "f1", r"two classes.*class 2"),
    (good[:, :1], np.array([0, 1, np.nan]), "correlation", r"labels.*finite"),
  ):
    with pytest.raises(ValueError, match=message) as caught:
      metrics.text_metrics(kind)(outputs, gold)
    assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match=r"accuracy, matthews.*'bleu'"):
    metrics.text_metrics("bleu")
