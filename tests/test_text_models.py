"""Text classifiers of every family: their outputs, their padding, and where their parameters start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models import (
  BertConfig,
  PseudoClassifiers,
  TextSpec,
  bert_spec,
  build_text_model,
  copyable,
  merge,
  select_layers,
  start_from,
  text_model_name,
  text_sizes,
)
from kd_jax.models.text_encoders import GatedBlock
from tests.text_inputs import FAMILIES, MASK, SIZES, built, spec, subwords, with_garbage

WIDTHS = {"bert": 16, "roberta": 16, "bilstm": 32, "gated_cnn": 16}


def outputs_of(family, batch=None, **options):
  changes = {"dtype": options.pop("dtype", "float32")}
  _, params, apply = built(
    spec(family, **changes), pseudo_classifiers=True, collect_tokens=True, **options
  )
  return params, apply(params, subwords() if batch is None else batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_what_their_tokens_say(family):
  """Layers, pseudo logits and logits, recomputed in NumPy from the states of tokens."""
  params, outputs = outputs_of(family)
  states = [np.asarray(part, np.float64) for part in outputs.tokens.states]
  assert [part.shape for part in states[1:]] == [(3, 9, WIDTHS[family])] * 2
  means = [np.stack([s[row, keep].mean(axis=0) for row, keep in enumerate(MASK)]) for s in states]
  firsts = [part[:, 0] for part in states]
  layers = firsts[1:] if family in ("bert", "roberta") else means[1:]
  for ours, wanted in zip(outputs.layers, layers, strict=True):
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5)

  def dense(values, *path):
    own = params
    for name in path:
      own = own[name]
    return values @ own["kernel"] + own["bias"]

  assert outputs.layer_logits.shape == (3, 1, 3)
  pseudo = dense(layers[0], "pseudo", "layer1")
  np.testing.assert_allclose(outputs.layer_logits[:, 0], pseudo, rtol=0, atol=1e-5)
  logits = dense(np.tanh(dense(layers[1], "pooler")), "classifier")
  np.testing.assert_allclose(outputs.logits, logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_has_no_influence(family):
  _, plain = outputs_of(family)
  _, longer = outputs_of(family, with_garbage(subwords()))
  for field in ("logits", "layers", "layer_logits"):
    for ours, theirs in zip(
      jax.tree.leaves(getattr(plain, field)), jax.tree.leaves(getattr(longer, field)), strict=True
    ):
      np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_is_read_and_no_text_reads_another(family):
  _, before = outputs_of(family)
  for position in (0, 3):  # the first token, and the last of the second text
    batch = subwords()
    batch.ids[1, position] += 1 if batch.ids[1, position] < 39 else -1
    _, after = outputs_of(family, batch)
    changed = np.abs(np.asarray(after.logits) - before.logits).max(axis=1)
    assert changed[1] > 1e-4
    assert changed[[0, 2]].max() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_near_float32_with_float32_parameters_and_logits(family):
  params, plain = outputs_of(family)
  half_params, half = outputs_of(family, dtype="bfloat16")
  assert {leaf.dtype for leaf in jax.tree.leaves(half_params)} == {np.dtype(np.float32)}
  jax.tree.map(np.testing.assert_array_equal, params, half_params)
  assert half.tokens.states[-1].dtype == jnp.bfloat16
  assert half.logits.dtype == half.layer_logits.dtype == half.layers[0].dtype == jnp.float32
  scale = np.abs(plain.logits).max()
  error = np.abs(half.logits - plain.logits).max()
  assert 0 < error < 0.05 * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_random_in_training_alone(family):
  model = build_text_model(spec(family, dropout=0.5), **SIZES)
  _, params, apply = built(spec(family))
  run = jax.jit(
    lambda key: model.apply({"params": params}, subwords(), True, rngs={"dropout": key}).logits
  )
  one, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
  np.testing.assert_array_equal(one, again)
  assert not np.allclose(one, other)
  still = jax.jit(lambda: model.apply({"params": params}, subwords()).logits)()
  np.testing.assert_allclose(still, apply(params, subwords()).logits, rtol=0, atol=1e-6)


def test_a_gated_block_is_a_convolution_times_a_gate():
  """y_i = x_i + a_i sigmoid(b_i), with (a, b) from the normalised neighbours, in loops."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 9, 4)).astype(np.float32) * MASK[..., None]
  params = {
    "norm": {"scale": rng.normal(size=4), "bias": rng.normal(size=4)},
    "convolution": {"kernel": rng.normal(size=(12, 8)), "bias": rng.normal(size=8)},
  }
  params = jax.tree.map(np.float32, params)
  y = GatedBlock().apply({"params": params}, x, MASK)
  for row, length in enumerate(MASK.sum(axis=1)):
    normal = np.zeros((length + 2, 4))
    for i in range(length):
      centred = x[row, i] - x[row, i].mean()
      normal[i + 1] = centred / np.sqrt(x[row, i].var() + 1e-6)
      normal[i + 1] = normal[i + 1] * params["norm"]["scale"] + params["norm"]["bias"]
    for i in range(length):
      both = normal[i : i + 3].reshape(-1) @ params["convolution"]["kernel"]
      value, gate = np.split(both + params["convolution"]["bias"], 2)
      wanted = x[row, i] + value / (1 + np.exp(-gate))
      np.testing.assert_allclose(y[row, i], wanted, rtol=1e-4, atol=1e-5)
  assert (np.asarray(y)[~MASK] == 0).all()


def test_word_vectors_may_be_wider_than_the_network():
  for family in ("bilstm", "gated_cnn"):
    model = build_text_model(spec(family, word_width=20), **SIZES)
    shapes = jax.eval_shape(model.init, jax.random.key(0), subwords())["params"]["encoder"]
    assert shapes["embedding"]["word_embedding"]["embedding"].shape == (40, 20)
  assert shapes["projection"]["kernel"].shape == (20, 16)


def test_several_networks_train_as_one_program():
  model, params, apply = built(spec())
  other = jax.tree.map(lambda leaf: leaf * 0.5, params)
  both = jax.tree.map(lambda *leaves: np.stack(leaves), params, other)
  logits = jax.jit(jax.vmap(lambda p: model.apply({"params": p}, subwords()).logits))(both)
  for ours, own in zip(logits, (params, other), strict=True):
    np.testing.assert_allclose(ours, apply(own, subwords()).logits, rtol=0, atol=1e-5)


def test_pseudo_classifiers_need_inner_layers():
  with pytest.raises(ValueError, match="layers=1 has none: set layers=2"):
    build_text_model(spec(layers=1), **SIZES, pseudo_classifiers=True)
  with pytest.raises(ValueError, match="need layers below the last"):
    PseudoClassifiers(3).init(jax.random.key(0), ())


def test_a_shallower_bert_starts_from_chosen_layers():
  _, teacher, _ = built(spec(layers=3), pseudo_classifiers=True)
  model, fresh, _ = built(spec(layers=2))
  student = start_from(spec(layers=2, teacher_layers=(3, 1)), fresh, teacher)
  equal = np.testing.assert_array_equal
  jax.tree.map(equal, student["encoder"]["layer1"], teacher["encoder"]["layer3"])
  jax.tree.map(equal, student["encoder"]["layer2"], teacher["encoder"]["layer1"])
  jax.tree.map(equal, student["encoder"]["embedding"], teacher["encoder"]["embedding"])
  jax.tree.map(equal, student["pooler"], teacher["pooler"])
  jax.tree.map(equal, student["classifier"], fresh["classifier"])
  assert jax.tree.structure(student) == jax.tree.structure(fresh)
  lowest = start_from(spec(layers=2), fresh, teacher)
  jax.tree.map(equal, lowest["encoder"]["layer2"], teacher["encoder"]["layer2"])
  # The states of the lowest layers are then the teacher's own.
  inner = jax.jit(lambda p: model.apply({"params": p}, subwords()).layers)(lowest)
  _, _, apply = built(spec(layers=3), pseudo_classifiers=True)
  for ours, theirs in zip(inner, apply(teacher, subwords()).layers[:2], strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_other_networks_start_from_word_vectors_where_they_fit():
  _, teacher, _ = built(spec())
  words = ("encoder", "embedding", "word_embedding", "embedding")

  def at(tree, path):
    return at(tree[path[0]], path[1:]) if path else tree

  for family in ("bilstm", "gated_cnn"):
    _, fresh, _ = built(spec(family))
    fresh = jax.tree.map(lambda leaf: leaf + 1, fresh)
    student = start_from(spec(family), fresh, teacher)
    np.testing.assert_array_equal(at(student, words), at(teacher, words))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), student, fresh)
    assert sum(jax.tree.leaves(changed)) == 1
  narrow = build_text_model(spec("bilstm", width=8), **SIZES)
  fresh = jax.eval_shape(narrow.init, jax.random.key(0), subwords())["params"]
  assert copyable(teacher, fresh) == {}


def test_parameters_that_do_not_fit_are_named():
  _, teacher, _ = built(spec())
  with pytest.raises(ValueError, match=r"the teacher's 2 layers, numbered from 1, got \(1, 3\)"):
    select_layers(teacher, (1, 3))
  with pytest.raises(ValueError, match=r"got \(\)"):
    select_layers(teacher, ())
  fresh = {"classifier": {"kernel": jnp.zeros((16, 2))}}
  with pytest.raises(ValueError, match=r"classifier/kernel \[16, 3\], not \[16, 2\]"):
    merge(fresh, {"classifier": {"kernel": np.zeros((16, 3))}})
  with pytest.raises(ValueError, match=r"classifier/bias, which the network lacks") as caught:
    merge(fresh, {"classifier": {"bias": np.zeros(2)}})
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"family": "gpt"}, "text family is one of bert, roberta, bilstm, gated_cnn, got 'gpt'"),
    ({"width": 10, "heads": 4}, "width 10 must be divisible by heads 4"),
    ({"layers": 0}, "layers must be at least 1, got 0"),
    ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
    ({"dtype": "float16"}, "dtype is one of float32, bfloat16, got 'float16'"),
    ({"start": "zeros"}, "start is one of pretrained, teacher, random, got 'zeros'"),
    ({"word_width": 0}, "word_width must be at least 1, got 0"),
    ({"teacher_layers": (1,)}, r"teacher_layers must be 2 numbers from 1, one a layer, got \(1,\)"),
    ({"teacher_layers": (0, 1)}, r"got \(0, 1\)"),
    ({"family": "bilstm", "teacher_layers": (1, 2)}, "a bilstm copies no teacher_layers"),
    ({"freeze_words": True}, "need a family without attention, got bert"),
    ({"vocabulary": "data"}, "need a family without attention, got bert"),
    ({"vocabulary": "all"}, "vocabulary is one of full, data, got 'all'"),
    ({"family": "bilstm", "vocabulary": "data"}, "kept_subwords must be given for"),
  ],
)
def test_impossible_specifications_are_refused(changes, message):
  with pytest.raises(ValueError, match=message) as caught:
    build_text_model(spec(**changes), **SIZES)
  assert "\n" not in str(caught.value)


def test_outputs_and_vocabulary_must_not_be_empty():
  for name in ("num_outputs", "vocab_size"):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
      build_text_model(spec(), **(SIZES | {name: 0}))


def test_a_config_gives_the_specification_and_the_sizes_of_its_students():
  config = BertConfig("roberta", 50, 8, 4, 2, 12, 30, 1, 1, 1e-5)
  a_spec = bert_spec(config, layers=2, dropout=0.3, teacher_layers=(2, 4))
  assert a_spec == TextSpec("roberta", 2, 8, 2, 12, dropout=0.3, teacher_layers=(2, 4))
  model = build_text_model(a_spec, num_outputs=1, **text_sizes(config))
  assert model.encoder.config == BertConfig("roberta", 50, 8, 2, 2, 12, 30, 1, 1, 1e-5)
  assert bert_spec(config).layers == 4
  names = [text_model_name(spec(family)) for family in FAMILIES]
  assert names == ["BERT-2 (16)", "RoBERTa-2 (16)", "BiLSTM-2 (16)", "gated CNN-2 (16)"]
