r"""Independent tokens: each position has its own softmax over tags ("MaxEnt" in the papers).

.. math:: P(y) = \prod_i P(y_i), \quad P(y_i) \propto \exp(logits_i(y_i))

A linear chain without transitions. A masked position has no influence whatever stands there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.structured.chain import LinearChain
from kd_jax.structured.checks import as_tags, shared_mask
from kd_jax.structured.divergence import categorical_kl
from kd_jax.structured.inputs import as_mask, as_scores, refuse_nan
from kd_jax.types import NEG_INF, Array, ArrayLike


class MaxEnt(NamedTuple):
  """Scores of tags at positions that do not depend on each other.

  Attributes:
    logits: [..., n, L].
    mask: [..., n], ones for tokens and then zeros; None where all count.
  """

  logits: ArrayLike
  mask: ArrayLike | None = None


def _checked(maxent: MaxEnt) -> tuple[Array, Array]:
  """Logits [..., n, L], 0 at masked positions, and the mask."""
  logits = as_scores("logits", maxent.logits, "n, L")
  if logits.shape[-1] == 0:
    raise ValueError(f"logits must have at least one tag [..., n, L], got {logits.shape}")
  mask = as_mask(maxent.mask, logits.shape[:-1])
  refuse_nan("logits", logits, mask[..., None])
  return jnp.where(mask[..., None], jnp.maximum(logits, NEG_INF), 0.0), mask


def _total(values: Array, mask: Array) -> Array:
  """The sum over the valid positions of values [..., n]."""
  return jnp.sum(jnp.where(mask, values, 0.0), axis=-1)


def log_partition(maxent: MaxEnt) -> Array:
  r"""log Z, the sum over positions of the log-sum-exp of their logits.

  Returns:
    [...] float32; 0 for a sentence without tokens.

  Raises:
    ValueError: for integer logits, NaN or a mask of another shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.maxent import MaxEnt, log_partition
    >>> round(float(jnp.exp(log_partition(MaxEnt(jnp.zeros((3, 2)))))), 3)
    8.0
  """
  logits, mask = _checked(maxent)
  return _total(jax.nn.logsumexp(logits, axis=-1), mask)


def marginals(maxent: MaxEnt) -> Array:
  """The probabilities of tags, the gradient of log Z.

  Returns:
    P(y_i) [..., n, L]; 0 at masked positions.

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.maxent import MaxEnt, marginals
    >>> marginals(MaxEnt(jnp.zeros((1, 2)))).tolist()
    [[0.5, 0.5]]
  """
  logits, mask = _checked(maxent)
  return jnp.where(mask[..., None], jax.nn.softmax(logits, axis=-1), 0.0)


def log_probs(maxent: MaxEnt) -> Array:
  """The log-probabilities of tags.

  Returns:
    log P(y_i) [..., n, L]; at masked positions those of a uniform distribution.

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.maxent import MaxEnt, log_probs
    >>> log_probs(MaxEnt(jnp.zeros((1, 2)))).round(2).tolist() == [[jnp.float32(-0.69)] * 2]
    True
  """
  return jax.nn.log_softmax(_checked(maxent)[0], axis=-1)


def viterbi(maxent: MaxEnt) -> tuple[Array, Array]:
  """The best tag at each position and their score; of equally good tags the lowest.

  Returns:
    int32 tags [..., n], 0 at masked positions, and scores [...].

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.maxent import MaxEnt, viterbi
    >>> tags, best = viterbi(MaxEnt(jnp.array([[1., 0.], [0., 3.]])))
    >>> tags.tolist(), float(best)
    ([0, 1], 4.0)
  """
  logits, mask = _checked(maxent)
  tags = jnp.where(mask, jnp.argmax(logits, axis=-1), 0).astype(jnp.int32)
  return tags, _total(jnp.max(logits, axis=-1), mask)


def entropy(maxent: MaxEnt) -> Array:
  r"""The entropy of the distribution over tag sequences, in nats: the sum of the positions'.

  Returns:
    [...] float32.

  Raises:
    ValueError: as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.maxent import MaxEnt, entropy
    >>> round(float(entropy(MaxEnt(jnp.zeros((3, 2))))), 4)
    2.0794
  """
  return cross_entropy(maxent, maxent)


def score(maxent: MaxEnt, tags: ArrayLike) -> Array:
  """The score of a tag sequence: its logits, summed.

  Args:
    maxent: n positions, L tags.
    tags: [..., n] integers in [0, L); at masked positions anything.

  Returns:
    [...] float32.

  Raises:
    ValueError: for tags that do not fit, or as `log_partition`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.maxent import MaxEnt, score
    >>> float(score(MaxEnt(jnp.array([[1., 0.], [0., 3.]])), jnp.array([0, 1])))
    4.0
  """
  logits, mask = _checked(maxent)
  tags = as_tags(tags, mask, logits.shape[-1])
  return _total(jnp.take_along_axis(logits, tags[..., None], axis=-1)[..., 0], mask)


def log_prob(maxent: MaxEnt, tags: ArrayLike) -> Array:
  """log P(tags), the sum of the positions' log-probabilities.

  Args:
    maxent: n positions, L tags.
    tags: [..., n] integers in [0, L); at masked positions anything.

  Returns:
    [...] float32.

  Raises:
    ValueError: as `score`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.maxent import MaxEnt, log_prob
    >>> round(float(jnp.exp(log_prob(MaxEnt(jnp.zeros((3, 2))), jnp.array([0, 1, 1])))), 4)
    0.125
  """
  logits, mask = _checked(maxent)
  return score(MaxEnt(jax.nn.log_softmax(logits, axis=-1), mask), tags)


def _log_probs(teacher: MaxEnt, student: MaxEnt) -> tuple[Array, Array, Array]:
  mask = shared_mask(
    teacher.mask, student.mask, jnp.asarray(teacher.logits), jnp.asarray(student.logits)
  )
  log_t, log_s = (
    jax.nn.log_softmax(_checked(maxent._replace(mask=mask))[0], axis=-1)
    for maxent in (teacher, student)
  )
  return log_t, log_s, mask


def cross_entropy(teacher: MaxEnt, student: MaxEnt) -> Array:
  r"""The cross-entropy of a student under a teacher, summed over positions.

  .. math:: -\sum_i \sum_t P_t(y_i = t) \log P_s(y_i = t)

  Both are differentiated: stop the teacher's gradient where it does not learn.

  Args:
    teacher: over the same sentences and tags.
    student: n positions, L tags.

  Returns:
    [...] float32.

  Raises:
    ValueError: for structures of different shapes or masks, or as `log_partition`.

  References:
    Wang et al., Structural Knowledge Distillation, ACL 2021, arXiv 2010.05010.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.maxent import MaxEnt, cross_entropy
    >>> maxent = MaxEnt(jnp.zeros((3, 2)))
    >>> round(float(cross_entropy(maxent, maxent)), 4)
    2.0794
  """
  log_t, log_s, mask = _log_probs(teacher, student)
  return _total(-jnp.sum(jnp.exp(log_t) * log_s, axis=-1), mask)


def kl_divergence(teacher: MaxEnt, student: MaxEnt) -> Array:
  r"""KL(teacher || student), summed over positions: never negative, 0 at equality.

  .. math:: \sum_i \sum_t P_t(y_i = t) \, (\log P_t(y_i = t) - \log P_s(y_i = t))

  Args:
    teacher: over the same sentences and tags.
    student: n positions, L tags.

  Returns:
    [...] float32.

  Raises:
    ValueError: as `cross_entropy`.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.maxent import MaxEnt, kl_divergence
    >>> maxent = MaxEnt(jnp.eye(2))
    >>> float(kl_divergence(maxent, maxent))
    0.0
  """
  log_t, log_s, mask = _log_probs(teacher, student)
  return _total(categorical_kl(log_t, log_s), mask)


def as_chain(maxent: MaxEnt) -> LinearChain:
  """The same distribution as a linear chain, with transition scores of 0.

  Returns:
    `LinearChain` with transition [..., L, L].

  Raises:
    ValueError: for integer logits.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured.maxent import MaxEnt, as_chain
    >>> as_chain(MaxEnt(jnp.ones((3, 2)))).transition.tolist()
    [[0.0, 0.0], [0.0, 0.0]]
  """
  logits = as_scores("logits", maxent.logits, "n, L")
  transition = jnp.zeros((*logits.shape[:-2], logits.shape[-1], logits.shape[-1]))
  return LinearChain(logits, transition, maxent.mask)
