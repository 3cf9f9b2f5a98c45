"""Distillation methods that compare layers too, each a function that returns a `Recipe`.

They suit any two networks whose `Outputs` have `layers`: encoders of texts, whatever their kind. What the
methods read of the teacher (states or logits of its layers) can be cached; the methods on single tokens'
states, `minilm` and `tinybert`, need a live teacher.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np

from kd_jax import recipes
from kd_jax._checks import check_temperature
from kd_jax.models.heads import LayerClassifiers, LayerProjections, TokenProjections
from kd_jax.optimizers import UNCHANGED, PhaseOptimizer
from kd_jax.recipes import (
  label_equation,
  label_term,
  layer_terms,
  soft_equation,
  soft_targets,
  without_opinion,
)
from kd_jax.recipes.parts import Budget, Phase, Recipe, Term, TermLoss


def scratch(budget: Budget) -> Recipe:
  """Training on the labels alone, from where the other methods start too: random or pretrained weights."""
  return dataclasses.replace(recipes.scratch(budget), title="labels alone")


def patient_kd(
  budget: Budget,
  *,
  temperature: float = 10.0,
  soft_weight: float = 0.5,
  layer_weight: float = 100.0,
  project: bool = False,
) -> Recipe:
  """Patient KD: KD, and the direction of the intermediate layers' states.

  (1 - soft_weight) CE + soft_weight T² KL + layer_weight sum_i ||h_i / |h_i| - h_m(i) / |h_m(i)|||² / D.

  Args:
    budget: epochs and optimiser.
    temperature: T of the soft targets.
    soft_weight: of the soft targets, in [0, 1].
    layer_weight: of the layers.
    project: map the student's states to the teacher's width, linearly, where the widths differ.

  References:
    Sun et al., EMNLP 2019, arXiv 1908.09355. Its search: T 5, 10, 20; soft_weight 0.2, 0.5, 0.7;
    layer_weight 10, 100, 500, 1000, with the mean over layers in place of the sum.
  """
  terms = (
    *_kd_terms(temperature, 1.0 - soft_weight, soft_weight),
    _states_term(budget, layer_terms.matched_layers, layer_weight, project),
  )
  return Recipe(
    name="patient_kd",
    title="Patient KD",
    equation=f"(1 - w) {label_equation(budget)} + w {soft_equation(budget)} + "
    "b Σ_i ||h_i/|h_i| - h_m(i)/|h_m(i)|||² / D",
    reference="Sun 2019, arXiv 1908.09355",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


def alp_kd(
  budget: Budget,
  *,
  temperature: float = 20.0,
  hard_weight: float = 0.1,
  soft_weight: float = 0.7,
  layer_weight: float = 0.2,
  project: bool = False,
) -> Recipe:
  """ALP-KD: KD, and each intermediate layer's state with an attention mix of the teacher's.

  Args:
    budget: epochs and optimiser.
    temperature: T of the soft targets.
    hard_weight: of the labels.
    soft_weight: of the soft targets.
    layer_weight: of the layers.
    project: map the student's states to the teacher's width, linearly, where the widths differ.

  References:
    Passban et al., AAAI 2021, arXiv 2012.14022.
  """
  terms = (
    *_kd_terms(temperature, hard_weight, soft_weight),
    _states_term(budget, layer_terms.attended_layers, layer_weight, project),
  )
  return Recipe(
    name="alp_kd",
    title="ALP-KD",
    equation=f"v {label_equation(budget)} + w {soft_equation(budget)} + "
    "b Σ_i ||h_i - Σ_j a_ij h_j||² / D, a_ij = softmax_j <h_i, h_j>",
    reference="Passban 2021, arXiv 2012.14022",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


def universal_kd(
  budget: Budget,
  *,
  temperature: float = 1.0,
  layer_weight: float = 0.5,
  attend: Literal["logits", "losses"] = "logits",
  label_phase: bool = True,
  distil_epochs: int | None = None,
  phase1: PhaseOptimizer = UNCHANGED,
  phase2: PhaseOptimizer = UNCHANGED,
) -> Recipe:
  """Universal-KD: layers matched by the logits of pseudo classifiers, then hard labels alone.

  I: (1 - layer_weight) T² KL + layer_weight sum_i KL(softmax(sum_j a_ij z_j) || softmax(z_i)); II: CE, from the
  best weights of I. The student's pseudo classifiers are trained with it in I and then left behind. The
  output space knows no architecture: the student may be of any kind with intermediate layers.

  The paper's settings are layer_weight 0.5, attention on logits and both phases. We do not know the paper's T,
  the lengths of its phases or its learning rates: those are ours. `attend` and `label_phase` are the paper's
  ablations.

  Args:
    budget: epochs, optimiser, number of classes.
    temperature: T of the final layers' soft targets.
    layer_weight: of the intermediate layers, in [0, 1].
    attend: "logits" for the loss above; "losses" for sum_i sum_j a_ij KL(softmax(z_j) || softmax(z_i)).
    label_phase: whether phase II follows; without it phase I has all epochs of the budget.
    distil_epochs: epochs of phase I; half of the budget's epochs, rounded up, by default.
    phase1: changes to the optimiser in phase I.
    phase2: changes to the optimiser in phase II.

  References:
    Wu et al., Universal-KD, EMNLP 2021.
  """
  if not 0 <= layer_weight <= 1:
    raise ValueError(f"layer_weight must be in [0, 1], got {layer_weight}")
  check_temperature(temperature)
  soft = functools.partial(soft_targets, temperature=temperature)
  on_losses = attend != "logits"
  options = without_opinion(budget) | ({"attend": attend} if on_losses else {})
  terms = (
    Term("soft_targets", soft, 1.0 - layer_weight),
    Term(
      "layers",
      functools.partial(layer_terms.attended_logits, **options),
      layer_weight,
      reads=("layer_logits",),
      heads=LayerClassifiers(budget.num_classes, budget.label_mean),
    ),
  )
  layers = (
    f"Σ_i Σ_j a_ij {_mixed_equation(budget, 'z_j', 'z_i')}"
    if on_losses
    else f"Σ_i {_mixed_equation(budget, 'Σ_j a_ij z_j', 'z_i')}"
  )
  equation = f"I: (1 - g) {soft_equation(budget)} + g {layers}"
  title = "Universal-KD" + (", attention on losses" if on_losses else "")
  if label_phase:
    equation += f"; II: {label_equation(budget)}"
    phases = _then_labels(budget, terms, distil_epochs, phase1, phase2)
  elif distil_epochs is None and phase2 == UNCHANGED:
    title += ", without phase II"
    phases = (Phase("distil", terms, budget.epochs, phase1.applied_to(budget.optimizer)),)
  else:
    raise ValueError(
      f"`distil_epochs` and `phase2` need a label phase, got {distil_epochs} and {phase2}: leave them out"
    )
  return Recipe(
    name="universal_kd",
    title=title,
    equation=equation,
    reference="Wu 2021, EMNLP",
    phases=phases,
  )


def universal_kd_capacity_gap(
  budget: Budget,
  *,
  distil_epochs: int | None = None,
  phase1: PhaseOptimizer = UNCHANGED,
  phase2: PhaseOptimizer = UNCHANGED,
) -> Recipe:
  """Universal-KD for a capacity gap: the teacher's pseudo classifiers as assistants of its final layer.

  I: KL(softmax(sum_j a_j z_j) || softmax(z_s)), a_j = softmax_j <z_s, z_j>, over the teacher's pseudo
  classifiers and its final logits; II: CE, from the best weights of I.

  Args:
    budget: epochs, optimiser.
    distil_epochs: epochs of phase I; half of the budget's epochs, rounded up, by default.
    phase1: changes to the optimiser in phase I.
    phase2: changes to the optimiser in phase II.

  References:
    Wu et al., Universal-KD, EMNLP 2021.
  """
  loss = functools.partial(layer_terms.pseudo_assistants, **without_opinion(budget))
  terms = (Term("assistants", loss, reads=("logits", "layer_logits")),)
  return Recipe(
    name="universal_kd_capacity_gap",
    title="Universal-KD, capacity gap",
    equation=f"I: {_mixed_equation(budget, 'Σ_j a_j z_j', 'z_s')}, a_j = softmax_j "
    f"{'(z_s - ȳ) (z_j - ȳ)' if budget.is_regression else '<z_s, z_j>'}; II: {label_equation(budget)}",
    reference="Wu 2021, EMNLP",
    phases=_then_labels(budget, terms, distil_epochs, phase1, phase2),
  )


def minilm(
  budget: Budget,
  *,
  relation_heads: int = 12,
  teacher_layer: int = -1,
  distil_epochs: int | None = None,
  phase1: PhaseOptimizer = UNCHANGED,
  phase2: PhaseOptimizer = UNCHANGED,
) -> Recipe:
  """MiniLM-v2: relations between tokens in queries, keys and values, then hard labels alone.

  The paper distils on plain texts before any task; here the relations are those of the task's texts.

  Args:
    budget: epochs, optimiser.
    relation_heads: into which both widths are split anew.
    teacher_layer: the teacher's layer to learn from, as an index of Python.
    distil_epochs: epochs of phase I; half of the budget's epochs, rounded up, by default.
    phase1: changes to the optimiser in phase I.
    phase2: changes to the optimiser in phase II.

  References:
    Wang et al., MiniLMv2, Findings of ACL 2021, arXiv 2012.15828.
  """
  if relation_heads < 1:
    raise ValueError(f"relation_heads must be at least 1, got {relation_heads}")
  loss = functools.partial(
    layer_terms.relations, relation_heads=relation_heads, teacher_layer=teacher_layer
  )
  terms = (Term("relations", loss, reads=("tokens",)),)
  return Recipe(
    name="minilm",
    title="MiniLM-v2",
    equation="I: Σ_X KL(R_t || R_s), R = softmax(X Xᵀ/√d), X = Q, K, V; "
    f"II: {label_equation(budget)}",
    reference="Wang 2021, arXiv 2012.15828",
    # Phase I does not train the classifier that would choose its best epoch.
    phases=_then_labels(budget, terms, distil_epochs, phase1, phase2, start="last"),
  )


def tinybert(
  budget: Budget,
  *,
  temperature: float = 1.0,
  distil_epochs: int | None = None,
  phase1: PhaseOptimizer = UNCHANGED,
  phase2: PhaseOptimizer = UNCHANGED,
) -> Recipe:
  """TinyBERT, its task-specific stage: hidden states and attention scores, then soft targets.

  The student's states are mapped to the teacher's width by matrices that are trained with it and left behind.

  Args:
    budget: epochs, optimiser, the teacher's width.
    temperature: T of the soft targets.
    distil_epochs: epochs of phase I; half of the budget's epochs, rounded up, by default.
    phase1: changes to the optimiser in phase I.
    phase2: changes to the optimiser in phase II.

  References:
    Jiao et al., TinyBERT, Findings of EMNLP 2020, arXiv 1909.10351.
  """
  check_temperature(temperature)
  terms = (
    Term(
      "hidden",
      layer_terms.hidden_states,
      reads=("tokens",),
      heads=TokenProjections(_teacher_width(budget)),
    ),
    Term("attention", layer_terms.attentions, reads=("tokens",)),
  )
  first, second = _two_phases(budget, distil_epochs)
  soft = (Term("soft_targets", functools.partial(soft_targets, temperature=temperature)),)
  return Recipe(
    name="tinybert",
    title="TinyBERT",
    equation=f"I: Σ_i ||H_i W - H_m(i)||² + ||A_i - A_m(i)||²; II: {soft_equation(budget)}",
    reference="Jiao 2020, arXiv 1909.10351",
    phases=(
      Phase("layers", terms, first, phase1.applied_to(budget.optimizer)),
      Phase("predict", soft, second, phase2.applied_to(budget.optimizer), start="last"),
    ),
  )


def _mixed_equation(budget: Budget, teacher: str, student: str) -> str:
  """`universal_kd_loss` as tables print it."""
  if budget.is_regression:
    return f"({teacher} - {student})²"
  return f"KL(softmax({teacher}) || softmax({student}))"


def _kd_terms(temperature: float, hard_weight: float, soft_weight: float) -> tuple[Term, ...]:
  check_temperature(temperature)
  # The soft one first: where the other is what it leaves, this is the one that was given.
  for name, weight in (("soft_weight", soft_weight), ("hard_weight", hard_weight)):
    if not 0 <= weight <= 1:
      raise ValueError(f"{name} must be in [0, 1], got {weight}")
  soft = functools.partial(soft_targets, temperature=temperature)
  return label_term(hard_weight), Term("soft_targets", soft, soft_weight)


def _states_term(budget: Budget, loss: TermLoss, weight: float, project: bool) -> Term:
  """A loss on the layers' states, the student's mapped to the teacher's width where asked for."""
  if not 0 <= weight < np.inf:
    raise ValueError(f"layer_weight must be finite and at least 0, got {weight}")
  heads = LayerProjections(_teacher_width(budget)) if project else None
  return Term("layers", loss, weight, reads=("layers",), heads=heads)


def _then_labels(
  budget: Budget,
  terms: tuple[Term, ...],
  distil_epochs: int | None,
  phase1: PhaseOptimizer,
  phase2: PhaseOptimizer,
  start: str = "best",
) -> tuple[Phase, Phase]:
  first, second = _two_phases(budget, distil_epochs)
  return (
    Phase("distil", terms, first, phase1.applied_to(budget.optimizer)),
    Phase("finetune", (label_term(),), second, phase2.applied_to(budget.optimizer), start=start),
  )


def _two_phases(budget: Budget, distil_epochs: int | None) -> tuple[int, int]:
  first = (budget.epochs + 1) // 2 if distil_epochs is None else distil_epochs
  return budget.two_phases(first, "distil_epochs")


def _teacher_width(budget: Budget) -> int:
  if budget.teacher_width is None:
    raise ValueError("a projection needs the teacher's width: give the budget teacher_width")
  return budget.teacher_width


RECIPES: dict[str, Callable[..., Recipe]] = {
  **recipes.RECIPES,
  "scratch": scratch,
  "patient_kd": patient_kd,
  "alp_kd": alp_kd,
  "universal_kd": universal_kd,
  "universal_kd_capacity_gap": universal_kd_capacity_gap,
  "minilm": minilm,
  "tinybert": tinybert,
}
"""The methods for encoders with layers: those on logits, and those above."""
