"""Sums over projective dependency trees: Eisner's algorithm."""

import jax
import jax.numpy as jnp

from kd_jax.structured._arcs import as_arcs, chain_padding, shift_rows
from kd_jax.structured._scaled import Scaled, excluded, from_log
from kd_jax.types import NEG_INF, Array, ArrayLike


def _inside(heads: Scaled) -> tuple[Scaled, Scaled]:
  """Weights of all spans that a node at one of their ends heads.

  With `right` spans headed from their left end, `left` from their right end, and k a place to split,

      join(i, j)  = sum_{i<=k<j} right(i, k) left(k+1, j)
      right(i, j) = sum_{i<k<=j} join(i, k) arc(i -> k) right(k, j)
      left(i, j)  = sum_{i<=k<j} left(i, k) join(k, j) arc(j -> k)

  All spans of one width at a time. What is not known yet is excluded, which bounds the sums over k.

  Args:
    heads: [m, m] weights by (dependent, head).

  Returns:
    right [m, m] and left [m, m] by (start, end).
  """
  size = heads.exponent.shape[0]
  offset = jnp.arange(size, dtype=jnp.int32)[None, :] - jnp.arange(size, dtype=jnp.int32)[:, None]
  last = jnp.arange(size, dtype=jnp.int32) == size - 1
  arcs = heads.map(jnp.transpose)

  def split(by_start, by_end, width):
    """[i]: sum_k by_start[i, k] by_end[i + width, k]; rows over the end are never written anywhere."""
    return (by_start * by_end.map(lambda chart: jnp.roll(chart, -width, axis=0))).sum(axis=1)

  # A chart is kept by (start, k), by (end, k) or both, as sums over k read it: transposing costs more.
  def step(charts, width):
    right, right_by_end, left, left_by_end, right_arc, left_arc_by_end = charts
    here, here_by_end = offset == width, offset == -width

    def write(chart, values):
      return values.map(lambda x: x[:, None]).where(here, chart)

    def write_by_end(chart, values):
      return values.map(lambda x: x[None, :]).where(here_by_end, chart)

    after = left_by_end.map(lambda chart: jnp.roll(chart, -1, axis=1))
    join = split(right, excluded().where(last, after), width)
    right_arc = (join.map(lambda x: x[:, None]) * arcs).where(here, right_arc)
    left_arc_by_end = (join.map(lambda x: x[None, :]) * arcs).where(here_by_end, left_arc_by_end)
    new_right, new_left = split(right_arc, right_by_end, width), split(left, left_arc_by_end, width)
    return (
      write(right, new_right),
      write_by_end(right_by_end, new_right),
      write(left, new_left),
      write_by_end(left_by_end, new_left),
      right_arc,
      left_arc_by_end,
    ), None

  nothing = excluded((size, size))
  single = from_log(jnp.where(offset == 0, jnp.float32(0.0), NEG_INF))
  charts = (single, single, single, single, nothing, nothing)
  charts, _ = jax.lax.scan(step, charts, jnp.arange(1, size, dtype=jnp.int32))
  return charts[0], charts[2]


def _all_trees(scores: Array, single_root: bool) -> Scaled:
  """Z [...] of arc scores [..., n, n+1] without masks."""

  def one(scores):
    if single_root:
      weights = from_log(scores)
      right, left = _inside(weights.map(lambda x: x[:, 1:]))
      root = weights.map(lambda x: x[:, 0])
      by_top = root * left.map(lambda x: x[0, :]) * right.map(lambda x: x[:, -1])
      return by_top.sum(axis=0).parts()
    no_head = jnp.full(
      (1, scores.shape[1]), NEG_INF, jnp.float32
    )  # the root is a node left of all others
    right, _ = _inside(from_log(jnp.concatenate([no_head, scores])))
    return right.map(lambda x: x[0, -1]).parts()

  return Scaled(*jnp.vectorize(one, signature="(n,m)->(),()")(scores))


def projective_log_partition(
  arc: ArrayLike, mask: ArrayLike | None = None, *, single_root: bool = True
) -> Array:
  r"""log of the summed weight of all projective dependency trees.

  .. math:: \log Z = \log \sum_{projective} \exp \sum_i arc(i, head(i))

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    mask: [..., n], ones and then zeros; None where all are tokens.
    single_root: trees with exactly one child of the root; else with one or more.

  Returns:
    [...] float32; 0 for an empty sentence.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  References:
    Eisner (1996), Three new probabilistic models for dependency parsing: an exploration.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(jnp.exp(projective_log_partition(jnp.zeros((4, 5))))))  # of 64 in all
    30
  """
  scores, _, mask = as_arcs(arc, mask)
  scores, best = shift_rows(chain_padding(scores, mask))
  trees = _all_trees(scores, single_root)
  return (jnp.sum(best, axis=-1) + trees.exponent) + jnp.log(trees.mantissa)


def projective_marginals(
  arc: ArrayLike, mask: ArrayLike | None = None, *, single_root: bool = True
) -> Array:
  """The probability of each arc under all projective dependency trees: the gradient of log Z.

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
    >>> projective_marginals(jnp.zeros((2, 3))).tolist()
    [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
  """
  scores, valid, mask = as_arcs(arc, mask)
  scores, _ = shift_rows(chain_padding(scores, mask))

  def log_z(scores):  # exponents have no gradient
    return jnp.sum(jnp.log(_all_trees(scores, single_root).mantissa))

  marginals = jax.grad(log_z)(scores)
  return jnp.where(valid, marginals, 0.0)
