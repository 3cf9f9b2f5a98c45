"""Flat segmentations: labelled spans that do not overlap, scored each by its start, end and label.

A sentence is cut into segments: a span with a label, or one token outside all spans (O), which scores 0. With t(i, j)
the log-weight of all labels that the segment from i to j may have,

    F(0) = 0 ;  F(j + 1) = log sum_{i <= j} exp(F(i) + t(i, j)) ;  log Z = F(n)

O(n² R) in all, n steps of O(n). Marginals are gradients of log Z, that of the outside scores among them: sums of
products of positive terms, so that small ones keep their digits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.structured.inputs import as_mask, as_scores, refuse_nan
from kd_jax.types import NEG_INF, Array, ArrayLike


class SpanScores(NamedTuple):
  """What a network that scores spans gives out.

  Attributes:
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    mask: [..., n], ones and then zeros; None where all are tokens.
  """

  scores: ArrayLike
  mask: ArrayLike | None = None


def _as_segments(scores: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array, Array]:
  """Scores [..., n, n, R+1] by start, end and label, O last; where a segment is none, NEG_INF.

  A token of padding is an O, and nothing else: it moves no sum.

  Returns:
    those scores, bool [..., n, n, R]: which spans there are, and the mask as bool [..., n].
  """
  scores = as_scores("scores", scores, "n, n, R")
  num_tokens = scores.shape[-2]
  if scores.shape[-3] != num_tokens or scores.shape[-1] == 0:
    raise ValueError(
      f"scores must be of shape [..., n, n, R] by start, end and label, got {scores.shape}"
    )
  if mask is not None and jnp.shape(mask) != scores.shape[:-2]:
    raise ValueError(f"mask {jnp.shape(mask)} must be of the shape [..., n] of scores {scores.shape}")
  mask = as_mask(mask, scores.shape[:-2])
  ordered = jnp.triu(jnp.ones((num_tokens, num_tokens), bool))
  valid = (ordered & mask[..., None, :])[..., None]  # a prefix mask: the end decides
  refuse_nan("scores", scores, valid)
  spans = jnp.where(valid, jnp.clip(scores, NEG_INF, -NEG_INF), NEG_INF)
  outside = jnp.where(jnp.eye(num_tokens, dtype=bool)[..., None], 0.0, NEG_INF)
  outside = jnp.broadcast_to(outside, (*spans.shape[:-1], 1))
  return jnp.concatenate([spans, outside], axis=-1), valid, mask


def _forward(segments: Array) -> Array:
  """F [..., n+1]: log-weight of all that may stand before a position."""
  by_end = jnp.moveaxis(jax.nn.logsumexp(segments, axis=-1), -1, 0)  # [n, ..., start]
  start = jnp.arange(by_end.shape[0] + 1)

  def step(forward, weights_and_end):
    weights, end = weights_and_end
    value = jax.nn.logsumexp(forward[..., :-1] + weights, axis=-1, keepdims=True)
    return jnp.where(start == end + 1, value, forward), None

  first = jnp.where(start == 0, 0.0, NEG_INF)
  first = jnp.broadcast_to(first, (*by_end.shape[1:-1], start.size))
  return jax.lax.scan(step, first, (by_end, start[:-1]))[0]


def _marginals(segments: Array) -> Array:
  """P [..., n, n, R+1] of each segment."""
  return jax.grad(lambda segments: jnp.sum(_forward(segments)[..., -1]))(segments)


def _log_conditionals(segments: Array) -> Array:
  """log P(start, label | a segment ends here) [..., n, n, R+1]: their sum over segments is log P(all)."""
  joint = _forward(segments)[..., :-1, None, None] + segments
  by_end = jnp.moveaxis(joint, -2, -3)  # [..., end, start, label]
  flat = by_end.reshape(*by_end.shape[:-2], -1)
  return jnp.moveaxis(jax.nn.log_softmax(flat, axis=-1).reshape(by_end.shape), -2, -3)


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
  segments, _, _ = _as_segments(scores, mask)
  return _forward(segments)[..., -1]


def span_marginals(scores: ArrayLike, mask: ArrayLike | None = None) -> Array:
  """The probability of each span: the gradient of log Z.

  Args:
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    mask: [..., n], ones and then zeros; None where all are tokens.

  Returns:
    [..., n, n, R]; 0 at padding and for start > end.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> span_marginals(jnp.zeros((2, 2, 1)))[..., 0].round(3).tolist()
    [[0.4, 0.2], [0.0, 0.4]]
  """
  segments, valid, _ = _as_segments(scores, mask)
  return jnp.where(valid, _marginals(segments)[..., :-1], 0.0)


def tag_marginals(scores: ArrayLike, mask: ArrayLike | None = None) -> Array:
  r"""The probability of each BIOES tag at each token, under all segmentations.

  .. math:: P(I_r, m) = \sum_{u < m < v} P(u, v, r) \quad P(B_r, m) = \sum_{v > m} P(m, v, r) \quad ...

  Args:
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    mask: [..., n], ones and then zeros; None where all are tokens.

  Returns:
    [..., n, 4R+1]: 0 is O; for label r, S 1+4r, B 2+4r, I 3+4r, E 4+4r. Rows sum to 1; 0 at padding.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  References:
    arXiv 2010.05010, case 4.

  Example:
    >>> import jax.numpy as jnp
    >>> tag_marginals(jnp.zeros((2, 2, 1))).round(3).tolist()
    [[0.4, 0.4, 0.2, 0.0, 0.0], [0.4, 0.4, 0.0, 0.0, 0.2]]
  """
  segments, _, mask = _as_segments(scores, mask)
  marginals = _marginals(segments)
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
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    mask: [..., n], ones and then zeros; None where all are tokens.

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
  segments, _, mask = _as_segments(scores, mask)
  num_tokens, outside = mask.shape[-1], segments.shape[-1] - 1
  label = jnp.argmax(segments, axis=-1)
  by_end = jnp.moveaxis(jnp.max(segments, axis=-1), -1, 0)
  position = jnp.arange(num_tokens + 1)

  def forward_step(best, weights_and_end):
    weights, end = weights_and_end
    candidates = best[..., :-1] + weights
    value = jnp.max(candidates, axis=-1, keepdims=True)
    return jnp.where(position == end + 1, value, best), jnp.argmax(candidates, axis=-1)

  first = jnp.where(position == 0, 0.0, NEG_INF)
  first = jnp.broadcast_to(first, (*mask.shape[:-1], num_tokens + 1))
  best, starts = jax.lax.scan(forward_step, first, (by_end, position[:-1]))

  def back_step(segment, step):
    start, end, kind = segment
    starts, labels, here = step  # the best start of a segment that ends here, and labels by start
    new = here < start
    start = jnp.where(new, starts, start)
    end = jnp.where(new, here, end)
    chosen = jnp.take_along_axis(labels, start[..., None], axis=-1)[..., 0]
    kind = jnp.where(new, chosen, kind)
    at_start, at_end = here == start, here == end
    place = jnp.where(at_start, jnp.where(at_end, 1, 2), jnp.where(at_end, 4, 3))
    return (start, end, kind), jnp.where(kind == outside, 0, 4 * kind + place)

  none = jnp.full(mask.shape[:-1], num_tokens, starts.dtype)
  steps = (starts, jnp.moveaxis(label, -1, 0).astype(starts.dtype), position[:-1])
  _, tags = jax.lax.scan(back_step, (none, none, none), steps, reverse=True)
  return jnp.moveaxis(tags, 0, -1).astype(jnp.int32), best[..., -1]


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
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    tags: [..., n] integers.
    mask: [..., n], ones and then zeros; None where all are tokens.

  Returns:
    [...] float32.

  Raises:
    ValueError: shapes that do not fit, integer scores, NaN, or tags that are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> float(score(jnp.full((3, 3, 1), 2.0), jnp.array([2, 4, 1])))
    4.0
  """
  segments, _, mask = _as_segments(scores, mask)
  if jnp.shape(tags) != mask.shape:
    raise ValueError(f"tags {jnp.shape(tags)} must be of the scores' shape [..., n] = {mask.shape}")
  spans = spans_of_tags(tags, segments.shape[-1] - 1, mask)
  return jnp.sum(jnp.where(spans, segments[..., :-1], 0.0), axis=(-3, -2, -1))


def log_prob(scores: ArrayLike, tags: ArrayLike, mask: ArrayLike | None = None) -> Array:
  """log P of the segmentation that BIOES tags [..., n] say: its score less log Z.

  Args:
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    tags: [..., n] integers, numbered as in `tag_marginals`.
    mask: [..., n], ones and then zeros; None where all are tokens.

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
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    mask: [..., n], ones and then zeros; None where all are tokens.

  Returns:
    [...] float32, at least 0.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(jnp.exp(entropy(jnp.zeros((2, 2, 1))))), 3)
    5.0
  """
  segments, _, _ = _as_segments(scores, mask)
  return _expected(_marginals(segments), -_log_conditionals(segments))


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
  return _expected(_marginals(teacher), -_log_conditionals(student))


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
  difference = _log_conditionals(teacher) - _log_conditionals(student)
  return jnp.maximum(_expected(_marginals(teacher), difference), 0.0)


def _as_pair(teacher: ArrayLike, student: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array]:
  if jnp.shape(teacher) != jnp.shape(student):
    raise ValueError(
      f"teacher_scores {jnp.shape(teacher)} and student_scores {jnp.shape(student)} must have one shape"
    )
  return _as_segments(teacher, mask)[0], _as_segments(student, mask)[0]


def _expected(marginals: Array, values: Array) -> Array:
  """The sum over segments [...]; what cannot be adds nothing, whatever its value."""
  return jnp.sum(jnp.where(marginals > 0, marginals * values, 0.0), axis=(-3, -2, -1))
