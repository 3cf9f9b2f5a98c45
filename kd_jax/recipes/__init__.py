"""Distillation methods as data: what a recipe is made of, and one file for each family of methods."""

from kd_jax.recipes import logits as logits, parts as parts
from kd_jax.recipes.logits import (
  RECIPES as RECIPES,
  annealed_regression as annealed_regression,
  annealing_by_epoch as annealing_by_epoch,
  annealing_kd as annealing_kd,
  continuation_kd as continuation_kd,
  cross_entropy as cross_entropy,
  final_logits as final_logits,
  hinged_annealed_regression as hinged_annealed_regression,
  kd as kd,
  label_equation as label_equation,
  label_term as label_term,
  make_recipe as make_recipe,
  schedules_scaled as schedules_scaled,
  scratch as scratch,
  soft_equation as soft_equation,
  soft_targets as soft_targets,
  takd as takd,
  without_opinion as without_opinion,
)
from kd_jax.recipes.parts import (
  Budget as Budget,
  Phase as Phase,
  Recipe as Recipe,
  Term as Term,
  describe as describe,
)
