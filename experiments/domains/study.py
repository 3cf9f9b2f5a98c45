"""What a study is, whatever its data: one frozen dataclass."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from kd_jax.data.labelled import check_share
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import Budget, Recipe, Target, make_recipe, methods_for, options_of

from .own_recipes import load_recipes
from .variants import Variant, variants

Seeds = Annotated[int | tuple[int, ...], tyro.conf.arg(metavar="INT [INT ...]")]


def method_settings(name: str, kind: str, base: type | None = None) -> type:
  """A dataclass with a field for each method, whose fields are the method's settings.

  Args:
    name: of the class.
    kind: of data.
    base: a class made before: the new one has fields for the methods that were registered since, too.
  """
  held = () if base is None else [field.name for field in dataclasses.fields(base)]
  methods = []
  for method, make in methods_for(kind).items():
    parameters = options_of(method)
    if parameters and method not in held:
      settings = dataclasses.make_dataclass(
        f"{method}_settings",
        [(p.name, _documented(p, make), p.default) for p in parameters],
        frozen=True,
      )
      settings.__doc__ = (inspect.getdoc(make) or method).splitlines()[0]
      methods.append((method, settings, dataclasses.field(default_factory=settings)))
  bases = () if base is None else (base,)
  made = dataclasses.make_dataclass(name, methods, bases=bases, frozen=True)
  made.__doc__ = "The methods' own settings."
  return made


def _documented(parameter: inspect.Parameter, make: Callable[..., Recipe]) -> Any:
  """The type of a recipe's parameter, with what the recipe's docstring says of it as the option's help."""
  said = argument_docs(inspect.getdoc(make) or "").get(parameter.name)
  if said is None:
    return parameter.annotation
  return Annotated[parameter.annotation, tyro.conf.arg(help=said[0].upper() + said[1:])]


def argument_docs(docstring: str) -> dict[str, str]:
  r"""What the section "Args:" of a docstring says of each argument.

  >>> argument_docs("Adds.\n\nArgs:\n  x: a number,\n    or two.\n  y: another.\n\nReturns:\n  z.")
  {'x': 'a number, or two.', 'y': 'another.'}
  """
  _, _, rest = docstring.partition("Args:\n")
  found: dict[str, list[str]] = {}
  for line in rest.splitlines():
    if line.strip() and not line.startswith("  "):
      break
    entry = re.match(r"  (\w+): (.*)", line)
    if entry:
      found[entry[1]] = [entry[2]]
    elif found and line.strip():
      next(reversed(found.values())).append(line.strip())
  return {name: " ".join(lines) for name, lines in found.items()}


@dataclasses.dataclass(frozen=True)
class Study:
  """A comparison of methods: one teacher, one student, several methods, several seeds.

  What is read, and by what networks, is said by the studies of a kind of data: `experiments.domains.registry`.
  """

  kind: ClassVar[str]
  """Of the data: which methods there are."""
  quick_method: ClassVar[str] = "kd"
  """What `quick` trains."""
  few_methods: ClassVar[tuple[str, ...]] = ("kd", "annealing_kd")
  """What is compared with training from scratch on a user's own files, unless methods are named."""

  name: Annotated[str, tyro.conf.Suppress] = "study"
  """Its name in reports."""
  quick: bool = False
  """Defaults for a first look: one method, one seed."""
  train_limit: int | None = None
  """Use so many training examples only."""
  unlabelled_share: float = 0.0
  """Share of the training examples whose labels are hidden, in [0, 1): the teacher does not see these examples,
  students see them without their labels."""
  batch_size: int = 128
  """Of all devices together."""
  teacher_epochs: int = 60
  """Epochs of the teacher's training."""
  teacher_optimizer: Optimizer = Optimizer()
  """Of the teacher's training."""
  epochs: int = 60
  """Epochs of each student, counted by equal_epochs."""
  equal_epochs: Literal["total", "labels"] = "total"
  """What is equal between methods. total: epochs of all phases together; labels: epochs of the last phase
  (on hard labels in most methods), phase I on top."""
  optimizer: Optimizer = Optimizer()
  """Of each phase of each student."""
  recipes: Path | None = None
  """A Python file of your own that registers methods: they can then be named in methods."""
  methods: tuple[str, ...] = ()
  """Methods to compare, in the order of the tables."""
  vary: tuple[str, ...] = ()
  """A method's option and its values, such as annealing-kd.max-temperature 1 5 10: a row for each value."""
  seeds: Seeds = 5
  """How many seeds, from first_seed; or, if two or more numbers are given, the seeds themselves."""
  first_seed: int = 0
  """The first of so many seeds; `experiments.compare --join` joins studies of other seeds."""
  seeds_together: int | None = None
  """Seeds trained as one program; by default as many as the networks and the device favour."""
  cache_dtype: str = "float32"
  """Of the teacher's cached outputs: float32 or float16."""
  live_teacher: bool = False
  """Run the teacher in every step instead of reading its cache."""
  paper: Annotated[Mapping[str, Any] | None, tyro.conf.Suppress] = None
  """Published numbers for the table: source, setting, test_METRIC by method."""

  def __post_init__(self):
    if self.epochs < 1 or self.teacher_epochs < 1:
      raise ValueError(
        f"epochs and teacher_epochs must be at least 1, got {self.epochs}, {self.teacher_epochs}"
      )
    _check_seeds(self.seeds, self.first_seed)
    check_share(self.unlabelled_share)
    if self.recipes is not None:
      load_recipes(self.recipes)
      object.__setattr__(self, "settings", with_new_methods(self.settings, self.kind))
    known = methods_for(self.kind)
    unknown = [method for method in self.methods if method not in known]
    if unknown or not self.methods or len(set(self.methods)) != len(self.methods):
      raise ValueError(
        f"methods must be distinct names of {', '.join(known)}; got {list(self.methods)}"
      )
    _ = self.rows  # a bad `vary` is refused now

  @functools.cached_property
  def rows(self) -> dict[str, Variant]:
    """What is compared, by name: the methods, a varied one once for each value."""
    return variants(self.methods, getattr(self, "settings", None), self.vary)

  @property
  def seed_values(self) -> Sequence[int]:
    """The seeds themselves."""
    if isinstance(self.seeds, int):
      return range(self.first_seed, self.first_seed + self.seeds)
    return self.seeds

  @property
  def folder(self) -> str:
    """The name of its folder, if none is given."""
    return self.name

  def recipe(
    self, row: str, target: Target, teacher_widths: tuple[int, ...] | None = None
  ) -> Recipe:
    """The recipe of a row under this study's budget."""
    budget = Budget(self.epochs, self.optimizer, equal_epochs=self.equal_epochs)
    own_settings = getattr(self.settings, row, None)
    method, own, label = self.rows.get(row, Variant(row, own_settings))
    # Not asdict: a setting may be a dataclass itself.
    settings = vars(own) if own else {}
    recipe = make_recipe(method, target, budget, settings, teacher_widths=teacher_widths)
    return (
      dataclasses.replace(recipe, name=row, title=f"{recipe.title} ({label})") if label else recipe
    )

  def teacher_recipe(self, target: Target) -> Recipe:
    """The recipe of a teacher that is trained here: on the labels."""
    budget = Budget(self.teacher_epochs, self.teacher_optimizer)
    return dataclasses.replace(make_recipe("scratch", target, budget), name="teacher")

  def of_own_files(self) -> "Study":
    """The same study with defaults for a user's own files: few methods."""
    return dataclasses.replace(self, methods=("scratch", *self.few_methods))

  def quickened(self) -> "Study":
    """The same study with the defaults of `quick`."""
    return dataclasses.replace(self, quick=True, methods=(self.quick_method,), seeds=1)

  def shrunk(self) -> "Study":
    """The same study in a form that runs in seconds: small networks, few epochs, one seed."""
    raise NotImplementedError


def _check_seeds(seeds: int | Sequence[int], first_seed: int) -> None:
  """Refuses seeds that are none, or that would count one network twice."""
  if isinstance(seeds, int):
    if seeds < 1:
      raise ValueError(f"seeds must be at least 1, got {seeds}")
    if not 0 <= first_seed <= 2**32 - seeds:
      raise ValueError(
        f"first_seed must be at least 0, and every seed below 2^32, got first_seed {first_seed} with "
        f"seeds {seeds}"
      )
    return
  if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
    raise ValueError(f"seeds must be distinct and from 0 to 2^32 - 1, got {list(seeds)}")
  if first_seed:
    raise ValueError(
      f"first_seed goes with a number of seeds, got first_seed {first_seed} with seeds {list(seeds)}: "
      "leave it out"
    )


def with_new_methods(settings: Any, kind: str) -> Any:
  """The settings, and defaults for methods that were registered since their class was made."""
  made = method_settings(type(settings).__name__, kind, type(settings))
  new = len(dataclasses.fields(made)) > len(dataclasses.fields(settings))
  return made(**vars(settings)) if new else settings


def plain(value: Any) -> Any:
  """A configuration as JSON values."""
  if dataclasses.is_dataclass(value):
    return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  return str(value) if isinstance(value, Path) else value
