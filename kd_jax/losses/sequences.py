"""Distillation of sequences that leaves the structure aside: what structural KD is compared with.

All take the student's scores first, then the teacher's, and give one value for each sentence: the sum over
its tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from kd_jax._checks import as_mask
from kd_jax._numerics import kl_from_log_probs, safe_log, times_squared_temperature
from kd_jax.losses._marginals import (
  checked_structures,
  refuse_other_shapes,
  sharpen,
  token_cross_entropy,
)
from kd_jax.structured import (
  DependencyScores,
  DependencyTrees,
  LinearChain,
  MaxEnt,
  ParsingTags,
  SpanScores,
  Structure,
  log_prob,
  marginals,
  scaled,
  tag_marginals,
  top_k,
)
from kd_jax.structured._declaration import stop_gradient
from kd_jax.structured._dependency_scores import log_head_marginals, log_relation_probs
from kd_jax.structured._generic import Labels, log_tag_marginals, token_scores
from kd_jax.structured._parsing_tags import tags_of_arcs
from kd_jax.types import EXCLUDED, NEG_INF, Array, ArrayLike


def structure_nll_loss(student: Structure, labels: Labels) -> Float[Array, "*batch"]:
  r"""Negative log-likelihood of the gold standard: :math:`-\log P_s(y | x)`, in nats.

  Args:
    student: scores of a structure.
    labels: [..., n] tags, or a `Tree`.

  Returns:
    [...] float32, a value for each sentence.

  Raises:
    ValueError: for scores of no known structure.

  Example:
    >>> import jax.numpy as jnp
    >>> from kd_jax.structured import MaxEnt
    >>> student = MaxEnt(jnp.zeros((3, 2)), None)
    >>> round(float(structure_nll_loss(student, jnp.array([0, 1, 1]))), 4)  # 3 log 2
    2.0794
  """
  return -log_prob(student, labels)


def token_kd_loss(
  student: Structure,
  teacher: Structure,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Token KD: soft targets from each token's own scores, whatever the transitions say.

  .. math:: T^2 \sum_i KL(softmax(u_t(i) / T) \,\|\, softmax(u_s(i) / T))

  with u the unary (emission) scores of a chain, or the logits of independent tags. Spans have no scores of
  tokens: those of the spans through a token stand in (their log-sums, by tag). A
  parser's come from its arc scores before any mean field.

  Args:
    student: `LinearChain`, `MaxEnt`, or `ParsingTags` for a parser (a parser as the student has none of these).
    teacher: `LinearChain`, `MaxEnt`, `SpanScores` or `DependencyScores`.
    temperature: T >= 1.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [...] float32, 0 where the distributions are equal.

  Raises:
    ValueError: for structures that have no token scores, shapes that differ or a temperature below 1.

  References:
    As a baseline of Wang et al. 2021, arXiv 2010.05010.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import MaxEnt
    >>> student, teacher = MaxEnt(jnp.zeros((1, 2))), MaxEnt(jnp.log(jnp.array([[1.0, 3.0]])))
    >>> round(float(kd_jax.token_kd_loss(student, teacher)), 4)  # log 2 - H(1/4, 3/4)
    0.1308
  """
  student, teacher = checked_structures(student, teacher, temperature)
  if stop_teacher_gradient:
    teacher = stop_gradient(teacher)
  cooled = scaled(_as_tokens(student), 1 / temperature)
  if isinstance(teacher, DependencyScores):
    targets = _parsing_targets(student, teacher._replace(refined=None))
    log_targets = safe_log(sharpen(targets, temperature, axes=1))
  elif isinstance(teacher, LinearChain | MaxEnt | SpanScores):
    own = MaxEnt(token_scores(teacher), teacher.mask)
    log_targets = log_tag_marginals(scaled(own, 1 / temperature))
  else:
    raise ValueError(f"a {type(teacher).__name__} teacher has no distribution over a token's tags")
  refuse_other_shapes(log_targets, cooled.logits)
  return times_squared_temperature(_token_kl(cooled, log_targets), temperature)


def posterior_kd_loss(
  student: Structure,
  teacher: Structure,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Posterior KD: each token's marginal under the whole structure, teacher to student.

  .. math:: - T^2 \sum_i \sum_y P_t(y_i = y | x) \log P_s(y_i = y | x)

  Both posteriors come from exact inference: forward-backward, the dynamic programme over spans, or for a
  parser the matrix-tree theorem over trees with one root. The teacher's are tempered as in
  `structural_kd_loss`, the student's scores are divided by T.

  Args:
    student: `LinearChain`, `MaxEnt`, or `ParsingTags` for a parser.
    teacher: `LinearChain`, `MaxEnt`, `SpanScores` or `DependencyScores`.
    temperature: T >= 1.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [...] float32.

  Raises:
    ValueError: for structures without tags, shapes that differ or a temperature below 1.

  References:
    Wang et al., Structure-Level Knowledge Distillation For Multilingual Sequence Labeling, ACL 2020,
    arXiv 2004.03846.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import LinearChain, MaxEnt
    >>> # Two tokens must have one tag: 00 has 1/4 and 11 has 3/4, and so P(1) = 3/4 at either token.
    >>> stay = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]])
    >>> teacher = LinearChain(jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0]])), stay)
    >>> student = MaxEnt(jnp.log(jnp.array([[1.0, 3.0], [3.0, 1.0]])))
    >>> loss = kd_jax.posterior_kd_loss(student, teacher)
    >>> round(float(loss), 4)  # (3 log 4/3 + log 4) / 4 + (3 log 4 + log 4/3) / 4
    1.674
  """
  student, teacher = checked_structures(student, teacher, temperature)
  if stop_teacher_gradient:
    teacher = stop_gradient(teacher)
  if isinstance(teacher, DependencyScores):
    targets = _parsing_targets(student, _with_tree_marginals(teacher))
  elif isinstance(teacher, LinearChain | MaxEnt | SpanScores):
    targets = tag_marginals(teacher)
  else:
    raise ValueError(f"a {type(teacher).__name__} teacher has no posterior over a token's tags")
  if isinstance(student, LinearChain):
    refuse_other_shapes(targets, student.unary)
    targets = sharpen(targets, temperature, axes=1)
    log_student = log_tag_marginals(scaled(student, 1 / temperature))
    values = jnp.where(targets != 0, targets * log_student, 0.0)
    return times_squared_temperature(-jnp.sum(values, axis=(-2, -1)), temperature)
  return token_cross_entropy(_as_tokens(student), targets, temperature)


def k_best_kd_loss(
  student: Structure,
  teacher: Structure,
  *,
  k: int,
  weighted: bool = True,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Top-k KD: the teacher's k best structures as labels.

  .. math:: - \sum_{j=1}^k w_j \log P_s(\hat y_j | x)

  with w_j = 1/k, or (weighted) proportional to the teacher's probability of the structure.

  Args:
    student: scores of a structure over the same tags, or `ParsingTags` for a parser.
    teacher: any structure that has `top_k`.
    k: how many; where a sentence has fewer structures, all of them.
    weighted: by the teacher's probabilities.
    stop_teacher_gradient: False lets the weights learn.

  Returns:
    [...] float32.

  Raises:
    ValueError: k below 1, or a teacher whose labellings are not the student's.

  References:
    Wang et al., ACL 2020, arXiv 2004.03846, top-K and top-WK distillation.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import MaxEnt
    >>> student, teacher = (MaxEnt(jnp.log(jnp.array([row]))) for row in ([3.0, 1.0], [1.0, 3.0]))
    >>> round(float(kd_jax.k_best_kd_loss(student, teacher, k=2)), 4)  # (3 log 4 + log 4/3) / 4
    1.1116
  """
  student, teacher = checked_structures(student, teacher)
  if stop_teacher_gradient:
    teacher = stop_gradient(teacher)
  _refuse_other_labels(student, teacher)
  paths, log_weights = top_k(teacher, k)
  if not weighted:
    existing = log_weights > EXCLUDED
    log_weights = jnp.where(existing, 0.0, NEG_INF)
  weights = jax.nn.softmax(log_weights, axis=-1)
  return -jnp.sum(weights * _log_probs_of_paths(student, paths, log_weights), axis=-1)


def fuzzy_crf_loss(
  student: Structure, teacher: Structure, *, k: int, stop_teacher_gradient: bool = True
) -> Float[Array, "*batch"]:
  r"""Fuzzy CRF: the student's probability of any of the teacher's k best structures.

  .. math:: - \log \sum_{j=1}^k P_s(\hat y_j | x)

  Which of them is right is left to the student.

  Args:
    student: scores of a structure over the same tags.
    teacher: `LinearChain`, `MaxEnt` or `SpanScores`.
    k: how many.
    stop_teacher_gradient: for the interface that all losses share: paths have no gradient.

  Returns:
    [...] float32, >= 0: the structures are distinct.

  Raises:
    ValueError: as `k_best_kd_loss`.

  References:
    Zhou et al., Multi-Grained Knowledge Distillation for Named Entity Recognition, NAACL 2021.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import MaxEnt
    >>> student, teacher = (MaxEnt(jnp.log(jnp.array([row]))) for row in ([3.0, 1.0], [1.0, 3.0]))
    >>> round(float(kd_jax.fuzzy_crf_loss(student, teacher, k=1)), 4)  # log 4
    1.3863
  """
  student, teacher = checked_structures(student, teacher)
  if stop_teacher_gradient:
    teacher = stop_gradient(teacher)
  _refuse_other_labels(student, teacher)
  paths, scores = top_k(teacher, k)
  log_probs = _log_probs_of_paths(student, paths, scores)
  existing = jax.lax.stop_gradient(scores) > EXCLUDED
  # Rounding alone could lift the sum above 1.
  return jnp.maximum(-jax.nn.logsumexp(jnp.where(existing, log_probs, NEG_INF), axis=-1), 0.0)


def _refuse_other_labels(student: Structure, teacher: Structure) -> None:
  """Refuses labellings that are none of the student's, such as tags that are no segmentation."""
  kinds = {
    SpanScores: (SpanScores,),
    DependencyTrees: (DependencyTrees,),
    DependencyScores: (DependencyScores,),
    ParsingTags: (DependencyScores,),
  }
  expected = kinds.get(type(student), (LinearChain, MaxEnt, SpanScores))
  if not isinstance(teacher, expected):
    raise ValueError(
      f"a {type(teacher).__name__} teacher's labellings are no labels for a {type(student).__name__} student: "
      f"let {' or '.join(kind.__name__ for kind in expected)} teach it"
    )


def _log_probs_of_paths(student: Structure, paths: Labels, scores: Array) -> Array:
  """[..., k] student's log-probabilities; 0 for labellings that do not exist."""
  log_probs = jax.vmap(lambda path: log_prob(student, path), in_axes=-2, out_axes=-1)(paths)
  return jnp.where(scores > EXCLUDED, log_probs, 0.0)


def _as_tokens(student: Structure) -> MaxEnt:
  """The student's scores of single tokens, as independent tags."""
  if isinstance(student, LinearChain | MaxEnt | ParsingTags):
    return MaxEnt(token_scores(student), student.mask)
  raise ValueError(f"a {type(student).__name__} student has no scores of a token's tags")


def _parsing_targets(student: Structure, teacher: DependencyScores) -> Array:
  if not isinstance(student, ParsingTags):
    raise ValueError(f"a parser teaches ParsingTags here, not {type(student).__name__}")
  return tags_of_arcs(log_head_marginals(teacher), log_relation_probs(teacher), student)


def _with_tree_marginals(teacher: DependencyScores) -> DependencyScores:
  """Head marginals over all trees with one root, of the heads' log-probabilities."""
  trees = DependencyTrees(log_head_marginals(teacher), teacher.mask)
  return teacher._replace(refined=safe_log(marginals(trees)))


def _token_kl(student: MaxEnt, log_targets: Array) -> Array:
  """Sum over the positions of KL(targets || student); padding and targets of nothing count 0."""
  values = kl_from_log_probs(log_targets, log_tag_marginals(student))
  counted = as_mask(student.mask, values.shape) & jnp.any(log_targets > EXCLUDED, axis=-1)
  return jnp.sum(jnp.where(counted, values, 0.0), axis=-1)
