"""The data and the networks of a study of images."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from experiments.domains import tracing
from experiments.domains.domain import CachePlan, Data, Domain, Header, Networks, ReadyTeacher
from experiments.domains.image_study import ImageStudy
from experiments.domains.links import Link, LinkKind
from experiments.domains.study import plain
from kd_jax import data as library
from kd_jax.checkpoints import digest_file
from kd_jax.data.labelled import hide_labels, num_labelled
from kd_jax.data.splits import balanced_rows
from kd_jax.models import weights
from kd_jax.models.spec import ModelSpec, build_model, model_name
from kd_jax.recipes.parts import Recipe
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.training import cached_teacher
from kd_jax.training.evaluation import CLASSIFICATION
from kd_jax.types import PyTree


def open_images(study: ImageStudy, data_dir: Path | None) -> Domain[ModelSpec]:
  """Loads the data.

  Raises:
    ValueError: data that are not prepared, sizes that do not fit.
  """
  data = _read(study, data_dir)

  def build(spec: ModelSpec, axis_name: str | None = None) -> nn.Module:
    return build_model(spec, data.num_classes, axis_name=axis_name)

  networks = Networks(
    teacher=study.teacher,
    student=study.student,
    build=build,
    label=model_name,
    assistant=lambda: study.assistant,
    ready_teacher=functools.partial(_ready_teacher, study, data.num_classes),
  )
  return Domain(
    data=data,
    networks=networks,
    evaluation=CLASSIFICATION,
    cache_plan=functools.partial(_cache_plan, study, data),
    header=_header(study, data),
    check=functools.partial(_check, study, data, networks),
    doubt=functools.partial(_doubt, data.num_classes),
  )


def _read(study: ImageStudy, data_dir: Path | None) -> Data[library.Dataset]:
  source = {
    "kind": "images",
    "name": study.dataset,
    "validation_examples": study.validation_examples,
    "limit": study.train_limit,
    "unlabelled_share": study.unlabelled_share,
    "student_limit": study.student_limit,
  }
  (train, validation, test), teacher_train = _load(source, data_dir)
  notes = list(library.parts_missing(study.dataset, data_dir))
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
    num_classes=train.num_classes,
    source=source,
    settings={"augmentation": library.describe(study.augmentation)},
    kept={"image_shape": list(train.images.shape[1:])},
    notes=notes,
    teacher_train=teacher_train,
    augmentation=study.augmentation,
    views=study.views,
    # Without a teacher there is no cache to keep small: every view of the augmentation is seen.
    teacher_views=library.num_distinct_views(study.augmentation),
  )


def _check(
  study: ImageStudy,
  data: Data[library.Dataset],
  networks: Networks[ModelSpec],
  recipes: Mapping[str, Recipe],
) -> list[str]:
  """See `Domain.check`."""
  if not len(data.validation):
    raise ValueError("validation_examples must be at least 1: they choose the best epoch")
  student = networks.build(study.student, None)
  # An imported teacher is of the depth that its file has; what it returns is of the student's shapes.
  teacher = student if study.teacher_weights else networks.build(study.teacher, None)
  models = {"student": student, "teacher": teacher}
  if any(recipe.assistant for recipe in recipes.values()):
    models["assistant"] = networks.build(study.assistant, None)
  tracing.refuse_misfits(recipes, models, data.train)
  if study.cache_top_k is not None and not study.live_teacher:
    for recipe in recipes.values():
      _refuse_top_k(study, data.num_classes, recipe)
  return []


def _refuse_top_k(study: ImageStudy, num_classes: int, recipe: Recipe) -> None:
  """A tail cannot be tempered afterwards: top-k rows serve soft targets at their own temperature alone."""
  cached, k = study.settings.kd.temperature, study.cache_top_k
  if not 1 <= k < num_classes:
    raise ValueError(f"cache_top_k must be at least 1 and below {num_classes}, got {k}")
  for term in (term for term in tracing.terms(recipe) if term.needs_teacher):
    own = getattr(term.loss, "keywords", {}).get("temperature", cached)
    if term.whole_logits or own != cached:
      needs = "all logits" if term.whole_logits else f"temperature {own}"
      raise ValueError(
        f"cache_top_k={k} at kd's temperature {cached} does not serve "
        f"{recipe.name}, which needs {needs}"
      )


def _ready_teacher(study: ImageStudy, num_classes: int) -> ReadyTeacher[ModelSpec] | None:
  path = study.teacher_weights
  if path is None:
    return None
  if not path.is_file():
    raise ValueError(f"there is no weights file {path}: name one with --teacher-weights FILE")
  depth = weights.torch_cifar_resnet_depth(path)
  spec = dataclasses.replace(study.teacher, family="resnet", depth=depth)
  variables = weights.load_torch_cifar_resnet(path, depth, num_classes)
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
  kept = {
    "top_k": study.cache_top_k,
    "temperature": 1.0 if study.cache_top_k is None else study.settings.kd.temperature,
  }

  def predict(model: nn.Module, variables: PyTree) -> predicting.Predict:
    return predicting.predictor(model, variables, data.train, data.augmentation, **kept)

  return CachePlan(
    teacher_cache.make_spec(
      digest,
      plain(spec),
      data.train,
      data.augmentation,
      data.views,
      dtype=study.cache_dtype,
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


def _load(
  source: dict[str, Any], data_dir: Path | None
) -> tuple[library.Splits, library.Dataset | None]:
  """The splits as students see them; and the teacher's training images, if it sees more.

  Students' images are chosen first, of each class those with the lowest hashes of their ids; labels that are
  hidden from students are hidden from the teacher too.
  """
  options = {name: source[name] for name in ("validation_examples", "limit")}
  splits = library.load(source["name"], data_dir=data_dir, **options)
  limit, share = source.get("student_limit"), source.get("unlabelled_share", 0.0)
  if limit is not None and limit < 1:
    raise ValueError(f"`student_limit` must be at least 1, got {limit}")
  whole = train = splits.train
  if limit is not None and limit < len(whole):
    train = whole.take(balanced_rows(whole.labels, whole.ids, limit))
  own = hide_labels(train, share) if share else train
  splits = splits._replace(train=own)
  if train is whole:
    return splits, None
  if own.labelled is not None:
    hidden = np.isin(whole.ids, own.ids[~own.labelled])
    whole = dataclasses.replace(whole, labelled=~hidden)
  return splits, whole


def image_shape(source: dict[str, Any], data_dir: Path | None) -> list[int]:
  """[H, W, D] of the images that a study reads."""
  return list(_load(source, data_dir)[0].train.images.shape[1:])


def fingerprint(source: dict[str, Any], data_dir: Path | None) -> str | None:
  """Of the training images as they are on disk now; None where they are not."""
  if library.prepared_dir(source["name"], data_dir) is None:
    return None  # nothing is prepared here, the embedded data neither: this only reads
  try:
    splits, of_teacher = _load(source, data_dir)
    alone = source.get("of") == "teacher" and of_teacher is not None
    return (of_teacher if alone else splits.train).fingerprint
  except library.DatasetNotPrepared:
    return None
