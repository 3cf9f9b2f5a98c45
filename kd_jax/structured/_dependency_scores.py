"""The scores of a parser: arcs, and relations on them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from kd_jax._checks import as_mask, as_scores, as_tree, refuse_nan, refuse_other_relations
from kd_jax.structured import _generic
from kd_jax.structured._arcs import as_arcs
from kd_jax.structured._declaration import declare
from kd_jax.structured._dependency_trees import DependencyTrees
from kd_jax.structured._generic import Parse
from kd_jax.types import NEG_INF, Array, ArrayLike, LabelledTree


@declare(
  sentence={"arc": "n n+1", "relation": "n n+1 R", "refined": "n n+1"},
  scores="arc relation refined",
)
class DependencyScores(NamedTuple):
  """Scores of a graph-based parser, whose tokens choose their heads and relations each on its own.

  Attributes:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    relation: [..., n, n+1, R] scores of relations, given dependent and head.
    mask: [..., n], nonzero for tokens; None if all are.
    refined: [..., n, n+1] log head marginals after mean field, of a second-order parser.
  """

  arc: Float[ArrayLike, "*batch n n+1"]
  relation: Float[ArrayLike, "*batch n n+1 R"]
  mask: Bool[ArrayLike, "*batch n"] | None = None
  refined: Float[ArrayLike, "*batch n n+1"] | None = None


def log_head_marginals(scores: DependencyScores) -> Array:
  """log P(head | dependent): of the mean field if there is one, else the softmax of the arc scores.

  Returns:
    [..., n, n+1] float32; NEG_INF if a token cannot be a head, and for masked tokens.

  Raises:
    ValueError: integer scores, shapes that do not fit, or NaN.
  """
  arc, valid, _ = as_arcs(_arcs(scores), scores.mask)
  return jnp.where(valid, jax.nn.log_softmax(arc, axis=-1), NEG_INF)


def log_relation_probs(scores: DependencyScores) -> Array:
  """log P(relation | dependent, head) [..., n, n+1, R] float32; 0 if there can be no arc.

  Raises:
    ValueError: integer scores, shapes that do not fit, or NaN.
  """
  relation = as_scores("relation", scores.relation, "n, n+1, R")
  _, valid, _ = as_arcs(jnp.zeros(relation.shape[:-1], jnp.float32), scores.mask)
  refuse_nan("relation", relation, valid[..., None])
  blanked = jnp.where(valid[..., None], relation, 0.0)
  return jnp.where(valid[..., None], jax.nn.log_softmax(blanked, axis=-1), 0.0)


def _arcs(scores: DependencyScores) -> ArrayLike:
  return scores.arc if scores.refined is None else scores.refined


@_generic.head_marginals.register(DependencyScores)
def head_marginals(scores: DependencyScores) -> Array:
  return jnp.exp(log_head_marginals(scores))


@_generic.argmax.register(DependencyScores)
def argmax(scores: DependencyScores) -> Parse:
  heads = _generic.argmax(DependencyTrees(_arcs(scores), scores.mask))
  return Parse(heads, _best_relations(scores, heads))


@_generic.top_k_of.register(DependencyScores)
def top_k(scores: DependencyScores, k: int) -> tuple[Parse, Array]:
  heads, values = _generic.top_k(DependencyTrees(_arcs(scores), scores.mask), k)
  relations = jax.vmap(lambda heads: _best_relations(scores, heads), -2, -2)(heads)
  exists = values > NEG_INF / 2
  return Parse(heads, jnp.where(exists[..., None], relations, 0)), values


def _best_relations(scores: DependencyScores, heads: Array) -> Array:
  """The best relation [..., n] on the arc of each token."""
  relation = as_scores("relation", scores.relation, "n, n+1, R")
  if relation.shape[:-1] != jnp.shape(scores.arc):
    raise ValueError(
      f"relation {relation.shape} must be [..., n, n+1, R] with arc {jnp.shape(scores.arc)}"
    )
  given_head = jnp.take_along_axis(relation, heads[..., None, None], axis=-2)[..., 0, :]
  mask = as_mask(scores.mask, heads.shape)
  refuse_nan("relation", given_head, mask[..., None])
  return jnp.where(mask, jnp.argmax(given_head, axis=-1), 0).astype(jnp.int32)


@_generic.log_prob.register(DependencyScores)
def log_prob(scores: DependencyScores, tree: LabelledTree) -> Array:
  heads, relations = log_head_marginals(scores), log_relation_probs(scores)
  mask = as_mask(scores.mask, heads.shape[:-1])
  gold_heads, gold_relations = as_tree(tree, mask)
  refuse_other_relations(tree.relations, mask, relations.shape[-1])
  known = mask & (gold_relations >= 0)  # a relation unseen in training has no score
  at_head = jnp.take_along_axis(relations, gold_heads[..., None, None], axis=-2)[..., 0, :]
  values = _pick(heads, gold_heads) + _pick(at_head, jnp.where(known, gold_relations, 0))
  return jnp.sum(jnp.where(known, values, 0.0), axis=-1)


def _pick(values: Array, indices: Array) -> Array:
  return jnp.take_along_axis(values, indices[..., None], axis=-1)[..., 0]
