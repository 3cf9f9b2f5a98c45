"""Terms, targets and the programs made of them, as values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kd_jax
from kd_jax import parallel, recipes
from kd_jax.models.heads import LayerClassifiers, LayerProjections
from kd_jax.models.mlp import MLP
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import Term
from kd_jax.training.objective import objective
from kd_jax.training.step import Program
from kd_jax.types import Batch, Outputs
from tests import oracles

LOGITS = ("student.logits", "teacher.logits")
SOFT = Term("soft", kd_jax.soft_target_kd_loss, LOGITS, {"temperature": 4.0})


def refused(message, *given, **named):
  with pytest.raises(ValueError, match=message) as caught:
    Term(*given, **named)
  assert "\n" not in str(caught.value)


# What a term says of itself.


def first(values, *, scale=1.0):
  return scale * values


def test_what_a_term_reads_follows_from_its_names():
  for of, reads, labels in [
    (("student.logits", "batch.labels"), set(), True),
    (("batch.labels",), set(), True),
    (("student.logits", "batch.inputs"), set(), False),
    (LOGITS, {"logits"}, False),
    (("teacher.tokens.queries[-1]", "teacher.layers[:]"), {"tokens", "layers"}, False),
    (("student.logits", "teacher.top_k", "batch.labels"), {"top_k"}, True),
  ]:
    term = Term("t", lambda *values: values[0], of)
    assert (term.reads, term.reads_labels) == (reads, labels)
    assert term.needs_teacher == bool(reads)
    assert [name.text for name in term.names] == list(of)


def test_arguments_are_given_in_the_order_of_the_names():
  given = Outputs(np.float32([1.0])), Outputs(np.float32([2.0]))
  batch = Batch(np.float32([4.0]), np.float32([3.0]))
  of = ("batch.labels", "teacher.logits", "student.logits", "batch.inputs")
  term = Term("t", lambda *values: jnp.stack(values), of)
  np.testing.assert_array_equal(term.loss_at(*given, batch, 0.0)[:, 0], [3, 2, 1, 4])


def test_options_and_weights_may_follow_the_epoch():
  ramp = kd_jax.linear_schedule(0.0, 2.0, 4)
  term = Term("t", first, ("student.logits",), {"scale": ramp}, weight=ramp)
  student, batch = Outputs(np.float32([3.0])), Batch(None, None)
  for epoch, value in [(0, 0.0), (1, 0.5), (9, 2.0)]:
    assert term.options_at(epoch) == {"scale": value}
    assert term.weight_at(epoch) == value
    np.testing.assert_allclose(term.loss_at(student, Outputs(), batch, epoch), [3 * value])
  fixed = Term("t", first, ("student.logits",), {"scale": 5.0}, weight=0.5)
  assert fixed.options_at(3) == {"scale": 5.0}
  assert fixed.weight_at(3) == 0.5


def test_lists_of_names_become_tuples_and_options_are_copied():
  options = {"temperature": 2.0}
  term = Term("t", kd_jax.soft_target_kd_loss, list(LOGITS), options)
  options["temperature"] = 3.0
  assert term.of == LOGITS
  assert term.options == {"temperature": 2.0}
  with pytest.raises(dataclasses.FrozenInstanceError):
    term.weight = 2.0


# A loss that takes the batch's mask.


def spread(values, *, mask=None):
  """The variance over the examples: a masked one must not enter the mean."""
  kept = jnp.ones(len(values)) if mask is None else mask
  values = jnp.where(kept > 0, values[:, 0], 0.0)
  centred = values - values.sum() / kept.sum()
  return jnp.where(kept > 0, centred**2, 0.0)


def mean_of(term, student, teacher, batch):
  """A term's mean as the objective takes it, on one device."""

  def mean(*given):
    return objective((term,), *given, 0.0)[1][term.name]

  one = jax.tree.map(lambda x: np.asarray(x)[None], (student, teacher, batch))
  return jax.vmap(mean, axis_name=parallel.AXIS)(*one)[0]


def test_a_loss_that_compares_examples_is_given_the_mask():
  values = np.float32([[1.0], [3.0], [np.nan]])
  batch = Batch(None, np.zeros(3), mask=np.float32([1, 1, 0]))
  term = Term("t", spread, ("student.logits",))
  assert term.takes_mask
  np.testing.assert_allclose(term.loss_at(Outputs(values), Outputs(), batch, 0.0), [1, 1, 0])
  # The mean counts the masked row, as for every other term.
  np.testing.assert_allclose(mean_of(term, Outputs(values), Outputs(), batch), 2 / 3, rtol=1e-6)


@pytest.mark.parametrize("name", ["distances", "angles"])
def test_rows_that_fill_up_a_batch_are_related_to_none(name):
  """They repeat the first example: its equal would change the mean distance of all."""
  rng = np.random.default_rng(0)
  own, theirs = rng.standard_normal((2, 4, 3)).astype(np.float32)
  (term,) = [
    one
    for one in recipes.rkd(recipes.Classes(3), recipes.Budget(1, Optimizer())).phases[0].objective
    if one.name == name
  ]
  rows, mask = np.array([0, 1, 2, 3, 0, 0]), np.float32([1, 1, 1, 1, 0, 0])
  filled = Batch(np.zeros((6, 1)), np.zeros(6, int), mask)
  whole = Batch(np.zeros((4, 1)), np.zeros(4, int))
  expected = term.loss_at(Outputs(layers=(own,)), Outputs(layers=(theirs,)), whole, 0.0)
  sides = Outputs(layers=(own[rows],)), Outputs(layers=(theirs[rows],))
  found = np.asarray(term.loss_at(*sides, filled, 0.0))
  np.testing.assert_allclose(found[(slice(4),) * found.ndim], expected, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(np.sum(found), np.sum(expected), rtol=1e-5)
  np.testing.assert_allclose(
    mean_of(term, *sides, filled), np.sum(expected) / found.size, rtol=1e-5
  )


@pytest.mark.parametrize("other_classes", [True, False])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_rows_that_fill_up_a_batch_are_no_negatives(other_classes, unlabelled):
  """Nor, if negatives are of another class, are examples of which no class is known."""
  rng = np.random.default_rng(0)
  own, theirs = rng.standard_normal((2, 6, 3)).astype(np.float32)
  labels, mask = np.array([0, 1, 2, 0, 1, 0]), np.float32([1, 1, 1, 1, 1, 0])
  labelled = np.array([1, 1, 0, 1, 0, 1], bool) if unlabelled else None
  names = ("student.layers[-1]", "teacher.layers[-1]", "batch.labels")[: 2 + other_classes]
  term = Term("contrast", kd_jax.crd_loss, names, {"temperature": 0.5})
  counted = mask > 0
  if unlabelled and other_classes:
    counted &= labelled
  given = labels if other_classes else None
  expected = oracles.crd_loss(own, theirs, given, temperature=0.5, mask=counted)
  own[~(mask > 0)] = np.nan
  batch = Batch(np.zeros((6, 1)), labels, mask, labelled)
  sides = Outputs(layers=(own,)), Outputs(layers=(theirs,))
  np.testing.assert_allclose(term.loss_at(*sides, batch, 0.0), expected, rtol=1e-5, atol=1e-7)
  # The mean over the labelled examples is weighed by how full the batch is.
  share = 5 / 6 / counted.sum() if unlabelled and other_classes else 1 / 6
  np.testing.assert_allclose(mean_of(term, *sides, batch), expected.sum() * share, rtol=1e-5)


def test_a_loss_on_labels_is_given_the_mask_of_labelled_examples():
  def kept(values, labels=None, *, mask=None):
    return mask

  mask, labelled = np.float32([1, 1, 0]), np.array([True, False, True])
  for names, filled, known, expected in [
    (("student.logits", "batch.labels"), mask, labelled, [1, 0, 0]),
    (("student.logits", "batch.labels"), None, labelled, [1, 0, 1]),
    (("student.logits", "batch.labels"), mask, None, [1, 1, 0]),
    (("student.logits",), mask, labelled, [1, 1, 0]),
  ]:
    batch = Batch(None, np.zeros(3, int), filled, known)
    found = Term("t", kept, names).loss_at(Outputs(np.zeros(3)), Outputs(), batch, 0.0)
    np.testing.assert_array_equal(found, expected)
  batch = Batch(None, np.zeros(3, int))
  assert Term("t", kept, names).loss_at(Outputs(np.zeros(3)), Outputs(), batch, 0.0) is None


def test_dist_has_as_many_classes_as_examples_and_none_is_masked():
  rng = np.random.default_rng(1)
  own, theirs = rng.standard_normal((2, 4, 4)).astype(np.float32)
  mask = np.float32([1, 1, 1, 0])
  term = Term("intra", kd_jax.dist_intra_loss, LOGITS)
  batch = Batch(np.zeros((4, 1)), np.zeros(4, int), mask)
  expected = np.mean(oracles.dist_intra_loss(own, theirs, mask=mask))
  found = mean_of(term, Outputs(own), Outputs(theirs), batch)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_mask_that_is_an_argument_or_an_option_stays_what_it_is():
  of = ("student.tokens.queries[-1]", "teacher.tokens.queries[-1]", "student.tokens.mask")
  term = Term("t", kd_jax.relation_kd_loss, of, {"relation_heads": 2})
  assert not term.takes_mask
  assert not Term("t", spread, ("student.logits",), {"mask": None}).takes_mask
  assert not Term("t", first, ("student.logits",)).takes_mask
  assert SOFT.takes_mask


# What is refused.


@pytest.mark.parametrize("of", ["student.logits", (), [], None, 3, {"student.logits"}])
def test_names_are_a_tuple(of):
  refused(r"^term 'soft': `of` is a tuple of names, such as .*, got ", "soft", first, of)


@pytest.mark.parametrize(
  ("of", "message"),
  [
    (
      ("student.logit",),
      "^term 'mine': 'student.logit' is not a name .*: names are student.logits",
    ),
    (("student.logits", 3), "^term 'mine': a name is a text such as 'student.logits', got 3"),
    (("key",), "^term 'mine': 'key' is reserved and not built yet"),
    (("student.layers[x]",), "^term 'mine': .* must have an index such as"),
  ],
)
def test_unknown_names(of, message):
  refused(message, "mine", lambda *values: values[0], of)


def test_a_partial_is_refused():
  partial = functools.partial(kd_jax.soft_target_kd_loss, temperature=2.0)
  refused("^term 't': give a partial's arguments as `options` of the loss$", "t", partial, LOGITS)


@pytest.mark.parametrize(
  ("of", "options", "message"),
  [
    (("student.logits",), {"temperature": 2.0}, "missing a required argument: 'teacher_logits'"),
    ((*LOGITS, "batch.labels"), {"temperature": 2.0}, "too many positional arguments"),
    (LOGITS, {}, "missing a required .*argument: 'temperature'"),
    (LOGITS, {"temperature": 2.0, "temp": 1.0}, "unexpected keyword argument 'temp'"),
    (LOGITS, {"temperature": 2.0, "student_logits": 1.0}, "multiple values for argument"),
  ],
)
def test_arguments_that_the_loss_does_not_take(of, options, message):
  refused(f"^term 't': .*{message}", "t", kd_jax.soft_target_kd_loss, of, options)


def test_what_is_no_function_is_no_loss():
  refused("^term 't': 3 is not a callable", "t", 3, LOGITS)


@pytest.mark.parametrize(
  ("value", "kind"),
  [
    (np.ones(2), "ndarray"),
    (np.ones(()), "ndarray"),
    (jnp.ones(2), "ArrayImpl"),
    ([1.0], "list"),
    ({"a": 1}, "dict"),
    ((1.0, np.ones(2)), "tuple"),
  ],
)
def test_options_are_no_arrays(value, kind):
  message = f"^term 't': option temperature must be a number, a text or a schedule, got {kind}$"
  refused(message, "t", kd_jax.soft_target_kd_loss, LOGITS, {"temperature": value})


@pytest.mark.parametrize("value", [1, 2.0, np.float32(2), True, None, "text", (1, "a"), abs])
def test_options_may_be_plain(value):
  assert Term("t", first, ("student.logits",), {"scale": value}).options == {"scale": value}


# Equality, by which compiled steps are found again.


CHANGED = {
  "name": "other",
  "loss": kd_jax.forward_kl,
  "of": ("teacher.logits", "student.logits"),
  "options": {"temperature": 2.0},
  "weight": 0.5,
  "head": LayerClassifiers(3),
}


def test_terms_with_equal_parts_are_equal():
  def made():
    ramp = kd_jax.linear_schedule(1.0, 4.0, 3)
    options = {"temperature": ramp, "stop_teacher_gradient": True}
    weight = kd_jax.scaled_schedule(ramp, 0.5)
    head = LayerProjections(8, (0, 1))
    return Term("t", kd_jax.soft_target_kd_loss, LOGITS, options, weight, head)

  one, other = made(), made()
  assert one == other
  assert hash(one) == hash(other)
  turned = dataclasses.replace(one, options=dict(reversed(one.options.items())))
  assert turned == one
  assert hash(turned) == hash(one)


@pytest.mark.parametrize("field", CHANGED)
def test_terms_that_differ_are_not_equal(field):
  changed = dataclasses.replace(SOFT, **{field: CHANGED[field]})
  assert changed != SOFT
  assert len({changed, SOFT, dataclasses.replace(SOFT)}) == 2


@pytest.mark.parametrize(
  "make",
  [
    lambda by: kd_jax.constant_schedule(by),
    lambda by: kd_jax.linear_schedule(by, 0.0, 5),
    lambda by: kd_jax.linear_schedule(0.0, by, 5),
    lambda by: kd_jax.linear_schedule(0.0, 1.0, by),
    lambda by: kd_jax.linear_schedule(0.0, 1.0, 5, begin=by),
    lambda by: kd_jax.cosine_schedule(by, 0.0, 5),
    lambda by: kd_jax.step_schedule([by, 0.0], [5]),
    lambda by: kd_jax.step_schedule([1.0, 0.0], [by]),
    lambda by: kd_jax.annealing_temperature(int(by), 5),
    lambda by: kd_jax.annealing_temperature(5, by),
    lambda by: kd_jax.teacher_annealing(by),
    lambda by: kd_jax.scaled_schedule(kd_jax.constant_schedule(by), 2.0),
    lambda by: kd_jax.scaled_schedule(kd_jax.constant_schedule(1.0), by),
    lambda by: kd_jax.scaled_schedule(kd_jax.constant_schedule(1.0), 1.0, offset=by),
  ],
)
def test_schedules_are_values(make):
  assert make(2.0) == make(2.0)
  assert hash(make(2.0)) == hash(make(2.0))
  assert make(2.0) != make(3.0)
  with pytest.raises(dataclasses.FrozenInstanceError):
    make(2.0).start = 1.0


def test_schedules_of_one_value_but_another_form_are_not_equal():
  assert kd_jax.linear_schedule(1.0, 0.0, 5) != kd_jax.cosine_schedule(1.0, 0.0, 5)


def program(**changes):
  """All parts are made anew."""
  (phase,) = recipes.kd(recipes.Classes(3), recipes.Budget(4, Optimizer())).phases
  settings = {
    "model": MLP(3, (8,)),
    "terms": phase.objective,
    "optimizer": phase.optimizer,
    "total_steps": 20,
    "steps_per_epoch": 5,
  }
  return Program(**settings | changes)


def test_equal_programs_find_one_compiled_step():
  assert program() == program()
  assert hash(program()) == hash(program())
  (other,) = recipes.kd(recipes.Classes(3), recipes.Budget(4, Optimizer()), temperature=2.0).phases
  changes = {
    "model": MLP(3, (9,)),
    "terms": other.objective,
    "optimizer": Optimizer(learning_rate=0.3),
    "steps_per_epoch": 6,
    "total_steps": 24,
  }
  for field, value in changes.items():
    assert program(**{field: value}) != program(), field
  made = [program(), program(), *(program(**{field: value}) for field, value in changes.items())]
  assert len(set(made)) == 1 + len(changes)


def test_a_schedule_that_is_a_function_makes_another_term_each_time():
  one, other = (
    dataclasses.replace(SOFT, weight=optax.linear_schedule(0.0, 1.0, 2)) for _ in range(2)
  )
  assert one != other


# Targets.


@pytest.mark.parametrize("number", [1, 0, -1])
def test_classes_are_at_least_two(number):
  message = f"^there must be at least 2 classes, got {number}: `Number` is one number$"
  with pytest.raises(ValueError, match=message):
    recipes.Classes(number)


@pytest.mark.parametrize("top_k", [0, -1, 5, 6])
def test_top_k_leaves_a_tail(top_k):
  with pytest.raises(ValueError, match=f"^top_k must be at least 1 and below 5, got {top_k}$"):
    recipes.Classes(5, top_k=top_k)
  assert [recipes.Classes(5, top_k=k).top_k for k in (None, 1, 4)] == [None, 1, 4]


@pytest.mark.parametrize("mean", [float("nan"), float("inf")])
def test_the_mean_of_a_number_is_finite(mean):
  with pytest.raises(ValueError, match=f"^`mean` must be finite, got {mean}$"):
    recipes.Number(mean)


@pytest.mark.parametrize("target", [recipes.Classes(5), recipes.Classes(5, 2), recipes.Number()])
def test_soft_targets_have_a_temperature_of_at_least_one(target):
  with pytest.raises(ValueError, match=r"temperature must be finite and at least 1, got 0.5"):
    target.soft_term(0.5)


def test_terms_of_classes():
  target = recipes.Classes(5)
  assert (target.outputs, target.centered) == (5, {})
  labels, soft = target.label_term(0.25), target.soft_term(3.0, 0.5)
  assert (labels.loss, labels.of) == (kd_jax.hard_label_loss, ("student.logits", "batch.labels"))
  assert (labels.weight, soft.weight) == (0.25, 0.5)
  assert (soft.loss, soft.of) == (kd_jax.soft_target_kd_loss, LOGITS)
  assert soft.options == {"temperature": 3.0}
  cut = recipes.Classes(5, top_k=2).soft_term(3.0, 0.5)
  assert (cut.loss, cut.of) == (kd_jax.top_k_kd_loss, ("student.logits", "teacher.top_k"))
  assert cut.options == {"temperature": 3.0}
  assert (cut.name, cut.weight) == (soft.name, soft.weight)


def test_terms_of_a_number():
  target = recipes.Number(2.5)
  assert (target.outputs, target.centered) == (1, {"center": 2.5})
  labels, soft = target.label_term(0.25), target.soft_term(3.0, 0.5)
  assert labels.loss is kd_jax.squared_error_loss
  assert labels.of == ("student.logits", "batch.labels")
  assert (labels.weight, soft.weight) == (0.25, 0.5)
  # A number has no temperature.
  assert (soft.loss, soft.of, soft.options) == (kd_jax.logit_regression_loss, LOGITS, {})


def test_terms_of_structures():
  term = recipes.Structures().label_term(0.25)
  assert (term.loss, term.of) == (
    kd_jax.structure_nll_loss,
    ("student.scores", "batch.labels"),
  )
  assert term.weight == 0.25
  assert recipes.Structures() == recipes.Structures()


def test_terms_run_under_jit_with_a_mask_and_give_nothing_for_padding():
  target = recipes.Classes(3)
  logits = np.float32([[1, 2, 3], [np.nan] * 3])
  batch = Batch(None, np.array([0, 2]), np.float32([1, 0]))
  for term in (target.label_term(), target.soft_term(2.0)):
    values = jax.jit(term.loss_at)(Outputs(logits), Outputs(logits), batch, 0.0)
    assert np.isfinite(values).all()
    assert values[1] == 0
