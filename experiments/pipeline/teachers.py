"""The networks that students learn from: the teacher and the methods' assistants.

WORKDIR/teacher/{train,final}/         checkpoints of the training; the network that is used
WORKDIR/assistants/METHOD/...          the same for a method's assistant
"""

import dataclasses
import functools
from pathlib import Path

from kd_jax import parallel
from kd_jax.data.labelled import labelled_part
from kd_jax.teachers.sources import Teacher, live_teacher
from kd_jax.training.state import as_one_of, network_of, one_seed
from kd_jax.types import PyTree

from ..command_line import console
from ..domains.domain import ReadyTeacher
from ..domains.links import Link, LinkKind
from ..domains.registry import NetworkSpec
from . import layer_classifiers, networks, runs
from .caches import Caches
from .folder import Folder
from .networks import Network


@dataclasses.dataclass(frozen=True)
class Teachers:
  """Makes or finds the teacher and the assistants; each is made once.

  Attributes:
    folder: of the study.
    may_train: whether what is not trained yet is trained; otherwise it is refused.
  """

  folder: Folder
  may_train: bool = True
  _made: dict[str, Network] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def caches(self) -> Caches:
    """Of the networks' outputs."""
    return Caches(self.folder)

  def teacher(self) -> Network:
    """The teacher: imported, or trained on the labels and taken at its best epoch."""
    if "teacher" not in self._made:
      ready = self.folder.domain.networks.ready_teacher()
      self._made["teacher"] = self._trained_teacher() if ready is None else self._imported(ready)
    return self._made["teacher"]

  def assistant(self, row: str) -> Network:
    """The assistant of a row of the study, distilled from the teacher."""
    if row not in self._made:
      self._made[row] = self._trained_assistant(row)
    return self._made[row]

  def of(self, row: str) -> Network:
    """Whom the students of a row learn from: the teacher, or the row's assistant."""
    alone = self.folder.recipes[row].assistant is None
    return self.teacher() if alone else self.assistant(row)

  def read(self, network: Network) -> Teacher:
    """A network as the teacher of a student: from its cache, or live."""
    if self.folder.study.live_teacher:
      return live_teacher(network.model, network.variables)
    return self.caches.plan(network).read(self.caches.open(network))

  def link(self, network: Network) -> Link:
    """A link of the lineage to what students read: the cache, or the live network."""
    if self.folder.study.live_teacher:
      return network.link(self.folder, LinkKind.TEACHER)
    return self.caches.link(network)

  def _trained_teacher(self) -> Network:
    folder, data = self.folder, self.folder.domain.data
    spec, initial = folder.domain.networks.teacher, folder.domain.networks.initial("teacher", None)
    directory = folder.root / "teacher"
    recipe = folder.study.teacher_recipe(data.target)
    run = folder.make_run(
      directory / "train",
      recipe,
      spec,
      (0,),
      parent=None,
      views=data.teacher_views,
      initial=initial,
      teachers=data.teacher_train,
    )
    # What has no label is new to the teacher when students learn from it.
    task = dataclasses.replace(run.task, train=labelled_part(run.task.train))
    result = self._train("teacher", directory, dataclasses.replace(run, task=task), None)
    link = result.link(LinkKind.TRAINING)
    variables = network_of(one_seed(result.state.best, 0))
    spec = self._write_teacher(directory, spec, variables, link)[0]
    source = folder.domain.header.teacher_source
    return networks.read(folder, "teacher", directory, spec, source, [result])

  def _trained_assistant(self, row: str) -> Network:
    folder, teacher = self.folder, self.teacher()
    if not folder.study.live_teacher:
      self.caches.fill(teacher)
    spec, directory = folder.domain.networks.assistant(), folder.root / "assistants" / row
    initial = folder.domain.networks.initial("assistant", teacher.variables["params"])
    run = folder.make_run(
      directory / "train",
      folder.recipes[row].assistant,
      spec,
      (0,),
      parent=self.link(teacher),
      initial=teacher.start_of(folder, initial),
    )
    result = self._train("assistant", directory, run, teacher)
    link = result.link(LinkKind.TRAINING)
    variables = network_of(one_seed(result.state.best, 0))
    networks.write(folder, "assistant", directory, spec, variables, [link])
    return networks.read(folder, "assistant", directory, spec, "trained", [result])

  def _train(
    self, role: str, directory: Path, run: runs.Run, teacher: Network | None
  ) -> runs.PhaseResult:
    """The last phase of a run, which is trained as far as it is not."""
    networks.refuse_another_source(directory, LinkKind.TRAINING, "train")
    if not self.may_train and not runs.is_finished(run):
      raise ValueError(f"the {role} in {directory} is not trained: run the study first")
    with console.Progress(role, run.epochs(), "epochs") as progress:
      return runs.train(run, lambda: self.read(teacher), console.epoch_counter(progress))[-1]

  def _imported(self, ready: ReadyTeacher[NetworkSpec]) -> Network:
    directory = self.folder.root / "teacher"
    networks.refuse_another_source(directory, ready.link.kind, ready.link.title)
    spec, written = self._write_teacher(directory, ready.spec, ready.variables, ready.link)
    if written:
      _say_score(self.folder, ready)
    return networks.read(self.folder, "teacher", directory, spec, ready.source, [])

  def _write_teacher(
    self, directory: Path, spec: NetworkSpec, variables: PyTree, link: Link
  ) -> tuple[NetworkSpec, bool]:
    """Writes a teacher, with pseudo classifiers if its methods read them.

    Returns:
      What was written, and whether it had not been before.
    """
    links, taught = [link], self.folder.domain.networks.taught(spec)
    if taught != spec:
      params, own = layer_classifiers.found_or_trained(
        self.folder, directory, spec, variables, link, may_train=self.may_train
      )
      links.append(own)
      variables = {**variables, "params": {**variables["params"], **params}}
    return taught, networks.write(self.folder, "teacher", directory, taught, variables, links)


def _say_score(folder: Folder, ready: ReadyTeacher[NetworkSpec]) -> None:
  """An imported network that reads its inputs in another way than it learnt shows it here."""
  domain = folder.domain
  evaluate, metric = folder.evaluator(ready.spec, domain.data.validation), domain.evaluation.select
  values = evaluate(parallel.replicate(as_one_of(ready.variables))).items()
  found = {name: float(value[0]) for name, value in values}
  console.say(
    f"imported teacher: {metric} {found[metric]:.2%} on the held-out examples (it may have learnt from them)"
  )
  advice = domain.doubt(found)
  if advice:
    console.say(f"warning: hardly better than chance: {advice}")
