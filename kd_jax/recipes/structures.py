"""Distillation methods for structures (tags, spans, trees), each a function that returns a `Recipe`.

The losses know by the types of the scores which case of structural KD they serve. All methods but `scratch`
mix their term with the labels by teacher annealing, so that they differ in that term alone:

    L = lambda L_KD + (1 - lambda) L_labels,    lambda = max(0, 1 - epoch · anneal / 100)
"""

import functools
from collections.abc import Callable

from kd_jax import schedules
from kd_jax._checks import check_temperature
from kd_jax.losses import sequences, structural
from kd_jax.recipes.parts import Budget, Phase, Recipe, Term
from kd_jax.types import Array, Batch, Outputs, Schedule

# Losses over Outputs, from losses over scores.


def label_likelihood(student: Outputs, teacher: Outputs, batch: Batch) -> Array:
  """`structure_nll_loss` on the gold standard."""
  del teacher
  return sequences.structure_nll_loss(student.scores, batch.labels)


def token_soft_targets(student: Outputs, teacher: Outputs, batch: Batch, *, temperature) -> Array:
  """`token_kd_loss`."""
  del batch
  return sequences.token_kd_loss(student.scores, teacher.scores, temperature=temperature)


def posteriors(student: Outputs, teacher: Outputs, batch: Batch, *, temperature) -> Array:
  """`posterior_kd_loss`."""
  del batch
  return sequences.posterior_kd_loss(student.scores, teacher.scores, temperature=temperature)


def k_best(student: Outputs, teacher: Outputs, batch: Batch, *, k, weighted) -> Array:
  """`k_best_kd_loss`."""
  del batch
  return sequences.k_best_kd_loss(student.scores, teacher.scores, k=k, weighted=weighted)


def fuzzy(student: Outputs, teacher: Outputs, batch: Batch, *, k) -> Array:
  """`fuzzy_crf_loss`."""
  del batch
  return sequences.fuzzy_crf_loss(student.scores, teacher.scores, k=k)


def structures(student: Outputs, teacher: Outputs, batch: Batch, *, temperature) -> Array:
  """`structural_kd_loss`."""
  del batch
  return structural.structural_kd_loss(student.scores, teacher.scores, temperature=temperature)


# Methods.


def _labels(weight: float | Schedule = 1.0) -> Term:
  return Term("labels", label_likelihood, weight, needs_teacher=False)


def _annealed(
  budget: Budget, terms: dict[str, Callable[..., Array]], anneal: float | None, **words: str
) -> Recipe:
  """One phase: the terms, each weighted by lambda, and the labels by what is left."""
  rate = 100 / budget.epochs if anneal is None else anneal
  weight = schedules.teacher_annealing(rate)
  objective = [Term(name, loss, weight, reads=("scores",)) for name, loss in terms.items()]
  objective.append(_labels(lambda epoch: 1.0 - weight(epoch)))
  phase = Phase("distil", tuple(objective), budget.epochs, budget.optimizer)
  return Recipe(phases=(phase,), **words)


def scratch(budget: Budget) -> Recipe:
  """Training on the labels alone: -log P_s(y | x)."""
  return Recipe(
    name="scratch",
    title="from scratch",
    equation="-log P_s(y | x)",
    reference="",
    phases=(Phase("train", (_labels(),), budget.epochs, budget.optimizer),),
  )


def token_kd(budget: Budget, *, temperature: float = 1.0, anneal: float | None = None) -> Recipe:
  """Token KD: soft targets from each token's own scores.

  Args:
    budget: epochs and optimiser.
    temperature: T of the soft targets.
    anneal: percentage points that lambda loses in an epoch; by default it falls to 0 over the training.
  """
  check_temperature(temperature)
  return _annealed(
    budget,
    {"token_kd": functools.partial(token_soft_targets, temperature=temperature)},
    anneal,
    name="token_kd",
    title="token KD",
    equation="λ T² Σ_i KL(softmax(u_t(i)/T) || softmax(u_s(i)/T)) - (1 - λ) log P_s(y | x)",
    reference="baseline of Wang 2021, arXiv 2010.05010",
  )


def posterior_kd(
  budget: Budget, *, temperature: float = 1.0, anneal: float | None = None
) -> Recipe:
  """Posterior KD: each token's marginal under the whole structure.

  Args:
    budget: epochs and optimiser.
    temperature: T of the marginals.
    anneal: percentage points that lambda loses in an epoch; by default it falls to 0 over the training.

  References:
    Wang et al., ACL 2020, arXiv 2004.03846.
  """
  check_temperature(temperature)
  return _annealed(
    budget,
    {"posterior_kd": functools.partial(posteriors, temperature=temperature)},
    anneal,
    name="posterior_kd",
    title="posterior KD",
    equation="-λ T² Σ_i Σ_y P_t(y_i) log P_s(y_i) - (1 - λ) log P_s(y | x)",
    reference="Wang 2020, arXiv 2004.03846",
  )


def topk_kd(
  budget: Budget, *, k: int = 5, weighted: bool = True, anneal: float | None = None
) -> Recipe:
  """Top-k KD: the teacher's k best structures as labels.

  Args:
    budget: epochs and optimiser.
    k: how many; 1 for teachers that are no chain.
    weighted: by the teacher's probabilities, or equally.
    anneal: percentage points that lambda loses in an epoch; by default it falls to 0 over the training.

  References:
    Wang et al., ACL 2020, arXiv 2004.03846.
  """
  _check_k(k)
  return _annealed(
    budget,
    {"topk_kd": functools.partial(k_best, k=k, weighted=weighted)},
    anneal,
    name="topk_kd",
    title=f"top-{k} KD" + (", weighted" if weighted and k > 1 else ""),
    equation="-λ Σ_j w_j log P_s(y_j | x) - (1 - λ) log P_s(y | x), y_j the teacher's k best",
    reference="Wang 2020, arXiv 2004.03846",
  )


def structural_kd(
  budget: Budget, *, temperature: float = 1.0, anneal: float | None = None
) -> Recipe:
  """Structural KD: the cross-entropy between the distributions over structures.

  Args:
    budget: epochs and optimiser.
    temperature: 1 is exact; above, the released code's approximation (see `kd_jax.losses.structural`).
    anneal: percentage points that lambda loses in an epoch; by default it falls to 0 over the training.

  References:
    Wang et al., ACL 2021, arXiv 2010.05010.
  """
  check_temperature(temperature)
  return _annealed(
    budget,
    {"structural_kd": functools.partial(structures, temperature=temperature)},
    anneal,
    name="structural_kd",
    title="Structural KD",
    equation="-λ Σ_y P_t(y | x) log P_s(y | x) - (1 - λ) log P_s(y | x)",
    reference="Wang 2021, arXiv 2010.05010",
  )


def multi_grained(budget: Budget, *, k: int = 5, anneal: float | None = None) -> Recipe:
  """Multi-grained NER: the k best as weighted labels, and as a set of which any may be right.

  Args:
    budget: epochs and optimiser.
    k: how many of the teacher's best structures.
    anneal: percentage points that lambda loses in an epoch; by default it falls to 0 over the training.

  References:
    Zhou et al., Multi-Grained Knowledge Distillation for Named Entity Recognition, NAACL 2021.
  """
  _check_k(k)
  return _annealed(
    budget,
    {
      "topk_kd": functools.partial(k_best, k=k, weighted=True),
      "fuzzy_crf": functools.partial(fuzzy, k=k),
    },
    anneal,
    name="multi_grained",
    title="Multi-grained",
    equation="-λ [Σ_j w_j log P_s(y_j | x) + log Σ_j P_s(y_j | x)] - (1 - λ) log P_s(y | x)",
    reference="Zhou 2021, NAACL",
  )


def _check_k(k: int) -> None:
  if k < 1:
    raise ValueError(f"k must be at least 1, got {k}")


RECIPES: dict[str, Callable[..., Recipe]] = {
  "scratch": scratch,
  "token_kd": token_kd,
  "posterior_kd": posterior_kd,
  "topk_kd": topk_kd,
  "structural_kd": structural_kd,
  "multi_grained": multi_grained,
}
