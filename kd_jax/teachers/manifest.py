"""What a teacher cache says of itself: a specification, compared field by field with what a run needs."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from kd_jax.checkpoints import digest_json
from kd_jax.data.augmentation import Augmentation, describe, num_distinct_views
from kd_jax.data.examples import Classified, Examples

FORMAT = 1
MANIFEST = "manifest.json"
KEPT = ("logits", "layers", "layer_logits")
"""Fields of `Outputs` that a cache may hold, arrays with a row for each example and view."""


class CacheError(ValueError):
  """A cache is absent, broken, or of something else than the run needs."""


class BrokenCacheError(CacheError):
  """A chunk of the right cache cannot be read; precompute makes it anew."""


@dataclasses.dataclass(frozen=True)
class CacheSpec:
  """All that decides what the rows of a cache are.

  Attributes:
    teacher: digest of the teacher's checkpoint.
    teacher_model: its architecture and pixel normalisation, as plain values.
    dataset, version, split: of the examples.
    fingerprint: of the examples' ids, labels and pixels, in order.
    num_examples: N.
    num_classes: C.
    augmentation: as plain values.
    views: V.
    dtype: "float16" or "float32".
    top_k: k, or None for all logits.
    temperature: at which the top k were taken; 1 where all logits are kept.
    structure: what the rows are in place of logits: the name of a structure of `kd_jax.structured`.
    outputs: fields of the teacher's `Outputs` that are kept: "logits", "layers", "layer_logits".
  """

  teacher: str
  teacher_model: dict[str, Any]
  dataset: str
  version: str
  split: str
  fingerprint: str
  num_examples: int
  num_classes: int
  augmentation: dict[str, Any]
  views: int
  dtype: str = "float32"
  top_k: int | None = None
  temperature: float = 1.0
  structure: str | None = None
  outputs: tuple[str, ...] = ("logits",)

  def __post_init__(self):
    if self.dtype not in ("float16", "float32"):
      raise ValueError(f"a cache holds float16 or float32, got {self.dtype}")
    if self.top_k is not None and not 1 <= self.top_k < self.num_classes:
      raise ValueError(f"top_k must be at least 1 and below {self.num_classes}, got {self.top_k}")
    if self.top_k is None and self.temperature != 1:
      raise ValueError("all logits are kept at temperature 1; only a top-k cache has a temperature")
    if self.structure is not None and (self.top_k is not None or self.views != 1):
      raise ValueError("a cache of structures has one view and no top k")
    unknown = [name for name in self.outputs if name not in KEPT]
    if unknown or not self.outputs:
      raise ValueError(f"a cache holds some of {', '.join(KEPT)}, got {list(self.outputs)}")
    if self.top_k is not None and self.outputs != ("logits",):
      raise ValueError(f"a top-k cache holds the top k alone, not {list(self.outputs)}")
    if self.views < 1:
      raise ValueError(f"views must be at least 1, got {self.views}")


def make_spec(
  teacher_digest: str,
  teacher_model: dict[str, Any],
  dataset: Examples,
  augmentation: Augmentation,
  views: int,
  *,
  num_classes: int | None = None,
  **options: Any,
) -> CacheSpec:
  """The specification for a teacher, a data set and an augmentation; `num_classes` are tags for sequences.

  Raises:
    ValueError: for more views than the augmentation has.
  """
  distinct = num_distinct_views(augmentation)
  if not 1 <= views <= distinct:
    raise ValueError(
      f"views must be between 1 and the augmentation's {distinct} distinct views, got {views}"
    )
  if num_classes is None:
    if not isinstance(dataset, Classified):
      raise ValueError(f"{dataset.name} has no num_classes: give the number of its tags")
    num_classes = dataset.num_classes
  return CacheSpec(
    teacher=teacher_digest,
    teacher_model=json.loads(json.dumps(teacher_model)),
    dataset=dataset.name,
    version=dataset.version,
    split=dataset.split,
    fingerprint=dataset.fingerprint,
    num_examples=len(dataset),
    num_classes=num_classes,
    augmentation=describe(augmentation),
    views=views,
    **options,
  )


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
  path = directory / MANIFEST
  if not path.exists():
    raise CacheError(f"there is no finished cache in {directory}: run precompute first")
  try:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    content = {"spec": manifest["spec"], "chunks": manifest["chunks"]}
    digest, found = manifest["digest"], manifest["format"]
  except (OSError, ValueError, KeyError, TypeError):
    raise CacheError(f"{path} cannot be read; delete {directory} and precompute again") from None
  if found != FORMAT:
    raise CacheError(f"{path} is of format {found}, this version reads {FORMAT}: precompute again")
  if digest_json(content) != digest:
    raise CacheError(f"{path} was changed; delete {directory} and precompute again")
  return manifest


def _compare(manifest: dict[str, Any], expected: CacheSpec, directory: pathlib.Path) -> None:
  # A field that is younger than the cache has its default there; JSON has lists for tuples.
  found = {
    field.name: None if field.default is dataclasses.MISSING else field.default
    for field in dataclasses.fields(CacheSpec)
  }
  for name, value in manifest["spec"].items():
    found[name] = tuple(value) if isinstance(value, list) else value
  differences = [
    f"{name} of the cache is {found[name]!r}, this run has {value!r}"
    for name, value in dataclasses.asdict(expected).items()
    if found[name] != value
  ]
  if differences:
    raise CacheError(
      f"the cache in {directory} is not this run's: {'; '.join(differences)}. Use another folder, or "
      "delete this one to precompute again"
    )


def open_manifest(directory: str | os.PathLike, expected: CacheSpec) -> dict[str, Any]:
  """Reads the manifest alone, compared with what the run expects; errors as of `open_cache`."""
  directory = pathlib.Path(directory)
  manifest = read_manifest(directory)
  _compare(manifest, expected, directory)
  return manifest
