"""The networks that others learn from, teacher and assistants, and their cached outputs.

WORKDIR/teacher/{train,final}/         checkpoints of the training; the network that is used
WORKDIR/cache/                         its outputs on the training examples
WORKDIR/assistants/METHOD/...          the same for a method's assistant
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from experiments import console, layer_classifiers, runs
from experiments.config import Study, Where, plain
from experiments.domains.domain import Initial, ReadyTeacher, Spec
from experiments.setting import Setting
from kd_jax import parallel
from kd_jax.checkpoints import CheckpointError, CheckpointStore
from kd_jax.data.labelled import labelled_part
from kd_jax.environment import Environment
from kd_jax.models.spec import parameter_count
from kd_jax.recipes.parts import Budget, Recipe
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.teachers.sources import Teacher, live_teacher
from kd_jax.training.state import as_one_of, network_of, one_seed
from kd_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Network:
  """A finished network that others learn from.

  Attributes:
    role: "teacher" or "assistant".
    spec: its architecture.
    model: to apply.
    variables: on the host.
    digest: of the variables.
    source: where it came from, in words, such as "trained" or which file was imported.
    directory: of its checkpoint and cache.
    seconds: of training; None where it was imported.
    validation: its score on the held-out examples; None where it was imported.
    made_with: the versions and devices that took part.
  """

  role: str
  spec: Spec
  model: nn.Module
  variables: PyTree
  digest: str
  source: str
  directory: Path
  seconds: float | None
  validation: float | None
  made_with: tuple[Environment, ...] = ()

  @property
  def parameters(self) -> int:
    return parameter_count(self.variables)


class Networks(Setting):
  """Makes or finds the teacher, the assistants and their caches."""

  def __init__(self, study: Study, where: Where):
    """As `Setting`; trains nothing yet. A cache that could not be made is refused now."""
    super().__init__(study, where)
    self.domain.cache_spec("", {}, self.domain.teacher)
    self.may_train = True
    self._networks: dict[str, Network] = {}
    self._caches: dict[Path, teacher_cache.Cache] = {}

  def teacher(self) -> Network:
    """The teacher: imported, or trained on the labels and taken at its best epoch."""
    if "teacher" not in self._networks:
      self._networks["teacher"] = self._make_teacher()
    return self._networks["teacher"]

  def _make_teacher(self) -> Network:
    directory = self.root / "teacher"
    ready = self.domain.ready_teacher()
    if ready is not None:
      return self._imported_teacher(directory, ready)
    epochs, optimizer = self.study.teacher_epochs, self.study.teacher_optimizer
    budget = Budget(epochs, optimizer, self.domain.num_classes)
    recipe = dataclasses.replace(self.study.registry["scratch"](budget), name="teacher")
    return self._trained_network("teacher", directory, self.domain.teacher, recipe, None)

  def assistant(self, method: str) -> Network:
    """A method's assistant, distilled from the teacher."""
    if method not in self._networks:
      recipe, teacher = self.recipes[method].assistant, self.teacher()
      if not self.study.live_teacher:
        self.precompute(teacher)
      self._networks[method] = self._trained_network(
        "assistant", self.root / "assistants" / method, self.domain.assistant, recipe, teacher
      )
    return self._networks[method]

  def _trained_network(
    self,
    role: str,
    directory: Path,
    spec: Spec,
    recipe: Recipe,
    teacher: Network | None,
  ) -> Network:
    link = None if teacher is None else self.teacher_link(teacher)
    views = self.domain.teacher_views if teacher is None else None
    initial = self.initial(spec, teacher)
    train = self.domain.teacher_train if teacher is None else None
    run = self.make_run(directory / "train", recipe, spec, (0,), link, views, initial, train)
    if teacher is None:  # what has no label is new to the teacher when students learn from it
      task = dataclasses.replace(run.task, train=labelled_part(run.task.train))
      run = dataclasses.replace(run, task=task)
    self._refuse_another_source(directory, "train")
    if not self.may_train and not runs.is_finished(run):
      raise ValueError(f"the {role} in {directory} is not trained: run the study first")
    with console.Progress(role, run.epochs(), "epochs") as progress:
      result = runs.train(run, lambda: self.source(teacher), console.epoch_counter(progress))[-1]
    parent = {"kind": result.phase.name, "path": result.path, "digest": result.digest}
    variables = one_seed(result.state.best, 0)
    spec = self._finish(role, directory, spec, network_of(variables), parent)[0]
    return self._network(
      role,
      directory,
      spec,
      source=self.domain.teacher_source if teacher is None else "trained",
      seconds=sum(record.seconds for record in result.history),
      validation=float(result.state.best_score[0]),
      made_with=result.made_with,
    )

  def _imported_teacher(self, directory: Path, ready: ReadyTeacher) -> Network:
    self._refuse_another_source(directory, ready.parent["kind"])
    spec, written = self._finish("teacher", directory, ready.spec, ready.variables, ready.parent)
    if written:
      self._say_score(ready.spec, ready.variables)
    return self._network("teacher", directory, spec, source=ready.source)

  def _finish(
    self, role: str, directory: Path, spec: Spec, variables: PyTree, parent: runs.Parent
  ) -> tuple[Spec, bool]:
    """Writes a trained or imported network, a teacher with pseudo classifiers where its domain has them.

    Returns:
      What was written, and whether it had not been before.
    """
    parents = [parent]
    settings = {"model": plain(spec), "num_classes": self.domain.num_classes}
    with_classifiers = self.domain.with_layer_classifiers(spec) if role == "teacher" else spec
    if with_classifiers != spec:
      settings |= {"model": plain(with_classifiers)}
      params, link = layer_classifiers.found_or_trained(self, directory, spec, variables, parent)
      parents.append(link)
      variables = {**variables, "params": {**variables["params"], **params}}
    meta = {"kind": role, "settings": settings, "parents": parents}
    meta |= self.domain.kept_with_checkpoints()
    return with_classifiers, self._save_final(directory, variables, meta)

  def _refuse_another_source(self, directory: Path, kind: str) -> None:
    """Refuses, before anything is trained, a folder whose network was imported where one is to be trained."""
    if not (directory / "final" / "seals").is_dir():
      return
    try:
      found = CheckpointStore(directory / "final").restore().meta["parents"][0]["kind"]
    except CheckpointError:
      return  # it is written anew
    if found.startswith("weights") != kind.startswith("weights"):
      raise ValueError(
        f"the network in {directory} came from a {found}, this run would make it from a {kind}: give the "
        "same --teacher-weights as before, or another --workdir"
      )

  def _say_score(self, spec: Spec, variables: PyTree) -> None:
    """An imported network that reads its inputs in another way than it learnt shows it here."""
    evaluate, metric = self.evaluator(spec, self.domain.validation), self.domain.evaluation.select
    values = evaluate(parallel.replicate(as_one_of(variables))).items()
    found = {name: float(value[0]) for name, value in values}
    console.say(
      f"imported teacher: {metric} {found[metric]:.2%} on the held-out examples (it may have learnt from them)"
    )
    advice = self.domain.doubt(found)
    if advice:
      console.say(f"warning: hardly better than chance: {advice}")

  def _save_final(self, directory: Path, variables: PyTree, meta: dict[str, Any]) -> bool:
    """Writes a finished network, unless it stands there already; says whether it did."""
    store = CheckpointStore(directory / "final")
    meta = json.loads(json.dumps(meta))
    if store.steps():
      try:
        found = store.restore()
      except ValueError as error:
        console.say(f"warning: {error}; it is written anew")
      else:
        if {name: found.meta.get(name) for name in meta} == meta:
          return False
        if found.meta["parents"] != meta["parents"]:
          raise ValueError(
            f"{directory} holds another {meta['kind']}, made from {found.meta['parents']}, this run "
            f"has {meta['parents']}: use another --workdir, or delete that folder"
          )
    runs.save_network(directory / "final", variables, meta)
    return True

  def _network(self, role, directory, spec, *, source, seconds=None, validation=None, made_with=()):
    model = self.domain.build(spec)
    example = jax.tree.map(lambda x: x[:1], self.domain.train.buckets[0].inputs)
    variables, restored = runs.load_network(directory / "final", model, example)
    made_with = (*made_with, *restored.meta.get("made_with", []))
    return Network(
      *(role, spec, model, variables, restored.digest, source, directory, seconds, validation),
      made_with,
    )

  def initial(self, spec: Spec, teacher: Network | None) -> Initial | None:
    """What a network starts from; where that is the teacher, with a link of the lineage to it."""
    found = self.domain.initial(spec, teacher)
    if found is None or found.parent is not None or not found.weights:
      return found
    path = teacher.directory / "final" / "steps" / "0"
    return found._replace(parent=self.link("starting weights", path, teacher.digest))

  # Teacher outputs.

  def cache_spec(self, network: Network) -> teacher_cache.CacheSpec:
    """What a cache of this network's outputs must be."""
    return self.domain.cache_spec(network.digest, plain(network.spec), network.spec)

  def cache_dir(self, network: Network) -> Path:
    """The teacher's cache lies at the top of the study, an assistant's beside it."""
    return self.root / "cache" if network.role == "teacher" else network.directory / "cache"

  def predictor(self, network: Network) -> predicting.Predict:
    """What the network says of the training examples, as its cache keeps it."""
    return self.domain.predictor(network.spec, network.model, network.variables)

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
    link = self.link(network.role, network.directory / "final" / "steps" / "0", network.digest)
    steps = teacher_cache.precompute(
      directory,
      spec,
      self.predictor(network),
      batch_size=self.evaluation_batch_size,
      chunk_rows=1024,
      lineage={"parents": [link, self.data_link()]},
    )
    total = spec.num_examples * spec.views
    with (
      runs.locked(directory),
      console.Progress(f"precompute {network.role}", total, "rows") as progress,
    ):
      for state in steps:
        progress.to(state.done)

  def source(self, network: Network) -> Teacher:
    """The teacher of a student, from its cache or alive."""
    if self.study.live_teacher:
      return live_teacher(network.model, network.variables)
    return self.domain.cached_teacher(self.open_cache(network))

  def teacher_link(self, network: Network) -> runs.Parent:
    """A link of the lineage to what students read: the cache, or the live network."""
    if self.study.live_teacher:
      path = network.directory / "final" / "steps" / "0"
      return self.link("teacher", path, network.digest)
    directory = self.cache_dir(network)
    manifest = teacher_cache.open_manifest(directory, self.cache_spec(network))
    return self.link("cache", directory, manifest["digest"])
