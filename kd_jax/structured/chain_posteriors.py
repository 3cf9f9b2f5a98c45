"""Log-probabilities of single tags of a linear chain, where probabilities themselves would underflow."""

import jax
import jax.numpy as jnp

from kd_jax.structured.chain import LinearChain, columns_of
from kd_jax.types import Array


def log_marginals(chain: LinearChain) -> Array:
  r"""The log-probability of each tag at each position: a tag that is all but excluded keeps its gradient.

  .. math:: \log P(y_i) = \alpha(y_i) + \beta(y_i) - \log Z

  `linear_chain.marginals` is faster, but a probability below 1e-38 is 0 there.

  Args:
    chain: n positions, L tags.

  Returns:
    [..., n, L] float32; at masked positions it means nothing.

  Raises:
    ValueError: integer scores, NaN, or shapes that do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain
    >>> chain = LinearChain(jnp.array([[0.0, -200.0]]), jnp.zeros((2, 2)))
    >>> log_marginals(chain).tolist()
    [[0.0, -200.0]]
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
  return jnp.transpose(log_probs, (2, 0, 1)).reshape(jnp.shape(chain.unary))
