"""The stages of a study, left to right: data, teacher, cache, students. Each resumes; each can run alone.

WORKDIR/teacher/{train,final}/         checkpoints of the training; the network that is used
WORKDIR/cache/                         its outputs on the training images
WORKDIR/assistants/METHOD/...          the same for a method's assistant
WORKDIR/students/METHOD/seeds-0-1-2/   runs, a folder for each group of seeds trained together
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from experiments import console, runs
from experiments.config import Study, Where, plain
from kd_jax import data, parallel, recipes, teacher_cache
from kd_jax.checkpoints import CheckpointStore, digest_file, write_json
from kd_jax.models import weights
from kd_jax.models.spec import ModelSpec, build_model, is_convolutional, parameter_count
from kd_jax.training.loop import Task
from kd_jax.training.state import one_seed
from kd_jax.training.step import Teacher, cached_teacher, live_teacher
from kd_jax.types import PyTree

MARKER = "study.json"
"""At the top of a study's folder: its configuration, as it was last run."""


@dataclasses.dataclass(frozen=True)
class Network:
  """A finished network that others learn from.

  Attributes:
    role: "teacher" or "assistant".
    spec: its architecture.
    model: to apply.
    variables: on the host.
    digest: of the variables.
    source: "trained", or which file was imported.
    directory: of its checkpoint and cache.
    seconds: of training; None where it was imported.
    validation_accuracy: None where it was imported.
  """

  role: str
  spec: ModelSpec
  model: nn.Module
  variables: PyTree
  digest: str
  source: str
  directory: Path
  seconds: float | None
  validation_accuracy: float | None

  @property
  def parameters(self) -> int:
    return parameter_count(self.variables)


class Pipeline:
  """A study at work in its folder. Everything it makes is found again by the next one."""

  def __init__(self, study: Study, where: Where):
    """Loads the data; trains nothing yet.

    Raises:
      ValueError: data that are not prepared, a batch that does not divide over the devices, ...
    """
    self.study, self.where = study, where
    self.root = where.workdir.absolute()
    parallel.device_batch_size(study.batch_size)
    self.splits = data.load(
      study.dataset,
      data_dir=where.data_dir,
      validation_examples=study.validation_examples,
      limit=study.train_limit,
    )
    self.num_classes = self.splits.train.num_classes
    # Every recipe and network is made once, so that a bad setting is refused before anything is trained.
    self.recipes = {m: study.recipe(m, self.num_classes) for m in study.methods}
    for spec in (study.teacher, study.assistant, study.student):
      build_model(spec, self.num_classes)
    self._refuse_what_later_stages_would()
    if parallel.is_main():
      write_json(self.root / MARKER, {"study": plain(study)})
    self._networks: dict[str, Network] = {}
    self._caches: dict[Path, teacher_cache.Cache] = {}

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
    self._cache_spec("", {})
    model = build_model(study.student, self.num_classes)
    jax.eval_shape(lambda key: model.init(key, train.images[:1], train=False), jax.random.key(0))

  # Teacher and assistants.

  def teacher(self) -> Network:
    """The teacher: imported, or trained on the labels and taken at its best epoch."""
    if "teacher" not in self._networks:
      self._networks["teacher"] = self._make_teacher()
    return self._networks["teacher"]

  def _make_teacher(self) -> Network:
    directory = self.root / "teacher"
    if self.study.teacher_weights is not None:
      return self._imported_teacher(directory)
    budget = recipes.Budget(
      self.study.teacher_epochs, self.study.teacher_optimizer, self.num_classes
    )
    recipe = dataclasses.replace(recipes.scratch(budget), name="teacher")
    return self._trained_network("teacher", directory, self.study.teacher, recipe, None)

  def assistant(self, method: str) -> Network:
    """A method's assistant, distilled from the teacher."""
    if method not in self._networks:
      recipe, teacher = self.recipes[method].assistant, self.teacher()
      if not self.study.live_teacher:
        self.precompute(teacher)
      self._networks[method] = self._trained_network(
        "assistant", self.root / "assistants" / method, self.study.assistant, recipe, teacher
      )
    return self._networks[method]

  def _trained_network(
    self, role: str, directory: Path, spec: ModelSpec, recipe: recipes.Recipe, teacher
  ) -> Network:
    run = self._run(directory / "train", recipe, spec, (0,), teacher)
    with console.Progress(role, run.epochs(), "epochs") as progress:
      result = runs.train(run, lambda: self._source(teacher), _counter(progress))[-1]
    meta = {
      "kind": role,
      "settings": {"model": plain(spec), "num_classes": self.num_classes},
      "parents": [{"kind": result.phase.name, "path": result.path, "digest": result.digest}],
    }
    self._save_final(directory, one_seed(result.state.best, 0), meta)
    return self._network(
      role,
      directory,
      spec,
      source="trained",
      seconds=sum(record["seconds"] for record in result.history),
      validation_accuracy=float(result.state.best_accuracy[0]),
    )

  def _imported_teacher(self, directory: Path) -> Network:
    path = self.study.teacher_weights
    if not path.is_file():
      raise ValueError(f"there is no weights file {path}")
    depth = weights.torch_cifar_resnet_depth(path)
    spec = dataclasses.replace(self.study.teacher, family="resnet", depth=depth)
    meta = {
      "kind": "teacher",
      "settings": {"model": plain(spec), "num_classes": self.num_classes},
      "parents": [{"kind": "weights file", "name": path.name, "digest": digest_file(path)}],
    }
    variables = weights.load_torch_cifar_resnet(path, depth, self.num_classes)
    self._save_final(directory, variables, meta)
    return self._network("teacher", directory, spec, source=path.name)

  def _save_final(self, directory: Path, variables: PyTree, meta: dict[str, Any]) -> None:
    """Writes a finished network, unless it stands there already."""
    store = CheckpointStore(directory / "final")
    meta = json.loads(json.dumps(meta))
    if store.steps():
      try:
        found = store.restore()
      except ValueError as error:
        console.say(f"warning: {error}; it is written anew")
      else:
        if found.meta == meta:
          return
        if found.meta["parents"] != meta["parents"]:
          raise ValueError(
            f"{directory} holds another {meta['kind']}, made from {found.meta['parents']}, this run "
            f"has {meta['parents']}: use another --workdir, or delete that folder"
          )
    runs.save_network(directory / "final", variables, meta)

  def _network(self, role, directory, spec, *, source, seconds=None, validation_accuracy=None):
    model = build_model(spec, self.num_classes)
    variables, restored = runs.load_network(
      directory / "final", model, self.splits.train.images[:1]
    )
    return Network(
      role,
      spec,
      model,
      variables,
      restored.digest,
      source,
      directory,
      seconds,
      validation_accuracy,
    )

  # Teacher outputs.

  def cache_spec(self, network: Network) -> teacher_cache.CacheSpec:
    """What a cache of this network's outputs must be."""
    return self._cache_spec(network.digest, plain(network.spec))

  def _cache_spec(self, digest: str, model: dict[str, Any]) -> teacher_cache.CacheSpec:
    top_k = self.study.cache_top_k
    return teacher_cache.make_spec(
      digest,
      model,
      self.splits.train,
      self.study.augmentation,
      self.study.views,
      dtype=self.study.cache_dtype,
      top_k=top_k,
      temperature=1.0 if top_k is None else self.study.settings.kd.temperature,
    )

  def cache_dir(self, network: Network) -> Path:
    """The teacher's cache lies at the top of the study, an assistant's beside it."""
    return self.root / "cache" if network.role == "teacher" else network.directory / "cache"

  def predictor(self, network: Network):
    """The network's outputs on training images; see `teacher_cache.predictor`."""
    spec = self.cache_spec(network)
    return teacher_cache.predictor(
      network.model, network.variables, self.splits.train, self.study.augmentation, spec
    )

  def precompute(self, network: Network) -> teacher_cache.Cache:
    """Fills the cache as far as it is not, and opens it."""
    spec, directory = self.cache_spec(network), self.cache_dir(network)
    if directory in self._caches:
      return self._caches[directory]
    finished = (directory / teacher_cache.MANIFEST).exists()
    parallel.barrier(f"looked at {directory}")  # before any process can write it
    if not finished:
      self._fill_cache(network, spec, directory)
    try:
      return self.open_cache(network)
    except teacher_cache.BrokenCacheError as error:
      console.say(f"warning: {error}")
      self._fill_cache(network, spec, directory)
      return self.open_cache(network)

  def open_cache(self, network: Network) -> teacher_cache.Cache:
    """The finished cache, compared with what this study needs; errors as `teacher_cache.open_cache`."""
    directory = self.cache_dir(network)
    if directory not in self._caches:
      self._caches[directory] = teacher_cache.open_cache(directory, self.cache_spec(network))
    return self._caches[directory]

  def _fill_cache(self, network: Network, spec, directory: Path) -> None:
    link = self._link(network.role, network.directory / "final" / "steps" / "0", network.digest)
    steps = teacher_cache.precompute(
      directory,
      spec,
      self.predictor(network),
      batch_size=self.evaluation_batch_size,
      chunk_rows=1024,
      lineage={"parents": [link, self._data_link()]},
    )
    total = spec.num_examples * spec.views
    with console.Progress(f"precompute {network.role}", total, "rows") as progress:
      for state in steps:
        progress.to(state.done)

  def _source(self, network: Network) -> Teacher:
    """The teacher of a student, from its cache or alive."""
    if self.study.live_teacher:
      return live_teacher(network.model, network.variables)
    return cached_teacher(self.open_cache(network).outputs)

  # Students.

  def seed_groups(self, method: str) -> list[tuple[int, ...]]:
    """Which seeds train together: groups that an earlier run began, then new ones."""
    together = self.study.seeds_together
    if together is None:
      together = 1 if is_convolutional(self.study.student) else self.study.seeds
    wanted = set(range(self.study.seeds))
    groups = []
    for folder in sorted((self.root / "students" / method).glob("seeds-*")):
      group = tuple(int(seed) for seed in folder.name.split("-")[1:])
      if set(group) <= wanted:
        groups.append(group)
        wanted -= set(group)
    rest = sorted(wanted)
    groups += [tuple(rest[i : i + together]) for i in range(0, len(rest), together)]
    return sorted(groups)

  def source_of(self, method: str, teacher: Network) -> Network:
    """Whom the students of a method learn from: the teacher, or the method's assistant."""
    return teacher if self.recipes[method].assistant is None else self.assistant(method)

  def student_run(self, method: str, seeds: tuple[int, ...], teacher: Network) -> runs.Run:
    """The run of a method for a group of seeds."""
    recipe, source = self.recipes[method], self.source_of(method, teacher)
    name = "seeds-" + "-".join(str(seed) for seed in seeds)
    directory = self.root / "students" / method / name
    return self._run(
      directory, recipe, self.study.student, seeds, source if recipe.needs_teacher else None
    )

  def train_students(self, teacher: Network, methods: tuple[str, ...], seeds=None) -> None:
    """Trains every method and seed that is not trained yet; seed by seed, the methods in turn.

    Args:
      teacher: of all methods.
      methods: which.
      seeds: only groups that hold one of these; by default all.
    """
    for method in methods:
      if self.recipes[method].needs_teacher and not self.study.live_teacher:
        self.precompute(self.source_of(method, teacher))
    jobs = [(group, m) for m in methods for group in self.seed_groups(m)]
    jobs = [job for job in jobs if seeds is None or set(seeds) & set(job[0])]
    jobs.sort(key=lambda job: (job[0], methods.index(job[1])))
    total = sum(self._epochs(method) for _, method in jobs)
    with console.Progress("students", total, "epochs") as progress:
      for group, method in jobs:
        run = self.student_run(method, group, teacher)
        source = self.source_of(method, teacher)
        runs.train(run, lambda network=source: self._source(network), _counter(progress))

  def finished_students(self, teacher: Network) -> Iterator[tuple[str, tuple, list]]:
    """(method, seeds, phases) of every run of the study.

    Raises:
      ValueError: where one is not finished.
    """
    for method in self.study.methods:
      for group in self.seed_groups(method):
        yield method, group, runs.load(self.student_run(method, group, teacher))

  @property
  def evaluation_batch_size(self) -> int:
    """A multiple of the batch size that keeps devices busy."""
    return self.study.batch_size * max(1, 512 // self.study.batch_size)

  def _epochs(self, method: str) -> int:
    return sum(phase.epochs for phase in self.recipes[method].phases)

  def _run(self, directory: Path, recipe, spec: ModelSpec, seeds, teacher) -> runs.Run:
    task = Task(
      model=build_model(spec, self.num_classes, axis_name=parallel.AXIS),
      train=self.splits.train,
      validation=self.splits.validation,
      augmentation=self.study.augmentation,
      views=self.study.views,
      batch_size=self.study.batch_size,
      seeds=seeds,
      one_dispatch=parallel.one_dispatch_an_epoch(is_convolutional(spec)),
    )
    settings = {
      "model": plain(spec),
      "augmentation": data.describe(self.study.augmentation),
      "views": self.study.views,
      "batch_size": self.study.batch_size,
      "validation": self.splits.validation.fingerprint,
    }
    parents = [self._data_link()]
    if teacher is not None:
      parents.append(self._teacher_link(teacher))
    return runs.Run(directory, self.root, recipe, task, settings, tuple(parents))

  # Lineage.

  def _link(self, kind: str, path: Path, digest: str) -> runs.Parent:
    return {"kind": kind, "path": str(path.relative_to(self.root)), "digest": digest}

  def _data_link(self) -> runs.Parent:
    train = self.splits.train
    return {
      "kind": "data",
      "name": f"{train.name} {train.version} {train.split}, {len(train)} examples",
      "digest": train.fingerprint,
    }

  def _teacher_link(self, network: Network) -> runs.Parent:
    if self.study.live_teacher:
      path = network.directory / "final" / "steps" / "0"
      return self._link("teacher", path, network.digest)
    directory = self.cache_dir(network)
    manifest = teacher_cache.open_manifest(directory, self.cache_spec(network))
    return self._link("cache", directory, manifest["digest"])


def _counter(progress: console.Progress):
  """Counts epochs: several at once are those of an earlier run."""

  def count(epochs: int, detail: str) -> None:
    if epochs > 1:
      progress.skip(epochs)
    else:
      progress.advance(epochs, detail)

  return count
