"""What every stage of a study starts from: its folder, its data, its recipes; and what a run is made of."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.command_line import console
from experiments.command_line.options import Where
from experiments.domains.domain import Initial, Spec
from experiments.domains.registry import domain_of
from experiments.domains.study import Study, plain
from experiments.pipeline import runs
from experiments.pipeline.differences import field_defaults
from kd_jax import parallel
from kd_jax.checkpoints import write_json
from kd_jax.data.labelled import num_labelled
from kd_jax.recipes.parts import Recipe
from kd_jax.training.evaluator import make_evaluator
from kd_jax.training.loop import Task
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
    self.domain = domain_of(study, where.data_dir)
    # Every recipe is made at once, so that a bad setting is refused before anything is trained.
    given = {name: getattr(self.domain, name) for name in ("teacher_width", "label_mean")}
    self.recipes = {r: study.recipe(r, self.domain.num_classes, **given) for r in study.rows}
    self._refuse_what_later_stages_would()
    for note in self.domain.notes:
      console.say(note)
    if parallel.is_main() and not ((self.root / MARKER).exists() and self._holds_a_network()):
      self.mark()

  def _holds_a_network(self) -> bool:
    """Without one, nothing was made by the settings of a study that was begun here before."""
    return any(self.root.rglob("seals"))

  def mark(self) -> None:
    """Writes down the configuration: of the first run, and anew once a study is finished."""
    study = plain(self.study)
    for name, value in study.items():
      if isinstance(getattr(self.study, name), Path):
        study[name] = str(Path(value).absolute())
    write_json(self.root / MARKER, {"study": study, "data": self.domain.source})

  def _refuse_what_later_stages_would(self) -> None:
    study, train = self.study, self.domain.train
    count = num_labelled(train)
    if study.batch_size > count:
      which = "training examples" if count == len(train) else "training examples with labels"
      raise ValueError(
        f"a batch of {study.batch_size} exceeds the {count} {which}: use a smaller batch_size"
      )
    if study.seeds_together is not None and study.seeds_together < 1:
      raise ValueError(f"seeds_together must be at least 1, got {study.seeds_together}")
    self.domain.check(self.recipes)

  @property
  def evaluation_batch_size(self) -> int:
    """A multiple of the batch size that keeps devices busy: 512 examples, or 2^14 positions of the longest."""
    length = self.domain.train.buckets[-1].length
    most = 512 if length is None else min(512, 2**14 // length)
    return self.study.batch_size * max(1, most // self.study.batch_size)

  def evaluator(
    self, spec: Spec, dataset: Any, teacher: Sequence[PyTree] | None = None
  ) -> Callable[[PyTree], dict[str, np.ndarray]]:
    """See `kd_jax.training.evaluator.make_evaluator`; for a network of this study."""
    return make_evaluator(
      self.domain.build(spec),
      dataset,
      self.evaluation_batch_size,
      one_dispatch=self._one_dispatch(spec),
      evaluation=self.domain.evaluation,
      teacher=teacher,
    )

  def _one_dispatch(self, spec: Spec) -> bool:
    return parallel.one_dispatch_an_epoch(self.domain.convolutional(spec))

  def make_run(
    self,
    directory: Path,
    recipe: Recipe,
    spec: Spec,
    seeds: tuple[int, ...],
    teacher: runs.Parent | None,
    views: int | None = None,
    initial: Initial | None = None,
    train: Any = None,
  ) -> runs.Run:
    """What training a network of this study is: task, settings, lineage; `train`: by default the students'."""
    domain = self.domain
    views = domain.views if views is None else views
    task = Task(
      model=domain.build(spec, parallel.AXIS),
      train=domain.train if train is None else train,
      validation=domain.validation,
      augmentation=domain.augmentation,
      views=views,
      batch_size=self.study.batch_size,
      seeds=seeds,
      one_dispatch=self._one_dispatch(spec),
      evaluation=domain.evaluation,
      initial=None if initial is None else initial.variables,
    )
    settings = {
      "model": plain(spec),
      **domain.data_settings(),
      "views": views,
      "batch_size": self.study.batch_size,
      "validation": domain.validation.fingerprint,
    }
    links = [self.data_link(train), teacher, None if initial is None else initial.parent]
    parents = tuple(link for link in links if link is not None)
    kept = domain.kept_with_checkpoints()
    defaults = {"model": field_defaults(spec)}
    return runs.Run(directory, self.root, recipe, task, settings, parents, kept, defaults)

  def link(self, kind: str, path: Path, digest: str) -> runs.Parent:
    """A link of the lineage to something in the study's folder."""
    return {"kind": kind, "path": str(path.relative_to(self.root)), "digest": digest}

  def data_link(self, teachers: Any = None) -> runs.Parent:
    """A link of the lineage to the training examples, the students' or else those of the teacher alone."""
    train = self.domain.train if teachers is None else teachers
    count = f"{len(train)} examples"
    if train.labelled is not None:
      count += f", {num_labelled(train)} with labels"
    return ({} if teachers is None else {"of": "teacher"}) | {
      "kind": "data",
      "name": f"{train.name} {train.version} {train.split}, {count}",
      "digest": train.fingerprint,
    }
