"""What `structures` measures of kd_jax: inputs, functions and sizes."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import kd_jax
from kd_jax import structured
from kd_jax.structured import DependencyTrees, LinearChain, MaxEnt, SpanScores

TAGS, RELATIONS = 17, 4


class Problem(NamedTuple):
  """Something to compute.

  Attributes:
    about: what is measured.
    arrays: (generator, B, n) -> NumPy inputs.
    ours: functions of jnp inputs to a tuple of outputs, to be compiled.
    sizes: B, n and the number of labels, if any.
    growth: values of n, and B there; empty where growth is not measured.
  """

  about: str
  arrays: Callable[[np.random.Generator, int, int], tuple[np.ndarray, ...]]
  ours: Mapping[str, Callable]
  sizes: Mapping[str, int]
  growth: tuple[int, ...] = ()
  growth_batch: int = 1


def _normal(generator: np.random.Generator, *shape: int) -> np.ndarray:
  return generator.standard_normal(shape, np.float32)


def _chain(generator, batch, length):
  return _normal(generator, batch, length, TAGS), _normal(generator, TAGS, TAGS)


def _chain_and_tags(generator, batch, length):
  tags = generator.integers(0, TAGS, (batch, length))
  return *_chain(generator, batch, length), tags


def _spans(generator, batch, length):
  # Spans that score below O on average, as most are wrong.
  return (_normal(generator, batch, length, length, RELATIONS) - 2.0,)


def _arcs(generator, batch, length):
  return (_normal(generator, batch, length, length + 1),)


def _with_gradients(function: Callable[..., jax.Array], count: int) -> Callable:
  """A value of each sentence, and the gradients of their sum for the first `count` arguments."""

  def run(*arrays):
    def total(*arrays):
      values = function(*arrays)
      return jnp.sum(values), values

    gradients, values = jax.grad(total, argnums=tuple(range(count)), has_aux=True)(*arrays)
    return values, *gradients

  return run


def _case_1a(unary, transition, teacher_unary, teacher_transition):
  teacher = LinearChain(teacher_unary, teacher_transition)
  return kd_jax.structural_kd_loss(LinearChain(unary, transition), teacher)


def _case_2a(logits, teacher_unary, teacher_transition):
  teacher = LinearChain(teacher_unary, teacher_transition)
  return kd_jax.structural_kd_loss(MaxEnt(logits), teacher)


def _log_z(unary, transition, algorithm="scan"):
  return structured.log_partition(LinearChain(unary, transition), algorithm=algorithm)


def _nll(unary, transition, tags):
  return -structured.log_prob(LinearChain(unary, transition), tags)


def _log_trees(arc, projective=False):
  return structured.log_partition(DependencyTrees(arc, projective=projective))


PROBLEMS = {
  "case 1a": Problem(
    "loss of CRF to CRF, and its gradients for the student's unary and transition scores",
    lambda *sizes: (*_chain(*sizes), *_chain(*sizes)),
    {"kd_jax": lambda a, b, c, d: _with_gradients(_case_1a, 2)(c, d, a, b)},
    {"B": 32, "n": 64, "L": TAGS},
  ),
  "case 2a": Problem(
    "loss of CRF to independent tags, and its gradient for the student's scores",
    lambda g, *sizes: (*_chain(g, *sizes), _normal(g, *sizes, TAGS)),
    {"kd_jax": lambda a, b, c: _with_gradients(_case_2a, 1)(c, a, b)},
    {"B": 32, "n": 64, "L": TAGS},
  ),
  "chain": Problem(
    "log Z of a linear chain, and its gradients for unary and transition scores",
    _chain,
    {
      "kd_jax": _with_gradients(_log_z, 2),
      "kd_jax, associative": _with_gradients(functools.partial(_log_z, algorithm="associative"), 2),
    },
    {"B": 32, "n": 64, "L": TAGS},
    (16, 32, 64, 128, 256, 512),
    8,
  ),
  "likelihood": Problem(
    "negative log-likelihood of one tag sequence, and its gradients for unary and transition scores",
    _chain_and_tags,
    {"kd_jax": _with_gradients(_nll, 2)},
    {"B": 32, "n": 64, "L": TAGS},
  ),
  "case 4": Problem(
    "the teacher's BIOES tag marginals from span scores",
    _spans,
    {"kd_jax": lambda scores: (structured.tag_marginals(SpanScores(scores)),)},
    {"B": 32, "n": 40, "R": RELATIONS},
    (16, 32, 64, 128),
    8,
  ),
  "matrix-tree": Problem(
    "log Z over dependency trees with one root child, and its gradient, the marginals",
    _arcs,
    {"kd_jax": _with_gradients(_log_trees, 1)},
    {"B": 32, "n": 40},
    (16, 32, 64, 128, 256, 512),
    1,
  ),
  "projective": Problem(
    "log Z over projective trees with one root child, and its gradient, the marginals",
    _arcs,
    {"kd_jax": _with_gradients(functools.partial(_log_trees, projective=True), 1)},
    {"B": 32, "n": 40},
    (16, 32, 64, 128),
    2,
  ),
  "best tree": Problem(
    "the best dependency tree with one root child",
    _arcs,
    {"kd_jax": lambda arc: (structured.argmax(DependencyTrees(arc)),)},
    {"B": 32, "n": 40},
    (16, 32, 64, 128, 256, 512),
    8,
  ),
}
