"""Dependency trees, scored by their arcs: all of them, or those without crossing arcs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from kd_jax._checks import as_mask, as_scores, refuse_other_heads
from kd_jax.structured import _generic
from kd_jax.structured._arcs import as_arcs
from kd_jax.structured._declaration import declare
from kd_jax.structured._holes import (
  close_up,
  closed_mask,
  put_back,
  put_back_heads,
)
from kd_jax.structured._k_best_trees import best_spanning_tree, k_best_spanning_trees
from kd_jax.structured._matrix_tree import spanning_tree_log_partition, spanning_tree_marginals
from kd_jax.structured._projective import projective_log_partition, projective_marginals
from kd_jax.structured._projective_trees import (
  k_best_projective_trees,
  maximum_projective_tree,
  sample_projective_tree,
)
from kd_jax.structured._spanning_tree_sampling import sample_spanning_tree
from kd_jax.structured._tree_divergences import (
  tree_cross_entropy,
  tree_entropy,
  tree_kl_divergence,
)
from kd_jax.types import Array, ArrayLike

P = ParamSpec("P")
Result = TypeVar("Result")

ARCS = (0, 1)  # by how much the axes of arc scores exceed n


@declare(sentence={"arc": "n n+1"}, scores="arc")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DependencyTrees:
  """Scores of the arcs of dependency trees.

  A token's own column is ignored, and so is all that has to do with masked tokens.

  Attributes:
    arc: [..., n, n+1] by dependent (tokens 1..n at indices 0..n-1) and head (column 0 the root, column j
    token j). mask: [..., n], nonzero for tokens; None if all are.
    single_root: True for trees with exactly one child of the root, False for one or more. Static.
    projective: True for trees without crossing arcs only. Static.
  """

  arc: Float[ArrayLike, "*batch n n+1"]
  mask: Bool[ArrayLike, "*batch n"] | None = None
  single_root: bool = dataclasses.field(default=True, metadata={"static": True})
  projective: bool = dataclasses.field(default=False, metadata={"static": True})


def _closed(trees: DependencyTrees) -> tuple[Array, Array | None]:
  """Arc scores and mask of the tokens, closed up; the functions on these check what is in them."""
  arc = as_scores("arc", trees.arc, "n, n+1")
  if trees.mask is None or arc.shape[-1] != arc.shape[-2] + 1:
    return arc, None
  mask = as_mask(trees.mask, arc.shape[:-1])
  return close_up(arc, trees.mask, ARCS), closed_mask(mask)


def _one_of(
  trees: DependencyTrees, projective: Callable[P, Result], spanning: Callable[P, Result]
) -> Callable[P, Result]:
  return projective if trees.projective else spanning


@_generic.log_partition.register(DependencyTrees)
def log_partition(trees: DependencyTrees) -> Array:
  function = _one_of(trees, projective_log_partition, spanning_tree_log_partition)
  return function(*_closed(trees), single_root=trees.single_root)


@_generic.marginals.register(DependencyTrees)
def marginals(trees: DependencyTrees) -> Array:
  function = _one_of(trees, projective_marginals, spanning_tree_marginals)
  found = function(*_closed(trees), single_root=trees.single_root)
  return put_back(found, trees.mask, ARCS)


_generic.head_marginals.register(DependencyTrees)(marginals)


@_generic.argmax.register(DependencyTrees)
def argmax(trees: DependencyTrees) -> Array:
  function = _one_of(trees, maximum_projective_tree, best_spanning_tree)
  heads = function(*_closed(trees), single_root=trees.single_root)
  return put_back_heads(heads, trees.mask)


@_generic.top_k_of.register(DependencyTrees)
def top_k(trees: DependencyTrees, k: int) -> tuple[Array, Array]:
  function = _one_of(trees, k_best_projective_trees, k_best_spanning_trees)
  arc, mask = _closed(trees)
  heads, scores = function(arc, k, mask, single_root=trees.single_root)
  if trees.mask is None:
    return heads, scores
  return jax.vmap(lambda heads: put_back_heads(heads, trees.mask), -2, -2)(heads), scores


@_generic.sample.register(DependencyTrees)
def sample(trees: DependencyTrees, key: Array) -> Array:
  function = _one_of(trees, sample_projective_tree, sample_spanning_tree)
  arc, mask = _closed(trees)
  return put_back_heads(function(arc, key, mask, single_root=trees.single_root), trees.mask)


@_generic.score.register(DependencyTrees)
def score(trees: DependencyTrees, heads: ArrayLike) -> Array:
  arc, _, mask = as_arcs(trees.arc, trees.mask)
  given, heads = heads, jnp.asarray(heads)
  if heads.shape != mask.shape or not jnp.issubdtype(heads.dtype, jnp.integer):
    raise ValueError(
      f"heads must be integers of arc's [..., n] = {mask.shape}, got {heads.dtype} {heads.shape}"
    )
  refuse_other_heads(given, mask)
  chosen = jnp.take_along_axis(arc, jnp.where(mask, heads, 0)[..., None], axis=-1, mode="clip")
  return jnp.sum(jnp.where(mask, chosen[..., 0], 0.0), axis=-1)


@_generic.log_prob.register(DependencyTrees)
def log_prob(trees: DependencyTrees, heads: ArrayLike) -> Array:
  return score(trees, heads) - log_partition(trees)


def _flags(trees: DependencyTrees) -> dict[str, bool]:
  return {"single_root": trees.single_root, "projective": trees.projective}


@_generic.entropy.register(DependencyTrees)
def entropy(trees: DependencyTrees) -> Array:
  return tree_entropy(*_closed(trees), **_flags(trees))


@_generic.cross_entropy_of.register(DependencyTrees)
def cross_entropy(p: DependencyTrees, q: DependencyTrees) -> Array:
  arc, mask = _closed(q)
  return tree_cross_entropy(_closed(p)[0], arc, mask, **_flags(p))


@_generic.kl_divergence_of.register(DependencyTrees)
def kl_divergence(p: DependencyTrees, q: DependencyTrees) -> Array:
  arc, mask = _closed(q)
  return tree_kl_divergence(_closed(p)[0], arc, mask, **_flags(p))
