"""Networks run with abstract values: what they return, and whether recipes suit it."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax

from kd_jax.recipes import Recipe, trace
from kd_jax.types import Batch, Outputs, PyTree

from .domain import Examples


def example(data: Examples) -> PyTree:
  """The inputs of one training example."""
  return jax.tree.map(lambda x: x[:1], data.buckets[0].inputs)


def abstract_variables(model: nn.Module, inputs: PyTree) -> PyTree:
  """The shapes of a network's variables."""
  return jax.eval_shape(lambda key: model.init(key, inputs, train=False), jax.random.key(0))


def abstract_outputs(model: nn.Module, inputs: PyTree) -> Outputs:
  """The shapes of what a network returns; an error of its specification is raised here."""

  def run(key):
    return model.init_with_output(key, inputs, train=False)[0]

  return jax.eval_shape(run, jax.random.key(0))


def layer_widths(outputs: Outputs) -> tuple[int, ...]:
  """The widths of the layers that a network returns."""
  return tuple(layer.shape[-1] for layer in outputs.layers)


def batch_of_two(data: Examples) -> Batch:
  """Two training examples: a batch for `kd_jax.recipes.trace`."""
  bucket = data.buckets[0]
  inputs, labels = jax.tree.map(lambda x: x[:2], (bucket.inputs, bucket.labels))
  return Batch(inputs, labels, labelled=None if bucket.labelled is None else bucket.labelled[:2])


def refuse_misfits(
  recipes: Mapping[str, Recipe],
  student: Outputs,
  teacher: Outputs,
  batch: Batch,
  assistant: tuple[Outputs, Outputs] | None = None,
) -> None:
  """Refuses a recipe whose losses do not suit what the networks return.

  Args:
    recipes: by row of the study.
    student: what it returns, as shapes.
    teacher: what students see of it: of a cached teacher, what the cache holds.
    batch: of examples.
    assistant: what it returns, and what students see of it, if a recipe has one.

  Raises:
    ValueError: naming the row.
  """
  for recipe in recipes.values():
    if recipe.assistant is None:
      trace(recipe, student, teacher, batch)
      continue
    assert assistant is not None
    whole, seen = assistant
    trace(dataclasses.replace(recipe.assistant, name=recipe.name), whole, teacher, batch)
    trace(recipe, student, seen, batch)
