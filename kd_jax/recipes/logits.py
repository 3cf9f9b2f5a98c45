"""Distillation methods on final outputs, each a function that returns a `Recipe`."""

import dataclasses
from collections.abc import Callable

from kd_jax import schedules
from kd_jax._checks import check_temperature
from kd_jax.losses.annealing import annealing_kd_loss, continuation_kd_loss
from kd_jax.losses.dist import dist_inter_loss, dist_intra_loss
from kd_jax.losses.divergences import (
  jensen_shannon as jensen_shannon_loss,
  reverse_kl as reverse_kl_loss,
)
from kd_jax.losses.logits import decoupled_kd_loss
from kd_jax.optimizers import UNCHANGED, PhaseOptimizer
from kd_jax.recipes.parts import Budget, Phase, Recipe, Term, check_fraction
from kd_jax.recipes.registry import register
from kd_jax.recipes.targets import LOGITS, Classes, Number, Target
from kd_jax.types import Array, Schedule


@register("images", "texts", "sentences")
def scratch(target: Target, budget: Budget) -> Recipe:
  """Training on the labels alone, from where the other methods start too."""
  return Recipe(
    name="scratch",
    title="from scratch",
    equation=target.label_equation,
    reference="",
    phases=(Phase("train", (target.label_term(),), budget.epochs, budget.optimizer),),
  )


@register("images", "texts")
def kd(
  target: Classes | Number, budget: Budget, *, temperature: float = 4.0, soft_weight: float = 0.9
) -> Recipe:
  """Knowledge distillation: (1 - soft_weight) CE + soft_weight T² KL(teacher || student).

  Args:
    target: classes, or a number.
    budget: epochs and optimiser.
    temperature: T of the soft targets.
    soft_weight: weight of the soft targets, in [0, 1].

  References:
    Hinton et al. 2015, arXiv 1503.02531.
  """
  terms = kd_terms(target, temperature, 1.0 - soft_weight, soft_weight)
  return Recipe(
    name="kd",
    title="KD",
    equation=f"(1 - w) {target.label_equation} + w {target.soft_equation}",
    reference="Hinton 2015, arXiv 1503.02531",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


def kd_terms(
  target: Classes | Number, temperature: float, hard_weight: float, soft_weight: float
) -> tuple[Term, Term]:
  """The labels and the soft targets, each with its weight in [0, 1]."""
  # The soft one first: where the other is what it leaves, this is the one that was given.
  check_fraction("soft_weight", soft_weight)
  check_fraction("hard_weight", hard_weight)
  return target.label_term(hard_weight), target.soft_term(temperature, soft_weight)


@register("images", "texts")
def takd(
  target: Classes | Number, budget: Budget, *, temperature: float = 4.0, soft_weight: float = 0.9
) -> Recipe:
  """Teacher-assistant KD: `kd` from the teacher to an assistant, then from the assistant to the student.

  Args:
    target: classes, or a number.
    budget: epochs of each of the two, optimiser.
    temperature: T of both steps.
    soft_weight: weight of the soft targets in both steps.

  References:
    Mirzadeh et al., AAAI 2020, arXiv 1902.03393.
  """
  step = kd(target, budget, temperature=temperature, soft_weight=soft_weight)
  return dataclasses.replace(
    step,
    name="takd",
    title="TAKD",
    equation="KD from teacher to assistant, then KD from assistant to student",
    reference="Mirzadeh 2020, arXiv 1902.03393",
    assistant=dataclasses.replace(step, name="assistant", title="assistant"),
  )


@register("images", "texts")
def annealing_kd(
  target: Classes | Number,
  budget: Budget,
  *,
  max_temperature: int = 10,
  anneal_epochs: int | None = None,
  best_at_temperature_one: bool = False,
  phase1: PhaseOptimizer = UNCHANGED,
  phase2: PhaseOptimizer = UNCHANGED,
) -> Recipe:
  """Annealing-KD: regression to the annealed teacher's logits, then hard labels alone.

  Phase I holds each temperature tau_max, ..., 1 for floor(epochs / tau_max) epochs and T = 1 for what is left
  over. Its loss is divided by C: the released code takes the mean over classes, and the published learning
  rates belong to that scale; the paper's formula sums. Phase II starts from the best weights of phase I by
  the metric on the validation split (the released vision code selects on the test set). Where a number is
  predicted, Phi(T) shrinks the teacher's towards the mean label.

  Args:
    target: classes, or a number.
    budget: epochs and optimiser.
    max_temperature: tau_max.
    anneal_epochs: epochs of phase I; half of the budget's epochs by default.
    best_at_temperature_one: choose the best weights of phase I among the epochs with T = 1, whose targets are
      the teacher's logits themselves; by default among all.
    phase1: changes to the optimiser in phase I.
    phase2: changes to the optimiser in phase II.

  References:
    Jafari et al., EACL 2021, arXiv 2104.07163.
  """
  first = budget.epochs // 2 if anneal_epochs is None else anneal_epochs
  first, second = budget.two_phases(first, "anneal_epochs")
  temperature = annealing_by_epoch(max_temperature, first)
  options = {"temperature": temperature, "max_temperature": max_temperature, **target.centered}
  anneal = Term("annealed_regression", annealing_kd_loss, LOGITS, options, 1.0 / target.outputs)
  at_one = (max_temperature - 1) * (first // max_temperature) + 1
  best_from = at_one if best_at_temperature_one else 1
  return Recipe(
    name="annealing_kd",
    title="Annealing-KD",
    equation=f"I: {_annealed_equation(target)} / C, Φ(T) = 1 - (T - 1)/τ_max, T = τ_max … 1; "
    f"II: {target.label_equation}",
    reference="Jafari 2021, arXiv 2104.07163",
    phases=(
      Phase("anneal", (anneal,), first, phase1.applied_to(budget.optimizer), best_from=best_from),
      Phase(
        "finetune",
        (target.label_term(),),
        second,
        phase2.applied_to(budget.optimizer),
        start="best",
      ),
    ),
  )


def annealing_by_epoch(max_temperature: int, epochs: int) -> Schedule:
  """The temperature over a phase: floor(epochs / tau_max) epochs each, at least one, then 1.

  >>> [int(annealing_by_epoch(3, epochs=8)(epoch)) for epoch in range(8)]
  [3, 3, 2, 2, 1, 1, 1, 1]
  """
  if not max_temperature >= 1:
    raise ValueError(f"max_temperature must be at least 1, got {max_temperature}")
  if max_temperature > epochs:
    raise ValueError(
      f"max_temperature {max_temperature} needs as many epochs to come down to 1, got {epochs}: "
      "lower it (--annealing-kd.max-temperature) or train longer"
    )
  return schedules.annealing_temperature(max_temperature, epochs // max_temperature)


@register("images", "texts")
def continuation_kd(
  target: Classes | Number,
  budget: Budget,
  *,
  max_temperature: int = 20,
  margin: float = 0.0,
  label_ramp: float = 0.75,
) -> Recipe:
  """Continuation-KD: one phase in which the annealed regression gives way to the labels.

  psi CE + (1 - psi) max(0, ||z_s - Phi(T) z_t||² - m Phi(T)) / C with psi = min(epoch / ramp, 1). The ramp is
  150 of 200 epochs in the paper, three quarters, over which T also comes down to 1. The division by C is that
  of `annealing_kd`. The paper's margin is not known to us: 0 makes it the plain regression.

  Args:
    target: classes, or a number.
    budget: epochs and optimiser.
    max_temperature: tau_max; lowered to the ramp's length in epochs where that is shorter.
    margin: m >= 0, in squared logits summed over classes.
    label_ramp: share of the epochs after which only the labels count, in (0, 1].

  References:
    Jafari et al., Findings of EMNLP 2022, arXiv 2212.05998.
  """
  if not 0 < label_ramp <= 1:
    raise ValueError(f"label_ramp must be in (0, 1], got {label_ramp}")
  if not margin >= 0 or not max_temperature >= 1:
    raise ValueError(
      f"margin must be at least 0 and max_temperature at least 1, got {margin}, {max_temperature}"
    )
  ramp = max(1, int(budget.epochs * label_ramp))
  max_temperature = min(max_temperature, ramp)
  options = {
    "temperature": annealing_by_epoch(max_temperature, ramp),
    "max_temperature": max_temperature,
    "margin": margin,
    **target.centered,
  }
  falling = schedules.linear_schedule(1.0, 0.0, ramp)
  regression = Term(
    "annealed_regression",
    continuation_kd_loss,
    LOGITS,
    options,
    schedules.scaled_schedule(falling, 1.0 / target.outputs),
  )
  labels = target.label_term(schedules.linear_schedule(0.0, 1.0, ramp))
  return Recipe(
    name="continuation_kd",
    title="Continuation-KD",
    equation=f"ψ {target.label_equation} + (1 - ψ) max(0, {_annealed_equation(target)} - m Φ(T)) / C, "
    "ψ rising from 0 to 1",
    reference="Jafari 2022, arXiv 2212.05998",
    phases=(Phase("continue", (labels, regression), budget.epochs, budget.optimizer),),
  )


@register("images", "texts")
def dkd(
  target: Classes,
  budget: Budget,
  *,
  temperature: float = 4.0,
  target_weight: float = 1.0,
  non_target_weight: float = 8.0,
  warmup_share: float = 1 / 12,
) -> Recipe:
  """Decoupled KD: CE + the divergences at the target class and among the others, weighted apart.

  The released code lets the distillation rise linearly over the first 20 of 240 epochs.

  Args:
    target: classes.
    budget: epochs and optimiser.
    temperature: T of both divergences.
    target_weight: α of the target class.
    non_target_weight: β of the other classes; the paper's is 8 on CIFAR-100 with ResNets, and from 0.5 on
      elsewhere.
    warmup_share: of the epochs in which the weight of the distillation rises from 0 to 1, in [0, 1].

  References:
    Zhao et al., CVPR 2022, arXiv 2203.08679.
  """
  _check_classes(target, "dkd")
  check_temperature(temperature)
  check_fraction("warmup_share", warmup_share)
  weight: float | Schedule = 1.0
  if warmup_share:
    weight = schedules.linear_schedule(0.0, 1.0, warmup_share * budget.epochs)
  options = {
    "temperature": temperature,
    "target_weight": target_weight,
    "non_target_weight": non_target_weight,
  }
  decoupled = Term("decoupled", decoupled_kd_loss, (*LOGITS, "batch.labels"), options, weight)
  terms = (target.label_term(), decoupled)
  return Recipe(
    name="dkd",
    title="DKD",
    equation=f"{target.label_equation} + T² [α KL(b_t || b_s) + β KL(p̂_t || p̂_s)]",
    reference="Zhao 2022, arXiv 2203.08679",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


@register("images", "texts")
def dist(
  target: Classes,
  budget: Budget,
  *,
  temperature: float = 4.0,
  inter_weight: float = 2.0,
  intra_weight: float = 2.0,
) -> Recipe:
  """DIST: CE + correlations of probabilities, between classes and within each over the batch.

  On several devices each device relates only the examples of its own share of the batch within a class.

  Args:
    target: classes.
    budget: epochs and optimiser.
    temperature: T of the probabilities; the released code multiplies both terms by T².
    inter_weight: β of the relation between classes.
    intra_weight: γ of the relation within a class.

  References:
    Huang et al., NeurIPS 2022, arXiv 2205.10536.
  """
  _check_classes(target, "dist")
  check_temperature(temperature)
  options, square = {"temperature": temperature}, temperature**2
  terms = (
    target.label_term(),
    Term("inter", dist_inter_loss, LOGITS, options, square * inter_weight),
    Term("intra", dist_intra_loss, LOGITS, options, square * intra_weight),
  )
  return Recipe(
    name="dist",
    title="DIST",
    equation=f"{target.label_equation} + T² [β (1 - ρ(p_s, p_t)) + γ (1 - ρ(p_sᵀ, p_tᵀ))]",
    reference="Huang 2022, arXiv 2205.10536",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


@register("images", "texts")
def reverse_kl(
  target: Classes, budget: Budget, *, temperature: float = 1.0, soft_weight: float = 0.9
) -> Recipe:
  """KD with the reverse KL: a student that cannot match all of the teacher's classes picks the likeliest.

  Args:
    target: classes.
    budget: epochs and optimiser.
    temperature: T of both distributions.
    soft_weight: weight of the divergence, in [0, 1].

  References:
    Gu et al., MiniLLM, ICLR 2024, arXiv 2306.08543, for language models.
  """
  terms = _divergence_terms(target, "reverse_kl", reverse_kl_loss, temperature, soft_weight)
  return Recipe(
    name="reverse_kl",
    title="reverse KL",
    equation=f"(1 - w) {target.label_equation} + w KL(softmax(z_s/T) || softmax(z_t/T))",
    reference="Gu 2024, arXiv 2306.08543",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


@register("images", "texts")
def jensen_shannon(
  target: Classes, budget: Budget, *, temperature: float = 1.0, soft_weight: float = 0.9
) -> Recipe:
  """KD with the Jensen-Shannon divergence: bounded and symmetric.

  Args:
    target: classes.
    budget: epochs and optimiser.
    temperature: T of both distributions.
    soft_weight: weight of the divergence, in [0, 1].

  References:
    Agarwal et al., GKD, ICLR 2024, arXiv 2306.13649, with β = 1/2, for language models.
  """
  terms = _divergence_terms(target, "jensen_shannon", jensen_shannon_loss, temperature, soft_weight)
  return Recipe(
    name="jensen_shannon",
    title="Jensen-Shannon",
    equation=f"(1 - w) {target.label_equation} + w JS(softmax(z_t/T), softmax(z_s/T))",
    reference="Agarwal 2024, arXiv 2306.13649",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


def _divergence_terms(
  target: Classes,
  name: str,
  loss: Callable[..., Array],
  temperature: float,
  soft_weight: float,
) -> tuple[Term, Term]:
  """The labels, and a divergence of the distributions at a temperature."""
  _check_classes(target, name)
  check_fraction("soft_weight", soft_weight)
  check_temperature(temperature)
  soft = Term(name, loss, LOGITS, {"temperature": temperature}, soft_weight)
  return target.label_term(1.0 - soft_weight), soft


def _check_classes(target: Target, name: str) -> None:
  """Refuses a number: its softmax is always 1, so that a loss on distributions would teach nothing."""
  if not isinstance(target, Classes):
    raise ValueError(
      f"{name} compares distributions over classes, got {type(target).__name__}: choose a method such as kd"
    )


def _annealed_equation(target: Classes | Number) -> str:
  number = isinstance(target, Number)
  return "(z_s - ȳ - Φ(T) (z_t - ȳ))²" if number else "||z_s - Φ(T) z_t||²"
