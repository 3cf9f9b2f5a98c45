"""Finds a finished network by what a command line names: a run, a phase, a checkpoint, a study."""

import json
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from kd_jax.checkpoints import CheckpointStore, flatten, unflatten
from kd_jax.models.safetensors_files import nest
from kd_jax.training.state import one_seed
from kd_jax.types import PyTree

from ..pipeline import lineage, runs
from ..pipeline.folder import MARKER
from .formats import Finished
from .interfaces import Interface, deployed


def find(
  run: Path,
  method: str | None = None,
  seed: int | None = None,
  which: Literal["best", "last"] = "best",
) -> Finished:
  """Reads the network that a command line names.

  Args:
    run: a run, a phase, a checkpoint, a study's folder, or a teacher's folder.
    method: whose student, if `run` is a study's folder.
    seed: of those trained together; None takes the first.
    which: of the epochs.

  Raises:
    ValueError: there is none, or there are several.
  """
  path = _checkpoint(run.absolute(), method, seed)
  if path.parent.name == "steps":
    store, step = CheckpointStore(path.parent.parent), int(path.name)
  else:
    store, step = CheckpointStore(path), None
  restored = store.restore(step)
  root = lineage.study_root(path)
  source = json.loads((root / MARKER).read_text(encoding="utf-8"))["data"]
  meta, directory = restored.meta, store.directory
  name, prefix, index = meta["kind"], "", None
  if directory.name != "final":
    seeds = meta["settings"]["seeds"]
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
      raise ValueError(f"{directory} holds the seeds {seeds}, not seed {seed}")
    prefix, index = {"best": "best.", "last": "train.variables."}[which], seeds.index(seed)
    name = f"{meta['kind'].replace(' phase ', '-')}-seed{seed}"
    name += "-last" if which == "last" else ""
  elif which == "last":
    raise ValueError(f"{directory} holds the best epoch alone: leave --which out")
  elif seed is not None:
    raise ValueError(f"{directory} holds one network for all seeds: leave --seed out")
  leaves = {
    tuple(key.removeprefix(prefix).split(".")): value
    for key, value in restored.state.items()
    if key.startswith(prefix)
  }
  variables = nest(leaves)
  variables = deployed(variables if index is None else one_seed(variables, index))
  folder = directory.parent if index is None else directory.parent.parent
  return Finished(name, folder, variables, meta, restored.digest, source)


def _checkpoint(path: Path, method: str | None, seed: int | None) -> Path:
  """The one checkpoint that a path stands for."""
  if (path / MARKER).exists():
    folders = sorted((path / "students").glob("*/seeds-*"))
    found = {folder: seeds for folder in folders if (seeds := runs.seeds_of(folder))}
    if method is None:
      names = sorted({run.parent.name for run in found})
      raise ValueError(f"{path} is a study: name one of its methods, --method {'|'.join(names)}")
    found = {run: seeds for run, seeds in found.items() if run.parent.name == method}
    wanted = [run for run, seeds in found.items() if seed is None or seed in seeds]
    if not wanted:
      raise ValueError(
        f"{path} has no student of {method}" + (f" with seed {seed}" if seed is not None else "")
      )
    # Seed 0 first, also among ten runs.
    path = min(wanted, key=lambda run: found[run][0])
  elif method is not None:
    raise ValueError(f"--method goes with a study's folder, and {path} is none")
  if (path / "final" / "seals").is_dir():
    path = path / "final"
  found = list(lineage.starts(path)) if path.is_dir() else []
  if len(found) != 1 or not (_store_of(found[0]) / "seals").is_dir():
    if (path / "phases").is_dir() or runs.seeds_of(path) is not None:
      raise ValueError(
        f"{path} is not finished: run its study again, which goes on from where it stopped"
      )
    raise ValueError(f"{path} is not a run, a phase or a checkpoint of one network")
  return found[0]


def _store_of(path: Path) -> Path:
  return path.parent.parent if path.parent.name == "steps" else path


def check_fit(face: Interface, variables: PyTree) -> None:
  """Refuses variables that are not those of the network.

  Raises:
    CheckpointError: naming what is missing, left over or of another shape.
  """
  example = face.read(face.example(1, 4))
  template = jax.eval_shape(
    lambda key: face.model.init(key, example, train=False), jax.random.key(0)
  )
  unflatten(
    jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template), flatten(variables)
  )
