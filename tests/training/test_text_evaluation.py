"""Metrics of whole data sets: every text once, with its label, whatever the devices, buckets and batches."""

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from kd_jax import parallel
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import Classes, Phase
from kd_jax.training.evaluation import Evaluation, texts
from kd_jax.training.evaluator import make_evaluator
from kd_jax.training.loop import Task, train_phase
from kd_jax.training.state import start_phase
from tests.training import texts as small

SEEDS = 2


def network(data):
  """A network of two seeds: (model, variables [K, ...], what each says of the texts)."""
  model = small.Network(data.num_classes, (small.WIDTH,), pseudo_classifiers=False)
  seeds = [small.variables(model, data, seed) for seed in range(SEEDS)]
  said = [small.said(model, own, data).logits for own in seeds]
  return model, jax.tree.map(lambda *x: np.stack(x), *seeds), said


def evaluate(data, evaluation, batch_size=8, **options):
  model, variables, said = network(data)
  evaluator = make_evaluator(
    model, data, batch_size, one_dispatch=True, evaluation=evaluation, **options
  )
  return evaluator(parallel.replicate(variables)), said


@pytest.mark.parametrize("batch_size", [8, 16])
def test_every_text_is_seen_once_with_its_own_label(batch_size):
  """10, 5 and 2 texts in batches of 8 or 16 at most: no bucket fills its last one."""
  data = small.dataset(regression=True)
  assert [len(bucket.rows) for bucket in data.buckets] == [10, 5, 2]
  assert len(set(data.labels)) == len(data)
  asked = []

  def whole(predictions, labels):
    asked.append((predictions, labels))
    return {"number": float(len(asked))}

  none = texts("correlation", regression=True)
  evaluation = Evaluation("number", none.metrics, none.predictions, whole=whole)
  found, said = evaluate(data, evaluation, batch_size)
  assert found["number"].tolist() == [1.0, 2.0]
  assert len(asked) == SEEDS
  for (predictions, labels), expected in zip(asked, said, strict=True):
    assert predictions.shape == (len(data), 1)
    rows = [int(np.flatnonzero(data.labels == label)[0]) for label in labels]
    assert sorted(rows) == list(range(len(data)))
    np.testing.assert_allclose(predictions, expected[rows], rtol=1e-5, atol=1e-5)
  assert not np.allclose(*said)


def test_correlations_are_those_of_the_whole():
  data = small.dataset(regression=True)
  evaluation = texts("correlation", regression=True)
  assert evaluation.select == "pearson_spearman"
  found, said = evaluate(data, evaluation)
  for seed in range(SEEDS):
    numbers = said[seed][:, 0]
    pearson = scipy.stats.pearsonr(numbers, data.labels).statistic
    spearman = scipy.stats.spearmanr(numbers, data.labels).statistic
    np.testing.assert_allclose(found["pearson"][seed], pearson, atol=1e-5)
    np.testing.assert_allclose(found["spearman"][seed], spearman, atol=1e-9)
    np.testing.assert_allclose(found["pearson_spearman"][seed], (pearson + spearman) / 2, atol=1e-5)


def test_classes_are_compared_with_labels_and_with_the_teacher():
  data = small.dataset()
  other = small.Network(widths=(small.WIDTH,), pseudo_classifiers=False)
  theirs = small.said(other, small.variables(other, data, 9), data).logits
  teacher = [theirs[bucket.rows] for bucket in data.buckets]
  found, said = evaluate(data, texts("matthews"), teacher=teacher)
  assert set(found) == {"matthews", "accuracy", "agreement", "kl_to_teacher"}
  for seed in range(SEEDS):
    guesses = said[seed].argmax(axis=1)
    np.testing.assert_allclose(found["accuracy"][seed], np.mean(guesses == data.labels))
    agreement = np.mean(guesses == theirs.argmax(axis=1))
    np.testing.assert_allclose(found["agreement"][seed], agreement, rtol=1e-6)
    log_p, log_q = (
      z - scipy.special.logsumexp(z, axis=1, keepdims=True) for z in (theirs, said[seed])
    )
    divergence = np.sum(np.exp(log_p) * (log_p - log_q), axis=1).mean()
    np.testing.assert_allclose(found["kl_to_teacher"][seed], divergence, rtol=1e-4)
    confusion = np.zeros((3, 3))
    np.add.at(confusion, (guesses, data.labels), 1)
    np.testing.assert_allclose(found["matthews"][seed], matthews(confusion), atol=1e-6)


def matthews(confusion):
  """Gorodkin's R_K from a table of counts, term by term."""
  classes = range(len(confusion))
  covariance = sum(
    confusion[k, k] * confusion[m, n] - confusion[n, k] * confusion[k, m]
    for k in classes
    for m in classes
    for n in classes
  )

  def spread(table):
    rows = table.sum(axis=1)
    return sum(rows[k] * (table.sum() - rows[k]) for k in classes)

  return covariance / np.sqrt(spread(confusion) * spread(confusion.T))


def test_a_number_is_compared_with_the_teachers():
  data = small.dataset(regression=True)
  theirs = np.arange(len(data), dtype=np.float32)[:, None]
  evaluation = texts("correlation", regression=True)
  teacher = [theirs[bucket.rows] for bucket in data.buckets]
  found, said = evaluate(data, evaluation, teacher=teacher)
  for seed in range(SEEDS):
    np.testing.assert_allclose(
      found["squared_difference_to_teacher"][seed], np.mean((said[seed] - theirs) ** 2), rtol=1e-5
    )


def test_the_accuracy_in_training_is_that_of_all_texts():
  """Batches of 8, 2, 5 and 2 texts: each text counts once, not each batch."""
  data = small.dataset()
  model, variables, said = network(data)
  still = Optimizer(learning_rate=1e-9, momentum=0.0, decay="constant", weight_decay=0.0)
  only = Phase("labels", (Classes(small.CLASSES).label_term(),), 1, still)
  task = Task(
    model, data, small.dataset((3, 8), split="validation"), 8,
    seeds=tuple(range(SEEDS)), one_dispatch=True, evaluation=texts("accuracy"),
  )  # fmt: skip
  (report,) = train_phase(task, only, start_phase(variables, still.build(4)))
  expected = [np.mean(logits.argmax(axis=1) == data.labels) for logits in said]
  np.testing.assert_allclose(report.record.train_metrics["accuracy"], expected, rtol=1e-6)
