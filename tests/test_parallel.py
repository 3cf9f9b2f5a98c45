"""Batches over devices, and training on one, two and eight devices."""

import os
import pathlib
import subprocess
import sys
import tracemalloc

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import _programs as programs, parallel, recipes
from kd_jax.data import Augmentation, Dataset
from kd_jax.models.spec import ModelSpec, build_model
from kd_jax.recipes import Budget
from kd_jax.teachers.sources import cached_teacher
from kd_jax.training.loop import Task
from kd_jax.types import Outputs
from tests import training
from tests.training import sentences

ROOT = pathlib.Path(__file__).resolve().parent.parent


# Training on several numbers of devices, each in a process of its own.


def coloured(size, split, side):
  rng = np.random.default_rng((size, side))
  return Dataset(
    name="fake",
    version="1.0.0",
    split=split,
    images=rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8),
    labels=rng.integers(0, 3, size),
    keys=None,
    ids=np.array([f"{split}_{row}" for row in range(size)]),
    num_classes=3,
  )


class Normalised(nn.Module):
  """A dense network with batch statistics: quick to compile, unlike a convolutional one."""

  @nn.compact
  def __call__(self, images, train=False):
    x = images.reshape(images.shape[0], -1) / 255.0
    axis_name = parallel.AXIS if train else None
    x = nn.BatchNorm(use_running_average=not train, axis_name=axis_name)(nn.Dense(8)(x))
    return Outputs(nn.Dense(3)(nn.relu(x)))


def train_briefly(model, side, **settings):
  """Two epochs of phase I: {name: array} of all weights and statistics, and of what was logged."""
  task = Task(
    model=model,
    train=coloured(16, "train", side),
    validation=coloured(5, "validation", side),
    augmentation=Augmentation("pad_crop_flip", pad=1),
    views=2,
    **settings,
  )
  teacher_logits = np.random.default_rng(1).standard_normal((16, 2, 3)).astype(np.float32)
  budget = Budget(4, training.OPTIMIZER)
  anneal = recipes.annealing_kd(recipes.Classes(3), budget, max_temperature=2).phases[0]
  reports = training.train(task, anneal, cached_teacher(Outputs(teacher_logits)))
  return arrays_of(reports, "train_accuracy", "validation_accuracy")


def train_on_sentences():
  """Two epochs of a tagger without dropout on two buckets, the last batches not full; as `train_briefly`."""
  task = sentences.task("LinearChain", seeds=(0, 1))
  method = recipes.structural_kd(recipes.Structures(), Budget(2, training.OPTIMIZER))
  teacher = sentences.cached("LinearChain", task.train)
  return arrays_of(training.train(task, method.phases[0], teacher), "validation_f1")


def arrays_of(reports, *metrics):
  """{name: array} of all weights and statistics, and of what was logged."""
  leaves = jax.tree_util.tree_leaves_with_path(reports[-1].state.train.variables)
  arrays = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
  records = [report.record.to_json() for report in reports]
  for name in ("train_loss", "gradient_norm", *metrics):
    arrays[name] = np.array([record[name] for record in records])
  return arrays


def worker(path):
  """Trains on the devices that the process has, and saves the results."""
  resnet = build_model(ModelSpec(family="resnet", depth=8), 3, parallel.AXIS)
  dense = {"seeds": (0, 1, 2), "one_dispatch": True, "batch_size": 8}
  results = {
    "dense": train_briefly(Normalised(), 4, **dense),
    "resnet": train_briefly(resnet, 32, seeds=(0,), one_dispatch=False, batch_size=16),
    "sentences": train_on_sentences(),
  }
  if jax.device_count() == 1:
    programs.forget()
    parallel.map_over_devices = lambda function, *, donate_argnums=(): jax.pmap(
      function, axis_name=parallel.AXIS, donate_argnums=donate_argnums
    )
    results["by pmap"] = train_briefly(Normalised(), 4, **dense)
  flat = {f"{run}:{name}": x for run, arrays in results.items() for name, x in arrays.items()}
  np.savez(path, devices=jax.device_count(), **flat)


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory):
  """{number of devices: {run: {name: array}}}."""
  folder, processes = tmp_path_factory.mktemp("devices"), {}
  for count in (1, 2, 8):
    environment = os.environ | {
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    code = f"from tests.test_parallel import worker; worker({str(folder / str(count))!r})"
    processes[count] = subprocess.Popen(
      [sys.executable, "-c", code],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
  results = {}
  for count, process in processes.items():
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    with np.load(folder / f"{count}.npz") as arrays:
      assert arrays["devices"] == count
      runs = results[count] = {}
      for key in set(arrays) - {"devices"}:
        run, name = key.split(":")
        runs.setdefault(run, {})[name] = arrays[key]
  return results


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize(
  ("run", "tolerance"), [("dense", 1e-5), ("resnet", 1e-5), ("sentences", 1e-5)]
)
def test_training_is_the_same_on_any_number_of_devices(on_devices, run, count, tolerance):
  """Weights, BatchNorm statistics and metrics; sums over devices round in another order."""
  expected, found = on_devices[1][run], on_devices[count][run]
  assert found.keys() == expected.keys()
  assert any("batch_stats" in name for name in found) == (run != "sentences")
  for name, values in expected.items():
    np.testing.assert_allclose(
      found[name], values, rtol=tolerance, atol=tolerance, err_msg=f"{name} on {count} devices"
    )


@pytest.mark.slow
def test_the_map_over_a_single_device_equals_pmap(on_devices):
  plain, by_pmap = on_devices[1]["dense"], on_devices[1]["by pmap"]
  assert plain.keys() == by_pmap.keys()
  for name, values in plain.items():
    np.testing.assert_allclose(by_pmap[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


# Batches.


@pytest.mark.parametrize("size", [8, 16, 800])
def test_batches_that_divide(size):
  assert parallel.device_batch_size(size) == size // 8


@pytest.mark.parametrize(
  ("size", "message"),
  [
    (12, "batch of 12 does not divide over 8 devices: 8 or 16 would"),
    (129, "batch of 129 does not divide over 8 devices: 128 or 136 would"),
    (7, "batch of 7 does not divide over 8 devices: 8 would"),
    (0, "batch of 0 does not divide over 8 devices: 8 would"),
    (-8, "batch of -8 does not divide over 8 devices: 8 would"),
  ],
)
def test_batches_that_do_not_divide_name_those_that_would(size, message):
  with pytest.raises(ValueError, match=message):
    parallel.device_batch_size(size)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_device_gets_its_contiguous_part(axis):
  array = np.arange(16 * 16 * 16).reshape(16, 16, 16)
  parts = parallel.shard(array, axis)
  assert len(parts) == 8
  np.testing.assert_array_equal(np.concatenate(parts, axis=axis), array)
  first = [slice(None)] * 3
  first[axis] = slice(0, 2)
  np.testing.assert_array_equal(parts[0], array[tuple(first)])


def test_replicas_come_back_as_they_went():
  tree = {"a": np.arange(3.0, dtype=np.float32), "b": (np.int32(4),)}
  copies = parallel.replicate(tree)
  assert copies["a"].shape == (8, 3)
  assert len(copies["a"].devices()) == 8
  back = parallel.fetch(copies)
  assert isinstance(back["a"], np.ndarray)
  training.assert_same_bits(back, tree)


def test_a_replica_on_each_device_costs_the_host_no_copy_for_each():
  array = np.ones(1_000_000, np.float32)
  tracemalloc.start()
  try:
    jax.block_until_ready(parallel.replicate(array))
    assert tracemalloc.get_traced_memory()[1] < array.nbytes
  finally:
    tracemalloc.stop()


def test_what_was_fetched_does_not_keep_its_buffer_from_being_donated():
  held = parallel.replicate(np.arange(4.0, dtype=np.float32))
  before = parallel.fetch(held)
  add = parallel.map_over_devices(lambda x: x + 1, donate_argnums=(0,))
  after = parallel.fetch(add(held))
  assert held.is_deleted()
  assert (before.tolist(), after.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 4])


def test_parts_go_to_their_devices():
  parts = np.arange(24).reshape(8, 3)
  held = parallel.spread({"a": parts})["a"]
  np.testing.assert_array_equal(held, parts)
  assert held.sharding == parallel.replicate(np.arange(3)).sharding
  assert [s.data.tolist() for s in held.addressable_shards] == [[row] for row in parts.tolist()]


def test_sums_and_gathering_over_devices():
  values = np.arange(16.0, dtype=np.float32).reshape(8, 2)
  total, gathered = parallel.map_over_devices(
    lambda x: (parallel.sum_over_devices(x), parallel.gather_batch(x))
  )(values)
  np.testing.assert_array_equal(total, np.broadcast_to(values.sum(axis=0), (8, 2)))
  np.testing.assert_array_equal(gathered, np.broadcast_to(values.reshape(-1), (8, 16)))


@pytest.mark.parametrize("one_dispatch", [True, False])
def test_an_epoch_runs_the_steps_in_order(one_dispatch):
  """carry <- 2 carry + the sum of the batch over devices; outputs are stacked over steps."""

  def step(carry, constant, batch):
    carry = 2 * carry + parallel.sum_over_devices(batch.sum()) + constant
    return carry, {"carry": carry, "twice": 2 * carry}

  batches = np.random.default_rng(0).integers(0, 9, (8, 5, 3)).astype(np.int32)
  run = parallel.epoch_runner(step, one_dispatch=one_dispatch, donate=False)
  carry, pieces = run(jnp.ones(8, jnp.int32), jnp.full(8, 7, jnp.int32), batches)
  outputs = parallel.collect(pieces)
  value, expected = 1, []
  for index in range(5):
    value = 2 * value + batches[:, index].sum() + 7
    expected.append(value)
  assert carry.tolist() == [value] * 8
  assert outputs["carry"].tolist() == expected
  assert outputs["twice"].tolist() == [2 * v for v in expected]
  assert isinstance(outputs["carry"], np.ndarray)


@pytest.mark.parametrize("one_dispatch", [True, False])
def test_batches_without_a_carry_give_their_outputs_in_order(one_dispatch):
  batches = np.random.default_rng(0).integers(0, 9, (8, 5, 3)).astype(np.int32)
  run = parallel.map_batches(
    lambda constant, batch: parallel.sum_over_devices(batch.sum()) + constant,
    one_dispatch=one_dispatch,
  )
  outputs = parallel.collect(run(jnp.full(8, 7, jnp.int32), batches))
  assert outputs.tolist() == [batches[:, index].sum() + 7 for index in range(5)]


def test_convolutions_on_cpu_take_a_dispatch_a_step(monkeypatch):
  assert not parallel.one_dispatch_an_epoch(convolutional=True)
  assert parallel.one_dispatch_an_epoch(convolutional=False)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert parallel.one_dispatch_an_epoch(convolutional=True)
