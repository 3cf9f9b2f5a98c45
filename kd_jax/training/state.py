"""What training carries from step to step and from epoch to epoch. Every array has a leading seed axis K."""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from kd_jax import _programs as programs
from kd_jax.recipes.parts import Phase
from kd_jax.types import AUXILIARY as AUXILIARY, AnyArray, PyTree


class TrainState(NamedTuple):
  """What a train step changes.

  Attributes:
    step: [K] int32, from 0 in each phase; () of a finished phase.
    variables: the network's "params" and, where it has them, "batch_stats".
    opt_state: of the optimiser.
  """

  step: PyTree
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
  best_score: AnyArray
  best_epoch: AnyArray


def init_variables(
  model: nn.Module, inputs: PyTree, seeds: Sequence[int], initial: PyTree = None
) -> PyTree:
  """Fresh variables for each seed, stacked: [K, ...] NumPy arrays.

  Args:
    model: the network.
    inputs: [1, ...] an example of what it reads.
    seeds: one for each set of variables; equal seeds give equal variables, whatever stands beside them.
    initial: a part of the variables, nested dictionaries, that takes the place of fresh ones in every seed.

  Raises:
    ValueError: initial variables that the network does not have, or of other shapes.
  """
  init = programs.kept(
    ("init", model),
    lambda: jax.jit(
      jax.vmap(lambda seed, x: model.init(jax.random.key(seed), x, train=False), in_axes=(0, None))
    ),
  )
  fresh = jax.device_get(init(np.asarray(seeds, np.uint32), inputs))
  return fresh if initial is None else _overlaid(fresh, initial, "")


def _overlaid(fresh: PyTree, initial: PyTree, path: str) -> PyTree:
  """Arrays [K, ...] with some replaced by arrays [...] of all seeds; the path ends with a dot."""
  if not isinstance(initial, Mapping):
    if isinstance(fresh, Mapping):
      raise ValueError(f"the initial {path[:-1]} is an array, the network's has {list(fresh)}")
    found, expected = np.shape(initial), np.shape(fresh)
    if found != expected[1:]:
      raise ValueError(
        f"the initial {path[:-1]} is of shape {found}, the network's of {expected[1:]}"
      )
    return np.broadcast_to(np.asarray(initial, fresh.dtype), expected)
  held = list(fresh) if isinstance(fresh, Mapping) else []
  unknown = [name for name in initial if name not in held]
  if unknown:
    raise ValueError(f"the network has no {path}{unknown[0]} to start from: it has {held}")
  return {
    name: _overlaid(value, initial[name], f"{path}{name}.") if name in initial else value
    for name, value in fresh.items()
  }


def init_heads(
  model: nn.Module, phase: Phase, variables: PyTree, inputs: PyTree, seeds: Sequence[int]
) -> PyTree:
  """Fresh parameters [K, ...] of a phase's heads, by term; {} where it has none.

  They follow from (seed, phase, term).
  """
  modules = {term.name: term.head for term in phase.objective if term.head is not None}
  if not modules:
    return {}
  one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), variables)
  outputs = jax.eval_shape(lambda v: model.apply(v, inputs, train=False), one)
  example = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), outputs)
  heads = {}
  for name, module in modules.items():
    number = zlib.crc32(f"{phase.name}/{name}".encode())
    init = programs.kept(("heads", module), functools.partial(_init_program, module))
    heads[name] = jax.device_get(init(np.asarray(seeds, np.uint32), np.uint32(number), example))
  return heads


def _init_program(module: nn.Module) -> Callable:
  """(seeds [K], number, outputs [1, ...]) -> parameters [K, ...] of a module that reads `Outputs`."""

  def init(seed, number, outputs):
    key = jax.random.fold_in(jax.random.key(seed), number)
    return module.init(key, outputs)["params"]

  return jax.jit(jax.vmap(init, in_axes=(0, None, None)))


def network_of(variables: PyTree) -> PyTree:
  """Variables without the parameters of the objective's heads."""
  params = {name: value for name, value in variables["params"].items() if name != AUXILIARY}
  return {**variables, "params": params}


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
  return network_of({"best": before.best, "last": before.train.variables}[start])


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
  state: LoopState,
  train: TrainState,
  validation_score: np.ndarray,
  epoch: int,
  best_from: int = 1,
) -> LoopState:
  """The loop state after an epoch: keeps, for each seed, the better of the old best and the new weights.

  Of equals the later is kept: it has trained longer and, where a temperature falls, under a lower one. Before
  the epoch `best_from` nothing counts.
  """
  if epoch < best_from:
    return state._replace(train=train)
  better = validation_score >= state.best_score

  def choose(old, new):
    return np.where(better.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

  best = state.best
  if better.all():
    best = train.variables
  elif better.any():
    best = jax.tree.map(choose, state.best, train.variables)
  return LoopState(
    train=train,
    best=best,
    best_score=np.where(better, validation_score, state.best_score),
    best_epoch=np.where(better, epoch, state.best_epoch),
  )


def finished_state(state: LoopState) -> LoopState:
  """What later phases and evaluation need of a finished phase: the networks of each seed, last and best."""
  train = TrainState(step=(), variables=network_of(state.train.variables), opt_state=())
  return state._replace(train=train, best=network_of(state.best))


def as_one_of(variables: PyTree) -> PyTree:
  """The variables of a single network with a seed axis of length 1: what `one_seed` undoes."""
  return jax.tree.map(lambda x: np.asarray(x)[None], variables)


def one_seed(variables: PyTree, index: int) -> PyTree:
  """The variables of one seed, without the seed axis."""
  return jax.tree.map(lambda x: x[index], variables)
