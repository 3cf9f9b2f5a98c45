"""Losses that match a student's layers to a teacher's, by attention over depth or one to one.

All take layers stacked along an axis, [B, layers, width], and give one value for each example: the sum over
the student's layers. More leading axes, or none, are fine too.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from kd_jax._checks import apply_mask, as_float32, blank
from kd_jax._numerics import kl_from_log_probs
from kd_jax.types import Array, ArrayLike

SMALLEST_NORM = 1e-12
"""A state with a norm below this one has no direction: it counts as 0, with no gradient."""


def _stacked(name: str, layers: ArrayLike) -> Array:
  """Layers [..., layers, D] as float32."""
  if isinstance(layers, tuple | list):
    raise ValueError(
      f"{name} is a {type(layers).__name__} of {len(layers)} arrays: stack the layers you want, "
      "jnp.stack(layers, axis=1)"
    )
  layers = as_float32(name, layers)
  if layers.ndim < 2 or layers.shape[-2] == 0:
    raise ValueError(
      f"{name} must be [B, layers, width] with at least one layer, got {layers.shape}"
    )
  return layers


def _checked(
  student: ArrayLike, teacher: ArrayLike, mask: ArrayLike | None, what: str = "layers"
) -> tuple[Array, Array]:
  """Both sides as float32 of one width, zeros for masked examples."""
  student, teacher = _stacked(f"student_{what}", student), _stacked(f"teacher_{what}", teacher)
  shapes = f"student_{what} {student.shape} and teacher_{what} {teacher.shape}"
  if student.shape[-1] != teacher.shape[-1]:
    raise ValueError(f"{shapes} differ in width: project the student's to the teacher's first")
  if student.shape[:-2] != teacher.shape[:-2]:
    raise ValueError(f"{shapes} must be [B, layers, width] of the same examples")
  return blank(student, mask), blank(teacher, mask)


def layer_attention(
  queries: Float[ArrayLike, "*batch S D"],
  keys: Float[ArrayLike, "*batch T D"],
  values: Float[ArrayLike, "*batch T E"],
) -> Float[Array, "*batch S E"]:
  r"""For each query the mix of all values, weighted by how well their keys fit.

  .. math:: m_i = \sum_j a_{ij} v_j, \quad a_{ij} = softmax_j \langle q_i, k_j \rangle

  A plain dot product: nothing divides it by the root of the width, as attention in a Transformer does.

  Args:
    queries: [B, S, D]; more leading axes, or none, are fine.
    keys: [B, T, D].
    values: [B, T, E].

  Returns:
    [B, S, E] float32.

  Raises:
    ValueError: for shapes that do not fit, integers, or a tuple of layers that is not stacked.

  References:
    Passban et al., ALP-KD: Attention-Based Layer Projection for Knowledge Distillation, AAAI 2021,
    arXiv 2012.14022.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> keys = jnp.array([[20.0, 0.0], [0.0, 20.0]])
    >>> values = jnp.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
    >>> kd_jax.layer_attention(jnp.array([[1.0, 0.0], [1.0, 1.0]]), keys, values).tolist()
    [[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]
  """
  queries, keys = _stacked("queries", queries), _stacked("keys", keys)
  values = _stacked("values", values)
  fits = queries.shape[-1] == keys.shape[-1] and keys.shape[:-1] == values.shape[:-1]
  if not fits or queries.shape[:-2] != keys.shape[:-2]:
    raise ValueError(
      f"queries {queries.shape}, keys {keys.shape} and values {values.shape} must be "
      "[B, S, D], [B, T, D] and [B, T, E]"
    )
  weights = _attention_weights(queries, keys)
  return jnp.einsum("...st,...te->...se", weights, values, precision="highest")


def _attention_weights(queries: Array, keys: Array) -> Array:
  """softmax_t <q_s, k_t>, [..., S, T]."""
  # An error in a score is one in the exponent: no rounding of products to fewer bits on accelerators.
  scores = jnp.einsum("...sd,...td->...st", queries, keys, precision="highest")
  return jax.nn.softmax(scores, axis=-1)


def universal_kd_loss(
  student_layer_logits: Float[ArrayLike, "*batch S C"],
  teacher_layer_logits: Float[ArrayLike, "*batch T C"],
  *,
  attend: Literal["logits", "losses"] = "logits",
  regression: bool = False,
  center: ArrayLike = 0.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
  stop_attention_gradient: bool = False,
) -> Float[Array, "*batch"]:
  r"""Universal-KD: layers meet in the space of outputs, where width and architecture do not matter.

  .. math:: \sum_i KL(softmax(\sum_j a_{ij} z^T_j) \,\|\, softmax(z^S_i)),
    \quad a_{ij} = softmax_j \langle z^S_i, z^T_j \rangle

  With `attend="losses"`, the attention weighs the divergences from each of the teacher's layers instead:

  .. math:: \sum_i \sum_j a_{ij} \, KL(softmax(z^T_j) \,\|\, softmax(z^S_i))

  The logits come from pseudo classifiers on the intermediate layers; final layers are left to ordinary KD.
  With the student's final logits as its only "layer", S = 1, against all of the teacher's, final ones
  included, this is the paper's loss for a large gap in capacity: `universal_kd_capacity_gap_loss`.

  Args:
    student_layer_logits: [B, S, C]; more leading axes, or none, are fine.
    teacher_layer_logits: [B, T, C], finite: unlike a loss on one distribution, a mix has no place for -inf.
    attend: "logits" mixes the teacher's logits, the paper's choice; "losses" mixes losses, its ablation.
    regression: squared error, summed over outputs, in place of KL; needed for C = 1.
    center: subtracted from both sides. In regression, the mean label: around 0 itself, an inner product of two
      numbers would always favour the larger.
    mask: [B] or its leading axes; masked examples give 0, whatever stands there.
    stop_teacher_gradient: False where the teacher learns too.
    stop_attention_gradient: True to stop the gradient through a_ij into the student; the
      paper's formula does not stop it.

  Returns:
    [B] float32, the sum over the student's layers.

  Raises:
    ValueError: for shapes that do not fit, integers, C = 1 without `regression`, or another `attend`.

  References:
    Wu et al., Universal-KD: Attention-based Output-Grounded Intermediate Layer Knowledge Distillation,
    EMNLP 2021. No code was released.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> teacher = jnp.array([[[2.0, 0.0], [0.0, 2.0]]])
    >>> student = jnp.array([[[0.0, 0.0], [9.0, 0.0]]])
    >>> [round(float(v), 4) for v in kd_jax.universal_kd_loss(student[:, :1], teacher)]
    [0.0]
    >>> [round(float(v), 4) for v in kd_jax.universal_kd_loss(student, teacher)]
    [0.7076]
  """
  if attend not in ("logits", "losses"):
    raise ValueError(f"`attend` must be logits or losses, got {attend!r}")
  student, teacher = _checked(student_layer_logits, teacher_layer_logits, mask, "layer_logits")
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  student, teacher = student - center, teacher - center
  if student.shape[-1] == 1 and not regression:
    raise ValueError(
      f"student_layer_logits {student.shape} are of one class, whose softmax is always 1: pass "
      "regression=True"
    )
  queries = jax.lax.stop_gradient(student) if stop_attention_gradient else student
  if attend == "losses":
    pairs = _output_distance(student[..., :, None, :], teacher[..., None, :, :], regression)
    distances = jnp.sum(_attention_weights(queries, teacher) * pairs, axis=-1)
  else:
    distances = _output_distance(student, layer_attention(queries, teacher, teacher), regression)
  return apply_mask(jnp.sum(distances, axis=-1), mask)


def universal_kd_capacity_gap_loss(
  student_logits: Float[ArrayLike, "*batch C"],
  teacher_layer_logits: Float[ArrayLike, "*batch T-1 C"],
  teacher_logits: Float[ArrayLike, "*batch C"],
  *,
  regression: bool = False,
  center: ArrayLike = 0.0,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Universal-KD for a gap in capacity: the teacher's pseudo classifiers assist its final layer.

  .. math:: KL(softmax(\sum_j a_j z^T_j) \,\|\, softmax(z^S)), \quad a_j = softmax_j \langle z^S, z^T_j \rangle

  over the teacher's T - 1 pseudo classifiers and its final logits.

  Args:
    student_logits: [B, C]; more leading axes, or none, are fine.
    teacher_layer_logits: [B, T - 1, C], of the pseudo classifiers.
    teacher_logits: [B, C].
    regression: whether the outputs are numbers, as in `universal_kd_loss`.
    center: around which numbers are attended to, as in `universal_kd_loss`.
    mask: [B]; masked examples give 0, even if they are NaN.
    stop_teacher_gradient: False if the teacher learns too.

  Returns:
    [B] float32.

  Raises:
    ValueError: as `universal_kd_loss`.

  References:
    Wu et al., Universal-KD, EMNLP 2021.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> final, inner = jnp.array([[2.0, 0.0]]), jnp.array([[[0.0, 2.0]]])
    >>> loss = kd_jax.universal_kd_capacity_gap_loss(jnp.zeros((1, 2)), inner, final)
    >>> [round(float(v), 4) for v in loss]  # both fit equally: their mix is [1, 1]
    [0.0]
  """
  student = as_float32("student_logits", student_logits)
  inner = _stacked("teacher_layer_logits", teacher_layer_logits)
  final = as_float32("teacher_logits", teacher_logits)
  if student.shape != final.shape or (*inner.shape[:-2], inner.shape[-1]) != final.shape:
    raise ValueError(
      f"student_logits {student.shape}, teacher_layer_logits {inner.shape} and teacher_logits {final.shape} "
      "must be [B, C], [B, T - 1, C] and [B, C]"
    )
  return universal_kd_loss(
    student[..., None, :],
    jnp.concatenate([inner, final[..., None, :]], axis=-2),
    regression=regression,
    center=center,
    mask=mask,
    stop_teacher_gradient=stop_teacher_gradient,
  )


def _output_distance(student: Array, teacher: Array, regression: bool) -> Array:
  """KL(softmax(teacher) || softmax(student)) over the last axis, or the squared error."""
  if regression:
    return jnp.sum((student - teacher) ** 2, axis=-1)
  return kl_from_log_probs(
    jax.nn.log_softmax(teacher, axis=-1), jax.nn.log_softmax(student, axis=-1)
  )


def alp_kd_loss(
  student_layers: Float[ArrayLike, "*batch S D"],
  teacher_layers: Float[ArrayLike, "*batch T D"],
  *,
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""ALP-KD: each student layer learns from an attention mix of all the teacher's layers.

  .. math:: \sum_i \tfrac1D \| h^S_i - \sum_j a_{ij} h^T_j \|^2,
    \quad a_{ij} = softmax_j \langle h^S_i, h^T_j \rangle

  Args:
    student_layers: [B, S, D], for instance states of [CLS]; more leading axes, or none, are fine.
    teacher_layers: [B, T, D].
    mask: [B] or its leading axes; masked examples give 0, whatever stands there.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B] float32: the mean over D, the sum over the student's layers.

  Raises:
    ValueError: for shapes that do not fit (widths that differ need a projection) or integers.

  References:
    Passban et al., ALP-KD: Attention-Based Layer Projection for Knowledge Distillation, AAAI 2021,
    arXiv 2012.14022.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> teacher = jnp.array([[[1.0, 3.0], [3.0, 1.0]]])
    >>> kd_jax.alp_kd_loss(jnp.array([[[1.0, 1.0]]]), teacher).tolist()
    [1.0]
  """
  student, teacher = _checked(student_layers, teacher_layers, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  distances = jnp.mean((student - layer_attention(student, teacher, teacher)) ** 2, axis=-1)
  return apply_mask(jnp.sum(distances, axis=-1), mask)


def direction(states: Array) -> Array:
  """states [..., D] over their norms; 0 where there is none."""
  squared = jnp.sum(states**2, axis=-1, keepdims=True)
  known = squared > SMALLEST_NORM**2
  # The inner `where` keeps the root's gradient finite in the branch that is not taken.
  return jnp.where(known, states, 0.0) * jax.lax.rsqrt(jnp.where(known, squared, 1.0))


def patient_kd_loss(
  student_layers: Float[ArrayLike, "*batch S D"],
  teacher_layers: Float[ArrayLike, "*batch T D"],
  *,
  matching: Literal["one_to_one", "skip"] = "one_to_one",
  mask: ArrayLike | None = None,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Patient KD: each student layer learns the direction of one teacher layer's state.

  .. math:: \sum_i \tfrac1D \left\| \frac{h^S_i}{\|h^S_i\|} - \frac{h^T_{m(i)}}{\|h^T_{m(i)}\|} \right\|^2

  Args:
    student_layers: [B, S, D], for instance states of [CLS]; more leading axes, or none, are fine.
    teacher_layers: [B, S, D], one for each of the student's; or [B, T, D], to be matched.
    matching: "one_to_one" for m(i) = i; "skip" for the paper's choice, `skip_mapping(S + 1, T)`, where the
      student's layers are all but its last, and the teacher's are all.
    mask: [B] or its leading axes; masked examples give 0, whatever stands there.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B] float32: the mean over D, the sum over layers; at most 4 S / D. A state of zeros has no direction:
    it counts as 0, with no gradient.

  Raises:
    ValueError: for shapes that differ (widths that do need a projection) or integers.

  References:
    Sun et al., Patient Knowledge Distillation for BERT Model Compression, EMNLP 2019, arXiv 1908.09355. The
    paper sums over layers and D; the released code takes the mean over both, so divide its weights (10 to
    1000) by the number of layers compared.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student = jnp.array([[[3.0, 0.0], [0.0, 1.0]]])
    >>> teacher = jnp.array([[[1.0, 0.0], [0.0, -5.0]]])
    >>> kd_jax.patient_kd_loss(student, teacher).tolist()
    [2.0]
  """
  if matching not in ("one_to_one", "skip"):
    raise ValueError(f"`matching` must be one_to_one or skip, got {matching!r}")
  student, teacher = _checked(student_layers, teacher_layers, mask)
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  if matching == "skip":
    chosen = skip_mapping(student.shape[-2] + 1, teacher.shape[-2])
    teacher = teacher[..., np.asarray(chosen, int), :]
  if student.shape != teacher.shape:
    raise ValueError(
      f"student_layers {student.shape} and teacher_layers {teacher.shape} must have one shape: "
      'choose the teacher\'s layers with skip_mapping, or pass matching="skip"'
    )
  distances = jnp.mean((direction(student) - direction(teacher)) ** 2, axis=-1)
  return apply_mask(jnp.sum(distances, axis=-1), mask)


def skip_mapping(num_student: int, num_teacher: int) -> tuple[int, ...]:
  """Which teacher layer each of the student's learns from in PKD: evenly spaced, the last ones left out.

  The i-th of S layers learns from layer i T / S, halves rounded up. The last is left to ordinary KD.

  Args:
    num_student: S.
    num_teacher: T, at least S.

  Returns:
    S - 1 indices counted from 0, for `teacher_layers[:, indices]`.

  Raises:
    ValueError: unless 1 <= S <= T.

  References:
    Sun et al. 2019, arXiv 1908.09355, "PKD-Skip".

  Example:
    >>> skip_mapping(6, 12)  # layers 2, 4, 6, 8 and 10, counted from 1
    (1, 3, 5, 7, 9)
    >>> skip_mapping(1, 12)
    ()
  """
  if not 1 <= num_student <= num_teacher:
    raise ValueError(
      f"a student of {num_student} layers cannot skip through a teacher of {num_teacher}: it needs "
      "at least 1 and at most as many as the teacher"
    )
  return tuple(
    (2 * i * num_teacher + num_student) // (2 * num_student) - 1 for i in range(1, num_student)
  )


def even_mapping(num_student: int, num_teacher: int) -> tuple[int, ...]:
  """Which teacher layer each of the student's learns from in TinyBERT: the last of equal groups.

  Args:
    num_student: S.
    num_teacher: T, at least S.

  Returns:
    S indices counted from 0.

  Raises:
    ValueError: unless 1 <= S <= T.

  References:
    Jiao et al., TinyBERT, Findings of EMNLP 2020, arXiv 1909.10351: m(i) = i T / S. Where S does not divide T,
    halves are rounded up, as in `skip_mapping`.

  Example:
    >>> even_mapping(4, 12)  # layers 3, 6, 9 and 12, counted from 1
    (2, 5, 8, 11)
  """
  return (*skip_mapping(num_student, num_teacher), num_teacher - 1)
