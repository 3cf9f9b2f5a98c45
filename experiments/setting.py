"""What every stage of a study starts from: its folder, its data, its recipes; and what a run is made of."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments import runs
from experiments.config import Study, Where, plain
from kd_jax import data, parallel
from kd_jax.checkpoints import write_json
from kd_jax.models.spec import ModelSpec, build_model, is_convolutional
from kd_jax.phases import Recipe
from kd_jax.training.loop import Task, make_evaluator
from kd_jax.types import PyTree

MARKER = "study.json"
"""At the top of a study's folder: its configuration, as it was begun or last finished."""


class Setting:
  """A study, its folder and its data, checked; every stage builds on it."""

  def __init__(self, study: Study, where: Where):
    """Loads the data; trains nothing yet.

    Raises:
      ValueError: data that are not prepared, a batch that does not divide over the devices, ...
    """
    self.study = study
    self.root = where.workdir.absolute()
    parallel.device_batch_size(study.batch_size)
    self.splits = data.load(
      study.dataset,
      data_dir=where.data_dir,
      validation_examples=study.validation_examples,
      limit=study.train_limit,
    )
    self.num_classes = self.splits.train.num_classes
    # Every recipe is made at once, so that a bad setting is refused before anything is trained.
    self.recipes = {m: study.recipe(m, self.num_classes) for m in study.methods}
    self._refuse_what_later_stages_would()
    if parallel.is_main() and not (self.root / MARKER).exists():
      self.mark()

  def mark(self) -> None:
    """Writes down the configuration: of the first run, and anew once a study is finished."""
    study = plain(self.study)
    if self.study.teacher_weights is not None:
      study["teacher_weights"] = str(self.study.teacher_weights.absolute())
    write_json(self.root / MARKER, {"study": study})

  def _refuse_what_later_stages_would(self) -> None:
    study, train = self.study, self.splits.train
    if not len(self.splits.validation):
      raise ValueError("validation_examples must be at least 1: they choose the best epoch")
    if study.batch_size > len(train):
      raise ValueError(
        f"a batch of {study.batch_size} exceeds the {len(train)} training examples: use a smaller "
        "batch_size"
      )
    if study.seeds_together is not None and study.seeds_together < 1:
      raise ValueError(f"seeds_together must be at least 1, got {study.seeds_together}")
    specs = [study.student]
    specs += [study.teacher] if study.teacher_weights is None else []
    specs += [study.assistant] if any(r.assistant for r in self.recipes.values()) else []
    for spec in specs:
      model = build_model(spec, self.num_classes)
      jax.eval_shape(
        lambda key, m=model: m.init(key, train.images[:1], train=False), jax.random.key(0)
      )
    if study.cache_top_k is not None and not study.live_teacher:
      for recipe in self.recipes.values():
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

  @property
  def evaluation_batch_size(self) -> int:
    """A multiple of the batch size that keeps devices busy."""
    return self.study.batch_size * max(1, 512 // self.study.batch_size)

  def evaluator(
    self, spec: ModelSpec, dataset: data.Dataset, teacher_logits: np.ndarray | None = None
  ) -> Callable[[PyTree], dict[str, np.ndarray]]:
    """See `kd_jax.training.loop.make_evaluator`; for a network of this study."""
    return make_evaluator(
      build_model(spec, self.num_classes),
      dataset,
      self.evaluation_batch_size,
      one_dispatch=parallel.one_dispatch_an_epoch(is_convolutional(spec)),
      teacher_logits=teacher_logits,
    )

  def make_run(
    self,
    directory: Path,
    recipe: Recipe,
    spec: ModelSpec,
    seeds: tuple[int, ...],
    teacher: runs.Parent | None,
    views: int | None = None,
  ) -> runs.Run:
    """What training a network of this study is: task, settings, lineage."""
    views = self.study.views if views is None else views
    task = Task(
      model=build_model(spec, self.num_classes, axis_name=parallel.AXIS),
      train=self.splits.train,
      validation=self.splits.validation,
      augmentation=self.study.augmentation,
      views=views,
      batch_size=self.study.batch_size,
      seeds=seeds,
      one_dispatch=parallel.one_dispatch_an_epoch(is_convolutional(spec)),
    )
    settings = {
      "model": plain(spec),
      "augmentation": data.describe(self.study.augmentation),
      "views": views,
      "batch_size": self.study.batch_size,
      "validation": self.splits.validation.fingerprint,
    }
    parents = (self.data_link(),) if teacher is None else (self.data_link(), teacher)
    return runs.Run(directory, self.root, recipe, task, settings, parents)

  def link(self, kind: str, path: Path, digest: str) -> runs.Parent:
    """A link of the lineage to something in the study's folder."""
    return {"kind": kind, "path": str(path.relative_to(self.root)), "digest": digest}

  def data_link(self) -> runs.Parent:
    """A link of the lineage to the training examples."""
    train = self.splits.train
    return {
      "kind": "data",
      "name": f"{train.name} {train.version} {train.split}, {len(train)} examples",
      "digest": train.fingerprint,
    }
