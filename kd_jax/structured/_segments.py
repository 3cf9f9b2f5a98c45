"""The dynamic programme over flat segmentations.

A sentence is cut into segments: a span with a label, or one token outside all spans (O), which scores 0.
With t(i, j) the log-weight of all labels that the segment from i to j may have,

    F(0) = 0 ;  F(j + 1) = log sum_{i <= j} exp(F(i) + t(i, j)) ;  log Z = F(n)

O(n² R) in all, n steps of O(n). Marginals are gradients of log Z, those of O among them: sums of products of
positive terms, so that small ones keep their digits.
"""

import jax
import jax.numpy as jnp

from kd_jax._checks import as_mask, as_scores, bounded, refuse_nan
from kd_jax._numerics import merged
from kd_jax.types import NEG_INF, Array, ArrayLike


def as_segments(scores: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array, Array]:
  """Scores [..., n, n, R+1] by start, end and label, O last; where a segment is none, NEG_INF.

  A masked token is an O or lies inside a span, which neither begins nor ends there: it moves no sum.

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
    raise ValueError(
      f"mask {jnp.shape(mask)} must be of the shape [..., n] of scores {scores.shape}"
    )
  mask = as_mask(mask, scores.shape[:-2])
  ordered = jnp.triu(jnp.ones((num_tokens, num_tokens), bool))
  valid = (ordered & mask[..., None, :] & mask[..., :, None])[..., None]
  refuse_nan("scores", scores, valid)
  spans = jnp.where(valid, bounded(scores), NEG_INF)
  outside = jnp.where(jnp.eye(num_tokens, dtype=bool)[..., None], jnp.float32(0.0), NEG_INF)
  outside = jnp.broadcast_to(outside, (*spans.shape[:-1], 1))
  return jnp.concatenate([spans, outside], axis=-1), valid, mask


def forward(segments: Array) -> Array:
  """F [..., n+1]: log-weight of all that may stand before a position."""
  weights = jnp.moveaxis(jax.nn.logsumexp(segments, axis=-1), -1, 0)  # [end, ..., start]
  start = jnp.arange(weights.shape[0] + 1, dtype=jnp.int32)

  def step(forward, weights_and_end):
    weights, end = weights_and_end
    value = jax.nn.logsumexp(forward[..., :-1] + weights, axis=-1, keepdims=True)
    return jnp.where(start == end + 1, value, forward), None

  first = jnp.where(start == 0, jnp.float32(0.0), NEG_INF)
  first = jnp.broadcast_to(first, (*weights.shape[1:-1], start.size))
  return jax.lax.scan(step, first, (weights, start[:-1]))[0]


def segment_marginals(segments: Array) -> Array:
  """P [..., n, n, R+1] of each segment."""
  return jax.grad(lambda segments: jnp.sum(forward(segments)[..., -1]))(segments)


def by_end(segments: Array) -> Array:
  """[..., start, end, kind] as [..., end, start · kind]."""
  moved = jnp.moveaxis(segments, -2, -3)
  return merged(moved, -2)


def log_conditionals(segments: Array) -> Array:
  """log P(start, kind | a segment ends here) by end: summed over a segmentation, its log-probability."""
  before = forward(segments)[..., :-1, None, None]
  return jax.nn.log_softmax(by_end(before + segments), axis=-1)


def best_segments(segments: Array) -> tuple[Array, Array, Array, Array]:
  """The best segmentation.

  Returns:
    its score [...], and for each token [..., n]: start, end and label of the segment that it lies in.
  """
  num_tokens = segments.shape[-2]
  label = jnp.argmax(segments, axis=-1).astype(jnp.int32)
  weights = jnp.moveaxis(jnp.max(segments, axis=-1), -1, 0)
  position = jnp.arange(num_tokens + 1, dtype=jnp.int32)

  def forward_step(best, weights_and_end):
    weights, end = weights_and_end
    candidates = best[..., :-1] + weights
    value = jnp.max(candidates, axis=-1, keepdims=True)
    return jnp.where(position == end + 1, value, best), jnp.argmax(candidates, axis=-1).astype(
      jnp.int32
    )

  first = jnp.where(position == 0, jnp.float32(0.0), NEG_INF)
  first = jnp.broadcast_to(first, (*segments.shape[:-3], num_tokens + 1))
  best, starts = jax.lax.scan(forward_step, first, (weights, position[:-1]))

  def back_step(segment, step):
    start, end, kind = segment
    starts, labels, here = step  # the best start of a segment that ends here, and labels by start
    new = here < start
    start = jnp.where(new, starts, start)
    end = jnp.where(new, here, end)
    chosen = jnp.take_along_axis(labels, start[..., None], axis=-1)[..., 0]
    kind = jnp.where(new, chosen, kind)
    return (start, end, kind), (start, end, kind)

  none = jnp.full(segments.shape[:-3], num_tokens, starts.dtype)
  steps = (starts, jnp.moveaxis(label, -1, 0).astype(starts.dtype), position[:-1])
  _, found = jax.lax.scan(back_step, (none, none, none), steps, reverse=True)
  start, end, kind = (jnp.moveaxis(x, 0, -1) for x in found)
  return best[..., -1], start, end, kind
