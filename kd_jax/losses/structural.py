r"""Structural knowledge distillation: the cross-entropy between two distributions over structures.

Factorised over the student's substructures u, it is computed exactly although there are exponentially many
structures:

.. math::
  L = - \sum_u P_t(u|x) \, Score_s(u, x) + \log Z_s(x)   \quad\text{globally normalised student}

  L = - \sum_u P_t(u|x) \log P_s(u|x)                    \quad\text{locally normalised student}

What differs from case to case is how the teacher's marginals P_t(u|x) are found. Every case takes the
student first and gives one value for each sentence, the sum over its substructures.

Temperature, as in the released code: the teacher's marginals are taken at T = 1, raised to 1/T and
renormalised LOCALLY, over the values of one substructure; the student's scores and its log-partition are
divided by T, and the term is multiplied by T². T = 1 is exact. At other temperatures the tempered pairs of
case 1a no longer agree with one another on the tag that they share: it is then not a cross-entropy, and can
fall below the student's entropy and even below zero (the released code clips it, which stops its gradient).

References:
  Wang et al., Structural Knowledge Distillation: Tractably Distilling Information for Structured Predictor,
  ACL 2021, arXiv 2010.05010.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from jaxtyping import Float

from kd_jax._numerics import times_squared_temperature
from kd_jax.losses._marginals import (
  checked_structures,
  is_one,
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
  cross_entropy,
  log_partition,
  marginals,
  scaled,
  tag_marginals,
)
from kd_jax.structured._chain import closed
from kd_jax.structured._declaration import stop_gradient
from kd_jax.structured._dependency_scores import log_head_marginals, log_relation_probs
from kd_jax.structured._maxent import as_chain
from kd_jax.structured._parsing_tags import tags_of_arcs
from kd_jax.types import Array, ArrayLike


def structural_kd_loss(
  student: Structure,
  teacher: Structure,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""The cross-entropy of the student's structures under the teacher's distribution.

  The types of the two say which case it is:

  ==== ============================== ========================================
  case student                        teacher
  ==== ============================== ========================================
  1a   `LinearChain`                  `LinearChain`
  1b   `ParsingTags`                  `DependencyScores`
  2a   `MaxEnt`                       `LinearChain`
  2b   `ParsingTags`                  `DependencyScores` with `refined`
  3    `LinearChain`                  `MaxEnt`
  4    `MaxEnt` over BIOES tags       `SpanScores`
  ==== ============================== ========================================

  Beyond the paper's table, `MaxEnt` learns from `MaxEnt`, `SpanScores` from `SpanScores` and
  `DependencyTrees` from `DependencyTrees` (both at T = 1 alone), and a first-order parser
  (`DependencyScores`) as in 1b and 2b.

  A student that excludes (by NEG_INF) what the teacher allows has an infinite cross-entropy, here a finite one
  near 1e30: constrain both, or the teacher alone.

  Args:
    student: scores of the student's structure.
    teacher: scores of the teacher's structure, of the same sentences. A mask may be given once.
    temperature: T >= 1, a scalar; see the head of this module for what it means here.
    stop_teacher_gradient: False where the teacher learns too.

  Returns:
    [...] float32, a value for each sentence.

  Raises:
    ValueError: for a pair of structures that is no case, shapes that differ or a temperature below 1.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import LinearChain
    >>> chain = LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2)))  # all 8 paths are equally likely
    >>> round(float(kd_jax.structural_kd_loss(chain, chain)), 4)  # log 8
    2.0794
  """
  loss = _CASES.get((type(student), type(teacher)))
  if loss is None:
    pairs = ", ".join(f"{s.__name__} from {t.__name__}" for s, t in _CASES)
    raise ValueError(
      f"no case of structural KD has a {type(student).__name__} student and a {type(teacher).__name__} "
      f"teacher: cases are {pairs}"
    )
  student, teacher = checked_structures(student, teacher, temperature)
  if stop_teacher_gradient:
    teacher = stop_gradient(teacher)
  return loss(student, teacher, temperature)


# The cases by the types of student and teacher. Each gets both with one mask, and T checked.

_Case = TypeVar("_Case", bound=Callable[..., Array])
_CASES: dict[tuple[type, type], Callable[..., Array]] = {}
"""(student, teacher, temperature) -> [...], by the types of the first two."""


def _case(student: type[Structure], teacher: type[Structure]) -> Callable[[_Case], _Case]:
  def register(loss: _Case) -> _Case:
    _CASES[student, teacher] = loss
    return loss

  return register


@_case(LinearChain, LinearChain)
def _chain_from_chain(student: LinearChain, teacher: LinearChain, temperature: ArrayLike) -> Array:
  if is_one(temperature):
    return cross_entropy(teacher, student)
  refuse_other_shapes(teacher.unary, student.unary)
  student, teacher = closed(student), closed(teacher)
  unary, pairwise = marginals(teacher)
  cooled = scaled(student, 1 / temperature)
  first = sharpen(unary[..., 0, :], temperature, axes=1)
  pairs = sharpen(pairwise, temperature, axes=2)
  scores, transition = jnp.asarray(cooled.unary), jnp.asarray(cooled.transition)
  first_score = jnp.where(first != 0, scores[..., 0, :], 0.0)
  pair_scores = transition[..., None, :, :] + scores[..., 1:, None, :]
  # What the teacher excludes counts 0, and so does padding.
  pair_scores = jnp.where(pairs != 0, pair_scores, 0.0)
  expected = jnp.sum(first * first_score, axis=-1) + jnp.sum(pairs * pair_scores, axis=(-3, -2, -1))
  return times_squared_temperature(log_partition(cooled) - expected, temperature)


@_case(LinearChain, MaxEnt)
def _chain_from_tokens(student: LinearChain, teacher: MaxEnt, temperature: ArrayLike) -> Array:
  factor = 1 / temperature
  loss = cross_entropy(as_chain(scaled(teacher, factor)), scaled(student, factor))
  return times_squared_temperature(loss, temperature)


@_case(MaxEnt, LinearChain)
@_case(MaxEnt, SpanScores)
@_case(MaxEnt, MaxEnt)
def _tokens_from_tags(student: MaxEnt, teacher: Structure, temperature: ArrayLike) -> Array:
  return token_cross_entropy(student, tag_marginals(teacher), temperature)


@_case(SpanScores, SpanScores)
@_case(DependencyTrees, DependencyTrees)
def _same_parts(student: Structure, teacher: Structure, temperature: ArrayLike) -> Array:
  if not is_one(temperature):
    raise ValueError(
      f"temperature must be 1 from {type(teacher).__name__} to {type(student).__name__}, got {temperature}: "
      "marginals of their parts cannot be renormalised one by one"
    )
  return cross_entropy(teacher, student)


@_case(ParsingTags, DependencyScores)
def _tags_from_parser(
  student: ParsingTags, teacher: DependencyScores, temperature: ArrayLike
) -> Array:
  targets = tags_of_arcs(log_head_marginals(teacher), log_relation_probs(teacher), student)
  return token_cross_entropy(MaxEnt(student.logits, student.mask), targets, temperature)


@_case(DependencyScores, DependencyScores)
def _parser_from_parser(
  student: DependencyScores, teacher: DependencyScores, temperature: ArrayLike
) -> Array:
  refuse_other_shapes(teacher.relation, student.relation)
  cooled = scaled(student, 1 / temperature)
  log_heads, log_relations = log_head_marginals(cooled), log_relation_probs(cooled)
  target = sharpen(jnp.exp(log_head_marginals(teacher)), temperature, axes=1)
  relation_target = sharpen(jnp.exp(log_relation_probs(teacher)), temperature, axes=1)
  inner = jnp.sum(relation_target * log_relations, axis=-1)
  values = jnp.where(target != 0, target * (log_heads + inner), 0.0)
  return times_squared_temperature(-jnp.sum(values, axis=(-2, -1)), temperature)


# The rows of the paper's table, by name.

_TYPES = {
  "1a": ((LinearChain,), LinearChain),
  "1b": ((ParsingTags, DependencyScores), DependencyScores),
  "2a": ((MaxEnt,), LinearChain),
  "2b": ((ParsingTags, DependencyScores), DependencyScores),
  "3": ((LinearChain,), MaxEnt),
  "4": ((MaxEnt,), SpanScores),
}
"""(types of the student, type of the teacher) that a row takes."""


def _of_case(name: str, student: Structure, teacher: Structure, **options: Any) -> Array:
  """`structural_kd_loss` of a pair that must be of one case."""
  students, kind = _TYPES[name]
  if type(student) not in students or type(teacher) is not kind:
    kinds = " or ".join(kind.__name__ for kind in students)
    raise ValueError(
      f"case {name} takes a {kinds} student and a {kind.__name__} teacher, got {type(student).__name__} and "
      f"{type(teacher).__name__}: structural_kd_loss finds the case by type"
    )
  return structural_kd_loss(student, teacher, **options)


def structural_kd_case_1a(
  student: LinearChain,
  teacher: LinearChain,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Linear-chain CRF to linear-chain CRF: marginals of pairs of tags by forward-backward.

  .. math:: P_t(y_{i-1}, y_i) \propto \exp(\alpha(y_{i-1}) + Score_t(y_{i-1}, y_i) + \beta(y_i))

  Args, Returns and Raises as of `structural_kd_loss`.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import LinearChain
    >>> # Of the teacher's paths 00 has 1/4 and 11 has 3/4; of the student's both have 3/8.
    >>> stay = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]])
    >>> teacher = LinearChain(jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0]])), stay)
    >>> student = LinearChain(jnp.zeros((2, 2)), jnp.log(jnp.array([[3.0, 1.0], [1.0, 3.0]])))
    >>> round(float(kd_jax.structural_kd_case_1a(student, teacher)), 4)  # log 8/3
    0.9808
  """
  return _of_case(
    "1a",
    student,
    teacher,
    temperature=temperature,
    stop_teacher_gradient=stop_teacher_gradient,
  )


def structural_kd_case_1b(
  student: ParsingTags | DependencyScores,
  teacher: DependencyScores,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Graph-based parser to dependency parsing as tagging.

  .. math:: P_t((d, r) | i) \propto P_{arc}(head = i + d \,|\, i) \, P_{rel}(r \,|\, i, i + d)

  renormalised over the student's labels (d, r); P_arc is the teacher's softmax over heads. A token whose
  head and relation none of the student's labels can name counts 0.

  Args, Returns and Raises as of `structural_kd_loss`.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import DependencyScores, ParsingTags
    >>> # The heads of token 1 are the root and token 2, of token 2 the root and token 1: half and half.
    >>> teacher = DependencyScores(jnp.zeros((2, 3)), jnp.zeros((2, 3, 1)))
    >>> logits = jnp.log(jnp.array([[1.0, 3.0, 1.0]] * 2))  # labels "root", "+1", "-1": 1/5, 3/5, 1/5
    >>> student = ParsingTags(logits, jnp.array([0, 1, -1]), jnp.zeros(3, int))
    >>> loss = kd_jax.structural_kd_case_1b(student, teacher)
    >>> round(float(loss), 4)  # (log 5 + log 5/3) / 2 + log 5
    2.6696
  """
  if isinstance(teacher, DependencyScores):
    teacher = teacher._replace(refined=None)
  return _of_case(
    "1b",
    student,
    teacher,
    temperature=temperature,
    stop_teacher_gradient=stop_teacher_gradient,
  )


def structural_kd_case_2a(
  student: MaxEnt,
  teacher: LinearChain,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Linear-chain CRF to independent tags: marginals of single tags by forward-backward.

  .. math:: P_t(y_i) \propto \exp(\alpha(y_i) + \beta(y_i))

  Args, Returns and Raises as of `structural_kd_loss`.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import LinearChain, MaxEnt
    >>> # Two tokens must have one tag: 00 has 1/4 and 11 has 3/4, and so P(1) = 3/4 at either token.
    >>> stay = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]])
    >>> teacher = LinearChain(jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0]])), stay)
    >>> student = MaxEnt(jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0]])))
    >>> loss = kd_jax.structural_kd_case_2a(student, teacher)
    >>> round(float(loss), 4)  # 2 (3 log 4/3 + log 4) / 4
    1.1247
  """
  return _of_case(
    "2a",
    student,
    teacher,
    temperature=temperature,
    stop_teacher_gradient=stop_teacher_gradient,
  )


def structural_kd_case_2b(
  student: ParsingTags | DependencyScores,
  teacher: DependencyScores,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  """Second-order parser to a first-order student: as case 1b, with P_arc after mean-field inference.

  The teacher's `refined` holds the logarithms of those head marginals: the second-order parser gives them,
  and `kd_jax.structured.mean_field_marginals` computes them from scores.

  Args, Returns and Raises as of `structural_kd_loss`; and ValueError for a teacher without `refined`.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import DependencyScores, ParsingTags
    >>> # Refined: token 1 hangs on the root and token 2 on token 1, for certain.
    >>> refined = jnp.array([[0.0, -99.0, -99.0], [-99.0, 0.0, -99.0]])
    >>> teacher = DependencyScores(jnp.zeros((2, 3)), jnp.zeros((2, 3, 1)), refined=refined)
    >>> logits = jnp.log(jnp.array([[1.0, 3.0, 1.0]] * 2))  # labels "root", "+1", "-1": 1/5, 3/5, 1/5
    >>> student = ParsingTags(logits, jnp.array([0, 1, -1]), jnp.zeros(3, int))
    >>> round(float(kd_jax.structural_kd_case_2b(student, teacher)), 4)  # log 5 + log 5
    3.2189
  """
  if isinstance(teacher, DependencyScores) and teacher.refined is None:
    raise ValueError("case 2b needs a second-order teacher, whose `refined` is not None: see 1b")
  return _of_case(
    "2b",
    student,
    teacher,
    temperature=temperature,
    stop_teacher_gradient=stop_teacher_gradient,
  )


def structural_kd_case_3(
  student: LinearChain,
  teacher: MaxEnt,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  r"""Independent tags to linear-chain CRF.

  .. math:: P_t(y_{i-1}, y_i) = P_t(y_{i-1}) \, P_t(y_i)

  Products of tempered marginals agree with one another, so this is a cross-entropy at every temperature.

  Args, Returns and Raises as of `structural_kd_loss`.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import LinearChain, MaxEnt
    >>> # 00 and 11 have 3/8 each for the student, 01 and 10 have 1/8; for the teacher 00 and 11 have half.
    >>> teacher = MaxEnt(jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0]])))
    >>> student = LinearChain(jnp.zeros((2, 2)), jnp.log(jnp.array([[3.0, 1.0], [1.0, 3.0]])))
    >>> round(float(kd_jax.structural_kd_case_3(student, teacher)), 4)  # (log 8 + log 8/3) / 2
    1.5301
  """
  return _of_case(
    "3",
    student,
    teacher,
    temperature=temperature,
    stop_teacher_gradient=stop_teacher_gradient,
  )


def structural_kd_case_4(
  student: MaxEnt,
  teacher: SpanScores,
  *,
  temperature: ArrayLike = 1.0,
  stop_teacher_gradient: bool = True,
) -> Float[Array, "*batch"]:
  """Named entity recognition as parsing (spans) to independent BIOES tags.

  The teacher's marginals of tags come from the dynamic programme of `kd_jax.structured.tag_marginals`; the
  student's tags are numbered as there.

  Args, Returns and Raises as of `structural_kd_loss`.

  Example:
    >>> import jax.numpy as jnp, kd_jax
    >>> from kd_jax.structured import MaxEnt, SpanScores
    >>> # OO, SO, OS, SS and BE have 1/5 each: P(O) = 2/5 at either token.
    >>> teacher = SpanScores(jnp.zeros((2, 2, 1)))
    >>> student = MaxEnt(jnp.log(jnp.array([[3.0, 1.0, 1.0, 1.0, 1.0]] * 2)))
    >>> round(float(kd_jax.structural_kd_case_4(student, teacher)), 4)  # 2 (log 7 - 2/5 log 3)
    3.0129
  """
  return _of_case(
    "4",
    student,
    teacher,
    temperature=temperature,
    stop_teacher_gradient=stop_teacher_gradient,
  )


STRUCTURAL_KD_CASES = {
  "1a": structural_kd_case_1a,
  "1b": structural_kd_case_1b,
  "2a": structural_kd_case_2a,
  "2b": structural_kd_case_2b,
  "3": structural_kd_case_3,
  "4": structural_kd_case_4,
}
"""The rows of the paper's table of cases."""
