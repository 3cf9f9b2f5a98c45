"""What a network is to predict: each kind of target has its loss on labels and on a teacher's outputs."""

import dataclasses
import math
from typing import Any

from kd_jax._checks import check_temperature
from kd_jax.losses.logits import (
  hard_label_loss,
  logit_regression_loss,
  soft_target_kd_loss,
  squared_error_loss,
)
from kd_jax.losses.sequences import structure_nll_loss
from kd_jax.losses.top_k import top_k_kd_loss
from kd_jax.recipes.parts import Term
from kd_jax.types import Schedule

LOGITS = ("student.logits", "teacher.logits")
SCORES = ("student.scores", "teacher.scores")


@dataclasses.dataclass(frozen=True)
class Classes:
  """One of C classes.

  Attributes:
    number: C.
    top_k: how many classes are kept of the teacher's distribution, with the tail; None: all of its logits.
    label_smoothing: of the labels, in [0, 1): see `kd_jax.hard_label_loss`.
    class_weights: of the loss on labels, C numbers; none: all are 1.
  """

  number: int
  top_k: int | None = None
  label_smoothing: float = 0.0
  class_weights: tuple[float, ...] = ()

  def __post_init__(self):
    if self.number < 2:
      raise ValueError(
        f"there must be at least 2 classes, got {self.number}: `Number` is one number"
      )
    if self.top_k is not None and not 1 <= self.top_k < self.number:
      raise ValueError(f"top_k must be at least 1 and below {self.number}, got {self.top_k}")
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
    if self.class_weights and (
      len(self.class_weights) != self.number
      or not all(math.isfinite(weight) and weight >= 0 for weight in self.class_weights)
      or not any(self.class_weights)
    ):
      raise ValueError(
        f"class_weights must be {self.number} numbers of at least 0, not all 0; got {list(self.class_weights)}"
      )

  @property
  def outputs(self) -> int:
    """How many a network has."""
    return self.number

  @property
  def centered(self) -> dict[str, Any]:
    """Options of losses around the output that is no opinion: logits of 0."""
    return {}

  mean = 0.0
  """What outputs start around: no opinion."""
  label_equation = "CE(y, z_s)"
  soft_equation = "T² KL(softmax(z_t/T) || softmax(z_s/T))"

  def label_term(self, weight: float | Schedule = 1.0) -> Term:
    """Cross-entropy on hard labels, smoothed and weighted by class if asked for."""
    options: dict[str, Any] = {}
    if self.label_smoothing:
      options["label_smoothing"] = self.label_smoothing
    if self.class_weights:
      options["class_weights"] = self.class_weights
    names = ("student.logits", "batch.labels")
    return Term("cross_entropy", hard_label_loss, names, options, weight)

  def soft_term(self, temperature: float, weight: float | Schedule = 1.0) -> Term:
    """Soft targets at a temperature, T² KL: over all classes, or over the teacher's top k and the tail."""
    check_temperature(temperature)
    options = {"temperature": temperature}
    if self.top_k is None:
      return Term("soft_targets", soft_target_kd_loss, LOGITS, options, weight)
    return Term("soft_targets", top_k_kd_loss, ("student.logits", "teacher.top_k"), options, weight)


@dataclasses.dataclass(frozen=True)
class Number:
  """One number: squared errors stand where classes have cross-entropy and KL.

  Attributes:
    mean: of the training labels. As logits are shrunk and compared around 0, no opinion, numbers are around it.
  """

  mean: float = 0.0

  def __post_init__(self):
    if not math.isfinite(self.mean):
      raise ValueError(f"`mean` must be finite, got {self.mean}")

  @property
  def outputs(self) -> int:
    """How many a network has."""
    return 1

  @property
  def centered(self) -> dict[str, Any]:
    """Options of losses around the output that is no opinion: the mean."""
    return {"center": self.mean}

  label_equation = "(y - z_s)²"
  soft_equation = "(z_t - z_s)²"

  def label_term(self, weight: float | Schedule = 1.0) -> Term:
    """Squared error of the labels."""
    names = ("student.logits", "batch.labels")
    return Term("cross_entropy", squared_error_loss, names, weight=weight)

  def soft_term(self, temperature: float, weight: float | Schedule = 1.0) -> Term:
    """Squared error to the teacher's number: a number has no temperature."""
    check_temperature(temperature)
    return Term("soft_targets", logit_regression_loss, LOGITS, weight=weight)


@dataclasses.dataclass(frozen=True)
class Structures:
  """Tags, spans or a tree of a sentence: the networks' scores know which."""

  label_equation = "-log P_s(y | x)"

  def label_term(self, weight: float | Schedule = 1.0) -> Term:
    """Negative log-likelihood of the gold standard."""
    return Term("labels", structure_nll_loss, ("student.scores", "batch.labels"), weight=weight)


Target = Classes | Number | Structures
