"""Networks and losses run with abstract values: what does not fit is refused before anything is trained."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.domains.domain import Examples
from kd_jax.recipes.parts import Recipe, Term
from kd_jax.types import Batch, Outputs, PyTree


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


def refuse_misfits(
  recipes: Mapping[str, Recipe], networks: Mapping[str, nn.Module], data: Examples
) -> None:
  """Refuses a recipe whose losses the networks' outputs do not suit.

  Args:
    recipes: by row of the study.
    networks: "student", "teacher", and "assistant" if a recipe has one.
    data: the training examples.

  Raises:
    ValueError: naming the row.
  """
  bucket = data.buckets[0]
  inputs, labels = jax.tree.map(lambda x: x[:2], (bucket.inputs, bucket.labels))
  labelled = None if bucket.labelled is None else bucket.labelled[:2]
  batch = Batch(inputs, labels, labelled=labelled)
  outputs = {name: abstract_outputs(model, inputs) for name, model in networks.items()}
  for name, recipe in recipes.items():
    steps = [(recipe, "teacher" if recipe.assistant is None else "assistant", "student")]
    if recipe.assistant is not None:
      steps.append((recipe.assistant, "teacher", "assistant"))
    for one, teacher, student in steps:
      try:
        for term in terms(one):
          _trace(term, outputs[student], outputs[teacher], batch)
      # JAX raises TypeErrors for shapes; a field that a network does not have is None.
      except (ValueError, TypeError, AttributeError) as error:
        said = str(error).split("\n---", 1)[0]
        raise ValueError(f"{name} does not suit these networks: {said}") from error


def terms(recipe: Recipe) -> list[Term]:
  return [term for phase in recipe.phases for term in phase.objective]


def _trace(term: Term, student: Outputs, teacher: Outputs, batch: Batch) -> None:
  def loss(student: Outputs, teacher: Outputs) -> Any:
    if term.heads is not None:
      student = term.heads.init_with_output(jax.random.key(0), student)[0]
    return term.loss_at(student, teacher, batch, jnp.float32(0))

  jax.eval_shape(loss, student, teacher)
