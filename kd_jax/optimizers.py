"""Optimisers as data: the settings of a phase's optimiser, and the optax transformation made from them."""

import dataclasses
import math
from typing import Any, Literal

import jax
import optax

from kd_jax import schedules
from kd_jax._sizes import is_finite
from kd_jax.types import AUXILIARY, PyTree, Schedule

Decay = Literal["constant", "step", "linear", "cosine"]
_NAMES = ("sgd", "adam", "adamw")
_DECAYS = ("constant", "step", "linear", "cosine")
_MASKS = ("all", "matrices")


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optimiser and its learning-rate schedule over one phase."""

  name: Literal["sgd", "adam", "adamw"] = "sgd"
  """sgd (with momentum), adam or adamw."""
  learning_rate: float = 0.1
  """Peak learning rate: at the start of the phase, or after the warm-up."""
  decay: Decay = "step"
  """step: a tenth after 1/2 and a hundredth after 3/4 of the phase; linear and cosine: down to 0."""
  momentum: float = 0.9
  """Momentum (sgd only)."""
  weight_decay: float = 1e-4
  """sgd and adam: added to the gradient, as PyTorch does; adamw: decoupled."""
  clip_norm: float | None = None
  """Largest global norm of a gradient."""
  warmup: float = 0.0
  """Share of the phase, in [0, 1), in which the rate rises linearly from 0; the decay covers the rest."""
  decay_mask: Literal["all", "matrices"] = "all"
  """Parameters with weight decay: all (as in PyTorch), or matrices alone, without biases and the scales of
  norms (as in BERT)."""
  head_rate: float | None = None
  """Learning rate of the loss terms' heads, as a multiple of the network's; their gradients are then clipped
  apart. None treats heads as a part of the network."""

  def __post_init__(self):
    for field, known in (("name", _NAMES), ("decay", _DECAYS), ("decay_mask", _MASKS)):
      if getattr(self, field) not in known:
        raise ValueError(
          f"optimizer {field} must be one of {', '.join(known)}, got {getattr(self, field)!r}"
        )
    if not (is_finite(self.learning_rate) and self.learning_rate > 0):
      raise ValueError(f"learning_rate must be finite and above 0, got {self.learning_rate}")
    if not is_finite(self.weight_decay) or not 0 <= self.momentum < 1:
      raise ValueError(
        "weight_decay must be finite and at least 0 and momentum in [0, 1), got "
        f"{self.weight_decay} and {self.momentum}"
      )
    if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
      raise ValueError(f"clip_norm must be above 0, got {self.clip_norm}: leave it out to not clip")
    if not 0 <= self.warmup < 1:
      raise ValueError(f"`warmup` must be a share of the phase in [0, 1), got {self.warmup}")
    if self.head_rate is not None and not 0 <= self.head_rate < math.inf:
      raise ValueError(f"`head_rate` must be at least 0 (0 freezes heads), got {self.head_rate}")

  def schedule(self, total_steps: int) -> Schedule:
    """The learning rate as a function of the step, over a phase of total_steps.

    The first of W = round(warmup · total_steps) warm-up steps has the rate 0, step W the peak.
    """
    # A phase without a step is refused where its batches are made, in words that help.
    length = max(total_steps, 1)
    warm = min(round(self.warmup * length), length - 1)
    if warm == 0:
      return self._decayed(length)
    rise = schedules.linear_schedule(0.0, self.learning_rate, warm)
    return optax.join_schedules([rise, self._decayed(length - warm)], [warm])

  def _decayed(self, steps: int) -> Schedule:
    rate = self.learning_rate
    if self.decay == "step" and steps >= 4:
      return schedules.step_schedule([rate, rate / 10, rate / 100], [steps // 2, 3 * steps // 4])
    if self.decay == "linear":
      return schedules.linear_schedule(rate, 0.0, steps)
    if self.decay == "cosine":
      return schedules.cosine_schedule(rate, 0.0, steps)
    return schedules.constant_schedule(rate)

  def build(self, total_steps: int) -> optax.GradientTransformation:
    """The optax transformation for a phase of total_steps."""
    rate = self.schedule(total_steps)
    if self.head_rate is None:
      return self._update(rate)
    factor = self.head_rate
    return optax.multi_transform(
      {
        "network": self._update(rate),
        "heads": self._update(schedules.scaled_schedule(rate, factor)),
      },
      lambda params: {name: "heads" if name == AUXILIARY else "network" for name in params},
    )

  def _update(self, rate: Schedule) -> optax.GradientTransformation:
    clip = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
    mask = _matrices if self.decay_mask == "matrices" else None
    if self.name == "adamw":
      return optax.chain(*clip, optax.adamw(rate, weight_decay=self.weight_decay, mask=mask))
    decay = optax.add_decayed_weights(self.weight_decay, mask)
    if self.name == "adam":
      return optax.chain(*clip, decay, optax.adam(rate))
    return optax.chain(*clip, decay, optax.sgd(rate, momentum=self.momentum or None))


@dataclasses.dataclass(frozen=True)
class PhaseOptimizer:
  """The settings in which the optimiser of one phase differs from that of its recipe."""

  rate: float = 1.0
  """Factor on the learning rate."""
  decay: Decay | None = None
  """Decay of the learning rate, if another."""
  warmup: float | None = None
  """Warm-up share, if another."""

  def __post_init__(self):
    if not 0 < self.rate < math.inf:
      raise ValueError(f"`rate` of a phase must be a factor above 0, got {self.rate}")

  def applied_to(self, optimizer: Optimizer) -> Optimizer:
    """The optimiser with this phase's settings.

    >>> PhaseOptimizer(rate=0.5, decay="constant").applied_to(Optimizer()).learning_rate
    0.05
    """
    given = {"decay": self.decay, "warmup": self.warmup}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(
      optimizer, learning_rate=self.rate * optimizer.learning_rate, **changes
    )


UNCHANGED = PhaseOptimizer()
"""A phase that trains with the optimiser of its recipe."""


def _matrices(params: PyTree) -> PyTree:
  """Whether each parameter has weight decay: arrays of two or more axes that are not named bias."""

  def is_matrix(path, value):
    return value.ndim >= 2 and getattr(path[-1], "key", None) != "bias"

  return jax.tree_util.tree_map_with_path(is_matrix, params)
