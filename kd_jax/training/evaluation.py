"""How a network is judged: what the metrics are, and which of them chooses the best epoch."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from kd_jax import metrics
from kd_jax.losses.reductions import masked_sum_and_count
from kd_jax.structured import Parse, argmax
from kd_jax.types import AnyArray, Array, Outputs, PyTree

Pairs = dict[str, metrics.Pair]


class Evaluation(NamedTuple):
  """How the networks of a kind of data are judged.

  Attributes:
    select: the metric that chooses the best epoch: the higher the better.
    metrics: (outputs, labels, mask [B] or None, teacher) -> {name: (sum, count)}; the teacher's predictions,
      or None, serve the metrics that compare with it.
    predictions: outputs -> [B, ...] what is kept of a teacher for that.
    training: (outputs, labels, mask) -> {name: (sum, count)}, of every training step: cheap ones.
    whole: (predictions [N, ...], labels [N]) -> {name: value} on the host, for metrics that are no means over
      examples, such as correlations.
  """

  select: str
  metrics: Callable[[Outputs, PyTree, AnyArray | None, PyTree], Pairs]
  predictions: Callable[[Outputs], PyTree]
  training: Callable[[Outputs, PyTree, AnyArray | None], Pairs] = lambda outputs, labels, mask: {}
  whole: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None


def _logits(outputs: Outputs) -> AnyArray:
  if outputs.logits is None:
    raise ValueError("the network gives no logits: use an evaluation of its structures")
  return outputs.logits


def _classification(
  outputs: Outputs, labels: PyTree, mask: AnyArray | None, teacher: PyTree
) -> Pairs:
  return metrics.classification(_logits(outputs), labels, mask, teacher)


def _tagging(outputs: Outputs, labels: PyTree, mask: AnyArray | None, teacher: PyTree) -> Pairs:
  tags, valid = argmax(outputs.scores), _valid(outputs, mask)
  pairs = metrics.span_f1(tags, labels, valid)
  pairs["token_accuracy"] = metrics.token_accuracy(tags, labels, valid)
  if teacher is not None:
    pairs["agreement"] = metrics.token_accuracy(tags, teacher, valid)
  return pairs


def _parsing(outputs: Outputs, labels: PyTree, mask: AnyArray | None, teacher: PyTree) -> Pairs:
  tree, valid = argmax(outputs.scores), _valid(outputs, mask)
  pairs = metrics.attachment_scores(tree.heads, tree.relations, labels, valid)
  if teacher is not None:
    same = (tree.heads == teacher.heads) & (tree.relations == teacher.relations)
    pairs["agreement"] = masked_sum_and_count(same, valid)
  return pairs


def _valid(outputs: Outputs, mask: AnyArray | None) -> Array:
  """[B, n] tokens of examples that count."""
  tokens = outputs.scores.mask
  return tokens if mask is None else tokens & (mask[:, None] > 0)


CLASSIFICATION = Evaluation(
  select="accuracy",
  metrics=_classification,
  predictions=_logits,
  training=lambda outputs, labels, mask: {
    "accuracy": metrics.accuracy(_logits(outputs), labels, mask)
  },
)
"""Images: accuracy; calibration, and agreement with the teacher beside it."""

TAGGING = Evaluation(
  select="f1", metrics=_tagging, predictions=lambda outputs: argmax(outputs.scores)
)
"""Named entities: precision, recall and F1 of spans; accuracy of, and agreement on, tokens beside them."""

PARSING = Evaluation(
  select="las", metrics=_parsing, predictions=lambda outputs: Parse(*argmax(outputs.scores))
)
"""Dependency trees: labelled and unlabelled attachment; agreement on head and relation beside them."""


@functools.cache
def texts(kind: str, *, regression: bool = False) -> Evaluation:
  """Texts: the metrics of a GLUE task, of all predictions; agreement with the teacher beside them.

  Args:
    kind: of `kd_jax.metrics.text_metrics`; its first metric chooses the best epoch.
    regression: whether a number is predicted.
  """
  compute = metrics.text_metrics(kind)

  def compared(outputs: Outputs, labels: PyTree, mask: AnyArray | None, teacher: PyTree) -> Pairs:
    del labels
    if teacher is None:
      return {}
    if regression:
      error = jnp.square(_logits(outputs)[:, 0] - teacher[:, 0])
      return {"squared_difference_to_teacher": masked_sum_and_count(error, mask)}
    return {
      "agreement": metrics.agreement(_logits(outputs), teacher, mask),
      "kl_to_teacher": metrics.kl_to_teacher(_logits(outputs), teacher, mask),
    }

  def training(outputs: Outputs, labels: PyTree, mask: AnyArray | None) -> Pairs:
    return {} if regression else {"accuracy": metrics.accuracy(_logits(outputs), labels, mask)}

  return Evaluation(
    select=metrics.TEXT_METRICS[kind][0],
    metrics=compared,
    predictions=_logits,
    training=training,
    whole=compute,
  )
