"""How large a network is on disk, and how fast its forward pass."""

import time
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from kd_jax.models.spec import parameter_count
from kd_jax.types import Outputs, PyTree

from .interfaces import deployed

BATCH_SIZE = 64
"""Of the pass that examples per second are taken from."""
REPEATS = 20
"""Of each measurement in a study."""


class Speed(NamedTuple):
  """Of a compiled forward pass.

  Attributes:
    latency_ms: median milliseconds of a batch of one.
    examples_per_second: of a larger batch.
  """

  latency_ms: float
  examples_per_second: float


def measure_latency(
  model: nn.Module,
  variables: PyTree,
  inputs: PyTree,
  *,
  batch_size: int = BATCH_SIZE,
  repeats: int = 20,
  seconds: float = 2.0,
) -> Speed:
  """Times a network's forward pass on one device: compiled and warmed up, from and to its memory.

  Args:
    model: the network.
    variables: of one network.
    inputs: [M, ...] examples of what it reads; repeated where M is smaller than the batch.
    batch_size: of the second measurement.
    repeats: of each measurement; the median counts.
    seconds: after which a measurement ends, however often it was repeated.
  """
  held = jax.device_put(variables)

  @jax.jit
  def run(held, batch):
    return answer(model.apply(held, batch, train=False))

  def median(size: int) -> float:
    batch = jax.tree.map(lambda x: np.resize(x, (size, *x.shape[1:])), inputs)
    return _median_seconds(run, (held, jax.device_put(batch)), repeats, seconds)

  return Speed(1000 * median(1), batch_size / median(batch_size))


def answer(outputs: Outputs) -> PyTree:
  """What a network is asked for in use; all else that it returns is then never computed."""
  return outputs.scores if outputs.logits is None else outputs.logits


def _median_seconds(run, arguments: tuple, repeats: int, seconds: float) -> float:
  for _ in range(2):  # compiles, and fills caches
    jax.block_until_ready(run(*arguments))
  begun, times = time.perf_counter(), []
  while len(times) < repeats and (not times or time.perf_counter() - begun < seconds):
    start = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    times.append(time.perf_counter() - start)
  return float(np.median(times))


def size_and_speed(model: nn.Module, variables: PyTree, dataset: Any) -> dict[str, float]:
  """What results.json says of a network's size and speed.

  Args:
    model: the network.
    variables: of one network; what only training reads is not counted.
    dataset: whose examples it is timed on, of their commonest length where they are padded to several.
  """
  kept = deployed(variables)
  bucket = max(dataset.buckets, key=lambda bucket: len(bucket.rows))
  inputs = jax.tree.map(lambda x: np.asarray(x[:BATCH_SIZE]), bucket.inputs)
  return {
    "parameters": parameter_count(kept),
    "bytes": sum(4 * np.size(leaf) for leaf in jax.tree.leaves(kept)),
    **measure_latency(model, variables, inputs, repeats=REPEATS)._asdict(),
  }
