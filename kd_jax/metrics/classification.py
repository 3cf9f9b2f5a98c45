"""Metrics of classifiers: accuracy, agreement with a teacher, calibration."""

import jax
import jax.numpy as jnp

from kd_jax.losses.divergences import forward_kl
from kd_jax.losses.reductions import masked_sum_and_count
from kd_jax.metrics.pairs import Pair
from kd_jax.types import ArrayLike

CALIBRATION_BINS = 15


def accuracy(logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> Pair:
  """Share of examples whose likeliest class is the label.

  Args:
    logits: [B, C].
    labels: [B] integers.
    mask: [B]; 0 for padding.

  Returns:
    (number right, number of examples).

  >>> import jax.numpy as jnp
  >>> right, count = accuracy(jnp.array([[2.0, 1.0], [2.0, 1.0]]), jnp.array([0, 1]))
  >>> float(right), float(count)
  (1.0, 2.0)
  """
  return masked_sum_and_count(jnp.argmax(logits, axis=-1) == jnp.asarray(labels), mask)


def agreement(
  student_logits: ArrayLike, teacher_logits: ArrayLike, mask: ArrayLike | None = None
) -> Pair:
  """Share of examples on which student and teacher [B, C] name the same class."""
  return accuracy(student_logits, jnp.argmax(teacher_logits, axis=-1), mask)


def kl_to_teacher(
  student_logits: ArrayLike, teacher_logits: ArrayLike, mask: ArrayLike | None = None
) -> Pair:
  """KL(teacher || student) at T = 1, in nats, from logits [B, C]."""
  return masked_sum_and_count(forward_kl(student_logits, teacher_logits, mask=mask), mask)


def calibration(logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> Pair:
  r"""Sums for the expected calibration error, over 15 equal bins of confidence.

  .. math:: ECE = \sum_b \tfrac{|b|}{N} |acc(b) - conf(b)|
    = \tfrac1N \sum_b | \sum_{i \in b} (right_i - conf_i) |

  Args:
    logits: [B, C].
    labels: [B] integers.
    mask: [B]; 0 for padding.

  Returns:
    ([15] sums of right - confidence, number of examples).

  References:
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599, equation 3.
  """
  probabilities = jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1)
  confidence = jnp.max(probabilities, axis=-1)
  right = jnp.argmax(logits, axis=-1) == jnp.asarray(labels)
  # Bins are (low, high], as in the paper.
  bins = jnp.clip(jnp.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
  valid = jnp.ones(right.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
  gap = jnp.where(valid, right - confidence, 0.0)
  sums = jnp.zeros(CALIBRATION_BINS).at[jnp.where(valid, bins, 0)].add(gap)
  return sums, jnp.sum(valid, dtype=jnp.float32)


def classification(
  logits: ArrayLike,
  labels: ArrayLike,
  mask: ArrayLike | None = None,
  teacher_logits: ArrayLike | None = None,
) -> dict[str, Pair]:
  """All metrics of a batch; those against the teacher where its logits are given."""
  pairs = {
    "accuracy": accuracy(logits, labels, mask),
    "ece": calibration(logits, labels, mask),
  }
  if teacher_logits is not None:
    pairs["agreement"] = agreement(logits, teacher_logits, mask)
    pairs["kl_to_teacher"] = kl_to_teacher(logits, teacher_logits, mask)
  return pairs
