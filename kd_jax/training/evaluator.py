"""Evaluates networks on a whole data set, on all devices."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import numpy as np

from kd_jax import _programs as programs, metrics, parallel
from kd_jax.data.dataset import Bucket, Dataset
from kd_jax.data.sequences import SequenceDataset
from kd_jax.teachers.predicting import examples_at_once
from kd_jax.training import step as steps
from kd_jax.training.evaluation import CLASSIFICATION, Evaluation
from kd_jax.types import PyTree


def make_evaluator(
  model: nn.Module,
  dataset: Dataset | SequenceDataset,
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
  run = programs.kept(
    ("evaluation", model, evaluation, one_dispatch),
    lambda: parallel.epoch_runner(
      steps.make_evaluation_step(model, evaluation), one_dispatch=one_dispatch, donate=False
    ),
  )
  parts = []
  for index, bucket in enumerate(dataset.buckets):
    data = parallel.replicate(steps.device_data(bucket, () if teacher is None else teacher[index]))
    size = examples_at_once(model, bucket, batch_size)
    rows = parallel.batches_of_rows(len(bucket.rows), size)
    parts.append((data, tuple(parallel.shard(array, axis=1) for array in rows)))

  def evaluate(variables: PyTree) -> dict[str, np.ndarray]:
    # All buckets are on their way before the first is read.
    running = [run(variables, data, rows)[1] for data, rows in parts]
    results = [parallel.collect(pieces) for pieces in running]
    found = metrics.totals([pairs for pairs, _ in results])
    if evaluation.whole is not None:
      said = [predictions for _, predictions in results]
      found |= _of_the_whole(evaluation, dataset.buckets, said)
    return found

  return evaluate


def _of_the_whole(
  evaluation: Evaluation, buckets: Sequence[Bucket], said: list[np.ndarray]
) -> dict[str, np.ndarray]:
  """Metrics [K] of all predictions; said: of each bucket, [steps, K, B, ...] with the last batch filled up."""
  labels = np.concatenate([bucket.labels for bucket in buckets])
  # [K, examples of the bucket, ...]
  seeds = [
    np.concatenate(list(x), axis=1)[:, : len(b.rows)] for x, b in zip(said, buckets, strict=True)
  ]
  per_seed = [evaluation.whole(seed, labels) for seed in np.concatenate(seeds, axis=1)]
  return {name: np.array([found[name] for found in per_seed]) for name in per_seed[0]}
