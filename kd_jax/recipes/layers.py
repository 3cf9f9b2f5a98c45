"""Distillation methods that compare layers, each a function that returns a `Recipe`.

They suit any two networks whose `Outputs` have `layers`. Layers, and what pseudo classifiers say of them, can
be cached; feature maps of many images are large. The states of single tokens, which `minilm` and `tinybert`
read, need a live teacher.
"""

from typing import Literal

import numpy as np

from kd_jax._checks import check_contrast_temperature
from kd_jax.losses.contrastive import crd_loss
from kd_jax.losses.features import attention_transfer_loss, fitnet_loss
from kd_jax.losses.layers import (
  alp_kd_loss,
  patient_kd_loss,
  universal_kd_capacity_gap_loss,
  universal_kd_loss,
)
from kd_jax.losses.relational import rkd_angle_loss, rkd_distance_loss
from kd_jax.losses.tokens import relation_kd_loss, tinybert_attention_loss, tinybert_states_loss
from kd_jax.models.heads import LayerClassifiers, LayerProjections, TokenProjections
from kd_jax.optimizers import UNCHANGED, PhaseOptimizer
from kd_jax.recipes.logits import kd_terms
from kd_jax.recipes.parts import Budget, Phase, Recipe, Term, check_fraction
from kd_jax.recipes.registry import register
from kd_jax.recipes.targets import Classes, Number


@register("texts")
def patient_kd(
  target: Classes | Number,
  budget: Budget,
  *,
  temperature: float = 10.0,
  soft_weight: float = 0.5,
  layer_weight: float = 100.0,
  project: bool = False,
  teacher_widths: tuple[int, ...] | None = None,
) -> Recipe:
  """Patient KD: KD, and the direction of the intermediate layers' states.

  (1 - soft_weight) CE + soft_weight T² KL + layer_weight sum_i ||h_i / |h_i| - h_m(i) / |h_m(i)|||² / D.

  Args:
    target: classes, or a number.
    budget: epochs and optimiser.
    temperature: T of the soft targets.
    soft_weight: of the soft targets, in [0, 1].
    layer_weight: of the layers.
    project: map the student's states to the teacher's width, linearly, where the widths differ.
    teacher_widths: of each of the teacher's layers, if they are mapped to.

  References:
    Sun et al., EMNLP 2019, arXiv 1908.09355. Its search: T 5, 10, 20; soft_weight 0.2, 0.5, 0.7;
    layer_weight 10, 100, 500, 1000, with the mean over layers in place of the sum.
  """
  terms = (
    *kd_terms(target, temperature, 1.0 - soft_weight, soft_weight),
    Term(
      "layers",
      patient_kd_loss,
      ("student.layers[:-1]", "teacher.layers[:]"),
      {"matching": "skip"},
      _checked_weight("layer_weight", layer_weight),
      _projections(teacher_widths) if project else None,
    ),
  )
  return Recipe(
    name="patient_kd",
    title="Patient KD",
    equation=f"(1 - w) {target.label_equation} + w {target.soft_equation} + "
    "b Σ_i ||h_i/|h_i| - h_m(i)/|h_m(i)|||² / D",
    reference="Sun 2019, arXiv 1908.09355",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


@register("texts")
def alp_kd(
  target: Classes | Number,
  budget: Budget,
  *,
  temperature: float = 20.0,
  hard_weight: float = 0.1,
  soft_weight: float = 0.7,
  layer_weight: float = 0.2,
  project: bool = False,
  teacher_widths: tuple[int, ...] | None = None,
) -> Recipe:
  """ALP-KD: KD, and each intermediate layer's state with an attention mix of the teacher's.

  Args:
    target: classes, or a number.
    budget: epochs and optimiser.
    temperature: T of the soft targets.
    hard_weight: of the labels.
    soft_weight: of the soft targets.
    layer_weight: of the layers.
    project: map the student's states to the teacher's width, linearly, where the widths differ.
    teacher_widths: of each of the teacher's layers, if they are mapped to.

  References:
    Passban et al., AAAI 2021, arXiv 2012.14022.
  """
  terms = (
    *kd_terms(target, temperature, hard_weight, soft_weight),
    Term(
      "layers",
      alp_kd_loss,
      ("student.layers[:-1]", "teacher.layers[:-1]"),
      weight=_checked_weight("layer_weight", layer_weight),
      head=_projections(teacher_widths) if project else None,
    ),
  )
  return Recipe(
    name="alp_kd",
    title="ALP-KD",
    equation=f"v {target.label_equation} + w {target.soft_equation} + "
    "b Σ_i ||h_i - Σ_j a_ij h_j||² / D, a_ij = softmax_j <h_i, h_j>",
    reference="Passban 2021, arXiv 2012.14022",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


@register("texts")
def universal_kd(
  target: Classes | Number,
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
    target: classes, or a number.
    budget: epochs and optimiser.
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
  check_fraction("layer_weight", layer_weight)
  on_losses = attend != "logits"
  terms = (
    target.soft_term(temperature, 1.0 - layer_weight),
    Term(
      "layers",
      universal_kd_loss,
      ("student.layer_logits", "teacher.layer_logits"),
      {**_output_space(target), **({"attend": attend} if on_losses else {})},
      layer_weight,
      LayerClassifiers(target.outputs, target.mean),
    ),
  )
  layers = (
    f"Σ_i Σ_j a_ij {_mixed_equation(target, 'z_j', 'z_i')}"
    if on_losses
    else f"Σ_i {_mixed_equation(target, 'Σ_j a_ij z_j', 'z_i')}"
  )
  equation = f"I: (1 - g) {target.soft_equation} + g {layers}"
  title = "Universal-KD" + (", attention on losses" if on_losses else "")
  if label_phase:
    equation += f"; II: {target.label_equation}"
    phases: tuple[Phase, ...] = _then_labels(target, budget, terms, distil_epochs, phase1, phase2)
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


@register("texts")
def universal_kd_capacity_gap(
  target: Classes | Number,
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
    target: classes, or a number.
    budget: epochs and optimiser.
    distil_epochs: epochs of phase I; half of the budget's epochs, rounded up, by default.
    phase1: changes to the optimiser in phase I.
    phase2: changes to the optimiser in phase II.

  References:
    Wu et al., Universal-KD, EMNLP 2021.
  """
  names = ("student.logits", "teacher.layer_logits", "teacher.logits")
  terms = (Term("assistants", universal_kd_capacity_gap_loss, names, _output_space(target)),)
  return Recipe(
    name="universal_kd_capacity_gap",
    title="Universal-KD, capacity gap",
    equation=f"I: {_mixed_equation(target, 'Σ_j a_j z_j', 'z_s')}, a_j = softmax_j "
    f"{'(z_s - ȳ) (z_j - ȳ)' if isinstance(target, Number) else '<z_s, z_j>'}; II: {target.label_equation}",
    reference="Wu 2021, EMNLP",
    phases=_then_labels(target, budget, terms, distil_epochs, phase1, phase2),
  )


@register("texts")
def minilm(
  target: Classes | Number,
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
    target: classes, or a number.
    budget: epochs and optimiser.
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
  terms = tuple(
    Term(
      what,
      relation_kd_loss,
      (
        f"student.tokens.{what}[-1]",
        f"teacher.tokens.{what}[{teacher_layer}]",
        "student.tokens.mask",
      ),
      {"relation_heads": relation_heads},
    )
    for what in ("queries", "keys", "values")
  )
  return Recipe(
    name="minilm",
    title="MiniLM-v2",
    equation="I: Σ_X KL(R_t || R_s), R = softmax(X Xᵀ/√d), X = Q, K, V; "
    f"II: {target.label_equation}",
    reference="Wang 2021, arXiv 2012.15828",
    # Phase I does not train the classifier that would choose its best epoch.
    phases=_then_labels(target, budget, terms, distil_epochs, phase1, phase2, start="last"),
  )


@register("texts")
def tinybert(
  target: Classes | Number,
  budget: Budget,
  *,
  temperature: float = 1.0,
  distil_epochs: int | None = None,
  phase1: PhaseOptimizer = UNCHANGED,
  phase2: PhaseOptimizer = UNCHANGED,
  teacher_widths: tuple[int, ...] | None = None,
) -> Recipe:
  """TinyBERT, its task-specific stage: hidden states and attention scores, then soft targets.

  The student's states are mapped to the teacher's width by matrices that are trained with it and left behind.

  Args:
    target: classes, or a number.
    budget: epochs and optimiser.
    temperature: T of the soft targets.
    distil_epochs: epochs of phase I; half of the budget's epochs, rounded up, by default.
    phase1: changes to the optimiser in phase I.
    phase2: changes to the optimiser in phase II.
    teacher_widths: of each of the teacher's layers.

  References:
    Jiao et al., TinyBERT, Findings of EMNLP 2020, arXiv 1909.10351.
  """
  states, mask = "tokens.states", "student.tokens.mask"
  queries, keys = "tokens.queries", "tokens.keys"
  terms = (
    Term(
      "hidden",
      tinybert_states_loss,
      (f"student.{states}", f"teacher.{states}", mask),
      head=TokenProjections(_one_width(teacher_widths)),
    ),
    Term(
      "attention",
      tinybert_attention_loss,
      (f"student.{queries}", f"student.{keys}", f"teacher.{queries}", f"teacher.{keys}", mask),
    ),
  )
  first, second = _two_phases(budget, distil_epochs)
  soft = (target.soft_term(temperature),)
  return Recipe(
    name="tinybert",
    title="TinyBERT",
    equation=f"I: Σ_i ||H_i W - H_m(i)||² + ||A_i - A_m(i)||²; II: {target.soft_equation}",
    reference="Jiao 2020, arXiv 1909.10351",
    phases=(
      Phase("layers", terms, first, phase1.applied_to(budget.optimizer)),
      Phase("predict", soft, second, phase2.applied_to(budget.optimizer), start="last"),
    ),
  )


@register("images", "texts")
def fitnet(
  target: Classes | Number,
  budget: Budget,
  *,
  student_layer: int = -2,
  teacher_layer: int = -2,
  temperature: float = 4.0,
  soft_weight: float = 0.9,
  distil_epochs: int | None = None,
  phase1: PhaseOptimizer = UNCHANGED,
  phase2: PhaseOptimizer = UNCHANGED,
  teacher_widths: tuple[int, ...] | None = None,
) -> Recipe:
  """FitNets: first a layer learns the teacher's hint, through a map to its width; then KD.

  The map is linear in the width, a 1 × 1 convolution on feature maps; the paper's is wide enough to also change
  the maps' size. A layer in the middle of both networks is the paper's choice.

  Args:
    target: classes, or a number.
    budget: epochs and optimiser.
    student_layer: which layer is guided, as an index of Python.
    teacher_layer: which layer gives the hint.
    temperature: T of the soft targets in phase II.
    soft_weight: weight of the soft targets in phase II, in [0, 1].
    distil_epochs: epochs of phase I; half of the budget's epochs, rounded up, by default.
    phase1: changes to the optimiser in phase I.
    phase2: changes to the optimiser in phase II.
    teacher_widths: of each of the teacher's layers.

  References:
    Romero et al., ICLR 2015, arXiv 1412.6550. On CIFAR-100, ResNet-56 to ResNet-20 (69.06 from scratch), Tian
    et al. (arXiv 1910.10699) report 69.21 with the hint and the labels in one phase.
  """
  widths = _widths(teacher_widths)
  if not -len(widths) <= teacher_layer < len(widths):
    raise ValueError(
      f"teacher_layer is an index of the teacher's {len(widths)} layers, got {teacher_layer}"
    )
  hint = Term(
    "hint",
    fitnet_loss,
    (f"student.layers[{student_layer}]", f"teacher.layers[{teacher_layer}]"),
    head=LayerProjections(widths[teacher_layer], (student_layer,)),
  )
  first, second = _two_phases(budget, distil_epochs)
  soft = kd_terms(target, temperature, 1.0 - soft_weight, soft_weight)
  return Recipe(
    name="fitnet",
    title="FitNets",
    equation=f"I: ||u - r(v)||² / 2; II: (1 - w) {target.label_equation} + w {target.soft_equation}",
    reference="Romero 2015, arXiv 1412.6550",
    phases=(
      Phase("hint", (hint,), first, phase1.applied_to(budget.optimizer)),
      Phase("distil", soft, second, phase2.applied_to(budget.optimizer), start="last"),
    ),
  )


@register("images")
def attention_transfer(
  target: Classes,
  budget: Budget,
  *,
  layers: tuple[int, ...] = (0, 1, 2),
  layer_weight: float = 500.0,
) -> Recipe:
  """Attention transfer: CE, and where each stage of the network is active.

  Args:
    target: classes.
    budget: epochs and optimiser.
    layers: which, by the same index in both networks: by default the three stages of a CIFAR ResNet.
    layer_weight: of each layer; the paper's β / 2 with β = 1000.

  References:
    Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928. On CIFAR-100, ResNet-56 to ResNet-20 (69.06 from
    scratch), Tian et al. (arXiv 1910.10699) report 70.55.
  """
  if not layers:
    raise ValueError("`layers` must name at least one layer")
  _checked_weight("layer_weight", layer_weight)
  transfer = tuple(
    Term(
      f"attention{layer}",
      attention_transfer_loss,
      (f"student.layers[{layer}]", f"teacher.layers[{layer}]"),
      weight=layer_weight,
    )
    for layer in layers
  )
  terms = (target.label_term(), *transfer)
  return Recipe(
    name="attention_transfer",
    title="attention transfer",
    equation=f"{target.label_equation} + b Σ_i ||Q_s/|Q_s| - Q_t/|Q_t|||² / HW, Q = Σ_c A_c²",
    reference="Zagoruyko 2017, arXiv 1612.03928",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


@register("images", "texts")
def rkd(
  target: Classes | Number,
  budget: Budget,
  *,
  distance_weight: float = 25.0,
  angle_weight: float = 50.0,
) -> Recipe:
  """Relational KD: the labels, and distances and angles between the examples of a batch in the last layer.

  On several devices each device relates only the examples of its own share of the batch.

  Args:
    target: classes, or a number.
    budget: epochs and optimiser.
    distance_weight: of the distances.
    angle_weight: of the angles.

  References:
    Park et al., CVPR 2019, arXiv 1904.05068. On CIFAR-100, ResNet-56 to ResNet-20 (69.06 from scratch), Tian et
    al. (arXiv 1910.10699) report 69.61.
  """
  names = ("student.layers[-1]", "teacher.layers[-1]")
  terms = (
    target.label_term(),
    Term(
      "distances",
      rkd_distance_loss,
      names,
      weight=_checked_weight("distance_weight", distance_weight),
    ),
    Term("angles", rkd_angle_loss, names, weight=_checked_weight("angle_weight", angle_weight)),
  )
  return Recipe(
    name="rkd",
    title="RKD",
    equation=f"{target.label_equation} + d Σ_ij ℓ(ψ_D) / B² + a Σ_ijk ℓ(ψ_A) / B³",
    reference="Park 2019, arXiv 1904.05068",
    phases=(Phase("distil", terms, budget.epochs, budget.optimizer),),
  )


@register("images")
def crd(
  target: Classes,
  budget: Budget,
  *,
  layer_weight: float = 0.8,
  temperature: float = 0.07,
  other_classes: bool = True,
  teacher_widths: tuple[int, ...] | None = None,
) -> Recipe:
  """Contrastive KD: CE, and the student's last layer nearer to its own teacher's than to other examples'.

  The student's layer is mapped to the teacher's width by a linear map that is trained with it and left behind.
  The negatives are the batch's; on several devices each device takes them from its own share of the batch. The
  paper draws 16,384 from a memory of all training examples.

  Args:
    target: classes.
    budget: epochs and optimiser.
    layer_weight: of the contrastive term; the paper's β is 0.8, with its own form of the loss.
    temperature: τ of the cosines, above 0; the paper's is 0.07.
    other_classes: whether an example's negatives are only those of another class, as in the paper. The term
      then reads labels, and examples without a label have no part in it.
    teacher_widths: of each of the teacher's layers.

  References:
    Tian et al., ICLR 2020, arXiv 1910.10699. On CIFAR-100, ResNet-56 to ResNet-20 (69.06 from scratch), they
    report 71.16, with their form of the loss.
  """
  check_contrast_temperature(temperature)
  names = ("student.layers[-1]", "teacher.layers[-1]", *(["batch.labels"] if other_classes else []))
  contrast = Term(
    "contrast",
    crd_loss,
    names,
    {"temperature": temperature},
    _checked_weight("layer_weight", layer_weight),
    LayerProjections(_widths(teacher_widths)[-1], (-1,)),
  )
  return Recipe(
    name="crd",
    title="CRD" if other_classes else "CRD, negatives of all classes",
    equation=f"{target.label_equation} - b log(e^(<s_i, t_i>/τ) / Σ_j e^(<s_i, t_j>/τ))",
    reference="Tian 2020, arXiv 1910.10699",
    phases=(Phase("distil", (target.label_term(), contrast), budget.epochs, budget.optimizer),),
  )


def _mixed_equation(target: Classes | Number, teacher: str, student: str) -> str:
  """`universal_kd_loss` as tables print it."""
  if isinstance(target, Number):
    return f"({teacher} - {student})²"
  return f"KL(softmax({teacher}) || softmax({student}))"


def _output_space(target: Classes | Number) -> dict[str, object]:
  """Options of losses between logits of layers."""
  return {**target.centered, **({"regression": True} if isinstance(target, Number) else {})}


def _checked_weight(name: str, weight: float) -> float:
  if not 0 <= weight < np.inf:
    raise ValueError(f"{name} must be finite and at least 0, got {weight}")
  return weight


def _then_labels(
  target: Classes | Number,
  budget: Budget,
  terms: tuple[Term, ...],
  distil_epochs: int | None,
  phase1: PhaseOptimizer,
  phase2: PhaseOptimizer,
  start: Literal["best", "last"] = "best",
) -> tuple[Phase, Phase]:
  first, second = _two_phases(budget, distil_epochs)
  labels = (target.label_term(),)
  return (
    Phase("distil", terms, first, phase1.applied_to(budget.optimizer)),
    Phase("finetune", labels, second, phase2.applied_to(budget.optimizer), start=start),
  )


def _two_phases(budget: Budget, distil_epochs: int | None) -> tuple[int, int]:
  first = (budget.epochs + 1) // 2 if distil_epochs is None else distil_epochs
  return budget.two_phases(first, "distil_epochs")


def _widths(teacher_widths: tuple[int, ...] | None) -> tuple[int, ...]:
  if not teacher_widths:
    raise ValueError("a projection needs the widths of the teacher's layers: give teacher_widths")
  return teacher_widths


def _one_width(teacher_widths: tuple[int, ...] | None) -> int:
  """The width that all of the teacher's layers share."""
  widths = _widths(teacher_widths)
  if len(set(widths)) > 1:
    raise ValueError(f"the teacher's layers must be of one width, they are {list(widths)}")
  return widths[0]


def _projections(teacher_widths: tuple[int, ...] | None) -> LayerProjections:
  """To the teacher's width, of every layer but the last."""
  return LayerProjections(_one_width(teacher_widths))
