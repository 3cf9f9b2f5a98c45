"""Optimisers as data: what a phase trains with, and the optax transformation that it stands for."""

import dataclasses
from typing import Literal

import optax

from kd_jax import schedules
from kd_jax.types import Schedule

_NAMES = ("sgd", "adam", "adamw")
_DECAYS = ("constant", "step", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optimiser and the course of its learning rate over one phase."""

  name: Literal["sgd", "adam", "adamw"] = "sgd"
  """sgd (with momentum), adam or adamw."""
  learning_rate: float = 0.1
  """Rate at the start of the phase."""
  decay: Literal["constant", "step", "linear", "cosine"] = "step"
  """step: a tenth after 1/2 and a hundredth after 3/4 of the phase; linear and cosine: down to 0."""
  momentum: float = 0.9
  """Of sgd."""
  weight_decay: float = 1e-4
  """sgd and adam: added to the gradient, as PyTorch does; adamw: decoupled."""
  clip_norm: float | None = None
  """Largest global norm of a gradient."""

  def __post_init__(self):
    for field, known in (("name", _NAMES), ("decay", _DECAYS)):
      if getattr(self, field) not in known:
        raise ValueError(
          f"optimizer {field} must be one of {', '.join(known)}, got {getattr(self, field)!r}"
        )
    if not self.learning_rate > 0:
      raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
    if self.weight_decay < 0 or not 0 <= self.momentum < 1:
      raise ValueError(
        "weight_decay must be at least 0 and momentum in [0, 1), got "
        f"{self.weight_decay} and {self.momentum}"
      )
    if self.clip_norm is not None and not self.clip_norm > 0:
      raise ValueError(f"clip_norm must be above 0, got {self.clip_norm}: leave it out to not clip")

  def schedule(self, total_steps: int) -> Schedule:
    """The learning rate as a function of the step, over a phase of total_steps."""
    rate = self.learning_rate
    # A phase without a step is refused where its batches are made, in words that help.
    length = max(total_steps, 1)
    if self.decay == "step" and total_steps >= 4:
      boundaries = [total_steps // 2, 3 * total_steps // 4]
      return schedules.step_schedule([rate, rate / 10, rate / 100], boundaries)
    if self.decay == "linear":
      return schedules.linear_schedule(rate, 0.0, length)
    if self.decay == "cosine":
      return schedules.cosine_schedule(rate, 0.0, length)
    return schedules.constant_schedule(rate)

  def build(self, total_steps: int) -> optax.GradientTransformation:
    """The optax transformation for a phase of total_steps."""
    rate = self.schedule(total_steps)
    clip = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
    if self.name == "adamw":
      return optax.chain(*clip, optax.adamw(rate, weight_decay=self.weight_decay))
    decay = optax.add_decayed_weights(self.weight_decay)
    if self.name == "adam":
      return optax.chain(*clip, decay, optax.adam(rate))
    return optax.chain(*clip, decay, optax.sgd(rate, momentum=self.momentum or None))
