"""Text encoders with a head for classes, or for a number; and the heads of their inner layers."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.bert import INITIAL_WEIGHTS
from kd_jax.models.subwords import token_mean
from kd_jax.types import Array, ArrayLike, Outputs, Subwords


class PseudoClassifiers(nn.Module):
  """A linear classifier on each inner layer: z_i = W_i h_i + b_i.

  Attributes:
    num_outputs: C.
    output_mean: what every b_i starts from.

  References:
    Wu et al., Universal-KD, EMNLP 2021.

  >>> layers = [jnp.ones((2, 8)), jnp.ones((2, 4))]
  >>> PseudoClassifiers(3).init_with_output(jax.random.key(0), layers)[0].shape
  (2, 2, 3)
  """

  num_outputs: int
  output_mean: float = 0.0

  @nn.compact
  def __call__(self, layers: Sequence[ArrayLike]) -> Array:
    """Maps the states [B, D] of all layers but the last to logits [B, T - 1, C], float32."""
    if not layers:
      raise ValueError("pseudo classifiers need layers below the last, got none: set layers=2")
    start = nn.initializers.constant(self.output_mean)
    logits = [
      nn.Dense(self.num_outputs, bias_init=start, name=f"layer{number}")(
        jnp.asarray(states, jnp.float32)
      )
      for number, states in enumerate(layers, start=1)
    ]
    return jnp.stack(logits, axis=1)


class TextClassifier(nn.Module):
  """A text encoder, and logits = W_2 tanh(W_1 h): [B, C] float32, one number in regression.

  h is the last layer's state of the first token, or its mean over tokens.

  Attributes:
    encoder: a module called (subwords, train) that returns `TokenStates`.
    num_outputs: C; 1 in regression.
    summary: what stands for a text in `Outputs.layers`: "first" (of BERT, [CLS]; of RoBERTa, <s>), or
      "mean" over tokens.
    dropout: probability that an entry of tanh(W_1 h) is dropped.
    pseudo_classifiers: whether inner layers have classifiers (`Outputs.layer_logits`).
    collect_tokens: whether to return `Outputs.tokens`.
    output_mean: what the biases of all classifiers start from: the mean label in regression.
    dtype: of the computation of the first product; parameters and logits are float32 always.

  References:
    Released RoBERTa classifiers also drop entries of h in training; this one, like BERT, does not.
  """

  encoder: nn.Module
  num_outputs: int
  summary: Literal["first", "mean"] = "first"
  dropout: float = 0.0
  pseudo_classifiers: bool = False
  collect_tokens: bool = False
  output_mean: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, subwords: Subwords, train: bool = False) -> Outputs:
    """Reads subwords; in training with random numbers named "dropout"."""
    tokens = self.encoder(subwords, train)
    layers = tuple(self._summary(states, tokens.mask) for states in tokens.states[1:])
    pooled = nn.tanh(
      nn.Dense(layers[-1].shape[-1], dtype=self.dtype, kernel_init=INITIAL_WEIGHTS, name="pooler")(
        layers[-1]
      )
    )
    pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled).astype(jnp.float32)
    classify = nn.Dense(
      self.num_outputs,
      kernel_init=INITIAL_WEIGHTS,
      bias_init=nn.initializers.constant(self.output_mean),
      name="classifier",
    )
    layer_logits = None
    if self.pseudo_classifiers:
      pseudo = PseudoClassifiers(self.num_outputs, self.output_mean, name="pseudo")
      layer_logits = pseudo(layers[:-1])
    return Outputs(
      logits=classify(pooled),
      layers=layers,
      layer_logits=layer_logits,
      tokens=tokens if self.collect_tokens else None,
    )

  def _summary(self, states: Array, mask: Array) -> Array:
    """[B, D] float32: what stands for a text of a layer's states [B, n, D]."""
    return token_mean(states, mask) if self.summary == "mean" else states[:, 0].astype(jnp.float32)
