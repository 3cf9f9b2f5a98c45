"""Products of scores are never rounded to fewer bits: accelerators do so unless told otherwise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import structured
from kd_jax.structured import DependencyTrees, SpanScores, mean_field_marginals
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


# Settings of JAX that a user may have: types stay float32 and int32, and nothing is promoted silently.

CHAINS = structures.pair_of("chain", "chain")
TREES = tuple(
  DependencyTrees(draw(2, 3, 4), np.array([[1, 1, 1], [1, 1, 0]], bool)) for _ in range(2)
)
STRUCTURES = {
  "chain": CHAINS,
  "tokens": structures.pair_of("tokens", "tokens"),
  "spans": tuple(SpanScores(draw(2, 3, 3, 2), np.ones((2, 3), bool)) for _ in range(2)),
  "trees": TREES,
  "trees of several roots": tuple(dataclasses.replace(t, single_root=False) for t in TREES),
  "projective trees": tuple(dataclasses.replace(t, projective=True) for t in TREES),
}


def everything_of(first, second):
  """All that there is of structures of one type, gradients among it."""
  leaves, form = jax.tree.flatten(first)

  def gradient(function):
    def total(leaves):
      return jnp.sum(function(jax.tree.unflatten(form, leaves)))

    return jax.grad(total, allow_int=True)(leaves)

  best = structured.argmax(first)
  return [
    best,
    structured.marginals(first),
    structured.top_k(first, 3),
    structured.sample(first, jax.random.key(0)),
    structured.log_prob(first, best),
    structured.cross_entropy(first, second),
    gradient(structured.log_partition),
    gradient(structured.entropy),
    gradient(lambda chosen: structured.kl_divergence(chosen, second)),
    gradient(lambda chosen: kd_jax.structure_nll_loss(chosen, best)),
    gradient(lambda chosen: kd_jax.fuzzy_crf_loss(chosen, second, k=2)),
    gradient(lambda chosen: kd_jax.structural_kd_loss(chosen, second)),
  ]


@pytest.mark.parametrize("setting", ["x64", "strict"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_keep_their_types(name, setting):
  """Programs are traced, not compiled: their types are known then."""
  first, second = STRUCTURES[name]
  context = jax.enable_x64(True) if setting == "x64" else jax.numpy_dtype_promotion("strict")
  with context:
    found = jax.eval_shape(lambda: everything_of(first, second))
  types = {leaf.dtype for leaf in jax.tree.leaves(found)} - {jax.dtypes.float0}  # of masks
  assert types == {np.dtype("float32"), np.dtype("int32")}


def loss_cases():
  """Losses on arrays: (name, function of student and teacher, shapes)."""
  labels, mask = np.array([1, 2], np.int32), np.array([1, 0])
  for name in ("forward_kl", "reverse_kl", "jensen_shannon", "soft_cross_entropy"):
    yield name, functools.partial(getattr(kd_jax, name), temperature=2.0, mask=mask), (2, 5)
  for name in ("dist_inter_loss", "dist_intra_loss", "soft_target_kd_loss"):
    yield name, functools.partial(getattr(kd_jax, name), temperature=2.0, mask=mask), (2, 5)
  yield "decoupled_kd_loss", lambda s, t: kd_jax.decoupled_kd_loss(s, t, labels), (2, 5)
  yield "hard_label_loss", lambda s, t: kd_jax.hard_label_loss(s, labels, mask=mask), (2, 5)
  yield "annealing_kd_loss", lambda s, t: kd_jax.annealing_kd_loss(s, t, 2, 5), (2, 5)
  yield "top_k_kd_loss", lambda s, t: kd_jax.top_k_kd_loss(s, kd_jax.top_k_targets(t, 2)), (2, 5)
  yield "universal_kd_loss", kd_jax.universal_kd_loss, (2, 3, 5)
  yield "alp_kd_loss", kd_jax.alp_kd_loss, (2, 3, 8)
  yield "fitnet_loss", kd_jax.fitnet_loss, (2, 3, 3, 4)
  yield "attention_transfer_loss", kd_jax.attention_transfer_loss, (2, 3, 3, 4)
  yield "rkd_angle_loss", kd_jax.rkd_angle_loss, (4, 6)


@pytest.mark.parametrize("setting", ["x64", "strict", "rank"])
def test_losses_keep_their_types(setting):
  context = {
    "x64": lambda: jax.enable_x64(True),
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
    "rank": lambda: jax.numpy_rank_promotion("raise"),
  }[setting]
  for name, loss, shape in loss_cases():
    arrays = draw(*shape), draw(*shape)
    with context():
      found = jax.eval_shape(
        lambda *arrays, loss=loss: (
          loss(*arrays), jax.grad(lambda *a, loss=loss: jnp.sum(loss(*a)))(*arrays),
        ),
        *arrays,
      )  # fmt: skip
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(found)} == {"float32"}, name
