"""What a step reads, and the loop that runs networks over the buckets of a data set when nothing is trained."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from kd_jax import _programs as programs, parallel
from kd_jax.data.augmentation import Augmentation, augment_batch
from kd_jax.data.examples import Bucket
from kd_jax.structured import layout
from kd_jax.types import AnyArray, ArrayLike, PyTree


class DeviceData(NamedTuple):
  """A bucket of a data set on every device.

  Attributes:
    inputs: [M, ...] what the network reads, before augmentation.
    labels: [M, ...].
    keys: [M] uint32, from the example ids; () without augmentation.
    teacher: `CachedTeacher`, `LiveTeacher` or None; for evaluation, the teacher's predictions [M, ...] or ().
    seeds: [K] uint32, of the seeds that train together: dropout and views follow from them.
    epochs_before: int32, epochs of earlier phases: dropout and views go on from there.
    labelled: [M] bool, which examples have labels; None if all have.
  """

  inputs: PyTree
  labels: PyTree = ()
  keys: PyTree = ()
  teacher: PyTree = ()
  seeds: PyTree = ()
  epochs_before: PyTree = ()
  labelled: AnyArray | None = None


class StepBatch(NamedTuple):
  """Which examples of a bucket a step takes.

  Attributes:
    rows: [B] in the bucket; of seeds that train together, [K, B].
    mask: [B] 0 where a batch is filled up; None if none ever is.
    view: of the augmentation; None in training, where it follows from seed and epoch, and without augmentation.
  """

  rows: AnyArray
  mask: AnyArray | None = None
  view: AnyArray | None = None


def take(tree: PyTree, rows: AnyArray) -> PyTree:
  """The given rows of every array."""
  return jax.tree.map(lambda x: x[rows], tree)


def inputs_of(
  data: DeviceData, rows: AnyArray, augmentation: Augmentation, view: ArrayLike | None
) -> PyTree:
  """What the network reads of some rows [B] of a bucket, under a view of the augmentation."""
  inputs = take(data.inputs, rows)
  if augmentation.name == "none":
    return inputs
  assert view is not None  # a batch under an augmentation has one
  return augment_batch(augmentation, inputs, data.keys[rows], view)


def rows_in_order(num_rows: int, global_batch_size: int) -> tuple[np.ndarray, np.ndarray]:
  """All rows in order, in equal batches; the last is filled up with row 0 and masked.

  Returns:
    (rows [steps, B] int32, mask [steps, B] float32).
  """
  steps = -(-num_rows // global_batch_size)
  rows = np.zeros(steps * global_batch_size, np.int32)
  rows[:num_rows] = np.arange(num_rows)
  mask = (np.arange(rows.size) < num_rows).astype(np.float32)
  return rows.reshape(steps, -1), mask.reshape(steps, -1)


class BucketLoop:
  """Runs a function over the rows of one bucket after another, on all devices."""

  def __init__(
    self,
    key: tuple,
    function: Callable[[PyTree, DeviceData, StepBatch], PyTree],
    model: nn.Module,
    buckets: Sequence[Bucket],
    data: Callable[[int], DeviceData],
    *,
    one_dispatch: bool,
  ):
    """Uploads nothing yet.

    Args:
      key: what the function depends on: see `kd_jax._programs`.
      function: (variables, data of a bucket, batch) -> outputs, equal on all devices; it runs inside a map over
        `parallel.AXIS`.
      model: whose variables they are.
      buckets: of the data set.
      data: a bucket's number -> its arrays on the host.
      one_dispatch: whether the batches of a bucket are one program; see `parallel.one_dispatch_an_epoch`.
    """
    self.buckets, self._model, self._data = buckets, model, data
    self._held: dict[int, DeviceData] = {}
    self._one_dispatch = one_dispatch
    self._run = programs.kept(
      ("reading", *key, one_dispatch),
      lambda: parallel.map_batches(
        lambda held, batch: function(held[0], held[1], batch), one_dispatch=one_dispatch
      ),
    )

  def on_devices(self, index: int) -> DeviceData:
    """A bucket, uploaded when it is first asked for."""
    if index not in self._held:
      self._held[index] = parallel.replicate(self._data(index))
    return self._held[index]

  def pieces(
    self,
    variables: PyTree,
    index: int,
    batch_size: int,
    rows: np.ndarray | None = None,
    view: int | None = None,
  ) -> Iterator[parallel.Pieces]:
    """Gives the devices batch after batch, as fast as the pieces are asked for.

    There is one compiled program for a bucket, whichever of its rows are asked for.

    Args:
      variables: replicated.
      index: of the bucket.
      batch_size: the most examples at once, over all devices.
      rows: [M] in the bucket; None for all.
      view: of the augmentation, if there is one.

    Yields:
      Outputs on the devices, for `parallel.collect`.
    """
    bucket = self.buckets[index]
    rows = np.arange(len(bucket.rows)) if rows is None else rows
    order, mask = rows_in_order(len(rows), examples_at_once(self._model, bucket, batch_size))
    batch = StepBatch(parallel.shard(rows.astype(np.int32)[order], 1), parallel.shard(mask, 1))
    if view is not None:
      batch = batch._replace(view=np.full(batch.rows.shape[:2], view, np.int32))
    held = (variables, self.on_devices(index))
    if self._one_dispatch:
      yield self._run(held, batch)
      return
    for number in range(len(order)):
      yield self._run(held, jax.tree.map(lambda x, n=number: x[:, n : n + 1], batch))


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


def over_seeds(function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
  """Maps a function over the leading axis K of its arguments: the one place that knows the axis of seeds.

  Of one seed the function is called as it is: under a map, both sides of a branch on a value are computed.
  """
  if jax.tree.leaves(arguments)[0].shape[0] > 1:
    return jax.vmap(function)(*arguments)
  alone = function(*jax.tree.map(lambda x: x[0], arguments))
  return jax.tree.map(lambda x: x[None], alone)
