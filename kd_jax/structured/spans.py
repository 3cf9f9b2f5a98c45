"""Flat segmentations: labelled spans that do not overlap, scored each by its start, end and label.

A token outside all spans (O) scores 0. Tags are BIOES, numbered 0 for O and then, for each label r in turn, S
1+4r, B 2+4r, I 3+4r, E 4+4r. `segments` has the dynamic programme.
"""

from typing import NamedTuple

import jax.numpy as jnp

from kd_jax.structured.checks import as_tags
from kd_jax.structured.divergence import categorical_kl
from kd_jax.structured.inputs import as_mask
from kd_jax.structured.segments import (
  as_segments,
  best_segments,
  by_end,
  forward,
  log_conditionals,
  segment_marginals,
)
from kd_jax.types import Array, ArrayLike


class SpanScores(NamedTuple):
  """What a network that scores spans gives out.

  Attributes:
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    mask: [..., n], ones and then zeros; None where all are tokens.
  """

  scores: ArrayLike
  mask: ArrayLike | None = None


def log_partition(scores: ArrayLike, mask: ArrayLike | None = None) -> Array:
  r"""log of the summed weight of all segmentations.

  Args:
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    mask: [..., n], ones and then zeros; None where all are tokens.

  Returns:
    [...] float32; 0 for an empty sentence.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  References:
    Structural KD, arXiv 2010.05010, case 4; the released code does this in Python decimals.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(jnp.exp(log_partition(jnp.zeros((2, 2, 1))))))  # OO, SO, OS, SS, BE
    5
  """
  segments, _, _ = as_segments(scores, mask)
  return forward(segments)[..., -1]


def span_marginals(scores: ArrayLike, mask: ArrayLike | None = None) -> Array:
  """The probability of each span: the gradient of log Z.

  Args:
    scores, mask: as in `log_partition`.

  Returns:
    [..., n, n, R]; 0 at padding and for start > end.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> (5 * span_marginals(jnp.zeros((2, 2, 1))))[..., 0].round(3).tolist()
    [[2.0, 1.0], [0.0, 2.0]]
  """
  segments, valid, _ = as_segments(scores, mask)
  return jnp.where(valid, segment_marginals(segments)[..., :-1], 0.0)


def tag_marginals(scores: ArrayLike, mask: ArrayLike | None = None) -> Array:
  r"""The probability of each BIOES tag at each token, under all segmentations.

  .. math:: P(I_r, m) = \sum_{u < m < v} P(u, v, r) \quad P(B_r, m) = \sum_{v > m} P(m, v, r) \quad ...

  Args:
    scores, mask: as in `log_partition`.

  Returns:
    [..., n, 4R+1]: 0 is O; for label r, S 1+4r, B 2+4r, I 3+4r, E 4+4r. Rows sum to 1; 0 at padding.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  References:
    arXiv 2010.05010, case 4.

  Example:
    >>> import jax.numpy as jnp
    >>> (5 * tag_marginals(jnp.zeros((2, 2, 1)))).round(3).tolist()
    [[2.0, 2.0, 1.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0, 1.0]]
  """
  segments, _, mask = as_segments(scores, mask)
  marginals = segment_marginals(segments)
  num_tokens = mask.shape[-1]
  diagonal = jnp.einsum("...iir->...ir", marginals)
  outside, single = diagonal[..., -1:], diagonal[..., :-1]
  later = jnp.triu(jnp.ones((num_tokens, num_tokens), bool), k=1)[..., None]
  longer = jnp.where(later, marginals[..., :-1], 0.0)
  begin, end = jnp.sum(longer, axis=-2), jnp.sum(longer, axis=-3)
  # Sums of positive terms only; counting starts and taking off ends would lose small probabilities.
  started = jnp.cumsum(longer, axis=-3)[..., :-1, :, :]  # [m - 1, v]: P(starts before m, ends at v)
  started = jnp.concatenate([jnp.zeros_like(longer[..., :1, :, :]), started], axis=-3)
  inside = jnp.sum(jnp.where(later, started, 0.0), axis=-2)
  tags = jnp.stack([single, begin, inside, end], axis=-1)
  tags = tags.reshape(*tags.shape[:-2], -1)
  return jnp.where(mask[..., None], jnp.concatenate([outside, tags], axis=-1), 0.0)


def viterbi(scores: ArrayLike, mask: ArrayLike | None = None) -> tuple[Array, Array]:
  """The best segmentation, as BIOES tags.

  Args:
    scores, mask: as in `log_partition`.

  Returns:
    tags [..., n] int32, numbered as in `tag_marginals`, 0 at padding; and its score [...].

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> tags, score = viterbi(jnp.array([[[-1.0], [2.0]], [[0.0], [1.0]]]))
    >>> tags.tolist(), float(score)
    ([2, 4], 2.0)
  """
  segments, _, mask = as_segments(scores, mask)
  at = jnp.arange(mask.shape[-1])
  best, starts, ends, labels = best_segments(segments)
  place = jnp.where(starts == ends, 1, jnp.where(at == starts, 2, jnp.where(at == ends, 4, 3)))
  tags = jnp.where(labels == segments.shape[-1] - 1, 0, 4 * labels + place)
  return tags.astype(jnp.int32), best


def spans_of_tags(tags: ArrayLike, num_labels: int, mask: ArrayLike | None = None) -> Array:
  """The well-formed spans of BIOES tags: S, or B, any number of I, and E of one label.

  Args:
    tags: [..., n] integers numbered as in `tag_marginals`. Tags that are part of no such span count as O.
    num_labels: R.
    mask: [..., n], ones and then zeros; None where all are tokens.

  Returns:
    bool [..., n, n, R] by start, end and label.

  Raises:
    ValueError: tags that are no integers, or a mask of another shape.

  Example:
    >>> import jax.numpy as jnp
    >>> spans = spans_of_tags(jnp.array([2, 3, 4, 0, 1]), 1)
    >>> [tuple(map(int, span)) for span in zip(*jnp.nonzero(spans))]
    [(0, 2, 0), (4, 4, 0)]
  """
  tags = jnp.asarray(tags)
  if tags.ndim == 0 or not jnp.issubdtype(tags.dtype, jnp.integer):
    raise ValueError(f"tags must be integers [..., n], got {tags.dtype} {tags.shape}")
  mask = as_mask(mask, tags.shape)
  num_tokens = tags.shape[-1]
  tags = jnp.where(mask, tags, 0)[..., None]
  single, begin, inside, end = (tags == place + 4 * jnp.arange(num_labels) for place in range(1, 5))
  position = jnp.arange(num_tokens)
  length = (position[None, :] - position[:, None])[..., None]
  count = jnp.cumsum(inside, axis=-2, dtype=jnp.int32)
  between = count[..., None, :, :] - count[..., :, None, :]  # of I after the start up to the end
  longer = begin[..., :, None, :] & end[..., None, :, :] & (between == length - 1) & (length > 0)
  return longer | (single[..., :, None, :] & (length == 0))


def score(scores: ArrayLike, tags: ArrayLike, mask: ArrayLike | None = None) -> Array:
  """The summed score of the well-formed spans of BIOES tags [..., n]; see `spans_of_tags`.

  Args:
    scores, mask: as in `log_partition`.
    tags: [..., n] integers.

  Returns:
    [...] float32.

  Raises:
    ValueError: shapes that do not fit, integer scores, NaN, or tags that are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> float(score(jnp.full((3, 3, 1), 2.0), jnp.array([2, 4, 1])))
    4.0
  """
  segments, _, mask = as_segments(scores, mask)
  labels = segments.shape[-1] - 1
  spans = spans_of_tags(as_tags(tags, mask, 4 * labels + 1), labels, mask)
  return jnp.sum(jnp.where(spans, segments[..., :-1], 0.0), axis=(-3, -2, -1))


def log_prob(scores: ArrayLike, tags: ArrayLike, mask: ArrayLike | None = None) -> Array:
  """log P of the segmentation that BIOES tags [..., n] say: its score less log Z.

  Args:
    scores, mask: as in `log_partition`.
    tags: [..., n] integers, numbered as in `tag_marginals`.

  Returns:
    [...] float32.

  Raises:
    ValueError: shapes that do not fit, integer scores, NaN, or tags that are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(jnp.exp(log_prob(jnp.zeros((2, 2, 1)), jnp.array([2, 4])))), 3)
    0.2
  """
  return score(scores, tags, mask) - log_partition(scores, mask)


def entropy(scores: ArrayLike, mask: ArrayLike | None = None) -> Array:
  r"""Entropy of the distribution over segmentations, in nats.

  .. math:: H = -\sum_{i \le j, r} P(i, j, r) \log P(i, r \,|\, \text{a segment ends at } j)

  with O among the labels: each term is at least 0, where log Z less the expected score would cancel.

  Args:
    scores, mask: as in `log_partition`.

  Returns:
    [...] float32, at least 0.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(jnp.exp(entropy(jnp.zeros((2, 2, 1))))), 3)
    5.0
  """
  segments, _, _ = as_segments(scores, mask)
  return _expected(segments, -log_conditionals(segments))


def cross_entropy(
  teacher_scores: ArrayLike, student_scores: ArrayLike, mask: ArrayLike | None = None
) -> Array:
  r"""Cross-entropy of the student's distribution over segmentations under the teacher's.

  .. math:: -\sum_y P_t(y) \log P_s(y)

  Args:
    teacher_scores: [..., n, n, R].
    student_scores: [..., n, n, R].
    mask: [..., n] of both, ones and then zeros; None where all are tokens.

  Returns:
    [...] float32, at least 0. Gradients flow into both.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(cross_entropy(jnp.zeros((2, 2, 1)), jnp.zeros((2, 2, 1)))), 3)  # log 5
    1.609
  """
  teacher, student = _as_pair(teacher_scores, student_scores, mask)
  return _expected(teacher, -log_conditionals(student))


def kl_divergence(
  teacher_scores: ArrayLike, student_scores: ArrayLike, mask: ArrayLike | None = None
) -> Array:
  r"""KL divergence of the student's distribution over segmentations from the teacher's.

  .. math:: \sum_y P_t(y) (\log P_t(y) - \log P_s(y))

  Args:
    teacher_scores: [..., n, n, R].
    student_scores: [..., n, n, R].
    mask: [..., n] of both, ones and then zeros; None where all are tokens.

  Returns:
    [...] float32, at least 0, and 0 at equality. Gradients flow into both.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> float(kl_divergence(jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1)))) > 0.1
    True
  """
  teacher, student = _as_pair(teacher_scores, student_scores, mask)
  ends_here = jnp.sum(by_end(segment_marginals(teacher)), axis=-1)
  given_end = categorical_kl(log_conditionals(teacher), log_conditionals(student))
  return jnp.sum(ends_here * given_end, axis=-1)


def _as_pair(teacher: ArrayLike, student: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array]:
  if jnp.shape(teacher) != jnp.shape(student):
    raise ValueError(
      f"teacher_scores {jnp.shape(teacher)} and student_scores {jnp.shape(student)} must have one shape"
    )
  return as_segments(teacher, mask)[0], as_segments(student, mask)[0]


def _expected(segments: Array, values: Array) -> Array:
  """The sum of values by end over a random segmentation; what cannot be adds nothing."""
  marginals = by_end(segment_marginals(segments))
  return jnp.sum(jnp.where(marginals > 0, marginals * values, 0.0), axis=(-2, -1))
