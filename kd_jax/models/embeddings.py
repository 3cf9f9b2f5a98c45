"""Vectors of tokens: their words, and their spelling read by a character CNN."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.types import NEG_INF, Array, ArrayLike, Tokens

PADDING, UNKNOWN = 0, 1


def check_tokens(tokens: Tokens) -> None:
  """Refuses what is not a batch of sentences, before Linen fails obscurely.

  Raises:
    ValueError: words, characters and mask that do not go together, or numbers that are no integers.
  """
  words, characters, mask = (jnp.shape(part) for part in tokens)
  if len(words) != 2 or mask != words or len(characters) != 3 or characters[:2] != words:
    raise ValueError(
      f"tokens must be words [B, n], characters [B, n, c] and mask [B, n], got {words}, "
      f"{characters} and {mask}: add an axis B = 1 to a single sentence"
    )
  for name, part in (("words", tokens.words), ("characters", tokens.characters)):
    if not jnp.issubdtype(jnp.result_type(part), jnp.integer):
      raise ValueError(f"{name} must be integers, got {jnp.result_type(part)}: number them first")


class CharacterCNN(nn.Module):
  """A width-3 convolution over the characters of each word, then the maximum over the word.

  Characters 0 are padding: they are read as zeros and left out of the maximum. A word without
  characters is the zero vector.

  Attributes:
    num_characters: rows of the embedding; 0 is padding, 1 an unknown character.
    width: D of the result.
    character_width: width of the character embedding.
    dtype: of the computation; parameters are float32 always.
  """

  num_characters: int
  width: int
  character_width: int = 32
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, characters: ArrayLike) -> Array:
    """Maps character numbers [..., c] to [..., D]."""
    characters = jnp.asarray(characters).astype(jnp.int32)
    valid = (characters != PADDING)[..., None]
    embed = nn.Embed(self.num_characters, self.character_width, dtype=self.dtype, name="embedding")
    x = jnp.where(valid, embed(characters), 0)
    # The convolution as one matrix product of shifted copies: inside loops XLA on CPU runs its
    # own convolutions many times slower.
    edge = jnp.zeros_like(x[..., :1, :])
    before = jnp.concatenate([edge, x[..., :-1, :]], axis=-2)
    after = jnp.concatenate([x[..., 1:, :], edge], axis=-2)
    x = nn.Dense(self.width, dtype=self.dtype, name="convolution")(
      jnp.concatenate([before, x, after], axis=-1)
    )
    x = jnp.max(jnp.where(valid, x, NEG_INF), axis=-2)
    return nn.relu(x)


class TokenEmbedding(nn.Module):
  """Word vectors beside those of a character CNN, [B, n, word_width + character_width].

  In training, words become "unknown" at random: so that its vector is learnt, and so that spelling
  is read. Padding has zeros, whatever numbers stand there.

  Attributes:
    num_words: rows of the word embedding; 0 is padding, 1 an unknown word.
    num_characters: rows of the character embedding; 0 is padding, 1 an unknown character.
    word_width: width of word vectors.
    character_width: width of the character CNN's result; 0 leaves spelling out.
    dropout: probability that an entry of the vectors is dropped.
    word_dropout: probability that a word becomes "unknown".
    dtype: of the computation; parameters are float32 always.

  >>> embedding = TokenEmbedding(num_words=100, num_characters=30, word_width=8, character_width=4)
  >>> words, characters = jnp.ones((2, 5), jnp.int32), jnp.ones((2, 5, 7), jnp.uint8)
  >>> tokens = Tokens(words, characters, jnp.ones((2, 5), bool))
  >>> variables = embedding.init(jax.random.key(0), tokens)
  >>> embedding.apply(variables, tokens).shape
  (2, 5, 12)
  """

  num_words: int
  num_characters: int
  word_width: int = 64
  character_width: int = 32
  dropout: float = 0.0
  word_dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, tokens: Tokens, train: bool = False) -> Array:
    """Embeds tokens, [B, n, D]; in training with random numbers named "dropout"."""
    check_tokens(tokens)
    mask = jnp.asarray(tokens.mask).astype(bool)
    words = jnp.where(mask, tokens.words, PADDING)
    if train and self.word_dropout > 0:
      hidden = jax.random.bernoulli(self.make_rng("dropout"), self.word_dropout, words.shape)
      words = jnp.where(hidden, UNKNOWN, words)
    embed = nn.Embed(self.num_words, self.word_width, dtype=self.dtype, name="words")
    parts = [embed(words)]
    if self.character_width:
      spelling = CharacterCNN(
        self.num_characters, self.character_width, dtype=self.dtype, name="characters"
      )
      parts.append(spelling(tokens.characters))
    x = nn.Dropout(self.dropout, deterministic=not train)(jnp.concatenate(parts, axis=-1))
    return jnp.where(mask[..., None], x, 0)
