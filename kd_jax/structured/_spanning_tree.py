"""The best dependency tree with one child of the root, as array code of a fixed number of steps.

The elimination of `matrix_tree` with (max, +) in place of (+, ×): with w(i, h) the score of head h for i,

    D(k) = max_h w(k, h) ;  w(i, h) <- max(w(i, h), w(i, k) + w(k, h) - D(k))

over the tokens that are left. Where an arc of the best tree over those is better led through k, k goes back
there: so the best tree of all grows, token by token. D never counts the root, which so has one child: the token
that is left in the end, or what goes in between.
"""

import jax
import jax.numpy as jnp

from kd_jax.structured._arcs import as_arcs
from kd_jax.types import EXCLUDED, Array, ArrayLike


def _eliminate(scores: Array, mask: Array) -> tuple[Array, tuple[Array, ...]]:
  """Takes tokens out until one is left.

  The next one is that with the best arc to another token: one that only the root can head comes last, and no
  score is lost beside the great one of an excluded arc.

  Args:
    scores: [n, n+1].
    mask: [n] bool.

  Returns:
    bool [n]: the token left; and by step: whether there was one to take, int32 which, its best head, and bool
    [n, n+1]: the arcs that are better led through it.
  """
  size = scores.shape[0]
  itself = jnp.eye(size, dtype=bool)
  lowest = jnp.finfo(scores.dtype).min

  def step(carry, _):
    scores, left = carry
    among = jnp.where(left[:, None] & left[None, :] & ~itself, scores[:, 1:], lowest)
    best = jnp.max(among, axis=1)
    token = jnp.argmax(jnp.where(left, best, -jnp.inf)).astype(jnp.int32)
    led = scores[:, token + 1][:, None] + (scores[token] - best[token])[None, :]
    better = led > scores
    active = jnp.sum(left, dtype=jnp.int32) > 1
    left = left & ~(active & (jnp.arange(size, dtype=jnp.int32) == token))
    head = jnp.argmax(among[token]).astype(jnp.int32) + 1
    return (jnp.maximum(led, scores), left), (active, token, head, better)

  (_, last), steps = jax.lax.scan(step, (scores, mask), length=size - 1)
  return last, steps


def _grow(last: Array, steps: tuple[Array, ...]) -> Array:
  """Puts the tokens back in reverse order; `rank` orders the tree so far, heads before dependents.

  Of the arcs that are better led through a token, that of the lowest rank gives the token its head: none of
  the dependents that it takes over stands above that head, so no cycle can arise, whatever the scores.
  """
  tokens = jnp.arange(last.shape[0], dtype=jnp.int32)

  def step(carry, eliminated):
    heads, rank, inside = carry
    active, token, head, better = eliminated
    through = inside & jnp.take_along_axis(better, heads[:, None], axis=1)[:, 0]
    top = jnp.argmin(jnp.where(through, rank, rank.size)).astype(jnp.int32)
    takes = jnp.any(through)
    head = jnp.where(takes, heads[top], head)
    place = jnp.where(takes, rank[top], jnp.sum(inside, dtype=jnp.int32))
    here = tokens == token
    grown = (
      jnp.where(here, head, jnp.where(through, token + 1, heads)),
      jnp.where(here, place, rank + (rank >= place).astype(jnp.int32)),
      inside | here,
    )
    return jax.tree.map(lambda new, old: jnp.where(active, new, old), grown, carry), None

  zeros = jnp.zeros(last.shape, jnp.int32)
  return jax.lax.scan(step, (zeros, zeros, last), steps, reverse=True)[0][0]


def maximum_spanning_tree(arc: ArrayLike, mask: ArrayLike | None = None) -> Array:
  r"""The best dependency tree of all that have exactly one child of the root.

  .. math:: \arg\max_{trees} \sum_i arc(i, head(i))

  Where no tree does without excluded arcs (scores near NEG_INF), it has as few of them as can be, and is the
  best of those. Whatever the scores, the result is a tree. No gradient flows through it.

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    mask: [..., n], ones and then zeros; None where all are tokens.

  Returns:
    [..., n] int32 heads: 0 for the root, j for token j; 0 at padding.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  References:
    Chu and Liu (1965), Edmonds (1967) solve the same problem by contracting cycles.

  Example:
    >>> import jax.numpy as jnp
    >>> maximum_spanning_tree(jnp.array([[5.0, 0.0, 4.0], [5.0, 1.0, 0.0]])).tolist()
    [2, 0]
  """
  scores, valid, mask = as_arcs(arc, mask)
  allowed = valid & (scores > EXCLUDED)
  scores = jnp.where(allowed, scores, 0.0)
  # One excluded arc costs more than all others of a tree could make up for.
  spread = jnp.max(scores, axis=-1) - jnp.min(scores, axis=-1)
  cost = 1.0 + jnp.sum(spread, axis=-1)[..., None, None]
  scores = jnp.where(allowed, scores, -cost)
  scores -= jnp.max(scores, axis=-1, keepdims=True)

  def one(scores, mask):
    return _grow(*_eliminate(scores, mask))

  heads = jnp.vectorize(one, signature="(n,m),(n)->(n)")(jax.lax.stop_gradient(scores), mask)
  return jnp.where(mask, heads, 0).astype(jnp.int32)
