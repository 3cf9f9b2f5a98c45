"""What a finished network says of the examples of a data set, computed on all devices."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import parallel
from kd_jax.data.augmentation import Augmentation, augment_batch
from kd_jax.data.dataset import Bucket, Dataset
from kd_jax.data.sequences import SequenceDataset
from kd_jax.losses.top_k import top_k_targets
from kd_jax.structured import layout
from kd_jax.types import Array, Outputs, PyTree

Predict = Callable[[np.ndarray, int, int], Any]
"""(rows [M], view, global batch size) -> outputs: [M, ...] by name, fields of `Outputs` or of `TopK`; of tagged
or parsed sentences a `Ragged` of the M sentences."""


def predictor(
  model: nn.Module,
  variables: PyTree,
  dataset: Dataset,
  augmentation: Augmentation,
  *,
  top_k: int | None = None,
  temperature: float = 1.0,
) -> Predict:
  """Builds a function that runs a network on rows of a data set under a view of its augmentation.

  Each device of each process computes its share of a batch, and every process receives the whole.

  Args:
    model: the network.
    variables: of one network, on the host.
    dataset: whose rows are asked for; it stays on the devices.
    augmentation: with name "none", the examples as they are.
    top_k: give the k likeliest classes and the tail instead of all logits.
    temperature: of the top k.
  """
  data = parallel.replicate((dataset.images, dataset.keys))
  held = parallel.replicate(variables)

  def step(variables, data, batch):
    images, keys = data
    rows, view = batch
    inputs = augment_batch(augmentation, images[rows], keys[rows], view)
    logits = model.apply(variables, inputs, train=False).logits.astype(jnp.float32)
    if top_k is None:
      outputs = {"logits": logits}
    else:
      outputs = top_k_targets(logits, top_k, temperature=temperature)._asdict()
    return variables, parallel.gather_batch(outputs)

  # A dispatch a batch: inference is long batches of convolutions, and its progress is shown.
  run = parallel.epoch_runner(step, one_dispatch=False, donate=False)

  def predict(rows: np.ndarray, view: int, batch_size: int) -> dict[str, np.ndarray]:
    order, _ = parallel.batches_of_rows(len(rows), batch_size)
    batches = parallel.shard(rows.astype(np.int32)[order], axis=1)
    views = np.full(batches.shape[:2], view, np.int32)
    _, outputs = run(held, data, (batches, views))
    return {name: x.reshape(-1, *x.shape[2:])[: len(rows)] for name, x in outputs.items()}

  return predict


def structure_predictor(model: nn.Module, variables: PyTree, dataset: SequenceDataset) -> Predict:
  """Builds a function that gives the scores of rows of a data set of sequences, at their true lengths.

  Args:
    model: the network, whose outputs have `scores`.
    variables: of one network, on the host.
    dataset: whose rows are asked for.
  """
  run = _bucket_runner(model, variables, lambda outputs: layout.split(outputs.scores))
  example = jax.tree.map(lambda x: x[:1], dataset.buckets[0].inputs)
  outputs = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, example)
  kind = type(outputs.scores)

  def predict(rows: np.ndarray, view: int, batch_size: int) -> layout.Ragged:
    del view  # sentences have one
    parts, places = [], []
    for bucket, positions, place in _by_bucket(dataset.buckets, rows):
      own, shared = run(bucket, positions, batch_size)
      shared = {name: array[0] for name, array in shared.items()}
      scores = kind(**dict.fromkeys(kind._fields) | own | shared)
      parts.append(layout.pack(scores, dataset.lengths[bucket.rows[positions]]))
      places.append(place)
    return layout.join(parts).take(np.argsort(np.concatenate(places)))

  return predict


def fields_predictor(
  model: nn.Module, variables: PyTree, dataset: SequenceDataset, fields: Sequence[str]
) -> Predict:
  """Builds a function that gives fields of a network's `Outputs` for rows of a data set in buckets.

  Args:
    model: the network.
    variables: of one network, on the host.
    dataset: whose rows are asked for.
    fields: which; one that is a tuple with an entry for each layer is stacked, [M, T, D].

  Raises:
    ValueError: a field that the network does not have, or layers of several widths.
  """

  def kept(outputs: Outputs) -> tuple[dict[str, Array], tuple]:
    return {name: _stacked(name, getattr(outputs, name)) for name in fields}, ()

  run = _bucket_runner(model, variables, kept)

  def predict(rows: np.ndarray, view: int, batch_size: int) -> dict[str, np.ndarray]:
    del view  # texts have one
    found = list(_by_bucket(dataset.buckets, rows))
    parts = [run(bucket, positions, batch_size)[0] for bucket, positions, _ in found]
    order = np.argsort(np.concatenate([place for _, _, place in found]))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[order], *parts)

  return predict


def _stacked(name: str, value) -> Array:
  if value is None or (isinstance(value, tuple) and not value):
    raise ValueError(f"the teacher has no {name}")
  if isinstance(value, tuple) and len({x.shape for x in value}) > 1:
    raise ValueError(f"the teacher's {name} are of several shapes: {[x.shape[1:] for x in value]}")
  return jnp.asarray(jnp.stack(value, axis=1) if isinstance(value, tuple) else value, jnp.float32)


def predictions(
  model: nn.Module,
  variables: PyTree,
  dataset: Dataset | SequenceDataset,
  function: Callable[[Outputs], PyTree],
  batch_size: int,
) -> list[PyTree]:
  """A function of a network's outputs on a whole data set, without augmentation.

  Args:
    model: the network.
    variables: of one network, on the host.
    dataset: all of whose examples are read.
    function: outputs -> [B, ...] arrays.
    batch_size: of all devices together.

  Returns:
    For each bucket, host arrays [M, ...].
  """
  run = _bucket_runner(model, variables, lambda outputs: (function(outputs), ()))
  return [run(bucket, np.arange(len(bucket.rows)), batch_size)[0] for bucket in dataset.buckets]


def _bucket_runner(model: nn.Module, variables: PyTree, function: Callable) -> Callable:
  """Builds (bucket, rows in it [M], batch size) -> (own [M, ...], shared [steps, ...]) of a function's pair."""
  held = parallel.replicate(variables)

  def step(variables, inputs, rows):
    batch = jax.tree.map(lambda x: x[rows], inputs)
    own, shared = function(model.apply(variables, batch, train=False))
    return variables, (parallel.gather_batch(own), shared)

  mapped = parallel.epoch_runner(step, one_dispatch=False, donate=False)

  def run(bucket: Bucket, rows: np.ndarray, batch_size: int):
    size = parallel.inference_batch(batch_size, len(rows), bucket.length)
    order, _ = parallel.batches_of_rows(len(rows), size)
    batches = parallel.shard(rows.astype(np.int32)[order], axis=1)
    _, (own, shared) = mapped(held, parallel.replicate(bucket.inputs), batches)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: len(rows)], own), shared

  return run


def _by_bucket(
  buckets: Sequence[Bucket], rows: np.ndarray
) -> Iterator[tuple[Bucket, np.ndarray, np.ndarray]]:
  """Each bucket that holds some of the rows, where they stand in it, and which of the rows they are."""
  for bucket in buckets:
    positions, place = _positions(bucket.rows, rows)
    if len(positions):
      yield bucket, positions, place


def _positions(held: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Where wanted rows stand in a bucket, and which of the wanted they are."""
  order = np.argsort(held)
  found = np.searchsorted(held[order], wanted)
  inside = found < len(held)
  inside[inside] = held[order][found[inside]] == wanted[inside]
  return order[found[inside]], np.flatnonzero(inside)
