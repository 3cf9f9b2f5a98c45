"""Orbax behind a thin wrapper that can be trusted after a crash.

A store is a folder of numbered steps. Each step is an Orbax checkpoint (arrays and JSON together, put in place
by one rename) and a seal, written last: the SHA-256 of every file, and a digest of the arrays. Orbax does not
notice a flipped bit and has no fall-back; the seal does and has:

    STORE/steps/12/...      Orbax: "state" (a flat tree of named arrays) and "meta" (JSON)
    STORE/seals/12.json     {"files": {name: sha256}, "arrays": ..., "digest": ..., "checksum": of the seal}

The state is stored flat, by path ("params.Dense_0.kernel"), and read back as NumPy: it can be restored on any
number of devices, and names, shapes and dtypes are compared with those that the run expects. Nothing here
is unpickled.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from kd_jax import parallel
from kd_jax.types import PyTree

FlatState = dict[str, np.ndarray]


class CheckpointError(ValueError):
  """A checkpoint is absent, broken, or not what the run expects."""


class Restored(NamedTuple):
  """A step read back.

  Attributes:
    step: its number.
    state: arrays by path; `unflatten` puts them into a tree.
    meta: the JSON saved with them.
    digest: of the arrays.
    problems: newer steps that were passed over, and which file of each is broken.
  """

  step: int
  state: FlatState
  meta: dict[str, Any]
  digest: str
  problems: tuple[str, ...] = ()


def flatten(tree: PyTree) -> FlatState:
  """A tree of arrays as NumPy arrays by dotted path; empty branches vanish.

  >>> sorted(flatten({"a": {"b": np.zeros(2)}, "c": (np.ones(1),)}))
  ['a.b', 'c.0']
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
    for path, leaf in leaves
  }


def unflatten(template: PyTree, state: Mapping[str, np.ndarray]) -> PyTree:
  """Puts arrays by path into the form of a template.

  Raises:
    CheckpointError: listing every path that is missing, left over, or of another shape or dtype.
  """
  expected = flatten(template)
  problems = [f"{name} is missing" for name in expected if name not in state]
  problems += [f"{name} is left over" for name in state if name not in expected]
  for name, array in expected.items():
    found = state.get(name)
    if found is not None and (found.shape, found.dtype) != (array.shape, array.dtype):
      problems.append(
        f"{name} is {found.dtype}{list(found.shape)}, expected {array.dtype}{list(array.shape)}"
      )
  if problems:
    shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" * (len(problems) > 5))
    raise CheckpointError(f"the checkpoint does not fit this model: {shown}")
  return jax.tree.unflatten(jax.tree.structure(template), [state[name] for name in expected])


def digest_arrays(state: Mapping[str, np.ndarray]) -> str:
  """SHA-256 over names, dtypes, shapes and bytes of arrays, whatever their order."""
  sha = hashlib.sha256()
  for name in sorted(state):
    array = np.ascontiguousarray(state[name])
    sha.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
    sha.update(array.view(np.uint8).data if array.size else b"")
  return sha.hexdigest()


def digest_json(value: Any) -> str:
  """SHA-256 of plain values in canonical JSON."""
  return hashlib.sha256(
    json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
  ).hexdigest()


def digest_file(path: str | os.PathLike) -> str:
  """SHA-256 of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a file so that it is either the old one or the whole new one."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.NamedTemporaryFile(
    "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
  ) as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.chmod(file.name, 0o644)
  os.replace(file.name, path)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes plain values as JSON, as `write_text` does."""
  write_text(path, json.dumps(value, indent=1) + "\n")


class CheckpointStore:
  """A folder of numbered steps, of which the newest good one counts."""

  def __init__(self, directory: str | os.PathLike, *, keep: int | None = 2):
    """Opens a store; the folder need not exist.

    Args:
      directory: where.
      keep: how many of the newest steps stay; None keeps all.
    """
    if keep is not None and keep < 1:
      raise ValueError(f"keep must be at least 1 or None, got {keep}")
    self.directory = pathlib.Path(directory).absolute()
    self._keep = keep

  def steps(self) -> list[int]:
    """The sealed steps, in order. Whether they are intact is found out by `restore`."""
    seals = (self.directory / "seals").glob("*.json")
    return sorted(int(seal.stem) for seal in seals if seal.stem.isdigit())

  def save(self, step: int, state: PyTree, meta: Mapping[str, Any]) -> str:
    """Writes a step, replacing one of the same number, and drops what `keep` does not cover.

    All processes call it; process 0's arrays are written.

    Args:
      step: its number, >= 0.
      state: a tree of arrays on the host.
      meta: plain JSON values.

    Returns:
      The digest of the arrays.
    """
    flat = flatten(state)
    digest = digest_arrays(flat)
    if parallel.is_main():
      self._remove(step)
      for leftover in (self.directory / "steps").glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)
    parallel.barrier(f"save {self.directory} {step}")
    with _quiet_orbax(), _checkpointer() as checkpointer:
      checkpointer.save(
        self._path(step),
        ocp.args.Composite(
          state=ocp.args.StandardSave(flat), meta=ocp.args.JsonSave(json.loads(json.dumps(meta)))
        ),
      )
    if parallel.is_main():
      files = {
        str(path.relative_to(self._path(step))): digest_file(path) for path in self._files(step)
      }
      arrays = {name: [array.dtype.name, list(array.shape)] for name, array in flat.items()}
      seal = {"step": step, "digest": digest, "arrays": arrays, "files": files}
      write_json(self._seal_path(step), seal | {"checksum": digest_json(seal)})
      if self._keep is not None:
        for old in self.steps()[: -self._keep]:
          self._remove(old)
    parallel.barrier(f"sealed {self.directory} {step}")
    return digest

  def restore(self, step: int | None = None) -> Restored:
    """Reads a step, or the newest that is intact.

    Args:
      step: this one and no other; by default the newest good one.

    Raises:
      CheckpointError: there is none, or none is intact; every broken file is named.
    """
    steps = self.steps() if step is None else [step]
    if not steps or (step is not None and not self._seal_path(step).exists()):
      which = "no checkpoint" if step is None else f"no step {step}"
      unsealed = f"; {'; '.join(self._unsealed())}" if step is None and self._unsealed() else ""
      raise CheckpointError(f"there is {which} in {self.directory}{unsealed}")
    problems = []
    for candidate in reversed(steps):
      try:
        restored = self._read(candidate)
      except CheckpointError as error:
        problems.append(str(error))
      else:
        problems += self._unsealed(above=candidate) if step is None else []
        return restored._replace(problems=tuple(problems))
    raise CheckpointError(
      f"no intact checkpoint is left in {self.directory}: {'; '.join(problems)}"
    )

  def restore_or_none(self) -> Restored | None:
    """The newest good step, or None where nothing was ever saved.

    Raises:
      CheckpointError: there are steps, but none is intact.
    """
    return self.restore() if self.steps() else None

  def check(self, step: int) -> str:
    """Compares every file of a step with its seal.

    Returns:
      The digest of its arrays, as sealed.

    Raises:
      CheckpointError: naming the file that is missing or changed.
    """
    return self._checked_seal(step)["digest"]

  def _checked_seal(self, step: int) -> dict[str, Any]:
    seal_path = self._seal_path(step)
    try:
      seal = json.loads(seal_path.read_text(encoding="utf-8"))
      checksum = seal.pop("checksum")
      files = seal["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      raise CheckpointError(f"{seal_path} cannot be read") from None
    if digest_json(seal) != checksum:
      raise CheckpointError(f"{seal_path} was changed: its checksum differs")
    for name, expected in files.items():
      path = self._path(step) / name
      if not path.is_file():
        raise CheckpointError(f"{path} is missing")
      if digest_file(path) != expected:
        raise CheckpointError(f"{path} was changed or cut short: its checksum differs")
    return seal

  def meta(self, step: int) -> dict[str, Any]:
    """The JSON of a step alone, without its arrays."""
    with _quiet_orbax(), _checkpointer() as checkpointer:
      try:
        restored = checkpointer.restore(
          self._path(step), ocp.args.Composite(meta=ocp.args.JsonRestore())
        )
      except Exception as error:
        raise CheckpointError(f"{self._path(step)} cannot be read: {error}") from error
    return typing.cast(dict[str, Any], restored["meta"])

  def _read(self, step: int) -> Restored:
    seal = self._checked_seal(step)
    with _quiet_orbax(), _checkpointer() as checkpointer:
      try:
        template = {
          name: np.empty(shape, jax.numpy.dtype(dtype))
          for name, (dtype, shape) in seal["arrays"].items()
        }
        restored = checkpointer.restore(
          self._path(step),
          ocp.args.Composite(state=ocp.args.StandardRestore(template), meta=ocp.args.JsonRestore()),
        )
      # Whatever Orbax meets in a broken file, the caller's question is only whether the step can be read.
      except Exception as error:
        raise CheckpointError(f"{self._path(step)} cannot be read: {error}") from error
    state = {name: np.asarray(array) for name, array in restored["state"].items()}
    if digest_arrays(state) != seal["digest"]:
      raise CheckpointError(f"{self._path(step)} holds other arrays than were saved")
    return Restored(step, state, restored["meta"], seal["digest"])

  def _unsealed(self, above: int = -1) -> list[str]:
    """What to say of later steps that were never finished, or whose seal is gone."""
    names = [path.name for path in (self.directory / "steps").glob("*") if path.name.isdigit()]
    found = sorted((int(name) for name in names), reverse=True)
    sealed = self.steps()
    return [
      f"{self._path(step)} is not sealed: {self._seal_path(step)} is missing"
      for step in found
      if step > above and step not in sealed
    ]

  def _path(self, step: int) -> pathlib.Path:
    return self.directory / "steps" / str(step)

  def _seal_path(self, step: int) -> pathlib.Path:
    return self.directory / "seals" / f"{step}.json"

  def _files(self, step: int) -> Sequence[pathlib.Path]:
    return sorted(path for path in self._path(step).rglob("*") if path.is_file())

  def _remove(self, step: int) -> None:
    self._seal_path(step).unlink(missing_ok=True)  # first, so that no half-removed step counts
    shutil.rmtree(self._path(step), ignore_errors=True)


def _checkpointer() -> ocp.Checkpointer:
  return ocp.Checkpointer(ocp.CompositeCheckpointHandler("state", "meta"))


@contextlib.contextmanager
def _quiet_orbax():
  """Orbax warns of every restore without shardings; ours are NumPy on purpose."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)
