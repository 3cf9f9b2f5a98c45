"""Attachment scores of dependency trees."""

import jax.numpy as jnp

from kd_jax.losses.reductions import masked_sum_and_count
from kd_jax.metrics.pairs import Pair
from kd_jax.types import ArrayLike, Tree


def attachment_scores(
  heads: ArrayLike, relations: ArrayLike, gold: Tree, mask: ArrayLike
) -> dict[str, Pair]:
  """Shares of tokens with the right head (UAS), and with the right head and relation (LAS).

  All tokens count, punctuation too, as in the CoNLL 2018 shared task on gold tokens; the second two leave
  out the tokens that the gold tree flags as punctuation, as is usual for the Penn Treebank. Relations
  are compared as they are numbered: the shared task drops subtypes ("nmod:poss" is "nmod"), so a figure to
  be compared with it needs relations numbered without them.

  Args:
    heads: [..., n] integers, predicted: 0 is the root, j the j-th token.
    relations: [..., n] integers, predicted.
    gold: heads, relations and punctuation, [..., n] each; a relation of -1 is unknown and never right.
    mask: [..., n]; 0 for padding.

  Returns:
    {"uas", "las", "uas_no_punctuation", "las_no_punctuation"}: (number right, number of tokens), float32.

  Raises:
    ValueError: shapes that differ, or heads or relations that are not integers.

  References:
    Zeman et al., CoNLL 2018 Shared Task: Multilingual Parsing from Raw Text to Universal Dependencies, 2018.

  >>> gold = Tree(jnp.array([[2, 0, 2]]), jnp.array([[0, 1, 2]]), jnp.array([[False, False, True]]))
  >>> heads, relations = jnp.array([[2, 0, 1]]), jnp.array([[3, 1, 2]])
  >>> scores = attachment_scores(heads, relations, gold, jnp.ones((1, 3)))
  >>> {name: (float(right), float(count)) for name, (right, count) in scores.items()}
  {'uas': (2.0, 3.0), 'las': (1.0, 3.0), 'uas_no_punctuation': (2.0, 2.0), 'las_no_punctuation': (1.0, 2.0)}
  """
  given = {"heads": heads, "relations": relations}
  given |= {"gold.heads": gold.heads, "gold.relations": gold.relations}
  shapes = {name: jnp.shape(x) for name, x in given.items()}
  shapes |= {"gold.punctuation": jnp.shape(gold.punctuation), "mask": jnp.shape(mask)}
  if len(set(shapes.values())) > 1:
    raise ValueError(f"must be of one shape [..., n], got {shapes}")
  for name, numbers in given.items():
    if not jnp.issubdtype(jnp.result_type(numbers), jnp.integer):
      raise ValueError(
        f"{name} must be integers, got {jnp.result_type(numbers)}: decode scores first"
      )
  attached = jnp.asarray(heads) == jnp.asarray(gold.heads)
  known = jnp.asarray(gold.relations) >= 0
  labelled = attached & known & (jnp.asarray(relations) == jnp.asarray(gold.relations))
  mask = jnp.asarray(mask).astype(bool)
  words = mask & ~jnp.asarray(gold.punctuation).astype(bool)
  return {
    "uas": masked_sum_and_count(attached, mask),
    "las": masked_sum_and_count(labelled, mask),
    "uas_no_punctuation": masked_sum_and_count(attached, words),
    "las_no_punctuation": masked_sum_and_count(labelled, words),
  }
