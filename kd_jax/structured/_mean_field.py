"""Second-order dependency scores folded into head marginals by mean-field iterations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from kd_jax._checks import as_scores, refuse_nan
from kd_jax.structured._arcs import as_arcs
from kd_jax.types import Array, ArrayLike


def softmax_over_heads(scores: Array, valid: Array) -> Array:
  """softmax over the heads that there are [..., n, n+1]; exactly 0 elsewhere, and on rows without any."""
  best = jnp.max(scores, axis=-1, where=valid, initial=-jnp.inf, keepdims=True)
  best = jax.lax.stop_gradient(jnp.where(jnp.isfinite(best), best, 0.0))
  weights = jnp.where(valid, jnp.exp(jnp.where(valid, scores - best, 0.0)), 0.0)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  return weights / jnp.where(total > 0, total, 1.0)


def _as_part(name: str, part: ArrayLike, axes: str, shape: tuple[int, ...], used: Array) -> Array:
  """Scores of pairs of arcs in float32, zeros where a pair is none."""
  part = as_scores(name, part, axes)
  if part.shape != shape:
    raise ValueError(f"{name} must be of shape [..., {axes}] = {shape}, got {part.shape}")
  refuse_nan(name, part, used)
  return jnp.where(used, part, 0.0)


def mean_field_marginals(
  arc: Float[ArrayLike, "*batch n n+1"],
  sibling: Float[ArrayLike, "*batch n n+1 n"] | None,
  grandparent: Float[ArrayLike, "*batch n n n+1"] | None,
  mask: Bool[ArrayLike, "*batch n"] | None = None,
  *,
  iterations: int = 3,
) -> Float[Array, "*batch n n+1"]:
  r"""Approximate head marginals of a second-order parser.

  .. math::
    q(i, h) \leftarrow softmax_h \Big(arc(i, h) + \sum_k q(k, h) \, sibling(i, h, k)
      + \sum_g q(h, g) \, grandparent(i, h, g) + \sum_c q(c, i) \, grandparent(c, i, h)\Big)

  from q = softmax(arc), all tokens at once. In the last sum the token i is itself the head of c.

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    sibling: [..., n, n+1, n] or None: of the arcs from head h to i and to k together; k = i is ignored.
    grandparent: [..., n, n, n+1] or None: of the arcs from head h to i and from head g to h together, h a
      token (index h-1); g = i and g = h are ignored.
    mask: [..., n], nonzero for tokens; None if all are.
    iterations: how many updates; 0 gives softmax(arc).

  Returns:
    [..., n, n+1]; each token's row sums to 1, and 0 stands at padding.

  Raises:
    ValueError: shapes that do not fit, integer scores, NaN, or negative iterations.

  References:
    Wang, Huang, Tu (2019), arXiv 1906.07880; 3 iterations in Structural KD, arXiv 2010.05010.

  Example:
    >>> import jax.numpy as jnp
    >>> sibling = jnp.zeros((2, 3, 2)).at[:, 0].set(100.0)  # both below the root
    >>> mean_field_marginals(jnp.zeros((2, 3)), sibling, None).round(3).tolist()
    [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
  """
  if iterations < 0:
    raise ValueError(f"iterations must be 0 or more, got {iterations}")
  arc, valid, mask = as_arcs(arc, mask)
  num_tokens = arc.shape[-2]
  lead = arc.shape[:-2]
  token = jnp.arange(num_tokens, dtype=jnp.int32)
  if sibling is not None:
    two = token[:, None, None] != token
    used = valid[..., :, :, None] & jnp.swapaxes(valid, -1, -2)[..., None, :, :] & two
    shape = (*lead, num_tokens, num_tokens + 1, num_tokens)
    sibling = _as_part("sibling", sibling, "n, n+1, n", shape, used)
  if grandparent is not None:
    no_cycle = (token + 1)[:, None, None] != jnp.arange(num_tokens + 1, dtype=jnp.int32)
    used = valid[..., :, 1:, None] & valid[..., None, :, :] & no_cycle
    shape = (*lead, num_tokens, num_tokens, num_tokens + 1)
    grandparent = _as_part("grandparent", grandparent, "n, n, n+1", shape, used)

  def update(q):
    scores = arc
    if sibling is not None:
      scores += jnp.einsum("...kh,...ihk->...ih", q, sibling, precision="highest")
    if grandparent is not None:
      above = jnp.einsum("...hg,...ihg->...ih", q, grandparent, precision="highest")
      scores += jnp.pad(above, [(0, 0)] * (above.ndim - 1) + [(1, 0)])
      scores += jnp.einsum("...ci,...cih->...ih", q[..., 1:], grandparent, precision="highest")
    return softmax_over_heads(scores, valid)

  q = softmax_over_heads(arc, valid)
  for _ in range(iterations):
    q = update(q)
  return q
