"""Every configuration builds and takes its steps in a shrunk form; the command line follows the types."""

import dataclasses
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from experiments.command_line import options
from experiments.domains.image_study import ImageStudy, MethodSettings
from experiments.domains.registry import domain_of
from experiments.domains.sequences import fitting
from experiments.domains.study import plain
from experiments.domains.text_study import TextStudy
from experiments.pipeline import runs
from experiments.pipeline.evaluation import evaluate, published
from experiments.pipeline.folder import open_folder
from experiments.pipeline.students import Students
from experiments.pipeline.teachers import Teachers
from kd_jax import recipes
from kd_jax.data import glue
from tests import commands
from tests.fake_tfds import write_fake

TEN = recipes.Classes(10)
CONFIGS = options.configs()
IMAGES = [name for name, study in CONFIGS.items() if isinstance(study, ImageStudy)]
TEXTS = [name for name, study in CONFIGS.items() if isinstance(study, TextStudy)]
CASES = {"conll_ner": ("1a", "2a", "3", "4"), "ud_parsing": ("1b", "2b")}


def test_every_config_is_of_images_or_of_texts_or_has_cases():
  assert sorted([*IMAGES, *TEXTS, *CASES]) == sorted(CONFIGS)
  assert sorted(TEXTS) == ["glue", "glue_bert4", "glue_distilroberta", "texts"]


@pytest.mark.parametrize("task", glue.TASKS)
def test_a_config_serves_all_tasks_of_glue_each_in_a_folder_of_its_own(task):
  study, where, _ = options.parse("study", ["glue", "--task", task])
  assert study == TextStudy(name="glue", task=task)
  assert where.workdir == Path("runs") / f"glue_{task}"
  # By the names of before, which were configs of their own.
  if f"glue_{task}" not in CONFIGS:
    with pytest.raises(
      ValueError, match=f"unknown config 'glue_{task}': it is `glue --task {task}`"
    ):
      options.parse("study", [f"glue_{task}"])


def assert_half_is_unlabelled(found, folder, taught):
  """Results and lineage count the labels, and the teacher was trained on the labelled half alone."""
  size = found["train"]
  assert found["labelled"] == found["unlabelled"] == size // 2
  manifest = json.loads((folder / "cache" / "manifest.json").read_text())
  (data,) = (p for p in manifest["teacher_lineage"]["parents"] if p["kind"] == "data")
  assert data["name"].endswith(f"{size} examples, {size // 2} with labels")
  assert manifest["spec"]["num_examples"] == size
  assert (len(taught), taught.labelled) == (size // 2, None)


@pytest.mark.parametrize("name", IMAGES)
def test_a_shrunk_form_runs_from_teacher_to_results(name, data_dir, tmp_path):
  study = CONFIGS[name].shrunk()
  if study.dataset != "digits":
    # Dense networks take all methods; a convolutional one compiles for long, so it takes the two-phase method.
    study = dataclasses.replace(study, methods=("annealing_kd",))
    data_dir = tmp_path / "data"
    write_fake(study.dataset, data_dir, train=200, test=100)
  else:
    study = dataclasses.replace(study, unlabelled_share=0.5, student_limit=None)
  where = options.Where(workdir=tmp_path / "run", data_dir=data_dir)
  students = commands.students_of(study, where)
  with mock.patch.object(runs, "train", wraps=runs.train) as trained:
    students.teachers.teacher()
  students.train(study.methods)
  results = evaluate(students)
  phases = sum(len(students.folder.recipes[method].phases) for method in study.methods)
  assert len(results["rows"]) == phases
  for row in results["rows"]:
    assert 0 <= row["test"]["best"]["accuracy"] <= 1
    assert np.isfinite(row["test"]["last"]["kl_to_teacher"])
  assert np.isfinite([point["train_loss"] for point in results["curves"]]).all()
  if study.unlabelled_share:
    taught = trained.call_args.args[0].task.train
    assert_half_is_unlabelled(results["dataset"], tmp_path / "run", taught)
  assert json.loads((tmp_path / "run" / "results.json").read_text())["rows"] == results["rows"]


@pytest.mark.parametrize(("name", "case"), [(n, case) for n in CASES for case in CASES[n]])
def test_a_shrunk_form_of_every_case_runs_from_teacher_to_results(name, case, tmp_path):
  """Networks of one layer on sentences of one length: recurrent ones are long in compiling."""
  study = CONFIGS[name].shrunk()
  one_layer = dataclasses.replace(study.teacher, layers=1)
  study = dataclasses.replace(
    study, case=case, teacher=one_layer, max_length=8, epochs=1, methods=("structural_kd",)
  )
  if case in ("1b", "2a"):
    study = dataclasses.replace(study, unlabelled_share=0.25)
  assert study.dataset == "sample"
  folder = open_folder(study, options.Where(workdir=tmp_path / "run"))
  data = folder.domain.data
  short = {"validation": fitting(data.validation, 8), "test": fitting(data.test, 8)}
  domain = dataclasses.replace(folder.domain, data=dataclasses.replace(data, **short))
  folder = dataclasses.replace(folder, domain=domain)
  students = Students(folder, Teachers(folder))
  students.train(study.methods)
  results = evaluate(students)
  (row,) = results["rows"]
  assert (results["dataset"].get("unlabelled", 0) > 0) == (case in ("1b", "2a"))
  metric = {"conll_ner": "f1", "ud_parsing": "las"}[name]
  assert results["metric"]["key"] == metric
  assert results["case"]["name"] == case
  assert 0 <= row["test"]["best"][metric] <= 1
  assert 0 <= row["test"]["last"]["agreement"] <= 1
  assert np.isfinite([point["train_loss"] for point in results["curves"]]).all()
  assert np.isfinite(results["teacher"][f"test_{metric}"])
  structure = json.loads((tmp_path / "run/cache/manifest.json").read_text())["spec"]["structure"]
  assert (
    structure
    == {
      **{"1a": "LinearChain", "2a": "LinearChain", "3": "MaxEnt", "4": "SpanScores"},
      **{"1b": "DependencyScores", "2b": "DependencyScores"},
    }[case]
  )


def texts_with_other_networks():
  """One name for each pair of shrunk networks: what else differs is not the business of a test this long."""
  forms = {}
  for name in TEXTS:
    shrunk = CONFIGS[name].shrunk()
    forms.setdefault((shrunk.teacher, shrunk.student, shrunk.batch_size), name)
  return list(forms.values())


@pytest.mark.parametrize("name", texts_with_other_networks())
def test_a_shrunk_form_of_texts_runs_from_teacher_to_results(name, tmp_path):
  """By the method that has classifiers, a cache of layers, heads and two phases."""
  study = dataclasses.replace(CONFIGS[name].shrunk(), methods=("universal_kd",))
  if name == TEXTS[0]:
    study = dataclasses.replace(study, unlabelled_share=0.5)
  students = commands.students_of(study, options.Where(workdir=tmp_path / "run"))
  students.train(study.methods)
  results = evaluate(students)
  assert [(row["phase"], row["epochs"]) for row in results["rows"]] == [
    ("distil", 2),
    ("finetune", 2),
  ]
  for row in results["rows"]:
    assert 0 <= row["test"]["best"]["accuracy"] <= 1
    assert np.isfinite(row["test"]["last"]["kl_to_teacher"])
  assert np.isfinite([point["train_loss"] for point in results["curves"]]).all()


@pytest.mark.parametrize("name", TEXTS)
def test_every_method_of_a_text_config_suits_its_shrunk_networks(name, tmp_path):
  """Losses are traced, nothing is trained; the teacher's outputs that they read are cached."""
  study = CONFIGS[name].shrunk()
  folder = open_folder(study, options.Where(workdir=tmp_path / "run"))
  assert list(folder.recipes) == list(CONFIGS[name].methods)
  assert {"layers", "layer_logits"} <= set(study.cache_outputs)


@pytest.mark.parametrize("name", CONFIGS)
def test_recipes_of_a_config_use_the_whole_budget(name):
  study = CONFIGS[name]
  for method in study.methods:
    target = recipes.Structures() if study.kind == "sentences" else TEN
    recipe = study.recipe(method, target, teacher_widths=(8, 8))
    assert sum(phase.epochs for phase in recipe.phases) == study.epochs


@pytest.mark.parametrize(
  ("name", "changes", "examples", "differing"),
  [
    ("glue_bert4", {}, 100, []),
    (
      "glue_bert4",
      {"teacher_weights": "/else/where/bert-base-uncased", "seeds": 3, "first_seed": 5},
      100,
      [],
    ),
    ("glue_bert4", {"methods": ("kd",), "live_teacher": True}, 100, []),
    ("glue_bert4", {"teacher_weights": "/else/where/minilm"}, 100, ["teacher_weights"]),
    ("glue_bert4", {"finetune_teacher": False}, 100, ["finetune_teacher"]),
    ("glue_bert4", {"train_limit": 50}, 50, ["train_limit", "fewer training examples"]),
    ("cifar10_resnet8", {}, 100, []),
    ("cifar10_resnet8", {"dataset": "cifar100"}, 100, ["dataset"]),
    ("cifar10_resnet8", {}, 90, ["fewer training examples"]),
  ],
)
def test_published_numbers_say_where_a_run_is_of_another_setting(
  name, changes, examples, differing
):
  study = dataclasses.replace(CONFIGS[name], **changes)
  assert published(study, examples, 100)["differing"] == differing


def test_paper_settings_of_the_vision_study():
  study = CONFIGS["cifar10_resnet8"]
  assert (study.teacher.depth, study.student.depth, study.batch_size) == (110, 8, 128)
  optimizer = study.optimizer
  assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay) == (0.1, 0.9, 1e-4)
  rate = optimizer.schedule(160)
  assert [round(float(rate(step)), 4) for step in (79, 80, 119, 120)] == [0.1, 0.01, 0.01, 0.001]
  anneal, finetune = study.recipe("annealing_kd", TEN).phases
  assert (anneal.epochs, finetune.epochs, finetune.start) == (160, 160, "best")
  temperature = anneal.objective[0].options["temperature"]
  assert [int(temperature(epoch)) for epoch in (0, 15, 16, 159)] == [10, 10, 9, 1]


def test_an_imported_teacher_is_asked_for(data_dir):
  study = CONFIGS["cifar10_small"]
  with pytest.raises(ValueError, match=r"no weights file resnet56_cifar10\.safetensors: name one"):
    domain_of(dataclasses.replace(study, dataset="digits", validation_examples=20), data_dir)


def test_overrides_reach_the_study():
  study, where, _ = options.parse(
    "study",
    [
      "digits",
      *("--methods", "kd", "--kd.temperature", "8", "--optimizer.learning-rate", "0.2"),
      *("--seeds", "3", "--workdir", "somewhere"),
    ],
  )
  assert study.methods == ("kd",)
  assert study.seeds == 3
  assert [*study.seed_values] == [0, 1, 2]
  assert study.settings.kd.temperature == 8
  assert study.optimizer.learning_rate == 0.2
  assert str(where.workdir) == "somewhere"


def test_seeds_may_begin_anywhere():
  study, _, _ = options.parse("study", ["digits", "--first-seed", "7", "--seeds", "2"])
  assert [*study.seed_values] == [7, 8]
  assert plain(study)["first_seed"] == 7
  whole = {field.name: getattr(study, field.name) for field in dataclasses.fields(study)}
  without = type(study)(**{key: value for key, value in whole.items() if key != "first_seed"})
  assert [*without.seed_values] == [0, 1]  # a configuration of before the option


def test_each_phase_may_have_a_schedule_of_its_own_on_the_command_line():
  arguments = ["digits", "--equal-epochs", "labels", "--optimizer.warmup", "0.1"]
  arguments += ["--annealing-kd.phase1.decay", "constant", "--annealing-kd.phase2.rate", "0.1"]
  study, _, _ = options.parse("study", arguments)
  first, second = study.recipe("annealing_kd", TEN).phases
  assert (first.epochs, second.epochs) == (40, 80)
  assert first.optimizer == dataclasses.replace(study.optimizer, decay="constant")
  assert second.optimizer == dataclasses.replace(
    study.optimizer, learning_rate=0.1 * study.optimizer.learning_rate
  )
  assert study.optimizer.warmup == 0.1
  # Other methods train as before.
  assert study.recipe("scratch", TEN).phases[0].optimizer == study.optimizer


def test_ablations_of_universal_kd_on_the_command_line():
  arguments = ["texts", "--universal-kd.attend", "losses", "--universal-kd.no-label-phase"]
  study, _, _ = options.parse("study", arguments)
  recipe = study.recipe("universal_kd", recipes.Classes(2))
  assert recipe.title == "Universal-KD, attention on losses, without phase II"
  assert [phase.epochs for phase in recipe.phases] == [study.epochs]


def varied(*words):
  return options.parse("study", ["digits", "--vary", *words])[0]


def test_a_varied_method_has_a_row_for_each_value():
  study = varied("annealing-kd.max-temperature", "1", "10", "5")
  # 10 is the study's own setting.
  rows = ["annealing_kd.max-temperature=1", "annealing_kd", "annealing_kd.max-temperature=5"]
  assert list(study.rows) == ["scratch", "kd", "takd", *rows, "continuation_kd"]
  for name, value in zip(rows, (1, 10, 5), strict=True):
    recipe = study.recipe(name, TEN)
    assert (recipe.name, recipe.title) == (name, f"Annealing-KD (max-temperature {value})")
    assert recipe.phases[0].objective[0].options["temperature"](0) == value
  assert study.recipe("kd", TEN).title == "KD"


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["kd.warmth", "1"], "option of kd, temperature, soft-weight, got 'warmth'"),
    (["kd.temperature", "1", "warm"], "of the type of temperature, such as 4, got 'warm'"),
    (["kd.temperature", "2", "2.0"], "distinct values, got '2.0' twice"),
    (["kd.temperature"], "an option and its values, got 'kd.temperature' alone"),
    (["scratch.temperature", "1"], "one of the methods compared, kd, takd, annealing_kd, "),
    (["teacher.hidden", "8"], "got 'teacher.hidden': name the method in --methods too"),
    (["kd.temperature", "2", "--methods", "scratch"], "got 'kd.temperature': name the method"),
  ],
)
def test_a_bad_variation_is_refused_with_what_is_possible(words, message):
  with pytest.raises(ValueError, match=message):
    varied(*words)


def test_every_recipe_argument_has_an_option():
  study, widths = dataclasses.replace(CONFIGS["digits"], epochs=20), (8, 8)
  for name in recipes.methods_for("images"):
    settings = getattr(MethodSettings(), name, None)
    made = recipes.make_recipe(
      name,
      TEN,
      recipes.Budget(20, study.optimizer),
      vars(settings) if settings else {},
      teacher_widths=widths,
    )
    assert made == study.recipe(name, TEN, widths)


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["nonsense"], "unknown config 'nonsense': known are "),
    (["digit"], "unknown config 'digit': did you mean digits"),
    (["digits", "--methods", "kd", "magic"], "magic"),
    (["digits", "--seeds", "0"], "seeds"),
  ],
)
def test_bad_command_lines_name_what_is_wrong(argv, message):
  with pytest.raises(ValueError, match=message):
    options.parse("study", argv)
