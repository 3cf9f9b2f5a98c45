"""What a study of tagged or parsed sentences is: structural knowledge distillation in its six cases."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from kd_jax.data import corpora
from kd_jax.models.sequence_spec import Head, SequenceSpec
from kd_jax.recipes import methods_for
from kd_jax.training.evaluation import PARSING, TAGGING, Evaluation

from .study import Study, method_settings

MethodSettings = method_settings("SequenceMethodSettings", "sentences")
# The best tree alone: each further one costs another parse of the sentence.
_one = MethodSettings()
PARSING_SETTINGS = dataclasses.replace(
  _one,
  topk_kd=dataclasses.replace(_one.topk_kd, k=1),
  multi_grained=dataclasses.replace(_one.multi_grained, k=1),
)


@dataclasses.dataclass(frozen=True)
class Case:
  """One of the paper's cases.

  Attributes:
    teacher, student: heads of the two networks.
    marginals: of the teacher, over the student's substructures: for reports.
    alike: methods whose loss is structural KD's here, up to what does not depend on the student.
  """

  teacher: Head
  student: Head
  marginals: str
  alike: tuple[str, ...] = ()


CASES = {
  "1a": Case("crf", "crf", "of pairs of tags, by forward-backward"),
  "1b": Case("parser", "tags", "of heads and relations, each token by itself", ("token_kd",)),
  "2a": Case("crf", "maxent", "of single tags, by forward-backward", ("posterior_kd",)),
  "2b": Case("second_order", "tags", "of heads after mean field, and of relations"),
  "3": Case("maxent", "crf", "of pairs of tags, as products"),
  "4": Case(
    "spans", "maxent", "of BIOES tags, by dynamic programming over spans", ("posterior_kd",)
  ),
}


@dataclasses.dataclass(frozen=True)
class SequenceStudy(Study):
  """A comparison of methods on sentences."""

  kind: ClassVar = "sentences"
  quick_method: ClassVar = "structural_kd"
  few_methods: ClassVar = ("token_kd", "structural_kd")
  corpora: ClassVar[tuple[str, ...]]
  vocabulary_task: ClassVar[str]
  evaluation: ClassVar[Evaluation]
  metric: ClassVar[dict[str, Any]]

  dataset: str = "auto"
  """Corpus: conll2003 (NER) or en_ewt (parsing) as prepared by TFDS, sample (built in), or auto: the
  corpus where it is prepared, else the sample."""
  files: tuple[Path, ...] = ()
  """Your own training, validation and test file instead: CoNLL columns (NER) or CoNLL-U (parsing)."""
  unlabelled: tuple[Path, ...] = ()
  """Files of more training sentences, whose words alone are read: CoNLL columns, CoNLL-U (.conllu), or a
  sentence a line (.txt). The teacher does not see them in training."""
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
  methods: tuple[str, ...] = tuple(methods_for("sentences"))
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

  tag_min_count: int = 1
  """The student's tags, pairs of head offset and relation, occur so often in the training sentences."""
  case: Literal["1b", "2b"] = "1b"
  """The teacher: 1b a first-order parser, 2b a second-order parser; the student tags."""
  methods: tuple[str, ...] = ("scratch", "token_kd", "posterior_kd", "topk_kd", "structural_kd")
  """Methods to compare, in the order of the tables."""
  settings: Annotated[MethodSettings, tyro.conf.arg(name="")] = dataclasses.field(
    default_factory=lambda: PARSING_SETTINGS
  )
  """Of each method."""
