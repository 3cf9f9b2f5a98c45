"""The cached outputs of the networks that others learn from.

WORKDIR/cache/                     of the teacher
WORKDIR/assistants/METHOD/cache/   of a method's assistant
"""

import dataclasses
from pathlib import Path

from kd_jax import parallel
from kd_jax.teachers import cache as teacher_cache, predicting

from ..command_line import console
from ..domains.domain import CachePlan
from ..domains.links import Link, LinkKind
from . import runs
from .folder import Folder
from .networks import Network


@dataclasses.dataclass(frozen=True)
class Caches:
  """Fills, opens and links the caches of a study's folder; a cache is opened once."""

  folder: Folder
  _opened: dict[Path, teacher_cache.Cache] = dataclasses.field(default_factory=dict)

  def plan(self, network: Network) -> CachePlan:
    """How the network's outputs are cached."""
    return self.folder.domain.cache_plan(network.spec, network.digest)

  def directory(self, network: Network) -> Path:
    """The teacher's cache lies at the top of the study, an assistant's in its own folder."""
    top = self.folder.root if network.role == "teacher" else network.directory
    return top / "cache"

  def predictor(self, network: Network) -> predicting.Predict:
    """What the network gives for the training examples, as its cache keeps it."""
    return self.plan(network).predict(network.model, network.variables)

  def fill(self, network: Network) -> teacher_cache.Cache:
    """Fills the cache as far as it is not, and opens it."""
    directory = self.directory(network)
    if directory in self._opened:
      return self._opened[directory]
    finished = (directory / teacher_cache.MANIFEST).exists()
    parallel.barrier(f"looked at {directory}")  # before any process can write it
    if not finished:
      self._precompute(network)
    try:
      return self.open(network)
    except teacher_cache.BrokenCacheError as error:
      console.say(f"warning: {error}")
      self._precompute(network)
      return self.open(network)

  def open(self, network: Network) -> teacher_cache.Cache:
    """The finished cache, compared with what this study needs; errors as `teacher_cache.open_cache`."""
    directory = self.directory(network)
    if directory not in self._opened:
      self._opened[directory] = teacher_cache.open_cache(directory, self.plan(network).spec)
    return self._opened[directory]

  def link(self, network: Network) -> Link:
    """A link of the lineage to the finished cache."""
    directory = self.directory(network)
    manifest = teacher_cache.open_manifest(directory, self.plan(network).spec)
    return self.folder.link(LinkKind.CACHE, directory, manifest["digest"])

  def _precompute(self, network: Network) -> None:
    directory, plan = self.directory(network), self.plan(network)
    links = (network.link(self.folder), self.folder.data_link())
    steps = teacher_cache.precompute(
      directory,
      plan.spec,
      plan.predict(network.model, network.variables),
      batch_size=self.folder.evaluation_batch_size,
      chunk_rows=1024,
      lineage={"parents": [link.to_json() for link in links]},
    )
    total = plan.spec.num_examples * plan.spec.views
    with (
      runs.locked(directory),
      console.Progress(f"precompute {network.role}", total, "rows") as progress,
    ):
      for state in steps:
        progress.to(state.done)
