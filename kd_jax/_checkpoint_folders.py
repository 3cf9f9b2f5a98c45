"""One folder that Orbax writes: a flat tree of named arrays, "state", and JSON, "meta".

Arrays are written as they are: compressing weights saves a tenth of the space and takes ten times as long. Each
process works by itself, without Orbax's barriers, so that a background thread can write.
"""

import contextlib
import logging
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from kd_jax import _files as files
from kd_jax._flat_state import CheckpointError, FlatState

UNFINISHED = "*.orbax-checkpoint-tmp*"
"""What Orbax calls a folder until it is whole."""


def write(path: pathlib.Path, arrays: FlatState, meta: Mapping[str, Any]) -> dict[str, str]:
  """Writes a folder that is not there yet, and waits until it is on disk.

  Returns:
    The checksum of every file, by its name within the folder.

  Raises:
    CheckpointError: it cannot be written; nothing is left of it.
  """
  items: dict[str, Any] = {"meta": ocp.args.JsonSave(meta)}
  if arrays:
    items["state"] = ocp.args.PyTreeSave(arrays)
  try:
    with _quiet_orbax(), _checkpointer() as checkpointer:
      checkpointer.save(path, ocp.args.Composite(**items))
    found = sorted(path.rglob("*"))
    files.sync([*found, path, path.parent])
    return {str(f.relative_to(path)): files.checksum_file(f) for f in found if f.is_file()}
  # Orbax and TensorStore have many errors for a disk that is full.
  except Exception as error:
    clear_unfinished(path.parent)
    shutil.rmtree(path, ignore_errors=True)
    raise CheckpointError(
      f"{path} could not be written: {_brief(error)}; with space on the disk, the same command goes on"
    ) from error


def read(
  path: pathlib.Path, arrays: Mapping[str, Sequence[Any]]
) -> tuple[FlatState, dict[str, Any]]:
  """Reads a folder.

  Args:
    path: of the folder.
    arrays: what it holds: (dtype, shape, ...) by name.

  Returns:
    The arrays, and the JSON.

  Raises:
    CheckpointError: it cannot be read.
  """
  template = {
    name: np.empty(shape, jax.numpy.dtype(dtype)) for name, (dtype, shape, *_) in arrays.items()
  }
  items: dict[str, Any] = {"meta": ocp.args.JsonRestore()}
  if arrays:
    plain = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in template}
    items["state"] = ocp.args.PyTreeRestore(template, restore_args=plain)
  restored = _restore(path, items)
  state = {name: np.asarray(array) for name, array in (restored.get("state") or {}).items()}
  return state, restored["meta"]


def read_meta(path: pathlib.Path) -> dict[str, Any]:
  """Reads the JSON of a folder alone.

  Raises:
    CheckpointError: it cannot be read.
  """
  return _restore(path, {"meta": ocp.args.JsonRestore()})["meta"]


def clear_unfinished(folder: pathlib.Path) -> None:
  """Removes what a process that was killed left half written."""
  for leftover in folder.glob(UNFINISHED):
    shutil.rmtree(leftover, ignore_errors=True)


def _restore(path: pathlib.Path, items: dict[str, Any]) -> Any:
  with _quiet_orbax(), _checkpointer() as checkpointer:
    try:
      return checkpointer.restore(path, ocp.args.Composite(**items))
    # Whatever Orbax meets in a broken file, the caller's question is only whether it can be read.
    except Exception as error:
      raise CheckpointError(f"{path} cannot be read: {_brief(error)}") from error


def _brief(error: Exception) -> str:
  """One short line; of TensorStore's long ones, the operating system's reason."""
  text = " ".join(str(error).split()) or type(error).__name__
  reason = re.search(r"os_error_code='(\d+)'", text)
  text = os.strerror(int(reason[1])) if reason else text
  return text if len(text) <= 200 else text[:200] + "…"


def _checkpointer() -> ocp.Checkpointer:
  local = ocp.options.MultiprocessingOptions()
  if jax.process_count() > 1:
    here = jax.process_index()
    local = ocp.options.MultiprocessingOptions(
      primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
  arrays = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=local)
  handler = ocp.CompositeCheckpointHandler(
    "meta",
    state=arrays,
    composite_options=ocp.CompositeOptions(multiprocessing_options=local),
  )
  return ocp.Checkpointer(handler, multiprocessing_options=local)


_quiet = threading.Lock()
_quiet_for = 0
_level = logging.NOTSET  # of Orbax's logger before it was quiet


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
  """Keeps Orbax from logging, on any thread: what goes wrong is raised as well, and said once."""
  global _quiet_for, _level
  logger = logging.getLogger("absl")
  with _quiet:
    if not _quiet_for:
      _level = logger.level
      logger.setLevel(logging.CRITICAL)
    _quiet_for += 1
  try:
    yield
  finally:
    with _quiet:
      _quiet_for -= 1
      if not _quiet_for:
        logger.setLevel(_level)
