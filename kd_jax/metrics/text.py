"""Metrics of text tasks over a whole data set, in NumPy, as GLUE reports them.

The other metrics of this package are (sum, count) pairs. F1 of a class and correlations are no ratios of
sums over examples: these functions read all predictions at once, on the host.
"""

from collections.abc import Callable

import numpy as np

from kd_jax.metrics.correlation import pearson, spearman
from kd_jax.types import ArrayLike


def _classes(predictions: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  predictions, labels = np.asarray(predictions), np.asarray(labels)
  if predictions.ndim != 1 or predictions.shape != labels.shape or not predictions.size:
    raise ValueError(
      f"predictions {predictions.shape} and labels {labels.shape} must be [N] of at least one example"
    )
  for name, classes in (("predictions", predictions), ("labels", labels)):
    if not np.issubdtype(classes.dtype, np.integer):
      raise ValueError(
        f"{name} must be class numbers, got {classes.dtype}: take the argmax of logits"
      )
    if classes.min() < 0:
      raise ValueError(f"{name} go down to {classes.min()}: these examples have no class")
  return predictions, labels


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
  """Share of examples [N] whose predicted class is the label.

  >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
  0.75
  """
  predictions, labels = _classes(predictions, labels)
  return float(np.mean(predictions == labels))


def f1(predictions: ArrayLike, labels: ArrayLike) -> float:
  r"""F1 of class 1 against class 0: the harmonic mean of precision and recall.

  .. math:: F_1 = \frac{2 \cdot correct}{predicted + gold}

  Args:
    predictions: [N] classes, 0 or 1.
    labels: [N] classes, 0 or 1.

  Returns:
    From 0 to 1; 0 where class 1 is neither predicted nor a label.

  Raises:
    ValueError: for shapes that differ, no examples, or classes other than 0 and 1.

  >>> f1([1, 1, 0, 0], [1, 0, 1, 0])
  0.5
  """
  predictions, labels = _classes(predictions, labels)
  largest = max(predictions.max(), labels.max())
  if largest > 1:
    raise ValueError(f"f1 is of two classes, 0 and 1, got class {largest}")
  correct = np.sum(predictions & labels)
  return float(2 * correct / max(1, np.sum(predictions) + np.sum(labels)))


def matthews_correlation(predictions: ArrayLike, labels: ArrayLike) -> float:
  r"""Matthews' coefficient of correlation, for any number of classes.

  .. math:: \frac{N c - \sum_k p_k g_k}{\sqrt{(N^2 - \sum_k p_k^2)(N^2 - \sum_k g_k^2)}}

  with c examples predicted right, class k predicted :math:`p_k` times and a label :math:`g_k` times.

  Args:
    predictions: [N] classes.
    labels: [N] classes.

  Returns:
    From -1 to 1; 0 where predictions or labels are all of one class.

  Raises:
    ValueError: for shapes that differ, no examples, or negative classes.

  References:
    Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004.

  >>> matthews_correlation([0, 1, 0, 1], [0, 1, 0, 1]), matthews_correlation([1, 1, 1], [0, 1, 1])
  (1.0, 0.0)
  """
  predictions, labels = _classes(predictions, labels)
  classes = int(max(predictions.max(), labels.max())) + 1
  predicted, gold = (
    np.bincount(values, minlength=classes).astype(np.float64) for values in (predictions, labels)
  )
  total, right = float(labels.size), float(np.sum(predictions == labels))
  spreads = (total**2 - predicted @ predicted) * (total**2 - gold @ gold)
  if spreads <= 0:
    return 0.0
  return float((total * right - predicted @ gold) / np.sqrt(spreads))


def _correlations(outputs: np.ndarray, labels: ArrayLike) -> dict[str, float]:
  if outputs.shape[1] != 1:
    raise ValueError(
      f"a correlation needs outputs [N, 1], the predicted numbers, got {outputs.shape}"
    )
  found = {"pearson": pearson(outputs[:, 0], labels), "spearman": spearman(outputs[:, 0], labels)}
  error = outputs[:, 0] - np.asarray(labels, np.float64)
  rmse = float(np.sqrt(np.mean(np.square(error))))
  return {"pearson_spearman": sum(found.values()) / 2, **found, "rmse": rmse}


def _of_classes(**metrics: Callable[..., float]) -> Callable[..., dict[str, float]]:
  def compute(outputs: np.ndarray, labels: ArrayLike) -> dict[str, float]:
    if outputs.shape[1] < 2:
      raise ValueError(f"classes need outputs [N, C] of at least two, got {outputs.shape}")
    labels = np.asarray(labels)
    if labels.size and labels.max() >= outputs.shape[1]:
      raise ValueError(
        f"label {labels.max()} is none of the {outputs.shape[1]} classes of the outputs"
      )
    guesses = np.argmax(outputs, axis=1)
    return {name: metric(guesses, labels) for name, metric in metrics.items()}

  return compute


TEXT_METRICS = {
  "accuracy": ("accuracy",),
  "matthews": ("matthews", "accuracy"),
  "f1": ("f1", "accuracy"),
  "accuracy_f1": ("accuracy", "f1"),
  "correlation": ("pearson_spearman", "pearson", "spearman", "rmse"),
}
"""The names of the metrics of each kind; models are selected by the first."""

_KINDS = {
  "accuracy": _of_classes(accuracy=accuracy),
  "matthews": _of_classes(matthews=matthews_correlation, accuracy=accuracy),
  "f1": _of_classes(f1=f1, accuracy=accuracy),
  "accuracy_f1": _of_classes(accuracy=accuracy, f1=f1),
  "correlation": _correlations,
}


def text_metrics(kind: str) -> Callable[[ArrayLike, ArrayLike], dict[str, float]]:
  """The metrics of a text task: a function of outputs [N, C] and labels [N].

  Args:
    kind: "accuracy"; "matthews" (CoLA: matthews, accuracy); "f1" (MRPC: f1, accuracy); "accuracy_f1" (QQP:
      accuracy, f1); "correlation" (STS-B, of outputs [N, 1]: pearson_spearman, which is their mean, both, and
      rmse, the root of the mean squared error, in the labels' unit: correlations do not see a wrong level).

  Returns:
    (outputs, labels) -> {name: value}; the first one is the one that models are selected by. It raises a
    ValueError for outputs that are not finite, and for labels or shapes that do not fit.

  Raises:
    ValueError: for an unknown kind.

  References:
    Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding, 2018,
    arXiv 1804.07461.

  >>> text_metrics("f1")([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]], [1, 0, 0])
  {'f1': 0.6666666666666666, 'accuracy': 0.6666666666666666}
  """
  if kind not in _KINDS:
    raise ValueError(f"metrics must be one of {', '.join(_KINDS)}, got {kind!r}")

  def compute(outputs: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    outputs = np.asarray(outputs, np.float64)
    if outputs.ndim != 2:
      raise ValueError(f"outputs must be [N, C], got {outputs.shape}")
    if not np.isfinite(outputs).all():
      wrong = int(np.sum(~np.isfinite(outputs).all(axis=1)))
      raise ValueError(
        f"outputs of {wrong} of {len(outputs)} examples are not finite: training diverged?"
      )
    return _KINDS[kind](outputs, labels)

  return compute
