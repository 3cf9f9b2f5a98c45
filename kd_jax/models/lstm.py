"""Bidirectional LSTMs: two large matrix products a layer, and one loop for both directions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.types import Array, ArrayLike

_GATES = ("i", "f", "g", "o")


class _Kernel(nn.Module):
  """The parameters of a dense layer without a bias, not applied."""

  inputs: int
  outputs: int

  @nn.compact
  def __call__(self) -> Array:
    return self.param("kernel", nn.initializers.lecun_normal(), (self.inputs, self.outputs))


class _KernelAndBias(nn.Module):
  """The parameters of a dense layer with an orthogonal kernel, not applied."""

  inputs: int
  outputs: int

  @nn.compact
  def __call__(self) -> tuple[Array, Array]:
    kernel = self.param("kernel", nn.initializers.orthogonal(), (self.inputs, self.outputs))
    return kernel, self.param("bias", nn.initializers.zeros_init(), (self.outputs,))


class _Direction(nn.Module):
  """The parameters of one direction, by the names and with the initial values of Flax's LSTM cells."""

  inputs: int
  width: int

  @nn.compact
  def __call__(self) -> tuple[Array, Array, Array]:
    """Returns (W [D, 4 · width], U [width, 4 · width], b [4 · width]), the gates i, f, g, o in turn."""
    of_inputs, of_states, biases = [], [], []
    for gate in _GATES:
      of_inputs.append(_Kernel(self.inputs, self.width, name=f"i{gate}")())
      kernel, bias = _KernelAndBias(self.width, self.width, name=f"h{gate}")()
      of_states.append(kernel)
      biases.append(bias)
    return jnp.concatenate(of_inputs, -1), jnp.concatenate(of_states, -1), jnp.concatenate(biases)


class BiLSTM(nn.Module):
  """Layers of LSTMs from both ends of the sentence, side by side: [B, n, 2 · width].

      i, f, o = sigmoid(W x + U h + b),  g = tanh(W x + U h + b),  c' = f c + i g,  h' = o tanh(c')

  Attributes:
    width: of each direction.
    layers: how many, one above the other.
    dropout: probability that an entry is dropped, between layers and at the end.
    dtype: of the matrix products; parameters and cells are float32 always.

  References:
    Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 1997, with forget gates.

  >>> import functools
  >>> x, mask = jnp.ones((2, 5, 3)), jnp.ones((2, 5), bool)
  >>> encode = functools.partial(BiLSTM(width=8).init_with_output, jax.random.key(0))
  >>> jax.eval_shape(encode, x, mask)[0].shape
  (2, 5, 16)
  """

  width: int = 128
  layers: int = 1
  dropout: float = 0.0
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, inputs: ArrayLike, mask: ArrayLike, train: bool = False) -> Array:
    """Encodes vectors [B, n, D]; mask [B, n] is ones and then zeros."""
    mask = jnp.asarray(mask).astype(bool)
    x = jnp.where(mask[..., None], inputs, 0)
    for layer in range(1, self.layers + 1):
      directions = [
        _Direction(x.shape[-1], self.width, name=f"{direction}{layer}")()
        for direction in ("forward", "backward")
      ]
      x = _both_directions(x, mask, directions, self.dtype)
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return x


def _both_directions(
  x: Array, mask: Array, directions: list[tuple[Array, Array, Array]], dtype: jax.typing.DTypeLike
) -> Array:
  """One layer, [B, n, 2 · width] float32: zeros at padding.

  The products with the inputs do not depend on the states: they are computed for all positions at once, outside
  the loop. Padding keeps the states at zero, so the backward direction starts at each sentence's last token.
  """
  of_inputs, state_kernels, biases = zip(*directions, strict=True)
  of_states = jnp.stack(state_kernels).astype(dtype)
  gates = x.astype(dtype) @ jnp.concatenate(of_inputs, axis=-1).astype(dtype)
  gates = gates + jnp.concatenate(biases).astype(dtype)
  gates = gates.reshape(*x.shape[:2], 2, -1).transpose(1, 2, 0, 3)
  valid = jnp.broadcast_to(mask.T[:, None, :, None], (*gates.shape[:-1], 1))

  def turned(values: Array) -> Array:
    """The backward direction [:, 1] in its own order."""
    return jnp.stack([values[:, 0], values[::-1, 1]], axis=1)

  def step(carry, inputs):
    cells, states = carry
    gates, valid = inputs
    i, f, g, o = jnp.split(gates + states.astype(dtype) @ of_states, 4, axis=-1)
    cells = nn.sigmoid(f) * cells + nn.sigmoid(i) * nn.tanh(g)
    states = nn.sigmoid(o) * nn.tanh(cells)
    carry = jnp.where(valid, cells, 0), jnp.where(valid, states, 0)
    return carry, carry[1]

  start = jnp.zeros((*gates.shape[1:3], of_states.shape[1]))
  # Not unrolled: on CPU that is slower, on every length tried.
  _, states = jax.lax.scan(step, (start, start), (turned(gates), turned(valid)))
  states = turned(states)
  return jnp.concatenate([states[:, 0], states[:, 1]], axis=-1).swapaxes(0, 1)
