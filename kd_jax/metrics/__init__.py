"""Evaluation metrics, most as (sum, count) pairs.

Pairs of batches, devices and hosts add up, and are divided once, at the end: `compute`. So padding,
uneven batches and the number of devices cannot change a result. What is no ratio of sums is a function of
all predictions instead: `text_metrics` and what it is made of.
"""

from kd_jax.metrics.attachment import attachment_scores
from kd_jax.metrics.classification import (
  CALIBRATION_BINS,
  accuracy,
  agreement,
  calibration,
  classification,
  kl_to_teacher,
)
from kd_jax.metrics.correlation import pearson, spearman
from kd_jax.metrics.pairs import Pair, compute, totals
from kd_jax.metrics.spans import span_f1, span_f1_by_type, token_accuracy
from kd_jax.metrics.text import TEXT_METRICS, f1, matthews_correlation, text_metrics

__all__ = [
  "CALIBRATION_BINS",
  "TEXT_METRICS",
  "Pair",
  "accuracy",
  "agreement",
  "attachment_scores",
  "calibration",
  "classification",
  "compute",
  "f1",
  "kl_to_teacher",
  "matthews_correlation",
  "pearson",
  "span_f1",
  "span_f1_by_type",
  "spearman",
  "text_metrics",
  "token_accuracy",
  "totals",
]
