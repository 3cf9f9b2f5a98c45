"""One door for all structures: what scores predict, and how probable they make the gold standard."""

from typing import NamedTuple

import jax.numpy as jnp

from kd_jax.structured import linear_chain, maxent, parsing_as_tagging, spans
from kd_jax.structured.dependency import DependencyScores, ParsingTags, parse
from kd_jax.structured.inputs import as_mask, as_scores
from kd_jax.structured.linear_chain import LinearChain
from kd_jax.structured.maxent import MaxEnt
from kd_jax.structured.spans import SpanScores
from kd_jax.types import Array, ArrayLike, PyTree, Tree

Structure = LinearChain | MaxEnt | SpanScores | DependencyScores | ParsingTags


class Parse(NamedTuple):
  """A predicted tree.

  Attributes:
    heads: [..., n] int32: 0 is the root, j the j-th token.
    relations: [..., n] int32.
  """

  heads: Array
  relations: Array


def decode(scores: Structure) -> Array | Parse:
  """The likeliest structure: tags [..., n] int32, or a `Parse` that is a tree with one root.

  Chains, independent tags and spans give tags; spans give them in the BIOES numbering of
  `kd_jax.structured.spans`.

  Raises:
    ValueError: for scores of no known structure.
  """
  match scores:
    case LinearChain():
      return linear_chain.viterbi(scores)[0]
    case MaxEnt():
      return maxent.viterbi(scores)[0]
    case SpanScores():
      return spans.viterbi(*scores)[0]
    case DependencyScores() | ParsingTags():
      return Parse(*parse(scores))
  raise _unknown(scores)


def log_prob(scores: Structure, labels: PyTree) -> Array:
  """Log-probability of the gold standard, in nats; the sum over its tokens where they are independent.

  Args:
    scores: of a structure, [...].
    labels: [..., n] tags, or a `Tree` for parsers and for parsing as tagging.

  Returns:
    [...] float32. Left out are tokens whose relation is negative, unseen in training, and those whose head
    and relation no tag of `ParsingTags` can name.

  Raises:
    ValueError: for scores of no known structure.
  """
  match scores:
    case LinearChain():
      # Cast once: the gradients of the score and of log Z cancel, and must not be rounded before.
      unary = as_scores("unary", scores.unary, "n, L")
      transition = as_scores("transition", scores.transition, "L, L")
      return linear_chain.log_prob(LinearChain(unary, transition, scores.mask), labels)
    case MaxEnt():
      return maxent.log_prob(scores, labels)
    case SpanScores():
      return spans.log_prob(scores.scores, labels, scores.mask)
    case DependencyScores():
      return _tree_log_prob(scores, labels)
    case ParsingTags():
      tags, known = parsing_as_tagging.tags_of_tree(labels, scores)
      logs = maxent.log_probs(MaxEnt(scores.logits, scores.mask))
      return jnp.sum(jnp.where(known, _pick(logs, tags), 0.0), axis=-1)
  raise _unknown(scores)


def as_chain(scores: Structure) -> LinearChain:
  """A chain, or independent tags as a chain without transitions.

  Raises:
    ValueError: for spans and parsers.
  """
  match scores:
    case LinearChain():
      return scores
    case MaxEnt():
      return maxent.as_chain(scores)
  raise ValueError(f"{type(scores).__name__} is no chain of tags")


def _tree_log_prob(scores: DependencyScores, tree: Tree) -> Array:
  heads = parsing_as_tagging.log_head_marginals(scores)
  relations = parsing_as_tagging.log_relation_probs(scores)
  mask = as_mask(scores.mask, heads.shape[:-1])
  gold_heads, gold_relations = parsing_as_tagging.as_tree(tree, mask)
  known = mask & (gold_relations >= 0)  # a relation unseen in training has no score
  at_head = jnp.take_along_axis(relations, gold_heads[..., None, None], axis=-2)[..., 0, :]
  values = _pick(heads, gold_heads) + _pick(at_head, jnp.where(known, gold_relations, 0))
  return jnp.sum(jnp.where(known, values, 0.0), axis=-1)


def _pick(values: Array, indices: ArrayLike) -> Array:
  return jnp.take_along_axis(values, indices[..., None], axis=-1)[..., 0]


def _unknown(scores) -> ValueError:
  known = [kind.__name__ for kind in Structure.__args__]
  return ValueError(f"{type(scores).__name__} is no structure: known are {', '.join(known)}")
