"""The best projective dependency tree, the k best, and samples."""

import jax
import jax.numpy as jnp

from kd_jax.structured._arcs import as_arcs, shift_rows
from kd_jax.structured._eisner import Choose, choose_best, choose_sample, derive
from kd_jax.structured._root_token import add_root_token, remove_root_token
from kd_jax.structured._tree_ranking import cost_exclusions, rank_trees
from kd_jax.types import EXCLUDED, Array, ArrayLike


def _derive(
  scores: Array,
  mask: Array,
  single_root: bool,
  choose: Choose,
  k: int,
  key: Array | None = None,
) -> tuple[Array, Array]:
  """int32 heads [..., k, n], and bool [..., k]: which derivations exist. Scores [..., n, n+1] are finite."""
  scores, padded = jax.lax.stop_gradient(scores), mask
  if mask.shape[-1] == 0:
    exists = jnp.broadcast_to(jnp.arange(k, dtype=jnp.int32) == 0, (*mask.shape[:-1], k))
    return jnp.zeros((*exists.shape, 0), jnp.int32), exists
  if not single_root:
    scores, padded = add_root_token(scores, mask)
  size = padded.shape[-1]
  shape = (*mask.shape[:-1], size, 3, size)
  noise = (
    jnp.zeros(shape, jnp.float32) if key is None else jax.random.uniform(key, shape, jnp.float32)
  )

  def one(scores, mask, noise):
    return derive(scores, jnp.sum(mask, dtype=jnp.int32), noise, choose, k)

  heads, values = jnp.vectorize(one, signature="(n,m),(n),(n,t,n)->(k,n),(k)")(
    scores, padded, noise
  )
  if not single_root:
    heads = remove_root_token(heads)
  empty = ~jnp.any(mask, axis=-1, keepdims=True)
  exists = jnp.where(empty, jnp.arange(k, dtype=jnp.int32) == 0, values > EXCLUDED)
  return jnp.where(mask[..., None, :], heads, 0), exists


def maximum_projective_tree(
  arc: ArrayLike, mask: ArrayLike | None = None, *, single_root: bool = True
) -> Array:
  r"""Finds the best projective dependency tree.

  .. math:: \arg\max_{projective} \sum_i arc(i, head(i))

  If every tree contains excluded arcs (scores near NEG_INF), the result has as few of them as possible. It is
  always a projective tree. No gradient flows through it.

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    mask: [..., n], ones and then zeros; None if all are tokens.
    single_root: True for trees with exactly one child of the root, False for one or more.

  Returns:
    [..., n] int32 heads: 0 for the root, j for token j; 0 at padding.

  Raises:
    ValueError: for shapes that do not fit, integer scores, or NaN.

  References:
    Eisner (1996), Three new probabilistic models for dependency parsing: an exploration.
  """
  scores, valid, mask = as_arcs(arc, mask)
  costs = cost_exclusions(scores, valid & (scores > EXCLUDED))
  return _derive(costs, mask, single_root, choose_best(1), 1)[0][..., 0, :]


def k_best_projective_trees(
  arc: ArrayLike, k: int, mask: ArrayLike | None = None, *, single_root: bool = True
) -> tuple[Array, Array]:
  """Finds the k best projective dependency trees, all different, the best first.

  O(n³ k log k) for the chart: a cell keeps its k best derivations.

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
    Huang, Chiang (2005), Better k-best parsing, algorithm 0 with fewer pairs.
  """
  if k < 1:
    raise ValueError(f"k must be at least 1, got {k}")
  scores, valid, mask = as_arcs(arc, mask)
  allowed = valid & (scores > EXCLUDED)
  heads, exists = _derive(cost_exclusions(scores, allowed), mask, single_root, choose_best(k), k)
  return rank_trees(scores, allowed, heads, exists, mask)


def sample_projective_tree(
  arc: ArrayLike, key: Array, mask: ArrayLike | None = None, *, single_root: bool = True
) -> Array:
  r"""Draws a projective dependency tree for each sentence, independently.

  .. math:: P(tree) \propto \exp \sum_i arc(i, head(i))

  Each cell of Eisner's chart draws one of its splits in proportion to their weights; the tree is read off from
  the top. A cell is used at most once, so this is exact. No gradient flows through it.

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
  """
  scores, _, mask = as_arcs(arc, mask)
  scores, _ = shift_rows(scores)
  return _derive(scores, mask, single_root, choose_sample, 1, key)[0][..., 0, :]
