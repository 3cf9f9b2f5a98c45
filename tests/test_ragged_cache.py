"""The cache of structures: a teacher's scores at the sentences' true lengths, resumed, verified, refused."""

import dataclasses
import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from kd_jax.checkpoints import CheckpointStore
from kd_jax.data import Augmentation
from kd_jax.structured import SpanScores, layout
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.teachers.cache import BrokenCacheError, CacheError, make_spec, precompute
from tests.training import sentences

CHUNK = 5  # three chunks of the thirteen sentences
DATA = sentences.dataset()
TREES = sentences.dataset(trees=True)
KINDS = {head: "DependencyScores" if head == "refined" else head for head in sentences.STUDENTS}
# Entries of all fields together that a sentence of n tokens has.
TAGS, RELATIONS = sentences.TAGS, 2
ENTRIES = {
  "LinearChain": lambda n: n * TAGS,
  "MaxEnt": lambda n: n * TAGS,
  "SpanScores": lambda n: n * n * sentences.LABELS,
  "DependencyScores": lambda n: n * (n + 1) * (1 + RELATIONS),
  "refined": lambda n: n * (n + 1) * (2 + RELATIONS),
}


def data_of(head):
  return TREES if sentences.is_parser(head) else DATA


def spec_of(head, data=None, **options):
  data = data_of(head) if data is None else data
  none = Augmentation("none")
  return make_spec("A", {}, data, none, 1, num_classes=TAGS, structure=KINDS[head], **options)


def predictor(head, data=None, seed=7):
  data = data_of(head) if data is None else data
  return predicting.structure_predictor(*sentences.network(head, data, seed), data)


def made_up(rows, view, batch_size):
  """Scores of spans that tell sentences, starts and ends apart; nothing is computed."""
  n = max(sentences.BUCKETS)
  scores = rows[:, None, None, None] + np.linspace(0, 1, n * n).reshape(n, n, 1)
  lengths = DATA.lengths[rows]
  mask = np.arange(n) < lengths[:, None]
  return layout.pack(SpanScores(scores.astype(np.float32), mask), lengths)


def fill(directory, spec, predict, steps=None):
  states = precompute(directory, spec, predict, batch_size=8, chunk_rows=CHUNK)
  progress = list(itertools.islice(states, steps))
  states.close()
  return progress[-1]


SPANS = spec_of("SpanScores")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp("ragged")
  assert fill(folder, SPANS, made_up) == (len(DATA), len(DATA))
  return folder


@pytest.fixture
def folder(made, tmp_path):
  return shutil.copytree(made, tmp_path / "cache")


def manifest(directory):
  return json.loads((directory / teacher_cache.MANIFEST).read_text())


@pytest.mark.parametrize(
  ("head", "dtype"), [(head, "float32") for head in KINDS] + [("refined", "float16")]
)
def test_sentences_are_kept_as_the_network_scores_them_and_at_their_size(tmp_path, head, dtype):
  """Each sentence by itself, whatever bucket it was computed in and whatever it was padded to."""
  data, spec = data_of(head), spec_of(head, dtype=dtype)
  model, variables = sentences.network(head, data)
  fill(tmp_path, spec, predictor(head))
  cache = teacher_cache.open_cache(tmp_path, spec)
  kept = cache.outputs
  assert kept.kind == KINDS[head] == cache.manifest["spec"]["structure"]
  assert kept.lengths.tolist() == data.lengths.tolist()

  total = sum(values.nbytes for values in kept.values.values())
  width = {"float32": 4, "float16": 2}[dtype]
  assert total == width * sum(ENTRIES[head](int(length)) for length in data.lengths)
  assert all(values.dtype == dtype for values in kept.values.values())
  assert all(values.dtype == np.float32 for values in kept.shared.values())
  stored = sum(
    array.nbytes
    for chunk in range(3)
    for path, array in CheckpointStore(tmp_path / "chunks", keep=None).restore(chunk).state.items()
    if path.startswith("values.")
  )
  assert stored == total

  apply = jax.jit(lambda inputs: model.apply(variables, inputs, train=False).scores)
  tolerance = {"float32": 1e-5, "float16": 2.0**-10}[dtype]
  for bucket in data.buckets:
    expected = layout.pack(jax.device_get(apply(bucket.inputs)), data.lengths[bucket.rows])
    found = kept.take(bucket.rows)
    for name, values in expected.values.items():
      np.testing.assert_allclose(found.values[name], values, rtol=tolerance, atol=tolerance)
    for name, values in expected.shared.items():
      np.testing.assert_allclose(found.shared[name], values, rtol=1e-6)


def test_the_padded_size_is_not_what_is_kept(made):
  kept = teacher_cache.open_cache(made, SPANS).outputs
  longest = int(DATA.lengths.max())
  assert kept.values["scores"].nbytes == 4 * int(np.sum(DATA.lengths.astype(int) ** 2))
  assert kept.values["scores"].nbytes < 4 * len(DATA) * longest**2 / 2


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_stopped_and_started_again_it_ends_with_the_same_bits(made, tmp_path, steps):
  fill(tmp_path, SPANS, made_up, steps)
  with pytest.raises(CacheError, match="there is no finished cache"):
    teacher_cache.open_cache(tmp_path, SPANS)
  finished, asked = CheckpointStore(tmp_path / "chunks", keep=None).steps(), []

  def counted(rows, view, batch_size):
    asked.append(int(rows[0]))
    return made_up(rows, view, batch_size)

  fill(tmp_path, SPANS, counted)
  assert asked == [first for first in (0, 5, 10) if first // CHUNK not in finished]
  assert manifest(tmp_path) == manifest(made)
  one, other = (teacher_cache.open_cache(path, SPANS).outputs for path in (tmp_path, made))
  np.testing.assert_array_equal(one.values["scores"], other.values["scores"])


@pytest.mark.parametrize("head", ["LinearChain", "refined"])
def test_verify_knows_the_right_teacher_another_and_a_changed_row(tmp_path, head):
  spec = spec_of(head, dtype="float16")
  fill(tmp_path, spec, predictor(head))
  cache = teacher_cache.open_cache(tmp_path, spec)
  same = predictor(head)
  found = teacher_cache.verify(cache, same, batch_size=8)
  assert found.compared == len(DATA)
  assert found.largest_error <= 2.0**-11 * found.largest_value + 1e-6
  assert found.agrees
  other = teacher_cache.verify(cache, predictor(head, seed=8), batch_size=8)
  assert other.largest_error > 0.1
  assert not other.agrees

  kept = cache.outputs
  name = next(iter(kept.values))
  for row in (0, 7, len(DATA) - 1):
    entry = int(kept.sizes(name)[: row + 1].sum()) - 1  # the sentence's last
    for change, error in ((0.5, 0.5), (np.nan, np.inf)):
      values = kept.values[name].copy()
      values[entry] += change
      changed = dataclasses.replace(kept, values=kept.values | {name: values})
      found = teacher_cache.verify(cache._replace(outputs=changed), same, batch_size=8)
      assert (found.row, found.view) == (row, 0)
      assert found.largest_error == pytest.approx(error, rel=2e-2)


def test_a_change_of_what_all_sentences_share_is_noticed(tmp_path):
  spec = spec_of("LinearChain")
  fill(tmp_path, spec, predictor("LinearChain"))
  cache = teacher_cache.open_cache(tmp_path, spec)
  shared = {"transition": cache.outputs.shared["transition"] + np.float32(0.5)}
  changed = cache._replace(outputs=dataclasses.replace(cache.outputs, shared=shared))
  found = teacher_cache.verify(changed, predictor("LinearChain"), batch_size=8)
  assert found.largest_error == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("structure", "DependencyScores"),
    ("structure", None),
    ("teacher", "B"),
    ("fingerprint", sentences.dataset(seed=1).fingerprint),
    ("dtype", "float16"),
    ("num_classes", TAGS + 4),
  ],
)
def test_a_cache_of_something_else_is_refused_with_both_values(folder, name, value):
  expected = dataclasses.replace(SPANS, **{name: value})
  assert getattr(SPANS, name) != value
  asked = []
  for attempt in (
    lambda: teacher_cache.open_cache(folder, expected),
    lambda: fill(folder, expected, lambda *arguments: asked.append(arguments)),
  ):
    with pytest.raises(CacheError) as caught:
      attempt()
    said = str(caught.value)
    assert f"{name} of the cache is {getattr(SPANS, name)!r}, this run has {value!r}" in said
    assert "\n" not in said
  assert not asked


def test_another_order_of_the_same_sentences_is_other_data():
  turned = DATA.take(np.arange(len(DATA))[::-1])
  assert spec_of("SpanScores", turned) != SPANS
  # Buckets are how sentences are padded, no part of what they are.
  assert spec_of("SpanScores", dataclasses.replace(DATA, bucket_lengths=(8,))) == SPANS


def test_a_broken_chunk_is_named_and_alone_made_anew(made, folder):
  files = [path for path in (folder / "chunks/steps/1").rglob("*") if path.is_file()]
  path = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 16
  path.write_bytes(content)
  for attempt in (
    lambda: teacher_cache.open_cache(folder, SPANS),
    lambda: teacher_cache.check_cache(folder),
  ):
    with pytest.raises(BrokenCacheError, match=path.name):
      attempt()
  fill(folder, SPANS, made_up)
  assert manifest(folder) == manifest(made)


def test_a_teacher_of_another_structure_is_refused(tmp_path):
  with pytest.raises(CacheError, match="the teacher gives SpanScores, the cache is of MaxEnt"):
    fill(tmp_path, spec_of("MaxEnt"), made_up)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 6, 12])
def test_scores_that_are_not_finite_are_refused_by_their_row(tmp_path, value, row):
  def predict(rows, view, batch_size):
    ragged = made_up(rows, view, batch_size)
    values = ragged.values["scores"].copy()
    ends = np.cumsum(ragged.sizes("scores"))
    values[ends[: len(rows)][rows == row] - 1] = value
    return dataclasses.replace(ragged, values={"scores": values})

  with pytest.raises(CacheError, match=f"scores of row {row}, view 0, are not finite"):
    fill(tmp_path, SPANS, predict)
  assert not (tmp_path / teacher_cache.MANIFEST).exists()


def test_what_all_sentences_share_must_be_finite_too(tmp_path):
  model, variables = sentences.network("LinearChain", DATA)
  variables["params"]["transition"] = np.full((TAGS, TAGS), np.nan, np.float32)
  predict = predicting.structure_predictor(model, variables, DATA)
  with pytest.raises(CacheError, match="transition"):
    fill(tmp_path, spec_of("LinearChain"), predict)


def test_scores_beyond_float16_are_an_error_not_infinite(tmp_path):
  def predict(rows, view, batch_size):
    ragged = made_up(rows, view, batch_size)
    return dataclasses.replace(ragged, values={"scores": 1e5 + ragged.values["scores"]})

  with pytest.raises(CacheError, match=r"scores reach 1000\d\d.*, beyond float16: cache float32"):
    fill(tmp_path, dataclasses.replace(SPANS, dtype="float16"), predict)


@pytest.mark.parametrize("options", [{"top_k": 2}, {"views": 2}])
def test_structures_have_no_views_and_no_top_k(options):
  with pytest.raises(ValueError, match="one view and no top k"):
    dataclasses.replace(SPANS, **options)


def test_rows_are_predicted_in_the_order_asked_for():
  predict = predictor("MaxEnt")
  whole = predict(np.arange(len(DATA)), 0, 8)
  rows = np.array([12, 0, 3, 7])
  found = predict(rows, 0, 8)
  assert found.lengths.tolist() == DATA.lengths[rows].tolist()
  np.testing.assert_allclose(found.values["logits"], whole.take(rows).values["logits"], rtol=1e-6)
