r"""Structural knowledge distillation: the cross-entropy between two distributions over structures.

Factorised over the student's substructures u, it is computed exactly although there are exponentially many
structures:

.. math::
  L = - \sum_u P_t(u|x) \, Score_s(u, x) + \log Z_s(x)   \quad\text{globally normalised student}

  L = - \sum_u P_t(u|x) \log P_s(u|x)                    \quad\text{locally normalised student}

What differs from case to case is how the teacher's marginals P_t(u|x) are found. Every case takes the
teacher first and gives one value for each sentence, the sum over its substructures.

Temperature, as in the released code: the teacher's marginals are taken at T = 1, raised to 1/T and
renormalised LOCALLY, over the values of one substructure; the student's scores and its log-partition are
divided by T, and the term is multiplied by T². T = 1 is exact. At other temperatures the tempered pairs of
case 1a no longer agree with one another on the tag that they share: it is then not a cross-entropy, and can
fall below the student's entropy and even below zero (the released code clips it, which stops its gradient).

References:
  Wang et al., Structural Knowledge Distillation: Tractably Distilling Information for Structured Predictor,
  ACL 2021, arXiv 2010.05010.
"""

import jax.numpy as jnp

from kd_jax.losses.inputs import times_squared_temperature
from kd_jax.losses.marginals import (
  at_the_door,
  divide,
  expect,
  is_one,
  refuse_other_shapes,
  sharpen,
  token_cross_entropy,
  with_one_mask,
)
from kd_jax.structured import linear_chain, maxent, parsing_as_tagging, spans
from kd_jax.structured.dependency import DependencyScores, ParsingTags
from kd_jax.structured.linear_chain import LinearChain
from kd_jax.structured.maxent import MaxEnt
from kd_jax.structured.spans import SpanScores
from kd_jax.types import Array, ArrayLike, PyTree


def structural_kd_loss(
  teacher: PyTree,
  student: PyTree,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""The cross-entropy of the student's structures under the teacher's distribution.

  The types of the two say which case it is:

  ==== ======================================== ==============================
  case teacher                                  student
  ==== ======================================== ==============================
  1a   `LinearChain`                            `LinearChain`
  1b   `DependencyScores`                       `ParsingTags`
  2a   `LinearChain`                            `MaxEnt`
  2b   `DependencyScores` with `refined`        `ParsingTags`
  3    `MaxEnt`                                 `LinearChain`
  4    `SpanScores`                             `MaxEnt` over BIOES tags
  ==== ======================================== ==============================

  Beyond the paper's table, `MaxEnt` to `MaxEnt`, `SpanScores` to `SpanScores` (at T = 1 alone), and a
  first-order parser (`DependencyScores`) as the student of 1b and 2b go too.

  A student that excludes (by NEG_INF) what the teacher allows has an infinite cross-entropy, here a finite one
  near 1e30: constrain both, or the teacher alone.

  Args:
    teacher: scores of the teacher's structure.
    student: scores of the student's structure, of the same sentences.
    temperature: T >= 1, a scalar; see the head of this module for what it means here.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [...] float32, a value for each sentence.

  Raises:
    ValueError: for a pair of structures that is no case, shapes that differ or a temperature below 1.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured.linear_chain import LinearChain
    >>> chain = LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2)))  # all 8 paths are equally likely
    >>> round(float(kd_jax.structural_kd_loss(chain, chain)), 4)  # log 8
    2.0794
  """
  fitting = [loss for t, s, loss in _BY_TYPE if isinstance(teacher, t) and isinstance(student, s)]
  if not fitting:
    raise ValueError(
      f"no case of structural KD takes a {type(teacher).__name__} teacher and a "
      f"{type(student).__name__} student: cases are "
      + ", ".join(f"{t.__name__} to {s.__name__}" for t, s, _ in _BY_TYPE)
    )
  loss = fitting[0]
  if loss is structural_kd_case_1b and teacher.refined is not None:
    loss = structural_kd_case_2b
  return loss(
    teacher, student, temperature=temperature, stop_teacher_gradient=stop_teacher_gradient
  )


def structural_kd_case_1a(
  teacher: LinearChain,
  student: LinearChain,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""Linear-chain CRF to linear-chain CRF: marginals of pairs of tags by forward-backward.

  .. math:: P_t(y_{i-1}, y_i) \propto \exp(\alpha(y_{i-1}) + Score_t(y_{i-1}, y_i) + \beta(y_i))

  Args, Returns and Raises as of `structural_kd_loss`.
  """
  expect(teacher, LinearChain)
  expect(student, LinearChain)
  teacher = at_the_door(teacher, temperature, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  if is_one(temperature):
    return linear_chain.cross_entropy(teacher, student)
  refuse_other_shapes(teacher.unary, student.unary)
  unary, pairwise = linear_chain.marginals(teacher)
  cooled = divide(student, temperature)
  first = sharpen(unary[..., 0, :], temperature, axes=1)
  pairs = sharpen(pairwise, temperature, axes=2)
  first_score = jnp.where(first != 0, cooled.unary[..., 0, :].astype(jnp.float32), 0.0)
  pair_scores = cooled.transition[..., None, :, :] + cooled.unary[..., 1:, None, :]
  # What the teacher excludes counts 0, and so does padding.
  pair_scores = jnp.where(pairs != 0, pair_scores, 0.0)
  expected = jnp.sum(first * first_score, axis=-1) + jnp.sum(pairs * pair_scores, axis=(-3, -2, -1))
  return times_squared_temperature(linear_chain.log_partition(cooled) - expected, temperature)


def structural_kd_case_1b(
  teacher: DependencyScores,
  student: ParsingTags | DependencyScores,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""Graph-based parser to dependency parsing as tagging.

  .. math:: P_t((d, r) | i) \propto P_{arc}(head = i + d \,|\, i) \, P_{rel}(r \,|\, i, i + d)

  renormalised over the student's labels (d, r); P_arc is the teacher's softmax over heads. A token whose
  head and relation none of the student's labels can name counts 0.

  Args, Returns and Raises as of `structural_kd_loss`.
  """
  expect(teacher, DependencyScores)
  expect(student, ParsingTags, DependencyScores)
  return _parsing_case(teacher._replace(refined=None), student, temperature, stop_teacher_gradient)


def structural_kd_case_2a(
  teacher: LinearChain,
  student: MaxEnt,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""Linear-chain CRF to independent tags: marginals of single tags by forward-backward.

  .. math:: P_t(y_i) \propto \exp(\alpha(y_i) + \beta(y_i))

  Args, Returns and Raises as of `structural_kd_loss`.
  """
  expect(teacher, LinearChain)
  expect(student, MaxEnt)
  teacher = at_the_door(teacher, temperature, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  return token_cross_entropy(linear_chain.marginals(teacher)[0], student, temperature)


def structural_kd_case_2b(
  teacher: DependencyScores,
  student: ParsingTags | DependencyScores,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  """Second-order parser to a first-order student: as case 1b, with P_arc after mean-field inference.

  The teacher's `refined` holds the logarithms of those head marginals: the second-order parser gives them,
  and `kd_jax.structured.dependency.mean_field_marginals` computes them from scores.

  Args, Returns and Raises as of `structural_kd_loss`; and ValueError for a teacher without `refined`.
  """
  expect(teacher, DependencyScores)
  expect(student, ParsingTags, DependencyScores)
  if teacher.refined is None:
    raise ValueError("case 2b needs a second-order teacher, whose `refined` is not None: see 1b")
  return _parsing_case(teacher, student, temperature, stop_teacher_gradient)


def structural_kd_case_3(
  teacher: MaxEnt,
  student: LinearChain,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  r"""Independent tags to linear-chain CRF.

  .. math:: P_t(y_{i-1}, y_i) = P_t(y_{i-1}) \, P_t(y_i)

  Products of tempered marginals agree with one another, so this is a cross-entropy at every temperature.

  Args, Returns and Raises as of `structural_kd_loss`.
  """
  expect(teacher, MaxEnt)
  expect(student, LinearChain)
  teacher = at_the_door(teacher, temperature, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  chain = maxent.as_chain(divide(teacher, temperature))
  loss = linear_chain.cross_entropy(chain, divide(student, temperature))
  return times_squared_temperature(loss, temperature)


def structural_kd_case_4(
  teacher: SpanScores,
  student: MaxEnt,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  """Named entity recognition as parsing (spans) to independent BIOES tags.

  The teacher's marginals of tags come from the dynamic programme of
  `kd_jax.structured.spans.tag_marginals`; the student's tags are numbered as there.

  Args, Returns and Raises as of `structural_kd_loss`.
  """
  expect(teacher, SpanScores)
  expect(student, MaxEnt)
  teacher = at_the_door(teacher, temperature, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  return token_cross_entropy(spans.tag_marginals(*teacher), student, temperature)


def structural_kd_maxent(
  teacher: MaxEnt,
  student: MaxEnt,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  """Independent tags to independent tags: structural KD is token KD, up to the teacher's entropy.

  Args, Returns and Raises as of `structural_kd_loss`.
  """
  expect(teacher, MaxEnt)
  expect(student, MaxEnt)
  teacher = at_the_door(teacher, temperature, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  return token_cross_entropy(maxent.marginals(teacher), student, temperature)


def structural_kd_spans(
  teacher: SpanScores,
  student: SpanScores,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Array:
  """Spans to spans: the cross-entropy over segmentations, by the same dynamic programme.

  Args, Returns and Raises as of `structural_kd_loss`; and ValueError for a temperature other than 1: marginals
  of spans that overlap cannot be renormalised one by one.
  """
  expect(teacher, SpanScores)
  expect(student, SpanScores)
  if not is_one(temperature):
    raise ValueError(f"from spans to spans the temperature is 1, got {temperature}")
  teacher = at_the_door(teacher, temperature, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  return spans.cross_entropy(teacher.scores, student.scores, student.mask)


STRUCTURAL_KD_CASES = {
  "1a": structural_kd_case_1a,
  "1b": structural_kd_case_1b,
  "2a": structural_kd_case_2a,
  "2b": structural_kd_case_2b,
  "3": structural_kd_case_3,
  "4": structural_kd_case_4,
}
"""The rows of the paper's table of cases."""

_BY_TYPE = (
  (LinearChain, LinearChain, structural_kd_case_1a),
  (LinearChain, MaxEnt, structural_kd_case_2a),
  (MaxEnt, LinearChain, structural_kd_case_3),
  (MaxEnt, MaxEnt, structural_kd_maxent),
  (SpanScores, MaxEnt, structural_kd_case_4),
  (SpanScores, SpanScores, structural_kd_spans),
  (DependencyScores, ParsingTags, structural_kd_case_1b),
  (DependencyScores, DependencyScores, structural_kd_case_1b),
)


def _parsing_case(
  teacher: DependencyScores,
  student: ParsingTags | DependencyScores,
  temperature: ArrayLike,
  stop_teacher_gradient: bool,
) -> Array:
  teacher = at_the_door(teacher, temperature, stop_teacher_gradient)
  teacher, student = with_one_mask(teacher, student)
  heads, relations = (
    parsing_as_tagging.log_head_marginals(teacher),
    parsing_as_tagging.log_relation_probs(teacher),
  )
  if isinstance(student, ParsingTags):
    marginals = parsing_as_tagging.tag_marginals(heads, relations, student)
    return token_cross_entropy(marginals, MaxEnt(student.logits, student.mask), temperature)
  refuse_other_shapes(teacher.relation, student.relation)
  cooled = student._replace(
    arc=jnp.asarray(student.arc, jnp.float32) / temperature,
    relation=jnp.asarray(student.relation, jnp.float32) / temperature,
  )
  log_heads = parsing_as_tagging.log_head_marginals(cooled)
  log_relations = parsing_as_tagging.log_relation_probs(cooled)
  target = sharpen(jnp.exp(heads), temperature, axes=1)
  relation_target = sharpen(jnp.exp(relations), temperature, axes=1)
  inner = jnp.sum(relation_target * log_relations, axis=-1)
  values = jnp.where(target != 0, target * (log_heads + inner), 0.0)
  return times_squared_temperature(-jnp.sum(values, axis=(-2, -1)), temperature)
