"""Augmentation: pure, every outcome once in a round of views, uniform at each view."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.data import Augmentation, augment, augment_batch, describe, num_distinct_views

IMAGES = np.random.default_rng(0).integers(1, 256, (6, 8, 10, 3), dtype=np.uint8)
KEYS = np.array([0, 1, 77, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
AUG = Augmentation("pad_crop_flip", pad=4, flip=True, seed=3)


def all_outcomes(image, pad, flip):
  """Every crop of the black-padded image, plain and mirrored, as a set of bytes."""
  height, width, depth = image.shape
  padded = np.zeros((height + 2 * pad, width + 2 * pad, depth), np.uint8)
  padded[pad : pad + height, pad : pad + width] = image
  crops = [
    padded[row : row + height, column : column + width]
    for row in range(2 * pad + 1)
    for column in range(2 * pad + 1)
  ]
  return {crop.tobytes() for crop in crops} | {crop[:, ::-1].tobytes() for crop in crops if flip}


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (2, False), (0, True), (0, False), (1, True)])
def test_a_round_of_views_is_every_crop_and_flip_once(pad, flip):
  aug = Augmentation("pad_crop_flip", pad=pad, flip=flip, seed=1)
  count = num_distinct_views(aug)
  assert count == (2 * pad + 1) ** 2 * (1 + flip)
  every_view = jax.jit(jax.vmap(lambda view: augment_batch(aug, IMAGES[:3], KEYS[:3], view)))
  views = np.asarray(every_view(jnp.arange(5, 5 + count)))
  for row in range(3):
    seen = [view.tobytes() for view in views[:, row]]
    assert len(set(seen)) == count
    assert set(seen) == all_outcomes(IMAGES[row], pad, flip)
  np.testing.assert_array_equal(every_view(jnp.arange(count, count + 2)), every_view(jnp.arange(2)))


def test_batch_single_eager_and_jit_agree():
  batched = jax.jit(lambda view: augment_batch(AUG, IMAGES, KEYS, view))
  for view in (0, 7, 161, 10**6):
    one_by_one = [augment(AUG, image, key, view) for image, key in zip(IMAGES, KEYS, strict=True)]
    np.testing.assert_array_equal(batched(view), np.stack(one_by_one))
    np.testing.assert_array_equal(augment_batch(AUG, IMAGES, KEYS, view), np.stack(one_by_one))
  order = np.array([3, 0, 5, 1, 4, 2])
  shuffled = augment_batch(AUG, IMAGES[order], KEYS[order], 9)
  np.testing.assert_array_equal(shuffled, batched(9)[order])


def test_views_do_not_depend_on_how_jax_draws_bits():
  expected = augment_batch(AUG, IMAGES, KEYS, 11)
  with jax.threefry_partitionable(False), jax.default_prng_impl("rbg"):
    np.testing.assert_array_equal(augment_batch(AUG, IMAGES, KEYS, 11), expected)


def test_keys_and_seeds_give_different_orders():
  same = jnp.broadcast_to(jnp.asarray(IMAGES[0]), (200, 8, 10, 3))
  keys = jnp.arange(200, dtype=jnp.uint32)
  first = np.asarray(augment_batch(AUG, same, keys, 0))
  other_seed = np.asarray(augment_batch(Augmentation(seed=4), same, keys, 0))
  assert len({image.tobytes() for image in first}) > 80
  assert (first == other_seed).all(axis=(1, 2, 3)).mean() < 0.1


@pytest.mark.parametrize("view", [0, 50])
def test_each_view_is_uniform_over_the_outcomes(view):
  # One lit pixel in the middle of 9x9 tells row and column of the crop; a second one the flip.
  image = np.zeros((9, 9, 2), np.uint8)
  image[4, 4, 0] = image[4, 5, 1] = 1
  count = 162 * 60
  batch = jnp.broadcast_to(jnp.asarray(image), (count, 9, 9, 2))
  keys = jnp.arange(count, dtype=jnp.uint32)
  views = np.asarray(jax.jit(augment_batch, static_argnums=0)(Augmentation(), batch, keys, view))
  _, outcome = np.unique(views.reshape(count, -1), axis=0, return_counts=True)
  assert outcome.size == 162
  # Chi-squared with 161 degrees of freedom: mean 161, standard deviation 18.
  assert 161 - 5 * 18 < ((outcome - 60) ** 2 / 60).sum() < 161 + 5 * 18


def test_none_changes_nothing_and_describes_itself_so():
  none = Augmentation("none", pad=9, seed=5)
  assert num_distinct_views(none) == 1
  np.testing.assert_array_equal(augment_batch(none, IMAGES, KEYS, 3), IMAGES)
  np.testing.assert_array_equal(augment(none, IMAGES[0], KEYS[0], 3), IMAGES[0])
  assert describe(none) == describe(Augmentation("none"))


def test_description_is_json_and_tells_augmentations_apart():
  others = [Augmentation(), Augmentation(pad=3), Augmentation(flip=False), Augmentation("none")]
  texts = {json.dumps(describe(aug)) for aug in [AUG, *others]}
  assert len(texts) == 5
  assert json.loads(json.dumps(describe(AUG))) == describe(AUG)
  assert describe(AUG)["views"] == 162


@pytest.mark.parametrize(
  ("bad", "message"),
  [
    (lambda: Augmentation(pad=-1), "pad=-1 must lie in"),
    (lambda: Augmentation(pad=91), "pad=91 must lie in"),
    (lambda: Augmentation(seed=-1), "seed=-1 must lie in"),
    (lambda: Augmentation("cutout"), "'cutout' is unknown"),
    (lambda: augment(AUG, IMAGES[0] / 255.0, 0, 0), "augment before converting"),
    (lambda: augment(AUG, IMAGES, 0, 0), r"\[H, W, D\], got uint8 of shape \(6, 8, 10, 3\)"),
    (lambda: augment_batch(AUG, IMAGES[0], KEYS, 0), r"\[B, H, W, D\]"),
    (lambda: augment_batch(AUG, IMAGES, KEYS[:2], 0), r"keys of shape \(2,\)"),
  ],
)
def test_bad_input_is_refused(bad, message):
  with pytest.raises(ValueError, match=message):
    bad()
