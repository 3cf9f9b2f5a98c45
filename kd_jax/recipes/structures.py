"""Distillation methods for structures (tags, spans, trees), each a function that returns a `Recipe`.

The losses know by the types of the scores which case of structural KD they serve. All methods mix
their term with the labels by teacher annealing, so that they differ in that term alone:

    L = lambda L_KD + (1 - lambda) L_labels,    lambda = max(0, 1 - epoch · anneal / 100)
"""

import dataclasses

from kd_jax import schedules
from kd_jax._checks import check_temperature
from kd_jax.losses.sequences import (
  fuzzy_crf_loss,
  k_best_kd_loss,
  posterior_kd_loss,
  token_kd_loss,
)
from kd_jax.losses.structural import structural_kd_loss
from kd_jax.recipes.parts import Budget, Phase, Recipe, Term
from kd_jax.recipes.registry import register
from kd_jax.recipes.targets import SCORES, Structures


def _annealed(
  target: Structures,
  budget: Budget,
  terms: tuple[Term, ...],
  anneal: float | None,
  *,
  name: str,
  title: str,
  equation: str,
  reference: str,
) -> Recipe:
  """One phase: the terms, each weighted by lambda, and the labels by what is left."""
  rate = 100 / budget.epochs if anneal is None else anneal
  weight = schedules.teacher_annealing(rate)
  rest = schedules.scaled_schedule(weight, -1.0, offset=1.0)
  objective = tuple(dataclasses.replace(term, weight=weight) for term in terms)
  phase = Phase("distil", (*objective, target.label_term(rest)), budget.epochs, budget.optimizer)
  return Recipe(name, title, equation, reference, (phase,))


@register("sentences")
def token_kd(
  target: Structures, budget: Budget, *, temperature: float = 1.0, anneal: float | None = None
) -> Recipe:
  """Token KD: soft targets from each token's own scores.

  Args:
    target: structures of sentences.
    budget: epochs and optimiser.
    temperature: T of the soft targets.
    anneal: percentage points that lambda loses in an epoch; by default it falls to 0 over the training.
  """
  check_temperature(temperature)
  return _annealed(
    target,
    budget,
    (Term("token_kd", token_kd_loss, SCORES, {"temperature": temperature}),),
    anneal,
    name="token_kd",
    title="token KD",
    equation="λ T² Σ_i KL(softmax(u_t(i)/T) || softmax(u_s(i)/T)) - (1 - λ) log P_s(y | x)",
    reference="baseline of Wang 2021, arXiv 2010.05010",
  )


@register("sentences")
def posterior_kd(
  target: Structures, budget: Budget, *, temperature: float = 1.0, anneal: float | None = None
) -> Recipe:
  """Posterior KD: each token's marginal under the whole structure.

  Args:
    target: structures of sentences.
    budget: epochs and optimiser.
    temperature: T of the marginals.
    anneal: percentage points that lambda loses in an epoch; by default it falls to 0 over the training.

  References:
    Wang et al., ACL 2020, arXiv 2004.03846.
  """
  check_temperature(temperature)
  return _annealed(
    target,
    budget,
    (Term("posterior_kd", posterior_kd_loss, SCORES, {"temperature": temperature}),),
    anneal,
    name="posterior_kd",
    title="posterior KD",
    equation="-λ T² Σ_i Σ_y P_t(y_i) log P_s(y_i) - (1 - λ) log P_s(y | x)",
    reference="Wang 2020, arXiv 2004.03846",
  )


@register("sentences")
def topk_kd(
  target: Structures,
  budget: Budget,
  *,
  k: int = 5,
  weighted: bool = True,
  anneal: float | None = None,
) -> Recipe:
  """Top-k KD: the teacher's k best structures as labels.

  Args:
    target: structures of sentences.
    budget: epochs and optimiser.
    k: how many.
    weighted: by the teacher's probabilities, or equally.
    anneal: percentage points that lambda loses in an epoch; by default it falls to 0 over the training.

  References:
    Wang et al., ACL 2020, arXiv 2004.03846.
  """
  _check_k(k)
  return _annealed(
    target,
    budget,
    (Term("topk_kd", k_best_kd_loss, SCORES, {"k": k, "weighted": weighted}),),
    anneal,
    name="topk_kd",
    title=f"top-{k} KD" + (", weighted" if weighted and k > 1 else ""),
    equation="-λ Σ_j w_j log P_s(y_j | x) - (1 - λ) log P_s(y | x), y_j the teacher's k best",
    reference="Wang 2020, arXiv 2004.03846",
  )


@register("sentences")
def structural_kd(
  target: Structures, budget: Budget, *, temperature: float = 1.0, anneal: float | None = None
) -> Recipe:
  """Structural KD: the cross-entropy between the distributions over structures.

  Args:
    target: structures of sentences.
    budget: epochs and optimiser.
    temperature: 1 is exact; above, the released code's approximation (see `kd_jax.losses.structural`).
    anneal: percentage points that lambda loses in an epoch; by default it falls to 0 over the training.

  References:
    Wang et al., ACL 2021, arXiv 2010.05010.
  """
  check_temperature(temperature)
  return _annealed(
    target,
    budget,
    (Term("structural_kd", structural_kd_loss, SCORES, {"temperature": temperature}),),
    anneal,
    name="structural_kd",
    title="Structural KD",
    equation="-λ Σ_y P_t(y | x) log P_s(y | x) - (1 - λ) log P_s(y | x)",
    reference="Wang 2021, arXiv 2010.05010",
  )


@register("sentences")
def multi_grained(
  target: Structures, budget: Budget, *, k: int = 5, anneal: float | None = None
) -> Recipe:
  """Multi-grained NER: the k best as weighted labels, and as a set of which any may be right.

  Args:
    target: structures of sentences.
    budget: epochs and optimiser.
    k: how many of the teacher's best structures.
    anneal: percentage points that lambda loses in an epoch; by default it falls to 0 over the training.

  References:
    Zhou et al., Multi-Grained Knowledge Distillation for Named Entity Recognition, NAACL 2021.
  """
  _check_k(k)
  return _annealed(
    target,
    budget,
    (
      Term("topk_kd", k_best_kd_loss, SCORES, {"k": k, "weighted": True}),
      Term("fuzzy_crf", fuzzy_crf_loss, SCORES, {"k": k}),
    ),
    anneal,
    name="multi_grained",
    title="Multi-grained",
    equation="-λ [Σ_j w_j log P_s(y_j | x) + log Σ_j P_s(y_j | x)] - (1 - λ) log P_s(y | x)",
    reference="Zhou 2021, NAACL",
  )


def _check_k(k: int) -> None:
  if k < 1:
    raise ValueError(f"k must be at least 1, got {k}")
