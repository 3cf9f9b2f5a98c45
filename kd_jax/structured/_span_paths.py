"""Spans beyond sums over all segmentations: the k best ones, and tags judged by a token's own spans alone."""

import jax
import jax.numpy as jnp

from kd_jax._numerics import merged
from kd_jax.structured._segments import as_segments
from kd_jax.types import EXCLUDED, NEG_INF, Array, ArrayLike


def k_best(scores: ArrayLike, k: int, mask: ArrayLike | None = None) -> tuple[Array, Array]:
  """The k best segmentations, distinct, as BIOES tags.

  The k best prefixes that end before each token are kept; a segmentation is cut in one way only, so the
  extensions of distinct prefixes are distinct.

  Args:
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    k: how many, >= 1.
    mask: [..., n], nonzero for tokens; None if all are.

  Returns:
    tags [..., k, n] int32, the best first, and scores [..., k]; where fewer exist, tags 0 and NEG_INF.

  Raises:
    ValueError: k below 1, shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> tags, scores = k_best(jnp.array([[[1.0], [2.0]], [[0.0], [-3.0]]]), 3)
    >>> tags.tolist(), scores.tolist()
    ([[2, 4], [1, 0], [0, 0]], [2.0, 1.0, 0.0])
  """
  segments, _, mask = as_segments(scores, mask)
  num_tokens, kinds = segments.shape[-2:]
  batch = mask.shape[:-1]
  by_end = jnp.moveaxis(segments, -2, 0)  # [end, ..., start, kind]
  position = jnp.arange(num_tokens + 1, dtype=jnp.int32)

  def forward(best, weights_and_end):
    weights, end = weights_and_end
    candidates = best[..., :-1, :, None] + weights[..., :, None, :]  # [..., start, rank, kind]
    flat = merged(candidates, len(batch))
    values, chosen = jax.lax.top_k(flat, min(k, flat.shape[-1]))
    missing = [(0, 0)] * len(batch) + [(0, k - values.shape[-1])]
    values = jnp.pad(values, missing, constant_values=NEG_INF)
    best = jnp.where((position == end + 1)[:, None], values[..., None, :], best)
    return best, jnp.pad(chosen, missing)

  empty = (position[:, None] == 0) & (jnp.arange(k, dtype=jnp.int32) == 0)
  first = jnp.broadcast_to(jnp.where(empty, jnp.float32(0.0), NEG_INF), (*batch, num_tokens + 1, k))
  best, chosen = jax.lax.scan(forward, first, (by_end, position[:-1]))
  scores = best[..., -1, :]

  def backward(state, step):
    start, end, rank, kind = state
    chosen, here = step
    origin = jnp.take_along_axis(chosen, rank, axis=-1)
    new = here < start  # the segment before the one that was being read ends here
    start = jnp.where(new, origin // (k * kinds), start)
    end, kind = jnp.where(new, here, end), jnp.where(new, origin % kinds, kind)
    rank = jnp.where(new, origin // kinds % k, rank)
    at_start, at_end = here == start, here == end
    place = jnp.where(at_start, jnp.where(at_end, 1, 2), jnp.where(at_end, 4, 3))
    return (start, end, rank, kind), jnp.where(kind == kinds - 1, 0, 4 * kind + place)

  outside = jnp.full((*batch, k), num_tokens, chosen.dtype)
  ranks = jnp.broadcast_to(jnp.arange(k, dtype=chosen.dtype), outside.shape)
  state = (outside, outside, ranks, outside)
  _, tags = jax.lax.scan(
    backward, state, (chosen, position[:-1].astype(chosen.dtype)), reverse=True
  )
  exists = scores > EXCLUDED
  keep = exists[..., None] & mask[..., None, :]
  tags = jnp.where(keep, jnp.moveaxis(tags, 0, -1), 0).astype(jnp.int32)
  return tags, jnp.where(exists, scores, NEG_INF)


def scores_of_tokens(scores: ArrayLike, mask: ArrayLike | None = None) -> Array:
  r"""Scores of BIOES tags from the spans through a token alone, whatever stands beside them.

  The sums of `tag_marginals` without the weights of what comes before and after a span:

  .. math:: S_r: s(m, m, r) \quad B_r: \log \sum_{v > m} e^{s(m, v, r)} \quad
    I_r: \log \sum_{u < m < v} e^{s(u, v, r)} \quad E_r: \log \sum_{u < m} e^{s(u, m, r)} \quad O: 0

  Args:
    scores: [..., n, n, R] by start, end (inclusive) and label; only start <= end is read.
    mask: [..., n], nonzero for tokens; None if all are.

  Returns:
    [..., n, 4R+1] float32, numbered as in `tag_marginals`; NEG_INF for tags that no span gives.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> (3 * jax.nn.softmax(scores_of_tokens(jnp.zeros((2, 2, 1))))).round(2).tolist()
    [[1.0, 1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0, 1.0]]
  """
  segments, _, mask = as_segments(scores, mask)
  spans, num_tokens = segments[..., :-1], mask.shape[-1]
  later = jnp.triu(jnp.ones((num_tokens, num_tokens), bool), k=1)[..., None]
  single = jnp.einsum("...iir->...ir", spans)
  longer = jnp.where(later, spans, NEG_INF)
  begin, end = _log_sum(longer, -2), _log_sum(longer, -3)
  started = jax.lax.cumlogsumexp(longer, axis=longer.ndim - 3)[..., :-1, :, :]
  started = jnp.concatenate([jnp.full_like(longer[..., :1, :, :], NEG_INF), started], axis=-3)
  inside = _log_sum(jnp.where(later, started, NEG_INF), -2)
  tags = jnp.stack([single, begin, inside, end], axis=-1)
  tags = merged(tags, -2)
  return jnp.concatenate([jnp.zeros_like(tags[..., :1]), tags], axis=-1)


def _log_sum(values: Array, axis: int) -> Array:
  return jnp.maximum(jax.nn.logsumexp(values, axis=axis), NEG_INF)
