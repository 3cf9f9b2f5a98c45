"""Knowledge distillation in JAX: pure losses, schedules and recipes."""

from kd_jax.losses.annealing import (
  annealed_logits as annealed_logits,
  annealing_factor as annealing_factor,
  annealing_kd_loss as annealing_kd_loss,
  continuation_kd_loss as continuation_kd_loss,
)
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
from kd_jax.losses.logits import (
  decoupled_kd_loss as decoupled_kd_loss,
  logit_regression_loss as logit_regression_loss,
  soft_target_kd_loss as soft_target_kd_loss,
)
from kd_jax.losses.reductions import (
  masked_mean as masked_mean,
  masked_sum_and_count as masked_sum_and_count,
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
  step_schedule as step_schedule,
)
from kd_jax.types import (
  Batch as Batch,
  Outputs as Outputs,
  TopK as TopK,
)

__version__ = "0.1.0"
