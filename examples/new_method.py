"""A method of your own: confidence-weighted KD, in one function, compared with KD on the command line.

kd-jax study digits --recipes examples/new_method.py --methods scratch kd confident_kd --confident-kd.power 2
"""

import jax
import jax.numpy as jnp

import kd_jax
from kd_jax.recipes import Budget, Classes, Phase, Recipe, Term, register


def confident_kd_loss(student_logits, teacher_logits, *, power, temperature):
  """KD in which an example counts by the teacher's confidence: max_c p_t(c)^power T² KL(p_t || p_s), [B]."""
  teacher_logits = jax.lax.stop_gradient(teacher_logits)
  confidence = jnp.max(jax.nn.softmax(teacher_logits, axis=-1), axis=-1)
  loss = kd_jax.soft_target_kd_loss(student_logits, teacher_logits, temperature=temperature)
  return confidence**power * loss


@register("images", "texts")
def confident_kd(
  target: Classes, budget: Budget, *, power: float = 1.0, temperature: float = 4.0
) -> Recipe:
  """Confidence-weighted KD.

  Args:
    target: classes.
    budget: epochs and optimiser.
    power: of the confidence; 0 is KD.
    temperature: T of the soft targets.
  """
  soft = Term(
    "soft",
    confident_kd_loss,
    ("student.logits", "teacher.logits"),
    {"power": power, "temperature": temperature},
    weight=kd_jax.linear_schedule(1.0, 0.5, budget.epochs),
  )
  return Recipe(
    name="confident_kd",
    title="confidence-weighted KD",
    equation=f"{target.label_equation} + w max p_t^a T² KL(p_t || p_s)",
    reference="",
    phases=(Phase("distil", (target.label_term(), soft), budget.epochs, budget.optimizer),),
  )
