r"""Linear chains: exact inference in a distribution over tag sequences with scores of neighbouring tags.

.. math:: P(y) = \exp(score(y)) / Z, \quad
  score(y) = \sum_i unary_i(y_i) + \sum_i transition(y_{i-1}, y_i)

Everything is the chain read backwards as a Markov chain, P(y_n) and then P(y_{i-1} | y_i): entropies and
divergences are sums of those of its steps, so that they stay small and exact where log Z is large.

A masked position has no influence whatever stands there. A sentence without a valid position has one
structure, the empty one, of score 0.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.structured.chain_messages import (
  chain_log_partition,
  chain_states,
  log_conditionals,
  states_and_marginals,
)
from kd_jax.structured.checks import as_tags, shared_mask
from kd_jax.structured.divergence import categorical_kl
from kd_jax.structured.inputs import as_mask, as_scores, refuse_nan
from kd_jax.structured.k_best import best_paths
from kd_jax.types import NEG_INF, Array, ArrayLike


class LinearChain(NamedTuple):
  """Scores of tag sequences.

  Attributes:
    unary: [..., n, L] of each tag at each position.
    transition: [..., L, L] of a tag (row) followed by another (column); [L, L] for all sentences alike.
    mask: [..., n], ones for tokens and then zeros; None where all count.
  """

  unary: ArrayLike
  transition: ArrayLike
  mask: ArrayLike | None = None


class _Columns(NamedTuple):
  """A checked chain with its batch last: unary [n, L, B], transition [L, L, B or 1], mask [n, B]."""

  unary: Array
  transition: Array
  mask: Array


def _columns(chain: LinearChain) -> _Columns:
  """Checks a chain, blanks out its padding and moves its batch to the end."""
  unary = as_scores("unary", chain.unary, "n, L")
  transition = as_scores("transition", chain.transition, "L, L")
  leading, (length, num_labels) = unary.shape[:-2], unary.shape[-2:]
  if transition.shape[-2:] != (num_labels, num_labels) or 0 in (length, num_labels):
    raise ValueError(
      f"unary {unary.shape} is of [..., n, L] and transition {transition.shape} must be of [L, L] "
      "with the same tags, n and L at least 1"
    )
  mask = as_mask(chain.mask, unary.shape[:-1])
  refuse_nan("unary", unary, mask[..., None])
  refuse_nan("transition", transition, jnp.ones((), bool))
  if transition.size == num_labels**2:
    transition = transition.reshape(1, num_labels, num_labels)
  else:
    try:
      transition = jnp.broadcast_to(transition, (*leading, num_labels, num_labels))
    except ValueError:
      raise ValueError(
        f"transition {transition.shape} must be [L, L] or have the leading axes of unary "
        f"{unary.shape}"
      ) from None
    transition = transition.reshape(-1, num_labels, num_labels)
  # In a sentence without tokens only tag 0 is left at the first position: one structure, of score 0.
  alone = jnp.where((jnp.arange(length)[:, None] == 0) & (jnp.arange(num_labels) > 0), NEG_INF, 0.0)
  blanks = jnp.where(mask[..., :1, None], 0.0, alone)
  unary = jnp.where(mask[..., None], jnp.maximum(unary, NEG_INF), blanks)
  batch = math.prod(leading)
  return _Columns(
    jnp.transpose(unary.reshape(batch, length, num_labels), (1, 2, 0)),
    jnp.moveaxis(jnp.maximum(transition, NEG_INF), 0, -1),
    mask.reshape(batch, length).T,
  )


def _leading(chain: LinearChain) -> tuple[int, ...]:
  return jnp.shape(chain.unary)[:-2]


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
  return chain_log_partition(*_columns(chain), algorithm).reshape(_leading(chain))


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
  columns = _columns(chain)
  states, unary, _ = states_and_marginals(*columns)
  pairwise = jnp.exp(log_conditionals(states, columns.transition)) * unary[1:, None]
  unary, pairwise = jnp.moveaxis(unary, -1, 0), jnp.moveaxis(pairwise, -1, 0)
  leading = _leading(chain)
  return unary.reshape(leading + unary.shape[1:]), pairwise.reshape(leading + pairwise.shape[1:])


def viterbi(chain: LinearChain) -> tuple[Array, Array]:
  """The best tag sequence and its score; of equally good tags the lowest.

  Returns:
    int32 tags [..., n], 0 at masked positions, and scores [...].

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, viterbi
    >>> tags, best = viterbi(LinearChain(jnp.array([[1., 0.], [0., 1.]]), jnp.eye(2) * 3))
    >>> tags.tolist(), float(best)
    ([0, 0], 4.0)
  """
  tags, scores = k_best(chain, 1)
  return tags[..., 0, :], scores[..., 0]


def k_best(chain: LinearChain, k: int) -> tuple[Array, Array]:
  """The k best tag sequences, all different, the best first.

  Args:
    chain: n positions, L tags.
    k: how many, a Python integer.

  Returns:
    int32 tags [..., k, n] and scores [..., k]; where fewer than k sequences are allowed, the rest has
    tags 0 and scores NEG_INF.

  Raises:
    ValueError: k below 1, or as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, k_best
    >>> tags, scores = k_best(LinearChain(jnp.array([[1., 0.], [0., 3.]]), jnp.zeros((2, 2))), 2)
    >>> tags.tolist(), scores.tolist()
    ([[0, 1], [1, 1]], [4.0, 3.0])
  """
  if k < 1:
    raise ValueError(f"k must be at least 1, got {k}")
  unary, transition, mask = _columns(chain)
  tags, scores = best_paths(jnp.swapaxes(unary, 1, 2), jnp.moveaxis(transition, -1, 0), mask, k)
  leading = _leading(chain)
  return jnp.transpose(tags, (1, 2, 0)).reshape(*leading, k, -1), scores.reshape(*leading, k)


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
  columns = _columns(chain)
  states, unary, _ = states_and_marginals(*columns)
  steps = log_conditionals(states, columns.transition)
  last = jax.nn.log_softmax(states[-1], axis=0)
  total = -jnp.sum(jnp.exp(last) * last, axis=0)
  total -= jnp.sum(jnp.exp(steps) * steps * unary[1:, None], axis=(0, 1, 2))
  return total.reshape(_leading(chain))


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
  unary, transition, mask = _columns(chain)
  num_labels = unary.shape[1]
  tags = as_tags(tags, mask.T.reshape(jnp.shape(chain.unary)[:-1]), num_labels)
  tags = tags.reshape(mask.shape[::-1]).T
  moves = tags[:-1] * num_labels + tags[1:]
  flat = jnp.broadcast_to(transition, (*transition.shape[:2], mask.shape[1]))
  unary = jnp.take_along_axis(unary, tags[:, None], axis=1)[:, 0]
  pairs = jnp.take_along_axis(flat.reshape(num_labels**2, -1), moves, axis=0)
  total = jnp.sum(unary, axis=0) + jnp.sum(jnp.where(mask[1:], pairs, 0.0), axis=0)
  return total.reshape(_leading(chain))


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


def _pair(teacher: LinearChain, student: LinearChain) -> tuple[_Columns, _Columns]:
  mask = shared_mask(
    teacher.mask, student.mask, jnp.asarray(teacher.unary), jnp.asarray(student.unary)
  )
  return _columns(teacher._replace(mask=mask)), _columns(student._replace(mask=mask))


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
  return total.reshape(_leading(student))


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
  return (total + jnp.sum(unary[1:] * steps, axis=(0, 1))).reshape(_leading(student))


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
  columns = _columns(chain)
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


def _ends(mask: Array) -> tuple[Array, Array]:
  """Bool [..., n]: where the first and the last valid position are."""
  after = jnp.concatenate([mask[..., 1:], jnp.zeros_like(mask[..., :1])], axis=-1)
  first = mask & (jnp.arange(mask.shape[-1]) == 0)
  return first, mask & ~after


def with_boundaries(
  unary: ArrayLike,
  transition: ArrayLike,
  start: ArrayLike,
  end: ArrayLike,
  mask: ArrayLike | None = None,
) -> LinearChain:
  """A chain with scores for its first and last tag, folded into the unary scores there.

  Args:
    unary: [..., n, L].
    transition: [..., L, L].
    start: [L] scores of the first tag.
    end: [L] scores of the last tag.
    mask: [..., n] or None.

  Returns:
    `LinearChain`.

  Raises:
    ValueError: for integer scores, or start and end that are not of shape [L].

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import with_boundaries
    >>> zeros = jnp.zeros((2, 2))
    >>> with_boundaries(zeros, zeros, jnp.array([1., 2.]), jnp.array([3., 4.])).unary.tolist()
    [[1.0, 2.0], [3.0, 4.0]]
  """
  unary = as_scores("unary", unary, "n, L")
  start, end = as_scores("start", start, "L"), as_scores("end", end, "L")
  for name, scores in (("start", start), ("end", end)):
    if scores.shape != unary.shape[-1:]:
      raise ValueError(f"{name} {scores.shape} must be [L], unary is {unary.shape} of [..., n, L]")
  first, last = _ends(as_mask(mask, unary.shape[:-1]))
  unary += jnp.where(first[..., None], start, 0.0) + jnp.where(last[..., None], end, 0.0)
  return LinearChain(unary, transition, mask)


def constrain(
  chain: LinearChain,
  allowed: ArrayLike,
  start: ArrayLike | None = None,
  end: ArrayLike | None = None,
) -> LinearChain:
  """A chain in which what is not allowed has score NEG_INF.

  Args:
    chain: n positions, L tags.
    allowed: bool [L, L]: may this tag (row) be followed by that one (column)?
    start: bool [L]: may a sentence start with this tag? None: with any.
    end: bool [L]: may it end with it?

  Returns:
    `LinearChain`.

  Raises:
    ValueError: for masks of other shapes, or integer scores.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.linear_chain import LinearChain, constrain, viterbi
    >>> chain = LinearChain(jnp.array([[1., 0.], [0., 1.]]), jnp.zeros((2, 2)))
    >>> viterbi(constrain(chain, allowed=jnp.eye(2, dtype=bool)))[0].tolist()
    [0, 0]
  """
  unary = as_scores("unary", chain.unary, "n, L")
  transition = as_scores("transition", chain.transition, "L, L")
  allowed = jnp.asarray(allowed, bool)
  if allowed.shape != transition.shape[-2:]:
    raise ValueError(f"allowed {allowed.shape} must be [L, L], transition is {transition.shape}")
  first, last = _ends(as_mask(chain.mask, unary.shape[:-1]))
  for name, where, tags in (("start", first, start), ("end", last, end)):
    if tags is None:
      continue
    tags = jnp.asarray(tags, bool)
    if tags.shape != unary.shape[-1:]:
      raise ValueError(f"{name} {tags.shape} must be [L], unary is {unary.shape} of [..., n, L]")
    unary = jnp.where(where[..., None] & ~tags, NEG_INF, unary)
  return LinearChain(unary, jnp.where(allowed, transition, NEG_INF), chain.mask)
