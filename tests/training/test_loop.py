"""The loop over epochs: what decides its result, and what must not."""

import contextlib
import dataclasses
from typing import ClassVar
from unittest import mock

import chex
import jax
import numpy as np
import pytest

import kd_jax
from experiments.pipeline import phases as run_phases, runs
from kd_jax import _programs as programs, parallel, recipes
from kd_jax.data import Dataset, augment_batch
from kd_jax.models.mlp import MLP
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import Budget, Phase, Term, registry
from kd_jax.teachers.sources import cached_teacher, live_teacher
from kd_jax.training import (
  EpochRecord,
  EpochReport,
  NonFiniteError,
  Task,
  batches,
  evaluator,
  step as steps,
)
from kd_jax.training.evaluator import make_evaluator
from kd_jax.training.loop import schedule_values, train_phase, train_recipe
from kd_jax.training.state import start_phase, track_best
from kd_jax.types import Outputs
from tests import oracles, training
from tests.training import CLASSES, OPTIMIZER, TASK, assert_close, assert_same_bits, changed, train

TARGET = recipes.Classes(CLASSES)
RECIPE = recipes.annealing_kd(TARGET, Budget(6, OPTIMIZER), max_temperature=3)
ANNEAL, FINETUNE = RECIPE.phases
LABELS = dataclasses.replace(TARGET.label_term(), name="labels")


def phase(*terms, epochs=1, optimizer=OPTIMIZER):
  return Phase("probe", terms, epochs, optimizer)


@pytest.fixture(scope="module")
def teacher():
  return cached_teacher(training.teacher_outputs())


@pytest.fixture(scope="module")
def whole(teacher):
  """The reports of a phase, with a copy of each state made when it was handed out."""
  return [
    (report, jax.tree.map(np.array, report.state))
    for report in train_phase(TASK, ANNEAL, training.fresh(TASK, ANNEAL), teacher, label="method")
  ]


def test_reports_and_records(whole):
  assert [report.epoch for report, _ in whole] == [1, 2, 3]
  for report, _ in whole:
    record = report.record
    assert record.epoch == report.epoch
    assert record.schedules == {"temperature": 4.0 - report.epoch}
    assert record.learning_rate == pytest.approx(0.1)
    assert report.state.train.step.tolist() == [3 * report.epoch] * 2
    assert record.metric == "accuracy"
    values = (record.train_loss, record.train_metrics["accuracy"], record.gradient_norm)
    for of_seeds in (*values, record.validation):
      assert len(of_seeds) == 2
      assert all(type(value) is float for value in of_seeds)
    terms = np.array(record.terms["annealed_regression"])
    np.testing.assert_allclose(record.train_loss, terms / CLASSES, rtol=1e-6)
  assert not np.allclose(*whole[-1][0].record.train_loss)


def test_the_best_epoch_by_validation_accuracy_and_the_later_of_equals(whole):
  accuracies = np.array([report.record.validation for report, _ in whole])
  for seed in range(2):
    best = max(range(3), key=lambda e: (accuracies[e, seed], e))
    state = whole[-1][0].state
    assert state.best_epoch[seed] == best + 1
    assert state.best_score[seed] == accuracies[best, seed]
    expected = whole[best][0].state.train.variables
    assert_same_bits(*(training.one_seed(tree, seed) for tree in (state.best, expected)))


def test_a_report_keeps_its_state_while_training_goes_on(whole):
  """Buffers are donated from epoch to epoch; what was handed out must not be among them."""
  for report, copied in whole:
    assert_same_bits(report.state, copied)
  first, last = (whole[index][1].train.variables["params"]["linear"]["bias"] for index in (0, -1))
  assert np.all(first != last)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
    ({"batch_size": 2.5}, "`batch_size` must be a whole number of at least 1, got 2.5"),
    ({"views": 0}, "`views` must be a whole number"),
    ({"seeds": ()}, "`seeds` must be at least one number"),
    ({"seeds": (1, 0, 1)}, "`seeds` must be different: seed 1 occurs twice"),
    ({"seeds": (-1,)}, "`seeds` must be whole numbers from 0 to 2\\*\\*32 - 1, got -1"),
    ({"seeds": (2**32,)}, "`seeds` must be whole numbers"),
    ({"seeds": (0.5,)}, "`seeds` must be whole numbers"),
  ],
)
def test_tasks_that_cannot_be_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    changed(TASK, **changes)
  assert changed(TASK, seeds=[np.int64(3), 2**32 - 1]).seeds == (3, 2**32 - 1)


@pytest.mark.parametrize("after", [1, 2])
def test_resumption_ends_with_the_same_bits(whole, teacher, after):
  state = whole[after - 1][1]
  rest = train(TASK, ANNEAL, teacher, state=state)
  assert [report.epoch for report in rest] == list(range(after + 1, 4))
  for report, (expected, _) in zip(rest, whole[after:], strict=True):
    assert_same_bits(report.state, expected.state)
    assert report.record == expected.record


def test_a_finished_phase_does_nothing_more(whole, teacher):
  assert train(TASK, ANNEAL, teacher, state=whole[-1][1]) == []


def test_cached_and_live_teachers_train_alike(whole):
  """With augmentation on: the cache's rows belong to the very pixels that the student sees."""
  model, variables = training.teacher_network()
  before = jax.tree.map(np.array, variables)
  live = train(TASK, ANNEAL, live_teacher(model, variables))
  assert_close(live[-1].state.train, whole[-1][0].state.train, 1e-5)
  # And the teacher stays as it was.
  assert_same_bits(variables, before)


def test_one_dispatch_an_epoch_equals_a_dispatch_a_step(whole, teacher):
  steps = train(changed(one_dispatch=False), ANNEAL, teacher)
  for report, (expected, _) in zip(steps, whole, strict=True):
    assert_close(report.state.train, expected.state.train)
    assert_close(report.record.terms, expected.record.terms)


def test_seeds_together_equal_each_alone(whole, teacher):
  """To 1e-6: a batched product may sum in another order."""
  alone = train(changed(seeds=TASK.seeds[1:]), ANNEAL, teacher)[-1].state.train
  together = jax.tree.map(lambda x: x[1:], whole[-1][0].state.train)
  assert_close(alone, together)


def test_validation_decides_nothing_but_the_best(whole, teacher):
  other = changed(validation=training.dataset(13, "validation", seed=8))
  reports = train(other, ANNEAL, teacher)
  for report, (expected, _) in zip(reports, whole, strict=True):
    assert_same_bits(report.state.train, expected.state.train)
  found = [report.record.validation for report in reports]
  assert found != [report.record.validation for report, _ in whole]


def test_a_phase_of_labels_alone_needs_no_teacher_and_ignores_one(whole, teacher):
  state = start_phase(whole[-1][1].best, OPTIMIZER.build(9))
  without = train(TASK, FINETUNE, state=state, epochs_before=3)[-1].state
  for unused in (teacher, live_teacher(*training.teacher_network())):
    assert_same_bits(train(TASK, FINETUNE, unused, state=state, epochs_before=3)[-1].state, without)


def first_logit(logits):
  return logits[:, 0]


def pixel_squares(inputs):
  return (inputs.astype(np.float32) ** 2).reshape(inputs.shape[0], -1).mean(axis=1)


def test_each_seed_sees_a_view_an_epoch_and_the_teacher_s_row_of_it():
  """Pixels and teacher rows, read by terms of weight 0."""
  task = changed(views=3)
  logits = np.zeros((24, 3, CLASSES), np.float32)
  logits[:, :, 0] = np.arange(24)[:, None] + 100 * np.arange(3)
  row = Term("row", first_logit, ("teacher.logits",), weight=0.0)
  pixels = Term("pixels", pixel_squares, ("batch.inputs",), weight=0.0)
  probe = phase(LABELS, row, pixels, epochs=5)
  reports = train(task, probe, cached_teacher(Outputs(logits)))
  squares = [
    np.mean(
      np.asarray(
        augment_batch(TASK.augmentation, TASK.train.images, TASK.train.keys, v), np.float64
      )
      ** 2
    )
    for v in range(3)
  ]
  assert len(set(np.round(squares))) == 3
  for epoch, report in enumerate(reports):
    # Of seeds 3 and 5: the stride of three views is 2.
    views = [(epoch + 2 * seed) % 3 for seed in task.seeds]
    assert views[0] != views[1]
    # All 24 rows come once in an epoch, so means over it are known.
    found = report.record.terms
    np.testing.assert_allclose(found["row"], [11.5 + 100 * view for view in views], rtol=1e-6)
    np.testing.assert_allclose(found["pixels"], [squares[view] for view in views], rtol=1e-5)


def test_the_order_of_examples_goes_on_from_phase_to_phase(monkeypatch):
  asked = []
  original = batches.plan_epoch

  def spy(buckets, seeds, epoch, batch_size, **options):
    asked.append((seeds, epoch, batch_size))
    return original(buckets, seeds, epoch, batch_size, **options)

  monkeypatch.setattr(batches, "plan_epoch", spy)
  train(TASK, phase(LABELS, epochs=2), epochs_before=4)
  assert asked == [((3, 5), 4, 8), ((3, 5), 5, 8)]


def absolute_distance(student_logits, teacher_logits, *, sharpness):
  return sharpness * abs(student_logits - teacher_logits).sum(axis=-1)


def test_a_new_method_is_one_function(monkeypatch):
  """A loss, and a recipe that is registered: no other code knows of it."""
  monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

  @recipes.register("images")
  def own_method(target, budget, *, push: float = 2.0):
    term = Term(
      "distance",
      absolute_distance,
      ("student.logits", "teacher.logits"),
      {"sharpness": lambda epoch: 1.0 + epoch},
      weight=lambda epoch: push * (1 - epoch / budget.epochs),
    )
    only = Phase("pull", (term,), budget.epochs, budget.optimizer)
    return recipes.Recipe("own_method", "own", "|z_s - z_t|", "", (only,))

  assert list(recipes.methods_for("images"))[-1] == "own_method"
  recipe = recipes.make_recipe("own_method", TARGET, Budget(2, OPTIMIZER), {"push": 0.5})
  assert recipes.describe(recipe)["phases"][0]["terms"][0]["weight"] == [0.5, 0.375, 0.25, 0.125, 0]
  live = live_teacher(*training.teacher_network())
  reports = train(TASK, recipe.phases[0], live, label="own_method")
  for epoch, report in enumerate(reports):
    expected = {"distance_weight": 0.5 - 0.25 * epoch, "sharpness": 1.0 + epoch}
    assert report.record.schedules == expected
  first, last = (np.array(report.record.terms["distance"]) for report in reports)
  # Per unit of sharpness, which rises from 1 to 2 epoch by epoch, students come closer.
  assert np.all(last / 2.3 < first / 1.3)


def test_scheduled_values_of_an_epoch():
  (only,) = recipes.continuation_kd(
    recipes.Classes(4), Budget(8, OPTIMIZER), max_temperature=3
  ).phases
  assert schedule_values(only, 3) == {
    "cross_entropy_weight": 0.5,
    "annealed_regression_weight": 0.125,
    "temperature": 2.0,
  }
  assert schedule_values(FINETUNE, 0) == {}


# What stops a run.


def test_a_loss_that_is_not_finite_stops_with_everything_named():
  poisoned = phase(
    dataclasses.replace(LABELS, weight=lambda epoch: np.nan * (epoch > 1.5) + 1),
    epochs=3,
  )
  state = training.fresh(TASK, poisoned)
  reports = train_phase(TASK, poisoned, state, label="my_method")
  next(reports)
  message = (
    "my_method, phase probe, epoch 2, steps 4-6: loss nan .* at step 6 of seed 3; "
    "the checkpoint of epoch 1 is good"
  )
  with pytest.raises(NonFiniteError, match=message):
    next(reports)


def test_the_seed_that_diverged_is_named():
  only = phase(LABELS)
  state = training.fresh(TASK, only)
  state.train.variables["params"]["linear"]["bias"] = np.array(
    [[0, 0, 0], [np.inf, 0, 0]], np.float32
  )
  with pytest.raises(NonFiniteError, match=r"training, phase probe, epoch 1, .* step 1 of seed 5;"):
    train(TASK, only, state=state)


def test_weights_that_are_not_finite_after_the_last_update_stop_too():
  task = changed(batch_size=24)
  explosive = Optimizer(learning_rate=3e38, decay="constant", weight_decay=1e3)
  with pytest.raises(NonFiniteError, match="phase probe, epoch 1, steps 1-1: a weight"):
    train(task, phase(LABELS, optimizer=explosive))


def test_a_missing_teacher_is_refused():
  with pytest.raises(ValueError, match="'anneal' of 'annealing_kd' needs a teacher"):
    train(TASK, ANNEAL, label="annealing_kd")


@pytest.mark.parametrize("decay", ["step", "cosine"])
def test_impossible_batches_are_refused(decay):
  only = phase(LABELS, optimizer=Optimizer(decay=decay))
  with pytest.raises(
    ValueError, match=r"batch of 12 does not divide over 8 devices: 8 or 16 would"
  ):
    train(changed(batch_size=12), only)
  with pytest.raises(ValueError, match="24 training examples do not fill one batch of 32"):
    train(changed(batch_size=32), only)


# Evaluation.


@pytest.mark.parametrize("batch_size", [8, 16])
def test_evaluation_equals_numpy_whatever_the_batch(batch_size):
  """13 examples leave a last batch with padding; two seeds."""
  dataset = training.dataset(13, "test", seed=4)
  variables = training.fresh(TASK, FINETUNE).train.variables
  teacher_logits = np.random.default_rng(5).standard_normal((13, CLASSES)).astype(np.float32)
  evaluate = make_evaluator(
    TASK.model, dataset, batch_size, one_dispatch=batch_size == 8, teacher=[teacher_logits]
  )
  found = evaluate(parallel.replicate(variables))
  for seed in range(2):
    params = training.one_seed(variables["params"], seed)
    x = dataset.images.reshape(13, -1) / 255 - 0.5
    hidden = np.maximum(x @ params["hidden1"]["kernel"] + params["hidden1"]["bias"], 0)
    logits = hidden @ params["linear"]["kernel"] + params["linear"]["bias"]
    guesses = np.argmax(logits, axis=1)
    assert found["accuracy"][seed] == pytest.approx(np.mean(guesses == dataset.labels))
    agreement = np.mean(guesses == np.argmax(teacher_logits, axis=1))
    assert found["agreement"][seed] == pytest.approx(agreement)
    divergence = np.mean(oracles.forward_kl(logits, teacher_logits))
    np.testing.assert_allclose(found["kl_to_teacher"][seed], divergence, rtol=1e-4)
  assert set(found) == {"accuracy", "agreement", "kl_to_teacher", "ece"}


# Phases in turn: the files of a run decide where a phase starts.


def scripted_record(epoch, accuracy):
  return EpochRecord(epoch, (0.0, 0.0), {}, {}, (0.0, 0.0), "accuracy", accuracy, {}, 0.1)


def test_a_phase_starts_from_fresh_best_or_last_weights(tmp_path, monkeypatch):
  """Scripted accuracies instead of training; the weights of epoch e are e plus 10 per phase."""
  script = {
    "one": [[0.5, 0.1], [0.2, 0.1], [0.4, 0.0]],
    "from_best": [[0.3, 0.3], [0.1, 0.3]],
    "from_last": [[0.3, 0.3], [0.1, 0.3]],
    "anew": [[0.3, 0.3], [0.1, 0.3]],
  }
  started = {}

  def scripted(task, phase, state, teacher, *, label, epochs_before):
    started[phase.name] = (state, epochs_before)
    for epoch, accuracy in enumerate(script[phase.name], start=1):
      weight = np.float32(10 * len(started) + epoch)
      variables = jax.tree.map(lambda x, w=weight: np.full_like(x, w), state.train.variables)
      train = state.train._replace(step=state.train.step + 3, variables=variables)
      state = track_best(state, train, np.array(accuracy), epoch)
      yield EpochReport(scripted_record(epoch, tuple(accuracy)), state)

  monkeypatch.setattr(run_phases, "train_phase", scripted)
  monkeypatch.setattr(
    run_phases, "RunLog", lambda folder, history: contextlib.nullcontext(mock.Mock())
  )
  starts = {"one": "fresh", "from_best": "best", "from_last": "last", "anew": "fresh"}
  recipe = recipes.Recipe(
    "scripted", "", "", "",
    tuple(
      Phase(name, (LABELS,), len(script[name]), OPTIMIZER, start) for name, start in starts.items()
    ),
  )  # fmt: skip
  run = runs.Run(tmp_path / "run", tmp_path, recipe, TASK, {}, ())
  results = runs.train(run, lambda: None, lambda epochs, detail: None)

  def weights(state):
    return state.train.variables["params"]["linear"]["bias"][:, 0].tolist()

  # Seed by seed: epoch 1 was the best of the first, epoch 2 the later of two equals of the second.
  assert weights(started["from_best"][0]) == [11, 12]
  assert weights(started["from_last"][0]) == [22, 22]
  fresh = training.fresh(TASK, recipe.phases[0]).train.variables
  for name in ("one", "anew"):
    assert_same_bits(started[name][0].train.variables, fresh)
  # Everything else begins anew in each phase; the order of examples goes on.
  for state, _ in started.values():
    assert state.train.step.tolist() == [0, 0]
    assert state.best_score.tolist() == [-1, -1]
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(state.train.opt_state))
  assert [before for _, before in started.values()] == [0, 3, 5, 7]
  assert [result.state.best_epoch.tolist() for result in results] == [[1, 2]] * 4


def test_a_recipe_of_one_s_own_arrays_in_memory():
  """All phases, each from where it says, as one finds them by hand."""
  rng = np.random.default_rng(0)
  labels = np.arange(48) % 3
  images = (80 * labels[:, None, None, None] + rng.integers(0, 40, (48, 4, 4, 1))).astype(np.uint8)
  task = Task(
    model=MLP(hidden=(8,), num_classes=3),
    train=Dataset.from_arrays(images[:32], labels[:32], num_classes=3),
    validation=Dataset.from_arrays(images[32:], labels[32:], num_classes=3, split="validation"),
    batch_size=16,
  )
  recipe = recipes.annealing_kd(TARGET, Budget(6, OPTIMIZER), max_temperature=3)
  logits = 5 * np.eye(3, dtype=np.float32)[labels[:32], None]  # [N, V, C]
  reports = list(train_recipe(task, recipe, cached_teacher(Outputs(logits=logits))))
  assert [phase.name for phase, _ in reports] == ["anneal"] * 3 + ["finetune"] * 3
  assert [report.epoch for _, report in reports] == [1, 2, 3, 1, 2, 3]
  start = start_phase(reports[2][1].state.best, recipe.phases[1].optimizer.build(6))
  by_hand = list(train_phase(task, recipe.phases[1], start, epochs_before=3))
  chex.assert_trees_all_equal(by_hand[-1].state, reports[-1][1].state)


def test_the_best_of_a_phase_can_be_taken_late(teacher):
  """Scripted scores: the first epoch has the best ones and does not count."""
  scores = iter([[0.9, 0.5], [0.2, 0.4], [0.2, 0.3]])
  task = changed()
  task.__dict__["evaluate"] = lambda variables: {"accuracy": np.array(next(scores))}
  reports = train(task, dataclasses.replace(ANNEAL, best_from=2), teacher)
  last = reports[-1].state
  assert last.best_epoch.tolist() == [3, 2]
  assert last.best_score.tolist() == [0.2, 0.4]
  for seed, epoch in enumerate(last.best_epoch):
    expected = reports[epoch - 1].state.train.variables
    assert_same_bits(*(training.one_seed(tree, seed) for tree in (last.best, expected)))


# What is traced, and what lies on the devices.


@dataclasses.dataclass
class Traced:
  """Counts how often jax traces a loss."""

  times: int = 0

  def __hash__(self):
    return id(self)

  def __call__(self, student, teacher, **options):
    self.times += 1
    return kd_jax.annealing_kd_loss(student, teacher, **options)


class CountingMLP(MLP):
  """Counts how often jax traces it: `traces` holds an entry for each time."""

  traces: ClassVar[list[bool]] = []

  def __call__(self, images, train=False):
    CountingMLP.traces.append(train)
    return super().__call__(images, train)


def test_a_phase_is_traced_once_whatever_the_seeds_and_the_epochs_before(teacher):
  loss = Traced()
  options = {"temperature": recipes.annealing_by_epoch(3, 3), "max_temperature": 3}
  anneal = Term("annealed", loss, ("student.logits", "teacher.logits"), options, 0.5)
  recipe = recipes.Recipe(
    "two", "", "", "",
    (Phase("one", (anneal,), 3, OPTIMIZER), Phase("two", (LABELS,), 2, OPTIMIZER, "best")),
  )  # fmt: skip
  network = CountingMLP(hidden=(8,), num_classes=CLASSES)
  CountingMLP.traces.clear()
  task = changed(model=network)
  first = list(train_recipe(task, recipe, teacher))
  assert loss.times == 1
  # Flax calls a module once a trace: to make its weights, to evaluate it, and to train it in each phase.
  assert sorted(CountingMLP.traces) == [False, False, True, True]
  outputs = training.teacher_outputs()
  other = changed(model=CountingMLP(hidden=(8,), num_classes=CLASSES), seeds=(1, 8))
  second = list(train_recipe(other, recipe, cached_teacher(outputs)))
  start = training.fresh(other, recipe.phases[1])
  list(train_phase(other, recipe.phases[1], start, epochs_before=11))
  assert loss.times == 1
  assert len(CountingMLP.traces) == 4
  assert not np.allclose(first[-1][1].record.train_loss, second[-1][1].record.train_loss)


def test_a_step_is_traced_once_a_phase_and_never_for_another_epoch_temperature_or_weight(
  teacher, monkeypatch
):
  """Temperatures fall, weights change, epochs and phases go on: none of them is a new program."""
  programs.forget()
  chex.clear_trace_counter()
  monkeypatch.setattr(steps, "train_step", chex.assert_max_traces(steps.train_step, n=1))
  monkeypatch.setattr(
    evaluator, "evaluation_step", chex.assert_max_traces(evaluator.evaluation_step, n=1)
  )
  fading = dataclasses.replace(LABELS, weight=lambda epoch: 1 / (1 + epoch))
  only = dataclasses.replace(ANNEAL, objective=(*ANNEAL.objective, fading))
  temperatures = [report.record.schedules["temperature"] for report in train(TASK, only, teacher)]
  assert temperatures == [3.0, 2.0, 1.0]
  train(changed(seeds=(1, 8)), only, teacher, epochs_before=7)
  # The guard does notice: another number of views is another program.
  with pytest.raises(AssertionError, match="train_step"):
    train(changed(views=1), only, cached_teacher(Outputs(teacher.outputs.logits[:, :1])))


def held_for(task, only, teacher):
  """Bytes that the devices get for a phase, on each of them."""
  given = []
  original = parallel.replicate

  def counted(tree):
    given.append(sum(np.asarray(x).nbytes for x in jax.tree.leaves(tree)))
    return original(tree)

  with mock.patch.object(parallel, "replicate", counted):
    # A new task: one that has been evaluated has its validation examples there already.
    next(train_phase(changed(task), only, training.fresh(task, only), teacher))
  return sum(given)


def test_cached_fields_that_no_term_reads_stay_off_the_devices(teacher):
  logits = training.teacher_outputs().logits
  layers = np.zeros((24, 2, 3, 500), np.float32)
  whole = cached_teacher(Outputs(logits=logits, layers=layers))
  alone = held_for(TASK, ANNEAL, cached_teacher(Outputs(logits=logits)))
  assert held_for(TASK, ANNEAL, whole) == alone
  reading = phase(Term("both", layer_mean, ("student.logits", "teacher.logits", "teacher.layers")))
  one = phase(Term("one", first_of_both, ("student.logits", "teacher.logits")))
  assert held_for(TASK, reading, whole) - held_for(TASK, one, whole) == layers.nbytes


def first_of_both(student_logits, teacher_logits):
  return student_logits[:, 0] - teacher_logits[:, 0]


def layer_mean(student_logits, teacher_logits, teacher_layers):
  return sum(layer.mean(axis=1) for layer in teacher_layers) + student_logits[:, 0]


@pytest.mark.parametrize(
  ("shape", "message"), [((20, 1, 3), "20 examples"), ((24, 3, 3), "3 views")]
)
def test_teacher_outputs_of_other_examples_or_views_are_refused(shape, message):
  outputs = Outputs(logits=np.zeros(shape, np.float32))
  with pytest.raises(ValueError, match=message):
    next(train_phase(TASK, ANNEAL, training.fresh(TASK, ANNEAL), cached_teacher(outputs)))
