"""One training step and one evaluation step, as pure functions of one device's share of a batch."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd_jax import parallel
from kd_jax.data.augmentation import Augmentation, augment_batch
from kd_jax.data.dataset import Bucket
from kd_jax.losses.reductions import masked_sum_and_count
from kd_jax.recipes.parts import Term
from kd_jax.structured import layout
from kd_jax.training.batches import view_of
from kd_jax.training.evaluation import CLASSIFICATION, Evaluation
from kd_jax.training.state import AUXILIARY, TrainState
from kd_jax.types import Array, ArrayLike, Batch, Outputs, PyTree


class DeviceData(NamedTuple):
  """A bucket of a data set on every device.

  Attributes:
    inputs: [M, ...] what the network reads, before augmentation.
    labels: [M, ...].
    keys: [M] uint32, from the example ids.
    teacher: the arrays of a `Teacher`; for evaluation, its predictions or ().
    seeds: [K] uint32, of the seeds that train together: dropout and views follow from them.
    epochs_before: int32, epochs of earlier phases: dropout and views go on from there.
    labelled: [M] bool, which examples have labels; None if all have.
  """

  inputs: PyTree
  labels: PyTree
  keys: ArrayLike
  teacher: PyTree = ()
  seeds: ArrayLike = ()
  epochs_before: ArrayLike = ()
  labelled: ArrayLike | None = None


def device_data(
  bucket: Bucket, teacher: PyTree, seeds: Sequence[int] = (), epochs_before: int = 0
) -> DeviceData:
  """A bucket, and what the teacher keeps for it, as the arrays that a step reads."""
  numbers = np.asarray(seeds, np.uint32), np.int32(epochs_before)
  data = DeviceData(bucket.inputs, bucket.labels, bucket.keys, teacher, *numbers)
  return data._replace(labelled=bucket.labelled)


class StepBatch(NamedTuple):
  """Which examples of a bucket a step takes.

  Attributes:
    rows: [K, B] in the bucket.
    mask: [B] 0 where a batch is filled up; None where none ever is.
  """

  rows: ArrayLike
  mask: ArrayLike | None


class Teacher(NamedTuple):
  """Where the teacher's outputs come from.

  Attributes:
    arrays: what stays on the device: a live teacher's variables; of a cached one, an entry for each bucket.
    outputs: (arrays, rows [B], inputs [B, ...], view) -> Outputs of these examples.
    cached: whether the arrays have rows for the examples.
  """

  arrays: PyTree
  outputs: Callable[[PyTree, Array, PyTree, Array], Outputs]
  cached: bool = False

  def of_bucket(self, index: int) -> PyTree:
    """The arrays of a bucket's examples; of a live teacher, which has none of them, ()."""
    return self.arrays[index] if self.cached else ()

  @property
  def shared(self) -> PyTree:
    """The arrays that all buckets share: a live teacher's variables, else ()."""
    return () if self.cached else self.arrays

  def reading(self, fields: set[str]) -> "Teacher":
    """The same teacher without the cached fields of `Outputs` that nothing reads."""
    if not isinstance(self.arrays, CachedOutputs):
      return self
    nothing = Outputs()
    unread = {name: getattr(nothing, name) for name in Outputs._fields if name not in fields}
    outputs = self.arrays.outputs._replace(**unread)
    return self._replace(arrays=dataclasses.replace(self.arrays, outputs=outputs))


def _no_outputs(arrays, rows, inputs, view) -> Outputs:
  del arrays, rows, inputs, view
  return Outputs()


NO_TEACHER = Teacher((), _no_outputs)


@dataclasses.dataclass(frozen=True, eq=False)
class CachedOutputs(Sequence):
  """Outputs of all examples, cut to a bucket's when it is asked for: no second copy is kept on the host.

  Attributes:
    outputs: arrays [N, V, ...], in the order of the data set.
    rows: for each bucket, its rows [M]; None if it has all of them in order.
  """

  outputs: Outputs
  rows: tuple[np.ndarray | None, ...]

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> Outputs:
    rows = self.rows[index]
    return self.outputs if rows is None else _take(self.outputs, rows)


def cached_teacher(outputs: Outputs, buckets: Sequence[Bucket] | None = None) -> Teacher:
  """A teacher whose outputs were computed before: arrays [N, V, ...] for each example and view.

  Args:
    outputs: in the order of the data set.
    buckets: of the data set, if it has several.
  """
  rows = (None,) if buckets is None else tuple(bucket.rows for bucket in buckets)
  if len(rows) == 1 and rows[0] is not None and np.array_equal(rows[0], np.arange(len(rows[0]))):
    rows = (None,)
  return Teacher(CachedOutputs(outputs, rows), _cached_rows, cached=True)


def _cached_rows(arrays, rows, inputs, view) -> Outputs:
  del inputs
  return jax.tree.map(lambda x: x[rows, view], arrays)


def cached_structures(buckets: Sequence[layout.Structure]) -> Teacher:
  """A teacher of sequences: its scores for each bucket of the data set, in the bucket's order and length."""
  return Teacher(tuple(buckets), _cached_structures, cached=True)


def _cached_structures(arrays, rows, inputs, view) -> Outputs:
  del inputs, view
  return Outputs(scores=layout.take_rows(arrays, rows))


def live_teacher(model: nn.Module, variables: PyTree) -> Teacher:
  """A teacher that is run on the very inputs that the student sees."""
  return Teacher(variables, functools.partial(_live_outputs, model=model))


def _live_outputs(arrays, rows, inputs, view, *, model: nn.Module) -> Outputs:
  del rows, view
  return model.apply(arrays, inputs, train=False)


def epoch_at(step: ArrayLike, steps_per_epoch: int) -> Array:
  """The epoch as a float, 2.5 in the middle of the third; exact at whole epochs.

  Whole epochs are divided as integers: XLA may turn a float division into a multiplication whose result
  falls just below a whole number, and a temperature would change a step late.
  """
  return step // steps_per_epoch + (step % steps_per_epoch) / steps_per_epoch


def objective(
  terms: tuple[Term, ...],
  student: Outputs,
  teacher: Outputs,
  batch: Batch,
  epoch: ArrayLike,
  heads: PyTree = None,
) -> tuple[Array, dict[str, Array]]:
  """The weighted sum of the terms' means over the global batch, as this device's share of it.

  The shares of all devices add up to the loss, and their gradients to its gradient: so each is divided by the
  global count, and the caller sums over devices. Masked rows add nothing and are counted, so that an example
  weighs the same in a batch that is not full. `heads` are the parameters of the terms' heads, by term.

  If some examples have no label, terms on labels take their mean over the labelled ones of the global batch, 0
  if there are none; the others take all examples, and get no labels.

  Returns:
    (share of the loss, {term: share of its unweighted mean}).

  Raises:
    ValueError: a term on labels that is not one value, or row of values, for each example.
  """
  examples = jax.tree.leaves(batch.labels)[0].shape[:1]
  loss, shares = 0.0, {}
  for term in terms:
    seen = student
    if term.heads is not None:
      seen = term.heads.apply({"params": heads[term.name]}, student)
    values = term.loss_at(seen, teacher, batch, epoch)
    if batch.labelled is not None and term.reads_labels:
      shares[term.name] = _share_of_labelled_mean(term.name, values, batch)
    else:
      mask = batch.mask if values.shape[:1] == examples else None
      total, _ = masked_sum_and_count(values, mask)
      shares[term.name] = total / parallel.sum_over_devices(jnp.float32(values.size))
    loss += term.weight_at(epoch) * shares[term.name]
  return loss, shares


def _share_of_labelled_mean(name: str, values: Array, batch: Batch) -> Array:
  """A device's share of the mean over the labelled examples, times how full the global batch is."""
  size = len(batch.labelled)
  if values.shape[:1] != (size,):
    raise ValueError(
      f"term {name!r} reads labels and must give a value for each of {size} examples, got {values.shape}: "
      "some examples have no label"
    )
  counted = labelled_examples(batch)
  total, _ = masked_sum_and_count(values, counted)
  filled = jnp.float32(size) if batch.mask is None else jnp.sum(batch.mask, dtype=jnp.float32)
  sums = (jnp.sum(counted, dtype=jnp.float32), filled, jnp.float32(size))
  labelled, filled, places = parallel.sum_over_devices(sums)
  return total / (values.size / size) / jnp.maximum(labelled, 1.0) * (filled / places)


def labelled_examples(batch: Batch) -> Array | None:
  """[B] which rows of a batch are examples with a label; None if all are."""
  if batch.labelled is None:
    return batch.mask
  return batch.labelled if batch.mask is None else batch.labelled & (batch.mask > 0)


def make_train_step(
  model: nn.Module,
  terms: tuple[Term, ...],
  optimizer: optax.GradientTransformation,
  teacher_outputs: Callable[..., Outputs],
  augmentation: Augmentation,
  *,
  steps_per_epoch: int,
  views: int,
  evaluation: Evaluation = CLASSIFICATION,
) -> Callable[[TrainState, DeviceData, StepBatch], tuple[TrainState, dict[str, Array]]]:
  """Builds the train step: (state [K], data, rows [K, B / devices]) -> (state, metrics [K]).

  It runs inside a map over the axis `parallel.AXIS`. Which of the `views` of each example the student sees is a
  function of (seed, epoch): `batches.view_of`. Dropout is a function of (seed, epochs before, step, device).
  Metrics: loss, each term, (sum, count) of the evaluation's metrics of training, on labelled examples, and the
  norm of the gradient; equal on all devices.
  """

  def step(state: TrainState, data: DeviceData, rows: Array, mask: Array | None, seed: Array):
    inputs = _take(data.inputs, rows)
    epochs_done = data.epochs_before + state.step // steps_per_epoch
    view = view_of(seed, epochs_done, views)
    if augmentation.name != "none":
      inputs = augment_batch(augmentation, inputs, data.keys[rows], view)
    labelled = None if data.labelled is None else data.labelled[rows]
    batch = Batch(inputs, _take(data.labels, rows), mask, labelled)
    teacher = teacher_outputs(data.teacher, rows, inputs, view)
    epoch = epoch_at(state.step, steps_per_epoch)
    collections = {name: v for name, v in state.variables.items() if name != "params"}
    noise = {"dropout": _noise_key(seed, data.epochs_before, state.step)}

    def share_of_loss(params):
      variables = {"params": params, **collections}
      outputs, updates = model.apply(
        variables, inputs, train=True, mutable=list(collections), rngs=noise
      )
      heads = params.get(AUXILIARY)
      loss, shares = objective(terms, outputs, teacher, batch, epoch, heads)
      pairs = evaluation.training(outputs, batch.labels, labelled_examples(batch))
      return loss, (shares, updates, pairs)

    params = state.variables["params"]
    (loss, (shares, updates, pairs)), gradient = jax.value_and_grad(share_of_loss, has_aux=True)(
      params
    )
    gradient, loss, shares, pairs = parallel.sum_over_devices((gradient, loss, shares, pairs))
    change, opt_state = optimizer.update(gradient, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, change), **updates}
    results = {
      "loss": loss,
      "terms": shares,
      "metrics": pairs,
      "gradient_norm": optax.tree.norm(gradient),
    }
    return TrainState(state.step + 1, variables, opt_state), results

  def seeds_in_turn_or_together(state: TrainState, data: DeviceData, batch: StepBatch):
    arguments = (state, data, batch.rows, batch.mask, data.seeds)
    if batch.rows.shape[0] > 1:
      return jax.vmap(step, in_axes=(0, None, 0, None, 0))(*arguments)
    # A branch on a value stays a branch without the map, which would compute both sides.
    first = [jax.tree.map(lambda x: x[0], part) for part in (state, batch.rows, data.seeds)]
    results = step(first[0], data, first[1], batch.mask, first[2])
    return jax.tree.map(lambda x: x[None], results)

  return seeds_in_turn_or_together


def make_evaluation_step(model: nn.Module, evaluation: Evaluation = CLASSIFICATION) -> Callable:
  """Builds the evaluation step: (variables [K], data, (rows, mask)) -> (variables, (pairs, predictions)).

  Pairs are {metric: (sum, count) [K]}; predictions [K, B, ...] are those of the whole batch, where metrics of
  the whole data set need them, or (). `data.teacher` holds the teacher's predictions [M, ...] for the metrics
  that compare with it, or ().
  """

  def evaluate(variables: PyTree, data: DeviceData, batch: tuple[Array, Array]):
    rows, mask = batch
    compared = bool(jax.tree.leaves(data.teacher))
    teacher = _take(data.teacher, rows) if compared else None

    def one(variables):
      outputs = model.apply(variables, _take(data.inputs, rows), train=False)
      pairs = evaluation.metrics(outputs, _take(data.labels, rows), mask, teacher)
      return pairs, () if evaluation.whole is None else evaluation.predictions(outputs)

    pairs, predictions = jax.vmap(one)(variables)
    return variables, (
      parallel.sum_over_devices(pairs),
      parallel.gather_batch(predictions, axis=1),
    )

  return evaluate


def _take(tree: PyTree, rows: Array) -> PyTree:
  return jax.tree.map(lambda x: x[rows], tree)


def _noise_key(seed: Array, epochs_before: Array, step: Array) -> Array:
  """Of the dropout of one seed's step on one device."""
  key = jax.random.fold_in(jax.random.key(seed), epochs_before)
  return jax.random.fold_in(jax.random.fold_in(key, step), parallel.device_index())
