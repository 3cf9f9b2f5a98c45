"""Where a training step finds its teacher's outputs: kept from before, or made by the teacher on the spot.

Both kinds are pytrees, so that a step is handed the teacher itself, with its arrays on the device. Their one
method gives the teacher's `Outputs` for some examples.
"""

import dataclasses
import warnings
from collections.abc import Collection, Sequence
from typing import cast, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data.examples import Bucket
from kd_jax.structured import Structure, layout
from kd_jax.types import ArrayLike, Outputs, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CachedTeacher:
  """The outputs for the examples of one bucket, computed before.

  Attributes:
    kept: arrays [M, V, ...] of each example and view, `layers` in one array [M, V, L, D]; or the `scores` of
      structures [M, n, ...], of one view.
  """

  kept: Outputs

  def outputs(self, rows: ArrayLike, inputs: PyTree, view: ArrayLike) -> Outputs:
    """What is kept of some rows [B] under a view; the inputs are not read."""
    del inputs
    if self.kept.scores is not None:
      return Outputs(scores=layout.take_rows(self.kept.scores, jnp.asarray(rows)))
    found = jax.tree.map(lambda x: x[rows, view], self.kept)
    if not isinstance(found.layers, tuple):
      found = found._replace(layers=tuple(jnp.unstack(found.layers, axis=1)))
    return found


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LiveTeacher:
  """A network that is run on the very inputs that the student sees.

  Attributes:
    variables: on the host, or on a device within a step.
    model: to apply; part of what a step is compiled for.
  """

  variables: PyTree
  model: nn.Module = dataclasses.field(metadata={"static": True})

  def outputs(self, rows: ArrayLike, inputs: PyTree, view: ArrayLike) -> Outputs:
    """What the network says of the inputs [B, ...]; rows and view are not read."""
    del rows, view
    outputs = self.model.apply(self.variables, inputs, train=False)
    return cast(Outputs, outputs)


Teacher = LiveTeacher | Sequence[CachedTeacher]
"""What a student is trained with: one network, or what is cached for each bucket of its training examples."""


@dataclasses.dataclass(frozen=True, eq=False)
class CachedBuckets(Sequence[CachedTeacher]):
  """Outputs of all examples, cut to a bucket's when it is asked for: no second copy is kept on the host.

  Attributes:
    outputs: arrays [N, V, ...], in the order of the data set.
    rows: for each bucket, its rows [M]; None if it has all of them in order.
  """

  outputs: Outputs
  rows: tuple[np.ndarray | None, ...]

  def __len__(self) -> int:
    return len(self.rows)

  @overload
  def __getitem__(self, index: int) -> CachedTeacher: ...
  @overload
  def __getitem__(self, index: slice) -> list[CachedTeacher]: ...
  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[number] for number in range(len(self))[index]]
    rows = self.rows[index]
    whole = rows is None
    return CachedTeacher(self.outputs if whole else jax.tree.map(lambda x: x[rows], self.outputs))


def cached_teacher(outputs: Outputs, buckets: Sequence[Bucket] | None = None) -> CachedBuckets:
  """A teacher whose outputs were computed before.

  Rows of logits that are probabilities give a warning.

  Args:
    outputs: arrays [N, V, ...] of each example and view, in the order of the data set; `layers` in one array
      [N, V, L, D], or a tuple of arrays [N, V, D] if their widths differ. Logits may be [N, C]: of one view.
    buckets: of the data set, if it has several.

  Raises:
    ValueError: NaN or infinity, with the first row that has it; logits may be -inf.
  """
  if outputs.logits is not None and np.ndim(outputs.logits) == 2:
    outputs = outputs._replace(logits=np.asarray(outputs.logits)[:, None])
  for field in outputs._fields:
    for leaf in jax.tree.leaves(getattr(outputs, field)):
      _refuse_non_finite(field, leaf)
  if outputs.logits is not None and _are_probabilities(outputs.logits):
    warnings.warn(
      "each row of the teacher's logits sums to 1, within [0, 1]: are these probabilities? pass their "
      "logarithms",
      stacklevel=2,
    )
  rows = (None,) if buckets is None else tuple(bucket.rows for bucket in buckets)
  if len(rows) == 1 and rows[0] is not None and np.array_equal(rows[0], np.arange(len(rows[0]))):
    rows = (None,)
  return CachedBuckets(outputs, rows)


_MAY_BE_EXCLUDED = ("logits", "layer_logits", "top_k", "scores")


def _refuse_non_finite(name: str, array: ArrayLike, where: str = "") -> None:
  values = np.asarray(array)
  if not jnp.issubdtype(values.dtype, jnp.floating):
    return
  good = np.isfinite(values)
  if name in _MAY_BE_EXCLUDED:
    good |= values == -np.inf
  if not good.all():
    row = tuple(int(place) for place in np.argwhere(~good)[0])
    raise ValueError(
      f"the teacher's {name} must be finite, got {float(values[row])} in row {row[0] if row else 0}{where}: "
      "compute them again, or leave that example out"
    )


def _are_probabilities(logits: ArrayLike) -> bool:
  """Whether all rows [..., C] are in [0, 1] and sum to 1."""
  values = np.asarray(logits)
  if values.ndim < 2 or values.shape[-1] < 2 or not values.size:
    return False
  few = values.reshape(-1, values.shape[-1])[:4]
  for rows in (few, values):  # the first rows tell for most teachers
    if (
      rows.min() < 0 or rows.max() > 1 or (np.abs(rows.sum(-1, dtype=np.float64) - 1) > 0.01).any()
    ):
      return False
  return True


def cached_structures(buckets: Sequence[Structure]) -> tuple[CachedTeacher, ...]:
  """A teacher of sequences: its scores for each bucket of the data set, in the bucket's order and length.

  Raises:
    ValueError: NaN or infinity in the scores, with the first row that has it; scores may be -inf.
  """
  for number, scores in enumerate(buckets):
    for leaf in jax.tree.leaves(scores):
      _refuse_non_finite("scores", leaf, f" of bucket {number}")
  return tuple(CachedTeacher(Outputs(scores=scores)) for scores in buckets)


def live_teacher(model: nn.Module, variables: PyTree) -> LiveTeacher:
  """A teacher that is run on the very inputs that the student sees."""
  return LiveTeacher(variables, model)


def reading(teacher: Sequence[CachedTeacher], fields: Collection[str]) -> Sequence[CachedTeacher]:
  """The same teacher without the cached fields of `Outputs` that nothing reads."""
  if not isinstance(teacher, CachedBuckets):
    return teacher
  return dataclasses.replace(teacher, outputs=teacher.outputs.only(fields))


def check_teacher(teacher: Teacher, buckets: Sequence[Bucket], views: int) -> None:
  """Refuses cached outputs of other examples: on a device, a row out of range is silently clamped.

  Raises:
    ValueError: other numbers of buckets, examples, positions or views, with both.
  """
  if isinstance(teacher, LiveTeacher):
    return
  if len(teacher) != len(buckets):
    raise ValueError(f"teacher outputs are of {len(teacher)} buckets, the task has {len(buckets)}")
  if not isinstance(teacher, CachedBuckets):
    for bucket, own in zip(buckets, teacher, strict=True):
      layout.check(own.kept.scores, len(bucket.rows), bucket.length)
    return
  expected = (sum(len(bucket.rows) for bucket in buckets), views)
  for leaf in jax.tree.leaves(teacher.outputs):
    if leaf.shape[:2] != expected:
      raise ValueError(
        f"teacher outputs {leaf.shape} are of {leaf.shape[0]} examples and {leaf.shape[1]} views, the "
        f"task has {expected[0]} and {expected[1]}"
      )
