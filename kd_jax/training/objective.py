"""The loss of one device's share of a batch: the weighted terms of a phase's objective."""

from typing import cast

import jax
import jax.numpy as jnp

from kd_jax import parallel
from kd_jax.losses.reductions import masked_sum_and_count
from kd_jax.recipes.parts import Term, labelled_examples
from kd_jax.types import Array, ArrayLike, Batch, Outputs, PyTree


def epoch_at(step: ArrayLike, steps_per_epoch: int) -> Array:
  """The epoch as a float, 2.5 in the middle of the third; exact at whole epochs.

  Whole epochs are divided as integers: XLA may turn a float division into a multiplication whose result
  falls just below a whole number, and a temperature would change a step late.
  """
  step = jnp.asarray(step)
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
  loss, shares = jnp.float32(0), {}
  for term in terms:
    seen = student
    if term.head is not None:
      seen = cast(Outputs, term.head.apply({"params": heads[term.name]}, student))
    values = term.loss_at(seen, teacher, batch, epoch)
    if batch.labelled is not None and term.reads_labels:
      shares[term.name] = _share_of_labelled_mean(term.name, values, batch)
    else:
      # A loss that took the mask may give a value for each of as many classes.
      mask = None if term.takes_mask or values.shape[:1] != examples else batch.mask
      total, _ = masked_sum_and_count(values, mask)
      shares[term.name] = total / parallel.sum_over_devices(jnp.float32(values.size))
    loss += jnp.asarray(term.weight_at(epoch)) * shares[term.name]
  return loss, shares


def _share_of_labelled_mean(name: str, values: Array, batch: Batch) -> Array:
  """A device's share of the mean over the labelled examples, times how full the global batch is."""
  counted = labelled_examples(batch)
  assert counted is not None
  size = len(counted)
  if values.shape[:1] != (size,):
    raise ValueError(
      f"term {name!r} reads labels and must give a value for each of {size} examples, got {values.shape}: "
      "some examples have no label"
    )
  total, _ = masked_sum_and_count(values, counted)
  filled = jnp.float32(size) if batch.mask is None else jnp.sum(batch.mask, dtype=jnp.float32)
  sums = (jnp.sum(counted, dtype=jnp.float32), filled, jnp.float32(size))
  labelled, filled, places = parallel.sum_over_devices(sums)
  return total / (values.size / size) / jnp.maximum(labelled, 1.0) * (filled / places)
