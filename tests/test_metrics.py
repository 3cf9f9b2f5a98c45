"""Metrics against NumPy written from their definitions."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_jax import metrics
from tests import contract, oracles

CLASSES = 4


def make(size, seed=0, scale=2.0):
  rng = np.random.default_rng(seed)
  student, teacher = scale * rng.standard_normal((2, size, CLASSES)).astype(np.float32)
  return student, teacher, rng.integers(0, CLASSES, size)


def logits_of(confidence, classes=CLASSES):
  """Logits [1, C] whose softmax gives the first class this confidence and the others equal shares."""
  rest = (1 - confidence) / (classes - 1)
  with np.errstate(divide="ignore"):
    return np.log(np.array([[confidence] + [rest] * (classes - 1)], np.float64)).astype(np.float32)


def expected_calibration_error(logits, labels):
  """Guo et al. 2017, equation 3: sum over bins of |b|/N × |acc(b) - conf(b)|, bins (low, high]."""
  members = {}
  for row, label in zip(logits, labels, strict=True):
    p = oracles.softmax(row)
    guess = int(np.argmax(p))
    number = next(b for b in range(15) if p[guess] <= (b + 1) / 15 + 1e-9)
    members.setdefault(number, []).append((guess == label, p[guess]))
  total = 0.0
  for inside in members.values():
    right, confidence = np.mean(np.asarray(inside, float), axis=0)
    total += len(inside) / len(labels) * abs(right - confidence)
  return total


def reference(student, teacher, labels):
  if not len(labels):
    return dict.fromkeys(("accuracy", "agreement", "kl_to_teacher", "ece"), 0.0)
  guesses = np.argmax(student, axis=1)
  return {
    "accuracy": np.mean(guesses == labels),
    "agreement": np.mean(guesses == np.argmax(teacher, axis=1)),
    "kl_to_teacher": np.mean(oracles.forward_kl(student, teacher)),
    "ece": expected_calibration_error(student, labels),
  }


def values(pairs):
  return {name: metrics.compute(*pair) for name, pair in pairs.items()}


def assert_close(actual, expected):
  assert actual.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


# Under jit and of few sizes, so that little is compiled.
classification = jax.jit(metrics.classification)


@contract.sampled
@hypothesis.given(
  size=st.sampled_from([1, 40]), seed=st.integers(0, 10**6), scale=st.sampled_from([1, 5])
)
def test_equal_their_definitions(size, seed, scale):
  student, teacher, labels = make(size, seed, scale)
  # Not on an edge between two bins, where rounding decides.
  confidence = np.max([oracles.softmax(row) for row in student], axis=1) * 15
  hypothesis.assume(np.min(np.abs(confidence - np.round(confidence))) > 1e-4)
  pairs = classification(student, labels, None, teacher)
  assert_close(values(pairs), reference(student, teacher, labels))


@contract.sampled
@hypothesis.given(data=st.data())
def test_masked_uneven_batches_in_any_order_equal_the_whole(data):
  sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
  student, teacher, labels = make(sum(sizes), data.draw(st.integers(0, 10**6)))
  confidence = np.array([max(oracles.softmax(row)) for row in student]) * 15
  hypothesis.assume(np.all(np.abs(confidence - np.round(confidence)) > 1e-4))
  pairs, start = [], 0
  for size in sizes:
    rows, rest = slice(start, start + size), (0, 9 - size)
    pairs.append(
      classification(
        # Whatever padding holds must not matter.
        np.pad(student[rows], (rest, (0, 0)), constant_values=np.nan),
        np.pad(labels[rows], rest, constant_values=1),
        np.arange(9) < size,
        np.pad(teacher[rows], (rest, (0, 0)), constant_values=np.nan),
      )
    )
    start += size
  shuffled = data.draw(st.permutations(pairs))
  sums = jax.tree.map(lambda *parts: sum(np.asarray(p, np.float64) for p in parts), *shuffled)
  # Bins too are summed before their absolute values are taken.
  assert_close(values(sums), reference(student, teacher, labels))
  assert all(count == sum(sizes) for _, count in sums.values())


@pytest.mark.parametrize("number", range(4, 16))
def test_a_confidence_on_the_edge_of_a_bin_belongs_to_the_lower(number):
  sums, count = metrics.calibration(logits_of(number / 15), np.array([0]))
  assert count == 1
  # On a computed edge float32 may fall to either side, by less than its rounding error.
  confidence = float(np.max(jax.nn.softmax(logits_of(number / 15))))
  bin_ = int(np.flatnonzero(np.asarray(sums) != 0)[0]) if number < 15 else 14
  assert bin_ == number - 1 or confidence > number / 15
  np.testing.assert_allclose(sums[bin_], 1 - number / 15, atol=1e-6)


def test_bins_at_exact_confidences():
  equal = np.zeros((1, 3), np.float32)
  sums, _ = metrics.calibration(equal, np.array([0]))
  # 1/3 = 5/15 is the upper edge of bin 4.
  assert np.flatnonzero(np.asarray(sums)).tolist() == [4]
  for logits, label, bin_, gap in [
    (logits_of(1.0), 1, 14, -1.0),
    (logits_of(1.0), 0, 14, 0.0),
    (np.zeros((1, 1000), np.float32), 0, 0, 0.999),
    (np.zeros((1, 1000), np.float32), 7, 0, -0.001),
    (np.array([[0.0, 0.0]], np.float32), 0, 7, 0.5),
  ]:
    sums, _ = metrics.calibration(logits, np.array([label]))
    expected = np.zeros(15)
    expected[bin_] = gap
    np.testing.assert_allclose(sums, expected, atol=1e-6)


def test_opposite_errors_of_different_bins_do_not_cancel():
  logits = np.concatenate([logits_of(0.9), logits_of(0.6)])
  ece = metrics.compute(*metrics.calibration(logits, np.array([1, 0])))
  np.testing.assert_allclose(ece, (0.9 + 0.4) / 2, rtol=1e-5)
  # Within a bin they do: that is what calibration means.
  logits = np.repeat(logits_of(0.5), 2, axis=0)
  ece = metrics.compute(*metrics.calibration(logits, np.array([0, 1])))
  np.testing.assert_allclose(ece, 0, atol=1e-6)


def test_agreement_counts_the_teachers_mistakes_as_right():
  student = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
  teacher = np.array([[0.5, 0.2], [0.9, 0.1]], np.float32)
  assert metrics.compute(*metrics.agreement(student, teacher)) == 0.5
  assert metrics.compute(*metrics.agreement(student, student)) == 1
  assert metrics.compute(*metrics.kl_to_teacher(teacher, teacher)) == 0


def test_nothing_counted_gives_zero():
  student, teacher, labels = make(3)
  pairs = metrics.classification(student, labels, np.zeros(3), teacher)
  assert values(pairs) == dict.fromkeys(pairs, 0.0)


def test_without_a_teacher_only_what_needs_none():
  student, _, labels = make(3)
  assert set(metrics.classification(student, labels)) == {"accuracy", "ece"}


def test_compute_keeps_the_axis_of_seeds():
  np.testing.assert_array_equal(metrics.compute([2.0, 1.0], [4.0, 4.0]), [0.5, 0.25])
  bins = np.array([[1.0, -2.0], [0.5, 0.5]])
  np.testing.assert_array_equal(metrics.compute(bins, [4.0, 4.0]), [0.75, 0.25])
  assert metrics.compute([2.0], [4.0]).dtype == np.float64


def test_jit_equals_eager():
  student, teacher, labels = make(30, seed=3)
  mask = np.arange(30) % 4 != 0
  expected = values(metrics.classification(student, labels, mask, teacher))
  assert_close(values(jax.jit(metrics.classification)(student, labels, mask, teacher)), expected)
