"""What a finished network says of the examples of a data set, computed on all devices.

All functions here run one loop over buckets (`rows_reader`). They differ in the function of the outputs, and in
what they make of the rows that come back.
"""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import _programs as programs, parallel
from kd_jax._reading import BucketLoop, DeviceData, StepBatch, inputs_of
from kd_jax.data.augmentation import Augmentation
from kd_jax.data.examples import Bucket, Examples
from kd_jax.data.sequences import SequenceDataset
from kd_jax.losses.top_k import top_k_targets
from kd_jax.structured import layout
from kd_jax.types import Array, Outputs, PyTree

Predict = Callable[[np.ndarray, int, int], Any]
"""(rows [M], view, global batch size) -> outputs: [M, ...] by name, fields of `Outputs` or of `TopK`; of tagged
or parsed sentences a `Ragged` of the M sentences."""

PLAIN = Augmentation(name="none")


def predictor(
  model: nn.Module,
  variables: PyTree,
  dataset: Examples,
  augmentation: Augmentation = PLAIN,
  *,
  fields: Sequence[str] = ("logits",),
  top_k: int | None = None,
  temperature: float = 1.0,
) -> Predict:
  """Builds a function that gives fields of a network's `Outputs` for rows of a data set.

  Each device of each process computes its share of a batch, and every process receives the whole.

  Args:
    model: the network.
    variables: of one network, on the host.
    dataset: whose rows are asked for; a bucket goes to the devices with the first of its rows.
    augmentation: under whose views the examples are read; with name "none", as they are.
    fields: which; one that is a tuple with an entry for each layer is stacked, [M, T, D], or if their shapes
      differ, given layer by layer as "layers.0", "layers.1", …
    top_k: give the k likeliest classes and the tail in place of the fields.
    temperature: of the top k.

  Raises:
    ValueError: a field that the network does not have.
  """
  function = (
    functools.partial(_fields, fields=tuple(fields))
    if top_k is None
    else functools.partial(_top_k, k=top_k, temperature=temperature)
  )
  read = rows_reader(model, variables, dataset, function, augmentation)

  def predict(rows: np.ndarray, view: int, batch_size: int) -> dict[str, np.ndarray]:
    parts = list(read(rows, view, batch_size))
    order = _order(parts)
    return jax.tree.map(lambda *x: np.concatenate(x)[order], *[part.own for part in parts])

  return predict


def fields_predictor(
  model: nn.Module, variables: PyTree, dataset: Examples, fields: Sequence[str]
) -> Predict:
  """`predictor` of several fields, of examples as they are."""
  return predictor(model, variables, dataset, fields=fields)


def structure_predictor(model: nn.Module, variables: PyTree, dataset: SequenceDataset) -> Predict:
  """Builds a function that gives the scores of rows of a data set of sequences, at their true lengths.

  Args:
    model: the network, whose outputs have `scores`.
    variables: of one network, on the host.
    dataset: whose rows are asked for.
  """
  read = rows_reader(model, variables, dataset, _scores)
  example = jax.tree.map(lambda x: x[:1], dataset.buckets[0].inputs)
  outputs = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, example)
  kind = type(outputs.scores)

  def predict(rows: np.ndarray, view: int, batch_size: int) -> layout.Ragged:
    parts = list(read(rows, view, batch_size))
    packed = [
      layout.pack(layout.assemble(kind, part.own | part.shared), dataset.lengths[rows[part.places]])
      for part in parts
    ]
    return layout.join(packed).take(_order(parts))

  return predict


def predictions(
  model: nn.Module,
  variables: PyTree,
  dataset: Examples,
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
  read = rows_reader(model, variables, dataset, functools.partial(_own, function=function))
  return [part.own for bucket in dataset.buckets for part in read(bucket.rows, 0, batch_size)]


# Functions of outputs: (what each example has, what all share).


def _fields(outputs: Outputs, *, fields: tuple[str, ...]) -> tuple[dict[str, Array], tuple]:
  found: dict[str, Array] = {}
  for name in fields:
    found |= _arrays(name, getattr(outputs, name))
  return found, ()


def _arrays(name: str, value: Any) -> dict[str, Array]:
  """A field as one array, or an array a layer if their shapes differ."""
  if value is None or (isinstance(value, tuple) and not value):
    raise ValueError(f"the teacher has no {name}")
  if not isinstance(value, tuple):
    return {name: jnp.asarray(value, jnp.float32)}
  layers = [jnp.asarray(layer, jnp.float32) for layer in value]
  if len({layer.shape for layer in layers}) == 1:
    return {name: jnp.stack(layers, axis=1)}
  return {f"{name}.{number}": layer for number, layer in enumerate(layers)}


def _top_k(outputs: Outputs, *, k: int, temperature: float) -> tuple[dict[str, Array], tuple]:
  logits = _arrays("logits", outputs.logits)["logits"]
  return top_k_targets(logits, k, temperature=temperature)._asdict(), ()


def _scores(outputs: Outputs) -> tuple[dict[str, Array], dict[str, Array]]:
  return layout.split(outputs.scores)


def _own(outputs: Outputs, *, function: Callable[[Outputs], PyTree]) -> tuple[PyTree, tuple]:
  return function(outputs), ()


# The one loop.


class Part(NamedTuple):
  """What a network says of the rows of one bucket.

  Attributes:
    places: [m] which of the rows asked for they are.
    own: [m, ...] arrays of each of them.
    shared: what all examples share.
  """

  places: np.ndarray
  own: PyTree
  shared: PyTree


_AHEAD = 2  # batches that the devices have before the host reads the first: they never wait for it


def rows_reader(
  model: nn.Module,
  variables: PyTree,
  dataset: Examples,
  function: Callable[[Outputs], tuple[PyTree, PyTree]],
  augmentation: Augmentation = PLAIN,
) -> Callable[[np.ndarray, int, int], Iterator[Part]]:
  """Builds (rows [M], view, batch size) -> the parts of the buckets that have some of the rows.

  Args:
    model: the network.
    variables: of one network, on the host.
    dataset: whose rows are asked for.
    function: outputs of a batch -> (what each example has, what all share).
    augmentation: under whose views the examples are read.
  """
  held, plain, buckets = parallel.replicate(variables), augmentation.name == "none", dataset.buckets
  loop = BucketLoop(
    ("predicting", model, programs.key_of(function), augmentation),
    functools.partial(_said, model, function, augmentation),
    model,
    buckets,
    lambda index: DeviceData(buckets[index].inputs, keys=() if plain else buckets[index].keys),
    one_dispatch=False,
  )
  find = _finder(buckets)

  def read(rows: np.ndarray, view: int, batch_size: int) -> Iterator[Part]:
    for index, positions, places in find(rows):
      waiting: collections.deque[parallel.Pieces] = collections.deque()
      found: list[PyTree] = []
      for pieces in loop.pieces(held, index, batch_size, positions, None if plain else view):
        waiting.append(pieces)
        if len(waiting) > _AHEAD:
          found.append(parallel.collect(waiting.popleft()))
      found += [parallel.collect(pieces) for pieces in waiting]
      own, shared = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
      own = jax.tree.map(functools.partial(_first_rows, count=len(positions)), own)
      # What is shared is the same in each batch.
      yield Part(places, own, jax.tree.map(lambda x: x[0], shared))

  return read


def _first_rows(x: np.ndarray, *, count: int) -> np.ndarray:
  """[count, ...] of [steps, B, ...], without what fills the last batch up."""
  return x.reshape(-1, *x.shape[2:])[:count]


def _said(
  model: nn.Module,
  function: Callable[[Outputs], tuple[PyTree, PyTree]],
  augmentation: Augmentation,
  variables: PyTree,
  data: DeviceData,
  batch: StepBatch,
) -> tuple[PyTree, PyTree]:
  """A function of the outputs on a batch; what each example has is gathered from all devices."""
  inputs = inputs_of(data, batch.rows, augmentation, batch.view)
  own, shared = function(cast(Outputs, model.apply(variables, inputs, train=False)))
  return parallel.gather_batch(own), shared


def _order(parts: list[Part]) -> np.ndarray:
  """What brings the rows of all parts, one after another, into the order asked for."""
  return np.argsort(np.concatenate([part.places for part in parts]))


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
