"""Small data, networks and a teacher for the tests of training."""

import dataclasses

import jax
import numpy as np

from kd_jax import parallel
from kd_jax.data import Augmentation, Dataset, augment_batch
from kd_jax.models.spec import ModelSpec, build_model
from kd_jax.optimizers import Optimizer
from kd_jax.training.loop import Task, train_phase
from kd_jax.training.state import init_variables, one_seed, start_phase
from kd_jax.types import Outputs

CLASSES = 3
OPTIMIZER = Optimizer(learning_rate=0.1, decay="constant", weight_decay=0.01)


def dataset(size, split="train", side=4, seed=0):
  rng = np.random.default_rng((size, side, seed))
  return Dataset(
    name="fake",
    version="1.0.0",
    split=split,
    images=rng.integers(0, 256, (size, side, side, 1)).astype(np.uint8),
    labels=rng.integers(0, CLASSES, size),
    keys=None,
    ids=np.array([f"{split}_{row}" for row in range(size)]),
    num_classes=CLASSES,
  )


def mlp(*hidden):
  return build_model(ModelSpec(hidden=hidden, pixel_mean=(0.5,)), CLASSES, parallel.AXIS)


TASK = Task(
  model=mlp(8),
  train=dataset(24),
  validation=dataset(10, "validation"),
  augmentation=Augmentation("pad_crop_flip", pad=1),
  views=2,
  batch_size=8,
  seeds=(3, 5),
  one_dispatch=True,
)


def teacher_network(task=TASK):
  """A network that nobody trained: (model, variables)."""
  model = mlp(6)
  return model, one_seed(init_variables(model, task.train.images[:1], [99]), 0)


def teacher_outputs(task=TASK):
  """Its outputs for each example and view, [N, V, C]: what a cache holds."""
  model, variables = teacher_network(task)
  apply = jax.jit(lambda inputs: model.apply(variables, inputs, train=False).logits)
  views = [
    augment_batch(task.augmentation, task.train.images, task.train.keys, view)
    for view in range(task.views)
  ]
  return Outputs(np.stack([np.asarray(apply(images)) for images in views], axis=1))


def fresh(task, phase):
  variables = init_variables(task.model, task.example, task.seeds)
  return start_phase(variables, phase.optimizer.build(phase.epochs * task.steps_per_epoch))


def train(task, phase, *arguments, state=None, **options):
  """All reports of a phase, from fresh weights unless a state is given."""
  state = fresh(task, phase) if state is None else state
  return list(train_phase(task, phase, state, *arguments, **options))


def changed(task=TASK, **changes):
  return dataclasses.replace(task, **changes)


def assert_same_bits(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual, expected, tolerance=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), actual, expected
  )
