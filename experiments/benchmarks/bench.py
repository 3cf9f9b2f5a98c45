"""What the benchmarks run: a study's own networks, batches and phase, on images that need no preparation."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from kd_jax import data, parallel, recipes
from kd_jax.models.spec import build_model, is_convolutional
from kd_jax.training.loop import Task
from kd_jax.training.state import LoopState, init_variables, one_seed, start_phase
from kd_jax.types import PyTree

from ..command_line.options import Where, parse
from ..domains.image_study import ImageStudy

# Training examples with the held-out ones, shape, classes.
_SMALL, _COLOUR = (60000, (28, 28, 1), 10), (50000, (32, 32, 3))
_SHAPES = {"digits": (1437, (8, 8, 1), 10), "mnist": _SMALL, "fashion_mnist": _SMALL}
_SHAPES |= {"cifar10": (*_COLOUR, 10), "cifar100": (*_COLOUR, 100)}


@dataclasses.dataclass(frozen=True)
class Options:
  """Of the benchmark alone; the number of images is --train-limit, that of cached views is --views."""

  synthetic: bool = True
  """Random images of the data set's shape; otherwise the prepared data."""
  repeats: int = 5
  """Measurements of each kind, after one that warms up."""
  starts: int = 3
  """Fresh processes for the time to the first step, with an empty and a filled compile cache each."""
  out: Path | None = None
  """Where to write, by default experiments/results/benchmarks/CONFIG-DEVICE.json."""

  def __post_init__(self):
    if self.repeats < 1 or self.starts < 0:
      raise ValueError(f"repeats >= 1 and starts >= 0 expected: {self.repeats} and {self.starts}")


def read(argv: Sequence[str] | None) -> tuple[ImageStudy, Where, Options]:
  """The command line of both benchmarks.

  Raises:
    ValueError: as `experiments.command_line.options.parse`; a study of anything but images.
  """
  study, where, options = parse("benchmarks.training", argv, Options)
  if not isinstance(study, ImageStudy):
    raise ValueError(f"the benchmark measures studies of images, {study.name} is none")
  return study, where, options


def make_task(study: ImageStudy, where: Where, *, synthetic: bool) -> Task:
  """The students' task as a study has it, but validated on one batch, which is not measured."""
  if where.num_processes > 1:
    raise ValueError(f"the benchmark measures 1 process, got --num-processes {where.num_processes}")
  held_out, batch = study.validation_examples or study.batch_size, study.batch_size
  if synthetic:
    train = _random_images(study, study.train_limit or _SHAPES[study.dataset][0] - held_out)
    validation = _random_images(study, batch)
  else:
    found = data.load(
      study.dataset,
      data_dir=where.data_dir,
      validation_examples=held_out,
      limit=study.train_limit,
    )
    train, validation = found.train, found.validation.take(np.arange(batch))
  convolutional = is_convolutional(study.student)
  together = study.seeds_together or (1 if convolutional else len(study.seed_values))
  return Task(
    model=build_model(study.student, train.num_classes, axis_name=parallel.AXIS),
    train=train,
    validation=validation,
    augmentation=data.suited(study.augmentation, train.images.shape[1:3]),
    views=study.views,
    batch_size=batch,
    seeds=tuple(study.seed_values[:together]),
    one_dispatch=parallel.one_dispatch_an_epoch(convolutional),
  )


def _random_images(study: ImageStudy, count: int) -> data.Dataset:
  generator, (_, shape, classes) = np.random.default_rng(0), _SHAPES[study.dataset]
  images = generator.integers(0, 256, (count, *shape), np.uint8)
  labels, ids = generator.integers(0, classes, count), np.arange(count).astype(str)
  return data.Dataset(study.dataset, "synthetic", "train", images, labels, None, ids, classes)


def make_phase(study: ImageStudy, task: Task, epochs: int) -> tuple[recipes.Phase, LoopState]:
  """Phase I of Annealing-KD, cut or stretched to some epochs, and a fresh start of it."""
  phase = study.recipe("annealing_kd", recipes.Classes(task.train.num_classes)).phases[0]
  phase = dataclasses.replace(phase, epochs=epochs)
  variables = init_variables(task.model, task.train.images[:1], task.seeds)
  return phase, start_phase(variables, phase.optimizer.build(epochs * task.steps_per_epoch))


def teacher_variables(model, images: np.ndarray) -> PyTree:
  """Variables of an untrained teacher, which costs what a trained one does."""
  variables = one_seed(init_variables(model, images[:1], (0,)), 0)
  # Fresh running statistics normalise nothing: unscaled, a deep ResNet's activations would overflow.
  return jax.tree.map(lambda leaf: 0.1 * leaf, variables)
