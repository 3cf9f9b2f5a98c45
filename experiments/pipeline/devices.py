"""How the networks of a study are best put on the devices that are there."""

import jax

from kd_jax import parallel
from kd_jax.models.spec import ModelSpec, is_convolutional

from ..domains.registry import NetworkSpec
from ..domains.sequences import SequenceNetworkSpec


def one_dispatch(spec: NetworkSpec) -> bool:
  """Whether an epoch of a network is one dispatch: see `parallel.one_dispatch_an_epoch`."""
  return parallel.one_dispatch_an_epoch(_convolves(spec))


def seeds_together(spec: NetworkSpec, seeds: int) -> int:
  """How many seeds of a network are best trained as one program, of so many."""
  if isinstance(spec, ModelSpec):
    return 1 if _convolves(spec) else seeds
  if isinstance(spec, SequenceNetworkSpec):
    # On CPU three recurrent students as one program take twice the time of one after another.
    return 1 if jax.default_backend() == "cpu" else seeds
  return 1


def _convolves(spec: NetworkSpec) -> bool:
  """Networks of sentences and texts do not: their convolutions are written as matrix products."""
  return isinstance(spec, ModelSpec) and is_convolutional(spec)
