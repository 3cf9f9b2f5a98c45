"""Shared types, and the letters used in array shapes.

Shape letters, the same in every docstring of the library:

    B  batch            n  sequence positions     C  classes
    L  labels or layers D  width                  S, T  student, teacher layers
    N  examples         V  views of an example    K  seeds trained together
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
PyTree = Any
Schedule = Callable[[ArrayLike], ArrayLike]
"""A traceable function from a step (or an epoch) to a value, as in optax."""


class TopK(NamedTuple):
  """The k likeliest classes of a distribution, and what they leave over.

  Attributes:
    indices: [..., k] int32 class numbers, the likeliest first.
    log_probs: [..., k] their log-probabilities.
    tail_log_prob: [...] log of the probability of all other classes together.
  """

  indices: ArrayLike
  log_probs: ArrayLike
  tail_log_prob: ArrayLike


class Outputs(NamedTuple):
  """What a network returns; fields that a network does not have stay empty.

  Attributes:
    logits: [B, C] unnormalised class scores.
    layers: intermediate states in order of depth: feature maps [B, H, W, D] or
      vectors [B, D]; widths may differ from layer to layer.
    top_k: the head of a large output distribution, in place of logits.
  """

  logits: ArrayLike | None = None
  layers: tuple[ArrayLike, ...] = ()
  top_k: TopK | None = None


class Batch(NamedTuple):
  """One batch of examples.

  Attributes:
    inputs: [B, ...] what the network reads.
    labels: [B] int32 class numbers in [0, C).
    mask: [B] 1 for an example, 0 for padding; None where nothing is padded.
  """

  inputs: ArrayLike
  labels: ArrayLike
  mask: ArrayLike | None = None
