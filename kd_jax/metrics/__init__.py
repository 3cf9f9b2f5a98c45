"""Evaluation metrics as (sum, count) pairs.

Pairs of batches, devices and hosts add up, and are divided once, at the end: `compute`. So padding,
uneven batches and the number of devices cannot change a result.
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
from kd_jax.metrics.pairs import Pair, compute
from kd_jax.metrics.spans import span_f1, span_f1_by_type, token_accuracy

__all__ = [
  "CALIBRATION_BINS",
  "Pair",
  "accuracy",
  "agreement",
  "attachment_scores",
  "calibration",
  "classification",
  "compute",
  "kl_to_teacher",
  "span_f1",
  "span_f1_by_type",
  "token_accuracy",
]
