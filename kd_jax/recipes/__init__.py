"""Distillation methods as data.

names       what a term may read: "student.logits", "teacher.layers[:-1]", "batch.labels"
parts       Term, Phase, Recipe, Budget
targets     Classes, Number, Structures: what is predicted, with its loss on labels
logits, layers, structures    the methods, a file for each family
registry    the methods by name
tracing     a recipe refused before anything is trained, if it does not fit
"""

from kd_jax.recipes import layers as layers, logits as logits, structures as structures
from kd_jax.recipes.layers import (
  alp_kd as alp_kd,
  attention_transfer as attention_transfer,
  crd as crd,
  fitnet as fitnet,
  minilm as minilm,
  patient_kd as patient_kd,
  rkd as rkd,
  tinybert as tinybert,
  universal_kd as universal_kd,
  universal_kd_capacity_gap as universal_kd_capacity_gap,
)
from kd_jax.recipes.logits import (
  annealing_by_epoch as annealing_by_epoch,
  annealing_kd as annealing_kd,
  continuation_kd as continuation_kd,
  dist as dist,
  dkd as dkd,
  jensen_shannon as jensen_shannon,
  kd as kd,
  reverse_kl as reverse_kl,
  scratch as scratch,
  takd as takd,
)
from kd_jax.recipes.parts import (
  Budget as Budget,
  Phase as Phase,
  Recipe as Recipe,
  Term as Term,
  describe as describe,
)
from kd_jax.recipes.registry import (
  make_recipe as make_recipe,
  methods_for as methods_for,
  options_of as options_of,
  register as register,
)
from kd_jax.recipes.structures import (
  multi_grained as multi_grained,
  posterior_kd as posterior_kd,
  structural_kd as structural_kd,
  token_kd as token_kd,
  topk_kd as topk_kd,
)
from kd_jax.recipes.targets import (
  Classes as Classes,
  Number as Number,
  Structures as Structures,
  Target as Target,
)
from kd_jax.recipes.tracing import trace as trace
