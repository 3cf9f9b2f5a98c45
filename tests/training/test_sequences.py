"""Training on sentences of several lengths: buckets, batches that are filled up, dropout, teachers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score

from kd_jax import _programs as programs, parallel, recipes
from kd_jax._reading import DeviceData, StepBatch
from kd_jax.losses import sequences, structural
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import Budget, Phase, Term
from kd_jax.structured import argmax, layout, log_prob
from kd_jax.training import batches, loop
from kd_jax.training.evaluator import make_evaluator
from kd_jax.training.loop import train_recipe
from kd_jax.training.state import init_variables, one_seed, start_phase
from kd_jax.training.step import Program, step_of_seeds
from kd_jax.types import Outputs
from tests import training
from tests.training import assert_close, assert_same_bits, sentences, train

ADAM = Optimizer(name="adam", learning_rate=0.01, decay="linear", weight_decay=0.0, clip_norm=5.0)
DESCENT = Optimizer(learning_rate=1.0, momentum=0.0, decay="constant", weight_decay=0.0)
LABELS = recipes.Structures().label_term()


def phase(*terms, epochs=1, optimizer=ADAM):
  return Phase("probe", terms, epochs, optimizer)


def structural_phase(epochs):
  return recipes.structural_kd(recipes.Structures(), Budget(epochs, ADAM)).phases[0]


# Rows that fill a batch up.


def step_on(task, terms, rows, mask):
  """The state after one step of plain gradient descent on rows of the first bucket, and its results."""
  program = Program(task.model, terms, DESCENT, 1, 1, evaluation=task.evaluation)
  run = programs.kept(
    ("test", program),
    lambda: parallel.epoch_runner(
      functools.partial(step_of_seeds, program), one_dispatch=True, donate=False
    ),
  )
  variables = init_variables(task.model, task.example, task.seeds)
  bucket, seeds = task.train.buckets[0], np.asarray(task.seeds, np.uint32)
  data = DeviceData(bucket.inputs, bucket.labels, bucket.keys, None, seeds, np.int32(0))
  rows = np.stack([rows] * len(task.seeds))[None].astype(np.int32)  # [1, K, B]
  batch = StepBatch(
    parallel.shard(rows, axis=2), None if mask is None else parallel.shard(mask[None], axis=1)
  )
  state = parallel.replicate(start_phase(variables, DESCENT.build(1)).train)
  after, results = run(state, parallel.replicate(data), batch)
  return variables, parallel.fetch(after), parallel.collect(results)


def test_rows_that_fill_a_batch_up_add_nothing():
  """Loss and gradients, by the definition: an eighth of -log P(y | x) of each of the five sentences.

  An example weighs the same in a batch that is not full.
  """
  task = sentences.task("LinearChain")
  real = np.array([3, 0, 6, 2, 5])
  mask = np.float32([1, 1, 1, 1, 1, 0, 0, 0])
  found = []
  for fillers in ([3, 3, 3], [1, 7, 4]):
    before, after, results = step_on(task, (LABELS,), np.concatenate([real, fillers]), mask)
    found.append((after, results))
  # Whichever rows fill the batch up, not a bit changes.
  assert_same_bits(*found)

  bucket = task.train.buckets[0]
  inputs, labels = jax.tree.map(lambda x: x[real], (bucket.inputs, bucket.labels))

  @jax.jit
  @jax.value_and_grad
  def loss(variables):
    scores = task.model.apply(variables, inputs, train=False).scores
    return -jnp.sum(log_prob(scores, labels)) / 8

  for seed in range(2):
    value, gradient = loss(one_seed(before, seed))
    np.testing.assert_allclose(results.loss[0, seed], value, rtol=1e-5)
    np.testing.assert_allclose(results.terms["labels"][0, seed], value, rtol=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(results.gradient_norm[0, seed], norm, rtol=1e-5)
    expected = jax.tree.map(lambda x, g: x - g, one_seed(before, seed), gradient)
    assert_close(one_seed(after.variables, seed), expected, 1e-5)


def test_a_real_row_does_change_the_step():
  """What the test above would miss if the rows were not read at all."""
  task = sentences.task("LinearChain")
  mask = np.float32([1, 1, 1, 1, 1, 0, 0, 0])
  one, other = (
    step_on(task, (LABELS,), np.array([row, 0, 6, 2, 5, 1, 1, 1]), mask)[2].loss for row in (3, 4)
  )
  assert np.all(np.abs(one - other) > 1e-3)


# Dropout.


class Noise(nn.Module):
  """A weight for each word and entry, dropped in training: descent leaves the very noise in the weights."""

  width: int = 64

  @nn.compact
  def __call__(self, tokens, train=False):
    weights = self.param("w", nn.initializers.zeros_init(), (sentences.WORDS, self.width))
    values = nn.Dropout(0.5, deterministic=not train)(weights[tokens.words[:, 0]] + 1.0)
    return Outputs(scores=values)


def noise_of(seeds, epochs_before=0, epochs=2):
  """Which entries are kept: [epochs, K, device, width] bool, of the only step of each epoch."""
  data = sentences.dataset((1,) * 8, buckets=(4,))
  data.inputs.words[:, 0] = np.arange(8)  # each sentence has a weight of its own
  keep = Term("keep", lambda scores: scores.sum(axis=-1), ("student.scores",))
  task = sentences.task("MaxEnt", model=Noise(), train=data, evaluation=NOTHING)
  object.__setattr__(task, "seeds", tuple(seeds))  # equal ones too, which a task refuses
  only = phase(keep, epochs=epochs, optimizer=DESCENT)
  reports = train(task, only, epochs_before=epochs_before)
  before, found = np.zeros((len(seeds), sentences.WORDS, 64)), []
  for epoch, report in enumerate(reports):
    after = report.state.train.variables["params"]["w"]
    # d loss / d w of a kept entry is 2 / 8, of a dropped one 0.
    change = np.round((before - after) * 4)
    assert set(np.unique(change[:, :8])) == {0, 1}
    (stretch,) = batches.plan_epoch(data.buckets, seeds, epochs_before + epoch, 8)
    found.append(np.stack([change[k, rows] for k, rows in enumerate(stretch.rows[0])]) > 0)
    before = after
  return np.stack(found)


NOTHING = sentences.TAGGING._replace(
  metrics=lambda outputs, labels, mask, teacher: {
    # Without dropout the values are the weights and 1; the best epoch is any.
    "f1": (jnp.mean(outputs.scores), jnp.float32(1))
  }
)


def test_dropout_is_a_function_of_seed_step_and_device():
  together = noise_of((3, 5, 3))
  assert together.shape == (2, 3, 8, 64)
  assert 0.4 < together.mean() < 0.6
  # Every step, seed and device has noise of its own.
  apart = together[:, :2].reshape(-1, 64)
  for one in range(len(apart)):
    for other in range(one):
      assert not np.array_equal(apart[one], apart[other]), (one, other)
  # Equal seeds have equal noise, whatever stands beside them; the same again in another run.
  np.testing.assert_array_equal(together[:, 0], together[:, 2])
  np.testing.assert_array_equal(noise_of((5,))[:, 0], together[:, 1])
  # A later phase, whose steps are counted from 0 again, has other noise.
  later = noise_of((3, 5, 3), epochs_before=2)
  assert np.mean(later == together) < 0.6


def test_evaluation_has_no_dropout():
  task = sentences.task("LinearChain", model=sentences.model("LinearChain", 0.5))
  variables = init_variables(task.model, task.example, task.seeds)
  evaluate = make_evaluator(
    task.model, task.validation, 8, one_dispatch=True, evaluation=sentences.TAGGING
  )
  plain = make_evaluator(
    sentences.model("LinearChain"), task.validation, 8, one_dispatch=True,
    evaluation=sentences.TAGGING,
  )  # fmt: skip
  held = parallel.replicate(variables)
  first = evaluate(held)
  assert_same_bits(evaluate(held), first)
  assert_same_bits(plain(held), first)


# A whole phase: buckets, a cached teacher, dropout.


@pytest.fixture(scope="module")
def task():
  model = sentences.model("LinearChain", 0.3)
  task = sentences.task("LinearChain", model=model, seeds=(3, 5, 4))
  # A task refuses equal seeds; here they show what is independent.
  object.__setattr__(task, "seeds", (3, 5, 3))
  return task


@pytest.fixture(scope="module")
def teacher(task):
  return sentences.cached("LinearChain", task.train)


@pytest.fixture(scope="module")
def whole(task, teacher):
  return train(task, structural_phase(3), teacher)


def test_reports_of_sentences(task, whole):
  assert [report.epoch for report in whole] == [1, 2, 3]
  assert task.steps_per_epoch == 2
  assert task.examples_per_epoch == len(task.train) == 13
  for report in whole:
    assert report.state.train.step.tolist() == [2 * report.epoch] * 3
    record = report.record
    assert record.metric == "f1"
    assert set(record.terms) == {"structural_kd", "labels"}
    assert record.train_metrics == {}
    schedules = record.schedules
    expected = 1 - (report.epoch - 1) / 3
    assert schedules["structural_kd_weight"] == pytest.approx(expected, abs=1e-6)
    assert schedules["labels_weight"] == pytest.approx(1 - expected, abs=1e-6)


def test_equal_seeds_are_equal_students(task, teacher, whole):
  state = whole[-1].state
  assert_same_bits(*(one_seed(state, k) for k in (0, 2)))
  assert not np.allclose(*(one_seed(state.best, k)["params"]["linear"]["kernel"] for k in (0, 1)))
  # The first of them is what it is alone; to rounding, as a batched product may sum in another order.
  alone = train(training.changed(task, seeds=(3,)), structural_phase(3), teacher)[-1].state
  assert_close(one_seed(alone.train.variables, 0), one_seed(state.train.variables, 0), 1e-5)


@pytest.mark.parametrize("after", [1, 2])
def test_stopped_and_resumed_it_ends_with_the_same_bits(task, teacher, whole, after):
  rest = train(task, structural_phase(3), teacher, state=whole[after - 1].state)
  assert [report.epoch for report in rest] == list(range(after + 1, 4))
  for report, expected in zip(rest, whole[after:], strict=True):
    assert_same_bits(report.state, expected.state)
    assert report.record == expected.record


def test_every_sentence_is_trained_on_once_an_epoch(task):
  """By what the step sees: a term of weight 0 that tells sentences apart."""
  words = task.train.inputs.words

  def content(inputs):
    return jnp.sum(inputs.words**2, axis=-1).astype(jnp.float32)

  only = phase(LABELS, Term("content", content, ("batch.inputs",), weight=0.0), epochs=1)
  one = training.changed(task, seeds=(3,), model=sentences.model("LinearChain"))
  (report,) = train(one, only)
  # Two steps, of the eight short sentences and of the five longer ones: the mean is that over all thirteen.
  assert [len(bucket.rows) for bucket in task.train.buckets] == [8, 5]
  mean = np.mean(np.sum(words**2, axis=1))
  np.testing.assert_allclose(report.record.terms["content"], [mean], rtol=1e-5)


# Teachers.


@pytest.mark.parametrize("head", sentences.STUDENTS)
def test_a_cached_teacher_says_what_the_live_one_says(head):
  """Of every structure: its scores at the tokens of the same sentences, and what losses make of them."""
  data = sentences.dataset(trees=sentences.is_parser(head))
  live, cached = (make(head, data) for make in (sentences.live, sentences.cached))
  student = sentences.network(sentences.STUDENTS[head], data, seed=8)

  @jax.jit
  def run(held, kept, inputs, rows):
    said = [
      held.outputs(rows, inputs, 0).scores,
      kept.outputs(rows, inputs, 0).scores,
    ]
    own = student[0].apply(student[1], inputs, train=False).scores
    distances = (sequences.token_kd_loss, structural.structural_kd_loss)
    return said, [[loss(own, one) for loss in distances] for one in said]

  for index, bucket in enumerate(data.buckets):
    rows = np.random.default_rng(0).permutation(len(bucket.rows))[:5]
    inputs = jax.tree.map(lambda x, rows=rows: x[rows], bucket.inputs)
    said, (by_live, by_cached) = run(live, cached[index], inputs, rows)
    lengths = data.lengths[bucket.rows[rows]]
    expected, found = (layout.pack(jax.device_get(scores), lengths) for scores in said)
    assert_close(found.values, expected.values, 1e-5)
    assert_close(found.shared, expected.shared, 1e-5)
    assert_close(by_cached, by_live, 1e-4)
    assert all(np.all(np.isfinite(values)) and np.any(values != 0) for values in by_cached)


def test_cached_and_live_teachers_train_alike():
  """A parser of second order: scores of arcs, of relations, and marginals after mean field."""
  task = sentences.task("ParsingTags", seeds=(3,))
  only = structural_phase(2)
  cached = train(task, only, sentences.cached("refined", task.train))
  live = train(task, only, sentences.live("refined", task.train))
  for one, other in zip(cached, live, strict=True):
    assert_close(one.state.train.variables, other.state.train.variables, 1e-4)
    assert_close(one.record.terms, other.record.terms, 1e-4)
  assert cached[0].record.metric == "las"


def test_a_live_teacher_lies_on_the_devices_once_for_all_buckets():
  task = sentences.task("LinearChain")
  held = loop._on_devices(task, structural_phase(1), sentences.live("LinearChain", task.train), 0)
  assert len(held) == 2
  first, second = (jax.tree.leaves((data.teacher, data.seeds)) for data in held)
  assert len(first) > 1
  assert all(one is other for one, other in zip(first, second, strict=True))


def test_a_teacher_of_other_sentences_is_refused(task, teacher):
  only, state = structural_phase(3), training.fresh(task, structural_phase(3))
  of_one = teacher[:1]
  with pytest.raises(ValueError, match="1 buckets, the task has 2"):
    train(task, only, of_one, state=state)
  swapped = teacher[::-1]
  with pytest.raises(ValueError, match=r"(?=.*\(5, 8\)).*\(8, 4\)"):
    train(task, only, swapped, state=state)


def test_a_recipe_for_sentences_in_memory():
  task = sentences.task("MaxEnt", seeds=(3,))
  recipe = recipes.scratch(recipes.Structures(), Budget(6, ADAM))
  reports = [report for _, report in train_recipe(task, recipe)]
  assert [report.epoch for report in reports] == [1, 2, 3, 4, 5, 6]
  assert reports[-1].record.train_loss < reports[0].record.train_loss


# Evaluation.


def test_evaluation_over_buckets_equals_counts_by_loops():
  """Batches that are filled up, in two buckets; a teacher to agree with; two seeds."""
  task = sentences.task("LinearChain")
  data = sentences.dataset((3, 8, 2, 6, 1, 4, 4, 1, 2, 3, 4), split="test", seed=5)
  model, teacher = sentences.network("LinearChain", data)
  tags_of = jax.jit(lambda variables, inputs: argmax(model.apply(variables, inputs).scores))
  said = [np.asarray(tags_of(teacher, bucket.inputs)) for bucket in data.buckets]
  evaluate = make_evaluator(
    model, data, 8, one_dispatch=True, evaluation=sentences.TAGGING, teacher=said
  )
  variables = init_variables(task.model, task.example, task.seeds)
  found = evaluate(parallel.replicate(variables))
  assert set(found) == {"f1", "precision", "recall", "token_accuracy", "agreement"}
  for seed in range(2):
    tokens = correct = agreeing = 0
    named = {"predicted": [], "gold": []}
    for bucket, teacher_tags in zip(data.buckets, said, strict=True):
      tags = np.asarray(tags_of(one_seed(variables, seed), bucket.inputs))
      for row, length in enumerate(data.lengths[bucket.rows]):
        own, true = tags[row, :length], bucket.labels[row, :length]
        tokens += length
        correct += np.sum(own == true)
        agreeing += np.sum(own == teacher_tags[row, :length])
        named["predicted"].append([NAMES[tag] for tag in own])
        named["gold"].append([NAMES[tag] for tag in true])
    assert found["token_accuracy"][seed] == pytest.approx(correct / tokens)
    assert found["agreement"][seed] == pytest.approx(agreeing / tokens)
    for name, score in {
      "f1": f1_score,
      "precision": precision_score,
      "recall": recall_score,
    }.items():
      assert found[name][seed] == pytest.approx(score(named["gold"], named["predicted"]))
  assert np.all(found["f1"] > 0)


NAMES = ("O", "S-X", "B-X", "I-X", "E-X")
