"""Pseudo classifiers on the layers of a finished teacher: trained on the labels, the teacher frozen.

The states of a frozen teacher are constants: they are computed once, and the classifiers are a few softmax
regressions on them.

DIRECTORY/layers/layers/checkpoints/    of their training
"""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data.labelled import labelled_part
from kd_jax.data.texts import TextDataset
from kd_jax.losses.logits import hard_label_loss, squared_error_loss
from kd_jax.models.text_classifier import PseudoClassifiers
from kd_jax.recipes import Number, Phase, Recipe, Term
from kd_jax.teachers import predicting
from kd_jax.training.evaluation import Evaluation
from kd_jax.training.loop import Task
from kd_jax.training.state import one_seed
from kd_jax.types import Array, ArrayLike, Outputs, PyTree

from ..command_line import console
from ..domains import tracing
from ..domains.links import Link, LinkKind
from ..domains.registry import NetworkSpec
from ..domains.study import plain
from . import runs
from .folder import Folder


class StateClassifiers(nn.Module):
  """Classifiers alone: [B, T, D] states in, `Outputs.layer_logits` [B, T, C] out.

  Attributes:
    num_outputs: C.
    output_mean: what their outputs start around.
  """

  num_outputs: int
  output_mean: float = 0.0

  @nn.compact
  def __call__(self, states, train: bool = False) -> Outputs:
    del train
    states = jnp.asarray(states)
    layers = [states[:, index] for index in range(states.shape[1])]
    classifiers = PseudoClassifiers(self.num_outputs, self.output_mean, name="pseudo")
    return Outputs(layer_logits=classifiers(layers))


def label_loss(layer_logits: ArrayLike, labels: ArrayLike, *, regression: bool = False) -> Array:
  """The loss on the labels, summed over the layers: they share nothing, so each learns by itself."""
  loss = squared_error_loss if regression else hard_label_loss
  layers = jnp.unstack(jnp.asarray(layer_logits), axis=1)
  return jnp.sum(jnp.stack([loss(layer, labels) for layer in layers]), axis=0)


def mean_over_layers(evaluation: Evaluation) -> Evaluation:
  """The metric that a domain selects by, averaged over the layers' classifiers."""

  def whole(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    found = [evaluation.whole(predictions[:, t], labels) for t in range(predictions.shape[1])]
    return {evaluation.select: float(np.mean([one[evaluation.select] for one in found]))}

  return Evaluation(
    select=evaluation.select,
    metrics=lambda outputs, labels, mask, teacher: {},
    predictions=lambda outputs: outputs.layer_logits,
    whole=whole,
  )


def found_or_trained(
  folder: Folder,
  directory: Path,
  spec: NetworkSpec,
  variables: PyTree,
  parent: Link,
  *,
  may_train: bool,
) -> tuple[dict[str, Any], Link]:
  """Trains the pseudo classifiers of a teacher, or finds them trained.

  Args:
    folder: of the study.
    directory: of the teacher.
    spec: of its network, without pseudo classifiers.
    variables: of its network.
    parent: the link of the lineage to where it came from.
    may_train: whether they are trained if they are not.

  Returns:
    The parameters {"pseudo": ...}, and the link to their checkpoint.

  Raises:
    ValueError: they are not trained and must not be now; or a folder of other settings.
  """
  data, model = folder.domain.data, folder.domain.networks.build(spec, None)
  run = _run(folder, directory, spec, model, variables, parent)
  if not runs.is_finished(run):
    if not may_train:
      raise ValueError(
        f"the pseudo classifiers in {directory} are not trained: run the study first"
      )
    # Only here are the states computed: reading a finished run takes their shapes alone.
    train, validation = (
      split.with_inputs(_states(folder, model, variables, split))
      for split in (labelled_part(data.train), data.validation)
    )
    task = dataclasses.replace(run.task, train=train, validation=validation)
    run = dataclasses.replace(run, task=task)
  with console.Progress("layer classifiers", run.epochs(), "epochs") as progress:
    result = runs.train(run, lambda: None, console.epoch_counter(progress))[-1]
  return one_seed(result.state.best, 0)["params"], result.link(LinkKind.LAYER_CLASSIFIERS)


def _run(
  folder: Folder,
  directory: Path,
  spec: NetworkSpec,
  model: nn.Module,
  variables: PyTree,
  parent: Link,
) -> runs.Run:
  """The run on states that are all zero."""
  study, domain, data = folder.study, folder.domain, folder.domain.data
  optimizer = study.layer_classifier_optimizer
  options = {"regression": True} if isinstance(data.target, Number) else {}
  loss = Term("labels", label_loss, ("student.layer_logits", "batch.labels"), options)
  phase = Phase("layers", (loss,), study.layer_classifier_epochs, optimizer)
  recipe = Recipe("layer_classifiers", "pseudo classifiers", "Σ_j CE(y, z_j)", "", (phase,))
  example = tracing.example(data.train)
  layers = jax.eval_shape(lambda v: model.apply(v, example, train=False), variables).layers
  shape = (len(layers) - 1, layers[-1].shape[-1])

  def empty(split: TextDataset) -> TextDataset:
    return split.with_inputs(np.broadcast_to(np.float32(0), (len(split), *shape)))

  task = Task(
    model=StateClassifiers(data.num_classes, data.target.mean),
    train=empty(labelled_part(data.train)),
    validation=empty(data.validation),
    batch_size=study.batch_size,
    one_dispatch=True,
    evaluation=mean_over_layers(domain.evaluation),
  )
  settings = {"model": plain(spec), **folder.data_settings()}
  links = (folder.data_link(), parent)
  return runs.Run(directory / "layers", folder.root, recipe, task, settings, links)


def _states(folder: Folder, model: nn.Module, variables: PyTree, split: TextDataset) -> np.ndarray:
  """[N, T - 1, D] of all layers but the last."""
  predict = predicting.fields_predictor(model, variables, split, ("layers",))
  rows = np.arange(len(split))
  return predict(rows, 0, folder.evaluation_batch_size)["layers"][:, :-1]
