"""The methods by name, and for which kinds of data.

    @register("images", "texts")
    def my_method(target, budget, *, strength: float = 1.0) -> Recipe: ...

A registered method has a name on the command line, its keyword arguments as options, a row in every study,
resumption and lineage.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from kd_jax.recipes.parts import Budget, Recipe
from kd_jax.recipes.targets import Classes, Number, Structures, Target

KINDS = ("images", "texts", "sentences")
"""Kinds of data: classified images; texts with a class or a number; tagged or parsed sentences."""
_TARGETS: dict[str, tuple[type, ...]] = {
  "images": (Classes,),
  "texts": (Classes, Number),
  "sentences": (Structures,),
}
_FROM_DATA = ("teacher_widths",)
"""Keyword arguments that are no settings: they follow from the networks."""

MakeRecipe = Callable[..., Recipe]
F = TypeVar("F", bound=MakeRecipe)


class Method(NamedTuple):
  """A registered method.

  Attributes:
    make: (target, budget, **settings) -> its recipe.
    kinds: of data that it suits.
  """

  make: MakeRecipe
  kinds: tuple[str, ...]


_METHODS: dict[str, Method] = {}


def register(*kinds: str) -> Callable[[F], F]:
  """Registers a function (target, budget, *, settings) -> `Recipe` under its own name.

  Args:
    kinds: of data that the method suits, of `KINDS`.

  Raises:
    ValueError: an unknown kind, a name that is taken, other arguments than a target and a budget, or a setting
      without a default or a type.
  """
  unknown = [kind for kind in kinds if kind not in KINDS]
  if unknown or not kinds:
    raise ValueError(
      f"a method is for some of {', '.join(KINDS)}, got {', '.join(map(str, kinds))}"
    )

  def enter(make: F) -> F:
    name = make.__name__
    held = _METHODS.get(name)
    # A module that is loaded again brings the same functions again.
    if held is not None and held.make.__module__ != make.__module__:
      raise ValueError(
        f"there is a method {name!r} already, of {held.make.__module__}: rename yours"
      )
    first = list(inspect.signature(make).parameters.values())[:2]
    if len(first) < 2 or any(one.kind is not one.POSITIONAL_OR_KEYWORD for one in first):
      raise ValueError(f"{name} must take (target, budget, *, settings)")
    for parameter in _settings_of(make):
      bare = parameter.default is parameter.empty or parameter.annotation is parameter.empty
      if bare or parameter.kind is not parameter.KEYWORD_ONLY:
        raise ValueError(
          f"{name}'s setting {parameter.name!r} must be given by keyword and have a type and a default"
        )
    _METHODS[name] = Method(make, kinds)
    return make

  return enter


def methods_for(kind: str) -> dict[str, MakeRecipe]:
  """The methods for a kind of data by name, in the order in which they were registered."""
  if kind not in KINDS:
    raise ValueError(f"kinds of data are {', '.join(KINDS)}, got {kind!r}")
  return {name: method.make for name, method in _METHODS.items() if kind in method.kinds}


def options_of(name: str) -> list[inspect.Parameter]:
  """The settings of a method: its keyword arguments, but for what follows from the networks.

  Raises:
    ValueError: an unknown method, naming those that exist.
  """
  return _settings_of(_method(name).make)


def make_recipe(
  name: str,
  target: Target,
  budget: Budget,
  settings: Mapping[str, Any] | None = None,
  *,
  teacher_widths: tuple[int, ...] | None = None,
) -> Recipe:
  """The recipe of a method by name, with its own settings.

  Args:
    name: of a registered method.
    target: what networks predict.
    budget: epochs and optimiser.
    settings: keyword arguments of the method.
    teacher_widths: of each of the teacher's layers, for methods that map the student's to them.

  Raises:
    ValueError: an unknown method or setting, naming those that exist; a target that the method does not suit.
  """
  method = _method(name)
  known = [parameter.name for parameter in _settings_of(method.make)]
  unknown = [setting for setting in settings or {} if setting not in known]
  if unknown:
    raise ValueError(f"{name} has no setting {unknown}: it has {known}")
  if not any(isinstance(target, _TARGETS[kind]) for kind in method.kinds):
    raise ValueError(
      f"{name} is for {', '.join(method.kinds)}: it does not learn to predict {type(target).__name__}"
    )
  takes_widths = "teacher_widths" in inspect.signature(method.make).parameters
  given = {"teacher_widths": teacher_widths} if takes_widths else {}
  return method.make(target, budget, **given, **(settings or {}))


def _method(name: str) -> Method:
  if name not in _METHODS:
    raise ValueError(f"unknown method {name!r}: known are {', '.join(_METHODS)}")
  return _METHODS[name]


def _settings_of(make: MakeRecipe) -> list[inspect.Parameter]:
  parameters = list(inspect.signature(make).parameters.values())[2:]
  return [parameter for parameter in parameters if parameter.name not in _FROM_DATA]
