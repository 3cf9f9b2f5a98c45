"""Structures of other people: what a type checker accepts, and that the functions run on them.

mypy reads this file in `make lint`. It must find every error that is ignored here: it reports unused ignores.
"""

from typing import NamedTuple, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import structured
from kd_jax.structured import (
  DependencyScores,
  DependencyTrees,
  LabelledTree,
  LinearChain,
  MaxEnt,
  Parse,
  ParsingTags,
  SpanScores,
  Structure,
  layout,
)
from kd_jax.types import Array, ArrayLike, Tree

KINDS: tuple[type[Structure], ...] = (
  LinearChain,
  MaxEnt,
  SpanScores,
  DependencyTrees,
  DependencyScores,
  ParsingTags,
)
TREES: tuple[type[LabelledTree], ...] = (Parse, Tree)


class Coins(NamedTuple):
  """Independent tosses, of another package: a labelling is heads or tails [..., n]."""

  logits: ArrayLike
  mask: ArrayLike | None = None


@structured.log_partition.register(Coins)
def _(coins: Coins) -> Array:
  return structured.log_partition(_as_tags(coins))


@structured.log_prob.register(Coins)
def _(coins: Coins, labels: ArrayLike) -> Array:
  return structured.log_prob(_as_tags(coins), labels)


def _as_tags(coins: Coins) -> MaxEnt:
  logits = jnp.asarray(coins.logits)
  return MaxEnt(jnp.stack([jnp.zeros_like(logits), logits], axis=-1), coins.mask)


class NoMask(NamedTuple):
  """No structure: it cannot tell which positions are tokens."""

  logits: ArrayLike


def test_all_structures_are_listed():
  assert {kind.__name__: kind for kind in KINDS} == layout.KINDS


def test_a_strangers_structure_is_one_for_functions_and_type_checkers():
  coins = Coins(jnp.array([0.0, 1.0, 9.0]), jnp.array([1, 1, 0]))
  assert_type(structured.log_partition(coins), Array)
  expected = np.log(2) + np.log(1 + np.e)
  np.testing.assert_allclose(jax.jit(structured.log_partition)(coins), expected, rtol=1e-6)
  np.testing.assert_allclose(
    structured.log_prob(coins, jnp.array([1, 1, 0])), 1 - expected, rtol=1e-6
  )


def test_what_a_stranger_did_not_register_names_the_type():
  with pytest.raises(ValueError, match="Coins is no structure"):
    structured.entropy(Coins(jnp.zeros(3)))
  with pytest.raises(ValueError, match="Coins is no structure"):
    structured.scaled(Coins(jnp.zeros(3)), 0.5)


def test_a_structure_keeps_its_type():
  chain = LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2)))
  assert_type(structured.scaled(chain, 0.5), LinearChain)
  assert type(structured.scaled(chain, 0.5)) is LinearChain


def test_a_type_checker_finds_what_raises():
  chain = LinearChain(jnp.zeros((3, 2)), jnp.zeros((2, 2)))
  with pytest.raises(ValueError, match="NoMask"):
    structured.log_partition(NoMask(jnp.zeros(3)))  # type: ignore[arg-type]
  with pytest.raises(ValueError, match="int is no structure"):
    structured.log_partition(3)  # type: ignore[arg-type]
  with pytest.raises(ValueError, match="algorithm"):
    structured.log_partition(chain, algorithm="parallel")  # type: ignore[arg-type]
  with pytest.raises(ValueError, match="one type"):
    structured.cross_entropy(chain, 3)  # type: ignore[arg-type]
