"""Sums over all dependency trees, crossing arcs allowed.

The matrix-tree theorem gives them as a determinant. LU decomposition of it cancels: scores a few dozen apart
are lost in float32. Instead tokens are eliminated one after another without a subtraction (Grassmann,
Taksar, Heyman 1985): with w(i, h) the weight of the arc from head h to dependent i,

    D(k) = sum_h w(k, h) ;  w(i, h) <- w(i, h) + w(i, k) w(k, h) / D(k)

over what is left. The product of all D is the weight of all trees below the node that remains in the end,
and substituting backwards gives that of the trees below any other.
"""

import jax
import jax.numpy as jnp

from kd_jax.structured.arcs import EXCLUDED, as_arcs, chain_padding, shift_rows
from kd_jax.structured.scaled import Scaled, excluded, from_log
from kd_jax.types import NEG_INF, Array, ArrayLike


def _eliminate(weights: Scaled) -> tuple[Array, tuple[Array, Scaled, Scaled]]:
  """Eliminates all nodes but one.

  The next one is that with the best arc left. A node whose only heads are excluded comes last then, where
  nothing is divided by its D.

  Args:
    weights: [m, m] by (dependent, head).

  Returns:
    bool [m]: the node that is left, and of the others in turn: bool [m-1, m] which node, its column of
    arcs from dependents [m-1, m], D [m-1].
  """
  size = weights.exponent.shape[0]
  diagonal = jnp.eye(size, dtype=bool)

  def step(carry, _):
    weights, alive = carry
    best = jnp.where(alive, jnp.max(weights.exponent, axis=1), 4 * NEG_INF)
    node = jnp.arange(size) == jnp.argmax(best)
    # Masked sums, not indexing: their gradients are no scatters.
    row = weights.map(lambda x: jnp.sum(jnp.where(node[:, None], x, 0.0), axis=0))
    column = weights.map(lambda x: jnp.sum(jnp.where(node[None, :], x, 0.0), axis=1))
    alive = alive & ~node
    column = column.where(alive, excluded())
    pivot = row.sum(axis=0)
    weights += column.map(lambda x: x[:, None]) * (row / pivot).map(lambda x: x[None, :])
    weights = excluded().where(diagonal | node[None, :], weights)
    return (weights, alive), (node, column, pivot)

  weights = excluded().where(diagonal, weights)
  start = (weights, jnp.ones(size, bool))
  (_, last), steps = jax.lax.scan(step, start, length=size - 1)
  return last, steps


def _trees_by_top(weights: Scaled) -> Scaled:
  """The weight of all trees over all tokens, by the token at their top.

  Args:
    weights: [n, n] by (dependent, head).

  Returns:
    [n].
  """
  last, steps = _eliminate(weights)

  def step(trees, eliminated):
    node, column, pivot = eliminated
    return ((trees * column).sum(axis=0) / pivot).where(node, trees), None

  trees = steps[2].product().where(last, excluded(last.shape))
  return jax.lax.scan(step, trees, steps, reverse=True)[0]


def _all_trees(scores: Array, single_root: bool) -> Scaled:
  """Z [...] of arc scores [..., n, n+1] without masks."""

  def one(scores):
    if single_root:
      weights = from_log(scores)
      root, tokens = weights.map(lambda x: x[:, 0]), weights.map(lambda x: x[:, 1:])
      return tuple((root * _trees_by_top(tokens)).sum(axis=0))
    no_head = jnp.full((1, scores.shape[1]), NEG_INF)
    scores = jnp.roll(scores, -1, axis=1)  # the root last, where it wins no tie
    return tuple(_eliminate(from_log(jnp.concatenate([scores, no_head])))[1][2].product())

  return Scaled(*jnp.vectorize(one, signature="(n,m)->(),()")(scores))


def spanning_tree_log_partition(
  arc: ArrayLike, mask: ArrayLike | None = None, *, single_root: bool = True
) -> Array:
  r"""log of the summed weight of all dependency trees.

  .. math:: \log Z = \log \sum_{trees} \exp \sum_i arc(i, head(i))

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    mask: [..., n], ones and then zeros; None where all are tokens.
    single_root: trees with exactly one child of the root; else with one or more.

  Returns:
    [...] float32; 0 for an empty sentence.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  References:
    Koo, Globerson, Carreras, Collins (2007), Structured prediction models via the matrix-tree theorem.

  Example:
    >>> import jax.numpy as jnp
    >>> trees = spanning_tree_log_partition(jnp.zeros((4, 5)))  # all 4³ trees weigh 1
    >>> round(float(jnp.exp(trees)))
    64
  """
  scores, _, mask = as_arcs(arc, mask)
  scores, best = shift_rows(chain_padding(scores, mask))
  trees = _all_trees(scores, single_root)
  return (jnp.sum(best, axis=-1) + trees.exponent) + jnp.log(trees.mantissa)


def _with_marginals(scores: Array, single_root: bool) -> tuple[Scaled, Array]:
  """Z [...], and the gradient of log Z [..., n, n+1]."""

  def total(scores):
    trees = _all_trees(scores, single_root)
    return jnp.sum(jnp.log(trees.mantissa)), trees  # exponents have no gradient

  marginals, trees = jax.grad(total, has_aux=True)(scores)
  return trees, jnp.clip(marginals, 0.0, 1.0)


def spanning_tree_marginals(
  arc: ArrayLike, mask: ArrayLike | None = None, *, single_root: bool = True
) -> Array:
  """The probability of each arc under all dependency trees: the gradient of log Z.

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    mask: [..., n], ones and then zeros; None where all are tokens.
    single_root: trees with exactly one child of the root; else with one or more.

  Returns:
    [..., n, n+1]; each token's row sums to 1, and 0 stands at padding.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> spanning_tree_marginals(jnp.zeros((2, 3))).tolist()
    [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
  """
  scores, valid, mask = as_arcs(arc, mask)
  scores, _ = shift_rows(chain_padding(scores, mask))
  return jnp.where(valid, _with_marginals(scores, single_root)[1], 0.0)


def spanning_tree_entropy(
  arc: ArrayLike, mask: ArrayLike | None = None, *, single_root: bool = True
) -> Array:
  r"""Entropy of the distribution over all dependency trees, in nats.

  .. math:: H = \log Z - \sum_{i, h} P(i, h) \, arc(i, h)

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    mask: [..., n], ones and then zeros; None where all are tokens.
    single_root: trees with exactly one child of the root; else with one or more.

  Returns:
    [...] float32, at least 0.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(jnp.exp(spanning_tree_entropy(jnp.zeros((3, 4))))), 3)
    9.0
  """
  scores, _, mask = as_arcs(arc, mask)
  scores, _ = shift_rows(chain_padding(scores, mask))
  trees, marginals = _with_marginals(scores, single_root)
  expected = jnp.sum(jnp.where(scores > EXCLUDED, marginals * scores, 0.0), axis=(-2, -1))
  return jnp.maximum((trees.exponent - expected) + jnp.log(trees.mantissa), 0.0)
