"""F1 of the entities that BIOES tags mark, counted as seqeval and conlleval count them."""

import jax
import jax.numpy as jnp

from kd_jax.losses.reductions import masked_sum_and_count
from kd_jax.metrics.pairs import Pair
from kd_jax.types import Array, ArrayLike

# (tag - 1) % 4 of a tag 1 + 4r ... 4 + 4r of entity type r.
SINGLE, BEGIN, END = 0, 1, 3


def _check(predicted_tags: ArrayLike, gold_tags: ArrayLike, mask: ArrayLike) -> None:
  shapes = [jnp.shape(x) for x in (predicted_tags, gold_tags, mask)]
  if len(set(shapes)) > 1 or not shapes[0]:
    raise ValueError(
      f"predicted_tags {shapes[0]}, gold_tags {shapes[1]} and mask {shapes[2]} must be of one shape [..., n]"
    )
  for name, tags in (("predicted_tags", predicted_tags), ("gold_tags", gold_tags)):
    if not jnp.issubdtype(jnp.result_type(tags), jnp.integer):
      raise ValueError(f"{name} must be integers, got {jnp.result_type(tags)}: decode scores first")


def _entities(tags: ArrayLike, mask: ArrayLike) -> tuple[Array, Array, Array]:
  """(last [..., n] where an entity has its last token, the position of its first one, its type)."""
  # What is masked, and the neighbours of a sentence's ends, are O.
  tags = jnp.where(jnp.asarray(mask).astype(bool), tags, 0)
  edge = jnp.zeros_like(tags[..., :1])
  padded = jnp.concatenate([edge, tags, edge], axis=-1)
  kind, entity_type, inside = (padded - 1) % 4, (padded - 1) // 4, padded != 0
  # Between each token and the next; inside on both sides, one entity goes on unless something says no.
  parted = (
    ~(inside[..., :-1] & inside[..., 1:])
    | (kind[..., :-1] == END)
    | (kind[..., :-1] == SINGLE)
    | (kind[..., 1:] == BEGIN)
    | (kind[..., 1:] == SINGLE)
    | (entity_type[..., :-1] != entity_type[..., 1:])
  )
  inside, entity_type = inside[..., 1:-1], entity_type[..., 1:-1]
  positions = jnp.arange(tags.shape[-1])
  opened = jnp.where(inside & parted[..., :-1], positions, -1)
  first = jax.lax.cummax(opened, axis=opened.ndim - 1)
  return inside & parted[..., 1:], first, entity_type


def _matches(
  predicted_tags: ArrayLike, gold_tags: ArrayLike, mask: ArrayLike
) -> tuple[Array, Array, Array, Array, Array]:
  """At each entity's last token: (correct, predicted, gold) flags, and the types of the last two."""
  _check(predicted_tags, gold_tags, mask)
  predicted, predicted_first, predicted_type = _entities(predicted_tags, mask)
  gold, gold_first, gold_type = _entities(gold_tags, mask)
  correct = predicted & gold & (predicted_first == gold_first) & (predicted_type == gold_type)
  # Type -1 is unknown: nobody can get it right.
  return correct & (gold_type >= 0), predicted, gold, predicted_type, gold_type


def _pairs(correct: Array, predicted: Array, gold: Array) -> dict[str, Pair]:
  return {
    "precision": (correct, predicted),
    "recall": (correct, gold),
    "f1": (2 * correct, predicted + gold),
  }


def span_f1(predicted_tags: ArrayLike, gold_tags: ArrayLike, mask: ArrayLike) -> dict[str, Pair]:
  r"""Precision, recall and F1 of entities; one is correct if first token, last token and type are.

  .. math:: F_1 = \frac{2 \cdot correct}{predicted + gold}

  Tags are 0 = O and S, B, I, E = 1 + 4r, ..., 4 + 4r for entity type r. They need not be well-formed: as in
  seqeval (its default mode) and conlleval, neighbours that are not O make up one entity unless the first is
  E or S, the second is B or S, or their types differ; so a lone I or E is an entity too.

  A gold tag of -1 stands for an entity type that the tags' numbering lacks: neighbours of this kind make up
  one entity, which counts in recall and F1 and cannot be found.

  Args:
    predicted_tags: [..., n] integers, at least 0.
    gold_tags: [..., n] integers.
    mask: [..., n]; 0 for padding.

  Returns:
    {"precision": (correct, predicted), "recall": (correct, gold), "f1": (2 correct, predicted + gold)},
    float32 scalars; sums over sentences and batches give micro-averages, and nothing over nothing is 0.

  Raises:
    ValueError: shapes that differ, or tags that are not integers.

  References:
    seqeval 1.2.2; Tjong Kim Sang and De Meulder, CoNLL-2003 shared task, 2003, arXiv cs/0306050.

  >>> predicted, gold = jnp.array([[2, 4, 0, 1]]), jnp.array([[2, 4, 1, 0]])
  >>> correct, count = span_f1(predicted, gold, jnp.ones((1, 4)))["f1"]
  >>> float(correct), float(count)
  (2.0, 4.0)
  """
  flags = _matches(predicted_tags, gold_tags, mask)[:3]
  return _pairs(*(jnp.sum(flag, dtype=jnp.float32) for flag in flags))


def span_f1_by_type(
  predicted_tags: ArrayLike, gold_tags: ArrayLike, mask: ArrayLike, *, num_types: int
) -> dict[str, Pair]:
  """The pairs of `span_f1` for each of the R entity types: [R] sums and [R] counts.

  Args:
    predicted_tags: [..., n] integers, at least 0.
    gold_tags: [..., n] integers.
    mask: [..., n]; 0 for padding.
    num_types: R.

  Returns:
    As `span_f1`, of [R] arrays. Gold entities of type -1 are in none.

  >>> tags = jnp.array([[1, 0, 5, 5]])
  >>> span_f1_by_type(tags, tags, jnp.ones((1, 4)), num_types=2)["recall"][0].tolist()
  [1.0, 2.0]
  """
  correct, predicted, gold, predicted_type, gold_type = _matches(predicted_tags, gold_tags, mask)

  def count(flags: Array, types: Array) -> Array:
    chosen = flags[..., None] & (types[..., None] == jnp.arange(num_types))
    return jnp.sum(chosen.reshape(-1, num_types), axis=0, dtype=jnp.float32)

  return _pairs(count(correct, gold_type), count(predicted, predicted_type), count(gold, gold_type))


def token_accuracy(predicted_tags: ArrayLike, gold_tags: ArrayLike, mask: ArrayLike) -> Pair:
  """Share of tokens with the right tag: (number right, number of tokens).

  Args:
    predicted_tags: [..., n] integers.
    gold_tags: [..., n] integers; -1, an unknown tag, is never right.
    mask: [..., n]; 0 for padding.

  >>> right, count = token_accuracy(jnp.array([1, 0, 2]), jnp.array([1, 1, 9]), jnp.array([1, 1, 0]))
  >>> float(right), float(count)
  (1.0, 2.0)
  """
  _check(predicted_tags, gold_tags, mask)
  gold = jnp.asarray(gold_tags)
  return masked_sum_and_count((jnp.asarray(predicted_tags) == gold) & (gold >= 0), mask)
