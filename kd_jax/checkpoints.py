"""Checkpoints that can be trusted after a crash.

A store is a folder of numbered steps. Each step is a folder that Orbax puts in place by one rename (arrays
and JSON together), and a seal, written last, once the data are on disk. Orbax does not notice a flipped bit and
has no fall-back; the seal does and has:

    STORE/steps/12/...          Orbax: "state" (a flat tree of named arrays) and "meta" (JSON)
    STORE/parts/best-9c01.../   the same, of arrays that change seldom; several steps may share one
    STORE/seals/12.json         every array's SHA-256 and where it lies, every file's checksum, and a digest

The state is stored flat, by path ("params.Dense_0.kernel"), and read back as NumPy: it can be restored on any
number of devices, and names, shapes and dtypes are compared with those that the run expects. Nothing here
is unpickled. Arrays of size zero are in the seal alone.

The digest is of the arrays, however they are stored. Steps of format 1 (before 0.2) are read as well.
"""

import concurrent.futures
import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kd_jax import _checkpoint_folders as folders, _files as files, parallel
from kd_jax._files import (
  digest_file as digest_file,
  digest_json as digest_json,
  write_json as write_json,
  write_text as write_text,
)
from kd_jax._flat_state import (
  ArrayRecord,
  CheckpointError as CheckpointError,
  FlatState,
  digest_arrays as digest_arrays,
  flatten as flatten,
  record_arrays,
  unflatten as unflatten,
)
from kd_jax.types import PyTree

FORMAT = 2
BACKGROUND_BYTES = 2**24
"""Smaller states are written at once: starting a thread gains nothing."""


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


class CheckpointStore:
  """A folder of numbered steps, of which the newest good one counts."""

  def __init__(
    self, directory: str | os.PathLike, *, keep: int | None = 2, apart: Sequence[str] = ()
  ):
    """Opens a store; the folder need not exist.

    Args:
      directory: where.
      keep: how many of the newest steps stay; None keeps all.
      apart: top-level branches of the state that change seldom, such as "best". They are written only if they
        have changed, and not at all if the rest of the state holds the same arrays.
    """
    if keep is not None and keep < 1:
      raise ValueError(f"keep must be at least 1 or None, got {keep}")
    self.directory = pathlib.Path(directory).absolute()
    self._keep = keep
    self._apart = tuple(apart)
    self._parts: dict[str, dict[str, Any]] = {}  # known to be good, as in the last seal
    self._hashed: list[tuple[np.ndarray, ArrayRecord]] = []  # of the branches apart
    self._saving: concurrent.futures.Future | None = None

  def steps(self) -> list[int]:
    """The sealed steps, in order. Whether they are intact is found out by `restore`."""
    return _numbers((self.directory / "seals").glob("*.json"))

  def save(
    self,
    step: int,
    state: PyTree,
    meta: Mapping[str, Any],
    *,
    keep: int | None = None,
    background: bool = False,
  ) -> str | None:
    """Writes a step, replacing one of the same number, and drops what `keep` does not cover.

    All processes call it; process 0's arrays are written.

    Args:
      step: its number, >= 0.
      state: a tree of arrays on the host, which must not be changed in place afterwards.
      meta: plain JSON values.
      keep: how many steps stay, this one included; by default as the store.
      background: go on at once if the state is large. The next call, or `wait`, waits for this one and
        raises its error.

    Returns:
      The digest of the arrays; None if they are still being written.

    Raises:
      CheckpointError: it cannot be written.
    """
    self.wait()
    flat = flatten(state)
    plain = json.loads(json.dumps(meta))
    keep = self._keep if keep is None else keep
    write = functools.partial(self._write, step, flat, plain, keep)
    if background and sum(array.nbytes for array in flat.values()) >= BACKGROUND_BYTES:
      pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
      self._saving = pool.submit(write)
      pool.shutdown(wait=False)
      return None
    digest = write()
    parallel.barrier(f"sealed {self.directory} {step}")
    return digest

  def wait(self) -> None:
    """Waits until the last step is sealed: in process 0, which writes it.

    Raises:
      CheckpointError: it could not be written.
    """
    if self._saving is not None:
      saving, self._saving = self._saving, None
      saving.result()

  def restore(self, step: int | None = None) -> Restored:
    """Reads a step, or the newest that is intact.

    Args:
      step: this one and no other; by default the newest good one.

    Raises:
      CheckpointError: there is none, or none is intact; every broken file is named.
    """
    self.wait()
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

  def meta(self, step: int) -> dict[str, Any]:
    """The JSON of a step alone, without its arrays."""
    return folders.read_meta(self._path(step))

  def superseded(self, keep: int = 1) -> list[pathlib.Path]:
    """What the newest steps do not need: seals and folders of older ones, and parts that no step shares."""
    kept = self.steps()[-keep:]
    if not kept:
      return []
    parts: set[str] = set()
    for step in kept:
      with contextlib.suppress(CheckpointError):  # a broken seal needs nothing
        parts |= self._seal(step).get("parts", {}).keys()
    written = _numbers((self.directory / "steps").glob("*"))
    return [
      *(self._seal_path(step) for step in self.steps() if step < kept[0]),
      *(self._path(step) for step in written if step < kept[-1] and step not in kept),
      *(
        p for p in (self.directory / "parts").glob("*") if _is_part(p.name) and p.name not in parts
      ),
    ]

  def drop_superseded(self, keep: int = 1) -> None:
    """Removes what the newest steps do not need."""
    if parallel.is_main():
      for path in self.superseded(keep):  # seals come first, so that no half-removed step counts
        _delete(path)

  def _write(self, step: int, flat: FlatState, meta: dict[str, Any], keep: int | None) -> str:
    records = self._records(flat)
    digest = digest_json(records)
    if not parallel.is_main():
      return digest
    self._remove(step)
    folders.clear_unfinished(self.directory / "steps")
    same, apart = self._divided(records)
    self._parts = {name: self._part(name, flat, apart[name]) for name in apart}
    shared = {*same, *(name for names in apart.values() for name in names)}
    own = {
      name: array
      for name, array in flat.items()
      if name not in shared and not _is_empty(records[name])
    }
    seal = {
      "format": FORMAT,
      "step": step,
      "digest": digest,
      "arrays": records,
      "same": same,
      "parts": self._parts,
      "files": folders.write(self._path(step), own, meta),
    }
    write_json(self._seal_path(step), seal | {"checksum": digest_json(seal)})
    if keep is not None:
      self.drop_superseded(keep)
    return digest

  def _records(self, flat: FlatState) -> dict[str, ArrayRecord]:
    """The record of every array; what is the very array of the last save is not hashed again."""
    known = {id(array): record for array, record in self._hashed}
    new = {id(array): array for array in flat.values() if id(array) not in known}
    known |= dict(zip(new, record_arrays(new.values()), strict=True))
    records = {name: known[id(array)] for name, array in flat.items()}
    self._hashed = [(flat[name], records[name]) for name in flat if self._branch(name)]
    return records

  def _branch(self, name: str) -> str | None:
    """The branch apart that an array belongs to."""
    first = name.partition(".")[0]
    return first if first in self._apart else None

  def _divided(
    self, records: Mapping[str, ArrayRecord]
  ) -> tuple[dict[str, str], dict[str, list[str]]]:
    """What of the branches apart equals other arrays, {name: other}; the rest by the part that holds it."""
    others = {json.dumps(records[name]): name for name in records if not self._branch(name)}
    same: dict[str, str] = {}
    left: dict[str, list[str]] = {}
    for name, record in records.items():
      if _is_empty(record):
        continue
      branch, other = self._branch(name), others.get(json.dumps(record))
      if branch is not None and other is not None:
        same[name] = other
      elif branch is not None:
        left.setdefault(branch, []).append(name)
    parts = {}
    for branch, names in left.items():
      parts[f"{branch}-{digest_json({n: records[n] for n in names})[:16]}"] = names
    return same, parts

  def _part(self, name: str, flat: FlatState, names: list[str]) -> dict[str, Any]:
    """What a seal says of a part, which is written unless the last step had it too."""
    if name in self._parts:
      return self._parts[name]
    folders.clear_unfinished(self.directory / "parts")
    shutil.rmtree(
      self._part_path(name), ignore_errors=True
    )  # whatever it is, no good step needs it
    arrays = {name: flat[name] for name in names}
    return {"arrays": names, "files": folders.write(self._part_path(name), arrays, {})}

  def _seal(self, step: int) -> dict[str, Any]:
    seal_path = self._seal_path(step)
    try:
      seal = json.loads(seal_path.read_text(encoding="utf-8"))
      newer = seal.get("format", 1) > FORMAT
      checksum = None if newer else seal.pop("checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      raise CheckpointError(f"{seal_path} cannot be read") from None
    if newer:
      raise CheckpointError(
        f"{seal_path} is of format {seal['format']}, this version reads up to {FORMAT}: use a newer kd_jax"
      )
    if digest_json(seal) != checksum:
      raise CheckpointError(f"{seal_path} was changed: its checksum differs")
    return seal

  def _checked_seal(self, step: int) -> dict[str, Any]:
    seal = self._seal(step)
    checksum = files.checksum_file if seal.get("format", 1) > 1 else digest_file
    expected = {self._path(step) / name: found for name, found in seal["files"].items()}
    for part, said in seal.get("parts", {}).items():
      expected |= {self._part_path(part) / name: found for name, found in said["files"].items()}
    for path, value in expected.items():
      if not path.is_file():
        raise CheckpointError(f"{path} is missing")
      if checksum(path) != value:
        raise CheckpointError(f"{path} was changed or cut short: its checksum differs")
    return seal

  def _read(self, step: int) -> Restored:
    seal = self._checked_seal(step)
    records, same, parts = seal["arrays"], seal.get("same", {}), seal.get("parts", {})
    shared = {*same, *(name for part in parts.values() for name in part["arrays"])}
    empty = {name: record for name, record in records.items() if _is_empty(record)}
    own = {name: r for name, r in records.items() if name not in shared and name not in empty}
    state, meta = folders.read(self._path(step), own)
    state |= {name: np.zeros(shape, dtype) for name, (dtype, shape, _) in empty.items()}
    for name, part in parts.items():
      state |= folders.read(self._part_path(name), {n: records[n] for n in part["arrays"]})[0]
    state |= {name: state[other] for name, other in same.items()}
    state = {name: state[name] for name in records}
    if seal.get("format", 1) > 1:
      self._parts, self._hashed = dict(parts), []
      if self._records(state) != records:
        raise CheckpointError(f"{self._path(step)} holds other arrays than were saved")
    return Restored(step, state, meta, seal["digest"])

  def _unsealed(self, above: int = -1) -> list[str]:
    """What to say of later steps that were never finished, or whose seal is gone."""
    sealed = self.steps()
    return [
      f"{self._path(step)} is not sealed: {self._seal_path(step)} is missing"
      for step in reversed(_numbers((self.directory / "steps").glob("*")))
      if step > above and step not in sealed
    ]

  def _path(self, step: int) -> pathlib.Path:
    return self.directory / "steps" / str(step)

  def _part_path(self, name: str) -> pathlib.Path:
    return self.directory / "parts" / name

  def _seal_path(self, step: int) -> pathlib.Path:
    return self.directory / "seals" / f"{step}.json"

  def _remove(self, step: int) -> None:
    for path in (self._seal_path(step), self._path(step)):
      _delete(path)


def _is_empty(record: ArrayRecord) -> bool:
  """Whether an array has no values: Orbax does not write such, and its record says all of it."""
  return 0 in record[1]


def _delete(path: pathlib.Path) -> None:
  if path.is_dir():
    shutil.rmtree(path, ignore_errors=True)
  else:
    path.unlink(missing_ok=True)


def _numbers(paths: Iterable[pathlib.Path]) -> list[int]:
  """The numbers that files or folders are named by, in order; others are a user's own and do not count."""
  stems = (path.stem if path.suffix == ".json" else path.name for path in paths)
  return sorted(int(stem) for stem in stems if re.fullmatch("0|[1-9][0-9]*", stem))


def _is_part(name: str) -> bool:
  return re.fullmatch(r"\w+-[0-9a-f]{16}", name) is not None
