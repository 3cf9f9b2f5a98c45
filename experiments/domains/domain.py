"""What a kind of data decides of a study; the stages of a study ask it and know nothing else of the data."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from kd_jax.data.examples import Examples
from kd_jax.recipes.parts import Recipe
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.teachers.sources import Teacher
from kd_jax.training.evaluation import Evaluation
from kd_jax.types import PyTree

Spec = Any
"""A network as plain frozen dataclasses."""


class Initial(NamedTuple):
  """What a network starts from, where not all of it is fresh.

  Attributes:
    variables: a part of its variables, nested dictionaries.
    parent: a link of the lineage to what lies outside the study; None where it is the teacher of the study.
    weights: whether the variables are weights of another network, and not tables made from the data.
  """

  variables: PyTree
  parent: dict[str, Any] | None
  weights: bool = True


class ReadyTeacher(NamedTuple):
  """A teacher that was trained elsewhere.

  Attributes:
    spec: which network.
    variables: on the host.
    parent: a link of the lineage to its weights.
    source: what reports call them.
  """

  spec: Spec
  variables: PyTree
  parent: dict[str, Any]
  source: str


class Domain(abc.ABC):
  """The data and the networks of a study.

  Attributes:
    train, validation, test: the splits.
    teacher_train: what a teacher that is trained here learns from; None: from `train`, as the students.
    num_classes: classes or tags, for recipes' budgets.
    evaluation: how networks are judged.
    teacher, assistant, student: their specifications.
    views: of each training example that students go through.
    teacher_views: of each training example that a network trained without a cache goes through.
    augmentation: of the training examples.
    source: the arguments of loading, as JSON values, with the "kind" of data: `lineage` loads again by them.
    notes: what a user should know of how the data were read.
    teacher_width: of the teacher's layers, for methods that project to it.
    label_mean: of the training labels, where they are numbers.
    official_examples: how many training examples, held-out ones included, published numbers rest on, or 0.
    teacher_source: where a teacher that is trained here came from, in words.
    student_source: what the student starts from, in words; empty: random numbers.
  """

  train: Examples
  validation: Examples
  test: Examples
  teacher_train: Examples | None = None
  num_classes: int
  evaluation: Evaluation
  teacher: Spec
  assistant: Spec | None
  student: Spec
  views: int
  teacher_views: int
  augmentation: Any
  source: dict[str, Any]
  notes: Sequence[str] = ()
  teacher_width: int | None = None
  label_mean: float = 0.0
  official_examples: int = 0
  teacher_source: str = "trained"
  student_source: str = ""

  @abc.abstractmethod
  def build(self, spec: Spec, axis_name: str | None = None) -> nn.Module:
    """A network; `axis_name` is the mapped axis of its training."""

  @abc.abstractmethod
  def label(self, spec: Spec) -> str:
    """What tables call it."""

  @abc.abstractmethod
  def convolutional(self, spec: Spec) -> bool:
    """Whether it convolves: see `parallel.one_dispatch_an_epoch`."""

  @abc.abstractmethod
  def seeds_together(self, seeds: int) -> int:
    """How many seeds of the student are best trained as one program, of so many."""

  @abc.abstractmethod
  def check(self, recipes: dict[str, Recipe]) -> None:
    """Refuses, before anything is trained, what later stages could not do; raises ValueError."""

  @abc.abstractmethod
  def data_settings(self) -> dict[str, Any]:
    """What decides a run's result besides networks, recipes and training examples, as plain values."""

  @abc.abstractmethod
  def cache_spec(self, digest: str, model: dict[str, Any], spec: Spec) -> teacher_cache.CacheSpec:
    """What a cache of a network's outputs on the training examples is."""

  @abc.abstractmethod
  def predictor(self, spec: Spec, model: nn.Module, variables: PyTree) -> predicting.Predict:
    """What the network says of the training examples, as its cache keeps it."""

  @abc.abstractmethod
  def cached_teacher(self, cache: teacher_cache.Cache) -> Teacher:
    """The teacher of a student, from a cache."""

  @abc.abstractmethod
  def header(self) -> dict[str, Any]:
    """What results.json says of the data and of the metric."""

  def ready_teacher(self) -> ReadyTeacher | None:
    """The teacher where it is imported; None where it is trained here."""
    return None

  def doubt(self, found: Mapping[str, float]) -> str:
    """What to look at where an imported teacher's metrics are no better than chance; "" where they are."""
    return ""

  def initial(self, spec: Spec, teacher: Any = None) -> Initial | None:
    """What a network starts from; None where it starts afresh. `teacher`: the trained one, if any."""
    return None

  def with_layer_classifiers(self, spec: Spec) -> Spec:
    """The teacher's network with pseudo classifiers on its layers, where the domain's methods read them."""
    return spec

  def kept_with_checkpoints(self) -> dict[str, Any]:
    """What is needed to use a network besides its weights, as JSON."""
    return {}
