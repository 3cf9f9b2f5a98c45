r"""Samples of dependency trees, crossing arcs allowed, in a fixed number of steps.

Tokens are eliminated one after another as in `matrix_tree`, in log space. With w(i, h) the weight of head h for
i, and D(k) = \sum_h w(k, h) over the tokens that are left,

    w(i, h) <- w(i, h) + w(i, k) w(k, h) / D(k)

The tree then grows in reverse. Each arc from h to i of the tree so far was either there before (the first
summand) or leads through k (the second), which is drawn in proportion to the two. Let S be the dependents whose
arcs lead through k. If S is empty, k draws a head in proportion to w(k, h). Otherwise all of S hang on k, and k
takes over the head of a token of S that has no other token of S above it. This is exact: without k, the
tokens of S are tops of subtrees that chose their heads independently, and by Cayley's formula the choices that
form a tree weigh as much as the heads of k outside those subtrees.

Wilson's random walks need no elimination, but take e^d steps to leave a cycle that is d nats better than
anything else. Colbourn's method updates an inverse matrix, which cancels. Here nothing is subtracted.
"""

import jax
import jax.numpy as jnp

from kd_jax.structured._arcs import as_arcs, shift_rows
from kd_jax.structured._root_token import add_root_token, remove_root_token
from kd_jax.types import Array, ArrayLike


def _eliminate(scores: Array, mask: Array, gumbel: Array) -> tuple[Array, tuple[Array, ...]]:
  """Eliminates tokens until one is left; the next one is that with the best arc to another token.

  Args:
    scores: [n, n+1].
    mask: [n] bool.
    gumbel: [n-1, n] noise.

  Returns:
    bool [n]: the token left; and by step: whether a token was eliminated, int32 which, the head that it draws
    if no arc leads through it, and [n, n+1] the log-odds that an arc leads through it.
  """
  size = scores.shape[0]
  itself = jnp.eye(size, dtype=bool)
  lowest = jnp.finfo(scores.dtype).min / 4

  def step(carry, noise):
    scores, left = carry
    among = jnp.where(left[:, None] & left[None, :] & ~itself, scores[:, 1:], lowest)
    token = jnp.argmax(jnp.where(left, jnp.max(among, axis=1), -jnp.inf)).astype(jnp.int32)
    row = among[token]
    led = scores[:, token + 1][:, None] + (scores[token] - jax.nn.logsumexp(row))[None, :]
    head = jnp.argmax(row + noise).astype(jnp.int32) + 1
    active = jnp.sum(left, dtype=jnp.int32) > 1
    left = left & ~(active & (jnp.arange(size, dtype=jnp.int32) == token))
    return (jnp.logaddexp(scores, led), left), (active, token, head, led - scores)

  (_, last), steps = jax.lax.scan(step, (scores, mask), gumbel)
  return last, steps


def _topmost(heads: Array, marked: Array) -> Array:
  """For each token, the highest marked one of itself and those above it; 0 if there is none.

  Args:
    heads: [n] of a tree.
    marked: [n] bool.

  Returns:
    int32 [n+1] by node, the root first.
  """
  above = jnp.concatenate([jnp.zeros(1, heads.dtype), heads])
  marked = jnp.concatenate([jnp.zeros(1, bool), marked])
  found = jnp.where(marked, jnp.arange(above.size, dtype=jnp.int32), 0)
  for _ in range(
    heads.size.bit_length()
  ):  # each round doubles the length of the paths that are covered
    found = jnp.where(found[above] > 0, found[above], found)
    above = above[above]
  return found


def _grow(last: Array, steps: tuple[Array, ...], logistic: Array) -> Array:
  """Puts the tokens back in reverse order; logistic noise [n-1, n] decides which arcs lead through them."""
  tokens = jnp.arange(last.shape[0], dtype=jnp.int32)

  def step(carry, eliminated):
    heads, inside = carry
    (active, token, drawn, odds), noise = eliminated
    through = noise < jnp.take_along_axis(odds, heads[:, None], axis=1)[:, 0]
    through = through & inside
    top = _topmost(heads, through)[jnp.argmax(through).astype(jnp.int32) + 1]
    head = jnp.where(top > 0, heads[top - 1], drawn)
    here = tokens == token
    grown = jnp.where(here, head, jnp.where(through, token + 1, heads)), inside | here
    return jax.tree.map(lambda new, old: jnp.where(active, new, old), grown, carry), None

  start = jnp.zeros(last.shape, jnp.int32), last
  return jax.lax.scan(step, start, (steps, logistic), reverse=True)[0][0]


def sample_spanning_tree(
  arc: ArrayLike, key: Array, mask: ArrayLike | None = None, *, single_root: bool = True
) -> Array:
  r"""Draws a dependency tree for each sentence, independently.

  .. math:: P(tree) \propto \exp \sum_i arc(i, head(i))

  O(n³) work in 2n steps. No gradient flows through it.

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    key: a key of `jax.random`.
    mask: [..., n], ones and then zeros; None if all are tokens.
    single_root: True for trees with exactly one child of the root, False for one or more.

  Returns:
    [..., n] int32 heads: 0 for the root, j for token j; 0 at padding. If every tree contains excluded arcs, a
    tree that contains some.

  Raises:
    ValueError: for shapes that do not fit, integer scores, or NaN.

  References:
    Wilson (1996), Colbourn, Myrvold, Neufeld (1996) sample from the same distribution; see also Zmigrod,
    Vieira, Cotterell (2021), arXiv 2109.06521.
  """
  scores, _, mask = as_arcs(arc, mask)
  padded = mask
  if not single_root:
    scores, padded = add_root_token(scores, mask)
  size = padded.shape[-1]
  if size == 0:
    return jnp.zeros(mask.shape, jnp.int32)
  scores = jax.lax.stop_gradient(scores)
  tokens, best = shift_rows(scores[..., 1:])  # only differences within a row count
  scores = jnp.concatenate([scores[..., :1] - best[..., None], tokens], axis=-1)
  shape = (2, *padded.shape[:-1], size - 1, size)
  uniform = jax.random.uniform(key, shape, jnp.float32, minval=jnp.finfo(jnp.float32).tiny)
  gumbel = -jnp.log(-jnp.log(uniform[0]))
  logistic = jnp.log(uniform[1]) - jnp.log1p(-uniform[1])

  def one(scores, mask, gumbel, logistic):
    return _grow(*_eliminate(scores, mask, gumbel), logistic)

  sample = jnp.vectorize(one, signature="(n,m),(n),(l,n),(l,n)->(n)")
  heads = sample(scores, padded, gumbel, logistic)
  if not single_root:
    heads = remove_root_token(heads)
  return jnp.where(mask, heads, 0).astype(jnp.int32)
