"""What every loss on structures must satisfy: builders, float64 references, and a contract to inherit.

A reference takes one sentence without padding and sums over all of its structures (lists of them come from
tests/structured/oracles.py), or over its tokens by loops. Batches are ragged, with an empty sentence.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.structured import DependencyScores, LinearChain, MaxEnt, ParsingTags, SpanScores
from tests import oracles
from tests.structured import oracles as structures

N, TAGS, LABELS = 4, 3, 2
LENGTHS = (4, 2, 0, 1)
HOLES = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]], bool)
"""As many tokens in each sentence, with masked ones before and between them."""
OFFSETS, RELATIONS = np.int32([0, 0, 1, 1, -1, -2, 3]), np.int32([0, 1, 0, 1, 1, 0, 1])


class Pair(NamedTuple):
  teacher: Any
  student: Any


# Builders. `rng` gives the scores, always of one ragged batch.


def mask():
  return np.arange(N) < np.array(LENGTHS)[:, None]


def build(kind, rng, scale=1.0):
  def draw(*shape):
    return np.float32(scale) * rng.standard_normal((len(LENGTHS), *shape)).astype(np.float32)

  bioes = 4 * LABELS + 1
  match kind:
    case "chain":
      return LinearChain(draw(N, TAGS), draw(TAGS, TAGS), mask())
    case "tokens":
      return MaxEnt(draw(N, TAGS), mask())
    case "bioes chain":
      return LinearChain(draw(N, bioes), draw(bioes, bioes), mask())
    case "bioes":
      return MaxEnt(draw(N, bioes), mask())
    case "spans":
      return SpanScores(draw(N, N, LABELS), mask())
    case "parser":
      return DependencyScores(draw(N, N + 1), draw(N, N + 1, LABELS), mask(), None)
    case "refined parser":
      return DependencyScores(draw(N, N + 1), draw(N, N + 1, LABELS), mask(), draw(N, N + 1))
    case "parsing tags":
      return ParsingTags(draw(N, len(OFFSETS)), OFFSETS, RELATIONS, mask())
  raise AssertionError(kind)


def pair_of(teacher, student, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return Pair(build(teacher, rng, scale), build(student, rng, scale))


def floats(structure):
  """The scores among the fields: what has a gradient."""
  return {
    name: value
    for name, value in structure._asdict().items()
    if value is not None and jnp.issubdtype(jnp.asarray(value).dtype, jnp.floating)
  }


def map_floats(function, structure):
  changed = {name: function(name, value) for name, value in floats(structure).items()}
  return structure._replace(**changed)


def read(name):
  """bool, broadcastable to a field: the entries that mean something."""
  valid, tokens = mask(), np.arange(1, N + 1)
  if name == "transition":
    return np.array(True)
  if name == "scores":
    inside = valid[:, :, None] & valid[:, None, :] & (tokens[:, None] <= tokens)
    return inside[..., None]
  if name in ("arc", "refined", "relation"):
    heads = np.concatenate([np.ones((len(valid), 1), bool), valid], axis=1)
    inside = valid[:, :, None] & heads[:, None, :] & (tokens[:, None] != np.arange(N + 1))
    return inside[..., None] if name == "relation" else inside
  return valid[:, :, None] if name in ("unary", "logits") else valid


def fill(structure, garbage):
  """Garbage wherever nothing should be read."""
  return map_floats(
    lambda name, x: np.where(read(name), x, np.asarray(garbage, x.dtype)), structure
  )


AXES = {"scores": (0, 0), "arc": (0, 1), "relation": (0, 1), "refined": (0, 1), "transition": None}
"""By how much each axis of positions exceeds n; (0,) for what is not here."""


def apart(name, values, filler):
  """A field of a batch, moved to where its tokens stand under HOLES."""
  extras = AXES.get(name, (0,))
  if name == "mask":
    return HOLES
  if extras is None or values is None or (name in ("offsets", "relations") and values.ndim == 1):
    return values
  values = np.asarray(values)
  found = np.full(values.shape, filler if values.dtype.kind == "f" else 0, values.dtype)
  for row, length in enumerate(LENGTHS):
    place = np.flatnonzero(HOLES[row])
    old = [np.arange(length + extra) for extra in extras]
    new = [np.append([0], place + 1) if extra else place for extra in extras]
    moved = values[(row, *np.ix_(*old))]
    if name == "heads":
      moved = np.append([0], place + 1)[moved]
    found[(row, *np.ix_(*new))] = moved
  return found


def batched(structure):
  """Whether each field has an axis for the batch."""
  shared = ("offsets", "relations") if isinstance(structure, ParsingTags) else ()
  return {
    name: value is not None and name not in shared for name, value in structure._asdict().items()
  }


def take(structure, rows):
  """Some sentences of a batch."""
  return structure._replace(
    **{name: getattr(structure, name)[rows] for name, yes in batched(structure).items() if yes}
  )


def sentence(structure, row):
  """One sentence in float64, without padding."""
  n = LENGTHS[row]
  cuts = {
    "scores": np.s_[:n, :n],
    "arc": np.s_[:n, : n + 1],
    "relation": np.s_[:n, : n + 1],
    "refined": np.s_[:n, : n + 1],
    "transition": np.s_[:],
  }
  fields = {}
  for name, yes in batched(structure).items():
    value = getattr(structure, name)
    if yes:
      value = np.asarray(value)[row]
      value = np.float64(value) if np.issubdtype(value.dtype, np.floating) else value
      value = value[cuts.get(name, np.s_[:n])]
    fields[name] = value
  return structure._replace(**fields)


# References for one sentence.


def log_softmax(values):
  total = structures.log_sum_exp(values)
  return np.array([value - total for value in values])


def softened(probabilities, temperature):
  """p^(1/T), renormalised over all entries."""
  probabilities = np.asarray(probabilities, np.float64)
  powers = [p ** (1 / temperature) if p > 0 else 0.0 for p in probabilities.ravel()]
  return np.reshape(powers, probabilities.shape) / (sum(powers) or 1.0)


def parts(scores):
  """Parts of a chain, or of independent tags as a chain."""
  if isinstance(scores, MaxEnt):
    return structures.chain_parts(scores.logits, np.zeros((scores.logits.shape[-1],) * 2))
  return structures.chain_parts(scores.unary, scores.transition)


def sequences(scores):
  return structures.tag_sequences(*np.shape(scores[0]))


def tag_marginals(scores):
  """[n, L]: the sum of the probabilities of all structures with a tag at a token."""
  if isinstance(scores, SpanScores):
    n, _, num_labels = scores.scores.shape
    listed, flat = structures.flat_spans(n, num_labels), scores.scores.ravel()
    return structures.tag_marginals(listed, flat, 4 * num_labels + 1)
  return structures.tag_marginals(sequences(scores), parts(scores), np.shape(scores[0])[-1])


def independent(targets, logits, temperature):
  """T² times the cross-entropy of tempered distributions, token by token."""
  total = 0.0
  for target, row in zip(targets, logits, strict=True):
    total -= softened(target, temperature) @ log_softmax(row / temperature)
  return temperature**2 * total


def log_arc_probs(parser):
  """[n, n + 1] log-probabilities of heads, each token by itself; -inf for a token's own column."""
  given = parser.arc if parser.refined is None else parser.refined
  found = np.full(given.shape, -np.inf)
  for i in range(len(given)):
    heads = [h for h in range(given.shape[1]) if h != i + 1]
    found[i, heads] = log_softmax(given[i, heads])
  return found


def log_relation_probs(parser):
  found = np.zeros(parser.relation.shape)
  for arc in np.ndindex(found.shape[:-1]):
    found[arc] = log_softmax(parser.relation[arc])
  return found


def heads_named(i, tags):
  """(label, head, relation) of all labels that name a head of token i (from 0) in the sentence."""
  for label, (offset, relation) in enumerate(zip(tags.offsets, tags.relations, strict=True)):
    head = 0 if offset == 0 else i + 1 + offset
    if offset == 0 or 1 <= head <= len(tags.logits):
      yield label, int(head), int(relation)


def parsing_targets(log_arcs, log_relations, tags):
  """[n, L]: P(head) P(relation | head) of each tag, renormalised over the tags of the token."""
  found = np.zeros(tags.logits.shape)
  for i in range(len(found)):
    named = list(heads_named(i, tags))
    joint = [log_arcs[i, head] + log_relations[i, head, relation] for _, head, relation in named]
    found[i, [label for label, _, _ in named]] = np.exp(log_softmax(joint))
  return found


def central_differences(reference, pair, side):
  """Derivatives of the sum over the batch, by the fields of one side."""
  found = {}
  for name, value in floats(getattr(pair, side)).items():

    def total(changed, name=name):
      scores = getattr(pair, side)._replace(**{name: changed})
      changed_pair = pair._replace(**{side: scores})
      return sum(over_batch(reference, changed_pair))

    found[name] = oracles.central_differences(total, value)
  return found


def over_batch(reference, pair):
  """The reference for each sentence; an empty one has one structure, which is certain."""
  return np.array(
    [
      reference(sentence(pair.teacher, row), sentence(pair.student, row)) if length else 0.0
      for row, length in enumerate(LENGTHS)
    ]
  )


# The contract.


class Found(NamedTuple):
  values: Any
  student: Any
  teacher: Any


def _differentiate(loss, pair):
  def total(student, teacher):
    values = loss(pair.student._replace(**student), pair.teacher._replace(**teacher))
    return jnp.sum(values), values

  (_, values), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(
    floats(pair.student), floats(pair.teacher)
  )
  return Found(values, *gradients)


@functools.cache
def compiled(loss, options, tempered):
  """jit of (pair, T) -> `Found`, where the teacher learns too if the options say so."""

  def find(pair, temperature):
    more = {"temperature": temperature} if tempered else {}
    return _differentiate(functools.partial(loss, **dict(options), **more), pair)

  return jax.jit(find)


@functools.cache
def compiled_map(loss, options):
  """jit of pair -> `Found` of the loss without further arguments, each sentence by itself."""

  def find(pair):
    axes = Pair(
      *(
        scores._replace(**{name: 0 if yes else None for name, yes in batched(scores).items()})
        for scores in pair
      )
    )
    one = functools.partial(_differentiate, functools.partial(loss, **dict(options)))
    return jax.vmap(one, in_axes=(axes,))(pair)

  return jax.jit(find)


def refused(loss, teacher, student, match, **options):
  """Whether a pair is refused while it is being traced; nothing is computed."""
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(lambda: loss(student, teacher, **options))


def pad(scores):
  """NaN at padding; what is not read for another reason stays."""

  def fill_padding(name, x):
    valid = mask().reshape(len(LENGTHS), N, *(1,) * (x.ndim - 2))
    return x if name == "transition" else np.where(valid, x, np.float32(np.nan))

  return map_floats(fill_padding, scores)


class StructuredLossContract:
  """Properties of a loss of a teacher's structure and a student's structure.

  Attributes:
    loss: the function under test, `loss(student, teacher, **options)`.
    kinds: what `build` makes teacher and student from.
    options: arguments of the loss and of its reference, temperature apart.
    temperatures: to be tested; one None for a loss that has none.
    learns: whether the loss has `stop_teacher_gradient`.
    teacher_learns: whether the teacher then has a gradient.
    scales: of scores that give exact values. Probabilities of less than 1e-38 do not exist in float32.
    exact_when_certain: whether scores of ±1e4 leave the values exact, not only finite.
  """

  loss: Any
  kinds: tuple[str, str]
  options: tuple[tuple[str, Any], ...] = ()
  temperatures: tuple[float | None, ...] = (1.0, 3.0)
  learns = True
  teacher_learns = True
  scales = (0.3, 1.0, 3.0, 30.0)
  exact_when_certain = True
  tolerance = 2e-5

  def reference(self, teacher, student, temperature=1.0):
    raise NotImplementedError

  def pair(self, seed=0, scale=1.0):
    return pair_of(*self.kinds, seed=seed, scale=scale)

  def find(self, pair, temperature=None, **changes):
    """With a traced temperature, and the teacher learning."""
    options = dict(self.options) | changes
    if self.learns:
      options["stop_teacher_gradient"] = False
    tempered = self.temperatures[0] is not None
    temperature = self.temperatures[-1] if temperature is None else temperature
    return compiled(self.loss, tuple(options.items()), tempered)(pair, temperature)

  def expect(self, pair, temperature=None):
    options = dict(self.options) | ({"temperature": temperature} if temperature else {})
    return over_batch(lambda *scores: self.reference(*scores, **options), pair)

  def assert_close(self, actual, expected, scale=1.0):
    bound = scale * self.tolerance
    magnitude = float(np.max(np.abs(expected), initial=1.0))
    np.testing.assert_allclose(actual, expected, rtol=bound, atol=bound * magnitude)

  def test_equals_the_reference(self):
    for temperature in self.temperatures:
      for seed, scale in enumerate(self.scales):
        pair = self.pair(seed, scale)
        values = self.find(pair, temperature).values
        assert values.dtype == jnp.float32
        assert values.shape == (len(LENGTHS),)
        self.assert_close(values, self.expect(pair, temperature))
        assert values[LENGTHS.index(0)] == 0

  def test_gradients_equal_central_differences_of_the_reference(self):
    pair = self.pair(1)
    for temperature in self.temperatures:
      found = self.find(pair, temperature)
      options = dict(self.options) | ({"temperature": temperature} if temperature else {})
      for side in ("student", "teacher") if self.teacher_learns else ("student",):
        expected = central_differences(functools.partial(self.reference, **options), pair, side)
        assert any(np.abs(gradient).max() > 0.01 for gradient in expected.values())
        for name, gradient in expected.items():
          self.assert_close(getattr(found, side)[name], gradient, 5)

  def test_one_sentence_at_a_time_by_default(self):
    """Under vmap, at the default temperature: the teacher does not learn."""
    pair = self.pair(5)
    found, expected = compiled_map(self.loss, self.options)(pair), self.find(pair, 1.0)
    self.assert_close(found.values, expected.values)
    for name, gradient in expected.student.items():
      self.assert_close(found.student[name], gradient)
    assert any(np.any(gradient != 0) for gradient in expected.student.values())
    for gradient in found.teacher.values():
      np.testing.assert_array_equal(gradient, 0)
    assert self.teacher_learns == any(np.any(g != 0) for g in expected.teacher.values())

  @pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 3e38])
  def test_what_is_not_read_has_no_effect(self, garbage):
    pair = self.pair(2)
    for temperature in self.temperatures:
      expected = self.find(pair, temperature)
      found = self.find(Pair(*(fill(scores, garbage) for scores in pair)), temperature)
      self.assert_close(found.values, expected.values)
      for side in ("student", "teacher"):
        for name, gradient in getattr(found, side).items():
          np.testing.assert_array_equal(np.where(read(name), 0, gradient), 0)
          self.assert_close(gradient, getattr(expected, side)[name])

  def test_masked_tokens_are_as_if_they_were_not_there(self):
    pair = self.pair(7)
    holed = Pair(
      *(
        side._replace(**{k: apart(k, v, np.nan) for k, v in side._asdict().items()})
        for side in pair
      )
    )
    for temperature in self.temperatures:
      expected, found = self.find(pair, temperature), self.find(holed, temperature)
      self.assert_close(found.values, expected.values)
      for side in ("student", "teacher"):
        for name, gradient in getattr(expected, side).items():
          self.assert_close(getattr(found, side)[name], apart(name, gradient, 0.0))

  def test_certain_scores(self):
    pair = self.pair(3)
    certain = [map_floats(lambda _, x: np.float32(1e4) * np.sign(x), scores) for scores in pair]
    flat = [map_floats(lambda _, x: 0 * x, scores) for scores in pair]
    for temperature in self.temperatures:
      for teacher, student in (certain, flat, (certain[0], flat[1]), (flat[0], certain[1])):
        scores = Pair(teacher, student)
        found = self.find(scores, temperature)
        for leaf in jax.tree.leaves(found):
          assert np.isfinite(leaf).all()
        if self.exact_when_certain:
          # float32 resolves sums of such scores to 0.001 or so, and their probabilities no better.
          self.assert_close(found.values, self.expect(scores, temperature), 20)

  def test_low_precision_is_upcast_first(self):
    pair = self.pair(4)
    low = Pair(*(map_floats(lambda _, x: jnp.asarray(x, jnp.bfloat16), s) for s in pair))
    exact = Pair(*(map_floats(lambda _, x: np.asarray(x, np.float32), s) for s in low))
    found, expected = self.find(low), self.find(exact)
    assert found.values.dtype == jnp.float32
    self.assert_close(found.values, expected.values)
    for name, gradient in found.student.items():
      assert gradient.dtype == jnp.bfloat16
      np.testing.assert_allclose(
        gradient.astype(jnp.float32), expected.student[name], rtol=1e-2, atol=1e-4
      )

  def test_batch_permutation(self):
    pair, order = self.pair(6), np.array([2, 0, 3, 1])
    found = self.find(Pair(*(take(scores, order) for scores in pair))).values
    self.assert_close(found, self.find(pair).values[order])

  def test_temperatures_are_checked(self):
    if self.temperatures[0] is None:
      return
    for wrong in (0.5, 0.0, math.nan, math.inf, np.float32([2, 2, 2, 2]), np.float32([1.0])):
      refused(self.loss, *self.pair(), match="temperature", **dict(self.options), temperature=wrong)

  def test_shapes_are_checked(self):
    pair = self.pair()
    fewer = take(pair.student, np.s_[:3])
    refused(
      self.loss, pair.teacher, fewer, match=r"\(3, 4.*\(4, 4|\(4, 4.*\(3, 4", **dict(self.options)
    )


def assert_one_mask(loss, pair, expected, **options):
  """A side without a mask takes the other's; masks that differ are refused."""
  for side in ("teacher", "student"):
    without = pair._replace(**{side: getattr(pair, side)._replace(mask=None)})
    found = jax.jit(lambda pair: loss(*pair[::-1], **options))(without)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
  other = mask()
  other[0, -1] = False
  with pytest.raises(ValueError, match="differ at 1 positions"):
    loss(pair.student._replace(mask=other), pair.teacher, **options)


class EagerContract:
  """Beside `StructuredLossContract`, for one loss of each door: without jit values are looked at."""

  def test_eager_with_nan_at_padding(self):
    pair = self.pair(5)
    found = self.loss(*(pad(scores) for scores in pair[::-1]), **dict(self.options))
    self.assert_close(found, self.find(pair, 1.0).values)
