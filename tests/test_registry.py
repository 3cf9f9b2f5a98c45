"""Methods by name: what may be registered, and how a recipe is made of one."""

import re

import pytest

from kd_jax import recipes
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import registry
from kd_jax.recipes.registry import make_recipe, methods_for, options_of, register

BUDGET = recipes.Budget(4, Optimizer())
TARGET = recipes.Classes(3)


@pytest.fixture(autouse=True)
def _methods_as_they_were(monkeypatch):
  monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def method(name="mine", module=__name__):
  """A method that records what it was given."""

  def mine(target, budget, *, strength: float = 1.0, teacher_widths: tuple | None = None):
    recipe = recipes.scratch(target, budget)
    return recipe, strength, teacher_widths

  mine.__name__, mine.__module__ = name, module
  return mine


def refused(message, function, *given, **named):
  with pytest.raises(ValueError, match=message) as caught:
    function(*given, **named)
  assert "\n" not in str(caught.value)


def test_a_registered_method_is_found_by_its_own_name():
  mine = method()
  assert register("images", "texts")(mine) is mine
  for kind in ("images", "texts"):
    assert methods_for(kind)["mine"] is mine
    # After those that were there before.
    assert list(methods_for(kind))[-1] == "mine"
  assert "mine" not in methods_for("sentences")
  assert make_recipe("mine", TARGET, BUDGET)[0] == recipes.scratch(TARGET, BUDGET)


def test_a_module_that_is_loaded_again_brings_its_methods_again():
  first, second = method(), method()
  register("images")(first)
  register("texts")(second)
  assert methods_for("texts")["mine"] is second
  assert "mine" not in methods_for("images")


def test_a_name_that_is_taken_is_refused():
  taken = method("kd")
  refused(
    "^there is a method 'kd' already, of kd_jax.recipes.logits: rename yours$",
    register("images"),
    taken,
  )
  assert methods_for("images")["kd"] is recipes.kd


@pytest.mark.parametrize(
  ("kinds", "got"), [((), ""), (("sounds",), "sounds"), (("images", "sounds"), "images, sounds")]
)
def test_kinds_of_data_are_known(kinds, got):
  refused(
    f"^a method is for some of images, texts, sentences, got {got}$", lambda: register(*kinds)
  )


def without_default(target, budget, *, strength: float):
  raise NotImplementedError


def without_type(target, budget, *, strength=1.0):
  raise NotImplementedError


def by_position(target, budget, strength: float = 1.0):
  raise NotImplementedError


def any_settings(target, budget, **strength: float):
  raise NotImplementedError


def any_arguments(target, budget, *strength: float):
  raise NotImplementedError


@pytest.mark.parametrize(
  "make", [without_default, without_type, by_position, any_settings, any_arguments]
)
def test_settings_have_a_type_and_a_default(make):
  message = (
    f"^{make.__name__}'s setting 'strength' must be given by keyword and have a type and a default$"
  )
  refused(message, register("images"), make)
  assert make.__name__ not in methods_for("images")


@pytest.mark.parametrize("make", [lambda: None, lambda target: None, lambda *given: None])
def test_a_method_takes_a_target_and_a_budget(make):
  make.__name__ = "short"
  refused(r"^short must take \(target, budget, \*, settings\)$", register("images"), make)


def test_options_of_a_method_are_its_settings_alone():
  register("images")(method())
  (only,) = options_of("mine")
  assert (only.name, only.default, only.annotation) == ("strength", 1.0, float)
  assert [option.name for option in options_of("patient_kd")] == [
    "temperature",
    "soft_weight",
    "layer_weight",
    "project",
  ]
  assert options_of("scratch") == []
  for kind in registry.KINDS:
    for name in methods_for(kind):
      assert "teacher_widths" not in [option.name for option in options_of(name)]
  refused("^unknown method 'none': known are scratch, kd, ", options_of, "none")


def test_the_widths_of_the_teacher_are_given_to_methods_that_read_them():
  register("images")(method())
  made = make_recipe("mine", TARGET, BUDGET, {"strength": 2.0}, teacher_widths=(3, 4))
  assert made[1:] == (2.0, (3, 4))
  assert make_recipe("mine", TARGET, BUDGET)[1:] == (1.0, None)
  # Others do not know of them.
  assert make_recipe("kd", TARGET, BUDGET, teacher_widths=(3, 4)) == recipes.kd(TARGET, BUDGET)
  refused(
    r"^mine has no setting \['teacher_widths'\]: it has \['strength'\]$",
    make_recipe,
    "mine",
    TARGET,
    BUDGET,
    {"teacher_widths": (3, 4)},
  )


def test_methods_of_a_kind_that_does_not_exist():
  refused("^kinds of data are images, texts, sentences, got 'sounds'$", methods_for, "sounds")


def test_what_is_returned_may_be_changed_without_harm():
  methods_for("images").clear()
  assert "kd" in methods_for("images")


def test_a_target_that_a_method_does_not_suit():
  for name, target, kinds in [
    ("kd", recipes.Structures(), "images, texts"),
    ("structural_kd", TARGET, "sentences"),
    ("structural_kd", recipes.Number(), "sentences"),
    ("attention_transfer", recipes.Number(), "images"),
  ]:
    kind = type(target).__name__
    message = f"^{name} is for {kinds}: it does not learn to predict {kind}$"
    refused(message, make_recipe, name, target, BUDGET)
  for target in (TARGET, recipes.Number(), recipes.Structures()):
    assert make_recipe("scratch", target, BUDGET).name == "scratch"


def test_every_method_says_what_it_computes_and_where_it_is_from():
  for kind in registry.KINDS:
    target = recipes.Structures() if kind == "sentences" else TARGET
    budget = recipes.Budget(40, Optimizer())
    for name, make in methods_for(kind).items():
      recipe = make_recipe(name, target, budget, teacher_widths=(8, 8, 8))
      assert make.__name__ == recipe.name == name
      assert recipe.title
      assert recipe.equation
      assert name == "scratch" or re.search(r"arXiv|EMNLP|NAACL", recipe.reference), name
      assert sum(phase.epochs for phase in recipe.phases) == 40
