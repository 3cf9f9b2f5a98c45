"""A recipe run with abstract values: what does not fit is refused before anything is trained."""

import jax
import jax.numpy as jnp

from kd_jax.recipes.parts import Recipe, Term, describe
from kd_jax.types import Array, Batch, Outputs


def trace(recipe: Recipe, student: Outputs, teacher: Outputs, batch: Batch) -> None:
  """Refuses a recipe that could not be trained; computes nothing.

  Args:
    recipe: whose phases are traced; not those of its assistant.
    student: shapes of what the student returns, as of `jax.eval_shape`.
    teacher: the same of the teacher, without the fields that a cache does not hold.
    batch: a batch of examples, or its shapes.

  Raises:
    ValueError: in one line that begins with the recipe's name: outputs that a network does not have or a cache
      does not hold, shapes that do not fit, a loss that cannot be imported.
  """
  try:
    describe(recipe)
    for phase in recipe.phases:
      for term in phase.objective:
        _trace_term(term, student, teacher, batch)
  # JAX raises TypeErrors for shapes; a loss may read what is not there, or assert.
  except (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
  ) as error:
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    raise ValueError(f"{recipe.name} does not suit these networks: {said}") from error


def _trace_term(term: Term, student: Outputs, teacher: Outputs, batch: Batch) -> None:
  def loss(student: Outputs, teacher: Outputs, batch: Batch) -> Array:
    if term.head is not None:
      student = term.head.init_with_output(jax.random.key(0), student)[0]
    return term.loss_at(student, teacher, batch, jnp.float32(0))

  jax.eval_shape(loss, student, teacher, batch)
