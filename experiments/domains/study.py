"""What a study is, whatever its data: one frozen dataclass."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from experiments.domains.variants import Variant, variants
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
  """How many seeds, from first_seed."""
  first_seed: int = 0
  """The first of the seeds; `experiments.compare --join` joins studies of other seeds."""
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
    if not 0 <= self.first_seed <= 2**32 - self.seeds:
      raise ValueError(
        f"first_seed must be at least 0, and every seed below 2^32, got first_seed {self.first_seed} with "
        f"seeds {self.seeds}"
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

  @property
  def seed_range(self) -> range:
    """The seeds themselves."""
    return range(self.first_seed, self.first_seed + self.seeds)

  @property
  def folder(self) -> str:
    """The name of its folder, if none is given."""
    return self.name

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

  def teacher_recipe(self, num_classes: int) -> Recipe:
    """The recipe of a teacher that is trained here: on the labels."""
    budget = Budget(self.teacher_epochs, self.teacher_optimizer, num_classes)
    return dataclasses.replace(self.registry["scratch"](budget), name="teacher")

  def shrunk(self) -> "Study":
    """The same study in a form that runs in seconds: small networks, few epochs, one seed."""
    raise NotImplementedError


def plain(value: Any) -> Any:
  """A configuration as JSON values."""
  if dataclasses.is_dataclass(value):
    return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  return str(value) if isinstance(value, Path) else value
