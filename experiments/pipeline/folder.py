"""A study in its folder: what every stage starts from, and what a run is made of.

WORKDIR/study.json    the configuration, as the study was begun or last finished
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax import parallel
from kd_jax.checkpoints import write_json
from kd_jax.data.labelled import num_labelled
from kd_jax.recipes import Recipe
from kd_jax.training.evaluator import make_evaluator
from kd_jax.training.loop import Task
from kd_jax.types import PyTree

from ..command_line import console
from ..command_line.options import Where
from ..domains.domain import Domain, Examples, Initial
from ..domains.links import Link, LinkKind
from ..domains.registry import NetworkSpec, domain_of
from ..domains.study import Study, plain
from . import devices, runs
from .differences import field_defaults

MARKER = "study.json"


@dataclasses.dataclass(frozen=True)
class Folder:
  """A study, its data and its networks, checked; `open_folder` makes it.

  Attributes:
    root: absolute path of the folder.
    study: the configuration.
    domain: its data and networks.
    recipes: by row of the study.
    notes: what a user should know of how the study is read.
  """

  root: Path
  study: Study
  domain: Domain[NetworkSpec]
  recipes: Mapping[str, Recipe]
  notes: tuple[str, ...] = ()

  def mark(self) -> None:
    """Writes down the configuration: of the first run, and anew once a study is finished."""
    study = plain(self.study)
    for name, value in study.items():
      if isinstance(getattr(self.study, name), Path):
        study[name] = str(Path(value).absolute())
    write_json(self.root / MARKER, {"study": study, "data": self.domain.data.source})

  def link(self, kind: LinkKind, path: Path, digest: str) -> Link:
    """A link of the lineage to something in the folder."""
    return Link(kind, digest, path=str(path.relative_to(self.root)))

  def data_link(self, teachers: Examples | None = None) -> Link:
    """A link of the lineage to the training examples, the students' or else those of the teacher alone."""
    train = self.domain.data.train if teachers is None else teachers
    count = f"{len(train)} examples"
    if train.labelled is not None:
      count += f", {num_labelled(train)} with labels"
    name = f"{train.name} {train.version} {train.split}, {count}"
    link = Link(LinkKind.DATA, train.fingerprint, name=name)
    return link if teachers is None else dataclasses.replace(link, of="teacher")

  @property
  def evaluation_batch_size(self) -> int:
    """A multiple of the batch size that keeps devices busy: 512 examples, or 2^14 positions of the longest."""
    length = self.domain.data.train.buckets[-1].length
    most = 512 if length is None else min(512, 2**14 // length)
    return self.study.batch_size * max(1, most // self.study.batch_size)

  def evaluator(
    self, spec: NetworkSpec, dataset: Examples, teacher: Sequence[PyTree] | None = None
  ) -> Callable[[PyTree], dict[str, np.ndarray]]:
    """See `kd_jax.training.evaluator.make_evaluator`; for a network of this study."""
    return make_evaluator(
      self.domain.networks.build(spec, None),
      dataset,
      self.evaluation_batch_size,
      one_dispatch=devices.one_dispatch(spec),
      evaluation=self.domain.evaluation,
      teacher=teacher,
    )

  def data_settings(self) -> dict[str, Any]:
    """What about data and batches decides a run's result, as plain values."""
    data = self.domain.data
    return {
      **data.settings,
      "batch_size": self.study.batch_size,
      "validation": data.validation.fingerprint,
    }

  def make_run(
    self,
    directory: Path,
    recipe: Recipe,
    spec: NetworkSpec,
    seeds: tuple[int, ...],
    parent: Link | None,
    views: int | None = None,
    initial: Initial | None = None,
    teachers: Examples | None = None,
  ) -> runs.Run:
    """What training a network of this study is.

    Args:
      directory: of the run.
      recipe: the phases.
      spec: which network.
      seeds: trained together.
      parent: the link to what it learns from, if not from labels alone.
      views: of each training example; by default the students'.
      initial: what it starts from; None: it is fresh.
      teachers: training examples that the teacher alone learns from; by default the students'.
    """
    domain, data = self.domain, self.domain.data
    views = data.views if views is None else views
    task = Task(
      model=domain.networks.build(spec, parallel.AXIS),
      train=data.train if teachers is None else teachers,
      validation=data.validation,
      augmentation=data.augmentation,
      views=views,
      batch_size=self.study.batch_size,
      seeds=seeds,
      one_dispatch=devices.one_dispatch(spec),
      evaluation=domain.evaluation,
      initial=None if initial is None else initial.variables,
    )
    links = [self.data_link(teachers), parent, None if initial is None else initial.link]
    return runs.Run(
      directory,
      self.root,
      recipe,
      task,
      settings={"model": plain(spec), **self.data_settings(), "views": views},
      parents=tuple(link for link in links if link is not None),
      kept=data.kept,
      defaults={"model": field_defaults(spec)},
    )


def open_folder(study: Study, where: Where) -> Folder:
  """Loads the data and checks the whole study; trains nothing.

  Raises:
    ValueError: data that are not prepared, a batch that does not divide over the devices, ...
  """
  parallel.device_batch_size(study.batch_size)
  domain = domain_of(study, where.data_dir)
  # Every recipe is made at once, so that a bad setting is refused before anything is trained.
  recipes = {
    row: study.recipe(row, domain.data.target, domain.networks.teacher_widths) for row in study.rows
  }
  _refuse_what_later_stages_would(study, domain)
  notes = (*domain.data.notes, *domain.networks.notes, *domain.check(recipes))
  domain.cache_plan(domain.networks.teacher, "")  # a cache that could not be made is refused now
  for note in notes:
    console.say(note)
  folder = Folder(where.workdir.absolute(), study, domain, recipes, notes)
  made = (folder.root / MARKER).exists() and any(folder.root.rglob("seals"))
  # Without a network, nothing was made by the settings of a study that was begun here before.
  if parallel.is_main() and not made:
    folder.mark()
  return folder


def _refuse_what_later_stages_would(study: Study, domain: Domain[NetworkSpec]) -> None:
  train = domain.data.train
  count = num_labelled(train)
  if study.batch_size > count:
    which = "training examples" if count == len(train) else "training examples with labels"
    raise ValueError(
      f"a batch of {study.batch_size} exceeds the {count} {which}: use a smaller batch_size"
    )
  if study.seeds_together is not None and study.seeds_together < 1:
    raise ValueError(f"seeds_together must be at least 1, got {study.seeds_together}")
