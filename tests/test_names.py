"""The names by which a term says what its loss is given."""

import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from kd_jax.recipes.names import Name, look_up, parse, valid_names
from kd_jax.types import Batch, Outputs, TokenStates, TopK
from tests import contract

B, N, LAYERS = 2, 3, 4


def drawn(*shape, seed):
  return np.random.default_rng(seed).standard_normal((B, *shape)).astype(np.float32)


def layers_of(shape, seed, number=LAYERS):
  return tuple(drawn(*shape, seed=seed + layer) for layer in range(number))


def outputs(seed):
  """A network with everything that a name may stand for."""
  heads = [layers_of((2, N, 3), seed + 10 * part) for part in (1, 2, 3)]
  attentions = layers_of((2, N, N), seed + 40)
  states = layers_of((N, 6), seed + 50, LAYERS + 1)
  return Outputs(
    drawn(5, seed=seed + 60),
    layers_of((6,), seed + 70),
    TopK(drawn(2, seed=seed + 80), drawn(2, seed=seed + 81), drawn(seed=seed + 82)),
    drawn(N, 5, seed=seed + 83),
    drawn(LAYERS - 1, 5, seed=seed + 84),
    TokenStates(states, attentions, *heads, np.ones((B, N), bool)),
  )


STUDENT, TEACHER = outputs(100), outputs(200)
BATCH = Batch(drawn(7, seed=1), np.arange(B))


def found(text, student=STUDENT, teacher=TEACHER, batch=BATCH):
  return look_up(parse(text), student, teacher, batch)


def by_hand(text):
  """The value that a name without an index stands for."""
  side, *path = text.split(".")
  value = {"student": STUDENT, "teacher": TEACHER, "batch": BATCH}[side]
  for field in path:
    value = getattr(value, field)
  return value


def layers_by_hand(text):
  """The layers that an index chooses from."""
  value = by_hand(text)
  return value if isinstance(value, tuple) else [value[:, layer] for layer in range(value.shape[1])]


INDEXED = [name.removesuffix("[i]") for name in valid_names() if name.endswith("[i]")]
PLAIN = [name for name in valid_names() if not name.endswith("[i]")]


def test_the_names_that_exist():
  tokens = ("states", "attentions", "queries", "keys", "values")
  of_networks = ["layers", "layer_logits", *(f"tokens.{field}" for field in tokens)]
  assert [f"{side}.{name}" for side in ("student", "teacher") for name in of_networks] == INDEXED
  assert set(PLAIN) == {
    "student.logits",
    "student.scores",
    "student.tokens.mask",
    "teacher.logits",
    "teacher.scores",
    "teacher.tokens.mask",
    "teacher.top_k",
    "batch.inputs",
    "batch.labels",
  }


@pytest.mark.parametrize("text", PLAIN + INDEXED)
def test_a_name_stands_for_its_field(text):
  name = parse(text)
  side, *path = text.split(".")
  assert (name.text, name.source, name.path) == (text, side, tuple(path))
  assert (name.index, name.cut) == (None, None)
  assert name.field == path[0]
  assert found(text) is by_hand(text)
  assert parse(text) == name
  assert hash(parse(text)) == hash(name)


@pytest.mark.parametrize("text", INDEXED)
def test_an_index_stands_for_one_layer(text):
  layers = layers_by_hand(text)
  for index in (0, 1, -1, -2, -len(layers), len(layers) - 1):
    name = parse(f"{text}[{index}]")
    assert (name.index, name.cut) == (index, None)
    np.testing.assert_array_equal(found(name.text), layers[index])


@pytest.mark.parametrize("text", INDEXED)
def test_a_slice_stands_for_stacked_layers(text):
  layers = layers_by_hand(text)
  for written, cut in {
    ":": slice(None),
    ":-1": slice(-1),
    "1:": slice(1, None),
    "1:3": slice(1, 3),
    "::2": slice(None, None, 2),
    "::-1": slice(None, None, -1),
    "-2:-1": slice(-2, -1),
    ":99": slice(99),
    "::": slice(None),
  }.items():
    name = parse(f"{text}[{written}]")
    assert name.index is None
    assert name.cut == (cut.start, cut.stop, cut.step)
    stacked = found(name.text)
    np.testing.assert_array_equal(stacked, np.stack(layers[cut], axis=1))
    assert stacked.shape[0] == B


def test_names_can_be_looked_up_while_being_traced():
  @jax.jit
  def chosen(student):
    return [found(f"student.{text}", student) for text in ("layers[:-1]", "layer_logits[0]")]

  stacked, first = chosen(STUDENT)
  np.testing.assert_array_equal(stacked, np.stack(STUDENT.layers[:-1], axis=1))
  np.testing.assert_array_equal(first, STUDENT.layer_logits[:, 0])


# What is refused.


def refused(message, text, **given):
  with pytest.raises(ValueError, match=message) as caught:
    found(text, **given)
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize(("index", "reach"), [(4, "-4 to 3"), (-5, "-4 to 3"), (100, "-4 to 3")])
def test_a_layer_that_is_not_there(side, index, reach):
  text = f"{side}.layers[{index}]"
  refused(rf"^'{re.escape(text)}' is no layer: the {side} has 4, {reach}$", text)


def test_a_slice_without_layers():
  one = STUDENT._replace(layers=STUDENT.layers[:1])
  refused(
    r"^'student.layers\[:-1\]' is empty: the student has 1 layer, give it at least 2$",
    "student.layers[:-1]",
    student=one,
  )
  refused(
    r"^'teacher.layers\[7:\]' is empty: the teacher has 4 layers, name others$",
    "teacher.layers[7:]",
  )


def test_layers_of_unequal_shapes_cannot_be_stacked_but_named_one_by_one():
  wider = STUDENT._replace(layers=(drawn(6, seed=1), drawn(8, seed=2)))
  refused(
    r"^'student.layers\[:\]' cannot be stacked: layers of \[\(2, 6\), \(2, 8\)\] differ, name one",
    "student.layers[:]",
    student=wider,
  )
  np.testing.assert_array_equal(found("student.layers[1]", wider), wider.layers[1])
  assert found("student.layers", wider) is wider.layers
  np.testing.assert_array_equal(found("student.layers[1:]", wider), wider.layers[1][:, None])


@pytest.mark.parametrize(
  "text",
  [
    "key",
    "teachers.large.logits",
    "teachers.0.layers[-1]",
    "student@strong.logits",
    "student.of_embeddings",
  ],
)
def test_reserved_names_are_refused_as_such(text):
  message = refused(rf"^'{re.escape(text)}' is reserved and not built yet: names are", text)
  assert all(name in message for name in valid_names())


@pytest.mark.parametrize(
  "text",
  [
    "",
    "student",
    "student.",
    ".logits",
    "student.logit",
    "Student.logits",
    "student.top_k",  # of a cache alone
    "student.tokens",
    "student.tokens.mask.shape",
    "teacher.labels",
    "batch.logits",
    "batch.mask",
    "assistant.logits",
    "keys",
    "student.layers[-1",
    "student.layers-1]",
    "student.layers[-1][0]",
    "student.layers[[0]]",
    "student.layers [0]",
    " student.logits",
    "student.logits\n",
    "student.__class__",
  ],
)
def test_an_unknown_name_is_told_those_that_exist(text):
  message = refused(r"is not a name of what a loss reads: names are student\.logits, ", text)
  assert message.startswith(repr(text))
  assert all(name in message for name in valid_names())
  assert message.endswith("with i a number or a slice such as :-1")


@pytest.mark.parametrize("given", [None, 3, b"student.logits", ("student.logits",)])
def test_what_is_no_text_is_no_name(given):
  with pytest.raises(ValueError, match=r"a name is a text such as 'student.logits', got"):
    parse(given)


@pytest.mark.parametrize(
  "index",
  ["", "a", "0.5", "1,2", "::0", "::-0", "::00", "1:2:3:4", "--1", "+1", "-", " 1", "1_0", "٣", "9" * 5000],
)  # fmt: skip
def test_an_index_is_a_number_or_a_slice(index):
  text = f"student.layers[{index}]"
  refused(rf"^{re.escape(repr(text))} must have an index such as \[-1\] or a slice such as", text)


@pytest.mark.parametrize("text", PLAIN)
def test_only_layers_have_an_index(text):
  refused(f"^'{re.escape(text)}.0.' has an index, and {text} is not a list of", f"{text}[0]")


NO_TOKENS = r"states of tokens: build it with collect_tokens \(studies do with --live-teacher\)"
LIVE = r"cache them \(--cache-outputs\), or run it live \(--live-teacher\)"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("student.logits", "the student gives no logits"),
    ("student.layers[0]", "the student gives no layers"),
    ("student.layers[:-1]", "the student gives no layers"),
    ("student.scores", "the student gives no scores of structures"),
    (
      "student.layer_logits",
      "the student gives no logits of inner layers: give the term a head, LayerClassifiers",
    ),
    ("student.tokens.states[0]", f"the student gives no {NO_TOKENS}"),
    ("student.tokens.mask", f"the student gives no {NO_TOKENS}"),
    ("teacher.logits", f"the teacher gives no logits: {LIVE}"),
    ("teacher.layers", f"the teacher gives no layers: {LIVE}"),
    (
      "teacher.layer_logits[0]",
      "the teacher gives no logits of inner layers: it needs at least 2 layers and pseudo classifiers; "
      f"{LIVE.replace('them', 'their logits')}",
    ),
    ("teacher.scores", "the teacher gives no scores of structures"),
    ("teacher.top_k", "the teacher gives no top k: precompute a cache with top-k"),
    (
      "teacher.tokens.queries[-1]",
      r"the teacher gives no states of tokens: build it with collect_tokens and run it live \(--live-teacher\)",
    ),
    ("batch.labels", "the batch has no labels"),
    ("batch.inputs", "the batch has no inputs"),
  ],
)
def test_outputs_that_are_missing_have_a_remedy(text, message):
  refused(f"^{message}$", text, student=Outputs(), teacher=Outputs(), batch=Batch(None, None))


def test_a_cache_of_the_top_k_has_no_logits():
  cut = Outputs(top_k=TEACHER.top_k)
  message = "^all of the teacher's logits are read: precompute the cache without top-k$"
  refused(message, "teacher.logits", teacher=cut)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_networks_that_do_not_attend(side):
  without = STUDENT.tokens._replace(attentions=(), queries=())
  given = {side: STUDENT._replace(tokens=without)}
  attend = "attention is compared between networks that attend, BERT or RoBERTa on both sides"
  text = f"{side}.tokens.queries[-1]"
  refused(rf"^'{re.escape(text)}' is empty: {attend}$", text, **given)
  text = f"{side}.tokens.attentions"
  refused(
    rf"^'{re.escape(text)}' is empty: {attend}, built with collect_attentions$", text, **given
  )


@hypothesis.settings(contract.sampled, max_examples=300)
@hypothesis.given(
  st.one_of(
    st.text(),
    st.text(alphabet="student.layers[]:-0123456789", max_size=20),
    st.builds(
      "{}.{}{}".format,
      st.sampled_from(["student", "teacher", "batch", "key", "teachers"]),
      st.sampled_from(["logits", "layers", "labels", "tokens.states", "tokens", "top_k", ""]),
      st.one_of(st.just(""), st.text("[]:-012 ", max_size=6), st.text().map("[{}]".format)),
    ),
    st.builds(
      "{}[{}:{}:{}]".format,
      st.sampled_from(INDEXED),
      *[st.one_of(st.just(""), st.integers(-9, 9).map(str))] * 3,
    ),
  )
)
def test_any_text_is_a_name_or_refused(text):
  name, said = result_or_message(parse, text)
  assert said or isinstance(name, Name)
  if said:
    assert "\n" not in said
    return
  assert name.text == text
  # What could be read can be used: a value, or one line of why not.
  _, said = result_or_message(look_up, name, STUDENT, TEACHER, BATCH)
  assert not said or re.search("is no layer|is empty", said)


def result_or_message(function, *given):
  """(result, None), or (None, what the ValueError says)."""
  try:
    return function(*given), None
  except ValueError as error:
    return None, str(error)


def test_low_precision_stays_low_in_a_stack():
  half = STUDENT._replace(layers=tuple(jnp.asarray(x, jnp.bfloat16) for x in STUDENT.layers))
  assert found("student.layers[:]", half).dtype == jnp.bfloat16
