"""Teacher outputs computed once: one row for each example and view, and a manifest that says of what.

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

import jax
import numpy as np

from kd_jax import parallel
from kd_jax.cache_manifest import (
  FORMAT as FORMAT,
  MANIFEST as MANIFEST,
  BrokenCacheError as BrokenCacheError,
  CacheError as CacheError,
  CacheSpec as CacheSpec,
  make_spec as make_spec,
  open_manifest as open_manifest,
  read_manifest as read_manifest,
)
from kd_jax.checkpoints import CheckpointError, CheckpointStore, digest_json, write_json
from kd_jax.inference import Predict
from kd_jax.types import Outputs, TopK


class Cache(NamedTuple):
  """An opened cache.

  Attributes:
    outputs: arrays [N, V, ...] on the host.
    manifest: as on disk.
    digest: of the manifest's content: specification and chunks.
  """

  outputs: Outputs
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
    predict: from `kd_jax.inference.predictor`.
    batch_size: of all devices together.
    chunk_rows: examples in a chunk, with all their views; part of what is resumed, not of the result.
    lineage: JSON about the teacher, kept in the manifest.

  Yields:
    Progress in rows (an example under a view), after each view of each chunk.

  Raises:
    CacheError: the folder holds a finished cache of something else; or outputs that are not finite.
    ValueError: a batch that does not divide over the devices.
  """
  directory = pathlib.Path(directory)
  parallel.device_batch_size(batch_size)
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
        arrays = predict(rows, view, batch_size)
        views.append({name: _narrow(x, name, spec, rows, view) for name, x in arrays.items()})
        yield Progress(done + len(rows) * (view + 1), total)
      chunk = {name: np.stack([v[name] for v in views], axis=1) for name in views[0]}
      digest = store.save(index, chunk, {"spec": spec_digest, "rows": len(rows)})
    done += len(rows) * spec.views
    digests.append(digest)
    yield Progress(done, total)
  content = {"spec": dataclasses.asdict(spec), "chunks": digests}
  if parallel.is_main():
    versions = {"jax": jax.__version__, "numpy": np.__version__}
    write_json(
      directory / MANIFEST,
      content
      | {
        "format": FORMAT,
        "digest": digest_json(content),
        "teacher_lineage": lineage or {},
        "versions": versions,
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
  store = CheckpointStore(directory / "chunks", keep=None)
  chunks = []
  for index, digest in enumerate(manifest["chunks"]):
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
    chunks.append(chunk.state)
  arrays = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
  outputs = (
    Outputs(logits=arrays["logits"]) if expected.top_k is None else Outputs(top_k=TopK(**arrays))
  )
  return Cache(outputs, manifest, manifest["digest"])


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


class Verification(NamedTuple):
  """The outcome of `verify`.

  Attributes:
    largest_error: of any recomputed value.
    largest_value: of any recomputed value, for judging the error.
    row, view: where the error is.
    compared: how many rows were recomputed.
  """

  largest_error: float
  largest_value: float
  row: int
  view: int
  compared: int


def verify(
  cache: Cache,
  predict: Predict,
  *,
  sample: int = 64,
  batch_size: int = 64,
  seed: int = 0,
) -> Verification:
  """Recomputes a sample of rows under each view with the live teacher and compares.

  A float16 cache differs by its rounding, up to 2^-11 of a value; other errors mean another teacher.
  """
  arrays = cache.outputs.top_k or cache.outputs
  kept = {name: x for name, x in arrays._asdict().items() if x is not None and len(x)}
  num_rows, num_views = next(iter(kept.values())).shape[:2]
  rows = np.random.default_rng(seed).choice(num_rows, size=min(sample, num_rows), replace=False)
  worst = Verification(0.0, 0.0, int(rows[0]), 0, len(rows) * num_views)
  for view in range(num_views):
    for name, live in predict(rows, view, batch_size).items():
      error = np.abs(live.astype(np.float64) - kept[name][rows, view].astype(np.float64))
      error = np.nan_to_num(error.reshape(len(rows), -1).max(axis=1), nan=np.inf)
      worst = worst._replace(largest_value=max(worst.largest_value, float(np.abs(live).max())))
      if error.max() > worst.largest_error:
        worst = worst._replace(
          largest_error=float(error.max()), row=int(rows[error.argmax()]), view=view
        )
  return worst


def _narrow(x: np.ndarray, name: str, spec: CacheSpec, rows: np.ndarray, view: int) -> np.ndarray:
  """Checks and casts one array of outputs; indices stay whole numbers."""
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
