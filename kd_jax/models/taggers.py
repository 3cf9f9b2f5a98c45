"""Networks that tag sentences: token by token, as a chain, as spans, or tags that make up a tree."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.biaffine import Biaffine, Projection
from kd_jax.structured import MaxEnt, ParsingTags, SpanScores, constrain, with_boundaries
from kd_jax.types import Array, Outputs, Tokens


def _token_scores(states: Array, num_labels: int, dtype: jax.typing.DTypeLike) -> Array:
  """[B, n, L] float32."""
  return nn.Dense(num_labels, dtype=dtype, name="linear")(states).astype(jnp.float32)


class MaxEntTagger(nn.Module):
  """A softmax over the L tags at each token, whatever its neighbours: `MaxEnt`.

  Attributes:
    encoder: tokens to states [B, n, D], such as `SentenceEncoder`.
    num_labels: L.
    dtype: of the last layer; parameters and scores are float32 always.
  """

  encoder: nn.Module
  num_labels: int
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, tokens: Tokens, train: bool = False) -> Outputs:
    """Scores tokens; in training with random numbers named "dropout"."""
    logits = _token_scores(self.encoder(tokens, train), self.num_labels, self.dtype)
    return Outputs(scores=MaxEnt(logits, jnp.asarray(tokens.mask).astype(bool)))


def bioes_rules(num_labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Which tag may follow which, where O = 0 and entity type r has S, B, I, E = 1 + 4r ... 4 + 4r.

  Args:
    num_labels: L = 4R + 1.

  Returns:
    (allowed [L, L] from one tag to the next, start [L], end [L]), bool.

  Raises:
    ValueError: L - 1 is not divisible by 4.

  >>> allowed, start, end = bioes_rules(5)
  >>> allowed.astype(int).tolist()
  [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [1, 1, 1, 0, 0]]
  >>> start.astype(int).tolist(), end.astype(int).tolist()
  ([1, 1, 1, 0, 0], [1, 1, 0, 0, 1])
  """
  if num_labels < 1 or num_labels % 4 != 1:
    raise ValueError(
      f"BIOES tags are O and four for each entity type, num_labels = 4R + 1, got {num_labels}: "
      "turn the constraint off for other tags"
    )
  tags = np.arange(num_labels)
  kind, entity = np.where(tags == 0, -1, (tags - 1) % 4), (tags - 1) // 4
  inside_after, inside_before = (kind == 1) | (kind == 2), (kind == 2) | (kind == 3)
  same = entity[:, None] == entity[None, :]
  allowed = np.where(inside_after[:, None], inside_before & same, ~inside_before)
  return allowed, ~inside_before, ~inside_after


class CRFTagger(nn.Module):
  """A linear chain with learnt scores of a first tag, of tags one after the other and of a last tag.

  The transitions [L, L] are shared by all sentences: `LinearChain`.

  Attributes:
    encoder: tokens to states [B, n, D], such as `SentenceEncoder`.
    num_labels: L.
    bioes: whether sequences that are not well-formed BIOES are excluded.
    dtype: of the last layer; parameters and scores are float32 always.

  References:
    Lample et al., Neural Architectures for Named Entity Recognition, 2016, arXiv 1603.01360.
  """

  encoder: nn.Module
  num_labels: int
  bioes: bool = False
  dtype: jax.typing.DTypeLike = jnp.float32

  def __post_init__(self):
    if self.bioes:
      bioes_rules(self.num_labels)
    super().__post_init__()

  @nn.compact
  def __call__(self, tokens: Tokens, train: bool = False) -> Outputs:
    """Scores tokens; in training with random numbers named "dropout"."""
    labels, zeros = self.num_labels, nn.initializers.zeros_init()
    unary = _token_scores(self.encoder(tokens, train), labels, self.dtype)
    transition = self.param("transition", zeros, (labels, labels), jnp.float32)
    start = self.param("start", zeros, (labels,), jnp.float32)
    end = self.param("end", zeros, (labels,), jnp.float32)
    mask = jnp.asarray(tokens.mask).astype(bool)
    chain = with_boundaries(unary, transition, start, end, mask)
    if self.bioes:
      chain = constrain(chain, *bioes_rules(labels))
    return Outputs(scores=chain)


class SpanTagger(nn.Module):
  """Scores of every span and label, from its first and last token: `SpanScores`.

  Attributes:
    encoder: tokens to states [B, n, D], such as `SentenceEncoder`.
    num_labels: R entity types.
    width: of the two projections, as first and as last token.
    dropout: of the projections.
    dtype: of the last layers; parameters and scores are float32 always.

  References:
    Yu et al., Named Entity Recognition as Dependency Parsing, 2020, arXiv 2005.07150.
  """

  encoder: nn.Module
  num_labels: int
  width: int = 64
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, tokens: Tokens, train: bool = False) -> Outputs:
    """Scores spans; in training with random numbers named "dropout"."""
    states = self.encoder(tokens, train)
    first, last = (
      Projection(self.width, self.dropout, self.dtype, name=role)(states, train)
      for role in ("first", "last")
    )
    scores = Biaffine(self.num_labels, dtype=self.dtype, name="biaffine")(first, last)
    return Outputs(scores=SpanScores(scores, jnp.asarray(tokens.mask).astype(bool)))


class ParsingTagger(nn.Module):
  """Dependency parsing as tagging: a softmax over pairs of head offset and relation at each token.

  Attributes:
    encoder: tokens to states [B, n, D], such as `SentenceEncoder`.
    offsets: of the L tags: label l says that the head of token i is token i + offsets[l], 0 the root.
    relations: of the L tags.
    dtype: of the last layer; parameters and scores are float32 always.

  References:
    Strzyz et al., Viable Dependency Parsing as Sequence Labeling, 2019, arXiv 1902.10505.
  """

  encoder: nn.Module
  offsets: tuple[int, ...]
  relations: tuple[int, ...]
  dtype: jax.typing.DTypeLike = jnp.float32

  def __post_init__(self):
    if not self.offsets or len(self.offsets) != len(self.relations):
      raise ValueError(
        f"offsets and relations must be as many, and some, got {len(self.offsets)} and "
        f"{len(self.relations)}: one of each for every tag"
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, tokens: Tokens, train: bool = False) -> Outputs:
    """Scores tokens; in training with random numbers named "dropout"."""
    logits = _token_scores(self.encoder(tokens, train), len(self.offsets), self.dtype)
    offsets, relations = (jnp.array(part, jnp.int32) for part in (self.offsets, self.relations))
    mask = jnp.asarray(tokens.mask).astype(bool)
    return Outputs(scores=ParsingTags(logits, offsets, relations, mask))
