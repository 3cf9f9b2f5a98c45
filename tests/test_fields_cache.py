"""Caches of several of a teacher's outputs: the order of rows, what is compared, what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from kd_jax import _programs as programs, parallel
from kd_jax.checkpoints import digest_json
from kd_jax.data import Augmentation
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.teachers.cache import CacheError, make_spec, open_cache, precompute
from kd_jax.teachers.sources import cached_teacher
from tests.training import texts

FIELDS = ("logits", "layers", "layer_logits")
DATA = texts.dataset()
MODEL = texts.Network()
VARIABLES = texts.variables(MODEL, DATA)
NONE = Augmentation(name="none")


def spec(outputs=FIELDS, data=DATA, **options):
  return make_spec("a digest", {"layers": 3}, data, NONE, 1, outputs=outputs, **options)


def fill(directory, wanted, predict, chunk_rows=6):
  for _ in precompute(directory, wanted, predict, batch_size=8, chunk_rows=chunk_rows):
    pass


@pytest.fixture(scope="module")
def predict():
  return predicting.fields_predictor(MODEL, VARIABLES, DATA, FIELDS)


@pytest.fixture(scope="module")
def finished(predict, tmp_path_factory):
  directory = tmp_path_factory.mktemp("cache")
  fill(directory, spec(), predict)
  return directory


@pytest.fixture(scope="module")
def expected():
  """{field: [N, ...]} of all texts at once."""
  said = texts.said(MODEL, VARIABLES, DATA)
  return {
    "logits": said.logits,
    "layers": np.stack(said.layers, axis=1),
    "layer_logits": said.layer_logits,
  }


def assert_rows(found, expected):
  assert set(found) == set(expected)
  for name, array in found.items():
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [range(17), [16], [2, 0, 13, 1, 9], [5, 5, 2]])
def test_rows_come_in_the_order_asked_for(rows, predict, expected):
  """The texts of one bucket lie apart in the data set."""
  rows = np.array(rows)
  assert_rows(predict(rows, 0, 8), {name: x[rows] for name, x in expected.items()})


def test_the_cache_holds_every_field_in_the_order_of_the_data_set(finished, expected):
  cache = open_cache(finished, spec())
  outputs = cache.outputs
  assert outputs.logits.shape == (17, 1, texts.CLASSES)
  assert outputs.layers.shape == (17, 1, 3, texts.WIDTH)
  assert outputs.layer_logits.shape == (17, 1, 2, texts.CLASSES)
  assert (outputs.tokens, outputs.top_k, outputs.scores) == (None, None, None)
  assert_rows({name: getattr(outputs, name)[:, 0] for name in FIELDS}, expected)
  assert len(cache.manifest["chunks"]) == 3


@pytest.mark.parametrize("chunk_rows", [3, 6])
def test_chunks_cost_neither_uploads_nor_programs(chunk_rows, tmp_path, monkeypatch):
  """The weights and each bucket go to the devices once, and a bucket has one program."""
  uploads, shapes = [], []
  original, apply = parallel.replicate, texts.Network.apply
  monkeypatch.setattr(
    parallel, "replicate", lambda tree: uploads.append(bytes_of(tree)) or original(tree)
  )

  def traced(model, held, inputs, **options):
    shapes.append(inputs.ids.shape)
    return apply(model, held, inputs, **options)

  monkeypatch.setattr(texts.Network, "apply", traced)
  programs.forget()
  predict = predicting.fields_predictor(MODEL, VARIABLES, DATA, FIELDS)
  fill(tmp_path, spec(), predict, chunk_rows)
  # On each of eight devices: of 10 and 5 texts at most 8 at once, of the 2 as many as there are devices.
  assert sorted(shapes) == [(1, 4), (1, 8), (1, 12)]
  large = [count for count in uploads if count > 4]  # not the number of a step
  assert sorted(large) == sorted([bytes_of(VARIABLES), *(bytes_of(b.inputs) for b in DATA.buckets)])


def bytes_of(tree):
  return sum(np.asarray(x).nbytes for x in jax.tree.leaves(tree))


def test_the_host_holds_no_copy_by_bucket(finished):
  """Rows are cut when they are asked for; of a bucket that holds all in order, they are not copied at all."""
  outputs = open_cache(finished, spec()).outputs
  teacher = cached_teacher(outputs, DATA.buckets)
  assert teacher.outputs is outputs
  assert len(teacher) == len(DATA.buckets) == 3
  whole = texts.dataset((3, 4, 2, 1))
  assert len(whole.buckets) == 1
  one = cached_teacher(outputs, whole.buckets)
  assert one[0].kept.logits is outputs.logits


def test_students_read_the_rows_of_their_bucket(finished, expected):
  teacher = cached_teacher(open_cache(finished, spec()).outputs, DATA.buckets)
  for index, bucket in enumerate(DATA.buckets):
    rows = np.array([1, 0])
    found = teacher[index].outputs(rows, None, 0)
    # As a live teacher gives them: an entry for each layer.
    assert len(found.layers) == 3
    found = found._replace(layers=np.stack(found.layers, axis=1))
    for name in FIELDS:
      np.testing.assert_allclose(
        getattr(found, name), expected[name][bucket.rows[rows]], rtol=1e-4, atol=1e-5
      )


def test_verification_compares_every_field(finished, predict):
  cache = open_cache(finished, spec())
  found = teacher_cache.verify(cache, predict, sample=17, batch_size=8)
  assert found.agrees
  assert found.largest_error < 1e-5
  assert found.compared == 17
  for name in FIELDS:

    def wrong(rows, view, batch_size, name=name):
      outputs = {key: array.copy() for key, array in predict(rows, view, batch_size).items()}
      outputs[name][rows == 13] += 2.5
      return outputs

    found = teacher_cache.verify(cache, wrong, sample=17, batch_size=8)
    assert found.row == 13
    assert not found.agrees
    np.testing.assert_allclose(found.largest_error, 2.5, rtol=1e-5)


def test_half_precision_rounds_every_field(predict, expected, tmp_path):
  fill(tmp_path, spec(dtype="float16"), predict)
  outputs = open_cache(tmp_path, spec(dtype="float16")).outputs
  for name in FIELDS:
    found = getattr(outputs, name)[:, 0]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected[name], rtol=2.0**-10, atol=1e-3)


def test_precompute_goes_on_after_the_last_whole_chunk(finished, predict, tmp_path):
  asked = []

  def counted(rows, view, batch_size):
    asked.append(rows.tolist())
    return predict(rows, view, batch_size)

  steps = precompute(tmp_path, spec(), counted, batch_size=8, chunk_rows=6)
  next(steps)
  next(steps)  # the first chunk is written
  steps.close()
  assert asked == [list(range(6))]
  fill(tmp_path, spec(), counted)
  assert asked[1:] == [list(range(6, 12)), list(range(12, 17))]
  assert open_cache(tmp_path, spec()).digest == open_cache(finished, spec()).digest


# What is refused.


@pytest.mark.parametrize("outputs", [("logits",), ("logits", "layers"), ("logits", "layer_logits")])
def test_a_cache_with_other_outputs_is_refused_naming_both(finished, outputs):
  with pytest.raises(CacheError) as refused:
    open_cache(finished, spec(outputs))
  said = str(refused.value)
  assert f"outputs of the cache is {FIELDS!r}, this run has {outputs!r}" in said
  assert "\n" not in said


def test_a_manifest_from_before_there_were_outputs_holds_logits(predict, tmp_path):
  only = ("logits",)
  wanted = spec(only)
  fill(tmp_path, wanted, predicting.fields_predictor(MODEL, VARIABLES, DATA, only))
  path = tmp_path / "manifest.json"
  manifest = json.loads(path.read_text())
  assert manifest["spec"].pop("outputs") == ["logits"]
  content = {"spec": manifest["spec"], "chunks": manifest["chunks"]}
  path.write_text(json.dumps(manifest | {"digest": digest_json(content)}))
  assert open_cache(tmp_path, wanted).outputs.logits.shape == (17, 1, texts.CLASSES)
  with pytest.raises(CacheError, match=r"outputs of the cache is \('logits',\)"):
    open_cache(tmp_path, spec())
  # Any other field is required, as ever.
  del manifest["spec"]["fingerprint"]
  content = {"spec": manifest["spec"], "chunks": manifest["chunks"]}
  path.write_text(json.dumps(manifest | {"digest": digest_json(content)}))
  with pytest.raises(CacheError, match="fingerprint of the cache is None"):
    open_cache(tmp_path, wanted)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"outputs": ("logits", "tokens")},
      r"holds some of logits, layers.*got \['logits', 'tokens'\]",
    ),
    ({"outputs": ()}, r"holds some of logits.*got \[\]"),
    ({"top_k": 2}, "top-k cache holds the top k alone"),
  ],
)
def test_outputs_that_cannot_be_kept_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    spec(**options)
  assert spec(("logits",), top_k=2).top_k == 2


@pytest.mark.parametrize(
  ("changes", "fields", "message"),
  [
    ({"pseudo_classifiers": False}, FIELDS, "the teacher has no layer_logits"),
    ({"widths": ()}, ("layers",), "the teacher has no layers"),
  ],
)
def test_fields_that_a_network_lacks_are_refused(changes, fields, message):
  model = texts.Network(**{"pseudo_classifiers": False} | changes)
  predict = predicting.fields_predictor(model, texts.variables(model, DATA), DATA, fields)
  with pytest.raises(ValueError, match=message) as refused:
    predict(np.arange(3), 0, 8)
  assert "\n" not in str(refused.value)


def test_layers_of_several_shapes_are_kept_one_by_one(tmp_path):
  model = texts.Network(widths=(5, 4, 4), pseudo_classifiers=False)
  variables = texts.variables(model, DATA)
  predict = predicting.fields_predictor(model, variables, DATA, ("logits", "layers"))
  fill(tmp_path, spec(("logits", "layers")), predict)
  cache = open_cache(tmp_path, spec(("logits", "layers")))
  said = texts.said(model, variables, DATA)
  assert [layer.shape for layer in cache.outputs.layers] == [(17, 1, 5), (17, 1, 4), (17, 1, 4)]
  for found, expected in zip(cache.outputs.layers, said.layers, strict=True):
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-5)
  assert teacher_cache.verify(cache, predict, sample=5, batch_size=8).agrees
  # A training step reads a tuple of layers, as from the live teacher.
  (bucket, *_) = cached_teacher(cache.outputs, DATA.buckets)
  layers = bucket.outputs(np.array([0, 1]), None, 0).layers
  assert [layer.shape for layer in layers] == [(2, 5), (2, 4), (2, 4)]


def test_outputs_that_are_not_finite_are_refused_by_name(predict, tmp_path):
  def broken(rows, view, batch_size):
    outputs = predict(rows, view, batch_size)
    outputs["layers"] = np.where((rows == 8)[:, None, None], np.nan, outputs["layers"])
    return outputs

  with pytest.raises(CacheError, match="layers of row 8, view 0, are not finite"):
    fill(tmp_path, spec(), broken)
  assert not (tmp_path / "manifest.json").exists()


def test_the_data_decide_too(finished):
  other = dataclasses.replace(DATA, labels=(DATA.labels + 1) % texts.CLASSES)
  with pytest.raises(CacheError, match="fingerprint of the cache"):
    open_cache(finished, spec(data=other))
