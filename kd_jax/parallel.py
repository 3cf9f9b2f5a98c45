"""Several devices, several hosts: the only file that says pmap.

Every device of every process holds a replica of the parameters and of the (small) data set, and works on
its share of each global batch. Gradients, metrics and BatchNorm statistics are reduced over one axis.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from kd_jax._sizes import check_whole, is_whole
from kd_jax.types import ArrayLike, PyTree

AXIS = "batch"
"""The name of the mapped axis, for BatchNorm's `axis_name` too."""


def initialize(coordinator: str, num_processes: int, process_id: int) -> None:
  """Joins this process to a group; before any other use of jax.

  Args:
    coordinator: HOST:PORT of process 0.
    num_processes: how many there are.
    process_id: the number of this one, from 0.
  """
  jax.distributed.initialize(
    coordinator, num_processes, process_id, initialization_timeout=60, heartbeat_timeout_seconds=30
  )


def is_main() -> bool:
  """True in the one process that writes reports."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def device_batch_size(global_batch_size: int) -> int:
  """How many examples of a global batch one device takes.

  Raises:
    ValueError: unless the batch divides over all devices, naming the nearest that would.
  """
  devices = jax.device_count()
  if not is_whole(global_batch_size, -math.inf):
    check_whole("batch_size", global_batch_size)
  if global_batch_size < 1 or global_batch_size % devices:
    lower = max(global_batch_size, 0) // devices * devices
    choices = " or ".join(str(size) for size in (lower, lower + devices) if size > 0)
    raise ValueError(
      f"a global batch of {global_batch_size} does not divide over {devices} devices: "
      f"{choices} would"
    )
  return global_batch_size // devices


def replicate(tree: PyTree) -> PyTree:
  """Copies host arrays to every local device: [local devices, ...], an entry on each.

  The host holds no copy for each device: every device reads the one array.
  """
  devices, sharding = _layout()

  def copy(x: ArrayLike) -> jax.Array:
    part = np.asarray(x)[None]
    held = [jax.device_put(part, device) for device in devices]
    shape = (len(devices), *part.shape[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding, held)

  return jax.tree.map(copy, tree)


def spread(tree: PyTree) -> PyTree:
  """Moves host arrays [local devices, ...], as `shard` makes them, to the devices."""
  return jax.device_put(tree, _layout()[1])


@functools.cache
def _layout() -> tuple[list[jax.Device], jax.sharding.NamedSharding]:
  """The local devices, and how `pmap` takes arrays: the leading axis has an entry on each of them."""
  devices = jax.local_devices()
  mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
  return devices, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))


def fetch(tree: PyTree) -> PyTree:
  """Copies replicated device arrays back: NumPy arrays of one replica, in one transfer."""
  # A copy, not a view: the buffer of an array with a view cannot be donated.
  return jax.tree.map(lambda x: np.array(x[0]), _first_replica(tree))


def _first_replica(tree: PyTree) -> PyTree:
  """Host arrays [1, ...] of the first local device; all transfers begin before the first is waited for."""
  return jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), tree))


def shard(array: np.ndarray, axis: int) -> np.ndarray:
  """The calling process's part of an array whose axis is divided over all devices.

  Args:
    array: [..., B, ...] with B = global batch size at `axis`.
    axis: which axis is the batch.

  Returns:
    [local devices, ..., B / devices, ...].
  """
  devices, local = jax.device_count(), jax.local_device_count()
  split = (*array.shape[:axis], devices, array.shape[axis] // devices, *array.shape[axis + 1 :])
  parts = np.moveaxis(array.reshape(split), axis, 0)
  first = jax.process_index() * local
  return parts[first : first + local]


def sum_over_devices(tree: PyTree) -> PyTree:
  """Within a mapped function: the sum over all devices of all processes."""
  return jax.lax.psum(tree, AXIS)


def device_index() -> jax.Array:
  """Within a mapped function: the number of this device among all devices of all processes."""
  alone = jax.lax.axis_size(AXIS) == 1
  return jnp.int32(0) if alone else jax.lax.axis_index(AXIS)


def gather_batch(tree: PyTree, axis: int = 0) -> PyTree:
  """Within a mapped function: the global batch, in order, from every device's part."""
  return jax.lax.all_gather(tree, AXIS, axis=axis, tiled=True)


def one_dispatch_an_epoch(convolutional: bool) -> bool:
  """Whether an epoch is one program with the steps as a loop inside, or a dispatch for each step.

  One program wherever possible. XLA's CPU backend runs convolutions inside a loop slower than outside one: a
  training step takes 25 times as long with its own filter gradient, and 2.6 times with that of
  `kd_jax.models.convolution`. So convolutional models take a dispatch a step there.
  """
  return not (convolutional and jax.default_backend() == "cpu")


def map_over_devices(function: Callable, *, donate_argnums: tuple[int, ...] = ()) -> Callable:
  """Maps a function over the leading axis of its arguments, one entry for each local device: `pmap`.

  The function may use collectives over `AXIS`. On a single CPU device the map is a `vmap` over one entry: the
  same program without pmap's execution path, which runs the convolutions of a ResNet-8 step in twice the
  processor time there, on one thread (0.62 s against 0.33 s).
  """
  if jax.default_backend() == "cpu" and jax.device_count() == 1:

    def map_one(*arguments):
      # Not mapped over the one entry: a map would compute both sides of every branch on a value.
      entries = [jax.tree.map(lambda x: x[0], argument) for argument in arguments]
      alone = jax.vmap(function, in_axes=None, out_axes=None, axis_name=AXIS, axis_size=1)
      return jax.tree.map(lambda x: jnp.asarray(x)[None], alone(*entries))

    return jax.jit(map_one, donate_argnums=donate_argnums)
  return jax.pmap(function, axis_name=AXIS, donate_argnums=donate_argnums)


Pieces = list[PyTree]
"""The outputs of some steps, on the devices: [local devices, steps, ...] each; `collect` joins them."""


def epoch_runner(
  step: Callable[[Any, Any, Any], tuple[Any, Any]], *, one_dispatch: bool, donate: bool
) -> Callable[[Any, Any, Any], tuple[Any, Pieces]]:
  """Runs a step over many batches, on all devices.

  Nothing is waited for: the host gives the devices all steps, and `collect` reads their outputs at the end.

  Args:
    step: (carry, constants, batch) -> (carry, outputs); outputs are equal on all devices.
    one_dispatch: see `one_dispatch_an_epoch`.
    donate: whether the carry's buffers may be reused.

  Returns:
    A function of (replicated carry, replicated constants, batches [local devices, steps, ...]) that gives the
    carry, still replicated, and the outputs, still on the devices. It is compiled for each number of steps.
  """
  donated = (0,) if donate else ()
  if one_dispatch:

    def scan(carry, constants, batches):
      return jax.lax.scan(lambda c, batch: step(c, constants, batch), carry, batches)

    mapped = map_over_devices(scan, donate_argnums=donated)

    def run_at_once(carry, constants, batches):
      carry, outputs = mapped(carry, constants, spread(batches))
      return carry, [_waited_for(outputs)]

    return run_at_once

  def take_step(carry, place, constants, batches):
    batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, place, keepdims=False), batches)
    carry, outputs = step(carry, constants, batch)
    return carry, place + 1, jax.tree.map(lambda x: x[None], outputs)

  mapped = map_over_devices(take_step, donate_argnums=donated)

  def run_by_step(carry, constants, batches):
    pieces = []
    # The devices count the steps themselves, so that a dispatch is all that the host does for one.
    place = np.zeros(jax.local_device_count(), np.int32)
    place, held = spread((place, batches))
    for _ in range(jax.tree.leaves(batches)[0].shape[1]):
      carry, place, outputs = mapped(carry, place, constants, held)
      pieces.append(_waited_for(outputs))
    return carry, pieces

  return run_by_step


def map_batches(
  function: Callable[[Any, Any], Any], *, one_dispatch: bool
) -> Callable[[Any, Any], Pieces]:
  """Runs a function over many batches, on all devices: `epoch_runner` for work without a carry.

  Args:
    function: (constants, batch) -> outputs, equal on all devices.
    one_dispatch: see `one_dispatch_an_epoch`.

  Returns:
    A function of (replicated constants, batches [local devices, steps, ...]) that gives the outputs, still on
    the devices.
  """

  def step(nothing, constants, batch):
    return nothing, function(constants, batch)

  run = epoch_runner(step, one_dispatch=one_dispatch, donate=False)
  return lambda constants, batches: run((), constants, batches)[1]


def _waited_for(outputs: PyTree) -> PyTree:
  """The same outputs; several devices of a CPU have finished them.

  Such devices share a pool of threads, and each keeps one while it waits for the others in a reduction: if many
  steps are queued, those that wait can take all threads, and none is left for the device that they wait for.
  """
  if jax.default_backend() == "cpu" and jax.device_count() > 1:
    jax.block_until_ready(outputs)
  return outputs


def collect(pieces: Pieces) -> PyTree:
  """Reads the outputs of all steps from the devices: [steps, ...] NumPy arrays, in one transfer."""
  held = _first_replica(pieces)
  return jax.tree.map(lambda *parts: np.concatenate([part[0] for part in parts]), *held)
