"""Encoders of sentences: vectors of tokens in their context, from vectors of tokens alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.types import Array, ArrayLike, Tokens

TRANSFORMER_EXPANSION = 4


def sinusoidal_positions(length: int, width: int) -> np.ndarray:
  """Sines and cosines of the positions 0..length-1, for any length: [length, width] float32.

  References:
    Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762, section 3.5.

  >>> sinusoidal_positions(3, 4)[0].tolist()
  [0.0, 0.0, 1.0, 1.0]
  """
  rates = 10_000.0 ** -(np.arange((width + 1) // 2) / max(width / 2, 1))
  angles = np.arange(length)[:, None] * rates
  table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  return table[:, :width].astype(np.float32)


class Transformer(nn.Module):
  """A transformer encoder with layer normalisation before each block: [B, n, width].

  Attributes:
    width: of the states; divisible by heads.
    layers: how many, one above the other.
    heads: of attention.
    dropout: probability that an entry is dropped: of attention, in blocks and at the end.
    dtype: of the computation; parameters are float32 always.

  References:
    Xiong et al., On Layer Normalization in the Transformer Architecture, 2020, arXiv 2002.04745.

  >>> import functools
  >>> x, mask = jnp.ones((2, 5, 3)), jnp.ones((2, 5), bool)
  >>> encode = functools.partial(Transformer(width=8, heads=2).init_with_output, jax.random.key(0))
  >>> jax.eval_shape(encode, x, mask)[0].shape
  (2, 5, 8)
  """

  width: int = 128
  layers: int = 2
  heads: int = 4
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  def __post_init__(self):
    if self.width % self.heads:
      raise ValueError(f"width {self.width} must be divisible by heads {self.heads}")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: ArrayLike, mask: ArrayLike, train: bool = False) -> Array:
    """Encodes vectors [B, n, D]; mask [B, n] is 0 for padding."""

    def drop(values: Array) -> Array:
      return nn.Dropout(self.dropout, deterministic=not train)(values)

    def normalise(values: Array, name: str) -> Array:
      return nn.LayerNorm(dtype=self.dtype, name=name)(values)

    mask = jnp.asarray(mask).astype(bool)
    x = jnp.where(mask[..., None], x, 0)
    x = nn.Dense(self.width, dtype=self.dtype, name="projection")(x)
    # Of the positions' scale, or they would drown the words.
    x = normalise(x, "projection_norm")
    x = x + jnp.asarray(sinusoidal_positions(x.shape[-2], self.width), self.dtype)
    for layer in range(1, self.layers + 1):
      attention = nn.MultiHeadDotProductAttention(
        self.heads,
        dropout_rate=self.dropout,
        deterministic=not train,
        dtype=self.dtype,
        name=f"attention{layer}",
      )
      normal = normalise(x, f"attention_norm{layer}")
      x = x + drop(attention(normal, mask=mask[:, None, None, :]))
      hidden = nn.Dense(
        TRANSFORMER_EXPANSION * self.width, dtype=self.dtype, name=f"expansion{layer}"
      )(normalise(x, f"feed_forward_norm{layer}"))
      x = x + drop(
        nn.Dense(self.width, dtype=self.dtype, name=f"contraction{layer}")(nn.gelu(hidden))
      )
    return jnp.where(mask[..., None], drop(normalise(x, "norm")), 0)


class SentenceEncoder(nn.Module):
  """An embedding and an encoder: tokens in, [B, n, D] states out, zeros for padding.

  Attributes:
    embedding: `TokenEmbedding`, or another module called (tokens, train).
    encoder: `BiLSTM`, `Transformer`, or another module called (vectors, mask, train).
  """

  embedding: nn.Module
  encoder: nn.Module

  def __call__(self, tokens: Tokens, train: bool = False) -> Array:
    """Encodes tokens; in training with random numbers named "dropout"."""
    return self.encoder(self.embedding(tokens, train), tokens.mask, train)
