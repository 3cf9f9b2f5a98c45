"""Teacher outputs computed once: one row for each example and view, and a manifest that says of what.

Scores of structures are kept at each sentence's true length (ragged), one view of each sentence.

    CACHE/manifest.json      what the rows are: teacher, data, augmentation, dtype, ... and a digest per chunk
    CACHE/chunks/            a `CheckpointStore`: chunk i holds the rows [i · chunk_rows, (i + 1) · chunk_rows)

Precompute writes chunk after chunk and the manifest last; stopped at any moment and started again, it goes on
after the last whole chunk and ends with the same bits. Opening compares every field of the manifest with
what the run expects, before any training, and refuses what differs.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from kd_jax import parallel
from kd_jax._sizes import check_whole
from kd_jax.checkpoints import CheckpointError, CheckpointStore, digest_json, write_json
from kd_jax.environment import environment
from kd_jax.structured import layout
from kd_jax.teachers._verification import Verification as Verification, verify as verify
from kd_jax.teachers.manifest import (
  FORMAT as FORMAT,
  MANIFEST as MANIFEST,
  BrokenCacheError as BrokenCacheError,
  CacheError as CacheError,
  CacheSpec as CacheSpec,
  make_spec as make_spec,
  open_manifest as open_manifest,
  read_manifest as read_manifest,
)
from kd_jax.teachers.predicting import Predict
from kd_jax.types import Outputs, TopK


class Cache(NamedTuple):
  """An opened cache.

  Attributes:
    outputs: arrays [N, V, ...] on the host; of structures, a `Ragged` of N sentences.
    manifest: as on disk.
    digest: of the manifest's content: specification and chunks.
  """

  outputs: Outputs | layout.Ragged
  manifest: dict[str, Any]
  digest: str


class Progress(NamedTuple):
  """How far a precompute has come, in rows."""

  done: int
  total: int


def precompute(
  directory: str | os.PathLike,
  spec: CacheSpec,
  predict: Predict,
  *,
  batch_size: int = 500,
  chunk_rows: int = 8192,
  lineage: dict[str, Any] | None = None,
) -> Iterator[Progress]:
  """Fills a cache, a chunk at a time; what an earlier run finished is kept.

  Args:
    directory: of the cache.
    spec: what it is to hold.
    predict: from `kd_jax.teachers.predicting.predictor`.
    batch_size: of all devices together.
    chunk_rows: examples in a chunk, with all their views; part of what is resumed, not of the result.
    lineage: JSON about the teacher, kept in the manifest.

  Yields:
    Progress in rows (an example under a view), after each view of each chunk.

  Raises:
    CacheError: the folder holds a finished cache of something else; or outputs that are not finite.
    ValueError: a batch that does not divide over the devices, sizes below 1, or no examples.
  """
  directory = pathlib.Path(directory)
  check_whole("batch_size", batch_size)
  parallel.device_batch_size(batch_size)
  check_whole("chunk_rows", chunk_rows)
  check_whole("num_examples", spec.num_examples)
  if (directory / MANIFEST).exists():
    open_manifest(directory, spec)
  store = CheckpointStore(directory / "chunks", keep=None)
  spec_digest = digest_json(dataclasses.asdict(spec) | {"chunk_rows": chunk_rows})
  total = spec.num_examples * spec.views
  starts = range(0, spec.num_examples, chunk_rows)
  digests, done = [], 0
  for index, start in enumerate(starts):
    rows = np.arange(start, min(start + chunk_rows, spec.num_examples))
    digest = _finished_chunk(store, index, spec_digest)
    if digest is None:
      views = []
      for view in range(spec.views):
        views.append(_narrowed(predict(rows, view, batch_size), spec, rows, view))
        yield Progress(done + len(rows) * (view + 1), total)
      if spec.structure is None:
        chunk = {name: np.stack([v[name] for v in views], axis=1) for name in views[0]}
      else:
        (chunk,) = views
      digest = store.save(index, chunk, {"spec": spec_digest, "rows": len(rows)})
    done += len(rows) * spec.views
    digests.append(digest)
    yield Progress(done, total)
  content = {"spec": dataclasses.asdict(spec), "chunks": digests}
  if parallel.is_main():
    write_json(
      directory / MANIFEST,
      content
      | {
        "format": FORMAT,
        "digest": digest_json(content),
        "teacher_lineage": lineage or {},
        "versions": environment(),
      },
    )
  parallel.barrier(f"cache {directory}")


def open_cache(directory: str | os.PathLike, expected: CacheSpec) -> Cache:
  """Reads a cache, after comparing all that it is with what the run expects.

  Raises:
    CacheError: no finished cache; a field that differs, with both values and the remedy; a broken file, named.
  """
  directory = pathlib.Path(directory)
  manifest = open_manifest(directory, expected)
  chunks = _read_chunks(directory, manifest["chunks"])
  kind = expected.structure
  outputs = _assemble(chunks, expected) if kind is None else _joined(chunks, kind)
  return Cache(outputs, manifest, manifest["digest"])


def _read_chunks(directory: pathlib.Path, digests: list[str]) -> Iterator[dict[str, np.ndarray]]:
  """The chunks in order, each compared with the manifest."""
  store = CheckpointStore(directory / "chunks", keep=None)
  for index, digest in enumerate(digests):
    try:
      chunk = store.restore(index)
    except CheckpointError as error:
      raise BrokenCacheError(
        f"{error}; precompute again: only broken chunks are made anew"
      ) from None
    if chunk.digest != digest:
      raise BrokenCacheError(
        f"chunk {index} of {directory} has digest {chunk.digest[:12]}, the manifest says "
        f"{digest[:12]}; precompute again"
      )
    yield chunk.state


def _assemble(chunks: Iterator[dict[str, np.ndarray]], spec: CacheSpec) -> Outputs:
  """Arrays of all rows, into which each chunk is copied as it is read: the host holds one chunk besides."""
  arrays: dict[str, Any] = {}
  done = 0
  for chunk in chunks:
    for name, part in chunk.items():
      if name not in arrays:
        arrays[name] = np.empty((spec.num_examples, *part.shape[1:]), part.dtype)
      arrays[name][done : done + len(part)] = part
    done += len(part)
  if spec.top_k is not None:
    return Outputs(top_k=TopK(**arrays))
  # Layers of several shapes are kept one by one, in order.
  apart = [arrays.pop(name) for name in list(arrays) if name.startswith("layers.")]
  if apart:
    arrays["layers"] = tuple(apart)
  return Outputs(**arrays)


def _joined(chunks: Iterator[dict[str, np.ndarray]], kind: str) -> layout.Ragged:
  return layout.join([_as_ragged(chunk, kind) for chunk in chunks])


def _as_ragged(chunk: dict[str, np.ndarray], kind: str) -> layout.Ragged:
  """A chunk as read back: arrays by dotted path."""
  fields: dict[str, dict[str, np.ndarray]] = {"values": {}, "shared": {}}
  for path, array in chunk.items():
    group, _, name = path.partition(".")
    if name:
      fields[group][name] = array
  return layout.Ragged(kind, chunk["lengths"], **fields)


def check_cache(directory: str | os.PathLike) -> dict[str, Any]:
  """Compares every file of a cache with its checksum, whatever it is a cache of; gives the manifest.

  Raises:
    CacheError: no finished cache, or a broken file, named.
  """
  directory = pathlib.Path(directory)
  manifest = read_manifest(directory)
  store = CheckpointStore(directory / "chunks", keep=None)
  for index, digest in enumerate(manifest["chunks"]):
    try:
      found = store.check(index)
    except CheckpointError as error:
      raise BrokenCacheError(str(error)) from None
    if found != digest:
      raise BrokenCacheError(f"chunk {index} of {directory} is not the one of the manifest")
  return manifest


def _narrowed(outputs: Any, spec: CacheSpec, rows: np.ndarray, view: int) -> dict[str, Any]:
  """What a chunk holds of the teacher's outputs on some rows; what sentences share stays float32."""
  if spec.structure is None:
    return {name: _narrow(x, name, spec, rows, view) for name, x in outputs.items()}
  if outputs.kind != spec.structure:
    raise CacheError(f"the teacher gives {outputs.kind}, the cache is of {spec.structure}")
  values = {
    name: _narrow(x, name, spec, np.repeat(rows, outputs.sizes(name)), view)
    for name, x in outputs.values.items()
  }
  for name, array in outputs.shared.items():
    if not np.isfinite(array).all():
      raise CacheError(f"the teacher's {name}, which all sentences share, are not finite")
  return {"lengths": outputs.lengths, "values": values, "shared": outputs.shared}


def _narrow(x: np.ndarray, name: str, spec: CacheSpec, rows: np.ndarray, view: int) -> np.ndarray:
  """Checks and casts one array of outputs, each entry of which belongs to a row; indices stay whole numbers."""
  if not np.isfinite(x).all():
    bad = rows[np.argwhere(~np.isfinite(x))[0][0]]
    raise CacheError(f"the teacher's {name} of row {bad}, view {view}, are not finite")
  if name == "indices":
    return x
  with np.errstate(over="ignore"):
    narrow = x.astype(spec.dtype)
  if not np.isfinite(narrow).all():
    raise CacheError(
      f"the teacher's {name} reach {np.abs(x).max():.6g}, beyond {spec.dtype}: cache float32"
    )
  return narrow


def _finished_chunk(store: CheckpointStore, index: int, spec_digest: str) -> str | None:
  """The digest of a chunk that an earlier run finished, intact and of this very specification."""
  try:
    digest = store.check(index)
    return digest if store.meta(index)["spec"] == spec_digest else None
  except (CheckpointError, KeyError):
    return None
