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

from kd_jax.structured.arcs import as_arcs
from kd_jax.structured.dependency import DependencyScores, ParsingTags
from kd_jax.structured.inputs import as_mask, as_scores, refuse_nan
from kd_jax.types import EXCLUDED, NEG_INF, Array, Tree


def log_head_marginals(scores: DependencyScores) -> Array:
  """log P(head | dependent): of the mean field where there is one, else the softmax of the arc scores.

  Returns:
    [..., n, n+1] float32; NEG_INF where a token cannot be a head, and for padding.

  Raises:
    ValueError: integer scores, shapes that do not fit, or NaN.
  """
  given = scores.arc if scores.refined is None else scores.refined
  arc, valid, _ = as_arcs(given, scores.mask)
  return jnp.where(valid, jax.nn.log_softmax(arc, axis=-1), NEG_INF)


def log_relation_probs(scores: DependencyScores) -> Array:
  """log P(relation | dependent, head) [..., n, n+1, R] float32; 0 where there can be no arc.

  Raises:
    ValueError: integer scores, shapes that do not fit, or NaN.
  """
  relation = as_scores("relation", scores.relation, "n, n+1, R")
  _, valid, _ = as_arcs(jnp.zeros(relation.shape[:-1]), scores.mask)
  refuse_nan("relation", relation, valid[..., None])
  blanked = jnp.where(valid[..., None], relation, 0.0)
  return jnp.where(valid[..., None], jax.nn.log_softmax(blanked, axis=-1), 0.0)


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
  if not isinstance(relations, jax.core.Tracer):
    outside = np.asarray(relations)[(np.asarray(relations) < 0) | (np.asarray(relations) >= number)]
    if outside.size:
      raise ValueError(f"a tag has relation {outside[0]}, the arcs have {number} relations")
  flat = log_relations.reshape(*log_relations.shape[:-2], -1)
  names = jnp.take_along_axis(flat, heads * number + relations, axis=-1)
  valid &= ~(arcs <= EXCLUDED)  # NaN is no reason to leave a tag out
  joint = jnp.where(valid, arcs + names, NEG_INF)
  possible = jnp.any(valid, axis=-1, keepdims=True)
  return jnp.where(valid & possible, jax.nn.softmax(joint, axis=-1), 0.0)


def as_tree(tree: Tree, mask: Array) -> tuple[Array, Array]:
  """A tree's (heads, relations) [..., n] as int32, 0 for padding.

  Raises:
    ValueError: no integers, another shape than the scores' tokens, or (unless traced) a head outside the
      sentence.
  """
  heads, relations = jnp.asarray(tree.heads), jnp.asarray(tree.relations)
  for name, array in (("heads", heads), ("relations", relations)):
    if array.shape != mask.shape or not jnp.issubdtype(array.dtype, jnp.integer):
      raise ValueError(
        f"a tree's {name} must be integers of the scores' tokens [..., n] = {mask.shape}, got "
        f"{array.dtype} {array.shape}"
      )
  if not isinstance(heads, jax.core.Tracer) and not isinstance(mask, jax.core.Tracer):
    given, valid = np.asarray(heads), np.asarray(mask)
    outside = valid & ((given < 0) | (given > valid.sum(axis=-1, keepdims=True)))
    if outside.any():
      raise ValueError(f"heads must be 0 or a token of the sentence, got {given[outside][0]}")
  return tuple(jnp.where(mask, array, 0).astype(jnp.int32) for array in (heads, relations))


def tags_of_tree(tree: Tree, tags: ParsingTags) -> tuple[Array, Array]:
  """The tag of every token of a gold tree.

  Returns:
    (indices [..., n] int32, known [..., n] bool): known is false for padding, and where no tag names the
    token's head and relation; the index is 0 there.

  Raises:
    ValueError: heads and relations that are no tree of these tokens.
  """
  heads, valid = heads_of_tags(tags)
  gold_heads, gold_relations = as_tree(tree, as_mask(tags.mask, valid.shape[:-1]))
  named = valid & (heads == gold_heads[..., None])
  named &= jnp.asarray(tags.relations) == gold_relations[..., None]
  return jnp.argmax(named, axis=-1).astype(jnp.int32), jnp.any(named, axis=-1)
