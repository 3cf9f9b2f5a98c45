"""What a study is, as one frozen dataclass, and the command line that its types make."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from experiments.variants import Variant, variants
from kd_jax.data.labelled import check_share
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import make_recipe
from kd_jax.recipes.parts import Budget, Recipe

Registry = Mapping[str, Callable[..., Recipe]]


def method_settings(name: str, registry: Registry) -> type:
  """A dataclass with a field for each method, whose fields are its recipe's keyword arguments."""
  methods = []
  for method, recipe in registry.items():
    parameters = list(inspect.signature(recipe).parameters.values())[1:]
    if parameters:
      settings = dataclasses.make_dataclass(
        f"{method}_settings", [(p.name, p.annotation, p.default) for p in parameters], frozen=True
      )
      settings.__doc__ = inspect.getdoc(recipe).splitlines()[0]
      methods.append((method, settings, dataclasses.field(default_factory=settings)))
  made = dataclasses.make_dataclass(name, methods, frozen=True)
  made.__doc__ = "The methods' own settings."
  return made


@dataclasses.dataclass(frozen=True)
class Study:
  """A comparison of methods: one teacher, one student, several methods, several seeds.

  What is read, and by what networks, is said by the studies of a kind of data: `experiments.domains.registry`.
  """

  registry: ClassVar[Registry]
  """The methods for this kind of data."""

  name: Annotated[str, tyro.conf.Suppress] = "study"
  """Its name in reports."""
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
  methods: tuple[str, ...] = ()
  """Methods to compare, in the order of the tables."""
  vary: tuple[str, ...] = ()
  """A method's option and its values, such as annealing-kd.max-temperature 1 5 10: a row for each value."""
  seeds: int = 5
  """How many seeds, from 0."""
  seeds_together: int | None = None
  """Seeds trained as one program; by default as many as the networks and the device favour."""
  cache_dtype: str = "float32"
  """Of the teacher's cached outputs: float32 or float16."""
  live_teacher: bool = False
  """Run the teacher in every step instead of reading its cache."""
  paper: Annotated[Mapping[str, Any] | None, tyro.conf.Suppress] = None
  """Published numbers for the table: source, setting, test_METRIC by method."""

  def __post_init__(self):
    if self.seeds < 1 or self.epochs < 1 or self.teacher_epochs < 1:
      raise ValueError(
        "seeds, epochs and teacher_epochs must be at least 1, got "
        f"{self.seeds}, {self.epochs}, {self.teacher_epochs}"
      )
    check_share(self.unlabelled_share)
    unknown = [method for method in self.methods if method not in self.registry]
    if unknown or not self.methods or len(set(self.methods)) != len(self.methods):
      raise ValueError(
        f"methods must be distinct names of {', '.join(self.registry)}; got {list(self.methods)}"
      )
    _ = self.rows  # a bad `vary` is refused now

  @functools.cached_property
  def rows(self) -> dict[str, Variant]:
    """What is compared, by name: the methods, a varied one once for each value."""
    return variants(self.methods, getattr(self, "settings", None), self.vary)

  def recipe(self, row: str, num_classes: int, **data: Any) -> Recipe:
    """The recipe of a row under this study's budget; data: further fields of `Budget`."""
    budget = Budget(
      self.epochs, self.optimizer, num_classes, equal_epochs=self.equal_epochs, **data
    )
    own_settings = getattr(self.settings, row, None)
    method, own, label = self.rows.get(row, Variant(row, own_settings))
    # Not asdict: a setting may be a dataclass itself.
    recipe = make_recipe(method, budget, vars(own) if own else {}, self.registry)
    return (
      dataclasses.replace(recipe, name=row, title=f"{recipe.title} ({label})") if label else recipe
    )

  def shrunk(self) -> "Study":
    """The same study in a form that runs in seconds: small networks, few epochs, one seed."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Where:
  """Where a command runs; nothing here changes a result."""

  workdir: Path | None = None
  """Folder of the study, by default runs/CONFIG; a study that was stopped goes on from there."""
  data_dir: Path | None = None
  """Prepared TFDS data, by default $TFDS_DATA_DIR or TFDS's own folder."""
  coordinator: str | None = None
  """HOST:PORT of process 0, where several processes train together."""
  num_processes: int = 1
  """How many processes there are."""
  process_id: int = 0
  """The number of this one, from 0."""
  compile_cache: Path | None = Path("~/.cache/kd_jax")
  """Folder of compiled programs, kept between runs."""


@dataclasses.dataclass(frozen=True)
class NoOptions:
  """For commands that have no options of their own."""


def configs() -> dict[str, Study]:
  """Every study in `experiments.configs`, by name."""
  package = importlib.import_module("experiments.configs")
  names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
  return {name: importlib.import_module(f"experiments.configs.{name}").CONFIG for name in names}


Options = TypeVar("Options")


def parse(
  prog: str, argv: Sequence[str] | None, options: type[Options] = NoOptions
) -> tuple[Study, Where, Options]:
  """Reads `CONFIG [options]` from the command line.

  Raises:
    SystemExit: for --help and for malformed options, after saying what is wrong.
    ValueError: for an unknown CONFIG or values that the study refuses.
  """
  arguments = list(sys.argv[1:] if argv is None else argv)
  known = configs()
  name = "digits"
  if arguments and not arguments[0].startswith("-"):
    name = arguments.pop(0)
  if name not in known:
    raise ValueError(f"unknown config {name!r}: known are {', '.join(known)}")
  description = inspect.getdoc(importlib.import_module(f"experiments.configs.{name}"))
  command = dataclasses.make_dataclass(
    "command",
    [
      ("study", Annotated[type(known[name]), tyro.conf.arg(name="")], known[name]),
      ("where", Annotated[Where, tyro.conf.arg(name="")], Where()),
      ("options", Annotated[options, tyro.conf.arg(name="")], options()),
    ],
  )
  parsed = tyro.cli(
    command,
    prog=f"python -m experiments.{prog} {{{','.join(known)}}}",
    args=arguments,
    default=command(),
    description=f"{name}: {description}\n\nThe options' defaults are those of {name}.",
    config=(tyro.conf.AvoidSubcommands,),
  )
  where = parsed.where
  if where.workdir is None:
    where = dataclasses.replace(where, workdir=Path("runs") / name)
  return parsed.study, where, parsed.options


def plain(value: Any) -> Any:
  """A configuration as JSON values."""
  if dataclasses.is_dataclass(value):
    return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  return str(value) if isinstance(value, Path) else value
