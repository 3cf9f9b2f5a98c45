"""Training on examples with and without labels: the objective, the epochs, and that no hidden label is read."""

import dataclasses
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import kd_jax
from experiments.pipeline import layer_classifiers
from kd_jax import parallel, recipes
from kd_jax.data.examples import Bucket
from kd_jax.recipes import Budget, Phase, Term
from kd_jax.structured import LinearChain
from kd_jax.teachers.sources import cached_teacher
from kd_jax.training import batches, objective as objectives
from kd_jax.types import Batch, Outputs
from tests import contract, oracles, training
from tests.training import (
  CLASSES,
  OPTIMIZER,
  TASK,
  assert_close,
  assert_same_bits,
  sentences,
  texts,
)

ROWS = 16
TARGET = recipes.Classes(CLASSES)
LABELS = dataclasses.replace(TARGET.label_term(0.5), name="labels")
SOFT = dataclasses.replace(TARGET.soft_term(1.0, 2.0), name="soft")


# The objective.


def split_over(devices, *arrays):
  return [None if x is None else x.reshape(devices, -1, *x.shape[1:]) for x in arrays]


def objective_of(terms, masked, hidden):
  """A program that takes arrays [devices, rows, ...]."""

  def share(logits, teacher, labels, mask, labelled):
    batch = Batch(logits, labels, mask, labelled)
    return objectives.objective(terms, Outputs(logits), Outputs(teacher), batch, jnp.float32(0))

  axes = (0, 0, 0, 0 if masked else None, 0 if hidden else None)
  differentiated = jax.value_and_grad(share, has_aux=True)
  return jax.jit(jax.vmap(differentiated, axes, axis_name=parallel.AXIS))


@functools.cache
def both_terms(masked, hidden):
  """Compiled once for each number of devices."""
  return objective_of((LABELS, SOFT), masked, hidden)


def objective_on(devices, logits, teacher, labels, mask, labelled, terms=None):
  """Loss, terms and the gradient [ROWS, C] by the logits, from the shares of so many devices."""
  given = (mask is not None, labelled is not None)
  run = both_terms(*given) if terms is None else objective_of(terms, *given)
  (loss, parts), gradient = run(*split_over(devices, logits, teacher, labels, mask, labelled))
  terms = {name: float(value.sum()) for name, value in parts.items()}
  return float(loss.sum()), terms, np.asarray(gradient).reshape(ROWS, CLASSES)


def objective_by_hand(logits, teacher, labels, mask, labelled):
  """In float64, a row at a time."""
  mask = np.ones(ROWS) if mask is None else mask
  counted = [row for row in range(ROWS) if mask[row] and labelled[row]]
  filled = mask.sum() / ROWS
  gradient, hard, soft = np.zeros((ROWS, CLASSES)), 0.0, 0.0
  for row in range(ROWS):
    p, q = (np.array(oracles.softmax(z[row])) for z in (logits, teacher))
    if mask[row]:
      soft += np.sum(q * np.log(q / p)) / ROWS
      gradient[row] += 2.0 * (p - q) / ROWS
    if row in counted:
      hard += -np.log(p[labels[row]]) / len(counted) * filled
      gradient[row] += 0.5 * (p - np.eye(CLASSES)[labels[row]]) / len(counted) * filled
  return 0.5 * hard + 2.0 * soft, {"labels": hard, "soft": soft}, gradient


def batch_of(seed=0):
  rng = np.random.default_rng(seed)
  logits, teacher = rng.standard_normal((2, ROWS, CLASSES)).astype(np.float32)
  return logits, teacher, rng.integers(0, CLASSES, ROWS)


PARTLY = (np.arange(ROWS) < 11).astype(np.float32)
MASKS = {
  "mixed": np.arange(ROWS) % 3 == 0,
  "one device's": np.arange(ROWS) < 2,  # of eight
  "one": np.arange(ROWS) == 10,
  "all": np.ones(ROWS, bool),
}


@pytest.mark.parametrize("mask", [None, PARTLY], ids=["full", "filled up"])
@pytest.mark.parametrize("labelled", MASKS.values(), ids=MASKS)
def test_labels_count_over_the_labelled_examples_of_all_devices(labelled, mask):
  arrays = (*batch_of(), mask, labelled)
  expected = objective_by_hand(*arrays)
  for devices in (1, 2, 8):
    assert_close(objective_on(devices, *arrays), expected, 2e-6)
  if labelled.all():  # the same as without a mask of labels
    assert_close(objective_on(2, *arrays[:-1], None), expected, 2e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_batch_without_labels_adds_nothing_and_is_no_nan(devices):
  logits, teacher, labels = batch_of()
  none = np.zeros(ROWS, bool)
  loss, terms, gradient = objective_on(devices, logits, teacher, labels, None, none)
  assert terms["labels"] == 0
  alone = objective_on(devices, logits, teacher, labels, None, None, (SOFT,))
  assert_close((loss, gradient), (alone[0], alone[2]))
  loss, _, gradient = objective_on(devices, logits, teacher, labels, None, none, (LABELS,))
  assert loss == 0
  assert not gradient.any()


def test_a_term_that_mixes_labels_and_a_teacher_skips_the_unlabelled():
  logits, teacher, labels = batch_of()

  def both(student, teacher, labels):
    return jnp.square(student[:, 0] - teacher[:, 0] - labels)

  labelled = MASKS["mixed"]
  term = Term("both", both, ("student.logits", "teacher.logits", "batch.labels"))
  _, terms, _ = objective_on(2, logits, teacher, labels, None, labelled, (term,))
  values = (logits[:, 0] - teacher[:, 0] - labels) ** 2
  np.testing.assert_allclose(terms["both"], values[labelled].mean(), rtol=1e-6)


def test_a_term_on_labels_without_a_value_for_each_example_is_refused():
  names = ("student.logits", "batch.labels")
  term = Term("pairs", lambda logits, labels: logits[1:], names)
  with pytest.raises(ValueError, match=r"'pairs' reads labels and must give a value for each of 8"):
    objective_on(2, *batch_of(), None, MASKS["mixed"], (term,))


# Every method.


OF_CLASSES = ("dkd", "dist", "reverse_kl", "jensen_shannon")
METHODS = [
  (kind, target, name)
  for kind, target in (
    ("images", TARGET),
    ("texts", TARGET),
    ("texts", recipes.Number()),
    ("sentences", recipes.Structures()),
  )
  for name in recipes.methods_for(kind)
  if not (isinstance(target, recipes.Number) and name in OF_CLASSES)
]


def recipe_of(target, name):
  return recipes.make_recipe(name, target, Budget(20, OPTIMIZER), teacher_widths=(4, 4))


def test_only_labels_by_name_are_read():
  """Which losses can read a hidden label at all: those that are given labels."""
  losses = {
    term.loss.__name__
    for _, target, name in METHODS
    for phase in recipe_of(target, name).phases
    for term in phase.objective
    if term.reads_labels
  }
  assert losses == {
    "hard_label_loss",
    "squared_error_loss",
    "structure_nll_loss",
    "decoupled_kd_loss",
    "crd_loss",
  }


def test_phases_that_only_read_labels():
  found = {
    (name, phase.name)
    for _, target, name in METHODS
    for phase in recipe_of(target, name).phases
    if phase.labelled_only
  }
  finetune = ("annealing_kd", "universal_kd", "universal_kd_capacity_gap", "minilm")
  finetuned = {(name, "finetune") for name in finetune}
  assert found == {("scratch", "train"), ("dkd", "distil"), ("crd", "distil"), *finetuned}


def chain(rng):
  unary = rng.standard_normal((4, 3, 5)).astype(np.float32)
  return LinearChain(unary, rng.standard_normal((5, 5)).astype(np.float32), None)


LABEL_TERMS = {
  "classes": (LABELS, lambda r: Outputs(r.standard_normal((4, 5)).astype("f")), ()),
  "numbers": (
    recipes.Number().label_term(),
    lambda r: Outputs(r.standard_normal((4, 1)).astype("f")),
    (),
  ),
  "tags": (recipes.Structures().label_term(), lambda r: Outputs(scores=chain(r)), (3,)),
  "layers": (
    Term("layers", layer_classifiers.label_loss, ("student.layer_logits", "batch.labels")),
    lambda r: Outputs(layer_logits=r.standard_normal((4, 2, 5)).astype("f")),
    (),
  ),
  "decoupled": (
    recipes.dkd(TARGET, Budget(20, OPTIMIZER), warmup_share=0.0).phases[0].objective[1],
    lambda r: Outputs(r.standard_normal((4, 5)).astype("f")),
    (),
  ),
  # Its examples are compared: a hidden label would choose the negatives of the others.
  "contrast": (
    Term("contrast", kd_jax.crd_loss, ("student.layers[-1]", "teacher.layers[-1]", "batch.labels")),
    lambda r: Outputs(layers=(r.standard_normal((4, 5)).astype("f"),)),
    (),
  ),
}


@pytest.mark.parametrize("kind", LABEL_TERMS)
def test_hidden_labels_change_no_bit_of_loss_or_gradient(kind):
  term, make, shape = LABEL_TERMS[kind]
  rng = np.random.default_rng(0)
  student, labels = make(rng), rng.integers(0, 5, (4, *shape))
  teacher = make(rng)
  labelled = np.array([True, False, True, False])

  def share(student, labels):
    batch = Batch(np.zeros(4), labels, None, labelled)
    return objectives.objective((term,), student, teacher, batch, jnp.float32(0))[0]

  run = jax.jit(jax.vmap(jax.value_and_grad(share), None, axis_name=parallel.AXIS, axis_size=1))
  poisoned = labels.copy()
  poisoned[~labelled] = (poisoned[~labelled] + 2) % 5
  expected, found = run(student, labels), run(student, poisoned)
  assert_same_bits(found, expected)
  # Others where labels are read, one for all: which of them are equal matters to a loss that compares examples.
  poisoned[labelled] = (poisoned[labelled][:1] + 2) % 5
  assert run(student, poisoned)[0] != expected[0]


# Training.


def poisoned(data):
  """The same data set with other labels where there are none, behind the constructor's back."""
  data = dataclasses.replace(data)

  def other(array):
    array = array.copy()
    array[~data.labelled] = 1
    return array

  object.__setattr__(data, "labels", jax.tree.map(other, data.labels))
  return data


def hidden_task(task):
  train = task.train
  return training.changed(
    task, train=dataclasses.replace(train, labelled=np.arange(len(train)) % 3 > 0), seeds=(3,)
  )


def images_of_kd():
  (phase,) = recipes.kd(TARGET, Budget(1, OPTIMIZER)).phases
  return hidden_task(TASK), phase, cached_teacher(training.teacher_outputs())


def sentences_of_structural_kd():
  task = hidden_task(sentences.task("MaxEnt"))
  (phase,) = recipes.structural_kd(recipes.Structures(), Budget(1, OPTIMIZER)).phases
  return task, phase, sentences.cached("MaxEnt", task.train)


@pytest.mark.parametrize("method", [images_of_kd, sentences_of_structural_kd])
def test_hidden_labels_change_no_bit_of_a_trained_student(method):
  task, phase, teacher = method()
  report = training.train(task, phase, teacher)[-1]
  again = training.train(training.changed(task, train=poisoned(task.train)), phase, teacher)[-1]
  assert_same_bits(again.state, report.state)
  assert again.record == report.record
  assert all(np.isfinite(report.record.train_loss))
  assert report.state.train.step.tolist() == [task.steps_per_epoch]


def test_a_validation_split_needs_labels():
  validation = dataclasses.replace(TASK.validation, labelled=np.arange(10) > 0)
  task = training.changed(TASK, validation=validation)
  with pytest.raises(ValueError, match="validation split must have a label for every example"):
    training.train(task, Phase("train", (LABELS,), 1, OPTIMIZER))


# Epochs.


def buckets_of(*labelled):
  return tuple(
    Bucket(np.arange(len(mask)), 4 * number, None, None, None, np.array(mask))
    for number, mask in enumerate(labelled, 1)
  )


def seen(plan, seed):
  return [
    (stretch.bucket, int(row))
    for stretch in plan
    for step, rows in enumerate(stretch.rows[:, seed])
    for row in (rows if stretch.mask is None else rows[stretch.mask[step] > 0])
  ]


@contract.sampled
@hypothesis.given(
  labelled=st.lists(st.lists(st.booleans(), min_size=1, max_size=20), min_size=1, max_size=4),
  batch_size=st.integers(1, 12),
  epoch=st.integers(0, 500),
)
def test_an_epoch_goes_through_the_labelled_sentences_again_and_again(labelled, batch_size, epoch):
  hypothesis.assume(any(map(any, labelled)))
  buckets, seeds = buckets_of(*labelled), (3, 8)
  plan = batches.plan_epoch(buckets, seeds, epoch, batch_size, labelled_only=True)
  everything = batches.plan_epoch(buckets, seeds, epoch, batch_size)
  assert len(plan) == len(everything) == batches.steps_per_epoch(buckets, batch_size)
  having = {(b, row) for b, mask in enumerate(labelled) for row in np.flatnonzero(mask)}
  for index, seed in enumerate(seeds):
    counts = dict.fromkeys(having, 0)
    for example in seen(plan, index):
      counts[example] += 1  # KeyError: it has no label
    assert max(counts.values()) - min(counts.values()) <= 1
    assert min(counts.values()) >= 1
    alone = batches.plan_epoch(buckets, (seed,), epoch, batch_size, labelled_only=True)
    if index == 0:  # of several seeds, the order of the buckets may be the first one's
      assert seen(alone, 0) == seen(plan, 0)
  again = batches.plan_epoch(buckets, seeds, epoch, batch_size, labelled_only=True)
  assert all(np.array_equal(a.rows, b.rows) for a, b in zip(plan, again, strict=True))
  assert 0 < batches.share_of_examples(plan) <= 1


def test_images_with_labels_come_in_whole_batches_in_new_orders():
  data = dataclasses.replace(training.dataset(50), labelled=np.arange(50) < 11)
  (plan,) = batches.plan_epoch(data.buckets, (3, 5), 1, 4, labelled_only=True)
  assert (plan.rows.shape, plan.rows.dtype, plan.mask) == ((12, 2, 4), np.int32, None)
  assert plan.rows.max() < 11
  assert all(len(set(rows)) == 4 for step in plan.rows for rows in step)
  # A pass is two batches: six passes, in orders of their own.
  passes = {tuple(plan.rows[i : i + 2, seed].ravel()) for i in range(0, 12, 2) for seed in (0, 1)}
  assert len(passes) == 12
  other = batches.plan_epoch(data.buckets, (3, 5), 2, 4, labelled_only=True)[0]
  assert not np.array_equal(other.rows, plan.rows)
  with pytest.raises(ValueError, match="11 labelled training examples do not fill one batch of 12"):
    batches.plan_epoch(data.buckets, (3,), 1, 12, labelled_only=True)


def test_nothing_changes_where_every_example_has_a_label():
  for data in (TASK.train, sentences.dataset(), texts.dataset()):
    plans = [
      batches.plan_epoch(data.buckets, (3, 5), 4, 8, labelled_only=only) for only in (True, False)
    ]
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(*plans, strict=True))
