"""Dependency trees: what parsers give out, and all inference on it under one roof.

Arc scores are [..., n, n+1] by dependent (tokens 1..n at indices 0..n-1) and head (column 0 the root, column j
token j). A token's own column is ignored, and so is all that has to do with padding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.structured.arcs import as_arcs
from kd_jax.structured.inputs import as_mask, as_scores, refuse_nan
from kd_jax.structured.matrix_tree import (
  spanning_tree_entropy,
  spanning_tree_log_partition,
  spanning_tree_marginals,
)
from kd_jax.structured.mean_field import mean_field_marginals, softmax_over_heads
from kd_jax.structured.projective import projective_log_partition, projective_marginals
from kd_jax.structured.spanning_tree import maximum_spanning_tree
from kd_jax.types import NEG_INF, Array, ArrayLike

__all__ = [
  "DependencyScores",
  "ParsingTags",
  "head_marginals",
  "maximum_spanning_tree",
  "mean_field_marginals",
  "parse",
  "projective_log_partition",
  "projective_marginals",
  "spanning_tree_entropy",
  "spanning_tree_log_partition",
  "spanning_tree_marginals",
  "tags_as_arcs",
  "tree_log_prob",
  "tree_score",
]


class DependencyScores(NamedTuple):
  """What a graph-based parser gives out.

  Attributes:
    arc: [..., n, n+1] scores by dependent and head.
    relation: [..., n, n+1, R] scores of relations, given dependent and head.
    mask: [..., n], ones and then zeros; None where all are tokens.
    refined: [..., n, n+1] log head marginals after mean field, of a second-order parser.
  """

  arc: ArrayLike
  relation: ArrayLike
  mask: ArrayLike | None = None
  refined: ArrayLike | None = None


class ParsingTags(NamedTuple):
  """Dependency parsing as tagging: label l says that token i has head i + offsets[l].

  Attributes:
    logits: [..., n, L] scores of the labels.
    offsets: [L] int32, from a token to its head; 0 says that the head is the root.
    relations: [L] int32.
    mask: [..., n], ones and then zeros; None where all are tokens.
  """

  logits: ArrayLike
  offsets: ArrayLike
  relations: ArrayLike
  mask: ArrayLike | None = None


def head_marginals(arc: ArrayLike, mask: ArrayLike | None = None) -> Array:
  r"""Each token's distribution over heads on its own, as parsers are trained; no tree is asked for.

  .. math:: P(head(i) = h) = softmax_h \, arc(i, h)

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    mask: [..., n], ones and then zeros; None where all are tokens.

  Returns:
    [..., n, n+1]; each token's row sums to 1, and 0 stands at padding and self-loops.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> head_marginals(jnp.zeros((2, 3)), jnp.array([1, 0])).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
  """
  arc, valid, _ = as_arcs(arc, mask)
  return softmax_over_heads(arc, valid)


def tree_score(arc: ArrayLike, heads: ArrayLike, mask: ArrayLike | None = None) -> Array:
  r"""The sum of the scores of a tree's arcs.

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    heads: [..., n] integers in [0, n]. Whether they are a tree is not checked.
    mask: [..., n], ones and then zeros; None where all are tokens.

  Returns:
    [...] float32.

  Raises:
    ValueError: shapes that do not fit, integer scores, NaN, or heads that are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> float(tree_score(jnp.array([[5.0, 0.0, 4.0], [5.0, 1.0, 0.0]]), jnp.array([2, 0])))
    9.0
  """
  arc, _, mask = as_arcs(arc, mask)
  heads = jnp.asarray(heads)
  if heads.shape != mask.shape or not jnp.issubdtype(heads.dtype, jnp.integer):
    raise ValueError(
      f"heads {heads.dtype} {heads.shape} must be integers of arc's [..., n] = {mask.shape}"
    )
  chosen = jnp.take_along_axis(arc, jnp.where(mask, heads, 0)[..., None], axis=-1, mode="clip")
  return jnp.sum(jnp.where(mask, chosen[..., 0], 0.0), axis=-1)


def tree_log_prob(
  arc: ArrayLike,
  heads: ArrayLike,
  mask: ArrayLike | None = None,
  *,
  single_root: bool = True,
  projective: bool = False,
) -> Array:
  r"""log P(tree) = score(tree) - log Z.

  Args:
    arc: [..., n, n+1] scores by dependent and head, column 0 the root.
    heads: [..., n] integers in [0, n]: a tree of those that are summed over; that is not checked.
    mask: [..., n], ones and then zeros; None where all are tokens.
    single_root: among trees with exactly one child of the root; else with one or more.
    projective: among trees without crossing arcs.

  Returns:
    [...] float32.

  Raises:
    ValueError: shapes that do not fit, integer scores, NaN, or heads that are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(jnp.exp(tree_log_prob(jnp.zeros((3, 4)), jnp.array([0, 1, 1])))), 4)  # of 9
    0.1111
  """
  log_partition = projective_log_partition if projective else spanning_tree_log_partition
  return tree_score(arc, heads, mask) - log_partition(arc, mask, single_root=single_root)


def _log_probs(tags: ParsingTags) -> tuple[Array, Array, Array, Array]:
  """log softmax over labels [..., n, L], offsets [L], relations [L] and mask [..., n] of checked tags."""
  logits = as_scores("logits", tags.logits, "n, L")
  mask = as_mask(tags.mask, logits.shape[:-1])
  offsets, relations = jnp.asarray(tags.offsets), jnp.asarray(tags.relations)
  if offsets.shape != logits.shape[-1:] or relations.shape != logits.shape[-1:]:
    raise ValueError(
      f"offsets {offsets.shape} and relations {relations.shape} must have one entry for each label "
      f"of logits {logits.shape}"
    )
  refuse_nan("logits", logits, mask[..., None])
  logits = jnp.where(mask[..., None], logits, 0.0)
  return jax.nn.log_softmax(logits, axis=-1), offsets, relations, mask


def tags_as_arcs(tags: ParsingTags) -> Array:
  r"""Arc scores of a tagger: the best log-probability of all labels that name the head.

  .. math:: arc(i, h) = \max_{l: \, i + offset(l) = h} \log P(l | i)

  Args:
    tags: labels that name a head outside the sentence count for no arc.

  Returns:
    [..., n, n+1] float32; NEG_INF where no label names the head, and at padding.

  Raises:
    ValueError: shapes that do not fit, integer logits, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]))
    >>> tags = ParsingTags(logits, offsets=jnp.array([0, -1, 1]), relations=jnp.array([0, 1, 1]))
    >>> jnp.exp(tags_as_arcs(tags)).tolist()
    [[0.5, 0.0, 0.25], [0.25, 0.5, 0.0]]
  """
  log_probs, offsets, _, mask = _log_probs(tags)
  num_tokens = log_probs.shape[-2]
  # By offset first, -n..n; offsets beyond that fall off the end.
  places = jnp.where(jnp.abs(offsets) <= num_tokens, offsets + num_tokens, 2 * num_tokens + 1)
  by_offset = jnp.full((2 * num_tokens + 1, *log_probs.shape[:-1]), NEG_INF)
  by_offset = by_offset.at[places].max(jnp.moveaxis(log_probs, -1, 0), mode="drop")
  by_offset = jnp.moveaxis(by_offset, 0, -1)
  dependent, head = jnp.arange(1, num_tokens + 1)[:, None], jnp.arange(num_tokens + 1)[None, :]
  places = jnp.where(head == 0, 0, head - dependent) + num_tokens
  places = jnp.broadcast_to(places, (*mask.shape, num_tokens + 1))
  arc = jnp.take_along_axis(by_offset, places, axis=-1)
  _, valid, _ = as_arcs(jnp.zeros_like(arc), mask)
  return jnp.where(valid, arc, NEG_INF)


def parse(scores: DependencyScores | ParsingTags) -> tuple[Array, Array]:
  """The best tree with one child of the root, and on each of its arcs the best relation.

  Trees are weighed by refined head marginals where a parser has them, else by its arc scores; for a tagger
  see `tags_as_arcs`. Where the tree has an arc that no label names, the relation is that of the best label.

  Args:
    scores: of a parser or a tagger.

  Returns:
    heads [..., n] and relations [..., n] int32; 0 at padding.

  Raises:
    ValueError: shapes that do not fit, integer scores, or NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> relation = jnp.zeros((2, 3, 4)).at[..., 3].set(1.0)
    >>> heads, relations = parse(DependencyScores(jnp.array([[5.0, 0.0, 4.0], [5.0, 1.0, 0.0]]), relation))
    >>> heads.tolist(), relations.tolist()
    ([2, 0], [3, 3])
  """
  if isinstance(scores, ParsingTags):
    heads = maximum_spanning_tree(tags_as_arcs(scores), scores.mask)
    log_probs, offsets, relations, mask = _log_probs(scores)
    to_head = jnp.where(heads == 0, 0, heads - jnp.arange(1, heads.shape[-1] + 1))
    names_it = to_head[..., None] == offsets
    none_does = ~jnp.any(names_it, axis=-1, keepdims=True)
    label = jnp.argmax(jnp.where(names_it | none_does, log_probs, 4 * NEG_INF), axis=-1)
    found = relations[label]
  else:
    arc = scores.arc if scores.refined is None else scores.refined
    heads = maximum_spanning_tree(arc, scores.mask)
    relation = as_scores("relation", scores.relation, "n, n+1, R")
    if relation.shape[:-1] != jnp.shape(arc):
      raise ValueError(
        f"relation {relation.shape} must be [..., n, n+1, R] with arc {jnp.shape(arc)}"
      )
    given_head = jnp.take_along_axis(relation, heads[..., None, None], axis=-2)[..., 0, :]
    mask = as_mask(scores.mask, heads.shape)
    refuse_nan("relation", given_head, mask[..., None])
    found = jnp.argmax(given_head, axis=-1)
  return heads, jnp.where(mask, found, 0).astype(jnp.int32)
