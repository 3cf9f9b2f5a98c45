"""Losses that compare tokens."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from tests import oracles

B, N, HEADS = 4, 5, 2
# A whole text, one with padding at its end, one with a hole, and one of nothing but padding.
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool)

STATES, HEAD_STATES = (B, N, 8), (B, HEADS, N, 4)
# For each loss the shapes of what the student gives, and of the teacher.
SHAPES = {
  "relation": ((STATES,), ((B, N, 12),)),
  "hidden": ((STATES,), (STATES,)),
  "attention": ((HEAD_STATES, HEAD_STATES), ((B, HEADS, N, 6), (B, HEADS, N, 6))),
  # Two layers each, and embeddings; two layers each of queries and then of keys.
  "tinybert states": ((STATES,) * 3, (STATES,) * 3),
  "tinybert attention": ((HEAD_STATES,) * 4, ((B, HEADS, N, 6),) * 4),
}


def on_layers(loss):
  """TinyBERT's loss on attention, of queries and keys in one tuple for each side."""

  def call(*given, **options):
    *states, mask = (*given, None) if len(given) == 8 else given
    return loss(states[:2], states[2:4], states[4:6], states[6:], mask, **options)

  return call


def on_states(loss):
  """TinyBERT's loss on states, of all layers of both sides."""

  def call(*given, **options):
    *states, mask = (*given, None) if len(given) == 6 else given
    return loss(states[:3], states[3:], mask, **options)

  return call


LOSSES = {
  "relation": functools.partial(kd_jax.relation_kd_loss, relation_heads=2),
  "hidden": kd_jax.hidden_state_loss,
  "attention": kd_jax.attention_loss,
  "tinybert states": on_states(kd_jax.tinybert_states_loss),
  "tinybert attention": on_layers(kd_jax.tinybert_attention_loss),
}
ORACLES = {
  "relation": functools.partial(oracles.relation_kd_loss, relation_heads=2),
  "hidden": oracles.hidden_state_loss,
  "attention": oracles.attention_loss,
  "tinybert states": on_states(oracles.tinybert_states_loss),
  "tinybert attention": on_layers(oracles.tinybert_attention_loss),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def draw(name, seed=0, scale=1.0):
  """(student's states, teacher's states), each a tuple of arrays."""
  rng = np.random.default_rng(seed)
  return tuple(
    tuple(scale * rng.standard_normal(shape).astype(np.float32) for shape in side)
    for side in SHAPES[name]
  )


@functools.cache
def compiled(name, stop_teacher_gradient=False):
  """(values [B], gradients of their sum to (student, teacher)), under jit."""

  def compute(student, teacher, mask):
    def total(student, teacher):
      values = LOSSES[name](*student, *teacher, mask, stop_teacher_gradient=stop_teacher_gradient)
      return jnp.sum(values), values

    (_, values), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(student, teacher)
    return values, gradients

  return jax.jit(compute)


def token_axis(values):
  """States with the axes [B, n] first."""
  return np.moveaxis(values, 1, 2) if np.ndim(values) == 4 else np.asarray(values)


@each_loss
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_equals_the_reference(name, scale):
  student, teacher = draw(name, seed=1, scale=scale)
  values, _ = compiled(name)(student, teacher, MASK)
  assert (values.shape, values.dtype) == ((B,), jnp.float32)
  expected = ORACLES[name](*student, *teacher, MASK)
  np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
  assert values[-1] == 0
  assert np.all(values[:-1] > 1e-3)


@each_loss
def test_gradients_equal_central_differences_of_the_reference(name):
  sides = draw(name, seed=2)
  _, gradients = compiled(name)(*sides, MASK)
  for side in (0, 1):
    for part, states in enumerate(sides[side]):

      def reference(values, side=side, part=part):
        changed = [list(given) for given in sides]
        changed[side][part] = values
        return np.sum(ORACLES[name](*changed[0], *changed[1], MASK))

      expected = oracles.central_differences(reference, states)
      np.testing.assert_allclose(gradients[side][part], expected, rtol=1e-3, atol=1e-5)


@each_loss
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_is_zero_at_equality(name, scale):
  student, _ = draw(name, scale=scale)
  values, gradients = compiled(name)(student, student, MASK)
  np.testing.assert_array_equal(values, 0)
  for gradient in jax.tree.leaves(gradients):
    assert np.max(np.abs(gradient)) < 1e-4 * scale


@each_loss
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
def test_padding_has_no_effect(name, garbage):
  sides = draw(name, seed=3)
  keep = {4: MASK[:, None, :, None], 3: MASK[:, :, None]}
  spoilt = jax.tree.map(lambda x: np.where(keep[x.ndim], x, np.float32(garbage)), sides)
  plain, plain_gradients = compiled(name)(*sides, MASK)
  values, gradients = compiled(name)(*spoilt, MASK)
  np.testing.assert_array_equal(values, plain)
  leaves = zip(jax.tree.leaves(gradients), jax.tree.leaves(plain_gradients), strict=True)
  for gradient, expected in leaves:
    np.testing.assert_array_equal(gradient, expected)
    np.testing.assert_array_equal(token_axis(gradient)[~MASK], 0)
    assert np.all(np.any(token_axis(gradient)[MASK] != 0, axis=-1))


@each_loss
def test_masks_of_every_kind(name):
  student, teacher = draw(name)
  whole = LOSSES[name](*student, *teacher)
  np.testing.assert_allclose(whole, ORACLES[name](*student, *teacher, np.ones((B, N))), rtol=1e-4)
  rows = np.array([1, 0, 1, 0])
  for mask in (
    rows,
    rows.astype(bool)[:, None],
    jnp.asarray(np.repeat(rows[:, None], N, 1), float),
  ):
    found = LOSSES[name](*student, *teacher, mask)
    np.testing.assert_allclose(found, np.where(rows, whole, 0), rtol=1e-5)
  for wrong in ((N,), (B, N - 1), (B, N, 1)):
    with pytest.raises(ValueError, match="mask"):
      LOSSES[name](*student, *teacher, np.ones(wrong))


@each_loss
def test_teacher_gets_no_gradient_unless_asked(name):
  sides = draw(name)
  _, (student, teacher) = compiled(name, stop_teacher_gradient=True)(*sides, MASK)
  _, (same, asked) = compiled(name)(*sides, MASK)
  for gradient, expected in zip(student, same, strict=True):
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)
  for gradient, other in zip(teacher, asked, strict=True):
    np.testing.assert_array_equal(gradient, 0)
    assert np.any(other != 0)


@each_loss
def test_loss_and_gradients_stay_finite(name):
  student, teacher = draw(name)
  large = jax.tree.map(lambda x: 1e4 * np.sign(x), (student, teacher))
  flat = jax.tree.map(np.zeros_like, (student, teacher))
  for sides in (large, flat, (large[0], flat[1]), (flat[0], large[1])):
    values, gradients = compiled(name)(*sides, MASK)
    assert np.all(values >= 0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((values, gradients)))


@each_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_upcast_first(name, dtype):
  low = jax.tree.map(lambda x: jnp.asarray(x, dtype), draw(name))
  values, gradients = compiled(name)(*low, MASK)
  exact, _ = compiled(name)(*jax.tree.map(lambda x: x.astype(jnp.float32), low), MASK)
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(values, exact, rtol=1e-5)
  assert {x.dtype for x in jax.tree.leaves(gradients)} == {jnp.dtype(dtype)}


@each_loss
def test_eager_vmap_and_any_order_equal_jit(name):
  batches = [draw(name, seed) for seed in (4, 5)]
  expected = [compiled(name)(*sides, MASK)[0] for sides in batches]
  seeds = jax.tree.map(lambda *x: np.stack(x), *batches)
  mapped = jax.jit(jax.vmap(lambda s, t: LOSSES[name](*s, *t, MASK)))(*seeds)
  np.testing.assert_allclose(mapped, expected, rtol=1e-5, atol=1e-7)
  student, teacher = batches[0]
  eager = LOSSES[name](*student, *teacher, MASK)
  np.testing.assert_allclose(eager, expected[0], rtol=1e-5, atol=1e-7)
  order = np.array([2, 0, 3, 1])
  student, teacher = jax.tree.map(lambda x: x[order], batches[0])
  values, _ = compiled(name)(student, teacher, MASK[order])
  np.testing.assert_allclose(values, expected[0][order], rtol=1e-5, atol=1e-7)


@each_loss
def test_shapes_and_types_are_checked(name):
  student, teacher = draw(name)
  wrong = {
    "relation": (student[0][:, :3], student[0][0]),
    "hidden": (student[0][:, :3], student[0][..., :4], student[0][0]),
    "attention": (student[0][:, :1], student[0][..., :2], student[0][0]),
  }[name.removeprefix("tinybert ").replace("states", "hidden")]
  for states in wrong:
    with pytest.raises(ValueError, match=re.escape(str(states.shape))) as caught:
      LOSSES[name](states, *student[1:], *teacher)
    assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match=r"student.*int32"):
    LOSSES[name](np.ones(student[0].shape, np.int32), *student[1:], *teacher)


def test_widths_of_hidden_states_need_a_projection():
  with pytest.raises(ValueError, match=r"\(4, 5, 8\).*\(4, 5, 12\).*project"):
    kd_jax.hidden_state_loss(np.zeros((4, 5, 8)), np.zeros((4, 5, 12)))


def test_as_many_heads_are_needed_for_attention():
  student, teacher = np.zeros((4, 2, 5, 4)), np.zeros((4, 3, 5, 4))
  with pytest.raises(ValueError, match=r"\(4, 2, 5, 4\).*\(4, 3, 5, 4\)"):
    kd_jax.attention_loss(student, student, teacher, teacher)


# TinyBERT's losses over layers.


def layers_of(shape, number, seed):
  rng = np.random.default_rng(seed)
  return [rng.standard_normal(shape).astype(np.float32) for _ in range(number)]


@pytest.mark.parametrize(("own", "theirs"), [(1, 3), (2, 4), (2, 3), (3, 3), (3, 5)])
def test_layers_learn_from_the_last_of_equal_groups(own, theirs):
  student, teacher = layers_of(STATES, own + 1, 0), layers_of(STATES, theirs + 1, 1)
  found = kd_jax.tinybert_states_loss(student, teacher, MASK)
  np.testing.assert_allclose(found, oracles.tinybert_states_loss(student, teacher, MASK), rtol=1e-4)
  queries, keys = (layers_of(HEAD_STATES, own, seed) for seed in (2, 3))
  other_queries, other_keys = (layers_of((B, HEADS, N, 6), theirs, seed) for seed in (4, 5))
  given = queries, keys, other_queries, other_keys, MASK
  found = kd_jax.tinybert_attention_loss(*given)
  np.testing.assert_allclose(found, oracles.tinybert_attention_loss(*given), rtol=1e-4)


def test_embeddings_learn_from_embeddings():
  """By hand: 1 for the embeddings, and for the one layer (3 - 0)² of the last of two."""
  zeros = np.zeros((1, 3, 2), np.float32)
  states = [zeros + 1, zeros + 7, zeros + 3]
  np.testing.assert_allclose(kd_jax.tinybert_states_loss([zeros, zeros], states), [1 + 9])


def test_a_student_of_more_layers_than_the_teacher_is_refused():
  deep, flat = layers_of(STATES, 4, 0), layers_of(STATES, 3, 1)
  with pytest.raises(ValueError, match=r"student of 3 layers .* teacher of 2"):
    kd_jax.tinybert_states_loss(deep, flat)
  deep, flat = layers_of(HEAD_STATES, 3, 0), layers_of(HEAD_STATES, 2, 1)
  with pytest.raises(ValueError, match=r"student of 3 layers .* teacher of 2"):
    kd_jax.tinybert_attention_loss(deep, deep, flat, flat)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_queries_and_keys_are_of_the_same_layers(side):
  one, two = layers_of(HEAD_STATES, 1, 0), layers_of(HEAD_STATES, 2, 1)
  for pair, numbers in (((one, two), "1 and 2"), ((two, one), "2 and 1")):
    given = (*pair, two, two) if side == "student" else (one, one, *pair)
    message = f"{side}_queries and {side}_keys must be of the same layers, got {numbers}"
    with pytest.raises(ValueError, match=message):
      kd_jax.tinybert_attention_loss(*given)


# Relations.


@pytest.mark.parametrize("relation_heads", [1, 2, 4])
def test_heads_are_merged_before_they_are_split_again(relation_heads):
  """Student of 2 heads, teacher of 3: [B, H, n, d] as TokenStates has them."""
  rng = np.random.default_rng(6)
  student = rng.standard_normal((B, 2, N, 4)).astype(np.float32)
  teacher = rng.standard_normal((B, 3, N, 4)).astype(np.float32)
  merged = [
    np.concatenate([x[:, head] for head in range(x.shape[1])], -1) for x in (student, teacher)
  ]
  expected = oracles.relation_kd_loss(*merged, MASK, relation_heads)
  found = kd_jax.relation_kd_loss(student, teacher, MASK, relation_heads=relation_heads)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("relation_heads", [0, 3, 8, -2])
def test_relation_heads_must_divide_both_widths(relation_heads):
  with pytest.raises(ValueError, match=rf"{relation_heads} relation_heads"):
    kd_jax.relation_kd_loss(
      np.zeros((B, N, 8), np.float32),
      np.zeros((B, N, 12), np.float32),
      relation_heads=relation_heads,
    )


def test_small_relation_losses_are_accurate_and_not_negative():
  (student,), _ = draw("relation", seed=7)
  noise = np.random.default_rng(8).standard_normal(student.shape).astype(np.float32)
  near = student + np.float32(0.003) * noise
  values, _ = compiled("relation")((near,), (student,), MASK)
  expected = oracles.relation_kd_loss(near, student, MASK, 2)
  assert np.all(values[:-1] > 0)
  np.testing.assert_allclose(values, expected, rtol=2e-2, atol=1e-12)


def test_a_text_of_one_token_has_no_relations_to_others():
  mask = np.zeros((B, N), bool)
  mask[:, 2] = True
  values, gradients = compiled("relation")(*draw("relation"), mask)
  np.testing.assert_array_equal(values, 0)
  for gradient in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(gradient, 0)
