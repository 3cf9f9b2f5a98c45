"""Losses that compare what layers make of each token: states, their relations, attention scores.

All take a mask [B, n] of tokens and give one value for each example: a mean over its tokens, 0 where it has
none. What stands in padding has no influence. TinyBERT's two, which go over all layers, match them by
`even_mapping`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from kd_jax._checks import as_float32, blank, broadcast_mask
from kd_jax._numerics import kl_from_log_probs
from kd_jax.losses.layers import even_mapping
from kd_jax.losses.reductions import masked_mean
from kd_jax.types import NEG_INF, Array, ArrayLike


def _token_mask(mask: ArrayLike | None, shape: tuple[int, ...]) -> Array:
  """The mask as bool [B, n]; all True where there is none."""
  return broadcast_mask(True if mask is None else mask, shape)


def _merge_heads(name: str, states: ArrayLike) -> Array:
  """States [B, n, D] as float32, also from [B, H, n, D / H]."""
  states = as_float32(name, states)
  if states.ndim == 4:
    states = jnp.moveaxis(states, 1, 2)
    states = states.reshape(*states.shape[:2], -1)
  if states.ndim != 3:
    raise ValueError(f"{name} must be [B, n, D] or [B, H, n, D / H], got {states.shape}")
  return states


def _log_relations(states: Array, heads: int, mask: Array) -> Array:
  """log softmax(X Xᵀ / √d) over valid keys: [B, heads, n, n] from states [B, n, D]."""
  size, length, width = states.shape
  split = states.reshape(size, length, heads, width // heads)
  scores = jnp.einsum("bqhd,bkhd->bhqk", split, split, precision="highest")
  scores = jnp.where(mask[:, None, None, :], scores / (width // heads) ** 0.5, NEG_INF)
  return jax.nn.log_softmax(scores, axis=-1)


def relation_kd_loss(
  student_states: Float[ArrayLike, "B *heads n D_s"],
  teacher_states: Float[ArrayLike, "B *heads n D_t"],
  mask: ArrayLike | None = None,
  *,
  relation_heads: int,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " B"]:
  r"""MiniLM-v2: how each token relates to the others, which widths and numbers of heads do not change.

  .. math:: \frac{1}{A \, n} \sum_{a, q} KL(R^T_{aq} \,\|\, R^S_{aq}),
    \quad R_a = softmax(X_a X_a^\top / \sqrt{d})

  The states of all heads are put side by side and split again into A relation heads of width d = D / A; D and
  d of student and teacher may differ. The method adds up the losses of queries, keys and values of one layer.

  Args:
    student_states: [B, n, D], or [B, H, n, D / H] as in `TokenStates`.
    teacher_states: [B, n, D'] or [B, H', n, D' / H'].
    mask: [B, n]; 0 for padding.
    relation_heads: A; must divide D and D'.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B] float32: the mean over relation heads and tokens.

  Raises:
    ValueError: for shapes that do not fit, integers, or relation heads that do not divide a width.

  References:
    Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
    Transformers, Findings of ACL 2021, arXiv 2012.15828.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> teacher = jnp.array([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    >>> mask = jnp.array([[True, True, False]])
    >>> wider = jnp.concatenate([teacher, teacher], -1) / 2**0.25  # X Xᵀ / √d is the same
    >>> [round(float(v), 4) for v in kd_jax.relation_kd_loss(wider, teacher, mask, relation_heads=1)]
    [0.0]
    >>> [round(float(v), 4) for v in kd_jax.relation_kd_loss(0 * teacher, teacher, mask, relation_heads=1)]
    [0.0588]
  """
  student = _merge_heads("student_states", student_states)
  teacher = _merge_heads("teacher_states", teacher_states)
  if student.shape[:2] != teacher.shape[:2]:
    raise ValueError(
      f"student_states {student.shape} and teacher_states {teacher.shape} must be [B, n, width] of "
      "the same tokens"
    )
  for name, states in (("student_states", student), ("teacher_states", teacher)):
    if relation_heads < 1 or states.shape[-1] % relation_heads:
      raise ValueError(
        f"{relation_heads} relation_heads do not divide the width of {name} {states.shape}"
      )
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  mask = _token_mask(mask, student.shape[:2])
  log_s = _log_relations(blank(student, mask), relation_heads, mask)
  log_t = _log_relations(blank(teacher, mask), relation_heads, mask)
  return jax.vmap(masked_mean)(jnp.mean(kl_from_log_probs(log_t, log_s), axis=1), mask)


def hidden_state_loss(
  student_states: Float[ArrayLike, "B n D"],
  teacher_states: Float[ArrayLike, "B n D"],
  mask: ArrayLike | None = None,
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " B"]:
  r"""TinyBERT's loss on hidden states and embeddings: mean squared error of each token's state.

  .. math:: \frac{1}{n D} \sum_i \| h^S_i - h^T_i \|^2

  Args:
    student_states: [B, n, D]; project them first if the student is narrower.
    teacher_states: [B, n, D].
    mask: [B, n]; 0 for padding.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B] float32: the mean over tokens and D.

  Raises:
    ValueError: for shapes that differ (widths that do need a projection) or integers.

  References:
    Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020,
    arXiv 1909.10351. The released code counts padding too.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> student, teacher = jnp.zeros((1, 3, 2)), jnp.array([[[1.0, 1.0], [3.0, 3.0], [9.0, 9.0]]])
    >>> kd_jax.hidden_state_loss(student, teacher, jnp.array([[True, True, False]])).tolist()
    [5.0]
  """
  student = as_float32("student_states", student_states)
  teacher = as_float32("teacher_states", teacher_states)
  if student.ndim != 3 or student.shape != teacher.shape:
    raise ValueError(
      f"student_states {student.shape} and teacher_states {teacher.shape} must have one shape "
      "[B, n, D]: project widths that differ first"
    )
  if stop_teacher_gradient:
    teacher = jax.lax.stop_gradient(teacher)
  mask = _token_mask(mask, student.shape[:2])
  distances = jnp.mean((blank(student, mask) - blank(teacher, mask)) ** 2, axis=-1)
  return jax.vmap(masked_mean)(distances, mask)


def _attention_scores(queries: Array, keys: Array, mask: Array) -> Array:
  """Q Kᵀ / √d [B, H, n, n] of [B, H, n, d], with zeros in padding."""
  # To [B, n, H, d], where a mask of tokens has the leading axes.
  queries, keys = (blank(jnp.moveaxis(states, 1, 2), mask) for states in (queries, keys))
  scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, precision="highest")
  return scores / queries.shape[-1] ** 0.5


def attention_loss(
  student_queries: Float[ArrayLike, "B H n d_s"],
  student_keys: Float[ArrayLike, "B H n d_s"],
  teacher_queries: Float[ArrayLike, "B H n d_t"],
  teacher_keys: Float[ArrayLike, "B H n d_t"],
  mask: ArrayLike | None = None,
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " B"]:
  r"""TinyBERT's loss on attention: mean squared error of the scores before their softmax.

  .. math:: \frac{1}{H n^2} \sum_{a, q, k} (A^S_{aqk} - A^T_{aqk})^2, \quad A_a = Q_a K_a^\top / \sqrt{d}

  Args:
    student_queries: [B, H, n, d], as in `TokenStates`.
    student_keys: [B, H, n, d].
    teacher_queries: [B, H, n, d']: the same number of heads, whose width may differ.
    teacher_keys: [B, H, n, d'].
    mask: [B, n]; 0 for padding.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B] float32: the mean over heads and pairs of tokens.

  Raises:
    ValueError: for shapes that do not fit, or integers.

  References:
    Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020,
    arXiv 1909.10351. The released code counts padding too, with scores of 0 for padded keys.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> ones = jnp.ones((1, 2, 3, 4))  # scores of 4 / √4 = 2
    >>> kd_jax.attention_loss(0 * ones, ones, ones, ones).tolist()
    [4.0]
  """
  arguments: dict[str, ArrayLike] = {
    "student_queries": student_queries,
    "student_keys": student_keys,
    "teacher_queries": teacher_queries,
    "teacher_keys": teacher_keys,
  }
  given = {name: as_float32(name, states) for name, states in arguments.items()}
  student, keys, teacher, other_keys = (states.shape for states in given.values())
  if len(student) != 4 or student != keys or teacher != other_keys or student[:3] != teacher[:3]:
    shapes = ", ".join(f"{name} {states.shape}" for name, states in given.items())
    raise ValueError(f"must be [B, H, n, d] of the same tokens and as many heads, got {shapes}")
  mask = _token_mask(mask, (student[0], student[2]))
  student_scores = _attention_scores(given["student_queries"], given["student_keys"], mask)
  teacher_scores = _attention_scores(given["teacher_queries"], given["teacher_keys"], mask)
  if stop_teacher_gradient:
    teacher_scores = jax.lax.stop_gradient(teacher_scores)
  distances = jnp.mean((student_scores - teacher_scores) ** 2, axis=1)
  return jax.vmap(masked_mean)(distances, mask[:, :, None] & mask[:, None, :])


def tinybert_states_loss(
  student_states: Sequence[Float[ArrayLike, "B n D"]],
  teacher_states: Sequence[Float[ArrayLike, "B n D"]],
  mask: ArrayLike | None = None,
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " B"]:
  r"""TinyBERT's losses on embeddings and hidden states, summed over the student's layers.

  .. math:: \sum_{i=0}^S \frac{1}{n D} \| H^S_i - H^T_{m(i)} \|^2, \quad m(0) = 0, \; m(S) = T

  Args:
    student_states: S + 1 arrays [B, n, D], the embeddings first, as in `TokenStates`; mapped to the teacher's
      width first if the student is narrower.
    teacher_states: T + 1 arrays [B, n, D].
    mask: [B, n]; 0 for padding.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B] float32.

  Raises:
    ValueError: as `hidden_state_loss`, or a student of more layers than the teacher.

  References:
    Jiao et al., TinyBERT, Findings of EMNLP 2020, arXiv 1909.10351, equations 8, 9 and 11.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> zeros, ones = jnp.zeros((1, 3, 2)), jnp.ones((1, 3, 2))
    >>> kd_jax.tinybert_states_loss([zeros, zeros], [ones, 5 * ones, 2 * ones]).tolist()  # 1 + 4
    [5.0]
  """
  chosen = even_mapping(len(student_states) - 1, len(teacher_states) - 1)
  teacher = [teacher_states[0], *(teacher_states[1 + layer] for layer in chosen)]
  losses = [
    hidden_state_loss(own, theirs, mask, stop_teacher_gradient=stop_teacher_gradient)
    for own, theirs in zip(student_states, teacher, strict=True)
  ]
  return jnp.sum(jnp.stack(losses), axis=0)


def tinybert_attention_loss(
  student_queries: Sequence[Float[ArrayLike, "B H n d_s"]],
  student_keys: Sequence[Float[ArrayLike, "B H n d_s"]],
  teacher_queries: Sequence[Float[ArrayLike, "B H n d_t"]],
  teacher_keys: Sequence[Float[ArrayLike, "B H n d_t"]],
  mask: ArrayLike | None = None,
  *,
  stop_teacher_gradient: bool = True,
) -> Float[Array, " B"]:
  r"""TinyBERT's loss on attention, summed over the student's layers.

  .. math:: \sum_{i=1}^S \frac{1}{H n^2} \| A^S_i - A^T_{m(i)} \|^2

  with A the scores before their softmax: see `attention_loss`.

  Args:
    student_queries: S arrays [B, H, n, d], as in `TokenStates`.
    student_keys: S arrays [B, H, n, d].
    teacher_queries: T arrays [B, H, n, d'].
    teacher_keys: T arrays [B, H, n, d'].
    mask: [B, n]; 0 for padding.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [B] float32.

  Raises:
    ValueError: as `attention_loss`, or a student of more layers than the teacher.

  References:
    Jiao et al., TinyBERT, Findings of EMNLP 2020, arXiv 1909.10351, equations 7 and 11.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> ones = jnp.ones((1, 2, 3, 4))  # scores of 4 / √4 = 2
    >>> kd_jax.tinybert_attention_loss([0 * ones], [ones], [ones, ones], [ones, 2 * ones]).tolist()
    [16.0]
  """
  for name, queries, keys in (
    ("student", student_queries, student_keys),
    ("teacher", teacher_queries, teacher_keys),
  ):
    if len(queries) != len(keys):
      raise ValueError(
        f"{name}_queries and {name}_keys must be of the same layers, got {len(queries)} and {len(keys)}"
      )
  chosen = even_mapping(len(student_queries), len(teacher_queries))
  losses = [
    attention_loss(
      student_queries[own],
      student_keys[own],
      teacher_queries[theirs],
      teacher_keys[theirs],
      mask,
      stop_teacher_gradient=stop_teacher_gradient,
    )
    for own, theirs in enumerate(chosen)
  ]
  return jnp.sum(jnp.stack(losses), axis=0)
