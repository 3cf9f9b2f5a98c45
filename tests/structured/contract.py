"""What every structure must satisfy, as base classes that the structures' tests inherit.

A test class says how to draw scores, which functions to call and which list of all structures in
oracles.py to hold them against; the properties come from here. `StructureContract` holds for
every structure; `EntropyContract`, `LogProbContract`, `DivergenceContract` and
`DecodingContract` stand beside it where a structure has these functions.

One ragged batch, one shape: most tests then share two compiled programs, all the functions of a
structure and all their gradients.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import structured
from kd_jax.structured import _generic
from kd_jax.types import NEG_INF
from tests import oracles as differences
from tests.structured import oracles

LENGTHS = (4, 4, 3, 2, 1, 0)
BATCH, TOKENS = len(LENGTHS), max(LENGTHS)
MASK = np.arange(TOKENS) < np.array(LENGTHS)[:, None]
HOLES = np.array(
  [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool
)
"""As many tokens in each sentence as in MASK, with masked ones before and between them."""
GARBAGE = (np.nan, np.inf, -np.inf, 1e30)


def row_of(arrays, row):
  return {name: values[row] for name, values in arrays.items()}


def viterbi(structure):
  """The best labelling and its score."""
  labels, scores = structured.top_k(structure, 1)
  return labels[..., 0, :], scores[..., 0]


class StructureContract:
  """Properties of a structure.

  In all of these `arrays` is a dict of score arrays [B, ...]; a row is one sentence of it.

  Attributes:
    shapes: trailing shape of each array for n tokens.
    tolerance: absolute error of marginals and relative error of totals, at moderate scores.
  """

  tolerance = 2e-5
  axes = None
  """{name: by how much each axis of positions exceeds n}, of the arrays that sentences own."""

  # What a test class says.

  def shapes(self, n):
    raise NotImplementedError

  def build(self, arrays, mask):
    """The structure of these scores."""
    raise NotImplementedError

  def log_partition(self, arrays, mask):
    return structured.log_partition(self.build(arrays, mask))

  def counts(self, arrays, mask):
    """The marginals, as a dict like `arrays`: how often each score is expected to count."""
    (name,) = arrays
    return {name: structured.marginals(self.build(arrays, mask))}

  def more_functions(self):
    """Further functions (arrays, mask) -> arrays: these must be masked, jit, refuse, ... too."""
    return {}

  def structures(self, length):
    """All structures of `length` tokens."""
    raise NotImplementedError

  def parts(self, row, length):
    """The scores of the structures' parts, from one row."""
    raise NotImplementedError

  def spread(self, parts, row, length):
    """Numbers of each part, as numbers of each score of the row."""
    raise NotImplementedError

  def unread(self, arrays, mask):
    """Dict of bool arrays: the entries that nothing may depend on."""
    raise NotImplementedError

  def exclude(self, arrays):
    """A copy in which some parts score NEG_INF, and some structure remains in every row."""
    raise NotImplementedError

  def misshapen(self, arrays):
    """Pairs of a name and an array that does not fit the others or the mask."""
    raise NotImplementedError

  # What follows.

  @property
  def functions(self):
    return {"log_partition": self.log_partition, "counts": self.counts} | self.more_functions()

  @property
  def scalars(self):
    """The differentiable functions, one of them of the marginals: for second derivatives."""

    def weighted_counts(arrays, mask):
      found = self.counts(arrays, mask)
      return sum(jnp.sum(self.weights(values) * values) for values in found.values())

    names = {"log_partition", *EntropyContract.names, *LogProbContract.names}
    names |= set(DivergenceContract.names)
    chosen = {name: function for name, function in self.functions.items() if name in names}
    return chosen | {"weighted_counts": weighted_counts}

  def weights(self, values):
    return np.cos(1 + np.arange(np.size(values))).reshape(np.shape(values)).astype(np.float32)

  def draw(self, scale=2.0, leading=(BATCH,), n=TOKENS, seed=0):
    rng = np.random.default_rng(seed)
    return {
      name: np.float32(scale * rng.standard_normal((*leading, *shape)))
      for name, shape in self.shapes(n).items()
    }

  def extreme(self, kind):
    arrays = self.draw(1.0, seed=5)
    if kind == "signs":  # many structures of the same score
      return {name: np.float32(1e4 * np.sign(values)) for name, values in arrays.items()}
    if kind == "wide":
      return {name: np.float32(np.round(1e4 * np.tanh(values))) for name, values in arrays.items()}
    if kind == "flat":
      return {name: 0 * values for name, values in arrays.items()}
    return self.exclude(arrays)

  def evaluate(self, arrays, mask=MASK):
    """All functions in one program; compiled once for each class and shape."""
    cls = type(self)
    if "_evaluate" not in cls.__dict__:
      cls._evaluate = jax.jit(self._all)
    return cls._evaluate(arrays, mask)

  def _all(self, arrays, mask):
    return {name: function(arrays, mask) for name, function in self.functions.items()}

  def gradients(self, arrays, mask=MASK):
    cls = type(self)
    if "_gradients" not in cls.__dict__:

      def all_gradients(arrays, mask):
        return {
          name: jax.grad(lambda arrays, function=function: jnp.sum(function(arrays, mask)))(arrays)
          for name, function in self.scalars.items()
        }

      cls._gradients = jax.jit(all_gradients)
    return cls._gradients(arrays, mask)

  def expected(self, arrays, reference, lengths=LENGTHS):
    """reference(structures, parts, row, length) of every row."""
    found = []
    for i, length in enumerate(lengths):
      row = row_of(arrays, i)
      found.append(reference(self.structures(length), self.parts(row, length), row, length))
    return found

  def expected_counts(self, arrays, lengths=LENGTHS):
    rows = self.expected(
      arrays, lambda s, parts, row, length: self.spread(oracles.marginals(s, parts), row, length)
    )
    return {name: np.stack([row[name] for row in rows]) for name in arrays}

  def assert_differences(self, name, reference, scale=1.0):
    """The gradient of a function is that of reference(structures, parts), by differences."""
    arrays = self.draw(scale, seed=3)
    found = self.gradients(arrays)[name]
    for i, length in enumerate(LENGTHS):
      for key in arrays:
        row = row_of(arrays, i)

        def value(changed, row=row, key=key, length=length):
          parts = self.parts({**row, key: changed}, length)
          return reference(self.structures(length), parts)

        expected = differences.central_differences(value, row[key])
        np.testing.assert_allclose(found[key][i], expected, rtol=2e-3, atol=2e-4)

  def assert_same(self, actual, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-5, "atol": 2e-5}
    paths = jax.tree_util.tree_flatten_with_path(actual)[0]
    for (path, found), wanted in zip(paths, jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(found, wanted, **tolerance, err_msg=str(path))

  def positions(self, row):
    return np.flatnonzero(HOLES[row])

  def apart(self, values, extras, filler):
    """Values of a batch under MASK, moved to where its tokens stand under HOLES."""
    found = np.full(np.shape(values), filler, np.asarray(values).dtype)
    for i, length in enumerate(LENGTHS):
      place = self.positions(i)
      old = [np.arange(length + extra) for extra in extras]
      new = [np.append([0], place + 1) if extra else place for extra in extras]
      found[(i, *np.ix_(*new))] = np.asarray(values)[(i, *np.ix_(*old))]
    return found

  def labels_apart(self, labels):
    """Labels [B, n] or [B, k, n] of a batch under MASK, as they are under HOLES."""
    labels = np.asarray(labels)
    rows = labels.reshape(BATCH, -1, TOKENS)
    moved = [self.apart(self.named_apart(row), (0,), 0) for row in rows.swapaxes(0, 1)]
    return np.stack(moved, 1).reshape(labels.shape)

  def named_apart(self, labels):
    """What the labels of a batch [B, n] are called if their tokens stand elsewhere."""
    return labels

  def found_apart(self, name, values):
    """What a function gives under MASK, as it must be under HOLES."""
    if name == "counts":
      return {
        key: self.apart(array, self.axes[key], 0) if key in self.axes else array
        for key, array in values.items()
      }
    if name == "decode":
      return self.labels_apart(values)
    if name == "top_k":
      return self.labels_apart(values[0]), values[1]
    if name == "tag_marginals":
      return self.apart(values, (0,), 0)
    return values

  # The properties.

  def test_masked_tokens_are_as_if_they_were_not_there(self):
    """Wherever they stand: every function and every gradient, traced and not."""
    arrays = self.draw(seed=6)
    holed = {
      name: self.apart(values, self.axes[name], np.nan) if name in self.axes else values
      for name, values in arrays.items()
    }
    of_labels = ("score", "log_prob")  # of other labels here; they have a test of their own
    expected, found = self.evaluate(arrays), self.evaluate(holed, HOLES)
    for name in expected.keys() - {*of_labels, *self.random}:
      self.assert_same(found[name], self.found_apart(name, expected[name]))
    wanted = self.gradients(arrays)
    for name, gradients in self.gradients(holed, HOLES).items():
      if name not in (*of_labels, "weighted_counts"):
        self.assert_same(gradients, self.found_apart("counts", wanted[name]))
    eager = self.log_partition(holed, HOLES.astype(np.float32))
    self.assert_same(eager, expected["log_partition"])

  @pytest.mark.parametrize("scale", [0.3, 3.0, 20.0])
  def test_log_partition_and_marginals_equal_enumeration(self, scale):
    arrays = self.draw(scale, seed=int(scale))
    found = self.evaluate(arrays)
    expected = self.expected(arrays, lambda s, parts, *_: oracles.log_partition(s, parts))
    assert found["log_partition"].dtype == jnp.float32
    np.testing.assert_allclose(
      found["log_partition"], expected, rtol=self.tolerance, atol=self.tolerance
    )
    for name, values in self.expected_counts(arrays).items():
      assert found["counts"][name].dtype == jnp.float32
      np.testing.assert_allclose(
        found["counts"][name], values, atol=max(1, scale) * self.tolerance, err_msg=name
      )

  def test_marginals_are_the_gradient_of_the_log_partition(self):
    arrays = self.draw()
    counts, gradients = self.evaluate(arrays)["counts"], self.gradients(arrays)["log_partition"]
    self.assert_same(counts, gradients)
    for name, unread in self.unread(arrays, MASK).items():
      np.testing.assert_array_equal(np.asarray(counts[name])[unread], 0)

  def test_gradient_of_the_marginals(self):
    def weighted(structures, parts, row, length, weights):
      found = self.spread(oracles.marginals(structures, parts), row, length)
      return sum(np.sum(weights[name] * found[name]) for name in found)

    arrays = self.draw(1.0, seed=3)
    found = self.gradients(arrays)["weighted_counts"]
    for i, length in enumerate(LENGTHS):
      row = row_of(arrays, i)
      weights = row_of({name: self.weights(values) for name, values in arrays.items()}, i)
      for key in arrays:

        def value(changed, row=row, key=key, length=length, weights=weights):
          parts = self.parts({**row, key: changed}, length)
          return weighted(self.structures(length), parts, row, length, weights)

        expected = differences.central_differences(value, row[key])
        np.testing.assert_allclose(found[key][i], expected, rtol=2e-3, atol=2e-4)

  @pytest.mark.parametrize("kind", ["signs", "wide", "flat", "excluded"])
  def test_extreme_scores(self, kind):
    arrays = self.extreme(kind)
    found = self.evaluate(arrays)
    for path, values in jax.tree_util.tree_flatten_with_path(found)[0]:
      assert np.isfinite(values).all(), path
    for path, values in jax.tree_util.tree_flatten_with_path(self.gradients(arrays))[0]:
      assert np.isfinite(values).all(), path
    expected = self.expected(arrays, lambda s, parts, *_: oracles.log_partition(s, parts))
    # Terms of 1e4 may cancel in the total: float32 keeps seven digits of them, not of it.
    np.testing.assert_allclose(found["log_partition"], expected, rtol=1e-4, atol=1e-2)
    for name, values in self.expected_counts(arrays).items():
      np.testing.assert_allclose(found["counts"][name], values, atol=5e-3, err_msg=name)
      excluded = (arrays[name] == NEG_INF) & ~self.unread(arrays, MASK)[name]
      np.testing.assert_array_equal(np.asarray(found["counts"][name])[excluded], 0)

  @pytest.mark.parametrize("garbage", GARBAGE)
  def test_padding_has_no_effect(self, garbage):
    clean, unread = self.draw(), self.unread(self.draw(), MASK)
    for name, where in unread.items():
      clean[name] = np.where(where, np.float32(0), clean[name])
    padded = {name: np.where(unread[name], np.float32(garbage), clean[name]) for name in clean}
    assert any(where.any() for where in unread.values())
    self.assert_same(self.evaluate(padded), self.evaluate(clean), rtol=1e-6, atol=1e-6)
    expected = self.gradients(clean)
    for function, gradients in self.gradients(padded).items():
      for name, gradient in gradients.items():
        np.testing.assert_allclose(
          gradient, expected[function][name], rtol=1e-5, atol=1e-6, err_msg=f"{function} {name}"
        )
        np.testing.assert_array_equal(
          np.asarray(gradient)[unread[name]], 0, err_msg=f"{function} {name}"
        )

  def test_eager_with_garbage_equals_jit(self):
    """The checks at the door, which see the values only then, must let garbage in padding pass."""
    arrays = self.draw()
    for name, where in self.unread(arrays, MASK).items():
      arrays[name] = np.where(where, np.float32(np.nan), arrays[name])
    expected = self.evaluate(arrays)
    # A mask of numbers is one of truth values.
    found = self.log_partition(arrays, MASK.astype(np.float32))
    self.assert_same(found, expected["log_partition"])

  random = ("sample",)
  """Functions that draw from the shape of the whole batch."""

  def test_vmap_and_leading_axes(self):
    arrays = self.draw()
    expected = self.evaluate(arrays)

    def all_functions(arrays, mask):
      return {k: v for k, v in self._all(arrays, mask).items() if k not in self.random}

    # Values of the marginals say most; of the others the shapes, which need no compilation.
    found = jax.jit(jax.vmap(self.counts))(arrays, MASK)
    self.assert_same(found, expected["counts"])
    mapped = jax.eval_shape(jax.vmap(all_functions), arrays, MASK)
    for name, shapes in mapped.items():
      for shape, values in zip(
        jax.tree.leaves(shapes), jax.tree.leaves(expected[name]), strict=True
      ):
        assert shape.shape == values.shape, name
    split = jax.tree.map(lambda values: values.reshape(2, 3, *values.shape[1:]), (arrays, MASK))
    folded = jax.jit(self.log_partition)(*split)
    np.testing.assert_allclose(folded.ravel(), expected["log_partition"], rtol=1e-5, atol=1e-5)
    for shape in jax.tree.leaves(jax.eval_shape(all_functions, *split)):
      assert shape.shape[:2] == (2, 3)

  def test_one_token(self):
    arrays = self.draw(leading=(2,), n=1)
    found = jax.jit(lambda arrays: self._all(arrays, None))(arrays)
    expected = self.expected(arrays, lambda s, parts, *_: oracles.log_partition(s, parts), (1, 1))
    np.testing.assert_allclose(found["log_partition"], expected, rtol=2e-5, atol=2e-5)
    # Padded to the usual length, the same.
    padded = {name: np.full_like(values, np.nan) for name, values in self.draw().items()}
    for name, values in arrays.items():
      padded[name][(slice(0, 2), *(slice(0, size) for size in values.shape[1:]))] = values
      if not self.unread(self.draw(), MASK)[name].any():
        padded[name][2:] = 0  # shared by all positions: read even where all are padding
    mask = np.zeros((BATCH, TOKENS), bool)
    mask[:2, 0] = True
    both = self.evaluate(padded, mask)
    for name, values in found["counts"].items():
      region = (slice(0, 2), *(slice(0, size) for size in values.shape[1:]))
      np.testing.assert_allclose(both["counts"][name][region], values, rtol=1e-5, atol=1e-5)
    for name in ("log_partition", *EntropyContract.names, *DivergenceContract.names):
      if name in found:
        np.testing.assert_allclose(both[name][:2], found[name], rtol=1e-5, atol=2e-5)
        np.testing.assert_array_equal(both[name][2:], 0)

  def test_a_single_sentence_without_leading_axes_or_mask(self):
    row = row_of(self.draw(), 0)
    value = jax.jit(lambda row: self.log_partition(row, None))(row)
    assert value.shape == ()
    expected = self.evaluate(self.draw())["log_partition"][0]
    np.testing.assert_allclose(value, expected, rtol=1e-5)

  def test_low_precision_is_upcast_first(self):
    low = {name: jnp.asarray(values, jnp.bfloat16) for name, values in self.draw().items()}
    exact = {name: np.asarray(values.astype(jnp.float32)) for name, values in low.items()}
    for path, shape in jax.tree_util.tree_flatten_with_path(jax.eval_shape(self._all, low, MASK))[
      0
    ]:
      assert shape.dtype in (jnp.float32, jnp.int32), path
    value = jax.jit(self.log_partition)(low, MASK)
    expected = self.evaluate(exact)["log_partition"]
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    gradients = jax.eval_shape(jax.grad(lambda arrays: self.log_partition(arrays, MASK).sum()), low)
    assert all(gradient.dtype == jnp.bfloat16 for gradient in gradients.values())

  def test_scores_are_checked(self):
    for function in self.functions.values():
      arrays = self.draw()
      for key, values in arrays.items():
        with pytest.raises(ValueError, match="int32"):
          function(arrays | {key: values.astype(np.int32)}, MASK)
        read = np.argwhere(~self.unread(arrays, MASK)[key])[0]
        broken = values.copy()
        broken[tuple(read)] = np.nan
        with pytest.raises(ValueError, match="NaN"):
          function(arrays | {key: broken}, MASK)

  def test_shapes_are_checked(self):
    arrays = self.draw()
    for function in self.functions.values():
      for wrong in (MASK[:, :-1], MASK[:-1], MASK[0], MASK[..., None]):
        with pytest.raises(ValueError, match="(?s)mask.*" + re.escape(str(wrong.shape))):
          function(arrays, wrong)
      for key, wrong in self.misshapen(arrays):
        with pytest.raises(ValueError, match=r"\(\d"):
          function(arrays | {key: wrong}, MASK)


class EntropyContract:
  """Beside StructureContract: the entropy of the distribution over structures."""

  names = ("entropy",)

  def entropy(self, arrays, mask):
    return structured.entropy(self.build(arrays, mask))

  def more_functions(self):
    return super().more_functions() | {"entropy": self.entropy}

  @pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
  def test_entropy(self, scale):
    arrays = self.draw(scale, seed=1)
    found = self.evaluate(arrays)["entropy"]
    expected = self.expected(arrays, lambda s, parts, *_: oracles.entropy(s, parts))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

  def test_gradient_of_the_entropy(self):
    self.assert_differences("entropy", oracles.entropy)

  @pytest.mark.parametrize("kind", ["signs", "wide", "excluded"])
  def test_entropy_of_extreme_scores(self, kind):
    arrays = self.extreme(kind)
    found = self.evaluate(arrays)["entropy"]
    expected = self.expected(arrays, lambda s, parts, *_: oracles.entropy(s, parts))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-2)


class LogProbContract:
  """Beside StructureContract: the log-probability of a given structure."""

  names = ("score", "log_prob")

  def score_of(self, arrays, decoded, mask):
    return _generic.score(self.build(arrays, mask), decoded)

  def log_prob_of(self, arrays, decoded, mask):
    return structured.log_prob(self.build(arrays, mask), decoded)

  def gold(self, arrays, mask):
    """Any one structure [..., n] of every row."""
    raise NotImplementedError

  def more_functions(self):
    def score(arrays, mask):
      return self.score_of(arrays, self.gold(arrays, mask), mask)

    def log_prob(arrays, mask):
      return self.log_prob_of(arrays, self.gold(arrays, mask), mask)

    return super().more_functions() | {"score": score, "log_prob": log_prob}

  def test_log_prob_of_every_structure(self):
    arrays = self.draw()
    for i, length in ((0, TOKENS), (2, 3), (4, 1), (5, 0)):
      structures, row = self.structures(length), row_of(arrays, i)
      parts = self.parts(row, length)
      decoded = np.full((len(structures.decoded), TOKENS), -100)  # nonsense where there is no token
      decoded[:, :length] = structures.decoded
      score, log_prob = jax.jit(
        jax.vmap(
          lambda decoded, row, mask: (
            self.score_of(row, decoded, mask),
            self.log_prob_of(row, decoded, mask),
          ),
          (0, None, None),
        )
      )(decoded, row, MASK[i])
      np.testing.assert_allclose(score, oracles.scores(structures, parts), rtol=1e-5, atol=1e-5)
      np.testing.assert_allclose(
        log_prob, oracles.log_probs(structures, parts), rtol=1e-5, atol=2e-5
      )
      np.testing.assert_allclose(np.exp(np.float64(log_prob)).sum(), 1, rtol=2e-5)

  def test_log_prob_under_holes(self):
    arrays = self.draw(seed=6)
    holed = {
      name: self.apart(values, self.axes[name], np.nan) if name in self.axes else values
      for name, values in arrays.items()
    }
    labels = np.zeros((BATCH, TOKENS), int)
    for i, length in enumerate(LENGTHS):
      labels[i, :length] = self.structures(length).decoded[-1]
    log_prob = jax.jit(self.log_prob_of)
    expected = log_prob(arrays, labels, MASK)
    found = log_prob(holed, self.labels_apart(labels), HOLES)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)

  def test_gradient_of_the_log_prob(self):
    arrays = self.draw()
    gradients = self.gradients(arrays)
    for name, counts in self.evaluate(arrays)["counts"].items():
      np.testing.assert_allclose(
        gradients["log_prob"][name], gradients["score"][name] - counts, atol=2e-5
      )


class DivergenceContract:
  """Beside StructureContract: cross-entropy and Kullback-Leibler divergence of two of a kind."""

  names = ("cross_entropy", "kl_divergence")

  def cross_entropy_of(self, teacher, student, mask):
    return structured.cross_entropy(self.build(teacher, mask), self.build(student, mask))

  def kl_divergence_of(self, teacher, student, mask):
    return structured.kl_divergence(self.build(teacher, mask), self.build(student, mask))

  def student(self, arrays):
    """Another distribution, of the same excluded structures."""
    return {name: 0.5 * values for name, values in arrays.items()}

  def more_functions(self):
    return super().more_functions() | {
      "cross_entropy": lambda arrays, mask: self.cross_entropy_of(
        arrays, self.student(arrays), mask
      ),
      "kl_divergence": lambda arrays, mask: self.kl_divergence_of(
        arrays, self.student(arrays), mask
      ),
    }

  def both(self, teacher, student, mask=MASK):
    """Cross-entropy, divergence, and the gradients of both to teacher and student."""
    cls = type(self)
    if "_both" not in cls.__dict__:

      def value_and_gradients(function, teacher, student, mask):
        def total(teacher, student):
          values = function(teacher, student, mask)
          return jnp.sum(values), values

        (_, values), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(teacher, student)
        return values, gradients

      cls._both = jax.jit(
        lambda *pair: (
          value_and_gradients(self.cross_entropy_of, *pair),
          value_and_gradients(self.kl_divergence_of, *pair),
        )
      )
    return cls._both(teacher, student, mask)

  @pytest.mark.parametrize("scale", [0.5, 3.0])
  def test_cross_entropy_and_divergence(self, scale):
    teacher, student = self.draw(scale, seed=1), self.draw(scale, seed=2)
    (cross_entropy, _), (divergence, _) = self.both(teacher, student)
    for i, length in enumerate(LENGTHS):
      structures = self.structures(length)
      pair = [self.parts(row_of(arrays, i), length) for arrays in (teacher, student)]
      expected = oracles.cross_entropy(structures, *pair)
      np.testing.assert_allclose(cross_entropy[i], expected, rtol=5e-5, atol=5e-5)
      expected = oracles.kl_divergence(structures, *pair)
      np.testing.assert_allclose(divergence[i], expected, rtol=1e-4, atol=1e-4)

  def test_divergence_is_zero_at_equality(self):
    for scale in (1.0, 20.0):
      teacher = self.draw(scale)
      (cross_entropy, _), (divergence, (_, gradient)) = self.both(teacher, teacher)
      np.testing.assert_allclose(divergence, 0, atol=1e-5 * max(1, scale))
      self.assert_same(gradient, jax.tree.map(np.zeros_like, teacher), atol=1e-5)
      expected = self.expected(teacher, lambda s, parts, *_: oracles.entropy(s, parts))
      np.testing.assert_allclose(cross_entropy, expected, rtol=1e-4, atol=1e-4)

  def test_divergence_is_never_negative(self):
    """Also where the student is nearly the teacher: rounding must not show as a sign."""
    for scale in (1.0, 10.0):
      for seed in range(5):
        teacher, noise = self.draw(scale, seed=seed), self.draw(1e-3, seed=seed + 100)
        student = {name: teacher[name] + noise[name] for name in teacher}
        _, (divergence, _) = self.both(teacher, student)
        assert np.min(divergence) >= 0

  def test_gradients_of_the_divergence(self):
    teacher, student = self.draw(1.0, seed=1), self.draw(1.0, seed=2)
    _, (_, gradients) = self.both(teacher, student)
    for side, gradient in enumerate(gradients):
      for i in (0, 2):
        for key in teacher:
          rows = [row_of(teacher, i), row_of(student, i)]

          def value(changed, rows=rows, side=side, key=key, length=LENGTHS[i]):
            rows = [*rows]
            rows[side] = {**rows[side], key: changed}
            pair = [self.parts(row, length) for row in rows]
            return oracles.kl_divergence(self.structures(length), *pair)

          expected = differences.central_differences(value, rows[side][key])
          np.testing.assert_allclose(gradient[key][i], expected, rtol=2e-3, atol=2e-4)

  def test_extreme_pairs(self):
    teacher, student = self.extreme("signs"), self.extreme("wide")
    for result in (self.both(teacher, student), self.both(student, teacher)):
      for values in jax.tree.leaves(result):
        assert np.isfinite(values).all()
    expected = [
      oracles.cross_entropy(
        self.structures(length), *(self.parts(row_of(a, i), length) for a in (teacher, student))
      )
      for i, length in enumerate(LENGTHS)
    ]
    (found, _), _ = self.both(teacher, student)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=0.5)

  def test_both_distributions_are_checked(self):
    good, bad = self.draw(), self.draw()
    name = next(iter(bad))
    bad[name][0, 0, ...] = np.nan
    for function in (self.cross_entropy_of, self.kl_divergence_of):
      for pair in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="NaN"):
          function(*pair, MASK)
      longer = self.draw(n=TOKENS + 1)
      with pytest.raises(ValueError, match=r"\("):
        function(longer, good, None)


class DecodingContract:
  """Beside StructureContract: the best structure."""

  def decode(self, arrays, mask):
    return structured.argmax(self.build(arrays, mask))

  def more_functions(self):
    return super().more_functions() | {"decode": self.decode}

  @pytest.mark.parametrize("scale", [1.0, 30.0])
  def test_decoding_finds_the_best(self, scale):
    for seed in range(4):
      arrays = self.draw(scale, seed=seed)
      decoded = self.evaluate(arrays)["decode"]
      assert decoded.dtype == jnp.int32
      for i, length in enumerate(LENGTHS):
        parts = self.parts(row_of(arrays, i), length)
        (best,), _ = oracles.k_best(self.structures(length), parts, 1)
        np.testing.assert_array_equal(decoded[i, :length], best)
        np.testing.assert_array_equal(decoded[i, length:], 0)

  @pytest.mark.parametrize("kind", ["signs", "wide", "flat", "excluded"])
  def test_decoding_of_extreme_scores(self, kind):
    """Where several are best, any of them will do: these scores add up without rounding."""
    arrays = self.extreme(kind)
    decoded = self.evaluate(arrays)["decode"]
    for i, length in enumerate(LENGTHS):
      structures = self.structures(length)
      scores = oracles.scores(structures, self.parts(row_of(arrays, i), length))
      found = np.flatnonzero((structures.decoded == decoded[i, :length]).all(-1))
      assert len(found) == 1, f"{decoded[i]} is no structure of {length} tokens"
      assert scores[found[0]] >= scores.max() - 1e-5 * np.abs(scores.max()), kind


class SearchContract:
  """Beside StructureContract: the k best structures, and samples."""

  k = 7
  draws = 4000

  def more_functions(self):
    return super().more_functions() | {
      "top_k": lambda arrays, mask: structured.top_k(self.build(arrays, mask), self.k),
      "sample": lambda arrays, mask: structured.sample(self.build(arrays, mask), jax.random.key(0)),
    }

  def test_the_k_best(self):
    arrays = self.draw(seed=7)
    labels, scores = self.evaluate(arrays)["top_k"]
    assert (labels.shape, labels.dtype) == ((BATCH, self.k, TOKENS), jnp.int32)
    for i, length in enumerate(LENGTHS):
      parts = self.parts(row_of(arrays, i), length)
      best, expected = oracles.k_best(self.structures(length), parts, self.k)
      count = len(expected)
      np.testing.assert_allclose(scores[i, :count], expected, rtol=1e-5, atol=2e-5)
      np.testing.assert_array_equal(labels[i, :count, :length], best)
      np.testing.assert_array_equal(labels[i, :, length:], 0)
      np.testing.assert_array_equal(scores[i, count:], np.float32(NEG_INF))
      np.testing.assert_array_equal(labels[i, count:], 0)

  def test_k_below_one_is_refused(self):
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
      structured.top_k(self.build(self.draw(), MASK), 0)

  def test_samples_have_their_probabilities(self):
    """Under HOLES, with one sentence of three tokens many times over and one empty one."""
    arrays, row, length = self.draw(1.0, seed=9), 2, 3
    holed = {
      name: self.apart(values, self.axes[name], np.nan) if name in self.axes else values
      for name, values in arrays.items()
    }
    many = {name: np.repeat(values[[row, 5]], self.draws // 2, 0) for name, values in holed.items()}
    mask = np.repeat(HOLES[[row, 5]], self.draws // 2, 0)

    @jax.jit
    def draw(keys):
      return jax.lax.map(lambda key: structured.sample(self.build(many, mask), key), keys)

    samples = np.asarray(draw(jax.random.split(jax.random.key(1), 2))).reshape(-1, TOKENS)
    assert samples.dtype == np.int32
    empty = np.tile(np.arange(self.draws) >= self.draws // 2, 2)
    np.testing.assert_array_equal(samples[empty], 0)
    samples = samples[~empty]
    np.testing.assert_array_equal(samples[:, ~HOLES[row]], 0)
    listed = self.structures(length)
    labels = np.zeros((len(listed.decoded), BATCH, TOKENS), int)
    labels[:, row, :length] = listed.decoded
    possible = np.stack([self.labels_apart(each)[row] for each in labels])
    expected = np.exp(oracles.log_probs(listed, self.parts(row_of(arrays, row), length)))
    for sample, prob in zip(possible, expected, strict=True):
      frequency = (samples == sample).all(-1).mean()
      # 4.5 standard deviations, for some forty frequencies.
      assert abs(frequency - prob) <= 4.5 * np.sqrt(prob * (1 - prob) / len(samples)) + 1e-9
