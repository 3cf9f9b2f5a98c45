"""Studies of tagged and parsed sentences: structural knowledge distillation in its six cases."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np
import tyro

from experiments.config import Registry, Study, method_settings
from experiments.domains.domain import Domain
from kd_jax import inference, structured_recipes, teacher_cache
from kd_jax.data import corpora
from kd_jax.data.augmentation import Augmentation
from kd_jax.data.sequences import SequenceDataset
from kd_jax.models.sequence_spec import (
  Head,
  SequenceSpec,
  build_sequence_model,
  sequence_model_name,
)
from kd_jax.phases import Recipe
from kd_jax.structured import layout
from kd_jax.training.evaluation import PARSING, TAGGING, Evaluation
from kd_jax.training.step import cached_structures
from kd_jax.types import Batch

MethodSettings = method_settings("SequenceMethodSettings", structured_recipes.RECIPES)
# The k best trees of a parser are known for k = 1 alone.
_one = MethodSettings()
PARSING_SETTINGS = dataclasses.replace(
  _one,
  topk_kd=dataclasses.replace(_one.topk_kd, k=1),
  multi_grained=dataclasses.replace(_one.multi_grained, k=1),
)
NO_AUGMENTATION = Augmentation(name="none")


@dataclasses.dataclass(frozen=True)
class Case:
  """One of the paper's cases.

  Attributes:
    teacher, student: heads of the two networks.
    marginals: of the teacher, over the student's substructures: for reports.
  """

  teacher: Head
  student: Head
  marginals: str


CASES = {
  "1a": Case("crf", "crf", "of pairs of tags, by forward-backward"),
  "1b": Case("parser", "tags", "of heads and relations, each token by itself"),
  "2a": Case("crf", "maxent", "of single tags, by forward-backward"),
  "2b": Case("second_order", "tags", "of heads after mean field, and of relations"),
  "3": Case("maxent", "crf", "of pairs of tags, as products"),
  "4": Case("spans", "maxent", "of BIOES tags, by dynamic programming over spans"),
}


@dataclasses.dataclass(frozen=True)
class SequenceStudy(Study):
  """A comparison of methods on sentences."""

  registry: ClassVar[Registry] = structured_recipes.RECIPES
  corpora: ClassVar[tuple[str, ...]]
  vocabulary_task: ClassVar[str]
  evaluation: ClassVar[Evaluation]
  metric: ClassVar[dict[str, Any]]

  dataset: str = "auto"
  """Corpus: conll2003 (NER) or en_ewt (parsing) as prepared by TFDS, sample (built in), or auto: the
  corpus where it is prepared, else the sample."""
  files: tuple[Path, ...] = ()
  """Your own training, validation and test file instead: CoNLL columns (NER) or CoNLL-U (parsing)."""
  skip_malformed: bool = False
  """Leave malformed sentences of files out, and say how many, instead of refusing them."""
  min_count: int = 2
  """Words that occur more rarely in the training sentences are read as unknown."""
  max_length: int | None = None
  """Leave longer training sentences out, and say how many."""
  teacher: SequenceSpec = SequenceSpec(width=128)
  """The teacher's network; the case says what it predicts."""
  student: SequenceSpec = SequenceSpec(width=32)
  """The student's network; the case says what it predicts."""
  settings: Annotated[MethodSettings, tyro.conf.arg(name="")] = dataclasses.field(
    default_factory=MethodSettings
  )
  """Of each method."""

  def __post_init__(self):
    super().__post_init__()
    if self.files and len(self.files) != 3:
      raise ValueError(f"files are three: for training, validation and test; got {len(self.files)}")
    if self.dataset not in ("auto", *self.corpora):
      raise ValueError(f"dataset is auto or {' or '.join(self.corpora)}, got {self.dataset!r}")
    if self.max_length is not None and self.max_length < 1:
      raise ValueError(f"max_length must be at least 1, got {self.max_length}")

  def domain(self, data_dir: Path | None) -> "Sequences":
    return Sequences(self, data_dir)

  def shrunk(self) -> "SequenceStudy":
    small = {"word_width": 8, "character_width": 4, "width": 8, "arc_width": 8}
    small |= {"relation_width": 4, "second_order_width": 4}
    return dataclasses.replace(
      self,
      dataset="sample",
      train_limit=24,
      batch_size=8,
      teacher=dataclasses.replace(self.teacher, **small),
      student=dataclasses.replace(self.student, **small),
      teacher_epochs=1,
      epochs=2,
      seeds=1,
    )


@dataclasses.dataclass(frozen=True)
class TaggingStudy(SequenceStudy):
  """Named entity recognition."""

  corpora: ClassVar = corpora.TAGGING
  vocabulary_task: ClassVar = "tagging"
  evaluation: ClassVar = TAGGING
  metric: ClassVar = {
    "key": "f1",
    "label": "F1",
    "others": [
      {"key": "precision", "label": "precision"},
      {"key": "recall", "label": "recall"},
      {"key": "token_accuracy", "label": "token accuracy"},
    ],
    "examples": "sentences",
  }

  case: Literal["1a", "2a", "3", "4"] = "1a"
  """Structures of teacher and student: 1a CRF to CRF, 2a CRF to independent tags, 3 independent tags to
  CRF, 4 spans to independent tags."""
  methods: tuple[str, ...] = tuple(structured_recipes.RECIPES)
  """Methods to compare, in the order of the tables."""


@dataclasses.dataclass(frozen=True)
class ParsingStudy(SequenceStudy):
  """Dependency parsing: a graph-based parser teaches parsing as tagging."""

  corpora: ClassVar = corpora.PARSING
  vocabulary_task: ClassVar = "parsing"
  evaluation: ClassVar = PARSING
  metric: ClassVar = {
    "key": "las",
    "label": "LAS",
    "others": [
      {"key": "uas", "label": "UAS"},
      {"key": "las_no_punctuation", "label": "LAS without punctuation"},
      {"key": "uas_no_punctuation", "label": "UAS without punctuation"},
    ],
    "examples": "sentences",
  }

  case: Literal["1b", "2b"] = "1b"
  """The teacher: 1b a first-order parser, 2b a second-order parser; the student tags."""
  methods: tuple[str, ...] = ("scratch", "token_kd", "posterior_kd", "topk_kd", "structural_kd")
  """Methods to compare, in the order of the tables."""
  settings: Annotated[MethodSettings, tyro.conf.arg(name="")] = dataclasses.field(
    default_factory=lambda: PARSING_SETTINGS
  )
  """Of each method."""


@dataclasses.dataclass(frozen=True)
class SequenceNetwork:
  """A network for sentences: an encoder's specification, and what the network predicts."""

  spec: SequenceSpec
  head: Head


class Sequences(Domain):
  """The data and the networks of a `SequenceStudy`."""

  assistant = None
  augmentation = NO_AUGMENTATION
  views = teacher_views = 1

  def __init__(self, study: SequenceStudy, data_dir: Path | None):
    """Loads the corpus.

    Raises:
      ValueError: a corpus that is not prepared, malformed sentences, sizes that do not fit.
    """
    self.study, self.evaluation = study, study.evaluation
    self.notes: list[str] = []
    self.source = _source(study, data_dir, self.notes)
    found = load(self.source, data_dir)
    self.train, self.validation, self.test = found[:3]
    self.vocabulary = found.vocabulary
    if found.problems:
      count, first = len(found.problems), found.problems[0]
      self.notes.append(f"left out {count} malformed sentence{'s'[: count > 1]}, first {first}")
    left_out = int((self.train.lengths > (study.max_length or np.inf)).sum())
    if left_out == len(self.train):
      raise ValueError(f"no training sentence has at most max_length={study.max_length} tokens")
    if left_out:
      self.notes.append(f"left out {left_out} training sentences of over {study.max_length} tokens")
      self.train = fitting(self.train, study.max_length)
    self.case = CASES[study.case]
    self.teacher = SequenceNetwork(study.teacher, self.case.teacher)
    self.student = SequenceNetwork(study.student, self.case.student)
    labels = self.vocabulary.labels
    tags = self.vocabulary.parsing_tags
    self.num_classes = len(tags) if tags else 4 * len(labels) + 1

  def build(self, spec: SequenceNetwork, axis_name=None):
    del axis_name  # no statistics of batches
    words = self.vocabulary
    labels: dict[str, Any] = {
      "maxent": {"num_labels": self.num_classes},
      "crf": {"num_labels": self.num_classes},
      "tags": {"offsets": words.offsets, "relations": words.relations},
    }.get(spec.head, {"num_labels": len(words.labels)})
    return build_sequence_model(
      spec.spec,
      spec.head,
      num_words=words.num_words,
      num_characters=words.num_characters,
      **labels,
    )

  def label(self, spec: SequenceNetwork) -> str:
    return sequence_model_name(spec.spec, spec.head)

  def convolutional(self, spec) -> bool:
    return False  # the character CNN is written as matrix products

  def seeds_together(self, seeds: int) -> int:
    # On CPU three recurrent students as one program take twice the time of one after another.
    return 1 if jax.default_backend() == "cpu" else seeds

  def check(self, recipes: dict[str, Recipe]) -> None:
    for split in (self.validation, self.test):
      if not len(split):
        raise ValueError(f"{split.name} has no {split.split} sentences")
    bucket = self.train.buckets[0]
    example, labels = jax.tree.map(lambda x: x[:2], (bucket.inputs, bucket.labels))
    outputs = [self._abstract_outputs(network, example) for network in (self.student, self.teacher)]
    for recipe in recipes.values():
      for term in (term for phase in recipe.phases for term in phase.objective):
        # Nothing is computed: a method that the case's structures do not suit is refused here.
        jax.eval_shape(
          lambda student, teacher, t=term: t.loss_at(student, teacher, Batch(example, labels), 0.0),
          *outputs,
        )

  def _abstract_outputs(self, network: SequenceNetwork, example):
    model = self.build(network)

    def run(key):
      return model.init_with_output(key, example, train=False)[0]

    return jax.eval_shape(run, jax.random.key(0))

  def data_settings(self) -> dict[str, Any]:
    return {"vocabulary": self.vocabulary.digest}

  def cache_spec(self, digest, model, spec):
    kind = type(self._abstract_outputs(spec, self._example()).scores).__name__
    return teacher_cache.make_spec(
      digest,
      model,
      self.train,
      NO_AUGMENTATION,
      1,
      dtype=self.study.cache_dtype,
      num_classes=self.num_classes,
      structure=kind,
    )

  def _example(self):
    return jax.tree.map(lambda x: x[:1], self.train.buckets[0].inputs)

  def predictor(self, spec, model, variables):
    return inference.structure_predictor(model, variables, self.train)

  def cached_teacher(self, cache):
    return cached_structures(
      [
        layout.unpack(cache.outputs.take(bucket.rows), bucket.length)
        for bucket in self.train.buckets
      ]
    )

  def kept_with_checkpoints(self) -> dict[str, Any]:
    return {"vocabulary": self.vocabulary.to_json()}

  def header(self) -> dict[str, Any]:
    words, longest = self.vocabulary, int(self.train.lengths.max())
    return {
      "dataset": {
        "tokens": int(self.train.lengths.sum()),
        "longest_sentence": longest,
        "words": len(words.words),
        "labels": list(words.labels),
        "tags": self.num_classes,
        "notes": self.notes,
      },
      "metric": self.study.metric,
      "case": {
        "name": self.study.case,
        "teacher": self.case.teacher,
        "student": self.case.student,
        "marginals": self.case.marginals,
      },
    }


def _source(study: SequenceStudy, data_dir: Path | None, notes: list[str]) -> dict[str, Any]:
  """The arguments of loading, as JSON values."""
  if study.files:
    source: str | list[str] = [str(path.absolute()) for path in study.files]
  elif study.dataset != "auto":
    source = study.dataset
  else:
    prepared = next(name for name in study.corpora if name != "sample")
    found = corpora.prepared_dir(prepared, data_dir) is not None
    source = prepared if found else "sample"
    if not found:
      notes.append(f"{prepared} is not prepared here (see --data-dir): the built-in sample instead")
  return {
    "kind": "sequences",
    "task": study.vocabulary_task,
    "source": source,
    "limit": study.train_limit,
    "min_count": study.min_count,
    "skip_malformed": study.skip_malformed,
    "max_length": study.max_length,
  }


def load(source: dict[str, Any], data_dir: Path | None) -> corpora.SequenceSplits:
  """The corpus that a study reads; `max_length` is not applied yet."""
  loader = {"tagging": corpora.load_tagging, "parsing": corpora.load_parsing}[source["task"]]
  options = {name: source[name] for name in ("limit", "min_count", "skip_malformed")}
  return loader(source["source"], data_dir=data_dir, **options)


def fitting(dataset: SequenceDataset, max_length: int | None) -> SequenceDataset:
  """The sentences of at most so many tokens."""
  return dataset if max_length is None else dataset.take(dataset.lengths <= max_length)


def fingerprint(source: dict[str, Any], data_dir: Path | None) -> str | None:
  """Of the training sentences as they are on disk now; None where they are not."""
  name = source["source"]
  if isinstance(name, list):
    if not all(Path(file).is_file() for file in name):
      return None
  elif name != "sample" and corpora.prepared_dir(name, data_dir) is None:
    return None
  return fitting(load(source, data_dir).train, source["max_length"]).fingerprint
