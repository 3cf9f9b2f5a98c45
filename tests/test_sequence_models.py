"""Networks for sentences: against NumPy, without influence of padding, and able to learn."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro

from kd_jax import structured
from kd_jax.models.biaffine import Biaffine
from kd_jax.models.embeddings import CharacterCNN, TokenEmbedding
from kd_jax.models.encoders import Transformer, sinusoidal_positions
from kd_jax.models.lstm import BiLSTM
from kd_jax.models.parsers import SecondOrder
from kd_jax.models.sequence_spec import (
  HEADS,
  SequenceSpec,
  build_sequence_model,
  sequence_model_name,
)
from kd_jax.models.spec import parameter_count
from kd_jax.models.taggers import CRFTagger, bioes_rules
from kd_jax.structured import argmax, log_prob
from kd_jax.types import Tokens, Tree

LENGTHS = np.array([5, 3, 1, 0])
WORDS, CHARACTERS = 20, 12
TYPES = 2
TAGS = 4 * TYPES + 1
OFFSETS, RELATIONS = (0, 1, -1, 2, 1), (0, 1, 2, 0, 2)
NUM_RELATIONS = 3
INVENTORY = {
  "maxent": {"num_labels": TAGS},
  "crf": {"num_labels": TAGS},
  "spans": {"num_labels": TYPES},
  "tags": {"offsets": OFFSETS, "relations": RELATIONS},
  "parser": {"num_labels": NUM_RELATIONS},
  "second_order": {"num_labels": NUM_RELATIONS},
}
SMALL = SequenceSpec(
  word_width=6,
  character_width=4,
  width=8,
  heads=2,
  arc_width=7,
  relation_width=5,
  second_order_width=3,
  dropout=0.0,
  word_dropout=0.0,
)


def sentences(lengths=LENGTHS, n=5, c=4, seed=0):
  """Sentences padded with zeros."""
  rng = np.random.default_rng(seed)
  mask = np.arange(n) < lengths[:, None]
  words = rng.integers(1, WORDS, mask.shape)
  characters = rng.integers(1, CHARACTERS, (*mask.shape, c))
  spelt = np.arange(c) < rng.integers(1, c + 1, mask.shape)[..., None]
  return Tokens(
    np.where(mask, words, 0).astype(np.int32),
    np.where(spelt & mask[..., None], characters, 0).astype(np.uint8),
    mask,
  )


def pad_with_garbage(tokens, positions, characters=0):
  """More positions, and numbers that are not zero wherever the mask is; more empty characters."""
  widths = ((0, 0), (0, positions))
  mask = np.pad(tokens.mask, widths)
  words = np.pad(tokens.words, widths)
  spelling = np.pad(tokens.characters, (*widths, (0, characters)))
  return Tokens(
    np.where(mask, words, WORDS - 1), np.where(mask[..., None], spelling, np.uint8(7)), mask
  )


def build(head, spec=SMALL, **options):
  return build_sequence_model(
    spec, head, num_words=WORDS, num_characters=CHARACTERS, **INVENTORY[head], **options
  )


@functools.cache
def initial(head, encoder="bilstm"):
  """A model and its first variables."""
  model = build(head, dataclasses.replace(SMALL, encoder=encoder))
  init = jax.jit(lambda tokens: model.init(jax.random.key(0), tokens, train=False))
  return model, init(sentences())


@functools.cache
def noisy(head, encoder="bilstm", seed=1):
  """Variables that are nowhere zero, as after training."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: (x + 0.3 * rng.standard_normal(x.shape)).astype(np.float32),
    initial(head, encoder)[1],
  )


@functools.cache
def applied(head, encoder="bilstm"):
  """(variables, tokens) -> scores, compiled."""
  model, _ = initial(head, encoder)
  return jax.jit(lambda variables, tokens: model.apply(variables, tokens, train=False).scores)


def scores_of(head, encoder="bilstm"):
  return applied(head, encoder)(noisy(head, encoder), sentences())


def first_output(module, *inputs):
  """(output, variables) of a module, compiled: eagerly it takes seconds."""
  return jax.jit(functools.partial(module.init_with_output, jax.random.key(0)))(*inputs)


def labels_of(head):
  rng = np.random.default_rng(3)
  shape = (len(LENGTHS), 5)
  if head in ("maxent", "crf"):
    return rng.integers(0, TAGS, shape).astype(np.int32)
  if head == "spans":
    return np.array([[2, 4, 0, 5, 1], [0, 6, 8, 0, 0], [1, 0, 0, 0, 0], [0] * 5], np.int32)
  heads = np.array([[2, 0, 2, 5, 3], [0, 1, 2, 0, 0], [0] * 5, [0] * 5], np.int32)
  return Tree(heads, np.where(heads == 0, 0, 1).astype(np.int32), np.zeros(shape, bool))


# Pieces.


def test_the_character_cnn_is_a_convolution_and_a_maximum_over_the_word():
  cnn = CharacterCNN(CHARACTERS, width=3, character_width=4)
  characters = sentences(c=6).characters
  out, variables = first_output(cnn, characters)
  params = jax.tree.map(np.asarray, variables["params"])
  kernel = params["convolution"]["kernel"].reshape(3, 4, 3)
  bias = params["convolution"]["bias"]
  for where in np.ndindex(characters.shape[:2]):
    vectors = [params["embedding"]["embedding"][k] for k in characters[where] if k]
    spelt = [np.zeros(4), *vectors, np.zeros(4)]
    convolved = [
      sum(spelt[j + k] @ kernel[k] for k in range(3)) + bias for j in range(len(vectors))
    ]
    expected = np.maximum(np.max(convolved, axis=0), 0) if convolved else np.zeros(3)
    np.testing.assert_allclose(out[where], expected, atol=1e-6)


def test_word_dropout_reads_words_as_unknown_in_training_only():
  embedding = TokenEmbedding(WORDS, CHARACTERS, word_width=4, character_width=0, word_dropout=0.4)
  tokens = sentences(np.full(200, 10), n=10)
  vectors, variables = first_output(embedding, tokens)
  table = np.asarray(variables["params"]["words"]["embedding"])
  np.testing.assert_array_equal(vectors, table[tokens.words])
  key = jax.random.key(1)
  trained = embedding.apply(variables, tokens, train=True, rngs={"dropout": key})
  unknown = np.all(trained == table[1], axis=-1)
  np.testing.assert_array_equal(trained[~unknown], table[tokens.words][~unknown])
  known = tokens.words != 1
  # 4 standard deviations of a share among 1,900 words.
  assert abs(unknown[known].mean() - 0.4) < 4 * np.sqrt(0.24 / known.sum())


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def lstm(x, params):
  """The textbook's recurrence over the rows of x."""
  w = {name: np.asarray(part["kernel"], np.float64) for name, part in params.items()}
  b = {name: np.asarray(params["h" + name]["bias"], np.float64) for name in "ifgo"}
  c = h = np.zeros(w["hi"].shape[0])
  states = []
  for row in x:
    gate = {name: row @ w["i" + name] + h @ w["h" + name] + b[name] for name in "ifgo"}
    c = sigmoid(gate["f"]) * c + sigmoid(gate["i"]) * np.tanh(gate["g"])
    h = sigmoid(gate["o"]) * np.tanh(c)
    states.append(h)
  return np.array(states)


def test_the_bilstm_reads_each_sentence_from_both_of_its_ends():
  x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
  mask = np.arange(5) < LENGTHS[:, None]
  encoder = BiLSTM(width=4, layers=2)
  out, variables = first_output(encoder, x, mask)
  params = variables["params"]
  for i, length in enumerate(LENGTHS):
    expected = x[i, :length].astype(np.float64)
    for layer in ("1", "2"):
      if length:
        expected = np.concatenate(
          [
            lstm(expected, params["forward" + layer]),
            lstm(expected[::-1], params["backward" + layer])[::-1],
          ],
          axis=-1,
        )
    if length:
      np.testing.assert_allclose(out[i, :length], expected, atol=1e-5)
    assert not np.any(out[i, length:])
  recurrent = np.asarray(params["forward1"]["hi"]["kernel"])
  np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(4), atol=1e-5)


def test_every_token_sees_every_other_and_its_place_in_a_transformer():
  x = np.random.default_rng(0).standard_normal((1, 5, 3)).astype(np.float32)
  mask = np.array([[True, True, True, True, False]])
  encoder = Transformer(width=8, layers=1, heads=2)
  out, variables = first_output(encoder, x, mask)
  apply = jax.jit(functools.partial(encoder.apply, variables))
  for changed in range(5):
    other = apply(x + (np.arange(5) == changed)[:, None] * np.float32([1, 2, -1]), mask)
    differs = np.any(np.abs(other - out) > 1e-4, axis=-1)[0]
    np.testing.assert_array_equal(differs, [changed < 4] * 4 + [False])
  # Without positions, turning a sentence round would only turn its states round.
  turned = apply(np.concatenate([x[:, 3::-1], x[:, 4:]], axis=1), mask)
  assert np.max(np.abs(turned[:, 3::-1] - out[:, :4])) > 0.1


def test_positions_have_no_limit_and_are_all_different():
  table = sinusoidal_positions(5000, 16)
  assert table.shape == (5000, 16)
  assert len(np.unique(table.round(4), axis=0)) == 5000
  assert sinusoidal_positions(3, 7).shape == (3, 7)


def test_biaffine_scores_are_a_bilinear_form_with_biases():
  rng = np.random.default_rng(0)
  x, y = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 5, 2))
  for left, right in itertools.product((False, True), repeat=2):
    biaffine = Biaffine(3, left_bias=left, right_bias=right)
    zero, variables = biaffine.init_with_output(jax.random.key(0), x, y)
    assert not np.any(zero)
    kernel = rng.standard_normal(variables["params"]["kernel"].shape)
    assert kernel.shape == (4 + left, 3, 2 + right)
    scores = biaffine.apply({"params": {"kernel": kernel}}, x, y)
    for b, i, j in np.ndindex(2, 3, 5):
      one, other = [*x[b, i], *[1.0] * left], [*y[b, j], *[1.0] * right]
      expected = [np.array(one) @ kernel[:, r] @ np.array(other) for r in range(3)]
      np.testing.assert_allclose(scores[b, i, j], expected, atol=1e-5)


def test_second_order_scores_are_of_the_arcs_they_say():
  rng = np.random.default_rng(0)
  states = rng.standard_normal((4, 3)).astype(np.float32)
  heads = np.concatenate([rng.standard_normal((1, 3)), states]).astype(np.float32)
  module = SecondOrder(width=2)
  variables = module.init(jax.random.key(0), states, heads)
  params = dict(variables["params"])
  weights = {"sibling": np.float32([2, -1]), "grandparent": np.float32([0.5, 3])}
  sibling, grandparent = module.apply({"params": {**params, **weights}}, states, heads)

  def view(x, role):
    dense = params[role]["Dense_0"]
    y = x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    return np.where(y > 0, y, 0.1 * y)

  child, middle, head = view(states, "child"), view(states, "middle"), view(heads, "head")
  assert sibling.shape == (4, 5, 4)
  assert grandparent.shape == (4, 4, 5)
  for i, h, k in np.ndindex(4, 5, 4):
    expected = np.sum(weights["sibling"] * child[i] * head[h] * child[k])
    np.testing.assert_allclose(sibling[i, h, k], expected, atol=1e-5)
    expected = np.sum(weights["grandparent"] * child[i] * middle[k] * head[h])
    np.testing.assert_allclose(grandparent[i, k, h], expected, atol=1e-5)


def well_formed(length):
  """All well-formed BIOES sequences of a length, put together from O and entities."""
  if length == 0:
    return {()}
  found = {(0, *rest) for rest in well_formed(length - 1)}
  for first in range(1, TAGS, 4):
    for size in range(1, length + 1):
      inner = (first + 2,) * (size - 2)
      entity = (first,) if size == 1 else (first + 1, *inner, first + 3)
      found |= {entity + rest for rest in well_formed(length - size)}
  return found


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_bioes_rules_allow_exactly_the_well_formed_sequences(length):
  allowed, start, end = bioes_rules(TAGS)
  found = {
    tags
    for tags in itertools.product(range(TAGS), repeat=length)
    if start[tags[0]] and end[tags[-1]] and all(allowed[a, b] for a, b in itertools.pairwise(tags))
  }
  assert found == well_formed(length)


# Whole networks.


@pytest.mark.parametrize(
  ("head", "encoder"), [*itertools.product(HEADS, ["bilstm"]), ("maxent", "transformer")]
)
def test_padding_has_no_influence(head, encoder):
  tokens, variables = sentences(), noisy(head, encoder)
  plain = applied(head, encoder)(variables, tokens)
  longer = pad_with_garbage(tokens, positions=2, characters=3)
  padded = applied(head, encoder)(variables, longer)
  mask = tokens.mask
  for name, one in plain._asdict().items():
    other = getattr(padded, name)
    if one is None or name in ("offsets", "relations"):
      continue
    other = np.asarray(other)[tuple(slice(size) for size in one.shape)]
    assert np.all(np.isfinite(one))
    if one.shape[:2] == mask.shape:
      valid = np.broadcast_to(mask.reshape(*mask.shape, *[1] * (one.ndim - 2)), one.shape).copy()
      if head in ("spans", "parser", "second_order") and one.ndim > 2:
        columns = mask if head == "spans" else np.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        valid &= columns.reshape(len(mask), 1, -1, *[1] * (one.ndim - 3))
    else:
      valid = np.ones(one.shape, bool)
    np.testing.assert_allclose(np.asarray(one)[valid], other[valid], atol=2e-5, err_msg=name)
  np.testing.assert_array_equal(plain.mask, mask)


@pytest.mark.parametrize("head", HEADS)
def test_a_toy_batch_is_learnt(head):
  model = build(head, dataclasses.replace(SMALL, dropout=0.1, word_dropout=0.1))
  tokens, labels = sentences(), labels_of(head)
  optimizer = optax.adam(0.02)

  def loss_of(variables, key=None):
    rngs = None if key is None else {"dropout": key}
    scores = model.apply(variables, tokens, train=key is not None, rngs=rngs).scores
    return -jnp.mean(log_prob(scores, labels))

  @jax.jit
  def train(start, key):
    def step(carry, key):
      variables, state = carry
      loss, gradient = jax.value_and_grad(loss_of)(variables, key)
      updates, state = optimizer.update(gradient, state)
      return (optax.apply_updates(variables, updates), state), (loss, optax.tree.norm(gradient))

    carry = (start, optimizer.init(start))
    (end, _), (losses, norms) = jax.lax.scan(step, carry, jax.random.split(key, 80))
    return loss_of(start), loss_of(end), losses, norms, end

  start = initial(head)[1]
  before, after, losses, norms, end = train(start, jax.random.key(0))
  assert np.all(np.isfinite(losses))
  assert np.all(norms > 0)
  assert after < 0.3 * before
  # Every parameter takes part.
  still = [
    jax.tree_util.keystr(path)
    for path, (one, other) in jax.tree_util.tree_leaves_with_path(
      jax.tree.map(lambda a, b: (np.asarray(a), np.asarray(b)), start, end),
      is_leaf=lambda x: isinstance(x, tuple),
    )
    if np.array_equal(one, other)
  ]
  assert still == []


def test_decoded_tags_of_a_constrained_chain_are_well_formed():
  free = scores_of("crf")
  model = build("crf", dataclasses.replace(SMALL, bioes=True))
  chain = jax.jit(lambda variables: model.apply(variables, sentences()).scores)(noisy("crf"))
  best = jax.jit(argmax)
  tags = np.asarray(best(chain))
  for row, length in zip(tags, LENGTHS, strict=True):
    assert tuple(row[:length].tolist()) in well_formed(length)
  # The scores alone would not do it.
  assert any(
    tuple(row[:length].tolist()) not in well_formed(length)
    for row, length in zip(np.asarray(best(free)), LENGTHS, strict=True)
  )
  # Well-formed sequences make up all of the probability.
  one = chain._replace(unary=chain.unary[1], mask=chain.mask[1])
  sequences = np.array([[*tags, 0, 0] for tags in sorted(well_formed(3))])
  total = jax.jit(jax.vmap(structured.log_prob, in_axes=(None, 0)))(one, sequences)
  np.testing.assert_allclose(jax.nn.logsumexp(total), 0, atol=1e-4)


def test_start_and_end_scores_count_once_at_each_sentence_s_own_ends():
  params = jax.tree.map(np.asarray, noisy("crf")["params"])
  bare = {**params, "start": 0 * params["start"], "end": 0 * params["end"]}
  without = applied("crf")({"params": bare}, sentences())
  difference = np.asarray(scores_of("crf").unary) - np.asarray(without.unary)
  for i, length in enumerate(LENGTHS):
    expected = np.zeros((length, TAGS))
    if length:
      expected[0] += params["start"]
      expected[-1] += params["end"]
    np.testing.assert_allclose(difference[i, :length], expected, atol=1e-5)


def test_first_order_parsers_have_no_refined_scores_and_second_order_ones_start_equal():
  assert scores_of("parser").refined is None
  scores = applied("second_order")(initial("second_order")[1], sentences())
  refined = np.asarray(scores.refined)
  for i, length in enumerate(LENGTHS):
    for j in range(length):
      allowed = [h for h in range(length + 1) if h != j + 1]
      # All arcs score zero at first, so heads are equally likely.
      np.testing.assert_allclose(refined[i, j, allowed], -np.log(len(allowed)), atol=1e-5)


def test_dropout_in_training_only():
  spec = dataclasses.replace(SMALL, dropout=0.5, encoder="transformer")
  model, variables = build("maxent", spec), noisy("maxent", "transformer")
  tokens = sentences()
  apply = jax.jit(
    lambda key: model.apply(variables, tokens, train=True, rngs={"dropout": key}).scores.logits
  )
  first, again, other = (np.asarray(apply(jax.random.key(k))) for k in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert np.mean(first[tokens.mask] != other[tokens.mask]) > 0.9
  calm = jax.jit(model.apply)(variables, tokens).scores.logits
  np.testing.assert_allclose(calm, scores_of("maxent", "transformer").logits, atol=1e-5)
  with pytest.raises(Exception, match="dropout"):
    model.apply(variables, tokens, train=True)


def lstm_parameters(inputs, width, layers=1):
  total = 0
  for _ in range(layers):
    total += 2 * 4 * width * (inputs + width + 1)
    inputs = 2 * width
  return total


def embedding_parameters(spec):
  # The character embedding is 32 wide.
  cnn = CHARACTERS * 32 + (3 * 32 + 1) * spec.character_width if spec.character_width else 0
  return WORDS * spec.word_width + cnn


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  ("head", "expected", "shapes"),
  [
    ("maxent", 17 * TAGS, [(4, 5, TAGS)]),
    ("crf", 17 * TAGS + TAGS * TAGS + 2 * TAGS, [(4, 5, TAGS), (TAGS, TAGS)]),
    ("spans", 2 * 17 * 7 + 8 * 8 * TYPES, [(4, 5, 5, TYPES)]),
    ("tags", 17 * 5, [(4, 5, 5), (5,), (5,)]),
    (
      "parser",
      16 + 2 * 17 * 7 + 8 * 7 + 2 * 17 * 5 + 6 * 6 * NUM_RELATIONS,
      [(4, 5, 6), (4, 5, 6, NUM_RELATIONS)],
    ),
    (
      "second_order",
      16 + 2 * 17 * 7 + 8 * 7 + 2 * 17 * 5 + 6 * 6 * NUM_RELATIONS + 3 * 17 * 3 + 2 * 3,
      [(4, 5, 6), (4, 5, 6, NUM_RELATIONS), (4, 5, 6)],
    ),
  ],
)
def test_parameters_and_shapes(head, expected, shapes, dtype):
  model = build(head, dtype=dtype)
  outputs, variables = jax.eval_shape(
    lambda tokens: model.init_with_output(jax.random.key(0), tokens, train=False), sentences()
  )
  expected += embedding_parameters(SMALL) + lstm_parameters(10, 8)
  assert parameter_count(variables) == expected
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
  found = [leaf for leaf in outputs.scores if leaf is not None and leaf.dtype != bool]
  assert [leaf.shape for leaf in found] == shapes
  assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in found)


def test_layers_and_a_transformer_s_parameters():
  deep = build("maxent", dataclasses.replace(SMALL, layers=2, character_width=0))
  wide = build("maxent", dataclasses.replace(SMALL, layers=2, encoder="transformer"))
  counts = [
    parameter_count(jax.eval_shape(lambda m=m: m.init(jax.random.key(0), sentences())))
    for m in (deep, wide)
  ]
  assert counts[0] == WORDS * 6 + lstm_parameters(6, 8, layers=2) + 17 * TAGS
  block = 2 * 16 + 4 * (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8)
  whole = embedding_parameters(SMALL) + (10 * 8 + 8) + 2 * 16 + 2 * block + 9 * TAGS
  assert counts[1] == whole


def test_seeds_in_one_program_are_those_in_turn():
  models = [noisy("crf", seed=seed) for seed in (1, 2)]
  together = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
  axes = structured.LinearChain(0, 0, 0)
  scores = jax.jit(jax.vmap(applied("crf"), in_axes=(0, None), out_axes=axes))(
    together, sentences()
  )
  for seed, variables in enumerate(models):
    alone = applied("crf")(variables, sentences())
    np.testing.assert_allclose(scores.unary[seed], alone.unary, atol=1e-5)
    np.testing.assert_allclose(scores.transition[seed], alone.transition, atol=1e-5)


def test_every_setting_is_an_option_of_the_command_line_with_a_word_of_help(capsys):
  spec = tyro.cli(SequenceSpec, args=["--encoder", "transformer", "--width", "32", "--bioes"])
  assert spec == SequenceSpec(encoder="transformer", width=32, bioes=True)
  with pytest.raises(SystemExit):
    tyro.cli(SequenceSpec, args=["--help"])
  shown = capsys.readouterr().out
  for field in dataclasses.fields(SequenceSpec):
    assert "--" + field.name.replace("_", "-") in shown


def test_names_tell_networks_apart():
  assert sequence_model_name(SequenceSpec(width=128), "crf") == "BiLSTM-128 CRF"
  specs = [SequenceSpec(), SequenceSpec(layers=2), SequenceSpec(encoder="transformer")]
  names = {sequence_model_name(spec, head) for spec in specs for head in HEADS}
  assert len(names) == len(specs) * len(HEADS)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"encoder": "gru"}, "bilstm, transformer.*'gru'"),
    ({"width": 0}, "width.*at least 1.*0"),
    ({"layers": 0}, "layers.*at least 1.*0"),
    ({"character_width": -1}, "character_width.*-1"),
    ({"dropout": 1.0}, r"dropout.*\[0, 1\).*1.0"),
    ({"encoder": "transformer", "width": 9}, "width 9.*heads 2"),
  ],
)
def test_refuses_specifications_that_make_no_network(changes, message):
  with pytest.raises(ValueError, match=message):
    build("maxent", dataclasses.replace(SMALL, **changes))


@pytest.mark.parametrize(
  ("head", "arguments", "message"),
  [
    ("pos", {"num_labels": 3}, "maxent.*'pos'"),
    ("crf", {}, "'crf' needs num_labels, got none"),
    ("crf", {"num_labels": 0}, "at least 1, got 0"),
    ("tags", {"num_labels": 3}, "'tags' needs offsets and relations, got num_labels"),
    ("tags", {"offsets": (0, 1), "relations": (0,)}, "2 and 1"),
    ("parser", {"num_labels": 3, "offsets": (1,)}, "needs num_labels, got num_labels and offsets"),
  ],
)
def test_refuses_labels_that_do_not_fit_the_head(head, arguments, message):
  with pytest.raises(ValueError, match=message):
    build_sequence_model(SMALL, head, num_words=WORDS, num_characters=CHARACTERS, **arguments)


def test_refuses_vocabularies_without_padding_and_unknown():
  with pytest.raises(ValueError, match=r"num_words 1 .*at least 2"):
    build_sequence_model(SMALL, "maxent", num_words=1, num_characters=9, num_labels=3)


def test_refuses_a_constraint_on_tags_that_are_not_bioes():
  with pytest.raises(ValueError, match=r"4R \+ 1, got 8"):
    CRFTagger(encoder=BiLSTM(), num_labels=8, bioes=True)


def test_refuses_what_is_no_batch_of_sentences():
  model, variables = initial("maxent")
  tokens = sentences()
  one = Tokens(*(part[0] for part in tokens))
  with pytest.raises(ValueError, match=r"\[B, n\].*\(5,\).*add an axis"):
    model.apply(variables, one)
  with pytest.raises(ValueError, match=r"\(4, 5\).*\(4, 4\)"):
    model.apply(variables, tokens._replace(mask=tokens.mask[:, :4]))
  with pytest.raises(ValueError, match="integers, got float32"):
    model.apply(variables, tokens._replace(words=tokens.words.astype(np.float32)))
