"""Finished networks that others learn from, as they are kept.

DIRECTORY/final/    the network that is used: of the best epoch, or imported
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

from kd_jax.checkpoints import CheckpointError, CheckpointStore, Restored, unflatten
from kd_jax.environment import Environment, environment
from kd_jax.models.spec import parameter_count
from kd_jax.types import PyTree

from ..command_line import console
from ..domains import tracing
from ..domains.domain import Initial
from ..domains.links import IMPORTED, Link, LinkKind
from ..domains.registry import NetworkSpec
from ..domains.study import plain
from . import runs
from .folder import Folder


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
    seconds: of training; None if it was imported.
    validation: its score on the held-out examples; None if it was imported.
    made_with: the versions and devices that took part.
    made_from: digests of its training or the imported weights, then of the training of its pseudo classifiers.
  """

  role: Literal["teacher", "assistant"]
  spec: NetworkSpec
  model: nn.Module
  variables: PyTree
  digest: str
  source: str
  directory: Path
  seconds: float | None = None
  validation: float | None = None
  made_with: tuple[Environment, ...] = ()
  made_from: tuple[str, ...] = ()

  @property
  def parameters(self) -> int:
    return parameter_count(self.variables)

  @property
  def checkpoint(self) -> Path:
    """The folder that links of the lineage name."""
    return self.directory / "final" / "steps" / "0"

  def link(self, folder: Folder, kind: LinkKind | None = None) -> Link:
    """A link of the lineage to this network; by default of the kind of its role."""
    return folder.link(kind or LinkKind(self.role), self.checkpoint, self.digest)

  def start_of(self, folder: Folder, initial: Initial | None) -> Initial | None:
    """What another network starts from; if that is this one, with a link of the lineage to it."""
    if initial is None or initial.link is not None or not initial.weights:
      return initial
    return initial._replace(link=self.link(folder, LinkKind.STARTING_WEIGHTS))


def read(
  folder: Folder,
  role: Literal["teacher", "assistant"],
  directory: Path,
  spec: NetworkSpec,
  source: str,
  training: list[runs.PhaseResult],
) -> Network:
  """Reads a finished network.

  Args:
    folder: the study's.
    role: of the network.
    directory: of the network.
    spec: its architecture.
    source: where it came from, in words.
    training: the last phase of its training; empty if it was imported.

  Raises:
    CheckpointError: absent, broken or of another shape.
  """
  model = folder.domain.networks.build(spec, None)
  example = tracing.example(folder.domain.data.train)
  variables, restored = _load(directory / "final", model, example)
  made_with = [found for result in training for found in result.made_with]
  made_with += restored.meta.get("made_with", [])
  network = Network(
    *(role, spec, model, variables, restored.digest, source, directory),
    made_with=tuple(made_with),
    made_from=tuple(link["digest"] for link in restored.meta["parents"]),
  )
  for result in training:
    seconds = sum(record.seconds for record in result.history)
    score = float(np.asarray(result.state.best_score)[0])
    network = dataclasses.replace(network, seconds=seconds, validation=score)
  return network


def write(
  folder: Folder,
  role: Literal["teacher", "assistant"],
  directory: Path,
  spec: NetworkSpec,
  variables: PyTree,
  links: list[Link],
) -> bool:
  """Writes a finished network, unless it stands there already.

  Returns:
    Whether it did.

  Raises:
    ValueError: the folder holds a network that came from elsewhere.
  """
  store = CheckpointStore(directory / "final")
  data = folder.domain.data
  settings = {"model": plain(spec), "num_classes": data.num_classes}
  parents = [link.to_json() for link in links]
  meta = {"kind": role, "settings": settings, "parents": parents} | data.kept
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
          f"{directory} holds another {role}, made from {found.meta['parents']}, this run "
          f"has {meta['parents']}: use another --workdir, or delete that folder"
        )
  _save(directory / "final", variables, meta)
  return True


def refuse_another_source(directory: Path, kind: LinkKind, title: str) -> None:
  """Refuses, before anything is trained, a folder whose network was imported if one is to be trained.

  Args:
    directory: of the network.
    kind: what this run would make it from.
    title: the same for the user.

  Raises:
    ValueError: the one in the folder was made in the other way.
  """
  if not (directory / "final" / "seals").is_dir():
    return
  try:
    found = Link.from_json(CheckpointStore(directory / "final").restore().meta["parents"][0])
  except CheckpointError:
    return  # it is written anew
  if (found.kind in IMPORTED) != (kind in IMPORTED):
    raise ValueError(
      f"the network in {directory} came from a {found.title}, this run would make it from a {title}: give "
      "the same --teacher-weights as before, or another --workdir"
    )


def _save(directory: Path, variables: PyTree, meta: dict[str, Any]) -> None:
  """Writes a finished network, [no seed axis], as a checkpoint of its own."""
  meta = meta | {"made_with": [environment()]}
  CheckpointStore(directory).save(0, jax.tree.map(np.asarray, variables), meta, keep=1)


def _load(directory: Path, model, example: PyTree) -> tuple[PyTree, Restored]:
  """Reads a finished network back into the form of a model.

  Raises:
    CheckpointError: absent, broken or of another shape.
  """
  restored = CheckpointStore(directory).restore()
  template = jax.eval_shape(lambda key: model.init(key, example, train=False), jax.random.key(0))
  template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
  return unflatten(template, restored.state), restored
