"""Studies of image classification."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
import tyro

from experiments.config import Registry, Study, method_settings
from experiments.domains.domain import Domain, ReadyTeacher
from kd_jax import data, recipes
from kd_jax.checkpoints import digest_file
from kd_jax.data.augmentation import Augmentation
from kd_jax.data.labelled import hide_labels, num_labelled
from kd_jax.data.splits import balanced_rows
from kd_jax.models import weights
from kd_jax.models.spec import ModelSpec, build_model, is_convolutional, model_name
from kd_jax.recipes.parts import Recipe
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.training import cached_teacher
from kd_jax.training.evaluation import CLASSIFICATION

MethodSettings = method_settings("MethodSettings", recipes.RECIPES)


@dataclasses.dataclass(frozen=True)
class ImageStudy(Study):
  """A comparison of methods on images."""

  registry: ClassVar[Registry] = recipes.RECIPES

  dataset: str = "digits"
  """TFDS data set: digits, mnist, fashion_mnist, cifar10, cifar100."""
  validation_examples: int = 200
  """Held out of the training split, to choose the best epoch."""
  student_limit: int | None = None
  """Students and assistants see at most so many of the training images, balanced over the classes; the teacher
  sees all."""
  augmentation: Augmentation = Augmentation(name="none")
  """Of the training images."""
  views: int = 1
  """Views of each training image, one an epoch in turn; the cache holds a row for each."""
  teacher: ModelSpec = ModelSpec()
  """The teacher's network."""
  teacher_weights: Path | None = None
  """Import a PyTorch CIFAR ResNet from this safetensors file instead of training a teacher."""
  assistant: ModelSpec = ModelSpec()
  """The assistant's network, for methods that have one."""
  student: ModelSpec = ModelSpec()
  """The student's network."""
  methods: tuple[str, ...] = ("scratch", "kd", "annealing_kd")
  """Methods to compare, in the order of the tables."""
  cache_top_k: int | None = None
  """Keep only the K likeliest classes and the tail; for soft targets at the temperature of `kd`."""
  settings: Annotated[MethodSettings, tyro.conf.arg(name="")] = dataclasses.field(
    default_factory=MethodSettings
  )
  """Of each method."""
  official_examples: Annotated[int, tyro.conf.Suppress] = 0
  """How many training examples, held-out ones included, the paper's data set has."""

  def shrunk(self) -> "ImageStudy":
    def small(spec: ModelSpec) -> ModelSpec:
      smallest = {"resnet": 8, "plain_cnn": 2}.get(spec.family, spec.depth)
      return dataclasses.replace(spec, depth=smallest, hidden=(8,))

    annealing = dataclasses.replace(self.settings.annealing_kd, max_temperature=2)
    return dataclasses.replace(
      self,
      validation_examples=16,
      train_limit=48,
      student_limit=None if self.student_limit is None else 32,
      views=min(self.views, 2),
      batch_size=16,
      teacher=small(self.teacher),
      teacher_weights=None,
      teacher_epochs=1,
      assistant=small(self.assistant),
      student=small(self.student),
      epochs=4,
      seeds=1,
      settings=dataclasses.replace(self.settings, annealing_kd=annealing),
    )


class Images(Domain):
  """The data and the networks of an `ImageStudy`."""

  evaluation = CLASSIFICATION

  def __init__(self, study: ImageStudy, data_dir: Path | None):
    """Loads the data.

    Raises:
      ValueError: data that are not prepared, sizes that do not fit.
    """
    self.study = study
    self.source = {
      "kind": "images",
      "name": study.dataset,
      "validation_examples": study.validation_examples,
      "limit": study.train_limit,
      "unlabelled_share": study.unlabelled_share,
      "student_limit": study.student_limit,
    }
    (self.train, self.validation, self.test), self.teacher_train = _load(self.source, data_dir)
    self.notes = list(data.parts_missing(study.dataset, data_dir))
    if study.unlabelled_share and study.teacher_weights is not None:
      self.notes.append("the imported teacher may have learnt from labels that are hidden here")
    if self.teacher_train is not None and study.teacher_weights is None:
      self.notes.append(
        f"the teacher learns from {num_labelled(self.teacher_train):,} training images, students from "
        f"{len(self.train):,} of all {len(self.teacher_train):,}"
      )
    self.num_classes = self.train.num_classes
    self.official_examples = study.official_examples
    self.teacher, self.assistant, self.student = study.teacher, study.assistant, study.student
    self.augmentation, self.views = study.augmentation, study.views
    # Without a teacher there is no cache to keep small: every view of the augmentation is seen.
    self.teacher_views = data.num_distinct_views(study.augmentation)

  def build(self, spec, axis_name=None):
    return build_model(spec, self.num_classes, axis_name=axis_name)

  def label(self, spec):
    return model_name(spec)

  def convolutional(self, spec):
    return is_convolutional(spec)

  def seeds_together(self, seeds):
    return 1 if self.convolutional(self.student) else seeds

  def check(self, recipes: dict[str, Recipe]) -> None:
    if not len(self.validation):
      raise ValueError("validation_examples must be at least 1: they choose the best epoch")
    specs = [self.student]
    specs += [self.teacher] if self.study.teacher_weights is None else []
    specs += [self.assistant] if any(r.assistant for r in recipes.values()) else []
    for spec in specs:
      model = self.build(spec)
      jax.eval_shape(
        lambda key, m=model: m.init(key, self.train.images[:1], train=False), jax.random.key(0)
      )
    if self.study.cache_top_k is not None and not self.study.live_teacher:
      for recipe in recipes.values():
        self._refuse_top_k(recipe)

  def _refuse_top_k(self, recipe: Recipe) -> None:
    """A tail cannot be tempered afterwards: top-k rows serve soft targets at their own temperature alone."""
    cached, k = self.study.settings.kd.temperature, self.study.cache_top_k
    if not 1 <= k < self.num_classes:
      raise ValueError(f"cache_top_k must be at least 1 and below {self.num_classes}, got {k}")
    for term in (term for phase in recipe.phases for term in phase.objective if term.needs_teacher):
      own = getattr(term.loss, "keywords", {}).get("temperature", cached)
      if term.whole_logits or own != cached:
        needs = "all logits" if term.whole_logits else f"temperature {own}"
        raise ValueError(
          f"cache_top_k={k} at kd's temperature {cached} does not serve "
          f"{recipe.name}, which needs {needs}"
        )

  def ready_teacher(self) -> ReadyTeacher | None:
    path = self.study.teacher_weights
    if path is None:
      return None
    if not path.is_file():
      raise ValueError(f"there is no weights file {path}: name one with --teacher-weights FILE")
    depth = weights.torch_cifar_resnet_depth(path)
    spec = dataclasses.replace(self.teacher, family="resnet", depth=depth)
    variables = weights.load_torch_cifar_resnet(path, depth, self.num_classes)
    parent = {"kind": "weights file", "name": path.name, "digest": digest_file(path)}
    return ReadyTeacher(spec, variables, parent, path.name)

  def doubt(self, found: Mapping[str, float]) -> str:
    if found["accuracy"] >= 3 / self.num_classes:
      return ""
    return "are teacher.pixel-mean and -std those of its training?"

  def data_settings(self) -> dict[str, Any]:
    return {"augmentation": data.describe(self.augmentation)}

  def cache_spec(self, digest, model, spec):
    top_k = self.study.cache_top_k
    return teacher_cache.make_spec(
      digest,
      model,
      self.train,
      self.augmentation,
      self.views,
      dtype=self.study.cache_dtype,
      top_k=top_k,
      temperature=1.0 if top_k is None else self.study.settings.kd.temperature,
    )

  def predictor(self, spec, model, variables):
    kept = self.cache_spec("", {}, spec)
    return predicting.predictor(
      model,
      variables,
      self.train,
      self.augmentation,
      top_k=kept.top_k,
      temperature=kept.temperature,
    )

  def cached_teacher(self, cache):
    return cached_teacher(cache.outputs)

  def kept_with_checkpoints(self) -> dict[str, Any]:
    return {"image_shape": list(self.train.images.shape[1:])}

  def header(self) -> dict[str, Any]:
    labels = self.test.labels
    return {
      "dataset": {"num_classes": self.num_classes, "notes": list(self.notes)},
      "metric": {
        "key": "accuracy",
        "label": "accuracy",
        "examples": "images",
        # The commonest class as the answer to every image.
        "chance": float(np.bincount(labels).max() / len(labels)),
      },
    }


def _load(source: dict[str, Any], data_dir: Path | None) -> tuple[data.Splits, data.Dataset | None]:
  """The splits as students see them; and the teacher's training images, if it sees more.

  Students' images are chosen first, of each class those with the lowest hashes of their ids; labels that are
  hidden from students are hidden from the teacher too.
  """
  options = {name: source[name] for name in ("validation_examples", "limit")}
  splits = data.load(source["name"], data_dir=data_dir, **options)
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
  if data.prepared_dir(source["name"], data_dir) is None:
    return None  # nothing is prepared here, the embedded data neither: this only reads
  try:
    splits, of_teacher = _load(source, data_dir)
    alone = source.get("of") == "teacher" and of_teacher is not None
    return (of_teacher if alone else splits.train).fingerprint
  except data.DatasetNotPrepared:
    return None
