"""One training step and one evaluation step, as pure functions of one device's share of a batch."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from kd_jax import metrics, parallel
from kd_jax.data.augmentation import Augmentation, augment_batch
from kd_jax.losses.reductions import masked_sum_and_count
from kd_jax.phases import Term
from kd_jax.training.state import TrainState
from kd_jax.types import Array, ArrayLike, Batch, Outputs, PyTree


class DeviceData(NamedTuple):
  """A whole data set on every device.

  Attributes:
    images: [N, ...] what the network reads, before augmentation.
    labels: [N] int32.
    keys: [N] uint32, from the example ids.
    teacher: the arrays of a `Teacher`.
  """

  images: ArrayLike
  labels: ArrayLike
  keys: ArrayLike
  teacher: PyTree = ()


class Teacher(NamedTuple):
  """Where the teacher's outputs come from.

  Attributes:
    arrays: what stays on the device.
    outputs: (arrays, rows [B], inputs [B, ...], view) -> Outputs of these examples.
    cached: whether the arrays have a row for each example and view, [N, V, ...].
  """

  arrays: PyTree
  outputs: Callable[[PyTree, Array, Array, Array], Outputs]
  cached: bool = False


NO_TEACHER = Teacher((), lambda arrays, rows, inputs, view: Outputs())


def cached_teacher(outputs: Outputs) -> Teacher:
  """A teacher whose outputs were computed before: arrays [N, V, ...] for each example and view."""
  return Teacher(
    outputs,
    lambda arrays, rows, inputs, view: jax.tree.map(lambda x: x[rows, view], arrays),
    cached=True,
  )


def live_teacher(model: nn.Module, variables: PyTree) -> Teacher:
  """A teacher that is run on the very inputs that the student sees."""
  return Teacher(
    variables, lambda arrays, rows, inputs, view: model.apply(arrays, inputs, train=False)
  )


def epoch_at(step: ArrayLike, steps_per_epoch: int) -> Array:
  """The epoch as a float, 2.5 in the middle of the third; exact at whole epochs.

  Whole epochs are divided as integers: XLA may turn a float division into a multiplication whose result
  falls just below a whole number, and a temperature would change a step late.
  """
  return step // steps_per_epoch + (step % steps_per_epoch) / steps_per_epoch


def objective(
  terms: tuple[Term, ...], student: Outputs, teacher: Outputs, batch: Batch, epoch: ArrayLike
) -> tuple[Array, dict[str, Array]]:
  """The weighted sum of the terms' means over the global batch, as this device's share of it.

  The shares of all devices add up to the loss, and their gradients to its gradient: so each is divided by the
  global count, and the caller sums over devices.

  Returns:
    (share of the loss, {term: share of its unweighted mean}).
  """
  loss, shares = 0.0, {}
  for term in terms:
    values = term.loss_at(student, teacher, batch, epoch)
    mask = batch.mask if values.shape[:1] == batch.labels.shape else None
    total, count = masked_sum_and_count(values, mask)
    shares[term.name] = total / jnp.maximum(parallel.sum_over_devices(count), 1.0)
    loss += term.weight_at(epoch) * shares[term.name]
  return loss, shares


def make_train_step(
  model: nn.Module,
  terms: tuple[Term, ...],
  optimizer: optax.GradientTransformation,
  teacher_outputs: Callable[..., Outputs],
  augmentation: Augmentation,
  *,
  steps_per_epoch: int,
  views: int,
  epochs_before: int = 0,
) -> Callable[[TrainState, DeviceData, Array], tuple[TrainState, dict[str, Array]]]:
  """Builds the train step: (state [K], data, rows [K, B / devices]) -> (state, metrics [K]).

  It runs inside a map over the axis `parallel.AXIS`. In epoch e, counted from the first phase on, the student
  sees view e mod `views` of each example. Metrics: loss, each term, accuracy, and the gradient's global norm;
  equal on all devices.
  """

  def step(state: TrainState, data: DeviceData, rows: Array):
    view = (epochs_before + state.step // steps_per_epoch) % views
    inputs = augment_batch(augmentation, data.images[rows], data.keys[rows], view)
    batch = Batch(inputs, data.labels[rows])
    teacher = teacher_outputs(data.teacher, rows, inputs, view)
    epoch = epoch_at(state.step, steps_per_epoch)
    collections = {name: v for name, v in state.variables.items() if name != "params"}

    def share_of_loss(params):
      variables = {"params": params, **collections}
      outputs, updates = model.apply(variables, inputs, train=True, mutable=list(collections))
      loss, shares = objective(terms, outputs, teacher, batch, epoch)
      return loss, (shares, updates, metrics.accuracy(outputs.logits, batch.labels))

    params = state.variables["params"]
    (loss, (shares, updates, accuracy)), gradient = jax.value_and_grad(share_of_loss, has_aux=True)(
      params
    )
    gradient, loss, shares, (right, count) = parallel.sum_over_devices(
      (gradient, loss, shares, accuracy)
    )
    change, opt_state = optimizer.update(gradient, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, change), **updates}
    results = {
      "loss": loss,
      "terms": shares,
      "accuracy": right / count,
      "gradient_norm": optax.tree.norm(gradient),
    }
    return TrainState(state.step + 1, variables, opt_state), results

  return jax.vmap(step, in_axes=(0, None, 0))


def make_evaluation_step(model: nn.Module) -> Callable:
  """Builds the evaluation step: (variables [K], data, (rows, mask)) -> (variables, {metric: pair [K]}).

  `data.teacher` holds the teacher's logits [N, C] for the metrics that compare with it, or ().
  """

  def evaluate(variables: PyTree, data: DeviceData, batch: tuple[Array, Array]):
    rows, mask = batch
    teacher_logits = None if isinstance(data.teacher, tuple) else data.teacher[rows]

    def one(variables):
      logits = model.apply(variables, data.images[rows], train=False).logits
      return metrics.classification(logits, data.labels[rows], mask, teacher_logits)

    return variables, parallel.sum_over_devices(jax.vmap(one)(variables))

  return evaluate
