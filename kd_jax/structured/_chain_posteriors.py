"""Log-probabilities of single tags of a linear chain, where probabilities themselves would underflow."""

import jax
import jax.numpy as jnp

from kd_jax.structured._chain import LinearChain, columns_of
from kd_jax.structured._generic import log_tag_marginals
from kd_jax.structured._holes import put_back
from kd_jax.types import Array


@log_tag_marginals.register(LinearChain)
def _(chain: LinearChain) -> Array:
  r"""log P(y_i) = alpha(y_i) + beta(y_i) - log Z [..., n, L]; at masked positions it means nothing.

  `tag_marginals` is faster, but a probability below 1e-38 is 0 there.
  """
  unary, transition, mask = columns_of(chain)  # the batch last

  def largest_zero(message):
    return message - jax.lax.stop_gradient(jnp.max(message, axis=0, keepdims=True))

  def forward(before, scores):
    message = largest_zero(jax.nn.logsumexp(before[:, None] + transition, axis=0) + scores)
    return message, message

  def backward(after, position):
    scores, real = position
    paths = transition + (scores + after)[None]
    message = jnp.where(real, largest_zero(jax.nn.logsumexp(paths, axis=1)), 0.0)
    return message, message

  _, before = jax.lax.scan(forward, unary[0], unary[1:])
  _, after = jax.lax.scan(backward, jnp.zeros_like(unary[0]), (unary[1:], mask[1:]), reverse=True)
  before = jnp.concatenate([unary[:1], before])
  after = jnp.concatenate([after, jnp.zeros_like(unary[:1])])
  log_probs = jax.nn.log_softmax(before + after, axis=1)
  log_probs = jnp.transpose(log_probs, (2, 0, 1)).reshape(jnp.shape(chain.unary))
  return put_back(log_probs, chain.mask)
