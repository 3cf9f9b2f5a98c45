"""Scores of pairs: a bilinear form of two vectors, with biases."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.types import Array, ArrayLike

LEAKY_SLOPE = 0.1


class Projection(nn.Module):
  """A dense layer, leaky ReLU and dropout: a vector's view in one role, [..., width].

  Attributes:
    width: of the result.
    dropout: probability that an entry is dropped.
    dtype: of the computation; parameters are float32 always.
  """

  width: int
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: ArrayLike, train: bool = False) -> Array:
    """Projects [..., D]; in training with random numbers named "dropout"."""
    dense = nn.Dense(self.width, kernel_init=nn.initializers.orthogonal(), dtype=self.dtype)
    return nn.Dropout(self.dropout, deterministic=not train)(
      nn.leaky_relu(dense(x), negative_slope=LEAKY_SLOPE)
    )


class Biaffine(nn.Module):
  r"""Scores of all pairs of two sequences' vectors.

  .. math:: s_{ijr} = [x_i; 1]^\top U_r [y_j; 1]

  U starts at zero, so all scores do: it learns from the first step on, and what is below from the second.

  Attributes:
    outputs: R scores for each pair.
    left_bias: whether x has the 1, that is whether there are terms of y alone.
    right_bias: whether y has the 1, that is whether there are terms of x alone.
    dtype: of the computation; parameters and scores are float32 always.

  References:
    Dozat and Manning, Deep Biaffine Attention for Neural Dependency Parsing, 2017, arXiv 1611.01734.

  >>> x, y = jnp.ones((2, 5, 3)), jnp.ones((2, 6, 4))
  >>> Biaffine(outputs=7).init_with_output(jax.random.key(0), x, y)[0].shape
  (2, 5, 6, 7)
  """

  outputs: int = 1
  left_bias: bool = True
  right_bias: bool = True
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: ArrayLike, y: ArrayLike) -> Array:
    """Scores x [..., n, D] with y [..., m, E]: [..., n, m, R]."""
    x = _with_one(x) if self.left_bias else jnp.asarray(x)
    y = _with_one(y) if self.right_bias else jnp.asarray(y)
    shape = (x.shape[-1], self.outputs, y.shape[-1])
    kernel = self.param("kernel", nn.initializers.zeros_init(), shape, jnp.float32)
    x, y, kernel = nn.dtypes.promote_dtype(x, y, kernel, dtype=self.dtype)
    left = jnp.einsum("...id,dre->...ire", x, kernel)
    return jnp.einsum("...ire,...je->...ijr", left, y).astype(jnp.float32)


def _with_one(x: ArrayLike) -> Array:
  x = jnp.asarray(x)
  return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
