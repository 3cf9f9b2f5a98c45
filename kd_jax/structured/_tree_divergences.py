r"""Entropy, cross-entropy and KL divergence of distributions over dependency trees, projective or not.

All follow from log Z and the marginals, with arc scores s and P(i, h) the probability of an arc:

.. math:: H(p) = \log Z_p - \sum_{i, h} P_p(i, h) \, s_p(i, h) \quad
  H(p, q) = \log Z_q - \sum_{i, h} P_p(i, h) \, s_q(i, h) \quad
  KL(p \| q) = H(p, q) - H(p)

An arc that p excludes adds nothing. One that q alone excludes adds its probability times -NEG_INF, if that is
more than rounding.
"""

import jax
import jax.numpy as jnp

from kd_jax.structured._arcs import as_arcs, chain_padding, shift_rows
from kd_jax.structured._matrix_tree import _log_trees, _with_marginals
from kd_jax.structured._projective import _all_trees
from kd_jax.types import EXCLUDED, Array, ArrayLike

ROUNDING = 1e-6
"""An arc that q excludes counts only if its probability under p is above this."""
NEAR = 0.1
"""Distributions are near if no arc's score, within its row, differs by more: then KL is an integral."""


def _log_partition(scores: Array, single_root: bool, projective: bool) -> tuple[Array, Array]:
  """log Z [...] of scores without masks: a whole number, and the rest."""
  if not projective:
    return _log_trees(scores, single_root)
  trees = _all_trees(scores, single_root)
  return trees.exponent, jnp.log(trees.mantissa)


def _inference(scores: Array, single_root: bool, projective: bool) -> tuple[Array, Array, Array]:
  """log Z in two parts, and the marginals [..., n, n+1]."""
  if not projective:
    return _with_marginals(scores, single_root)

  def total(scores):
    whole, fraction = _log_partition(scores, single_root, projective)
    return jnp.sum(fraction), (whole, fraction)  # exponents have no gradient

  marginals, (whole, fraction) = jax.grad(total, has_aux=True)(scores)
  return whole, fraction, marginals


def _shifted(arc: ArrayLike, mask: ArrayLike | None) -> Array:
  """Arc scores without masks, the best of each row 0: no distribution and no divergence changes."""
  scores, _, mask = as_arcs(arc, mask)
  return shift_rows(chain_padding(scores, mask))[0]


def _same_shape(teacher: ArrayLike, student: ArrayLike) -> None:
  if jnp.shape(teacher) != jnp.shape(student):
    raise ValueError(
      f"`teacher` and `student` must have one shape [..., n, n+1], got {jnp.shape(teacher)} and "
      f"{jnp.shape(student)}"
    )


def _expected(marginals: Array, scores: Array, possible: Array) -> Array:
  # An arc that is in no tree has a marginal of some rounding, which an excluded score would blow up.
  possible &= (scores > EXCLUDED) | (marginals > ROUNDING)
  return jnp.sum(jnp.where(possible, marginals * scores, 0.0), axis=(-2, -1))


def tree_entropy(
  arc: ArrayLike,
  mask: ArrayLike | None = None,
  *,
  single_root: bool = True,
  projective: bool = False,
) -> Array:
  """Computes the entropy of the distribution over dependency trees, in nats.

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    mask: [..., n], ones and then zeros; None if all are tokens.
    single_root: True for trees with exactly one child of the root, False for one or more.
    projective: True for trees without crossing arcs only.

  Returns:
    [...] float32, at least 0.

  Raises:
    ValueError: for shapes that do not fit, integer scores, or NaN.
  """
  scores = _shifted(arc, mask)
  whole, fraction, marginals = _inference(scores, single_root, projective)
  return _at_least_0((whole - _expected(marginals, scores, scores > EXCLUDED)) + fraction)


def tree_cross_entropy(
  teacher: ArrayLike,
  student: ArrayLike,
  mask: ArrayLike | None = None,
  *,
  single_root: bool = True,
  projective: bool = False,
) -> Array:
  r"""Computes the cross-entropy of a student's distribution over trees under a teacher's.

  .. math:: -\sum_{trees} P_t(tree) \log P_s(tree)

  Its gradient for the student's scores is the student's marginals less the teacher's. Both are differentiated.

  Args:
    teacher: [..., n, n+1] arc scores by dependent and head, column 0 the root.
    student: [..., n, n+1] arc scores.
    mask: [..., n] of both, ones and then zeros; None if all are tokens.
    single_root: True for trees with exactly one child of the root, False for one or more.
    projective: True for trees without crossing arcs only.

  Returns:
    [...] float32, at least 0.

  Raises:
    ValueError: for shapes that do not fit, integer scores, or NaN.

  References:
    Wang et al., Structural Knowledge Distillation, ACL 2021, arXiv 2010.05010.
  """
  _same_shape(teacher, student)
  found = _cross_entropy(_shifted(teacher, mask), _shifted(student, mask), single_root, projective)
  return _at_least_0(found)


def tree_kl_divergence(
  teacher: ArrayLike,
  student: ArrayLike,
  mask: ArrayLike | None = None,
  *,
  single_root: bool = True,
  projective: bool = False,
) -> Array:
  r"""Computes KL(teacher || student) over all dependency trees.

  .. math:: \sum_{trees} P_t(tree) (\log P_t(tree) - \log P_s(tree))

  The difference of cross-entropy and entropy cancels if the two are near each other. Then the same number is
  computed from marginals P_x along the way from teacher to student, with d the difference of arc scores:

  .. math:: KL = \int_0^1 \sum_{i, h} (P_x(i, h) - P_t(i, h)) \, d(i, h) \, dx
    \approx \frac{3}{4} \sum_{i, h} (P_{2/3}(i, h) - P_t(i, h)) \, d(i, h)

  which is exact up to the third order in d. Both are differentiated.

  Args:
    teacher: [..., n, n+1] arc scores by dependent and head, column 0 the root.
    student: [..., n, n+1] arc scores.
    mask: [..., n] of both, ones and then zeros; None if all are tokens.
    single_root: True for trees with exactly one child of the root, False for one or more.
    projective: True for trees without crossing arcs only.

  Returns:
    [...] float32, at least 0, and 0 at equality.

  Raises:
    ValueError: for shapes that do not fit, integer scores, or NaN.
  """
  _same_shape(teacher, student)
  p, q = _shifted(teacher, mask), _shifted(student, mask)
  whole_p, fraction_p, marginals = _inference(p, single_root, projective)
  whole_q, fraction_q = _log_partition(q, single_root, projective)
  possible = p > EXCLUDED
  difference = jnp.where(possible, q - p, 0.0)
  moved = _expected(marginals, difference, possible)
  found = (whole_q - whole_p - moved) + (fraction_q - fraction_p)
  # Values alone: the derivatives do not cancel.
  # With arcs that q alone has, the way from p to q leaves p's trees.
  known = jnp.all((p > EXCLUDED) | (q <= EXCLUDED), axis=(-2, -1))
  value = _integrated(
    *jax.lax.stop_gradient((found, p, difference, marginals)), known, single_root, projective
  )
  return _with_value(jnp.maximum(value, 0.0), found)


def _integrated(
  found: Array,
  p: Array,
  difference: Array,
  marginals: Array,
  known: Array,
  single_root: bool,
  projective: bool,
) -> Array:
  """KL as an integral for those that are near and whose arcs are all `known` to p; else what was found."""
  expected = jnp.sum(marginals * difference, axis=-1, keepdims=True)
  centred = jnp.where(p > EXCLUDED, difference - expected, 0.0)
  near = known & (jnp.max(jnp.abs(centred), axis=(-2, -1), initial=0.0) < NEAR)

  def integral(centred):
    centred = jnp.where(near[..., None, None], centred, 0.0)
    *_, later = _inference(p + centred * (2 / 3), single_root, projective)
    return jnp.where(near, 0.75 * jnp.sum((later - marginals) * centred, axis=(-2, -1)), found)

  return jax.lax.cond(jnp.any(near), integral, lambda _: found, centred)


def _cross_entropy(p: Array, q: Array, single_root: bool, projective: bool) -> Array:
  _, _, marginals = _inference(p, single_root, projective)
  whole, fraction = _log_partition(q, single_root, projective)
  return (whole - _expected(marginals, q, p > EXCLUDED)) + fraction


def _at_least_0(values: Array) -> Array:
  return _with_value(jnp.maximum(values, 0.0), values)


def _with_value(value: Array, differentiated: Array) -> Array:
  """A value, exactly, with the derivatives of something else."""
  return jax.lax.stop_gradient(value) + (differentiated - jax.lax.stop_gradient(differentiated))
