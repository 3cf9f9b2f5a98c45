"""Sums over all dependency trees, crossing arcs allowed.

The matrix-tree theorem gives them as a determinant. LU decomposition of it cancels: scores a few dozen apart
are lost in float32. Instead tokens are eliminated one after another without a subtraction (Grassmann,
Taksar, Heyman 1985): with w(i, h) the weight of the arc from head h to dependent i,

    D(k) = sum_h w(k, h) ;  w(i, h) <- w(i, h) + w(i, k) w(k, h) / D(k)

over what is left. The product of all D is the weight of all trees below the node that remains in the end,
and substituting backwards gives that of the trees below any other.

Nothing cancels, so float32 weights lose digits only where a weight underflows. They are tried first; where
underflow could have counted, the same sums are taken of mantissas and exponents, some 20 times as slowly.
"""

import functools

import jax
import jax.numpy as jnp

from kd_jax.structured._arcs import as_arcs, chain_padding, shift_rows
from kd_jax.structured._scaled import Scaled, excluded, from_log
from kd_jax.types import NEG_INF, Array, ArrayLike

MAX_CYCLES = 40.0
"""Float32 weights serve where heads drawn one by one, without regard to cycles, form a tree with a chance
above exp(-40).

What underflows is below exp(-87) of its row. Such an arc matters only to trees as rare among all choices of
heads, so the trees that count are 47 nats more. exp(80), of second derivatives, does not overflow either.
"""


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
    node = jnp.arange(size, dtype=jnp.int32) == jnp.argmax(best).astype(jnp.int32)
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
      return (root * _trees_by_top(tokens)).sum(axis=0).parts()
    no_head = jnp.full((1, scores.shape[1]), NEG_INF, jnp.float32)
    scores = jnp.roll(scores, -1, axis=1)  # the root last, where it wins no tie
    return _eliminate(from_log(jnp.concatenate([scores, no_head])))[1][2].product().parts()

  return Scaled(*jnp.vectorize(one, signature="(n,m)->(),()")(scores))


def _plain_weights(scores: Array, single_root: bool) -> tuple[Array, Array]:
  """exp(scores), shifted to lose as little as possible: [..., n, n+1], and what came off [..., n].

  A single root takes one arc of its column, which may then have a scale of its own.
  """
  if not single_root:
    return jnp.exp(scores), jnp.zeros(scores.shape[:-1], jnp.float32)
  tokens, best = shift_rows(scores[..., 1:])
  root, _ = shift_rows(scores[..., 0] - best)
  top = jnp.arange(scores.shape[-2], dtype=jnp.int32) == jnp.argmax(
    root, axis=-1, keepdims=True
  ).astype(jnp.int32)
  shift = jax.lax.stop_gradient(jnp.where(top, scores[..., 0], best))
  return jnp.exp(jnp.concatenate([root[..., None], tokens], axis=-1)), shift


def _plain_elimination(weights: Array, single_root: bool) -> tuple[Array, ...]:
  """Eliminates tokens from the last to the first, so that padding goes before what it hangs on.

  With a single root, its arcs do not count in D but for the token that is left: the others' pass on to it.

  Args:
    weights: [..., n, n+1] by (dependent, head).

  Returns:
    by token: its index [n], its shares w(k, h) / D(k) [n, ..., n+1], its column of arcs from dependents
    [n, ..., n], and D [n, ...].
  """
  size = weights.shape[-2]

  def step(weights, node):
    row = jax.lax.dynamic_index_in_dim(weights, node, -2, keepdims=False)
    row = jnp.where(jnp.arange(size + 1, dtype=jnp.int32) <= node, row, 0.0)
    column = jax.lax.dynamic_index_in_dim(weights, node + 1, -1, keepdims=False)
    column = jnp.where(jnp.arange(size, dtype=jnp.int32) < node, column, 0.0)
    pivot = jnp.sum(row[..., 1:], axis=-1) if single_root else jnp.sum(row, axis=-1)
    pivot = jnp.where(node == 0, row[..., 0], pivot)
    share = row / pivot[..., None]
    return weights + column[..., :, None] * share[..., None, :], (node, share, column, pivot)

  return jax.lax.scan(step, weights, jnp.arange(size, dtype=jnp.int32), reverse=True)[1]


def _plain_gradient(steps: tuple[Array, ...], single_root: bool) -> Array:
  """The gradient of sum log D in the weights [..., n, n+1], of which each step back adds a row and a column."""
  size = steps[1].shape[0]
  heads = jnp.arange(size + 1, dtype=jnp.int32)

  def step(gradient, eliminated):
    node, share, column, pivot = eliminated
    through = jnp.einsum("...i,...ih->...h", column, gradient, precision="highest")
    below = jnp.einsum("...h,...ih->...i", share, gradient, precision="highest")
    counted = ((heads == 0) == (node == 0)) | (not single_root)
    rest = 1.0 - jnp.sum(share * through, axis=-1, keepdims=True)
    row = through + jnp.where(counted, rest, 0.0)
    row = jnp.where(heads <= node, row / pivot[..., None], 0.0)
    below = jnp.where(jnp.arange(size, dtype=jnp.int32) < node, below, 0.0)
    gradient = jax.lax.dynamic_update_index_in_dim(gradient, below, node + 1, -1)
    return jax.lax.dynamic_update_index_in_dim(gradient, row, node, -2), None

  none = jnp.zeros((*steps[1].shape[1:-1], size, size + 1), jnp.float32)
  return jax.lax.scan(step, none, steps)[0]


def _plain(
  scores: Array, single_root: bool
) -> tuple[Array, tuple[Array, ...], tuple[Array, Array], Array]:
  """What plain float32 weights give: weights, steps, log Z in two parts, and whether all can be trusted."""
  weights, shift = _plain_weights(scores, single_root)
  steps = _plain_elimination(weights, single_root)
  logs = jnp.moveaxis(jnp.log(steps[-1]), 0, -1)
  whole = jax.lax.stop_gradient(jnp.round(logs)), jnp.round(shift)
  fraction = jnp.sum((logs - whole[0]) + (shift - whole[1]), axis=-1)
  choices = jnp.sum(weights[..., int(single_root) :], axis=-1)
  surplus = jnp.sum(logs - jnp.log(jnp.maximum(choices, 1.0)), axis=-1)
  # Pivots may make up for one another in the product, but second derivatives divide by the square of each.
  mild = jnp.all(jnp.abs(logs) < MAX_CYCLES, axis=-1)
  exact = jnp.all((surplus > -MAX_CYCLES) & (surplus < jnp.inf) & mild)  # and so no NaN
  return weights, steps, (jnp.sum(whole[0] + whole[1], axis=-1), fraction), exact


def _scaled_log_trees(scores: Array, single_root: bool) -> tuple[Array, Array]:
  trees = _all_trees(scores, single_root)
  return trees.exponent, jnp.log(trees.mantissa)


def _scaled_with_marginals(scores: Array, single_root: bool) -> tuple[Array, Array, Array]:
  def total(scores):
    whole, fraction = _scaled_log_trees(scores, single_root)
    return jnp.sum(fraction), (whole, fraction)  # exponents have no gradient

  marginals, log_z = jax.grad(total, has_aux=True)(scores)
  return *log_z, marginals


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_trees(scores: Array, single_root: bool) -> tuple[Array, Array]:
  """log Z [...] of arc scores [..., n, n+1] without masks: a whole number, and the rest."""
  if not scores.shape[-2]:
    return (jnp.zeros(scores.shape[:-2], jnp.float32),) * 2
  *_, log_z, exact = _plain(scores, single_root)
  slow = functools.partial(_scaled_log_trees, single_root=single_root)
  return jax.lax.cond(exact, lambda _: log_z, slow, scores)


@_log_trees.defjvp
def _log_trees_derivative(single_root, primals, tangents):
  (scores,), (tangent,) = primals, tangents
  whole, fraction, marginals = _with_marginals(scores, single_root)
  change = jnp.sum(marginals * tangent, axis=(-2, -1))
  return (whole, fraction), (jnp.zeros_like(whole), change)


def _with_marginals(scores: Array, single_root: bool) -> tuple[Array, Array, Array]:
  """log Z in two parts, and its gradient [..., n, n+1]; can be differentiated."""
  if not scores.shape[-2]:
    return *(jnp.zeros(scores.shape[:-2], jnp.float32),) * 2, scores

  def plain(scores):
    weights, steps, log_z, _ = _plain(scores, single_root)
    return *log_z, weights * _plain_gradient(steps, single_root)

  # A second elimination for the choice: the branch not taken must have no part in derivatives.
  exact = _plain(jax.lax.stop_gradient(scores), single_root)[-1]
  # Recomputed on the way back: its record would take room in the other branch too.
  scaled = jax.checkpoint(functools.partial(_scaled_with_marginals, single_root=single_root))
  *log_z, marginals = jax.lax.cond(exact, plain, scaled, scores)
  return *log_z, jnp.clip(marginals, 0.0, 1.0)


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
  whole, fraction = _log_trees(scores, single_root)
  return (jnp.sum(best, axis=-1) + whole) + fraction


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
  return jnp.where(valid, _with_marginals(scores, single_root)[-1], 0.0)
