"""Schedules: pure, traceable functions from a step (or epoch, whole or fractional) to a value.

They have the form of optax's schedules, so either kind serves where the other does. A temperature or a
weight that follows one is a traced value: nothing recompiles as it changes.

Each schedule is a frozen value. Two with equal fields are equal, so that a phase made again finds its compiled
step, and a recipe can be described by the fields.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from kd_jax.types import Array, ArrayLike, Schedule


def constant_schedule(value: float) -> Schedule:
  """The same value at every step.

  >>> float(constant_schedule(0.5)(7))
  0.5
  """
  return _Constant(value)


@dataclasses.dataclass(frozen=True)
class _Constant:
  value: float

  def __call__(self, step: ArrayLike) -> Array:
    return jnp.full(jnp.shape(step), self.value, jnp.float32)


def annealing_temperature(max_temperature: int, steps_per_temperature: float) -> Schedule:
  r"""Annealing-KD's temperature: tau_max, ..., 2, 1, each for a number of steps, then 1 for ever.

  .. math:: T(step) = \max(1, \; \tau_{max} - \lfloor step / steps\_per\_temperature \rfloor)

  A phase whose length does not divide by tau_max holds T = 1 at its end. (The released code lets the
  factor run past 1 there.)

  Args:
    max_temperature: tau_max, a whole number >= 1.
    steps_per_temperature: steps spent at each temperature, >= 1; in epochs where the step is an epoch.

  Raises:
    ValueError: for a value below 1, or a tau_max that is not whole.

  References:
    Jafari et al., EACL 2021, arXiv 2104.07163, algorithm 1.

  >>> schedule = annealing_temperature(3, steps_per_temperature=2)
  >>> [int(schedule(step)) for step in range(8)]
  [3, 3, 2, 2, 1, 1, 1, 1]
  """
  if max_temperature < 1 or int(max_temperature) != max_temperature:
    raise ValueError(f"max_temperature must be a whole number of at least 1, got {max_temperature}")
  if not steps_per_temperature >= 1:
    raise ValueError(f"steps_per_temperature must be at least 1, got {steps_per_temperature}")
  return _AnnealingTemperature(int(max_temperature), steps_per_temperature)


@dataclasses.dataclass(frozen=True)
class _AnnealingTemperature:
  max_temperature: int
  steps_per_temperature: float

  def __call__(self, step: ArrayLike) -> Array:
    step = jnp.asarray(step, jnp.float32)
    done = jnp.floor(step / self.steps_per_temperature)
    # XLA may multiply by a rounded reciprocal instead: 41 / 41 is then just below 1, and T a step late.
    done += ((done + 1.0) * self.steps_per_temperature <= step).astype(jnp.float32)
    return jnp.maximum(self.max_temperature - done, 1.0)


@dataclasses.dataclass(frozen=True)
class _Ramp:
  """What leads from `start` to `end` over `steps` steps from `begin` on."""

  start: float
  end: float
  steps: float
  begin: float

  def __post_init__(self):
    if not self.steps > 0:
      raise ValueError(f"steps must be above 0, got {self.steps}")

  def progress(self, step: ArrayLike) -> Array:
    """0 until `begin`, 1 from `begin + steps` on."""
    return jnp.clip((jnp.asarray(step, jnp.float32) - self.begin) / self.steps, 0.0, 1.0)


def linear_schedule(start: float, end: float, steps: float, begin: float = 0.0) -> Schedule:
  """`start` until `begin`, then a straight line to `end` over `steps` steps, then `end`.

  >>> schedule = linear_schedule(0.0, 1.0, steps=4)
  >>> [float(schedule(step)) for step in (0, 1, 4, 9)]
  [0.0, 0.25, 1.0, 1.0]
  """
  return _Linear(start, end, steps, begin)


@dataclasses.dataclass(frozen=True)
class _Linear(_Ramp):
  def __call__(self, step: ArrayLike) -> Array:
    return self.start + (self.end - self.start) * self.progress(step)


def cosine_schedule(start: float, end: float, steps: float, begin: float = 0.0) -> Schedule:
  """`start` until `begin`, then half a cosine to `end` over `steps` steps, then `end`.

  >>> schedule = cosine_schedule(1.0, 0.0, steps=4)
  >>> [round(float(schedule(step)), 4) for step in (0, 2, 4, 9)]
  [1.0, 0.5, 0.0, 0.0]
  """
  return _Cosine(start, end, steps, begin)


@dataclasses.dataclass(frozen=True)
class _Cosine(_Ramp):
  def __call__(self, step: ArrayLike) -> Array:
    falling = 0.5 * (1.0 + jnp.cos(jnp.pi * self.progress(step)))
    return self.end + (self.start - self.end) * falling


def step_schedule(values: Sequence[float], boundaries: Sequence[float]) -> Schedule:
  """`values[0]` before `boundaries[0]`, `values[1]` from it on, and so forth.

  Raises:
    ValueError: unless there is one value more than boundaries, and these rise.

  >>> schedule = step_schedule([0.1, 0.01], boundaries=[5])
  >>> [round(float(schedule(step)), 2) for step in (0, 4, 5)]
  [0.1, 0.1, 0.01]
  """
  if len(values) != len(boundaries) + 1:
    raise ValueError(
      f"{len(boundaries)} boundaries need {len(boundaries) + 1} values, got {len(values)}"
    )
  if any(later <= earlier for earlier, later in itertools.pairwise(boundaries)):
    raise ValueError(f"boundaries must rise, got {list(boundaries)}")
  return _Steps(tuple(values), tuple(boundaries))


@dataclasses.dataclass(frozen=True)
class _Steps:
  values: tuple[float, ...]
  boundaries: tuple[float, ...]

  def __call__(self, step: ArrayLike) -> Array:
    limits = np.asarray(self.boundaries, np.float32)
    passed = jnp.asarray(step, jnp.float32)[..., None] >= limits
    return jnp.asarray(self.values, jnp.float32)[jnp.sum(passed, axis=-1)]


def scaled_schedule(schedule: Schedule, factor: float, offset: float = 0.0) -> Schedule:
  """`offset + factor · schedule(step)`.

  >>> rest = scaled_schedule(linear_schedule(1.0, 0.0, steps=4), factor=-1.0, offset=1.0)
  >>> [float(rest(step)) for step in (0, 1, 4)]
  [0.0, 0.25, 1.0]
  """
  return _Scaled(schedule, factor, offset)


@dataclasses.dataclass(frozen=True)
class _Scaled:
  schedule: Schedule
  factor: float
  offset: float

  def __call__(self, step: ArrayLike) -> Array:
    return self.offset + self.factor * jnp.asarray(self.schedule(step))


def teacher_annealing(rate: float) -> Schedule:
  r"""Teacher annealing: the weight of distillation gives way to that of the labels.

  .. math:: \lambda(epoch) = \max(0, \; 1 - epoch \cdot rate / 100)

  Args:
    rate: percentage points that the weight loses in an epoch, >= 0; the paper's settings run from 0.5 to 1.5.

  Raises:
    ValueError: for a negative rate.

  References:
    Wang et al. 2021, arXiv 2010.05010; Clark et al., BAM!, ACL 2019, arXiv 1907.04829.

  >>> schedule = teacher_annealing(25)
  >>> [float(schedule(epoch)) for epoch in (0, 1, 4, 9)]
  [1.0, 0.75, 0.0, 0.0]
  """
  if not rate >= 0:
    raise ValueError(f"rate must be at least 0, got {rate}")
  return constant_schedule(1.0) if rate == 0 else linear_schedule(1.0, 0.0, 100.0 / rate)
