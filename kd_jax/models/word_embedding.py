"""Word vectors that may be frozen, and that may be of a part of the vocabulary alone.

What is not trained stands outside of "params": it has no gradient, no optimiser state and no weight decay.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.safetensors_files import flatten, nest
from kd_jax.types import Array, ArrayLike

FROZEN = "frozen"
"""Collection of word vectors that are not trained, by the paths that they would have in "params"."""
VOCABULARY = "vocabulary"
"""Collection of the table that maps subwords to rows of a smaller embedding: int32 [V]."""
WORDS = ("encoder", "embedding", "word_embedding")
"""Where the word embedding stands in a text network."""


class WordEmbedding(nn.Module):
  """Rows of a table of word vectors: [B, n] -> [B, n, width].

  Attributes:
    vocab_size: V, subwords of the tokenizer.
    width: of the vectors.
    kept: rows of the table, if it is smaller than the vocabulary: the collection "vocabulary" has the row of
      each subword; until it is given (see `vocabulary_table`), the last row stands for all further subwords.
    frozen: whether the vectors are in the collection "frozen" and not in "params".
    dtype: of the vectors returned; those kept are float32 always.
    initializer: of the vectors.

  >>> embedding = WordEmbedding(vocab_size=9, width=2, kept=4, frozen=True)
  >>> variables = embedding.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
  >>> variables["frozen"]["embedding"].shape, variables["vocabulary"]["rows"].shape
  ((4, 2), (9,))
  """

  vocab_size: int
  width: int
  kept: int | None = None
  frozen: bool = False
  dtype: jax.typing.DTypeLike = jnp.float32
  initializer: nn.initializers.Initializer = nn.initializers.normal(0.02)

  @nn.compact
  def __call__(self, ids: ArrayLike) -> Array:
    """Looks subwords up."""
    rows = self.vocab_size if self.kept is None else self.kept
    shape = (rows, self.width)
    if self.kept is not None:

      def first():
        return jnp.minimum(jnp.arange(self.vocab_size, dtype=jnp.int32), rows - 1)

      ids = jnp.asarray(self.variable(VOCABULARY, "rows", first).value)[ids]
    if self.frozen:

      def draw():
        return self.initializer(self.make_rng("params"), shape)

      words = self.variable(FROZEN, "embedding", draw).value
    else:
      words = self.param("embedding", self.initializer, shape)
    return jnp.take(jnp.asarray(words, self.dtype), ids, axis=0)


def kept_subwords(ids: ArrayLike, always: Sequence[int]) -> np.ndarray:
  """The subwords of a smaller vocabulary, ascending.

  Args:
    ids: of the subwords that occur, any shape.
    always: of those that are kept whether they occur or not, such as special tokens.

  >>> kept_subwords([[7, 3], [3, 0]], always=[1]).tolist()
  [0, 1, 3, 7]
  """
  return np.union1d(np.asarray(ids).ravel(), np.asarray(always)).astype(np.int32)


def vocabulary_table(kept: ArrayLike, vocab_size: int, unknown: int) -> np.ndarray:
  """The row of each subword in an embedding of the kept ones: int32 [V]; others have the unknown subword's.

  Args:
    kept: subwords, ascending.
    vocab_size: V.
    unknown: the subword that stands for those that are not kept; one of them.

  Raises:
    ValueError: the unknown subword is not kept, or a kept one exceeds the vocabulary.

  >>> vocabulary_table([0, 1, 3], vocab_size=5, unknown=1).tolist()
  [0, 1, 1, 2, 1]
  """
  kept = np.asarray(kept, np.int32)
  if unknown not in kept:
    raise ValueError(f"unknown must be one of the kept subwords, got {unknown}: keep it too")
  if kept[-1] >= vocab_size:
    raise ValueError(f"kept subwords must be below vocab_size {vocab_size}, got {kept[-1]}")
  table = np.full(vocab_size, np.searchsorted(kept, unknown), np.int32)
  table[kept] = np.arange(len(kept), dtype=np.int32)
  return table


def freeze_words(params: Mapping[str, Any]) -> dict[str, Any]:
  """Variables of a network with frozen word vectors, from parameters that hold them: what `thaw` undoes.

  >>> freeze_words({"encoder": {"embedding": {"word_embedding": {"embedding": 1}}}})
  {'params': {}, 'frozen': {'encoder': {'embedding': {'word_embedding': {'embedding': 1}}}}}
  """
  leaves = dict(flatten(params))
  words = (*WORDS, "embedding")
  rest = nest({path: leaf for path, leaf in leaves.items() if path != words})
  return {"params": rest} | ({FROZEN: nest({words: leaves[words]})} if words in leaves else {})


def thaw(variables: Mapping[str, Any]) -> dict[str, Any]:
  """The variables of the same network without frozen word vectors: "frozen" moved into "params".

  >>> thaw({"params": {"a": 1}, "frozen": {"b": {"c": 2}}})
  {'params': {'a': 1, 'b': {'c': 2}}}
  """
  if FROZEN not in variables:
    return dict(variables)
  others = {name: value for name, value in variables.items() if name != FROZEN}
  leaves = dict(flatten(variables["params"])) | dict(flatten(variables[FROZEN]))
  return {**others, "params": nest(leaves)}
