"""Knowledge distillation in JAX: pure losses, schedules and recipes.

Losses take the student first and the teacher second, and return one value for each example, unreduced:

    loss = kd_jax.masked_mean(kd_jax.soft_target_kd_loss(student_logits, teacher_logits, temperature=4.0))

Rooms, each loaded when it is first used:

    kd_jax.structured    exact inference in tags, spans and trees
    kd_jax.recipes       distillation methods as data
    kd_jax.models        Linen networks, and weights of PyTorch and Hugging Face
    kd_jax.data          data sets with stable example ids
    kd_jax.training      the loop over the epochs of a recipe
    kd_jax.teachers      predicting with a teacher, and the cache of its outputs
    kd_jax.checkpoints   saved states with digests and lineage
    kd_jax.metrics, kd_jax.optimizers, kd_jax.schedules, kd_jax.parallel, kd_jax.export
"""

import importlib

from kd_jax import structured as structured
from kd_jax.losses.annealing import (
  annealed_logits as annealed_logits,
  annealing_factor as annealing_factor,
  annealing_kd_loss as annealing_kd_loss,
  continuation_kd_loss as continuation_kd_loss,
)
from kd_jax.losses.contrastive import crd_loss as crd_loss
from kd_jax.losses.dist import (
  dist_inter_loss as dist_inter_loss,
  dist_intra_loss as dist_intra_loss,
)
from kd_jax.losses.divergences import (
  forward_kl as forward_kl,
  jensen_shannon as jensen_shannon,
  reverse_kl as reverse_kl,
  soft_cross_entropy as soft_cross_entropy,
)
from kd_jax.losses.features import (
  attention_transfer_loss as attention_transfer_loss,
  fitnet_loss as fitnet_loss,
)
from kd_jax.losses.layers import (
  alp_kd_loss as alp_kd_loss,
  even_mapping as even_mapping,
  layer_attention as layer_attention,
  patient_kd_loss as patient_kd_loss,
  skip_mapping as skip_mapping,
  universal_kd_capacity_gap_loss as universal_kd_capacity_gap_loss,
  universal_kd_loss as universal_kd_loss,
)
from kd_jax.losses.logits import (
  decoupled_kd_loss as decoupled_kd_loss,
  hard_label_loss as hard_label_loss,
  logit_regression_loss as logit_regression_loss,
  soft_target_kd_loss as soft_target_kd_loss,
  squared_error_loss as squared_error_loss,
)
from kd_jax.losses.reductions import (
  masked_mean as masked_mean,
  masked_sum_and_count as masked_sum_and_count,
)
from kd_jax.losses.relational import (
  rkd_angle_loss as rkd_angle_loss,
  rkd_distance_loss as rkd_distance_loss,
)
from kd_jax.losses.sequences import (
  fuzzy_crf_loss as fuzzy_crf_loss,
  k_best_kd_loss as k_best_kd_loss,
  posterior_kd_loss as posterior_kd_loss,
  structure_nll_loss as structure_nll_loss,
  token_kd_loss as token_kd_loss,
)
from kd_jax.losses.structural import (
  structural_kd_case_1a as structural_kd_case_1a,
  structural_kd_case_1b as structural_kd_case_1b,
  structural_kd_case_2a as structural_kd_case_2a,
  structural_kd_case_2b as structural_kd_case_2b,
  structural_kd_case_3 as structural_kd_case_3,
  structural_kd_case_4 as structural_kd_case_4,
  structural_kd_loss as structural_kd_loss,
)
from kd_jax.losses.tokens import (
  attention_loss as attention_loss,
  hidden_state_loss as hidden_state_loss,
  relation_kd_loss as relation_kd_loss,
  tinybert_attention_loss as tinybert_attention_loss,
  tinybert_states_loss as tinybert_states_loss,
)
from kd_jax.losses.top_k import (
  top_k_kd_loss as top_k_kd_loss,
  top_k_targets as top_k_targets,
)
from kd_jax.schedules import (
  annealing_temperature as annealing_temperature,
  constant_schedule as constant_schedule,
  cosine_schedule as cosine_schedule,
  linear_schedule as linear_schedule,
  scaled_schedule as scaled_schedule,
  step_schedule as step_schedule,
  teacher_annealing as teacher_annealing,
)
from kd_jax.types import (
  Batch as Batch,
  Outputs as Outputs,
  Subwords as Subwords,
  Tokens as Tokens,
  TokenStates as TokenStates,
  TopK as TopK,
  Tree as Tree,
)

__version__ = "0.2.0"

_ROOMS = (
  "checkpoints",
  "data",
  "export",
  "losses",
  "metrics",
  "models",
  "optimizers",
  "parallel",
  "recipes",
  "schedules",
  "teachers",
  "training",
)

__all__ = [
  "Batch",
  "Outputs",
  "Subwords",
  "TokenStates",
  "Tokens",
  "TopK",
  "Tree",
  "alp_kd_loss",
  "annealed_logits",
  "annealing_factor",
  "annealing_kd_loss",
  "annealing_temperature",
  "attention_loss",
  "attention_transfer_loss",
  "constant_schedule",
  "continuation_kd_loss",
  "cosine_schedule",
  "crd_loss",
  "decoupled_kd_loss",
  "dist_inter_loss",
  "dist_intra_loss",
  "even_mapping",
  "fitnet_loss",
  "forward_kl",
  "fuzzy_crf_loss",
  "hard_label_loss",
  "hidden_state_loss",
  "jensen_shannon",
  "k_best_kd_loss",
  "layer_attention",
  "linear_schedule",
  "logit_regression_loss",
  "masked_mean",
  "masked_sum_and_count",
  "patient_kd_loss",
  "posterior_kd_loss",
  "relation_kd_loss",
  "reverse_kl",
  "rkd_angle_loss",
  "rkd_distance_loss",
  "scaled_schedule",
  "skip_mapping",
  "soft_cross_entropy",
  "soft_target_kd_loss",
  "squared_error_loss",
  "step_schedule",
  "structural_kd_case_1a",
  "structural_kd_case_1b",
  "structural_kd_case_2a",
  "structural_kd_case_2b",
  "structural_kd_case_3",
  "structural_kd_case_4",
  "structural_kd_loss",
  "structure_nll_loss",
  "structured",
  "teacher_annealing",
  "tinybert_attention_loss",
  "tinybert_states_loss",
  "token_kd_loss",
  "top_k_kd_loss",
  "top_k_targets",
  "universal_kd_capacity_gap_loss",
  "universal_kd_loss",
]


def __getattr__(name: str) -> object:
  """Loads a room when it is first used, so that the losses alone stay light."""
  if name in _ROOMS:
    return importlib.import_module(f"kd_jax.{name}")
  raise AttributeError(f"module 'kd_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *_ROOMS})
