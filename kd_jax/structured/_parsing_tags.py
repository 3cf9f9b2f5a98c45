"""Dependency parsing as tagging: from distributions over arcs and relations to tags (offset, relation).

The tag of token i with offset d and relation r says that its head is token i + d and its relation r; offset
0, which no token could have, says that it is the root. Masked tokens are not counted. Every sentence has
its own arcs, the tags are shared.

References:
  Strzyz, Vilares, Gómez-Rodríguez, Viable Dependency Parsing as Sequence Labeling, NAACL 2019,
  arXiv 1902.10505.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from kd_jax._checks import as_mask, as_scores, as_tree, refuse_nan
from kd_jax.structured import _generic
from kd_jax.structured._arcs import as_arcs
from kd_jax.structured._declaration import declare
from kd_jax.structured._dependency_trees import DependencyTrees
from kd_jax.structured._generic import Parse
from kd_jax.structured._holes import close_up, closed_mask, heads_at, put_back, put_back_heads
from kd_jax.structured._maxent import MaxEnt, log_probs
from kd_jax.types import EXCLUDED, NEG_INF, Array, ArrayLike, LabelledTree


@declare(sentence={"logits": "n L"}, shared={"offsets": "L", "relations": "L"}, scores="logits")
class ParsingTags(NamedTuple):
  """Dependency parsing as tagging: label l says that token i has head i + offsets[l].

  Attributes:
    logits: [..., n, L] scores of the labels.
    offsets: [L] int32, from a token to its head; 0 says that the head is the root.
    relations: [L] int32.
    mask: [..., n], nonzero for tokens; None if all are.
  """

  logits: Float[ArrayLike, "*batch n L"]
  offsets: Int[ArrayLike, " L"]
  relations: Int[ArrayLike, " L"]
  mask: Bool[ArrayLike, "*batch n"] | None = None


def _tokens(tags: ParsingTags) -> MaxEnt:
  """The labels as independent tags."""
  return MaxEnt(tags.logits, tags.mask)


# Each of these is that of independent tags.
for _function in (
  _generic.log_partition,
  _generic.marginals,
  _generic.entropy,
  _generic.tag_marginals,
  _generic.log_tag_marginals,
  _generic.token_scores,
):
  _function.register(ParsingTags)(lambda tags, function=_function: function(_tokens(tags)))
for _function in (_generic.cross_entropy_of, _generic.kl_divergence_of):
  _function.register(ParsingTags)(lambda p, q, function=_function: function(_tokens(p), _tokens(q)))


def heads_of_tags(tags: ParsingTags) -> tuple[Array, Array]:
  """The head that every tag gives every token.

  Returns:
    (heads [..., n, L] int32 in [0, n], valid [..., n, L] bool): a tag is valid if its head is the root or
    lies in the sentence. Heads outside are 0.
  """
  logits = jnp.asarray(tags.logits)
  mask = as_mask(tags.mask, logits.shape[:-1])
  offsets = jnp.asarray(tags.offsets)
  heads, inside = heads_at(mask, tags.mask, offsets)
  valid = (inside | (offsets == 0)) & mask[..., None]
  return jnp.where(valid & (offsets != 0), heads, 0).astype(jnp.int32), valid


def tags_of_arcs(log_heads: Array, log_relations: Array, tags: ParsingTags) -> Array:
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


def tags_of_tree(tree: LabelledTree, tags: ParsingTags) -> tuple[Array, Array]:
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


@_generic.log_prob.register(ParsingTags)
def log_prob(tags: ParsingTags, tree: LabelledTree) -> Array:
  index, known = tags_of_tree(tree, tags)
  logs = jnp.take_along_axis(log_probs(_tokens(tags)), index[..., None], axis=-1)[..., 0]
  return jnp.sum(jnp.where(known, logs, 0.0), axis=-1)


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


@_generic.argmax.register(ParsingTags)
def argmax(tags: ParsingTags) -> Parse:
  log_probs, offsets, relations, mask = _log_probs(tags)
  log_probs, mask = close_up(log_probs, tags.mask), closed_mask(mask)
  heads = _generic.argmax(DependencyTrees(_arcs_of_tags(log_probs, offsets, mask), mask))
  to_head = jnp.where(heads == 0, 0, heads - jnp.arange(1, heads.shape[-1] + 1, dtype=jnp.int32))
  names_it = to_head[..., None] == offsets
  none_does = ~jnp.any(names_it, axis=-1, keepdims=True)
  label = jnp.argmax(jnp.where(names_it | none_does, log_probs, 4 * NEG_INF), axis=-1).astype(
    jnp.int32
  )
  found = jnp.where(mask, relations[label], 0).astype(jnp.int32)
  return Parse(put_back_heads(heads, tags.mask), put_back(found, tags.mask))


def _arcs_of_tags(log_probs: Array, offsets: Array, mask: Array) -> Array:
  r"""Arc scores of a tagger: the best log-probability of all labels that name the head.

  .. math:: arc(i, h) = \max_{l: \, i + offset(l) = h} \log P(l | i)

  Returns:
    [..., n, n+1] float32; NEG_INF if no label names the head, and at padding.
  """
  num_tokens = log_probs.shape[-2]
  # By offset first, -n..n; offsets beyond that fall off the end.
  places = jnp.where(jnp.abs(offsets) <= num_tokens, offsets + num_tokens, 2 * num_tokens + 1)
  by_offset = jnp.full((2 * num_tokens + 1, *log_probs.shape[:-1]), NEG_INF, jnp.float32)
  by_offset = by_offset.at[places].max(jnp.moveaxis(log_probs, -1, 0), mode="drop")
  by_offset = jnp.moveaxis(by_offset, 0, -1)
  dependent, head = (
    jnp.arange(1, num_tokens + 1, dtype=jnp.int32)[:, None],
    jnp.arange(num_tokens + 1, dtype=jnp.int32)[None, :],
  )
  places = jnp.where(head == 0, 0, head - dependent) + num_tokens
  places = jnp.broadcast_to(places, (*mask.shape, num_tokens + 1))
  arc = jnp.take_along_axis(by_offset, places, axis=-1)
  _, valid, _ = as_arcs(jnp.zeros_like(arc), mask)
  return jnp.where(valid, arc, NEG_INF)
