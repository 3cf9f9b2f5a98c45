"""The best dependency trees, crossing arcs allowed: one or several children of the root, and the k best.

The set of all trees is divided, as in Lawler (1972). If t is the best tree of a set, its others are those that
differ from t at token 1, those that agree there and differ at token 2, and so on: n sets without a tree in
common, each given by the arcs that it allows. The best tree of each is a maximum spanning tree.
"""

import jax
import jax.numpy as jnp

from kd_jax.structured._arcs import as_arcs, shift_rows
from kd_jax.structured._root_token import add_root_token, remove_root_token
from kd_jax.structured._spanning_tree import maximum_spanning_tree
from kd_jax.structured._tree_ranking import rank_trees
from kd_jax.types import EXCLUDED, NEG_INF, Array, ArrayLike

SETS_AT_ONCE = 16
"""How many sets are searched in parallel, which bounds the memory: each takes n³ bytes."""


def best_spanning_tree(
  arc: ArrayLike, mask: ArrayLike | None = None, *, single_root: bool = True
) -> Array:
  r"""Finds the best dependency tree.

  .. math:: \arg\max_{trees} \sum_i arc(i, head(i))

  If every tree contains excluded arcs (scores near NEG_INF), the result has as few of them as possible. It is
  always a tree. No gradient flows through it.

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    mask: [..., n], ones and then zeros; None if all are tokens.
    single_root: True for trees with exactly one child of the root, False for one or more.

  Returns:
    [..., n] int32 heads: 0 for the root, j for token j; 0 at padding.

  Raises:
    ValueError: for shapes that do not fit, integer scores, or NaN.
  """
  scores, _, mask = as_arcs(arc, mask)
  if mask.shape[-1] == 0:
    return jnp.zeros(mask.shape, jnp.int32)
  if single_root:
    return maximum_spanning_tree(scores, mask)
  heads = remove_root_token(maximum_spanning_tree(*add_root_token(scores, mask)))
  return jnp.where(mask, heads, 0)


def k_best_spanning_trees(
  arc: ArrayLike, k: int, mask: ArrayLike | None = None, *, single_root: bool = True
) -> tuple[Array, Array]:
  """Finds the k best dependency trees, all different, the best first.

  Solves 1 + (k - 1) n maximum spanning trees of O(n³) each. Camerini, Fratta and Maffioli need O(n²) for each
  of the k trees, by contractions whose number depends on the scores, which does not fit a compiled program.

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    k: how many, a Python integer.
    mask: [..., n], ones and then zeros; None if all are tokens.
    single_root: True for trees with exactly one child of the root, False for one or more.

  Returns:
    int32 heads [..., k, n] and scores [..., k]. If fewer than k trees do without excluded arcs, the rest has
    heads 0 and scores NEG_INF.

  Raises:
    ValueError: for k below 1, shapes that do not fit, integer scores, or NaN.

  References:
    Lawler (1972); Camerini, Fratta, Maffioli (1980); Zmigrod, Vieira, Cotterell (2021), arXiv 2106.00780.
  """
  if k < 1:
    raise ValueError(f"k must be at least 1, got {k}")
  scores, valid, mask = as_arcs(arc, mask)
  allowed = valid & (scores > EXCLUDED)
  if mask.shape[-1] == 0:
    exists = jnp.broadcast_to(jnp.arange(k, dtype=jnp.int32) == 0, (*mask.shape[:-1], k))
    return rank_trees(scores, allowed, jnp.zeros((*exists.shape, 0), jnp.int32), exists, mask)

  def one(scores, allowed, mask):
    return _divide(scores, allowed, mask, k, single_root)

  divide = jnp.vectorize(one, signature="(n,m),(n,m),(n)->(k,n),(k)")
  heads, values = divide(shift_rows(jax.lax.stop_gradient(scores))[0], allowed, mask)
  return rank_trees(scores, allowed, heads, values > EXCLUDED, mask)


def _divide(
  scores: Array, allowed: Array, mask: Array, k: int, single_root: bool
) -> tuple[Array, Array]:
  """The best trees of the k best sets: heads [k, n] and scores [k], EXCLUDED or less for empty sets."""
  tokens = jnp.arange(mask.shape[0], dtype=jnp.int32)

  def solve(allowed):
    heads = best_spanning_tree(jnp.where(allowed, scores, NEG_INF), mask, single_root=single_root)
    fits = jnp.all(allowed[tokens, heads] | ~mask)
    total = jnp.sum(jnp.where(mask, scores[tokens, heads], 0.0))
    return heads, jnp.where(fits, total, NEG_INF), allowed

  def solve_all(divided):
    if tokens.size <= SETS_AT_ONCE:
      return jax.vmap(solve)(divided)
    return jax.lax.map(solve, divided, batch_size=SETS_AT_ONCE)

  def step(sets, rank):
    heads, values, allowed = sets
    on_tree = jnp.arange(scores.shape[1], dtype=jnp.int32) == heads[rank][:, None]
    earlier = (tokens[None, :] < tokens[:, None])[..., None]  # [set, token, 1]
    itself = jnp.eye(tokens.size, dtype=bool)[..., None]
    divided = allowed[rank] & jnp.where(earlier, on_tree, ~(itself & on_tree))
    new = solve_all(divided)
    pool = jax.tree.map(lambda old, new: jnp.concatenate([old, new]), sets, new)
    # The sets up to this rank stay where they are. A set that differs at padding is none.
    first = jnp.where(jnp.arange(k, dtype=jnp.int32) <= rank, jnp.inf, values)
    order = jnp.argsort(-jnp.concatenate([first, jnp.where(mask, new[1], -jnp.inf)]), stable=True)
    return jax.tree.map(lambda values: values[order[:k]], pool), None

  heads, value, _ = solve(allowed)
  first = jnp.arange(k, dtype=jnp.int32) == 0
  sets = (
    jnp.where(first[:, None], heads, 0),
    jnp.where(first, value, NEG_INF),
    first[:, None, None] & allowed,
  )
  (heads, values, _), _ = jax.lax.scan(step, sets, jnp.arange(k - 1, dtype=jnp.int32))
  return heads, values
