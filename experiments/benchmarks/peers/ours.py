"""Our side of each pair: the library's own training loop and predictors, as the command lines run them."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

from kd_jax import parallel, recipes
from kd_jax.data.augmentation import Augmentation
from kd_jax.data.dataset import Dataset
from kd_jax.data.texts import TextDataset
from kd_jax.models.hf_weights import save_bert
from kd_jax.models.safetensors_files import flatten, write_safetensors
from kd_jax.models.spec import ModelSpec, build_model, is_convolutional
from kd_jax.models.text_spec import TextSpec, build_text_model
from kd_jax.models.weights import save_torch_cifar_resnet
from kd_jax.optimizers import Optimizer
from kd_jax.recipes.parts import Budget, Phase
from kd_jax.teachers import predicting
from kd_jax.teachers.sources import Teacher, cached_teacher, live_teacher
from kd_jax.training.batches import plan_epoch
from kd_jax.training.loop import Task, begin_phase, fresh_variables, train_phase
from kd_jax.training.state import init_variables, one_seed
from kd_jax.types import Outputs, PyTree, Subwords

from ...command_line import console
from ...command_line.options import Where
from .. import bench, structures_timing
from ..structures_problems import PROBLEMS
from . import cases
from .cases import Job, Measurement


def start() -> None:
  """Prepares the process as every command line does."""
  console.start(Where())


def facts(job: Job) -> dict[str, Any]:
  device = jax.devices()[0]
  versions = {module.__name__: module.__version__ for module in (jax, flax, np)}
  named = dict.fromkeys((device.platform, device.device_kind))
  return {"device": ", ".join(named), "versions": versions}


def measurements(job: Job) -> Iterator[Measurement]:
  """One measurement after another of a case; the first compiles and leaves weights for the other side."""
  return _KINDS[job.kind](job)


def _images(job: Job) -> Iterator[Measurement]:
  pixels = {"pixel_mean": cases.PIXEL_MEAN, "pixel_std": cases.PIXEL_STD}
  student = ModelSpec("resnet", depth=job.sizes["depth"], **pixels)
  task, logits = _image_task(job, student, seeds=(0,))
  if job.sizes["live"]:
    model, variables = _resnet(job.sizes["teacher"], task.train)
    save_torch_cifar_resnet(variables, Path(job.folder) / "teacher.safetensors")
    teacher = live_teacher(model, variables)
  else:
    teacher = cached_teacher(Outputs(logits=logits[:, None]))

  def save(variables: PyTree) -> None:
    save_torch_cifar_resnet(one_seed(variables, 0), Path(job.folder) / "student.safetensors")

  return _train(job, task, _anneal(job), teacher, save)


def _seeds(job: Job) -> Iterator[Measurement]:
  student = ModelSpec("mlp", hidden=(job.sizes["hidden"],))
  task, logits = _image_task(job, student, tuple(range(job.sizes["seeds"])), depth=1)
  teacher = cached_teacher(Outputs(logits=logits[:, None]))
  return _train(job, task, _anneal(job), teacher, lambda variables: _save_flat(job, variables))


def _image_task(job: Job, spec: ModelSpec, seeds: tuple[int, ...], depth: int = 3):
  batch = job.sizes["batch"]
  images, labels, logits = cases.draw_images(job.sizes, job.steps * batch, depth)
  train = Dataset.from_arrays(images, labels, num_classes=cases.CLASSES)
  task = Task(
    model=build_model(spec, cases.CLASSES, axis_name=parallel.AXIS),
    train=train,
    validation=train.take(np.arange(batch)),
    batch_size=batch,
    seeds=seeds,
    one_dispatch=parallel.one_dispatch_an_epoch(is_convolutional(spec)),
  )
  return task, logits


def _anneal(job: Job) -> Phase:
  optimizer = Optimizer("sgd", decay="constant", **cases.SGD)
  budget, target = Budget(2 * job.epochs, optimizer), recipes.Classes(cases.CLASSES)
  return recipes.annealing_kd(target, budget, max_temperature=cases.MAX_TEMPERATURE).phases[0]


def _resnet(depth: int, dataset: Dataset):
  spec = ModelSpec("resnet", depth=depth, pixel_mean=cases.PIXEL_MEAN, pixel_std=cases.PIXEL_STD)
  model = build_model(spec, cases.CLASSES)
  return model, bench.teacher_variables(model, dataset.images)


def _texts(job: Job) -> Iterator[Measurement]:
  train, logits = _text_data(job)
  batch = job.sizes["batch"]
  task = Task(
    model=_text_model(job),
    train=train,
    validation=train.take(np.arange(batch)),
    batch_size=batch,
    one_dispatch=parallel.one_dispatch_an_epoch(convolutional=False),
  )
  optimizer = Optimizer("adamw", decay="constant", **cases.ADAMW)
  (phase,) = recipes.kd(
    recipes.Classes(2),
    Budget(job.epochs, optimizer),
    temperature=cases.TEMPERATURE,
    soft_weight=cases.SOFT_WEIGHT,
  ).phases
  teacher = cached_teacher(Outputs(logits=logits[:, None]), train.buckets)
  return _train(job, task, phase, teacher, lambda variables: _save_text(job, task.model, variables))


def _text_data(job: Job):
  count = job.steps * job.sizes["batch"]
  ids, labels, logits = cases.draw_texts(job.sizes, count)
  subwords = Subwords(ids, np.zeros_like(ids), np.ones(ids.shape, bool))
  names = np.arange(count).astype(str)
  lengths = (job.sizes["length"],)
  train = TextDataset(
    *("random", "0", "train"),
    inputs=subwords,
    labels=labels,
    ids=names,
    num_classes=2,
    class_names=("0", "1"),
    bucket_lengths=lengths,
  )
  return train, logits


def _text_model(job: Job):
  fields = ("family", "layers", "width", "word_width", "heads", "hidden")
  given = {name: job.sizes[name] for name in fields if name in job.sizes}
  return build_text_model(
    TextSpec(dropout=0.0, **given), vocab_size=job.sizes["vocab"], num_outputs=2
  )


def _save_text(job: Job, model, variables: PyTree) -> None:
  if job.sizes["family"] == "bert":
    params = one_seed(variables, 0)["params"]
    save_bert(Path(job.folder) / "bert", params, model.encoder.config)
  else:
    _save_flat(job, one_seed(variables, 0))


def _save_flat(job: Job, variables: PyTree) -> None:
  """Parameters by their path, with slashes."""
  tensors = {"/".join(path): np.asarray(leaf) for path, leaf in flatten(variables["params"])}
  write_safetensors(Path(job.folder) / "student.safetensors", tensors, {})


def _train(
  job: Job, task: Task, phase: Phase, teacher: Teacher, save: Callable[[PyTree], None]
) -> Iterator[Measurement]:
  """An epoch of a phase is a measurement; its seconds are those that the loop itself reports."""
  fresh = fresh_variables(task)
  save(fresh)
  stretches = plan_epoch(task.train.buckets, task.seeds, 0, task.batch_size)
  rows = np.concatenate([task.train.buckets[s.bucket].rows[s.rows] for s in stretches])
  np.save(Path(job.folder) / "rows.npy", rows)
  for report in train_phase(task, phase, begin_phase(task, phase, fresh, None), teacher):
    yield Measurement(report.seconds / job.steps, float(np.mean(report.record.train_loss)))


def _image_outputs(job: Job) -> Iterator[Measurement]:
  images, labels, _ = cases.draw_images(job.sizes, job.steps * job.sizes["batch"])
  dataset = Dataset.from_arrays(images, labels, num_classes=cases.CLASSES)
  model, variables = _resnet(job.sizes["depth"], dataset)
  save_torch_cifar_resnet(variables, Path(job.folder) / "student.safetensors")
  return _predict(job, predicting.predictor(model, variables, dataset, Augmentation(name="none")))


def _text_outputs(job: Job) -> Iterator[Measurement]:
  dataset, _ = _text_data(job)
  model = _text_model(job)
  example = jax.tree.map(lambda x: x[:1], dataset.inputs)
  variables = init_variables(model, example, (0,))
  _save_text(job, model, variables)
  variables = one_seed(variables, 0)
  return _predict(job, predicting.fields_predictor(model, variables, dataset, ("logits",)))


def _predict(job: Job, predict: predicting.Predict) -> Iterator[Measurement]:
  while True:
    began = time.perf_counter()
    logits = predict(np.arange(job.steps * job.sizes["batch"]), 0, job.sizes["batch"])["logits"]
    seconds = time.perf_counter() - began
    yield Measurement(seconds / job.steps, float(np.mean(np.square(logits))))


def _structure(job: Job) -> Iterator[Measurement]:
  problem = PROBLEMS[job.sizes["problem"]]
  sizes = dict(problem.sizes) | job.sizes
  arrays = problem.arrays(np.random.default_rng(0), sizes["B"], sizes["n"])
  np.savez(Path(job.folder) / "arrays.npz", *arrays)
  run = structures_timing.make_runners(problem, {}, arrays)[cases.OURS]
  while True:
    began = time.perf_counter()
    for _ in range(cases.CALLS * job.steps):
      outputs = run()
    seconds = (time.perf_counter() - began) / (cases.CALLS * job.steps)
    yield Measurement(seconds, sum(float(np.mean(np.square(x))) for x in outputs))


_KINDS = {
  "images": _images,
  "seeds": _seeds,
  "texts": _texts,
  "image outputs": _image_outputs,
  "text outputs": _text_outputs,
  "structure": _structure,
}
