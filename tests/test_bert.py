"""BERT and RoBERTa: what PyTorch's transformers computes, from real weights and from random ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models import BertConfig, BertEncoder, TextClassifier, load_bert, read_config
from kd_jax.types import Subwords
from tests.text_inputs import DATA, MASK, SIZES, built, minilm_folder, spec, subwords, with_garbage

KINDS = ("bert", "roberta")


def expected(kind):
  held = np.load(DATA / f"tiny_{kind}" / "expected.npz")
  return Subwords(held["ids"], held["types"], held["mask"]), held["states"], held["logits"]


def test_real_weights_give_the_states_that_pytorch_gives():
  """The states of all tokens to 1e-5; both networks compute in float32.

  At padding states mean nothing, and PyTorch's own are up to 5e-5 from what it computes in float64.
  """
  folder, held = minilm_folder(), np.load(DATA / "minilm.npz")
  config, params = read_config(folder), load_bert(folder)
  batch = Subwords(held["ids"], held["types"], held["mask"])
  assert held["mask"].sum(axis=1).tolist() == [13, 5]
  encoder = BertEncoder(config)
  tokens = jax.jit(lambda p, b: encoder.apply({"params": p}, b))(params["encoder"], batch)
  assert len(tokens.states) == len(held["states"]) == 7
  for ours, theirs in zip(tokens.states, held["states"], strict=True):
    tokens_only = np.asarray(ours)[held["mask"]], theirs[held["mask"]]
    np.testing.assert_allclose(*tokens_only, rtol=0, atol=1e-5)
  np.testing.assert_allclose(tokens.attentions[0], held["attention"], rtol=0, atol=1e-5)
  pooler = params["pooler"]
  pooled = np.tanh(np.asarray(tokens.states[-1])[:, 0] @ pooler["kernel"] + pooler["bias"])
  np.testing.assert_allclose(pooled, held["pooled"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_classifiers_give_the_logits_that_pytorch_gives(kind):
  batch, states, logits = expected(kind)
  folder = DATA / f"tiny_{kind}"
  model = TextClassifier(BertEncoder(read_config(folder)), 3, collect_tokens=True)
  outputs = jax.jit(model.apply)({"params": load_bert(folder)}, batch)
  np.testing.assert_allclose(outputs.logits, logits, rtol=0, atol=1e-5)
  for ours, theirs in zip(outputs.tokens.states, states, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
  for layer, theirs in zip(outputs.layers, states[1:], strict=True):
    np.testing.assert_allclose(layer, theirs[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_relations_explain_the_attention_and_the_next_states(kind):
  """Q, K and V are those of their layer's own input; attention is softmax(QKᵀ/sqrt(d)) over tokens."""
  batch, _, _ = expected(kind)
  folder = DATA / f"tiny_{kind}"
  encoder, params = BertEncoder(read_config(folder)), load_bert(folder)["encoder"]
  tokens = jax.jit(encoder.apply)({"params": params}, batch)
  assert len(tokens.attentions) == len(tokens.queries) == 2
  mask = np.asarray(batch.mask)
  for layer in (0, 1):
    for name, found in (("query", tokens.queries), ("key", tokens.keys), ("value", tokens.values)):
      own = params[f"layer{layer + 1}"][name]
      wanted = np.asarray(tokens.states[layer]) @ own["kernel"] + own["bias"]
      wanted = wanted.reshape(*mask.shape, 4, 4).transpose(0, 2, 1, 3)
      np.testing.assert_allclose(found[layer], wanted, rtol=0, atol=1e-5)
    scores = np.einsum("bhid,bhjd->bhij", tokens.queries[layer], tokens.keys[layer]) / 2
    weights = np.where(mask[:, None, None], np.exp(scores), 0)
    wanted = weights / weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(tokens.attentions[layer], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_roberta_counts_positions_from_behind_its_padding(kind):
  config = BertConfig(kind, vocab_size=9, width=4, heads=2, pad_id=1, max_positions=20)
  assert (config.position_offset, config.max_length) == {"bert": (0, 20), "roberta": (2, 18)}[kind]


def test_types_are_read_where_there_are_two_of_them():
  _, params, apply = built(spec(), collect_tokens=True)
  batch = subwords()
  other = batch._replace(types=0 * batch.types)
  assert not np.allclose(apply(params, batch).logits, apply(params, other).logits)
  _, params, apply = built(spec(), collect_tokens=True, type_vocab_size=1)
  np.testing.assert_array_equal(apply(params, batch).logits, apply(params, other).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_influence(kind):
  pad_id = KINDS.index(kind)
  _, params, apply = built(spec(kind), collect_tokens=True, pad_id=pad_id)
  batch = subwords(pad_id=pad_id)
  plain, longer = apply(params, batch), apply(params, with_garbage(batch))
  np.testing.assert_allclose(plain.logits, longer.logits, rtol=0, atol=1e-5)
  for ours, theirs in zip(plain.tokens.states, longer.tokens.states, strict=True):
    ours, theirs = np.asarray(ours)[MASK], np.asarray(theirs)[:, : MASK.shape[1]][MASK]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
  for weights in longer.tokens.attentions:
    columns = np.moveaxis(np.asarray(weights), -1, 1)
    assert (columns[~with_garbage(batch).mask] == 0).all()


def test_gradients_are_finite_and_reach_every_parameter_that_is_read():
  model, params, _ = built(spec(), collect_tokens=True)
  grads = jax.jit(
    jax.grad(lambda p: jnp.sum(model.apply({"params": p}, subwords()).logits[:, 0] ** 2))
  )(params)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all(), path
    # The softmax over keys does not see what is added to all of them.
    if "['key']['bias']" not in jax.tree_util.keystr(path):
      assert np.abs(grad).max() > 1e-6, path


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"kind": "gpt"}, "kind is one of bert, roberta, got 'gpt'"),
    ({"width": 10, "heads": 4}, "width 10 must be divisible by heads 4"),
    ({"layers": 0}, "layers must be at least 1, got 0"),
    ({"pad_id": 30522}, r"pad_id must lie in \[0, vocab_size=30522\), got 30522"),
    ({"norm_epsilon": 0.0}, "norm_epsilon must be positive, got 0.0"),
    (
      {"kind": "roberta", "max_positions": 2, "pad_id": 1},
      "max_positions 2 must exceed position_offset 2",
    ),
  ],
)
def test_impossible_sizes_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(BertConfig(), **changes)


def test_bad_input_is_refused_in_one_line():
  model, params, _ = built(spec())
  batch = subwords()

  def refused(message, wrong):
    with pytest.raises(ValueError, match=message) as caught:
      jax.eval_shape(model.apply, {"params": params}, wrong)
    assert "\n" not in str(caught.value)

  refused(r"add an axis B = 1", Subwords(*(part[0] for part in batch)))
  refused(r"\(3, 9\), \(3, 9\) and \(3, 8\)", batch._replace(mask=batch.mask[:, 1:]))
  refused(r"ids must be integers, got float32", batch._replace(ids=batch.ids.astype(np.float32)))
  refused(
    f"texts of 21 subwords are longer than the {SIZES['max_positions']} positions",
    with_garbage(batch, extra=12),
  )
