"""What a study is, as one frozen dataclass, and the command line that its types make."""

import dataclasses
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from kd_jax import recipes
from kd_jax.data.augmentation import Augmentation
from kd_jax.models.spec import ModelSpec
from kd_jax.optimizers import Optimizer


def _method_settings() -> type:
  """A dataclass with a field for each method, whose fields are its recipe's keyword arguments."""
  methods = []
  for name, recipe in recipes.RECIPES.items():
    parameters = list(inspect.signature(recipe).parameters.values())[1:]
    if parameters:
      settings = dataclasses.make_dataclass(
        f"{name}_settings", [(p.name, p.annotation, p.default) for p in parameters], frozen=True
      )
      settings.__doc__ = inspect.getdoc(recipe).splitlines()[0]
      methods.append((name, settings, dataclasses.field(default_factory=settings)))
  made = dataclasses.make_dataclass("MethodSettings", methods, frozen=True)
  made.__doc__ = "The methods' own settings."
  return made


MethodSettings = _method_settings()


@dataclasses.dataclass(frozen=True)
class Study:
  """A comparison of methods: one teacher, one student, several methods, several seeds."""

  name: Annotated[str, tyro.conf.Suppress] = "study"
  """Its name in reports."""
  dataset: str = "digits"
  """TFDS data set: digits, mnist, fashion_mnist, cifar10, cifar100."""
  validation_examples: int = 200
  """Held out of the training split, to choose the best epoch."""
  train_limit: int | None = None
  """Use so many training examples only."""
  augmentation: Augmentation = Augmentation(name="none")
  """Of the training images."""
  views: int = 1
  """Views of each training image: epoch e sees view e mod VIEWS; the cache holds a row for each."""
  batch_size: int = 128
  """Of all devices together."""
  teacher: ModelSpec = ModelSpec()
  """The teacher's network."""
  teacher_weights: Path | None = None
  """Import a PyTorch CIFAR ResNet from this safetensors file instead of training a teacher."""
  teacher_epochs: int = 60
  """Epochs of the teacher's training."""
  teacher_optimizer: Optimizer = Optimizer()
  """Of the teacher's training."""
  assistant: ModelSpec = ModelSpec()
  """The assistant's network, for methods that have one."""
  student: ModelSpec = ModelSpec()
  """The student's network."""
  epochs: int = 60
  """Of each student, all phases together."""
  optimizer: Optimizer = Optimizer()
  """Of each phase of each student."""
  methods: tuple[str, ...] = ("scratch", "kd", "annealing_kd")
  """Methods to compare, in the order of the tables."""
  seeds: int = 5
  """How many seeds, from 0."""
  seeds_together: int | None = None
  """Seeds trained as one program; by default all for dense networks, one for convolutional ones."""
  cache_dtype: str = "float32"
  """Of the teacher's cached logits: float32 or float16."""
  cache_top_k: int | None = None
  """Keep only the K likeliest classes and the tail; for soft targets at the temperature of `kd`."""
  live_teacher: bool = False
  """Run the teacher in every step instead of reading its cache."""
  settings: Annotated[MethodSettings, tyro.conf.arg(name="")] = dataclasses.field(
    default_factory=MethodSettings
  )
  """Of each method."""
  official_examples: Annotated[int, tyro.conf.Suppress] = 0
  """How many training examples, held-out ones included, the paper's data set has."""
  paper: Annotated[Mapping[str, Any] | None, tyro.conf.Suppress] = None
  """Published numbers for the table: source, setting, test_accuracy by method."""

  def __post_init__(self):
    if self.seeds < 1 or self.epochs < 1 or self.teacher_epochs < 1:
      raise ValueError(
        "seeds, epochs and teacher_epochs must be at least 1, got "
        f"{self.seeds}, {self.epochs}, {self.teacher_epochs}"
      )
    unknown = [method for method in self.methods if method not in recipes.RECIPES]
    if unknown or not self.methods or len(set(self.methods)) != len(self.methods):
      raise ValueError(
        f"methods must be distinct names of {', '.join(recipes.RECIPES)}; got {list(self.methods)}"
      )

  def recipe(self, method: str, num_classes: int) -> recipes.Recipe:
    """The recipe of a method under this study's budget and settings."""
    budget = recipes.Budget(self.epochs, self.optimizer, num_classes)
    own = getattr(self.settings, method, None)
    return recipes.make_recipe(method, budget, dataclasses.asdict(own) if own else {})


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


def shrink(study: Study) -> Study:
  """The same study in a form that runs in seconds: the smallest networks, few epochs, one seed."""

  def small(spec: ModelSpec) -> ModelSpec:
    smallest = {"resnet": 8, "plain_cnn": 2}.get(spec.family, spec.depth)
    return dataclasses.replace(spec, depth=smallest, hidden=(8,))

  return dataclasses.replace(
    study,
    validation_examples=16,
    train_limit=48,
    views=min(study.views, 2),
    batch_size=16,
    teacher=small(study.teacher),
    teacher_epochs=1,
    assistant=small(study.assistant),
    student=small(study.student),
    epochs=4,
    seeds=1,
    settings=dataclasses.replace(
      study.settings,
      annealing_kd=dataclasses.replace(study.settings.annealing_kd, max_temperature=2),
    ),
  )


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
      ("study", Annotated[Study, tyro.conf.arg(name="")], known[name]),
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
