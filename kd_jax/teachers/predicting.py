"""What a finished network says of the examples of a data set, computed on all devices."""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import _programs as programs, parallel
from kd_jax.data.augmentation import Augmentation, augment_batch
from kd_jax.data.dataset import Bucket, Dataset
from kd_jax.data.sequences import SequenceDataset
from kd_jax.losses.top_k import top_k_targets
from kd_jax.structured import layout
from kd_jax.types import Array, ArrayLike, Outputs, PyTree

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
  held = parallel.replicate((variables, dataset.images, dataset.keys))

  def step(carry, held, batch):
    variables, images, keys = held
    rows, view = batch
    inputs = augment_batch(augmentation, images[rows], keys[rows], view)
    logits = model.apply(variables, inputs, train=False).logits.astype(jnp.float32)
    if top_k is None:
      outputs = {"logits": logits}
    else:
      outputs = top_k_targets(logits, top_k, temperature=temperature)._asdict()
    return carry, parallel.gather_batch(outputs)

  run = _runner(step)

  def predict(rows: np.ndarray, view: int, batch_size: int) -> dict[str, np.ndarray]:
    outputs = run(held, rows, batch_size, np.int32(view))
    return {name: x.reshape(-1, *x.shape[2:])[: len(rows)] for name, x in outputs.items()}

  return predict


def structure_predictor(model: nn.Module, variables: PyTree, dataset: SequenceDataset) -> Predict:
  """Builds a function that gives the scores of rows of a data set of sequences, at their true lengths.

  Args:
    model: the network, whose outputs have `scores`.
    variables: of one network, on the host.
    dataset: whose rows are asked for.
  """
  run = _bucket_runner(model, variables, dataset, lambda outputs: layout.split(outputs.scores))
  example = jax.tree.map(lambda x: x[:1], dataset.buckets[0].inputs)
  outputs = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, example)
  kind, by_bucket = type(outputs.scores), _finder(dataset.buckets)

  def predict(rows: np.ndarray, view: int, batch_size: int) -> layout.Ragged:
    del view  # sentences have one
    parts, places = [], []
    for index, positions, place in by_bucket(rows):
      own, shared = run(index, positions, batch_size)
      shared = {name: array[0] for name, array in shared.items()}
      scores = layout.assemble(kind, own | shared)
      parts.append(layout.pack(scores, dataset.lengths[rows[place]]))
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

  run, by_bucket = _bucket_runner(model, variables, dataset, kept), _finder(dataset.buckets)

  def predict(rows: np.ndarray, view: int, batch_size: int) -> dict[str, np.ndarray]:
    del view  # texts have one
    found = list(by_bucket(rows))
    parts = [run(index, positions, batch_size)[0] for index, positions, _ in found]
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
  run = _bucket_runner(model, variables, dataset, lambda outputs: (function(outputs), ()))
  return [
    run(index, np.arange(len(bucket.rows)), batch_size)[0]
    for index, bucket in enumerate(dataset.buckets)
  ]


_MOST_PAIRS = 2**17  # of positions, on each device: 512 sentences of 16 tokens, 8 of 128


def examples_at_once(model: nn.Module, bucket: Bucket, batch_size: int) -> int:
  """How many examples of a bucket are read at once, over all devices, if nothing is trained.

  It depends on the bucket, not on which of its rows are asked for: a bucket has one compiled program. No more
  than there are; and fewer if the network scores pairs of positions (spans, arcs), which grow with n².

  Args:
    model: the network that reads them.
    bucket: the examples.
    batch_size: the most, over all devices.
  """
  devices, size = jax.device_count(), min(batch_size, len(bucket.rows))
  if bucket.length is not None and _scores_pairs(model, bucket):
    size = min(size, devices * _MOST_PAIRS // bucket.length**2)
  return max(-(-size // devices), 1) * devices


def _scores_pairs(model: nn.Module, bucket: Bucket) -> bool:
  """Whether the network's scores have an entry for each pair of positions."""

  def look() -> bool:
    example = jax.tree.map(lambda x: x[:1], bucket.inputs)
    outputs = jax.eval_shape(
      lambda key: model.init_with_output(key, example, train=False)[0], jax.random.key(0)
    )
    return layout.has_pairs(outputs.scores)

  return programs.kept(("pairs", model), look)


def _bucket_runner(
  model: nn.Module, variables: PyTree, dataset: Dataset | SequenceDataset, function: Callable
) -> Callable:
  """Builds (bucket's number, rows in it [M], batch size) -> (own [M, ...], shared [steps, ...]).

  `function` makes the pair of a batch's outputs: what each example has, and what all share.
  """
  held = parallel.replicate(variables)
  buckets = dataset.buckets

  @functools.cache
  def on_devices(index: int) -> PyTree:
    """A bucket's inputs, uploaded with the first of its rows that is asked for."""
    return held, parallel.replicate(buckets[index].inputs)

  def step(carry, held, batch):
    variables, inputs = held
    rows, _ = batch
    outputs = model.apply(variables, jax.tree.map(lambda x: x[rows], inputs), train=False)
    own, shared = function(outputs)
    return carry, (parallel.gather_batch(own), shared)

  run = _runner(step)

  def run_rows(index: int, rows: np.ndarray, batch_size: int):
    size = examples_at_once(model, buckets[index], batch_size)
    own, shared = run(on_devices(index), rows, size)
    own = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: len(rows)], own)
    return own, shared

  return run_rows


_AHEAD = 2  # batches that the devices have before the host reads the first: they never wait for it


def _runner(step: Callable) -> Callable:
  """Builds (held on the devices, rows [M], batch size, option) -> outputs [steps, ...] on the host.

  A dispatch a batch, and one program whatever M is: the last batch is filled up with the first row.
  """
  mapped = parallel.epoch_runner(step, one_dispatch=False, donate=False)
  nothing = parallel.replicate(())

  def run(held: PyTree, rows: np.ndarray, batch_size: int, option: ArrayLike = 0) -> PyTree:
    order, _ = parallel.batches_of_rows(len(rows), batch_size)
    batches = parallel.shard(rows.astype(np.int32)[order], axis=1)
    options = np.full((len(batches), 1), option, np.int32)
    waiting, found = collections.deque(), []
    for number in range(batches.shape[1]):
      _, pieces = mapped(nothing, held, (batches[:, number : number + 1], options))
      waiting.append(pieces)
      if len(waiting) > _AHEAD:
        found.append(parallel.collect(waiting.popleft()))
    found += [parallel.collect(pieces) for pieces in waiting]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

  return run


def _finder(buckets: Sequence[Bucket]) -> Callable[[np.ndarray], Iterator[tuple]]:
  """Builds rows [M] -> (bucket's number, positions in it, which of the M they are), bucket by bucket."""
  bucket_of = np.full(1 + max(int(bucket.rows.max()) for bucket in buckets), -1, np.int32)
  position_of = np.zeros_like(bucket_of)
  for index, bucket in enumerate(buckets):
    bucket_of[bucket.rows] = index
    position_of[bucket.rows] = np.arange(len(bucket.rows))

  def find(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for index in range(len(buckets)):
      places = np.flatnonzero(bucket_of[rows] == index)
      if len(places):
        yield index, position_of[rows[places]], places

  return find
