"""Ragged scores: what a sentence owns at its true length, there and back again."""

import jax
import numpy as np
import pytest

from kd_jax.structured import (
  DependencyScores,
  DependencyTrees,
  LinearChain,
  MaxEnt,
  ParsingTags,
  SpanScores,
  layout,
  scaled,
)
from kd_jax.structured._declaration import field_names
from kd_jax.types import NEG_INF

N, TAGS, LABELS = 6, 5, 2
LENGTHS = np.array([3, N, 1, 4, N, 2])
MASK = np.arange(N) < LENGTHS[:, None]


def build(kind, seed=0, dtype=np.float32):
  """Scores that are nowhere 0, in padding neither."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return (1 + rng.random(shape)).astype(dtype)

  rows = len(LENGTHS)
  match kind:
    case "LinearChain":
      return LinearChain(draw(rows, N, TAGS), draw(TAGS, TAGS), MASK)
    case "MaxEnt":
      return MaxEnt(draw(rows, N, TAGS), MASK)
    case "SpanScores":
      return SpanScores(draw(rows, N, N, LABELS), MASK)
    case "DependencyScores":
      return DependencyScores(draw(rows, N, N + 1), draw(rows, N, N + 1, LABELS), MASK, None)
    case "refined":
      arc, relation, refined = (
        draw(rows, N, N + 1),
        draw(rows, N, N + 1, LABELS),
        draw(rows, N, N + 1),
      )
      return DependencyScores(arc, relation, MASK, refined)
    case "ParsingTags":
      return ParsingTags(
        draw(rows, N, TAGS), np.int32([0, 1, -1, 0, 2]), np.int32([0, 1, 0, 1, 1]), MASK
      )
    case "DependencyTrees":
      return DependencyTrees(draw(rows, N, N + 1), MASK, single_root=False, projective=True)
  raise AssertionError(kind)


KINDS = (
  "LinearChain",
  "MaxEnt",
  "SpanScores",
  "DependencyScores",
  "refined",
  "ParsingTags",
  "DependencyTrees",
)
# For each field that sentences own: its extents at length n.
SIZES = {
  "LinearChain": {"unary": lambda n: (n, TAGS)},
  "MaxEnt": {"logits": lambda n: (n, TAGS)},
  "SpanScores": {"scores": lambda n: (n, n, LABELS)},
  "DependencyScores": {
    "arc": lambda n: (n, n + 1),
    "relation": lambda n: (n, n + 1, LABELS),
  },
  "ParsingTags": {"logits": lambda n: (n, TAGS)},
  "DependencyTrees": {"arc": lambda n: (n, n + 1)},
}
SIZES["refined"] = SIZES["DependencyScores"] | {"refined": SIZES["DependencyScores"]["arc"]}


def sentence(structure, row, sizes):
  """{field: what a sentence owns}, cut by hand."""
  length = LENGTHS[row]
  return {
    name: getattr(structure, name)[(row, *map(slice, size(length)))] for name, size in sizes.items()
  }


def test_every_structure_has_a_layout():
  kinds = {type(build(kind)).__name__ for kind in KINDS}
  assert kinds == set(layout.KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_packed_and_unpacked_scores_are_the_same(kind, dtype):
  structure = build(kind, dtype=dtype)
  ragged = layout.pack(structure, LENGTHS)
  assert ragged.kind == type(structure).__name__
  assert ragged.lengths.tolist() == LENGTHS.tolist()
  back = layout.unpack(ragged, N)
  assert type(back) is type(structure)
  np.testing.assert_array_equal(back.mask, MASK)
  for name, size in SIZES[kind].items():
    found = getattr(back, name)
    assert (found.shape, found.dtype) == (getattr(structure, name).shape, dtype)
    own = np.zeros(found.shape, bool)
    for row, length in enumerate(LENGTHS):
      own[(row, *map(slice, size(length)[: found.ndim - 1]))] = True
    # Padding has zeros, whatever stood there.
    np.testing.assert_array_equal(found, np.where(own, getattr(structure, name), 0))
  shared = set(field_names(type(structure))) - set(SIZES[kind]) - {"mask"}
  for name in shared:
    np.testing.assert_array_equal(getattr(back, name), getattr(structure, name))
    assert name not in ragged.values


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentence_takes_its_true_size(kind):
  ragged = layout.pack(build(kind), LENGTHS)
  assert set(ragged.values) == set(SIZES[kind])
  for name, size in SIZES[kind].items():
    numbers = [int(np.prod(size(length))) for length in LENGTHS]
    assert ragged.values[name].size == sum(numbers)
    tail = int(np.prod(ragged.values[name].shape[1:]))
    np.testing.assert_array_equal(ragged.sizes(name) * tail, numbers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [[4], [2, 0], [5, 1, 1, 3], [], np.arange(6)[::-1]])
def test_rows_are_taken_in_any_order(kind, rows):
  structure, rows = build(kind), np.array(rows, int)
  taken = layout.pack(structure, LENGTHS).take(rows)
  assert taken.lengths.tolist() == LENGTHS[rows].tolist()
  back = layout.unpack(taken, N)
  for place, row in enumerate(rows):
    for name, expected in sentence(structure, row, SIZES[kind]).items():
      found = getattr(back, name)[(place, *map(slice, expected.shape))]
      np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_join_to_the_whole_whatever_they_were_padded_to(kind):
  structure = build(kind)
  ragged = layout.pack(structure, LENGTHS)
  parts = []
  for rows in (np.array([0, 1]), np.array([2]), np.array([3, 4, 5])):
    part = ragged.take(rows)
    # Through the length of its own bucket, as it comes from a network.
    parts.append(layout.pack(layout.unpack(part, part.lengths.max()), part.lengths))
  joined = layout.join(parts)
  assert joined.kind == ragged.kind
  for name, values in ragged.values.items():
    np.testing.assert_array_equal(joined.values[name], values)
  np.testing.assert_array_equal(joined.lengths, ragged.lengths)
  assert joined.shared.keys() == ragged.shared.keys()


def test_a_length_that_is_too_short_is_refused():
  ragged = layout.pack(build("MaxEnt"), LENGTHS)
  with pytest.raises(ValueError, match="a sentence of 6 tokens does not fit into 5"):
    layout.unpack(ragged, N - 1)


def test_no_sentences_at_all():
  for kind in KINDS:
    back = layout.unpack(layout.pack(build(kind), LENGTHS).take(np.array([], int)), 3)
    assert back.mask.shape == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_padded_structure_under_jit(kind):
  structure, rows = build(kind), np.array([4, 0, 0])
  found = jax.jit(layout.take_rows)(structure, rows)
  for name, value in ((name, getattr(structure, name)) for name in field_names(type(structure))):
    if value is None:
      assert getattr(found, name) is None
      continue
    own = name == "mask" or name in SIZES[kind]
    np.testing.assert_array_equal(getattr(found, name), value[rows] if own else value)


def test_scores_of_other_sentences_are_refused_with_both_shapes():
  structure = build("SpanScores")
  layout.check(structure, len(LENGTHS), N)
  for rows, length in ((len(LENGTHS) + 1, N), (len(LENGTHS), N + 2)):
    with pytest.raises(ValueError, match=rf"(?=.*\(6, 6\)).*\({rows}, {length}\)"):
      layout.check(structure, rows, length)


def test_transitions_of_a_sentence_s_own_and_a_missing_mask_are_refused():
  chain = build("LinearChain")
  own = np.broadcast_to(chain.transition, (len(LENGTHS), TAGS, TAGS))
  with pytest.raises(ValueError, match=r"transition \(6, 5, 5\) must be one for all sentences"):
    layout.pack(chain._replace(transition=own), LENGTHS)
  with pytest.raises(ValueError, match="mask"):
    layout.check(build("MaxEnt")._replace(mask=None), len(LENGTHS), N)


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_scales_the_scores_and_nothing_else(kind):
  structure = build(kind)
  found = scaled(structure, 0.5)
  scores = {"unary", "transition", "logits", "scores", "arc", "relation", "refined"}
  for name in field_names(type(structure)):
    value = getattr(structure, name)
    if name in scores and value is not None:
      np.testing.assert_array_equal(getattr(found, name), 0.5 * value)
    else:
      np.testing.assert_array_equal(getattr(found, name), value)


def test_what_is_excluded_stays_so_at_every_temperature():
  scores = np.float32([[[NEG_INF, -np.inf, 4.0]]])
  value, gradient = jax.value_and_grad(
    lambda factor: scaled(MaxEnt(scores), factor).logits[0, 0, 2]
  )(0.25)
  assert (value, gradient) == (1.0, 4.0)
  np.testing.assert_array_equal(scaled(MaxEnt(scores), 0.25).logits[..., :2], scores[..., :2])


def test_ragged_scores_are_a_pytree_of_arrays():
  ragged = layout.pack(build("LinearChain"), LENGTHS)
  arrays, kind = jax.tree.flatten(ragged)
  assert len(arrays) == 3
  assert jax.tree.unflatten(kind, arrays).kind == "LinearChain"


def test_scores_of_an_unknown_structure_name_the_version():
  ragged = layout.Ragged("LatticeScores", LENGTHS, {}, {})
  with pytest.raises(ValueError, match="LatticeScores was written by another version of kd_jax"):
    layout.unpack(ragged, N)
