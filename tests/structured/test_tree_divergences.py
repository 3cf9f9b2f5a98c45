"""Entropy, cross-entropy and KL of dependency trees, against sums over lists of all trees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.structured._tree_divergences import (
  tree_cross_entropy,
  tree_entropy,
  tree_kl_divergence,
)
from tests.structured import oracles
from tests.structured.contract import BATCH, LENGTHS, MASK
from tests.structured.tree_search import QUICKLY, draw, parts, unread

# (single_root, projective): each value once, because every kind takes the same path but for log Z.
KINDS = ((True, False), (False, True))
each_kind = pytest.mark.parametrize(("single_root", "projective"), KINDS)
FACTORS = jnp.cos(jnp.arange(BATCH) + 1.0)
DIRECTION = np.random.default_rng(9).standard_normal((2, *draw().shape)).astype(np.float32)


@functools.cache
def programs(single_root, projective):
  """((entropy, cross-entropy, KL [B]), the gradients of their weighted sum), and what these change by."""
  options = {"single_root": single_root, "projective": projective}

  def total(both):
    teacher, student = both
    found = (
      tree_entropy(teacher, MASK, **options),
      tree_cross_entropy(teacher, student, MASK, **options),
      tree_kl_divergence(teacher, student, MASK, **options),
    )
    return sum((i + 1) * jnp.sum(FACTORS * value) for i, value in enumerate(found)), found

  def first(teacher, student):
    (_, found), gradients = jax.value_and_grad(total, has_aux=True)((teacher, student))
    return found, gradients

  def second(teacher, student):
    gradient = jax.grad(lambda both: total(both)[0])
    return jax.jvp(gradient, ((teacher, student),), (tuple(DIRECTION),))[1]

  return tuple(jax.jit(function, compiler_options=QUICKLY) for function in (first, second))


def program(single_root, projective):
  return programs(single_root, projective)[0]


def pair(seed, scale, distance):
  teacher = draw(seed=seed, scale=scale)
  return teacher, teacher + draw(seed=seed + 100, scale=distance)


def expected(single_root, projective, teacher, student):
  """[3, B] in float64."""
  rows = []
  for row, length in enumerate(LENGTHS):
    listed = oracles.trees(length, single_root, projective)
    p, q = parts(teacher[row], length), parts(student[row], length)
    rows.append(
      (
        oracles.entropy(listed, p),
        oracles.cross_entropy(listed, p, q),
        oracles.kl_divergence(listed, p, q),
      )
    )
  return np.array(rows).T


@each_kind
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_sums_over_all_trees(single_root, projective, scale):
  teacher, student = pair(0, scale, scale)
  found, _ = program(single_root, projective)(teacher, student)
  wanted = expected(single_root, projective, teacher, student)
  np.testing.assert_allclose(np.array(found), wanted, rtol=1e-5, atol=3e-6 * scale)


@each_kind
@pytest.mark.parametrize("distance", [1e-3, 1e-2, 0.03])
def test_divergence_of_near_distributions(single_root, projective, distance):
  """Far below the rounding of log Z, and still right to a few digits."""
  teacher, student = pair(1, 1.0, distance)
  found, _ = program(single_root, projective)(teacher, student)
  wanted = expected(single_root, projective, teacher, student)
  np.testing.assert_allclose(found[2], wanted[2], rtol=1e-2)
  assert (wanted[2, :4] > 0).all()


@each_kind
def test_divergence_is_0_at_equality_and_never_negative(single_root, projective):
  run = program(single_root, projective)
  for scale in (1.0, 1e4):
    teacher = draw(seed=2, scale=scale)
    np.testing.assert_array_equal(run(teacher, teacher)[0][2], 0)
  for seed, distance in enumerate((1e-7, 1e-5, 1e-3, 0.1)):
    assert (np.asarray(run(*pair(seed, 3.0, distance))[0][2]) >= 0).all()


@each_kind
def test_derivatives_equal_differences(single_root, projective):
  teacher, student = pair(3, 1.0, 1.0)
  first, second = programs(single_root, projective)
  _, gradients = first(teacher, student)

  def total(teacher, student):
    values = expected(single_root, projective, teacher, student)
    return float(np.array([1, 2, 3]) @ values @ np.asarray(FACTORS, np.float64))

  def moved(amount):
    return np.float64(teacher) + amount * DIRECTION[0], np.float64(student) + amount * DIRECTION[1]

  step = 1e-3
  up, here, down = total(*moved(step)), total(*moved(0.0)), total(*moved(-step))
  slope = sum(np.sum(g * d) for g, d in zip(gradients, DIRECTION, strict=True))
  np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-3, atol=1e-3)
  if projective:  # the other kind takes the same path, and longer to compile
    change = second(teacher, student)
    curvature = sum(np.sum(c * d) for c, d in zip(change, DIRECTION, strict=True))
    np.testing.assert_allclose(curvature, (up - 2 * here + down) / step**2, rtol=1e-2, atol=1e-2)
  for gradient in gradients:
    np.testing.assert_array_equal(np.asarray(gradient)[unread()], 0)


@each_kind
def test_extreme_scores_and_excluded_arcs(single_root, projective):
  run, second = programs(single_root, projective)
  wide = pair(4, 1e4, 1e4)
  excluded = pair(5, 1.0, 1.0)
  for arc in excluded:
    arc[:, 0, 2] = arc[:, 1, 3] = -np.inf
  excluded[0][:, 2, 0] = -np.inf  # the teacher alone
  same = excluded[0], excluded[0] + np.float32(1)
  for teacher, student in (wide, excluded, same):
    found, gradients = run(teacher, student)
    change = second(teacher, student) if projective else ()
    for values in jax.tree.leaves((found, gradients, change)):
      assert np.isfinite(values).all()
    p, q = (np.where(np.isneginf(arc), oracles.EXCLUDED, arc) for arc in (teacher, student))
    some = [row for row, length in enumerate(LENGTHS) if length > 2]  # others have no tree left
    wanted = expected(single_root, projective, p, q)[:, some]
    atol = 5e-2 if teacher is wide[0] else 1e-5
    np.testing.assert_allclose(np.array(found)[:, some], wanted, rtol=1e-4, atol=atol)
  # What the student alone excludes is as unlikely as a finite number can say.
  found, gradients = run(*excluded[::-1])
  assert (np.asarray(found[2])[some] > 1e20).all()
  for values in jax.tree.leaves((found, gradients)):
    assert np.isfinite(values).all()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_what_is_not_read_has_no_influence(garbage):
  clean = pair(6, 1.0, 1.0)
  dirty = [np.where(unread(), np.float32(garbage), arc) for arc in clean]
  for kind in KINDS:
    for found, wanted in zip(
      jax.tree.leaves(program(*kind)(*dirty)), jax.tree.leaves(program(*kind)(*clean)), strict=True
    ):
      np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_shapes_are_checked():
  arc = np.zeros((3, 4), np.float32)
  for function in (tree_cross_entropy, tree_kl_divergence):
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(2, 3\)"):
      function(arc, np.zeros((2, 3), np.float32))
  with pytest.raises(ValueError, match="NaN"):
    tree_entropy(np.full((3, 4), np.nan, np.float32))
