"""Flat segmentations: labelled spans that do not overlap, scored each by its start, end and label.

A token outside all spans (O) scores 0. Tags are BIOES, numbered 0 for O and then, for each label r in turn, S
1+4r, B 2+4r, I 3+4r, E 4+4r. A masked token inside a span is no gap in it. `_segments` has the dynamic
programme.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from kd_jax._checks import as_mask, as_tags
from kd_jax._numerics import kl_from_log_probs, merged
from kd_jax.structured import _generic
from kd_jax.structured._declaration import declare
from kd_jax.structured._segments import (
  as_segments,
  best_segments,
  by_end,
  forward,
  log_conditionals,
  segment_marginals,
)
from kd_jax.structured._span_paths import k_best, scores_of_tokens
from kd_jax.structured._span_sampling import sample_spans
from kd_jax.types import Array, ArrayLike


@declare(sentence={"scores": "n n R"}, scores="scores")
class SpanScores(NamedTuple):
  """Scores of labelled spans; a token outside all spans scores 0.

  Attributes:
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    mask: [..., n], nonzero for tokens; None if all are.
  """

  scores: Float[ArrayLike, "*batch n n R"]
  mask: Bool[ArrayLike, "*batch n"] | None = None


@_generic.log_partition.register(SpanScores)
def log_partition(spans: SpanScores) -> Array:
  return forward(as_segments(*spans)[0])[..., -1]


@_generic.marginals.register(SpanScores)
def marginals(spans: SpanScores) -> Array:
  segments, valid, _ = as_segments(*spans)
  return jnp.where(valid, segment_marginals(segments)[..., :-1], 0.0)


@_generic.tag_marginals.register(SpanScores)
def tag_marginals(spans: SpanScores) -> Array:
  segments, _, mask = as_segments(spans.scores, spans.mask)
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
  tags = merged(tags, -2)
  return jnp.where(mask[..., None], jnp.concatenate([outside, tags], axis=-1), 0.0)


@_generic.argmax.register(SpanScores)
def argmax(spans: SpanScores) -> Array:
  segments, _, mask = as_segments(*spans)
  if not segments.shape[-2]:
    return jnp.zeros(mask.shape, jnp.int32)
  at = jnp.arange(mask.shape[-1], dtype=jnp.int32)
  _, starts, ends, labels = best_segments(segments)
  place = jnp.where(starts == ends, 1, jnp.where(at == starts, 2, jnp.where(at == ends, 4, 3)))
  tags = jnp.where((labels == segments.shape[-1] - 1) | ~mask, 0, 4 * labels + place)
  return tags.astype(jnp.int32)


@_generic.top_k_of.register(SpanScores)
def top_k(spans: SpanScores, k: int) -> tuple[Array, Array]:
  return k_best(spans.scores, k, spans.mask)


@_generic.sample.register(SpanScores)
def sample(spans: SpanScores, key: Array) -> Array:
  if not jnp.shape(spans.scores)[-2]:
    return jnp.zeros(jnp.shape(spans.scores)[:-2], jnp.int32)  # no position: nothing to draw
  return sample_spans(spans.scores, key, spans.mask)


@_generic.token_scores.register(SpanScores)
def token_scores(spans: SpanScores) -> Array:
  return scores_of_tokens(*spans)


def spans_of_tags(
  tags: Int[ArrayLike, "*batch n"],
  num_labels: int,
  mask: Bool[ArrayLike, "*batch n"] | None = None,
) -> Bool[Array, "*batch n n R"]:
  """The well-formed spans of BIOES tags: S, or B, any number of I, and E of one label.

  Args:
    tags: [..., n] integers numbered as in `tag_marginals`. Tags that are part of no such span count as O.
    num_labels: R.
    mask: [..., n], nonzero for tokens; None if all are.

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
  single, begin, inside, end = (
    tags == place + 4 * jnp.arange(num_labels, dtype=jnp.int32) for place in range(1, 5)
  )
  rank = jnp.cumsum(mask, axis=-1, dtype=jnp.int32)  # masked tokens inside a span are no gaps
  length = (rank[..., None, :] - rank[..., :, None])[..., None]
  count = jnp.cumsum(inside, axis=-2, dtype=jnp.int32)
  between = count[..., None, :, :] - count[..., :, None, :]  # of I after the start up to the end
  longer = begin[..., :, None, :] & end[..., None, :, :] & (between == length - 1) & (length > 0)
  here = jnp.eye(num_tokens, dtype=bool)[..., None]
  return longer | (single[..., :, None, :] & here)


@_generic.score.register(SpanScores)
def score(spans: SpanScores, tags: ArrayLike) -> Array:
  segments, _, mask = as_segments(*spans)
  labels = segments.shape[-1] - 1
  named = spans_of_tags(as_tags(tags, mask, 4 * labels + 1), labels, mask)
  return jnp.sum(jnp.where(named, segments[..., :-1], 0.0), axis=(-3, -2, -1))


@_generic.log_prob.register(SpanScores)
def log_prob(spans: SpanScores, tags: ArrayLike) -> Array:
  return score(spans, tags) - log_partition(spans)


@_generic.entropy.register(SpanScores)
def entropy(spans: SpanScores) -> Array:
  r"""H = -sum_{i <= j, r} P(i, j, r) log P(i, r | a segment ends at j), with O among the labels."""
  segments, _, _ = as_segments(*spans)
  return _expected(segments, -log_conditionals(segments))


@_generic.cross_entropy_of.register(SpanScores)
def cross_entropy(p: SpanScores, q: SpanScores) -> Array:
  return _expected(as_segments(*p)[0], -log_conditionals(as_segments(*q)[0]))


@_generic.kl_divergence_of.register(SpanScores)
def kl_divergence(p: SpanScores, q: SpanScores) -> Array:
  p_segments, q_segments = as_segments(*p)[0], as_segments(*q)[0]
  ends_here = jnp.sum(by_end(segment_marginals(p_segments)), axis=-1)
  given_end = kl_from_log_probs(log_conditionals(p_segments), log_conditionals(q_segments))
  return jnp.sum(ends_here * given_end, axis=-1)


def _expected(segments: Array, values: Array) -> Array:
  """The sum of values by end over a random segmentation; what cannot be adds nothing."""
  expected = by_end(segment_marginals(segments))
  return jnp.sum(jnp.where(expected > 0, expected * values, 0.0), axis=(-2, -1))
