"""What training carries from step to step and from epoch to epoch. Every array has a leading seed axis K."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from kd_jax.types import ArrayLike, PyTree


class TrainState(NamedTuple):
  """What a train step changes.

  Attributes:
    step: [K] int32, from 0 in each phase.
    variables: the network's "params" and, where it has them, "batch_stats".
    opt_state: of the optimiser.
  """

  step: ArrayLike
  variables: PyTree
  opt_state: PyTree


class LoopState(NamedTuple):
  """What an epoch changes, on the host: all that resumption needs.

  Attributes:
    train: after the last finished epoch.
    best: the variables of the epoch with the highest validation score, the latest of equals; of each seed.
    best_score: [K] float64, the selection metric on the validation split; -1 before the first epoch.
    best_epoch: [K] int64, counted from 1; 0 before the first.
  """

  train: TrainState
  best: PyTree
  best_score: ArrayLike
  best_epoch: ArrayLike


def init_variables(model: nn.Module, inputs: PyTree, seeds: Sequence[int]) -> PyTree:
  """Fresh variables for each seed, stacked: [K, ...] NumPy arrays.

  Args:
    model: the network.
    inputs: [1, ...] an example of what it reads.
    seeds: one for each set of variables; equal seeds give equal variables, whatever stands beside them.
  """
  keys = jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))
  init = jax.jit(jax.vmap(lambda key: model.init(key, inputs, train=False)))
  return jax.device_get(init(keys))


def start_variables(start: str, fresh: PyTree, before: LoopState | None) -> PyTree:
  """The variables that a phase starts from, by its `start`.

  Args:
    start: "fresh", "best" or "last".
    fresh: from `init_variables`.
    before: the state at the end of the phase before; None in the first.

  Raises:
    ValueError: "best" or "last" of no phase.
  """
  if start == "fresh":
    return fresh
  if before is None:
    raise ValueError(f"a first phase must start fresh, not from the {start} of a phase before")
  return {"best": before.best, "last": before.train.variables}[start]


def start_phase(variables: PyTree, optimizer: optax.GradientTransformation) -> LoopState:
  """The state at the start of a phase, from variables [K, ...]: step 0, a new optimiser, no best yet."""
  num_seeds = jax.tree.leaves(variables)[0].shape[0]
  train = TrainState(
    step=np.zeros(num_seeds, np.int32),
    variables=variables,
    opt_state=jax.device_get(jax.vmap(optimizer.init)(variables["params"])),
  )
  return LoopState(
    train=train,
    best=variables,
    best_score=np.full(num_seeds, -1.0),
    best_epoch=np.zeros(num_seeds, np.int64),
  )


def track_best(
  state: LoopState, train: TrainState, validation_score: np.ndarray, epoch: int
) -> LoopState:
  """The loop state after an epoch: keeps, for each seed, the better of the old best and the new weights.

  Of equals the later is kept: it has trained longer and, where a temperature falls, under a lower one.
  """
  better = validation_score >= state.best_score

  def choose(old, new):
    return np.where(better.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

  return LoopState(
    train=train,
    best=jax.tree.map(choose, state.best, train.variables),
    best_score=np.where(better, validation_score, state.best_score),
    best_epoch=np.where(better, epoch, state.best_epoch),
  )


def as_one_of(variables: PyTree) -> PyTree:
  """The variables of a single network with a seed axis of length 1: what `one_seed` undoes."""
  return jax.tree.map(lambda x: np.asarray(x)[None], variables)


def one_seed(variables: PyTree, index: int) -> PyTree:
  """The variables of one seed, without the seed axis."""
  return jax.tree.map(lambda x: x[index], variables)
