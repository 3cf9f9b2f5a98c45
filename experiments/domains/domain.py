"""What a kind of data gives a study, as values; the stages of a study know nothing else of the data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import flax.linen as nn

from kd_jax.data.augmentation import Augmentation
from kd_jax.data.examples import Examples
from kd_jax.recipes import Recipe, Target
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.teachers.sources import Teacher
from kd_jax.training.evaluation import Evaluation
from kd_jax.types import PyTree

from .links import Link

Role = Literal["teacher", "assistant", "student"]
Split = TypeVar("Split", bound=Examples)
Spec = TypeVar("Spec")
"""A network of one kind of data, as plain frozen dataclasses."""

NO_AUGMENTATION = Augmentation(name="none")


@dataclasses.dataclass(frozen=True)
class Data(Generic[Split]):
  """What networks are trained, chosen and tested on.

  Attributes:
    train, validation, test: the splits.
    target: what networks predict.
    num_classes: classes or tags; 1 if the labels are numbers.
    source: the arguments of loading, as JSON values, with the "kind" of data: `lineage` loads again by them.
    settings: what else about the data decides a run's result, as JSON values.
    kept: what is needed to use a network besides its weights, as JSON values.
    notes: what a user should know of how the data were read.
    teacher_train: what a teacher that is trained here learns from; None: from `train`, as the students.
    augmentation: of the training examples.
    views: of each training example that students go through.
    teacher_views: of each training example that a network trained without a cache goes through.
  """

  train: Split
  validation: Split
  test: Split
  target: Target
  num_classes: int
  source: dict[str, Any]
  settings: dict[str, Any]
  kept: dict[str, Any]
  notes: Sequence[str] = ()
  teacher_train: Split | None = None
  augmentation: Augmentation = NO_AUGMENTATION
  views: int = 1
  teacher_views: int = 1


class Initial(NamedTuple):
  """What a network starts from, if not all of it is fresh.

  Attributes:
    variables: a part of its variables, nested dictionaries.
    link: to what lies outside the study; None if that is the teacher of the study.
    weights: whether the variables are weights of another network, and not tables made from the data.
  """

  variables: PyTree
  link: Link | None
  weights: bool = True


class ReadyTeacher(NamedTuple, Generic[Spec]):
  """A teacher that was trained elsewhere.

  Attributes:
    spec: which network.
    variables: on the host.
    link: to its weights.
    source: what reports call them.
  """

  spec: Spec
  variables: PyTree
  link: Link
  source: str


def _fresh(role: Role, taught: PyTree | None) -> None:
  """All of a network is fresh."""


def _no_teacher() -> None:
  """No teacher was trained elsewhere."""


def _as_it_is(spec: Spec) -> Spec:
  return spec


@dataclasses.dataclass(frozen=True)
class Networks(Generic[Spec]):
  """The networks of a study.

  Attributes:
    teacher, student: their specifications.
    build: (specification, mapped axis of its training or None) -> the network.
    label: what tables call a specification.
    assistant: gives its specification, when a method asks for it: one that is not needed may not fit.
    taught: a teacher's specification -> the same with pseudo classifiers on its layers, if methods read them.
    ready_teacher: gives the teacher if it is imported; None if it is trained here.
    initial: (role, the teacher's parameters or None) -> what the network of that role starts from.
    teacher_widths: of each of the teacher's layers, for methods that project to them.
    notes: what a user should know of where they start.
  """

  teacher: Spec
  student: Spec
  build: Callable[[Spec, str | None], nn.Module]
  label: Callable[[Spec], str]
  assistant: Callable[[], Spec] | None = None
  taught: Callable[[Spec], Spec] = _as_it_is
  ready_teacher: Callable[[], ReadyTeacher[Spec] | None] = _no_teacher
  initial: Callable[[Role, PyTree | None], Initial | None] = _fresh
  teacher_widths: tuple[int, ...] | None = None
  notes: Sequence[str] = ()


class CachePlan(NamedTuple):
  """How the outputs of one network are cached.

  Attributes:
    spec: what the cache must be.
    predict: (network, its variables) -> what it gives for rows of the training examples.
    read: a finished cache -> the teacher of a student.
  """

  spec: teacher_cache.CacheSpec
  predict: Callable[[nn.Module, PyTree], predicting.Predict]
  read: Callable[[teacher_cache.Cache], Teacher]


@dataclasses.dataclass(frozen=True)
class Header:
  """What results.json has of the data, the metric and where networks came from.

  Attributes:
    dataset: facts of the data, besides those that all kinds of data have.
    metric: how methods are ranked.
    case: structures of teacher and student; None if there are none.
    official_examples: how many training examples, held-out ones included, published numbers rest on, or 0.
    teacher_source: where a teacher that is trained here came from, in words.
    student_source: what the student starts from, in words; empty: random numbers.
  """

  dataset: dict[str, Any]
  metric: dict[str, Any]
  case: dict[str, Any] | None = None
  official_examples: int = 0
  teacher_source: str = "trained"
  student_source: str = ""


def _no_doubt(found: Mapping[str, float]) -> str:
  return ""


@dataclasses.dataclass(frozen=True)
class Domain(Generic[Spec]):
  """A kind of data at the service of one study.

  Attributes:
    data: what is read.
    networks: what is trained.
    evaluation: how networks are judged.
    cache_plan: (specification, digest of the network) -> how its outputs are cached.
    header: for results.json.
    check: refuses, before anything is trained, recipes that later stages could not train, by a ValueError;
      gives notes for the user.
    doubt: the metrics of an imported teacher -> what to look at, if they are no better than chance, or "".
  """

  data: Data[Any]
  networks: Networks[Spec]
  evaluation: Evaluation
  cache_plan: Callable[[Spec, str], CachePlan]
  header: Header
  check: Callable[[Mapping[str, Recipe]], Sequence[str]]
  doubt: Callable[[Mapping[str, float]], str] = _no_doubt
