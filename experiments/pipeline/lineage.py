"""What a checkpoint or a cache came from, as its study's folder has it."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_jax.checkpoints import CheckpointError, CheckpointStore, digest_file
from kd_jax.teachers import cache as teacher_cache

from ..domains import registry, text_sources
from ..domains.links import Link, LinkKind
from . import runs
from .folder import MARKER


@dataclasses.dataclass(frozen=True)
class Node:
  """Something on disk with a digest and parents.

  Attributes:
    kind: what it is.
    path: where, relative to the study.
    digest: as it is now; None where it is broken.
    parents: links as recorded.
    problem: what is wrong with it, or "".
  """

  kind: str
  path: str
  digest: str | None
  parents: tuple[Link, ...]
  problem: str = ""


def read_node(root: Path, path: Path) -> Node:
  shown = str(path.relative_to(root))
  try:
    if (path / teacher_cache.MANIFEST).exists():
      manifest = teacher_cache.check_cache(path)
      parents = _links(manifest["teacher_lineage"].get("parents", []))
      stated = manifest["spec"]["teacher"] in [link.digest for link in parents]
      problem = (
        ""
        if stated or not parents
        else f"BROKEN: {path} names another teacher than its rows are of"
      )
      return Node("cache", shown, manifest["digest"], parents, problem)
    if path.parent.name == "steps":
      restored = CheckpointStore(path.parent.parent).restore(int(path.name))
    else:
      restored = CheckpointStore(path).restore()
      shown = f"{shown}/steps/{restored.step}"
  except (CheckpointError, teacher_cache.CacheError) as error:
    return Node("?", shown, None, (), problem=f"BROKEN: {error}")
  problem = f"BROKEN newer steps: {'; '.join(restored.problems)}" if restored.problems else ""
  parents = _links(restored.meta["parents"])
  return Node(restored.meta["kind"], shown, restored.digest, parents, problem)


def _links(said: Any) -> tuple[Link, ...]:
  return tuple(map(Link.from_json, said))


def leaf_verdict(root: Path, link: Link, data_dir: Path | None) -> str:
  """Data and imported files lie outside the study; they are compared where they can be found."""
  marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
  if link.kind is LinkKind.WEIGHTS_FILE:
    path = Path(marker["study"]["teacher_weights"] or "")
    if not path.is_file():
      return "not checked: the file is not here"
    return "matches" if digest_file(path) == link.digest else "DIFFERS: the file has changed"
  if link.kind is LinkKind.WEIGHTS_FOLDER:
    return _folder_verdict(marker["data"], link)
  source = marker["data"]
  if link.of is not None:
    source = source | {"of": link.of}
  now = _fingerprint(json.dumps(source), data_dir)
  if now is None:
    return "not checked: the data are not prepared here; see --data-dir"
  return "matches" if now == link.digest else f"DIFFERS: the data are now {short(now)}"


def _folder_verdict(source: dict[str, Any], link: Link) -> str:
  """Pretrained weights: the teacher's folder, or the student's own."""
  changed = False
  for name in (source["weights"], source["student_weights"]):
    try:
      folder = text_sources.weights_folder(name)
    except ValueError:
      continue
    if folder is None:
      continue
    if text_sources.folder_digest(folder) == link.digest:
      return "matches"
    # Folders of one name may both be there: only after looking at both has one changed.
    changed |= folder.name == link.name
  return "DIFFERS: the weights have changed" if changed else "not checked: the folder is not here"


@functools.cache
def _fingerprint(source: str, data_dir: Path | None) -> str | None:
  """Of the training examples as they are on disk now, or None where they are not."""
  return registry.fingerprint(json.loads(source), data_dir)


def starts(path: Path) -> Iterator[Path]:
  """The checkpoints or caches that a path stands for: the last phase of each run below it."""
  if (
    (path / teacher_cache.MANIFEST).exists()
    or path.parent.name == "steps"
    or (path / "seals").is_dir()
  ):
    yield path
  elif (path / "checkpoints").is_dir():
    yield path / "checkpoints"
  elif (path / MARKER).exists():
    for run in sorted((path / "students").glob("*/*")):
      if runs.seeds_of(run) is not None:
        yield from starts(run)
  elif path.is_dir():
    nodes = {
      phase: read_node(study_root(phase), phase / "checkpoints")
      for phase in sorted(path.iterdir())
      if (phase / "checkpoints" / "seals").is_dir()
    }
    # A user's copy has another name than the phase that it is of; a broken one is not known to be a copy.
    phases = [
      p for p, node in nodes.items() if node.problem or node.kind.endswith(f" phase {p.name}")
    ]
    # The last phase is the one that no other phase of the run came from.
    parents = {
      link.phase for phase in phases for link in nodes[phase].parents if link.kind is LinkKind.PHASE
    }
    yield from (phase / "checkpoints" for phase in phases if phase.name not in parents)


def study_root(path: Path) -> Path:
  """The study that a path belongs to."""
  for folder in (path.absolute(), *path.absolute().parents):
    if (folder / MARKER).exists():
      return folder
  raise ValueError(f"{path} is not within a study: no folder above it has a {MARKER}")


def short(digest: str | None) -> str:
  return "?" * 12 if digest is None else digest[:12]
