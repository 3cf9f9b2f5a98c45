"""BERT and RoBERTa encoders: the layers that published weights fit."""

import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.subwords import check_subwords
from kd_jax.types import NEG_INF, AnyArray, Array, Subwords, TokenStates

INITIAL_WEIGHTS = nn.initializers.normal(0.02)


@dataclass(frozen=True)
class BertConfig:
  """The sizes of a BERT or a RoBERTa: what its config.json says that matters."""

  kind: Literal["bert", "roberta"] = "bert"
  """"roberta": positions are counted from pad_id + 1."""
  vocab_size: int = 30522
  """Rows of the word embedding."""
  width: int = 768
  """D of the states; divisible by heads."""
  layers: int = 12
  """T, the embedding not counted."""
  heads: int = 12
  """H of attention."""
  hidden: int = 3072
  """Width between the two dense layers of each block."""
  max_positions: int = 512
  """Rows of the position embedding, those before position_offset included."""
  type_vocab_size: int = 2
  """Rows of the type embedding; 1: all types are read as 0."""
  pad_id: int = 0
  """Number of the padding subword."""
  norm_epsilon: float = 1e-12
  """Added to the variance in layer normalisation."""

  def __post_init__(self):
    if self.kind not in ("bert", "roberta"):
      raise ValueError(f"kind is one of bert, roberta, got {self.kind!r}")
    sizes = ("vocab_size", "width", "layers", "heads", "hidden", "type_vocab_size")
    for name in (*sizes, "max_positions"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.width % self.heads:
      raise ValueError(f"width {self.width} must be divisible by heads {self.heads}")
    if not 0 <= self.pad_id < self.vocab_size:
      raise ValueError(f"pad_id must lie in [0, vocab_size={self.vocab_size}), got {self.pad_id}")
    if not 0 < self.norm_epsilon < math.inf:
      raise ValueError(f"norm_epsilon must be positive, got {self.norm_epsilon}")
    if self.max_length < 1:
      raise ValueError(
        f"max_positions {self.max_positions} must exceed position_offset {self.position_offset}"
      )

  @property
  def position_offset(self) -> int:
    """Row of the position embedding of the first token."""
    return self.pad_id + 1 if self.kind == "roberta" else 0

  @property
  def max_length(self) -> int:
    """The longest text, in subwords."""
    return self.max_positions - self.position_offset


class BertEmbedding(nn.Module):
  """Word, position and type vectors, added and normalised: [B, n, D].

  Attributes:
    config: sizes.
    dropout: probability that an entry is dropped.
    dtype: of the computation; parameters are float32 always.
  """

  config: BertConfig
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, subwords: Subwords, train: bool = False) -> Array:
    """Embeds checked subwords."""
    config = self.config

    def embed(rows: int, name: str, numbers: AnyArray) -> Array:
      table = nn.Embed(
        rows, config.width, dtype=self.dtype, embedding_init=INITIAL_WEIGHTS, name=name
      )
      return table(numbers)

    ids, types, mask = subwords
    types = types if config.type_vocab_size > 1 else jnp.zeros_like(types)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    if config.kind == "roberta":
      counted = jnp.cumsum(mask, axis=1) + config.position_offset - 1
      positions = jnp.where(mask, counted, config.pad_id)
    x = (
      embed(config.vocab_size, "word_embedding", jnp.where(mask, ids, config.pad_id))
      + embed(config.max_positions, "position_embedding", positions)
      + embed(config.type_vocab_size, "type_embedding", types)
    )
    x = layer_norm(config, self.dtype, "embedding_norm")(x)
    return nn.Dropout(self.dropout, deterministic=not train)(x)


def layer_norm(config: BertConfig, dtype: jax.typing.DTypeLike, name: str) -> nn.LayerNorm:
  # The fast variance E[x²] - E[x]² loses digits that published states have.
  return nn.LayerNorm(config.norm_epsilon, dtype=dtype, use_fast_variance=False, name=name)


class BertLayer(nn.Module):
  """Self-attention and a dense block, each added to its input and then normalised.

      a = norm(x + W_o attention(x)),   y = norm(a + W_2 gelu(W_1 a))

  gelu is the exact one, x Phi(x). States are dropped, attention probabilities are not:
  `jax.nn.dot_product_attention` has no dropout.

  Attributes:
    config: sizes.
    dropout: probability that an entry of what is added is dropped.
    dtype: of the computation; parameters are float32 always.
  """

  config: BertConfig
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, mask: AnyArray, train: bool = False
  ) -> tuple[Array, tuple[Array, Array, Array]]:
    """Maps states [B, n, D] to those of the next layer, and (Q, K, V) [B, n, H, D / H]."""
    config = self.config

    def dense(width: int, name: str, inputs: Array) -> Array:
      return nn.Dense(width, dtype=self.dtype, kernel_init=INITIAL_WEIGHTS, name=name)(inputs)

    def drop(values: Array) -> Array:
      return nn.Dropout(self.dropout, deterministic=not train)(values)

    by_head = (*x.shape[:-1], config.heads, config.width // config.heads)
    queries, keys, values = (
      dense(config.width, name, x).reshape(by_head) for name in ("query", "key", "value")
    )
    valid = jnp.asarray(mask)[:, None, None, :]
    context = jax.nn.dot_product_attention(queries, keys, values, mask=valid)
    attended = drop(dense(config.width, "attention_output", context.reshape(x.shape)))
    x = layer_norm(config, self.dtype, "attention_norm")(x + attended)
    hidden = nn.gelu(dense(config.hidden, "expansion", x), approximate=False)
    contracted = drop(dense(config.width, "contraction", hidden))
    x = layer_norm(config, self.dtype, "output_norm")(x + contracted)
    return x, (queries, keys, values)


def attention_probabilities(queries: AnyArray, keys: AnyArray, mask: AnyArray) -> Array:
  """softmax(Q Kᵀ / sqrt(d)) over the keys that are tokens, float32.

  Args:
    queries: [B, H, n, d].
    keys: [B, H, n, d].
    mask: [B, n] bool.

  Returns:
    [B, H, n, n], row = query; 0 for padded keys.

  >>> x = jnp.zeros((1, 1, 3, 4))
  >>> attention_probabilities(x, x, jnp.array([[True, True, False]]))[0, 0, 0].tolist()
  [0.5, 0.5, 0.0]
  """
  scores = jnp.einsum("bhid,bhjd->bhij", queries, keys, preferred_element_type=jnp.float32)
  scores = scores / queries.shape[-1] ** 0.5
  return jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, NEG_INF), axis=-1)


class BertEncoder(nn.Module):
  """An embedding and layers of self-attention, as BERT and RoBERTa have them.

  Attributes:
    config: sizes.
    dropout: probability that an entry is dropped: of the embedding, and of what each block adds.
    dtype: of the computation; parameters are float32 always.
    collect_attentions: whether `TokenStates.attentions` are computed.

  References:
    Devlin et al., BERT, 2018, arXiv 1810.04805; Liu et al., RoBERTa, 2019, arXiv 1907.11692. Both
    also drop attention probabilities in training; here they are kept.

  >>> config = BertConfig(vocab_size=50, width=8, layers=2, heads=2, hidden=16, max_positions=9)
  >>> ids = jnp.ones((3, 5), jnp.int32)
  >>> subwords = Subwords(ids, 0 * ids, ids > 0)
  >>> encode = lambda: BertEncoder(config).init_with_output(jax.random.key(0), subwords)[0]
  >>> [states.shape for states in jax.eval_shape(encode).states]
  [(3, 5, 8), (3, 5, 8), (3, 5, 8)]
  """

  config: BertConfig
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32
  collect_attentions: bool = True

  @nn.compact
  def __call__(self, subwords: Subwords, train: bool = False) -> TokenStates:
    """Encodes subwords; in training with random numbers named "dropout"."""
    subwords = check_subwords(subwords, self.config.max_length)
    mask = subwords.mask
    embed = BertEmbedding(self.config, self.dropout, self.dtype, name="embedding")
    states, relations = [embed(subwords, train)], []
    for number in range(1, self.config.layers + 1):
      layer = BertLayer(self.config, self.dropout, self.dtype, name=f"layer{number}")
      x, of_layer = layer(states[-1], mask, train)
      states.append(x)
      relations.append(tuple(jnp.swapaxes(part, 1, 2) for part in of_layer))
    queries, keys, values = zip(*relations, strict=True)
    attentions: tuple[Array, ...] = ()
    if self.collect_attentions:
      # Computed anew, as attention returns its result only.
      attentions = tuple(map(lambda q, k: attention_probabilities(q, k, mask), queries, keys))
    return TokenStates(tuple(states), attentions, queries, keys, values, mask)
