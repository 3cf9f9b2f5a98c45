"""Dependency parsing as tagging: from distributions over arcs and relations to tags (offset, relation).

The tag of token i with offset d and relation r says that its head is token i + d and its relation r; offset
0, which no token could have, says that it is the root. Every sentence has its own arcs, the tags are shared.

References:
  Strzyz, Vilares, Gómez-Rodríguez, Viable Dependency Parsing as Sequence Labeling, NAACL 2019,
  arXiv 1902.10505.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.structured.dependency import DependencyScores, ParsingTags
from kd_jax.structured.inputs import as_mask, as_scores
from kd_jax.types import NEG_INF, Array, Tree

EXCLUDED = NEG_INF / 2
"""Log-probabilities below are those of arcs that cannot be."""


def valid_heads(mask: Array) -> Array:
  """Which heads a token may have: the root, or another token of the sentence.

  Args:
    mask: [..., n] bool.

  Returns:
    [..., n, n+1] bool; all false in the rows of padding.
  """
  n = mask.shape[-1]
  columns = jnp.concatenate([jnp.ones_like(mask[..., :1]), mask], axis=-1)
  own = jnp.arange(n + 1)[None, :] == jnp.arange(1, n + 1)[:, None]
  return mask[..., :, None] & columns[..., None, :] & ~own


def log_head_marginals(scores: DependencyScores) -> Array:
  """log P(head | dependent): of the mean field where there is one, else the softmax of the arc scores.

  Returns:
    [..., n, n+1] float32; NEG_INF where a token cannot be a head, and for padding.
  """
  arc = as_scores("arc", scores.arc, "n, n+1")
  mask = as_mask(scores.mask, arc.shape[:-1])
  valid = valid_heads(mask)
  given = arc if scores.refined is None else as_scores("refined", scores.refined, "n, n+1")
  log_probs = jax.nn.log_softmax(jnp.where(valid, given, NEG_INF), axis=-1)
  return jnp.where(valid, log_probs, NEG_INF)


def log_relation_probs(scores: DependencyScores) -> Array:
  """log P(relation | dependent, head) [..., n, n+1, R] float32; 0 where there can be no arc."""
  relation = as_scores("relation", scores.relation, "n, n+1, R")
  valid = valid_heads(as_mask(scores.mask, relation.shape[:-2]))[..., None]
  log_probs = jax.nn.log_softmax(jnp.where(valid, relation, 0.0), axis=-1)
  return jnp.where(valid, log_probs, 0.0)


def heads_of_tags(tags: ParsingTags) -> tuple[Array, Array]:
  """The head that every tag gives every token.

  Returns:
    (heads [..., n, L] int32 in [0, n], valid [..., n, L] bool): a tag is valid where its head is the root or
    lies in the sentence. Heads outside are 0.
  """
  logits = jnp.asarray(tags.logits)
  mask = as_mask(tags.mask, logits.shape[:-1])
  n = logits.shape[-2]
  offsets = jnp.asarray(tags.offsets)
  named = jnp.arange(1, n + 1)[:, None] + offsets[None, :]
  lengths = jnp.sum(mask, axis=-1)[..., None, None]
  inside = (offsets == 0) | ((named >= 1) & (named <= lengths))
  valid = inside & mask[..., None]
  return jnp.where(valid & (offsets != 0), named, 0).astype(jnp.int32), valid


def tag_marginals(log_heads: Array, log_relations: Array, tags: ParsingTags) -> Array:
  r"""P((d, r) | i), proportional to P(head = i + d | i) P(r | i, i + d), over the tags that exist.

  Args:
    log_heads: [..., n, n+1] log P(head | i).
    log_relations: [..., n, n+1, R] log P(r | i, head).
    tags: whose offsets, relations and mask count.

  Returns:
    [..., n, L] float32, adding up to 1 at each token; all 0 for padding, and where no tag names an arc that
    has any probability.
  """
  if log_heads.shape[:-1] != jnp.shape(tags.logits)[:-1]:
    raise ValueError(
      f"arcs {log_heads.shape} and tags {jnp.shape(tags.logits)} must be of the same tokens [..., n]"
    )
  heads, valid = heads_of_tags(tags)
  relations = jnp.asarray(tags.relations)
  arcs = jnp.take_along_axis(log_heads, heads, axis=-1)
  # One flat gather of (head, relation) for each tag; [..., n, n+1, R] is never copied.
  number = log_relations.shape[-1]
  if not isinstance(relations, jax.core.Tracer) and np.max(relations, initial=0) >= number:
    raise ValueError(
      f"a tag has relation {int(np.max(relations))}, the arcs have {number} relations"
    )
  flat = log_relations.reshape(*log_relations.shape[:-2], -1)
  names = jnp.take_along_axis(flat, heads * number + relations, axis=-1)
  valid &= arcs > EXCLUDED
  joint = jnp.where(valid, arcs + names, NEG_INF)
  possible = jnp.any(valid, axis=-1, keepdims=True)
  return jnp.where(valid & possible, jax.nn.softmax(joint, axis=-1), 0.0)


def refuse_other_tokens(tree: Tree, shape: tuple[int, ...]) -> None:
  """Refuses a tree [..., n] of other sentences or positions than the scores."""
  found = jnp.shape(tree.heads), jnp.shape(tree.relations)
  if found != (shape, shape):
    raise ValueError(
      f"a tree's heads {found[0]} and relations {found[1]} must be of the scores' tokens {shape}"
    )


def tags_of_tree(tree: Tree, tags: ParsingTags) -> tuple[Array, Array]:
  """The tag of every token of a gold tree.

  Returns:
    (indices [..., n] int32, known [..., n] bool): known is false for padding, and where no tag names the
    token's head and relation; the index is 0 there.
  """
  heads, valid = heads_of_tags(tags)
  refuse_other_tokens(tree, valid.shape[:-1])
  named = valid & (heads == jnp.asarray(tree.heads)[..., None])
  named &= jnp.asarray(tags.relations) == jnp.asarray(tree.relations)[..., None]
  return jnp.argmax(named, axis=-1).astype(jnp.int32), jnp.any(named, axis=-1)
