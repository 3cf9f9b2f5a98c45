"""The teacher cache: exactly the teacher's outputs, resumed bit for bit, refused where it is another's."""

import contextlib
import dataclasses
import itertools
import json
import os
import pickle
import shutil
import tracemalloc
import warnings

import jax
import numpy as np
import pytest

from kd_jax.checkpoints import CheckpointStore, digest_json
from kd_jax.data import Augmentation, Dataset, augment
from kd_jax.models.mlp import MLP
from kd_jax.structured import MaxEnt
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.teachers.cache import BrokenCacheError, CacheError, make_spec, precompute
from kd_jax.teachers.sources import cached_structures, cached_teacher
from kd_jax.types import Outputs

ROWS, CLASSES, VIEWS, CHUNK = 20, 5, 3, 8  # three chunks, the last of them not full
AUGMENTATION = Augmentation("pad_crop_flip", pad=1)


def dataset(seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (ROWS, 6, 6, 1)).astype(np.uint8)
  labels, ids = np.arange(ROWS) % CLASSES, np.array([f"id {row}" for row in range(ROWS)])
  return Dataset("fake", "1.0.0", "train", images, labels, None, ids, CLASSES)


DATA, MODEL = dataset(), MLP(num_classes=CLASSES, hidden=(7,))
SPEC = make_spec("teacher A", {"hidden": [7]}, DATA, AUGMENTATION, VIEWS)


def variables(seed=0):
  return MODEL.init(jax.random.key(seed), DATA.images[:1], train=False)


def predictor(seed=0, spec=SPEC):
  return predicting.predictor(
    MODEL, variables(seed), DATA, AUGMENTATION, top_k=spec.top_k, temperature=spec.temperature
  )


class Counted:
  """Made-up outputs, quickly; remembers what it was asked."""

  def __init__(self, scale=1.0):
    self.scale, self.asked = scale, []

  def __call__(self, rows, view, batch_size):
    self.asked.append((int(rows[0]), view))
    values = np.sin(np.arange(CLASSES) + rows[:, None] * (view + 1))
    return {"logits": (self.scale * values).astype(np.float32)}


def fill(directory, spec=SPEC, predict=None, steps=None):
  """Precomputes, all of it or the first steps; gives the last progress."""
  states = precompute(directory, spec, predict or Counted(), batch_size=8, chunk_rows=CHUNK)
  progress = list(itertools.islice(states, steps))
  states.close()
  return progress[-1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A finished cache of made-up outputs, to be copied and damaged."""
  folder = tmp_path_factory.mktemp("cache")
  assert fill(folder) == (ROWS * VIEWS, ROWS * VIEWS)
  return folder


@pytest.fixture
def folder(made, tmp_path):
  return shutil.copytree(made, tmp_path / "cache")


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
    ({"batch_size": 2.5}, "`batch_size` must be a whole number"),
    ({"chunk_rows": 0}, "`chunk_rows` must be a whole number of at least 1, got 0"),
    ({"chunk_rows": -1}, "`chunk_rows`"),
  ],
)
def test_sizes_of_zero_are_refused(made, tmp_path, sizes, message):
  with pytest.raises(ValueError, match=message):
    list(precompute(tmp_path, SPEC, Counted(), **({"batch_size": 8} | sizes)))
  with pytest.raises(ValueError, match="`num_examples`"):
    list(precompute(tmp_path, dataclasses.replace(SPEC, num_examples=0), Counted(), batch_size=8))
  cache = teacher_cache.open_cache(made, SPEC)
  for name in ("sample", "batch_size"):
    with pytest.raises(ValueError, match=f"`{name}` must be a whole number"):
      teacher_cache.verify(cache, Counted(), **{name: 0})


def test_outputs_that_are_not_finite_or_look_like_probabilities():
  logits = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
  excluded = np.where(logits > 1, -np.inf, logits)
  assert len(cached_teacher(Outputs(logits=excluded))) == 1
  for value in (np.nan, np.inf):
    bad = logits.copy()
    bad[4, 1, 0] = value
    for field in ("logits", "layers"):
      with pytest.raises(
        ValueError, match=f"the teacher's {field} must be finite, got .* in row 4:"
      ):
        cached_teacher(Outputs(**{"logits": logits} | {field: bad}))
    with pytest.raises(ValueError, match=r"scores must be finite, got .* in row 4 of bucket 1:"):
      cached_structures([MaxEnt(logits), MaxEnt(bad)])
  with pytest.raises(ValueError, match="layers must be finite, got -inf"):
    cached_teacher(Outputs(layers=excluded))
  with pytest.warns(UserWarning, match="are these probabilities\\? pass their logarithms"):
    cached_teacher(Outputs(logits=np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    cached_teacher(Outputs(logits=logits))


def test_rows_are_the_teachers_logits_of_exactly_the_views_that_the_student_sees(tmp_path):
  fill(tmp_path, predict=predictor())
  cached = teacher_cache.open_cache(tmp_path, SPEC).outputs.logits
  assert (cached.shape, cached.dtype) == ((ROWS, VIEWS, CLASSES), np.float32)
  for row, view in ((0, 0), (7, 1), (8, 2), (ROWS - 1, VIEWS - 1)):
    image = augment(AUGMENTATION, DATA.images[row], DATA.keys[row], view)
    live = MODEL.apply(variables(), image[None], train=False).logits[0]
    np.testing.assert_allclose(cached[row, view], live, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 5, 9, 12])
def test_stopped_and_started_again_it_ends_with_the_same_bits(made, tmp_path, steps):
  fill(tmp_path, steps=steps)
  assert not (tmp_path / teacher_cache.MANIFEST).exists()
  with pytest.raises(CacheError, match=r"there is no finished cache in .*run precompute first"):
    teacher_cache.open_cache(tmp_path, SPEC)
  finished = CheckpointStore(tmp_path / "chunks").steps()
  again = Counted()
  fill(tmp_path, predict=again)
  asked = [(row, view) for row in (0, 8, 16) for view in range(VIEWS) if row // 8 not in finished]
  assert again.asked == asked  # what was finished is not computed again
  assert manifest(tmp_path) == manifest(made)
  np.testing.assert_array_equal(
    teacher_cache.open_cache(tmp_path, SPEC).outputs.logits,
    teacher_cache.open_cache(made, SPEC).outputs.logits,
  )


def test_chunks_of_another_teacher_in_an_unfinished_cache_are_made_anew(made, tmp_path):
  fill(tmp_path, dataclasses.replace(SPEC, teacher="teacher B"), Counted(scale=2), steps=6)
  assert CheckpointStore(tmp_path / "chunks").steps() == [0]
  again = Counted()
  fill(tmp_path, predict=again)
  assert len(again.asked) == 3 * VIEWS
  assert manifest(tmp_path) == manifest(made)


def manifest(directory):
  return json.loads((directory / teacher_cache.MANIFEST).read_text())


OTHERS = {
  "teacher": "teacher B",
  "teacher_model": {"hidden": [9]},
  "dataset": "other",
  "version": "2.0.0",
  "split": "test",
  "fingerprint": dataset(seed=1).fingerprint,
  "num_examples": ROWS - 1,
  "num_classes": CLASSES + 1,
  "augmentation": {"name": "none"},
  "views": VIEWS + 1,
  "dtype": "float16",
  "top_k": 2,
  "temperature": 4.0,
  "structure": "MaxEnt",
  "outputs": ("logits", "layers"),
}


def test_every_field_has_another_value_to_be_refused():
  assert set(OTHERS) == {field.name for field in dataclasses.fields(teacher_cache.CacheSpec)}
  assert dataset().fingerprint == SPEC.fingerprint != OTHERS["fingerprint"]


@pytest.mark.parametrize("name", OTHERS)
def test_a_cache_of_something_else_is_refused_with_both_values_and_the_remedy(folder, name):
  beside = {"temperature": {"top_k": 2}, "structure": {"views": 1}}.get(name, {})
  changes = {name: OTHERS[name]} | beside
  expected = dataclasses.replace(SPEC, **changes)
  before = manifest(folder)
  predict = Counted()
  for attempt in (
    lambda: teacher_cache.open_manifest(folder, expected),
    lambda: teacher_cache.open_cache(folder, expected),
    lambda: fill(folder, expected, predict),
  ):
    with pytest.raises(CacheError) as caught:
      attempt()
    said = str(caught.value)
    assert f"{name} of the cache is {getattr(SPEC, name)!r}, this run has {OTHERS[name]!r}" in said
    assert "delete this one to precompute again" in said
    assert "\n" not in said
  assert not predict.asked
  assert manifest(folder) == before


@pytest.mark.parametrize("part", ["teacher", "dtype", "chunks", "digest"])
def test_a_manifest_edited_by_hand_is_refused(folder, part):
  content = manifest(folder)
  if part in ("chunks", "digest"):
    content[part] = content[part][:-1]
    expected = SPEC
  else:
    content["spec"][part] = OTHERS[part]
    expected = dataclasses.replace(SPEC, **{part: OTHERS[part]})
  (folder / teacher_cache.MANIFEST).write_text(json.dumps(content))
  for attempt in (
    lambda: teacher_cache.open_cache(folder, expected),
    lambda: fill(folder, expected),
    lambda: teacher_cache.check_cache(folder),
  ):
    with pytest.raises(CacheError, match=r"manifest\.json was changed; delete .* and precompute"):
      attempt()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"spec": 1}'])
def test_an_unreadable_manifest_is_refused(folder, content):
  (folder / teacher_cache.MANIFEST).write_bytes(content)
  with pytest.raises(CacheError, match=r"manifest\.json cannot be read; delete .* and precompute"):
    teacher_cache.open_cache(folder, SPEC)


def test_a_manifest_of_another_format_is_refused(folder):
  (folder / teacher_cache.MANIFEST).write_text(json.dumps(manifest(folder) | {"format": 99}))
  with pytest.raises(CacheError, match="is of format 99, this version reads 1"):
    teacher_cache.open_cache(folder, SPEC)


@pytest.mark.parametrize("damage", ["flip", "remove", "unseal"])
def test_a_broken_chunk_is_named_and_alone_made_anew(made, folder, damage):
  files = [p for p in (folder / "chunks" / "steps" / "1").rglob("*") if p.is_file()]
  path = max(files, key=lambda path: path.stat().st_size)
  if damage == "flip":
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
  elif damage == "remove":
    path.unlink()
  else:
    (folder / "chunks" / "seals" / "1.json").unlink()
  named = r"seals/1\.json" if damage == "unseal" else path.name
  with pytest.raises(BrokenCacheError, match=named):
    teacher_cache.check_cache(folder)
  with pytest.raises(BrokenCacheError, match=r"chunks.*; precompute again"):
    teacher_cache.open_cache(folder, SPEC)
  again = Counted()
  fill(folder, predict=again)
  assert again.asked == [(8, view) for view in range(VIEWS)]
  assert manifest(folder) == manifest(made)
  teacher_cache.open_cache(folder, SPEC)


def test_an_intact_chunk_in_the_place_of_another_is_refused(folder):
  chunks = CheckpointStore(folder / "chunks", keep=None)
  other = chunks.restore(0)
  chunks.save(1, other.state, other.meta)
  with pytest.raises(BrokenCacheError, match=r"chunk 1 of .* has digest .* the manifest says"):
    teacher_cache.open_cache(folder, SPEC)
  with pytest.raises(BrokenCacheError, match=r"chunk 1 of .* is not the one of the manifest"):
    teacher_cache.check_cache(folder)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_verify_knows_the_right_teacher_another_and_a_tampered_row(tmp_path, dtype):
  spec = dataclasses.replace(SPEC, dtype=dtype)
  fill(tmp_path, spec, predictor())
  cache = teacher_cache.open_cache(tmp_path, spec)
  assert cache.outputs.logits.dtype == dtype
  found = teacher_cache.verify(cache, predictor(), batch_size=16)
  assert found.compared == ROWS * VIEWS
  rounding = {"float16": 2.0**-11, "float32": 2.0**-20}[dtype]
  assert found.largest_error <= rounding * found.largest_value
  assert found.agrees
  assert found.largest_value == pytest.approx(np.abs(cache.outputs.logits).max(), rel=1e-3)
  assert teacher_cache.verify(cache, predictor(seed=1), batch_size=16).largest_error > 0.1

  tampered = cache.outputs.logits.copy()
  tampered[13, 2, 4] += 0.5
  for value, error in ((tampered[13, 2, 4], 0.5), (np.nan, np.inf)):
    tampered[13, 2, 4] = value
    worse = cache._replace(outputs=cache.outputs._replace(logits=tampered))
    found = teacher_cache.verify(worse, predictor(), batch_size=16)
    assert (found.row, found.view) == (13, 2)
    assert found.largest_error == pytest.approx(error, rel=1e-2)


@pytest.mark.parametrize(
  ("backend", "precision", "agrees"),
  [
    ("cpu", None, False),
    ("gpu", None, True),
    ("gpu", "highest", False),
    ("gpu", "float32", False),
    ("tpu", None, True),
  ],
)
def test_verify_allows_what_products_in_tf32_and_bfloat16_make(
  made, monkeypatch, backend, precision, agrees
):
  """The teacher's own scores, each factor of a product rounded to 10 bits, 7 on a TPU."""
  cache, exact = teacher_cache.open_cache(made, SPEC), Counted()
  bits = 7 if backend == "tpu" else 10

  def rounded(rows, view, batch_size):
    logits = exact(rows, view, batch_size)["logits"]
    return {"logits": logits * np.float32(1 + 2.0 ** -(bits + 1))}

  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
    assert teacher_cache.verify(cache, exact).agrees
    assert teacher_cache.verify(cache, rounded).agrees == agrees
    # Another teacher is another one on any device.
    assert not teacher_cache.verify(cache, Counted(scale=1.2)).agrees


def test_reading_a_cache_holds_its_arrays_and_one_chunk(tmp_path):
  """Not all chunks next to the arrays that they fill."""
  rows = 12 * CHUNK
  spec = dataclasses.replace(SPEC, num_examples=rows, num_classes=16_000, views=1)
  for _ in precompute(
    tmp_path, spec, lambda rows, view, size: {"logits": np.ones((len(rows), 16_000), np.float32)},
    batch_size=8, chunk_rows=CHUNK,
  ):  # fmt: skip
    pass
  tracemalloc.start()
  try:
    found = teacher_cache.open_cache(tmp_path, spec).outputs.logits
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert found.shape == (rows, 1, 16_000)
  assert np.all(found == 1)
  assert found.nbytes < peak < 1.75 * found.nbytes


def test_a_top_k_cache_keeps_the_likeliest_classes_and_the_tail(tmp_path):
  spec = dataclasses.replace(SPEC, top_k=2, temperature=4.0)
  fill(tmp_path, spec, predictor(spec=spec))
  cache = teacher_cache.open_cache(tmp_path, spec)
  top = cache.outputs.top_k
  assert cache.outputs.logits is None
  assert (top.indices.dtype, top.indices.shape) == (np.int32, (ROWS, VIEWS, 2))
  image = augment(AUGMENTATION, DATA.images[11], DATA.keys[11], 1)
  logits = np.asarray(MODEL.apply(variables(), image[None], train=False).logits[0], np.float64)
  probabilities = np.exp(logits / 4) / np.exp(logits / 4).sum()
  order = np.argsort(-probabilities)
  np.testing.assert_array_equal(top.indices[11, 1], order[:2])
  np.testing.assert_allclose(np.exp(top.log_probs[11, 1]), probabilities[order[:2]], rtol=1e-4)
  tail = np.exp(top.tail_log_prob[11, 1])
  np.testing.assert_allclose(tail, probabilities[order[2:]].sum(), rtol=1e-4)
  found = teacher_cache.verify(cache, predictor(spec=spec), batch_size=8)
  assert found.largest_error < 1e-5
  with pytest.raises(CacheError, match=r"temperature of the cache is 4\.0, this run has 2\.0"):
    teacher_cache.open_cache(tmp_path, dataclasses.replace(spec, temperature=2.0))


def test_logits_beyond_float16_are_an_error_not_infinite(tmp_path):
  spec = dataclasses.replace(SPEC, dtype="float16")
  with pytest.raises(CacheError, match=r"logits reach 99999, beyond float16: cache float32"):
    fill(tmp_path, spec, Counted(scale=1e5))
  assert not (tmp_path / teacher_cache.MANIFEST).exists()
  fill(tmp_path, SPEC, Counted(scale=1e5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_teacher_outputs_that_are_not_finite_are_refused_by_row_and_view(tmp_path, value):
  def predict(rows, view, batch_size):
    logits = np.zeros((len(rows), CLASSES), np.float32)
    if view == 1:
      logits[rows == 10] = value
    return {"logits": logits}

  with pytest.raises(CacheError, match="logits of row 10, view 1, are not finite"):
    fill(tmp_path, predict=predict)
  assert not (tmp_path / teacher_cache.MANIFEST).exists()


def test_bad_sizes_are_refused_before_the_teacher_runs(tmp_path):
  predict = Counted()
  with pytest.raises(ValueError, match="a global batch of 12 does not divide over 8 devices"):
    list(precompute(tmp_path, SPEC, predict, batch_size=12))
  assert not predict.asked
  for views in (0, 19):
    with pytest.raises(ValueError, match=f"18 distinct views, got {views}"):
      make_spec("t", {}, DATA, AUGMENTATION, views)
  for options, message in (
    ({"dtype": "int8"}, "float16 or float32, got int8"),
    ({"top_k": CLASSES}, "top_k must be at least 1 and below 5, got 5"),
    ({"top_k": 0}, "top_k must be at least 1 and below 5, got 0"),
    ({"temperature": 2.0}, "only a top-k cache has a temperature"),
  ):
    with pytest.raises(ValueError, match=message):
      make_spec("t", {}, DATA, AUGMENTATION, 1, **options)


class Bomb:
  """Unpickling it makes a folder."""

  def __init__(self, target):
    self.target = str(target)

  def __reduce__(self):
    return os.mkdir, (self.target,)


def test_nothing_in_a_cache_is_unpickled(folder, tmp_path):
  target = tmp_path / "exploded"
  bomb = pickle.dumps(Bomb(target))
  for path in [p for p in folder.rglob("*") if p.is_file()]:
    path.write_bytes(bomb)
  (folder / "manifest.pkl").write_bytes(bomb)
  with pytest.raises(CacheError):
    teacher_cache.open_cache(folder, SPEC)
  content = {"spec": dataclasses.asdict(SPEC), "chunks": ["?"]}
  document = content | {"format": 1, "digest": digest_json(content)}
  (folder / teacher_cache.MANIFEST).write_text(json.dumps(document))
  with pytest.raises(BrokenCacheError):
    teacher_cache.open_cache(folder, SPEC)
  assert not target.exists()


def test_logits_of_one_view_need_no_axis_for_it():
  logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  plain, with_axis = (cached_teacher(Outputs(logits=x)) for x in (logits, logits[:, None]))
  np.testing.assert_array_equal(plain.outputs.logits, with_axis.outputs.logits)
