"""Distillation of sequences that leaves the structure aside: what structural KD is compared with.

All take the teacher's scores first, then the student's, and give one value for each sentence: the sum over
its tokens.
"""

import jax
import jax.numpy as jnp

from kd_jax.losses.divergences import kl_from_log_probs
from kd_jax.losses.inputs import times_squared_temperature
from kd_jax.losses.marginals import (
  at_the_door,
  divide,
  refuse_other_shapes,
  sharpen,
  token_cross_entropy,
  with_one_mask,
)
from kd_jax.structured import (
  dependency,
  linear_chain,
  maxent,
  parsing_as_tagging,
  span_paths,
  spans,
)
from kd_jax.structured.dependency import DependencyScores, ParsingTags
from kd_jax.structured.linear_chain import LinearChain
from kd_jax.structured.maxent import MaxEnt
from kd_jax.structured.spans import SpanScores
from kd_jax.structured.structure import Parse, as_chain, decode, log_prob
from kd_jax.types import EXCLUDED, NEG_INF, Array, ArrayLike, PyTree


def structure_nll_loss(student: PyTree, labels: PyTree) -> Array:
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
    >>> from kd_jax.structured.maxent import MaxEnt
    >>> student = MaxEnt(jnp.zeros((3, 2)), None)
    >>> round(float(structure_nll_loss(student, jnp.array([0, 1, 1]))), 4)  # 3 log 2
    2.0794
  """
  return -log_prob(student, labels)


def token_kd_loss(
  teacher: PyTree,
  student: PyTree,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""Token KD: soft targets from each token's own scores, whatever the transitions say.

  .. math:: T^2 \sum_i KL(softmax(u_t(i) / T) \,\|\, softmax(u_s(i) / T))

  with u the unary (emission) scores of a chain, or the logits of independent tags. Spans have no scores of
  tokens: those of the spans through a token stand in (`kd_jax.structured.span_paths.token_scores`). A
  parser's come from its arc scores before any mean field.

  Args:
    teacher: `LinearChain`, `MaxEnt`, `SpanScores` or `DependencyScores`.
    student: `LinearChain`, `MaxEnt`, or `ParsingTags` for a parser (a parser as the student has none of these).
    temperature: T >= 1.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [...] float32, 0 where the distributions are equal.

  Raises:
    ValueError: for structures that have no token scores, shapes that differ or a temperature below 1.

  References:
    As a baseline of Wang et al. 2021, arXiv 2010.05010.
  """
  teacher = at_the_door(teacher, temperature, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  match teacher:
    case LinearChain() | MaxEnt():
      log_targets = maxent.log_probs(divide(_emissions(teacher), temperature))
    case SpanScores():
      own = MaxEnt(span_paths.token_scores(*teacher), teacher.mask)
      log_targets = maxent.log_probs(divide(own, temperature))
    case DependencyScores():
      marginals = _parsing_marginals(teacher._replace(refined=None), student)
      log_targets = _safe_log(sharpen(marginals, temperature, axes=1))
    case _:
      raise ValueError(
        f"a {type(teacher).__name__} teacher has no distribution over a token's tags"
      )
  cooled = divide(_emissions(student), temperature)
  refuse_other_shapes(log_targets, cooled.logits)
  return times_squared_temperature(_token_kl(log_targets, cooled), temperature)


def posterior_kd_loss(
  teacher: PyTree,
  student: PyTree,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""Posterior KD: each token's marginal under the whole structure, teacher to student.

  .. math:: - T^2 \sum_i \sum_y P_t(y_i = y | x) \log P_s(y_i = y | x)

  Both posteriors come from exact inference: forward-backward, the dynamic programme over spans, or for a
  parser the matrix-tree theorem over trees with one root. The teacher's are tempered as in
  `structural_kd_loss`, the student's scores are divided by T.

  Args:
    teacher: `LinearChain`, `MaxEnt`, `SpanScores` or `DependencyScores`.
    student: `LinearChain`, `MaxEnt`, or `ParsingTags` for a parser.
    temperature: T >= 1.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [...] float32.

  Raises:
    ValueError: for structures without tags, shapes that differ or a temperature below 1.

  References:
    Wang et al., Structure-Level Knowledge Distillation For Multilingual Sequence Labeling, ACL 2020,
    arXiv 2004.03846.
  """
  teacher = at_the_door(teacher, temperature, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  match teacher:
    case LinearChain():
      marginals = linear_chain.marginals(teacher)[0]
    case MaxEnt():
      marginals = maxent.marginals(teacher)
    case SpanScores():
      marginals = spans.tag_marginals(*teacher)
    case DependencyScores():
      marginals = _parsing_marginals(_with_tree_marginals(teacher), student)
    case _:
      raise ValueError(f"a {type(teacher).__name__} teacher has no posterior over a token's tags")
  if isinstance(student, LinearChain):
    refuse_other_shapes(marginals, student.unary)
    targets = sharpen(marginals, temperature, axes=1)
    log_student = linear_chain.log_marginals(divide(student, temperature))
    values = jnp.where(targets != 0, targets * log_student, 0.0)
    return times_squared_temperature(-jnp.sum(values, axis=(-2, -1)), temperature)
  return token_cross_entropy(marginals, _emissions(student), temperature)


def k_best_kd_loss(
  teacher: PyTree,
  student: PyTree,
  *,
  k: int,
  weighted: bool = True,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""Top-k KD: the teacher's k best structures as labels.

  .. math:: - \sum_{j=1}^k w_j \log P_s(\hat y_j | x)

  with w_j = 1/k, or (weighted) proportional to the teacher's probability of the structure.

  Args:
    teacher: `LinearChain`, `MaxEnt` or `SpanScores`; for k = 1 also `DependencyScores`.
    student: scores of a structure over the same tags, or `ParsingTags` for a parser.
    k: how many; where a sentence has fewer structures, all of them.
    weighted: by the teacher's probabilities.
    stop_teacher_gradient: False lets the weights learn.

  Returns:
    [...] float32.

  Raises:
    ValueError: k below 1, or above it for a teacher whose k best are not known.

  References:
    Wang et al., ACL 2020, arXiv 2004.03846, top-K and top-WK distillation.
  """
  teacher = at_the_door(teacher, 1.0, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  _refuse_other_structures(teacher, student)
  paths, log_weights = _k_best(teacher, k)
  if not weighted:
    existing = log_weights > EXCLUDED
    log_weights = jnp.where(existing, 0.0, NEG_INF)
  weights = jax.nn.softmax(log_weights, axis=-1)
  return -jnp.sum(weights * _log_probs_of_paths(student, paths, log_weights), axis=-1)


def fuzzy_crf_loss(
  teacher: PyTree, student: PyTree, *, k: int, stop_teacher_gradient: bool = True
) -> Array:
  r"""Fuzzy CRF: the student's probability of any of the teacher's k best structures.

  .. math:: - \log \sum_{j=1}^k P_s(\hat y_j | x)

  Which of them is right is left to the student.

  Args:
    teacher: `LinearChain`, `MaxEnt` or `SpanScores`.
    student: scores of a structure over the same tags.
    k: how many.
    stop_teacher_gradient: for the interface that all losses share: paths have no gradient.

  Returns:
    [...] float32, >= 0: the structures are distinct.

  Raises:
    ValueError: as `k_best_kd_loss`.

  References:
    Zhou et al., Multi-Grained Knowledge Distillation for Named Entity Recognition, NAACL 2021.
  """
  teacher = at_the_door(teacher, 1.0, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  _refuse_other_structures(teacher, student)
  paths, scores = _k_best(teacher, k)
  log_probs = _log_probs_of_paths(student, paths, scores)
  existing = jax.lax.stop_gradient(scores) > EXCLUDED
  # Rounding alone could lift the sum above 1.
  return jnp.maximum(-jax.nn.logsumexp(jnp.where(existing, log_probs, NEG_INF), axis=-1), 0.0)


def _k_best(teacher: PyTree, k: int) -> tuple[PyTree, Array]:
  """(structures with an axis k, scores [..., k]); scores of those that do not exist are NEG_INF."""
  if k < 1:
    raise ValueError(f"k must be at least 1, got {k}")
  if isinstance(teacher, LinearChain | MaxEnt):
    return linear_chain.k_best(as_chain(teacher), k)
  if isinstance(teacher, SpanScores):
    return span_paths.k_best(teacher.scores, k, teacher.mask)
  if k > 1:
    raise ValueError(
      f"the k best of a {type(teacher).__name__} teacher are known for k = 1 only, got k = {k}"
    )
  best = jax.lax.stop_gradient(decode(teacher))
  first = best.heads if isinstance(best, Parse) else best
  paths = jax.tree.map(lambda x: x[..., None, :], best)
  return paths, jnp.zeros((*first.shape[:-1], 1), jnp.float32)


def _refuse_other_structures(teacher: PyTree, student: PyTree) -> None:
  """Paths of tags that are no segmentation, or several that are one, have no probability under spans."""
  if isinstance(student, SpanScores) and not isinstance(teacher, SpanScores):
    raise ValueError(
      f"a {type(teacher).__name__} teacher's paths are no labels for a SpanScores student: let spans teach it"
    )


def _log_probs_of_paths(student: PyTree, paths: PyTree, scores: Array) -> Array:
  """[..., k] student's log-probabilities; 0 for structures that do not exist."""
  log_probs = jax.vmap(lambda path: log_prob(student, path), in_axes=-2, out_axes=-1)(paths)
  return jnp.where(scores > EXCLUDED, log_probs, 0.0)


def _emissions(scores: PyTree) -> MaxEnt:
  """The scores of single tokens, as independent tags."""
  match scores:
    case LinearChain():
      return MaxEnt(scores.unary, scores.mask)
    case MaxEnt():
      return scores
    case ParsingTags():
      return MaxEnt(scores.logits, scores.mask)
  raise ValueError(f"a {type(scores).__name__} student has no scores of a token's tags")


def _parsing_marginals(teacher: DependencyScores, student: PyTree) -> Array:
  if not isinstance(student, ParsingTags):
    raise ValueError(f"a parser teaches ParsingTags here, not {type(student).__name__}")
  heads = parsing_as_tagging.log_head_marginals(teacher)
  return parsing_as_tagging.tag_marginals(
    heads, parsing_as_tagging.log_relation_probs(teacher), student
  )


def _with_tree_marginals(teacher: DependencyScores) -> DependencyScores:
  """Head marginals over all trees with one root, of the heads' log-probabilities."""
  heads = parsing_as_tagging.log_head_marginals(teacher)
  marginals = dependency.spanning_tree_marginals(heads, teacher.mask)
  return teacher._replace(refined=_safe_log(marginals))


def _safe_log(probabilities: Array) -> Array:
  """log p, NEG_INF at 0; the gradient there is 0."""
  possible = probabilities > 0
  return jnp.where(possible, jnp.log(jnp.where(possible, probabilities, 1.0)), NEG_INF)


def _token_kl(log_targets: Array, student: MaxEnt) -> Array:
  """Sum over the positions of KL(targets || student); padding and targets of nothing count 0."""
  values = kl_from_log_probs(log_targets, maxent.log_probs(student))
  values = jnp.where(jnp.any(log_targets > EXCLUDED, axis=-1), values, 0.0)
  if student.mask is not None:
    values = jnp.where(jnp.asarray(student.mask).astype(bool), values, 0.0)
  return jnp.sum(values, axis=-1)
