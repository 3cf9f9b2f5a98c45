"""One step against NumPy, and the parts it is made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import parallel, recipes
from kd_jax._reading import DeviceData, StepBatch
from kd_jax.data import augment_batch
from kd_jax.recipes import Term
from kd_jax.teachers.sources import cached_teacher, live_teacher
from kd_jax.training import objective as objectives
from kd_jax.training.step import Program, step_of_seeds
from kd_jax.types import Batch, Outputs
from tests import oracles, training
from tests.training import CLASSES, OPTIMIZER, TASK


@pytest.mark.parametrize("per_epoch", [1, 2, 3, 7, 39, 41, 47, 49, 55, 61, 97, 103, 195, 390, 391])
def test_epochs_are_exact_where_they_begin(per_epoch):
  """Under jit and with an axis of seeds, where XLA multiplies by a rounded reciprocal."""
  epochs = np.arange(300)
  first = epochs * per_epoch
  at = jax.jit(jax.vmap(lambda step: objectives.epoch_at(step, per_epoch)))
  np.testing.assert_array_equal(at(first), epochs)
  last = at(first + per_epoch - 1)
  assert np.all(np.floor(last) == epochs)
  np.testing.assert_allclose(last, epochs + (per_epoch - 1) / per_epoch, rtol=1e-6)


def test_half_an_epoch():
  assert float(objectives.epoch_at(25, 10)) == 2.5


def test_the_objective_is_divided_by_the_size_of_the_whole_batch():
  """Masks that leave unequal shares to the devices, and terms of other shapes than [B].

  Masked rows add nothing and count: an example weighs the same in a batch that is not full.
  """
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((2, 4, CLASSES)).astype(np.float32)
  labels = rng.integers(0, CLASSES, (2, 4))
  mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.float32)
  terms = (
    Term(
      "rows",
      lambda logits, factor: factor * logits[:, 0],
      ("student.logits",),
      {"factor": lambda epoch: epoch + 1},
      weight=2.0,
    ),
    Term(
      "table",
      lambda logits: logits[1:] ** 2,
      ("student.logits",),
      weight=lambda epoch: 3 * epoch,
    ),
  )

  def shares(logits, labels, mask):
    batch = Batch(logits, labels, mask)
    return objectives.objective(terms, Outputs(logits), Outputs(), batch, jnp.float32(0.5))

  loss, parts = jax.vmap(shares, axis_name=parallel.AXIS)(logits, labels, mask)
  rows = 1.5 * logits[..., 0][mask > 0].sum() / mask.size
  table = np.mean(logits[:, 1:] ** 2)
  np.testing.assert_allclose(parts["rows"].sum(), rows, rtol=1e-6)
  np.testing.assert_allclose(parts["table"].sum(), table, rtol=1e-6)
  np.testing.assert_allclose(loss.sum(), 2 * rows + 1.5 * table, rtol=1e-6)


def test_cached_outputs_are_those_of_the_example_and_the_view():
  arrays = Outputs(np.arange(4 * 3 * 2.0).reshape(4, 3, 2), (np.arange(12).reshape(4, 3),))
  (kept,) = cached_teacher(arrays)
  found = jax.tree.map(jnp.asarray, kept).outputs(jnp.array([2, 0]), None, 1)
  assert found.logits.tolist() == [[14, 15], [2, 3]]
  assert found.layers[0].tolist() == [7, 1]


def test_cached_outputs_equal_the_live_teacher():
  (cached,) = cached_teacher(training.teacher_outputs())
  live = live_teacher(*training.teacher_network())
  rows = np.array([5, 0, 23])
  for view in range(TASK.views):
    inputs = augment_batch(TASK.augmentation, TASK.train.images[rows], TASK.train.keys[rows], view)
    np.testing.assert_allclose(
      cached.outputs(rows, inputs, view).logits,
      live.outputs(rows, inputs, view).logits,
      rtol=1e-5,
      atol=1e-6,
    )


def linear_model_by_hand(variables, teacher_logits, rows_of_steps, per_epoch, learning_rate):
  """Annealing regression and cross-entropy on multinomial regression, by SGD with momentum.

  loss = mean_b [ 0.5 CE(y, z) + w(epoch) ||z - Phi(T) z_t||² ], z = x W + b, in float64.
  """
  weight = np.asarray(variables["params"]["linear"]["kernel"], np.float64)
  bias = np.asarray(variables["params"]["linear"]["bias"], np.float64)
  buffers, records = (0.0, 0.0), []
  for step, rows in enumerate(rows_of_steps):
    epoch = step / per_epoch
    regression_weight = 0.3 * (1 - epoch / 2)
    factor = oracles.annealing_factor(2 if epoch < 1 else 1, 2)
    x = TASK.train.images[rows].reshape(len(rows), -1) / 255 - 0.5
    z = x @ weight + bias
    labels = TASK.train.labels[rows]
    p = np.array([oracles.softmax(row) for row in z])
    hot = np.eye(CLASSES)[labels]
    distance = z - factor * teacher_logits[rows]
    by_z = (0.5 * (p - hot) + regression_weight * 2 * distance) / len(rows)
    gradients = (x.T @ by_z, by_z.sum(axis=0))
    cross_entropy = -np.mean(np.log(np.sum(p * hot, axis=1)))
    squares = np.mean(np.sum(distance**2, axis=1))
    records.append(
      {
        "loss": 0.5 * cross_entropy + regression_weight * squares,
        "terms": {"labels": cross_entropy, "regression": squares},
        "metrics": {"accuracy": (np.sum(np.argmax(z, axis=1) == labels), len(rows))},
        "gradient_norm": np.sqrt(sum(np.sum(g**2) for g in gradients)),
      }
    )
    # PyTorch's SGD: weight decay joins the gradient, the buffer starts as the first of them.
    decayed = [g + 0.01 * v for g, v in zip(gradients, (weight, bias), strict=True)]
    buffers = [0.9 * b + d for b, d in zip(buffers, decayed, strict=True)]
    weight, bias = weight - learning_rate * buffers[0], bias - learning_rate * buffers[1]
  return {"linear": {"kernel": weight, "bias": bias}}, records


@pytest.mark.parametrize("one_dispatch", [True, False])
def test_steps_of_a_linear_model_equal_numpy(one_dispatch):
  """Four steps, two epochs, eight devices, two seeds."""
  model, seeds, per_epoch = training.mlp(), (3, 5), 2
  teacher_logits = np.random.default_rng(1).standard_normal((24, CLASSES)).astype(np.float32)
  terms = (
    Term("labels", kd_jax.hard_label_loss, ("student.logits", "batch.labels"), weight=0.5),
    Term(
      "regression",
      kd_jax.annealing_kd_loss,
      ("student.logits", "teacher.logits"),
      {"temperature": recipes.annealing_by_epoch(2, 2), "max_temperature": 2},
      weight=lambda epoch: 0.3 * (1 - epoch / 2),
    ),
  )
  (teacher,) = cached_teacher(Outputs(teacher_logits[:, None]))
  program = Program(model, terms, OPTIMIZER, total_steps=4, steps_per_epoch=per_epoch)
  step = functools.partial(step_of_seeds, program)
  rng = np.random.default_rng(2)
  rows = np.stack([np.stack([rng.permutation(24)[:16] for _ in seeds]) for _ in range(4)])
  state = training.init_variables(model, TASK.train.images[:1], seeds)
  (bucket,) = TASK.train.buckets
  numbers = np.asarray(seeds, np.uint32), np.int32(0)
  data = DeviceData(bucket.inputs, bucket.labels, bucket.keys, teacher, *numbers)
  run = parallel.epoch_runner(step, one_dispatch=one_dispatch, donate=True)
  carry, results = run(
    parallel.replicate(training.start_phase(state, OPTIMIZER.build(4)).train),
    parallel.replicate(data),
    StepBatch(parallel.shard(rows.astype(np.int32), axis=2)),
  )
  after, results = parallel.fetch(carry), parallel.collect(results)
  assert after.step.tolist() == [4, 4]
  for seed in range(2):
    params, records = linear_model_by_hand(
      training.one_seed(state, seed), teacher_logits, rows[:, seed], per_epoch, 0.1
    )
    training.assert_close(training.one_seed(after.variables["params"], seed), params, 2e-5)
    for number, record in enumerate(records):
      found = jax.tree.map(lambda x, n=number, s=seed: x[n, s], results)
      training.assert_close(found._asdict(), record, 2e-5)


def test_a_temperature_falls_with_the_first_step_of_an_epoch():
  """As training sees it: under jit, with an axis of seeds."""
  for length in (3, 41, 47, 55, 82, 97):
    temperature = recipes.annealing_by_epoch(10, 10 * length)
    at = jax.jit(jax.vmap(temperature))
    found = at(jnp.arange(10 * length, dtype=jnp.float32))
    np.testing.assert_array_equal(found, np.repeat(np.arange(10, 0, -1), length))
