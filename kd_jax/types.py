"""Shared types, and the letters used in array shapes.

Shape letters, the same in every docstring of the library:

    B  batch            n  sequence positions     C  classes
    L  labels or layers D  width                  S, T  student, teacher layers
    N  examples         V  views of an example    K  seeds trained together

Any number of leading axes is `...` in a docstring and `*batch` in an annotation.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
"""What a function takes for an array: numbers and NumPy's arrays too."""
AnyArray = jax.Array | np.ndarray
"""An array on a device or on the host, as fields of batches and outputs hold it."""
PyTree = Any
NEG_INF = -1e30
"""The score of what is excluded: finite, so that gradients stay finite."""
EXCLUDED = NEG_INF / 2
"""Scores below this one count as NEG_INF, whatever was added to it."""
AUXILIARY = "auxiliary"
"""Where in "params" the parameters of the objective's heads are stored, by term: no part of the network."""

Schedule = Callable[[ArrayLike], ArrayLike]
"""A traceable function from a step (or an epoch) to a value, as in optax."""


class TopK(NamedTuple):
  """The k likeliest classes of a distribution, and what they leave over.

  Attributes:
    indices: [..., k] int32 class numbers, the likeliest first.
    log_probs: [..., k] their log-probabilities.
    tail_log_prob: [...] log of the probability of all other classes together.
  """

  indices: AnyArray
  log_probs: AnyArray
  tail_log_prob: AnyArray


class TokenStates(NamedTuple):
  """What the layers of a text encoder make of each token, for losses that compare tokens.

  Attributes:
    states: [B, n, D] of the embedding and then of each layer.
    attentions: [B, H, n, n] of each layer with attention, where they were asked for: probabilities, row =
      query, 0 for padded keys.
    queries, keys, values: [B, H, n, D / H] of each layer with attention.
    mask: [B, n] bool, True for tokens.
  """

  states: tuple[AnyArray, ...]
  attentions: tuple[AnyArray, ...]
  queries: tuple[AnyArray, ...]
  keys: tuple[AnyArray, ...]
  values: tuple[AnyArray, ...]
  mask: AnyArray


class Outputs(NamedTuple):
  """What a network returns; fields that a network does not have stay empty.

  Attributes:
    logits: [B, C] unnormalised class scores; [B, 1] the predicted number in regression.
    layers: intermediate states in order of depth: feature maps [B, H, W, D] or vectors [B, D]; widths may
      differ from layer to layer. Of a text encoder, [B, D] of each layer: the state of [CLS], or the mean
      over tokens in networks without one.
    top_k: the head of a large output distribution, in place of logits.
    scores: of a structure, in place of logits: `LinearChain`, `MaxEnt`, `SpanScores`, ... of
      `kd_jax.structured`.
    layer_logits: [B, T - 1, C] of pseudo classifiers on all of T layers but the last.
    tokens: `TokenStates`, on request.
  """

  logits: AnyArray | None = None
  layers: tuple[AnyArray, ...] = ()
  top_k: TopK | None = None
  scores: PyTree = None
  layer_logits: AnyArray | None = None
  tokens: TokenStates | None = None

  def only(self, fields: Collection[str]) -> "Outputs":
    """The same outputs without all other fields."""
    return Outputs(**{name: getattr(self, name) for name in fields})


class Batch(NamedTuple):
  """One batch of examples.

  Attributes:
    inputs: [B, ...] what the network reads: images, or `Tokens`.
    labels: [B] int32 class numbers in [0, C), [B, n] tags, or a `Tree` of [B, n] heads and relations.
    mask: [B] 1 for an example, 0 for padding; None where nothing is padded.
    labelled: [B] bool, False for examples without a label, whose labels are 0; None if all have one.
  """

  inputs: PyTree
  labels: PyTree
  mask: AnyArray | None = None
  labelled: AnyArray | None = None


class Tokens(NamedTuple):
  """Sentences, as networks read them; shorter ones are padded at their end.

  Attributes:
    words: [B, n] int32 word numbers; 0 is padding, 1 an unknown word.
    characters: [B, n, c] uint8 character numbers; 0 is padding, 1 an unknown character.
    mask: [B, n] bool, True for tokens.
  """

  words: AnyArray
  characters: AnyArray
  mask: AnyArray


class Subwords(NamedTuple):
  """Texts, or pairs of texts, as text encoders read them; shorter ones are padded at their end.

  Attributes:
    ids: [B, n] int32 numbers of subwords in the tokenizer's vocabulary.
    types: [B, n] int32: 1 in the second text of a pair, else 0.
    mask: [B, n] bool, True for tokens, special ones included.
  """

  ids: AnyArray
  types: AnyArray
  mask: AnyArray


class LabelledTree(Protocol):
  """Anything with heads and relations, such as a `Tree` or a `Parse` of `kd_jax.structured`."""

  @property
  def heads(self) -> ArrayLike:
    """[..., n] integers: 0 is the root, j the j-th token."""

  @property
  def relations(self) -> ArrayLike:
    """[..., n] integers."""


class Tree(NamedTuple):
  """Labelled dependency trees.

  Attributes:
    heads: [B, n] int32: 0 is the root, j the j-th token; 0 for padding.
    relations: [B, n] int32.
    punctuation: [B, n] bool: tokens that some evaluations leave out.
  """

  heads: AnyArray
  relations: AnyArray
  punctuation: AnyArray
