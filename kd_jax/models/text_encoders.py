"""Text encoders without attention: students of another architecture than their teacher's."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.lstm import BiLSTM
from kd_jax.models.subwords import check_subwords
from kd_jax.models.word_embedding import WordEmbedding
from kd_jax.types import AnyArray, Array, Subwords, TokenStates


class SubwordEmbedding(nn.Module):
  """Word vectors, normalised, with zeros for padding: [B, n, width].

  Attributes:
    vocab_size: subwords of the tokenizer.
    width: of the vectors.
    dropout: probability that an entry is dropped.
    dtype: of the computation; parameters are float32 always.
    kept_subwords, freeze_words: as `WordEmbedding.kept` and `frozen`.
  """

  vocab_size: int
  width: int
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32
  kept_subwords: int | None = None
  freeze_words: bool = False

  @nn.compact
  def __call__(self, subwords: Subwords, train: bool = False) -> Array:
    """Embeds checked subwords; types are not read."""
    embed = WordEmbedding(
      self.vocab_size,
      self.width,
      self.kept_subwords,
      self.freeze_words,
      self.dtype,
      name="word_embedding",
    )
    # Word vectors copied from a BERT are small: its own embedding is normalised too.
    x = nn.LayerNorm(dtype=self.dtype, name="embedding_norm")(embed(subwords.ids))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return jnp.where(subwords.mask[..., None], x, 0)


def _embedding(encoder: "BiLSTMText | GatedCNNText") -> SubwordEmbedding:
  """The word vectors of an encoder; made within its `__call__`."""
  return SubwordEmbedding(
    encoder.vocab_size,
    encoder.width if encoder.word_width is None else encoder.word_width,
    encoder.dropout,
    encoder.dtype,
    encoder.kept_subwords,
    encoder.freeze_words,
    name="embedding",
  )


class BiLSTMText(nn.Module):
  """A bidirectional LSTM over word vectors: states [B, n, 2 · width] of each layer.

  Attributes:
    vocab_size: subwords of the tokenizer.
    width: of each direction.
    layers: how many, one above the other.
    word_width: of the word vectors; None: width.
    dropout: probability that an entry is dropped: of word vectors, and after each layer.
    dtype: of the computation; parameters are float32 always.
    kept_subwords: rows of the word embedding, if fewer than subwords: see `WordEmbedding.kept`.
    freeze_words: whether word vectors are not trained, and stand in the collection "frozen".

  >>> ids = jnp.ones((2, 5), jnp.int32)
  >>> subwords = Subwords(ids, 0 * ids, ids > 0)
  >>> encoder = BiLSTMText(vocab_size=50, width=8, layers=2)
  >>> encode = lambda: encoder.init_with_output(jax.random.key(0), subwords)[0]
  >>> [states.shape for states in jax.eval_shape(encode).states]
  [(2, 5, 8), (2, 5, 16), (2, 5, 16)]
  """

  vocab_size: int
  width: int = 128
  layers: int = 1
  word_width: int | None = None
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32
  kept_subwords: int | None = None
  freeze_words: bool = False

  @nn.compact
  def __call__(self, subwords: Subwords, train: bool = False) -> TokenStates:
    """Encodes subwords; in training with random numbers named "dropout"."""
    subwords = check_subwords(subwords)
    states = [_embedding(self)(subwords, train)]
    for number in range(1, self.layers + 1):
      layer = BiLSTM(self.width, dropout=self.dropout, dtype=self.dtype, name=f"layer{number}")
      # Cells carry float32 whatever their products are computed in.
      states.append(layer(states[-1], subwords.mask, train).astype(self.dtype))
    return TokenStates(tuple(states), (), (), (), (), subwords.mask)


class GatedBlock(nn.Module):
  """A gated convolution over three neighbours, added to its input: [B, n, D] -> [B, n, D].

      y = x + a sigmoid(b),   (a, b) = W [norm(x)_{i-1}, norm(x)_i, norm(x)_{i+1}]

  Attributes:
    dropout: probability that an entry of what is added is dropped.
    dtype: of the computation; parameters are float32 always.
  """

  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, mask: AnyArray, train: bool = False) -> Array:
    """Maps the states of a layer to those of the next; mask [B, n] is False for padding."""
    valid = mask[..., None]
    normal = jnp.where(valid, nn.LayerNorm(dtype=self.dtype, name="norm")(x), 0)
    # The convolution as one matrix product of shifted copies: inside loops XLA on CPU runs its
    # own convolutions many times slower.
    edge = jnp.zeros_like(normal[:, :1])
    before = jnp.concatenate([edge, normal[:, :-1]], axis=1)
    after = jnp.concatenate([normal[:, 1:], edge], axis=1)
    both = nn.Dense(2 * x.shape[-1], dtype=self.dtype, name="convolution")(
      jnp.concatenate([before, normal, after], axis=-1)
    )
    added = nn.Dropout(self.dropout, deterministic=not train)(nn.glu(both))
    return jnp.where(valid, x + added, 0)


class GatedCNNText(nn.Module):
  """Gated convolutions over word vectors: states [B, n, width] of each layer.

  Attributes:
    vocab_size: subwords of the tokenizer.
    width: of the states.
    layers: how many; the states of layer T see T tokens to either side.
    word_width: of the word vectors, projected to width where they differ; None: width.
    dropout: probability that an entry is dropped: of word vectors, and of what each layer adds.
    dtype: of the computation; parameters are float32 always.
    kept_subwords: rows of the word embedding, if fewer than subwords: see `WordEmbedding.kept`.
    freeze_words: whether word vectors are not trained, and stand in the collection "frozen".

  References:
    Dauphin et al., Language Modeling with Gated Convolutional Networks, 2017, arXiv 1612.08083. There
    convolutions look back only and their weights are normalised; here they look both ways and their
    inputs are normalised.

  >>> ids = jnp.ones((2, 5), jnp.int32)
  >>> subwords = Subwords(ids, 0 * ids, ids > 0)
  >>> encoder = GatedCNNText(vocab_size=50, width=8, layers=2)
  >>> encode = lambda: encoder.init_with_output(jax.random.key(0), subwords)[0]
  >>> [states.shape for states in jax.eval_shape(encode).states]
  [(2, 5, 8), (2, 5, 8), (2, 5, 8)]
  """

  vocab_size: int
  width: int = 128
  layers: int = 4
  word_width: int | None = None
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32
  kept_subwords: int | None = None
  freeze_words: bool = False

  @nn.compact
  def __call__(self, subwords: Subwords, train: bool = False) -> TokenStates:
    """Encodes subwords; in training with random numbers named "dropout"."""
    subwords = check_subwords(subwords)
    x = _embedding(self)(subwords, train)
    if x.shape[-1] != self.width:
      x = nn.Dense(self.width, dtype=self.dtype, name="projection")(x)
      x = jnp.where(subwords.mask[..., None], x, 0)
    states = [x]
    for number in range(1, self.layers + 1):
      block = GatedBlock(self.dropout, self.dtype, name=f"layer{number}")
      states.append(block(states[-1], subwords.mask, train))
    return TokenStates(tuple(states), (), (), (), (), subwords.mask)
