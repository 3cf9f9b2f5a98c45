"""The data and the networks of a study of images."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from kd_jax import data as library
from kd_jax.checkpoints import digest_file
from kd_jax.data.labelled import hide_labels, labelled_part, num_labelled
from kd_jax.data.splits import balanced_rows
from kd_jax.losses.top_k import top_k_targets
from kd_jax.models import weights
from kd_jax.models.spec import ModelSpec, build_model, model_name
from kd_jax.recipes import Recipe
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.training import cached_teacher
from kd_jax.training.evaluation import CLASSIFICATION
from kd_jax.types import Batch, Outputs, PyTree

from . import tracing
from .classes import target_of
from .domain import CachePlan, Data, Domain, Header, Networks, ReadyTeacher
from .image_study import ImageStudy
from .links import Link, LinkKind
from .study import plain

_HELD_OUT = 200
"""Validation images of a known data set, if their number is left open."""


def open_images(study: ImageStudy, data_dir: Path | None) -> Domain[ModelSpec]:
  """Loads the data.

  Raises:
    ValueError: data that are not prepared, sizes that do not fit.
  """
  data = _read(study, data_dir)

  def build(spec: ModelSpec, axis_name: str | None = None) -> nn.Module:
    return build_model(spec, data.num_classes, axis_name=axis_name)

  batch, teacher = tracing.batch_of_two(data.train), _teacher_spec(study)

  @functools.cache
  def returns(spec: ModelSpec) -> Outputs:
    return tracing.abstract_outputs(build(spec), batch.inputs)

  networks = Networks(
    teacher=teacher,
    student=study.student,
    build=build,
    label=model_name,
    assistant=lambda: study.assistant,
    ready_teacher=functools.partial(_ready_teacher, study, data.num_classes),
    teacher_widths=tracing.layer_widths(returns(teacher)),
  )
  return Domain(
    data=data,
    networks=networks,
    evaluation=CLASSIFICATION,
    cache_plan=functools.partial(_cache_plan, study, data),
    header=_header(study, data),
    check=functools.partial(_check, study, data, batch, returns),
    doubt=functools.partial(_doubt, data.num_classes),
  )


def _read(study: ImageStudy, data_dir: Path | None) -> Data[library.Dataset]:
  own = {
    "files": [str(path.expanduser().absolute()) for path in study.files],
    "image_size": study.image_size,
    "colour": study.colour,
    "skip_malformed": study.skip_malformed,
  }
  source = {
    "kind": "images",
    "name": study.dataset,
    "validation_examples": study.validation_examples,
    "limit": study.train_limit,
    "unlabelled_share": study.unlabelled_share,
    "student_limit": study.student_limit,
  } | (own if study.files else {})
  loaded = _load(source, data_dir)
  train, validation, test = loaded.splits
  teacher_train = loaded.of_teacher
  if study.cache_top_k is not None and not 1 <= study.cache_top_k < train.num_classes:
    raise ValueError(
      f"cache_top_k must be at least 1 and below {train.num_classes}, got {study.cache_top_k}"
    )
  notes = list(loaded.notes)
  augmentation = library.suited(study.augmentation, train.images.shape[1:3], loaded.class_names)
  if study.augmentation.flip is None and augmentation.flip is False:
    notes.append("images are not mirrored, since every class is called by one character")
  if study.unlabelled_share and study.teacher_weights is not None:
    notes.append("the imported teacher may have learnt from labels that are hidden here")
  if teacher_train is not None and study.teacher_weights is None:
    notes.append(
      f"the teacher learns from {num_labelled(teacher_train):,} training images, students from "
      f"{len(train):,} of all {len(teacher_train):,}"
    )
  return Data(
    train=train,
    validation=validation,
    test=test,
    target=target_of(
      labelled_part(train).labels,
      train.num_classes,
      top_k=None if study.live_teacher else study.cache_top_k,
      label_smoothing=study.label_smoothing,
      class_weights=study.class_weights,
    ),
    num_classes=train.num_classes,
    source=source,
    settings={"augmentation": library.describe(augmentation)},
    kept={"image_shape": list(train.images.shape[1:])}
    | ({"class_names": list(loaded.class_names)} if loaded.class_names else {}),
    notes=notes,
    teacher_train=teacher_train,
    augmentation=augmentation,
    views=study.views,
    # Without a teacher there is no cache to keep small: every view of the augmentation is seen.
    teacher_views=library.num_distinct_views(augmentation),
  )


def _check(
  study: ImageStudy,
  data: Data[library.Dataset],
  batch: Batch,
  returns: Callable[[ModelSpec], Outputs],
  recipes: Mapping[str, Recipe],
) -> list[str]:
  """See `Domain.check`."""
  if not len(data.validation):
    raise ValueError("validation_examples must be at least 1: they choose the best epoch")
  assistant = None
  if any(recipe.assistant for recipe in recipes.values()):
    whole = returns(study.assistant)
    assistant = (whole, _seen(study, whole))
  teacher = _seen(study, returns(_teacher_spec(study)))
  tracing.refuse_misfits(recipes, returns(study.student), teacher, batch, assistant)
  for recipe in recipes.values():
    _refuse_other_temperatures(study, recipe)
  return []


def _seen(study: ImageStudy, outputs: Outputs) -> Outputs:
  """What students see of a network's outputs: all of a live one's, else what the cache keeps."""
  if study.live_teacher:
    return outputs
  if study.cache_top_k is None:
    return outputs.only(study.cache_outputs)
  return Outputs(
    top_k=jax.eval_shape(lambda logits: top_k_targets(logits, study.cache_top_k), outputs.logits)
  )


def _refuse_other_temperatures(study: ImageStudy, recipe: Recipe) -> None:
  """A tail cannot be tempered afterwards: top-k rows serve soft targets at their own temperature alone."""
  cached = study.settings.kd.temperature
  for term in (term for phase in recipe.phases for term in phase.objective):
    if "top_k" in term.reads and term.options["temperature"] != cached:
      raise ValueError(
        f"cache_top_k={study.cache_top_k} at kd's temperature {cached} does not serve {recipe.name}, which "
        f"needs temperature {term.options['temperature']}"
      )


def _teacher_spec(study: ImageStudy) -> ModelSpec:
  """The teacher's network; of imported weights, the one that their file holds."""
  path = study.teacher_weights
  if path is None:
    return study.teacher
  if not path.is_file():
    raise ValueError(f"there is no weights file {path}: name one with --teacher-weights FILE")
  depth = weights.torch_cifar_resnet_depth(path)
  return dataclasses.replace(study.teacher, family="resnet", depth=depth)


def _ready_teacher(study: ImageStudy, num_classes: int) -> ReadyTeacher[ModelSpec] | None:
  path = study.teacher_weights
  if path is None:
    return None
  spec = _teacher_spec(study)
  variables = weights.load_torch_cifar_resnet(path, spec.depth, num_classes)
  link = Link(LinkKind.WEIGHTS_FILE, digest_file(path), name=path.name)
  return ReadyTeacher(spec, variables, link, path.name)


def _doubt(num_classes: int, found: Mapping[str, float]) -> str:
  """See `Domain.doubt`."""
  if found["accuracy"] >= 3 / num_classes:
    return ""
  return "are teacher.pixel-mean and -std those of its training?"


def _cache_plan(
  study: ImageStudy, data: Data[library.Dataset], spec: ModelSpec, digest: str
) -> CachePlan:
  """See `Domain.cache_plan`."""
  fields = study.cache_outputs
  kept = {
    "top_k": study.cache_top_k,
    "temperature": 1.0 if study.cache_top_k is None else study.settings.kd.temperature,
  }

  def predict(model: nn.Module, variables: PyTree) -> predicting.Predict:
    return predicting.predictor(
      model, variables, data.train, data.augmentation, fields=fields, **kept
    )

  return CachePlan(
    teacher_cache.make_spec(
      digest,
      plain(spec),
      data.train,
      data.augmentation,
      data.views,
      dtype=study.cache_dtype,
      outputs=fields,
      **kept,
    ),
    predict,
    lambda cache: cached_teacher(cache.outputs),
  )


def _header(study: ImageStudy, data: Data[library.Dataset]) -> Header:
  labels = data.test.labels
  return Header(
    dataset={"num_classes": data.num_classes},
    metric={
      "key": "accuracy",
      "label": "accuracy",
      "examples": "images",
      # The commonest class as the answer to every image.
      "chance": float(np.bincount(labels).max() / len(labels)),
    },
    official_examples=study.official_examples,
  )


class _Loaded(NamedTuple):
  """What a source holds.

  Attributes:
    splits: as students see them.
    of_teacher: the teacher's training images, if it sees more.
    class_names: of one's own images; else none.
    notes: what a user should know of it.
  """

  splits: library.Splits
  of_teacher: library.Dataset | None
  class_names: tuple[str, ...]
  notes: tuple[str, ...]


def _load(source: dict[str, Any], data_dir: Path | None) -> _Loaded:
  """Loads what a source says.

  Students' images are chosen first, of each class those with the lowest hashes of their ids; labels that are
  hidden from students are hidden from the teacher too.
  """
  options = {name: source[name] for name in ("validation_examples", "limit")}
  class_names: tuple[str, ...] = ()
  if source.get("files"):
    options |= {name: source[name] for name in ("image_size", "colour", "skip_malformed")}
    read = library.read_image_files(source["files"], **options)
    splits = library.Splits(read.train, read.validation, read.test)
    class_names, notes = read.class_names, read.notes
  else:
    if options["validation_examples"] is None:
      options["validation_examples"] = _HELD_OUT
    splits = library.load(source["name"], data_dir=data_dir, **options)
    notes = library.parts_missing(source["name"], data_dir)
  limit, share = source.get("student_limit"), source.get("unlabelled_share", 0.0)
  if limit is not None and limit < 1:
    raise ValueError(f"`student_limit` must be at least 1, got {limit}")
  whole = train = splits.train
  if limit is not None and limit < len(whole):
    train = whole.take(balanced_rows(whole.labels, whole.ids, limit))
  own = hide_labels(train, share) if share else train
  splits = splits._replace(train=own)
  if train is whole:
    return _Loaded(splits, None, class_names, notes)
  if own.labelled is not None:
    hidden = np.isin(whole.ids, own.ids[~own.labelled])
    whole = dataclasses.replace(whole, labelled=~hidden)
  return _Loaded(splits, whole, class_names, notes)


def image_shape(source: dict[str, Any], data_dir: Path | None) -> list[int]:
  """[H, W, D] of the images that a study reads."""
  return list(_load(source, data_dir).splits.train.images.shape[1:])


def fingerprint(source: dict[str, Any], data_dir: Path | None) -> str | None:
  """Of the training images as they are on disk now; None where they are not."""
  if source.get("files"):
    if not all(Path(path).exists() for path in source["files"]):
      return None
  elif library.prepared_dir(source["name"], data_dir) is None:
    return None  # nothing is prepared here, the embedded data neither: this only reads
  try:
    loaded = _load(source, data_dir)
    alone = source.get("of") == "teacher" and loaded.of_teacher is not None
    return (loaded.of_teacher if alone else loaded.splits.train).fingerprint
  except library.DatasetNotPrepared:
    return None
