"""Evaluates networks on a whole data set, on all devices."""

import functools
from collections.abc import Callable, Sequence
from typing import cast

import flax.linen as nn
import jax
import numpy as np

from kd_jax import metrics, parallel
from kd_jax._reading import BucketLoop, DeviceData, StepBatch, over_seeds, take
from kd_jax.data.examples import Bucket, Examples
from kd_jax.training.evaluation import CLASSIFICATION, Evaluation, Pairs
from kd_jax.types import Outputs, PyTree


def make_evaluator(
  model: nn.Module,
  dataset: Examples,
  batch_size: int,
  *,
  one_dispatch: bool,
  evaluation: Evaluation = CLASSIFICATION,
  teacher: Sequence[PyTree] | None = None,
) -> Callable[[PyTree], dict[str, np.ndarray]]:
  """Builds a function from replicated variables [devices, K, ...] to metrics {name: [K] float64}.

  Args:
    model: the network.
    dataset: evaluated whole, without augmentation.
    batch_size: of all devices together.
    one_dispatch: see `parallel.one_dispatch_an_epoch`.
    evaluation: which metrics.
    teacher: its predictions for each bucket of the data set, for the metrics that compare with it.
  """
  parallel.device_batch_size(batch_size)
  buckets = dataset.buckets

  def data_of(index: int) -> DeviceData:
    inputs, labels = buckets[index].inputs, buckets[index].labels
    return DeviceData(inputs, labels, teacher=() if teacher is None else teacher[index])

  loop = BucketLoop(
    ("evaluation", model, evaluation),
    functools.partial(evaluation_step, model, evaluation),
    model,
    buckets,
    data_of,
    one_dispatch=one_dispatch,
  )

  def evaluate(variables: PyTree) -> dict[str, np.ndarray]:
    # All buckets are on their way before the first is read.
    running = [
      [piece for pieces in loop.pieces(variables, index, batch_size) for piece in pieces]
      for index in range(len(buckets))
    ]
    results = [parallel.collect(pieces) for pieces in running]
    found = metrics.totals([pairs for pairs, _ in results])
    if evaluation.whole is not None:
      said = [predictions for _, predictions in results]
      found |= _of_the_whole(evaluation.whole, buckets, said)
    return found

  return evaluate


def evaluation_step(
  model: nn.Module,
  evaluation: Evaluation,
  variables: PyTree,
  data: DeviceData,
  batch: StepBatch,
) -> tuple[Pairs, PyTree]:
  """The metrics [K] of variables [K, ...] on a batch, inside a map over `parallel.AXIS`.

  Args:
    model: the network.
    evaluation: which metrics.
    variables: of each seed.
    data: a bucket, and the teacher's predictions [M, ...] for the metrics that compare with it, or ().
    batch: rows [B / devices] and mask of this device's share.

  Returns:
    ({name: (sum, count)}, predictions [K, B, ...] of the whole batch, if metrics of all examples need them, or
    ()).
  """
  compared = bool(jax.tree.leaves(data.teacher))
  teacher = take(data.teacher, batch.rows) if compared else None

  def one(variables: PyTree) -> tuple[Pairs, PyTree]:
    outputs = cast(Outputs, model.apply(variables, take(data.inputs, batch.rows), train=False))
    pairs = evaluation.metrics(outputs, take(data.labels, batch.rows), batch.mask, teacher)
    return pairs, () if evaluation.whole is None else evaluation.predictions(outputs)

  pairs, predictions = over_seeds(one, variables)
  return parallel.sum_over_devices(pairs), parallel.gather_batch(predictions, axis=1)


def _of_the_whole(
  whole: Callable[[np.ndarray, np.ndarray], dict[str, float]],
  buckets: Sequence[Bucket],
  said: list[np.ndarray],
) -> dict[str, np.ndarray]:
  """Metrics [K] of all predictions; said: of each bucket, [steps, K, B, ...] with the last batch filled up."""
  labels = np.concatenate([bucket.labels for bucket in buckets])
  # [K, examples of the bucket, ...]
  seeds = [
    np.concatenate(list(x), axis=1)[:, : len(b.rows)] for x, b in zip(said, buckets, strict=True)
  ]
  per_seed = [whole(seed, labels) for seed in np.concatenate(seeds, axis=1)]
  return {name: np.array([found[name] for found in per_seed]) for name in per_seed[0]}
