"""What a finished network says of the examples of a data set, computed on all devices."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kd_jax import parallel
from kd_jax.data import Dataset
from kd_jax.data.augmentation import Augmentation, augment_batch
from kd_jax.losses.top_k import top_k_targets
from kd_jax.types import PyTree

Predict = Callable[[np.ndarray, int, int], dict[str, np.ndarray]]
"""(rows [M], view, global batch size) -> outputs by name, [M, ...]: "logits", or the fields of `TopK`."""


def predictor(
  model: nn.Module,
  variables: PyTree,
  dataset: Dataset,
  augmentation: Augmentation,
  *,
  top_k: int | None = None,
  temperature: float = 1.0,
) -> Predict:
  """Builds a function that runs a network on rows of a data set under a view of its augmentation.

  Each device of each process computes its share of a batch, and every process receives the whole.

  Args:
    model: the network.
    variables: of one network, on the host.
    dataset: whose rows are asked for; it stays on the devices.
    augmentation: with name "none", the examples as they are.
    top_k: give the k likeliest classes and the tail instead of all logits.
    temperature: of the top k.
  """
  data = parallel.replicate((dataset.images, dataset.keys))
  held = parallel.replicate(variables)

  def step(variables, data, batch):
    images, keys = data
    rows, view = batch
    inputs = augment_batch(augmentation, images[rows], keys[rows], view)
    logits = model.apply(variables, inputs, train=False).logits.astype(jnp.float32)
    if top_k is None:
      outputs = {"logits": logits}
    else:
      outputs = top_k_targets(logits, top_k, temperature=temperature)._asdict()
    return variables, parallel.gather_batch(outputs)

  # A dispatch a batch: inference is long batches of convolutions, and its progress is shown.
  run = parallel.epoch_runner(step, one_dispatch=False, donate=False)

  def predict(rows: np.ndarray, view: int, batch_size: int) -> dict[str, np.ndarray]:
    order, _ = parallel.batches_of_rows(len(rows), batch_size)
    batches = parallel.shard(rows.astype(np.int32)[order], axis=1)
    views = np.full(batches.shape[:2], view, np.int32)
    _, outputs = run(held, data, (batches, views))
    return {name: x.reshape(-1, *x.shape[2:])[: len(rows)] for name, x in outputs.items()}

  return predict
