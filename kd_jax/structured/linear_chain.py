r"""Linear chains: exact inference in a distribution over tag sequences with scores of neighbouring tags.

.. math:: P(y) = \exp(score(y)) / Z, \quad
  score(y) = \sum_i unary_i(y_i) + \sum_i transition(y_{i-1}, y_i)

Everything is the chain read backwards as a Markov chain, P(y_n) and then P(y_{i-1} | y_i): entropies and
divergences are sums of those of its steps, so that they stay small and exact where log Z is large.

A masked position has no influence whatever stands there. A sentence without a valid position has one
structure, the empty one, of score 0.
"""

import jax
import jax.numpy as jnp

from kd_jax.structured.chain import (
  Columns,
  LinearChain,
  columns_of,
  constrain,
  leading_axes,
  with_boundaries,
)
from kd_jax.structured.chain_messages import (
  chain_log_partition,
  chain_states,
  log_conditionals,
  states_and_marginals,
)
from kd_jax.structured.chain_posteriors import log_marginals
from kd_jax.structured.checks import as_tags, shared_mask
from kd_jax.structured.divergence import categorical_kl
from kd_jax.structured.k_best import k_best, viterbi
from kd_jax.types import Array, ArrayLike

__all__ = [
  "LinearChain",
  "constrain",
  "cross_entropy",
  "entropy",
  "k_best",
  "kl_divergence",
  "log_marginals",
  "log_partition",
  "log_prob",
  "marginals",
  "sample",
  "score",
  "viterbi",
  "with_boundaries",
]


def log_partition(chain: LinearChain, *, algorithm: str = "scan") -> Array:
  r"""log Z, the log of the summed weight of all tag sequences; its gradient is the marginals.

  .. math:: \log Z = \log \sum_y \exp(score(y))

  Args:
    chain: n positions, L tags.
    algorithm: "scan", one position after the other, O(n L²); or "associative", O(log n) steps of
      O(n L³) work in all, for long sentences on accelerators.

  Returns:
    [...] float32; 0 for a sentence without tokens.

  Raises:
    ValueError: for shapes that do not fit, integer scores, NaN, or another algorithm.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, log_partition
    >>> round(float(jnp.exp(log_partition(LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2)))))), 3)
    8.0
  """
  if algorithm not in ("scan", "associative"):
    raise ValueError(f'algorithm must be "scan" or "associative", got {algorithm!r}')
  return chain_log_partition(*columns_of(chain), algorithm).reshape(leading_axes(chain))


def marginals(chain: LinearChain) -> tuple[Array, Array]:
  r"""The probabilities of tags and of neighbouring tags: the gradient of log Z.

  Returns:
    P(y_i) [..., n, L] and P(y_i, y_{i+1}) [..., n-1, L, L]; 0 at masked positions.

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, marginals
    >>> unary, pairwise = marginals(LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2))))
    >>> unary.tolist()[0], pairwise.tolist()[0]
    ([0.5, 0.5], [[0.25, 0.25], [0.25, 0.25]])
  """
  columns = columns_of(chain)
  states, unary, _ = states_and_marginals(*columns)
  pairwise = jnp.exp(log_conditionals(states, columns.transition)) * unary[1:, None]
  unary, pairwise = jnp.moveaxis(unary, -1, 0), jnp.moveaxis(pairwise, -1, 0)
  leading = leading_axes(chain)
  return unary.reshape(leading + unary.shape[1:]), pairwise.reshape(leading + pairwise.shape[1:])


def entropy(chain: LinearChain) -> Array:
  r"""The entropy of the distribution over tag sequences, in nats.

  .. math:: H(P) = H(y_n) + \sum_i \sum_t P(y_i = t) \, H(y_{i-1} | y_i = t) = \log Z - E[score]

  Returns:
    [...] float32.

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, entropy
    >>> round(float(entropy(LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2))))), 4)
    2.0794
  """
  columns = columns_of(chain)
  states, unary, _ = states_and_marginals(*columns)
  steps = log_conditionals(states, columns.transition)
  last = jax.nn.log_softmax(states[-1], axis=0)
  total = -jnp.sum(jnp.exp(last) * last, axis=0)
  total -= jnp.sum(jnp.exp(steps) * steps * unary[1:, None], axis=(0, 1, 2))
  return total.reshape(leading_axes(chain))


def score(chain: LinearChain, tags: ArrayLike) -> Array:
  """The score of a tag sequence: its unary and transition scores, summed.

  Args:
    chain: n positions, L tags.
    tags: [..., n] integers in [0, L); at masked positions anything.

  Returns:
    [...] float32.

  Raises:
    ValueError: for tags that do not fit, or as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, score
    >>> float(score(LinearChain(jnp.array([[1., 0.], [0., 3.]]), jnp.eye(2)), jnp.array([0, 1])))
    4.0
  """
  unary, transition, mask = columns_of(chain)
  num_labels = unary.shape[1]
  tags = as_tags(tags, mask.T.reshape(jnp.shape(chain.unary)[:-1]), num_labels)
  tags = tags.reshape(mask.shape[::-1]).T
  moves = tags[:-1] * num_labels + tags[1:]
  flat = jnp.broadcast_to(transition, (*transition.shape[:2], mask.shape[1]))
  unary = jnp.take_along_axis(unary, tags[:, None], axis=1)[:, 0]
  pairs = jnp.take_along_axis(flat.reshape(num_labels**2, -1), moves, axis=0)
  total = jnp.sum(unary, axis=0) + jnp.sum(jnp.where(mask[1:], pairs, 0.0), axis=0)
  return total.reshape(leading_axes(chain))


def log_prob(chain: LinearChain, tags: ArrayLike) -> Array:
  """log P(tags) = score(tags) - log Z.

  Args:
    chain: n positions, L tags.
    tags: [..., n] integers in [0, L); at masked positions anything.

  Returns:
    [...] float32.

  Raises:
    ValueError: as `score`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, log_prob
    >>> chain = LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2)))
    >>> round(float(jnp.exp(log_prob(chain, jnp.array([0, 1, 1])))), 4)
    0.125
  """
  return score(chain, tags) - log_partition(chain)


def _pair(teacher: LinearChain, student: LinearChain) -> tuple[Columns, Columns]:
  mask = shared_mask(
    teacher.mask, student.mask, jnp.asarray(teacher.unary), jnp.asarray(student.unary)
  )
  return columns_of(teacher._replace(mask=mask)), columns_of(student._replace(mask=mask))


def cross_entropy(teacher: LinearChain, student: LinearChain) -> Array:
  r"""The cross-entropy of a student chain under a teacher chain, summed exactly over all sequences.

  .. math:: -\sum_y P_t(y) \log P_s(y) = \log Z_s - E_{P_t}[score_s]

  Its gradient for the student's scores is the student's marginals less the teacher's. Both chains are
  differentiated: stop the teacher's gradient where it does not learn.

  Args:
    teacher: chain over the same sentences and tags.
    student: chain.

  Returns:
    [...] float32.

  Raises:
    ValueError: for chains of different shapes or masks, or as `log_partition`.

  References:
    Wang et al., Structural Knowledge Distillation, ACL 2021, arXiv 2010.05010.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, cross_entropy
    >>> chain = LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2)))
    >>> round(float(cross_entropy(chain, chain)), 4)
    2.0794
  """
  teacher_columns, student_columns = _pair(teacher, student)
  _, unary, counts = states_and_marginals(*teacher_columns)
  expected = jnp.sum(unary * student_columns.unary, axis=(0, 1))
  expected += jnp.sum(counts * student_columns.transition, axis=(0, 1))
  total = chain_log_partition(*student_columns, "scan") - expected
  return total.reshape(leading_axes(student))


def kl_divergence(teacher: LinearChain, student: LinearChain) -> Array:
  r"""KL(teacher || student) over all tag sequences: never negative, 0 at equality.

  .. math:: KL(y_n) + \sum_i \sum_t P_t(y_i = t) \, KL(P_t(y_{i-1} | y_i = t) \,\|\, P_s(y_{i-1} | y_i = t))

  which is the cross-entropy less the entropy, without their cancellation.

  Args:
    teacher: chain over the same sentences and tags.
    student: chain.

  Returns:
    [...] float32.

  Raises:
    ValueError: as `cross_entropy`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, kl_divergence
    >>> chain = LinearChain(jnp.ones((3, 2)), jnp.eye(2))
    >>> float(kl_divergence(chain, chain))
    0.0
  """
  teacher_columns, student_columns = _pair(teacher, student)
  teacher_states, unary, _ = states_and_marginals(*teacher_columns)
  student_states = chain_states(*student_columns)

  steps = categorical_kl(
    log_conditionals(teacher_states, teacher_columns.transition),
    log_conditionals(student_states, student_columns.transition),
    axis=1,
  )
  total = categorical_kl(
    jax.nn.log_softmax(teacher_states[-1], axis=0),
    jax.nn.log_softmax(student_states[-1], axis=0),
    axis=0,
  )
  return (total + jnp.sum(unary[1:] * steps, axis=(0, 1))).reshape(leading_axes(student))


def sample(chain: LinearChain, key: Array) -> Array:
  """Draws one tag sequence from the distribution, independently for each sentence.

  Args:
    chain: n positions, L tags.
    key: of `jax.random`.

  Returns:
    int32 tags [..., n], 0 at masked positions.

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, sample
    >>> certain = LinearChain(jnp.array([[0., 99.], [99., 0.]]), jnp.zeros((2, 2)))
    >>> sample(certain, jax.random.key(0)).tolist()
    [1, 0]
  """
  columns = columns_of(chain)
  states = chain_states(*columns)
  keys = jax.random.split(key, len(states))

  def back(tags, position):
    key, state, valid = position
    towards = jnp.take_along_axis(columns.transition, tags[None, None], axis=1)[:, 0]
    drawn = jax.random.categorical(key, state + towards, axis=0)
    return jnp.where(valid, drawn, tags), tags

  last = jax.random.categorical(keys[-1], states[-1], axis=0)
  first, rest = jax.lax.scan(back, last, (keys[:-1], states[:-1], columns.mask[1:]), reverse=True)
  tags = jnp.where(columns.mask, jnp.concatenate([first[None], rest]), 0)
  return tags.T.astype(jnp.int32).reshape(jnp.shape(chain.unary)[:-1])
