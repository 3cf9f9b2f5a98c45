"""Products of scores are never rounded to fewer bits: accelerators do so unless told otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax.structured import mean_field_marginals
from tests import contract
from tests.losses import structures


def draw(*shape):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


LAYERS = (draw(2, 3, 4), draw(2, 5, 4))
HEADS = tuple(draw(2, 2, 3, 4) for _ in range(4))
MASK = np.ones((2, 3), bool)
PROGRAMS = {
  "attention": (kd_jax.layer_attention, (LAYERS[0], LAYERS[1], LAYERS[1]), {}),
  "universal_kd": (kd_jax.universal_kd_loss, LAYERS, {}),
  "universal_kd on losses": (kd_jax.universal_kd_loss, LAYERS, {"attend": "losses"}),
  "alp_kd": (kd_jax.alp_kd_loss, LAYERS, {}),
  "relations": (
    lambda *x: kd_jax.relation_kd_loss(*x, MASK, relation_heads=2), (HEADS[0], HEADS[1]), {},
  ),
  "attentions": (lambda *x: kd_jax.attention_loss(*x, MASK), HEADS, {}),
  "mean field": (
    mean_field_marginals, (draw(2, 3, 4), draw(2, 3, 4, 3), draw(2, 3, 3, 4)), {},
  ),
  **{
    f"structural {kinds}": (
      kd_jax.structural_kd_loss, structures.pair_of(*kinds)[::-1], {"temperature": 1.0},
    )
    for kinds in (("chain", "chain"), ("chain", "tokens"), ("tokens", "chain"))
  },
}  # fmt: skip
"""Losses and structures with products of arrays; the others, spans and trees, have none."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_products_have_the_highest_precision(name):
  function, arguments, options = PROGRAMS[name]

  def total(arguments):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(function(*arguments, **options)))

  gradient = jax.value_and_grad(total, allow_int=True)
  found = list(contract.equations(jax.make_jaxpr(gradient)(arguments).jaxpr))
  products = [e for e in found if e.primitive.name == "dot_general"]
  assert products
  highest = jax.lax.Precision.HIGHEST
  assert [e for e in products if e.params["precision"] not in (highest, (highest, highest))] == []
