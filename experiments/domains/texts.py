"""The data and the networks of a study of texts."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.domains.domain import Domain, Initial, ReadyTeacher
from experiments.domains.text_sources import (
  described,
  folder_link,
  load,
  metric_kind,
  weights_folder,
)
from experiments.domains.text_study import TextStudy
from kd_jax import inference, teacher_cache
from kd_jax.data.augmentation import Augmentation
from kd_jax.data.tokenization import Tokenizer, check_vocabulary
from kd_jax.metrics import TEXT_METRICS
from kd_jax.models import hf_config, hf_weights, text_params
from kd_jax.models.text_spec import (
  TEXT_FAMILIES,
  TextSpec,
  bert_spec,
  build_text_model,
  text_model_name,
  text_sizes,
)
from kd_jax.phases import Recipe
from kd_jax.training.evaluation import texts
from kd_jax.training.step import cached_teacher
from kd_jax.types import Batch

NO_AUGMENTATION = Augmentation(name="none")


@dataclasses.dataclass(frozen=True)
class TextNetwork:
  """A network for texts.

  Attributes:
    spec: which.
    sizes: what it shares with the tokenizer and the weights folder, arguments of `build_text_model`.
    layer_classifiers: whether its inner layers have pseudo classifiers.
  """

  spec: TextSpec
  sizes: dict[str, Any]
  layer_classifiers: bool = False


class Texts(Domain):
  """The data and the networks of a `TextStudy`."""

  augmentation = NO_AUGMENTATION
  views = teacher_views = 1

  def __init__(self, study: TextStudy, data_dir: Path | None):
    """Loads the texts and the tokenizer.

    Raises:
      ValueError: data or weights that are not there, that cannot be read or do not fit together.
    """
    self.study = study
    self.notes: list[str] = []
    self.weights = weights_folder(study.teacher_weights)
    self.student_weights = weights_folder(study.student_weights)
    self.source = {
      "kind": "texts",
      "task": study.task,
      "files": [str(path.absolute()) for path in study.files],
      "columns": [study.text_column, study.pair_column, study.label_column],
      "regression": study.regression,
      "validation_examples": study.validation_examples,
      "limit": study.train_limit,
      "max_length": study.max_length,
      "weights": study.teacher_weights,
      "vocab_size": study.vocab_size,
    }
    found, self.tokenizer = load(self.source, data_dir)
    self.train, self.validation, self.test, notes = found
    self.notes += notes
    self.num_classes = self.train.num_classes
    self.evaluation = texts(metric_kind(self.source), regression=self.num_classes == 1)
    self.teacher = self._teacher_network()
    self.teacher_width = self.teacher.spec.width
    self.student = self._student_network()
    self.assistant = self._network(study.assistant, self.weights)

  def _teacher_network(self) -> TextNetwork:
    if self.weights is None:
      return self._network(dataclasses.replace(self.study.teacher, start="random"), None)
    config = hf_config.read_config(self.weights)
    kept = {name: getattr(self.study.teacher, name) for name in ("dropout", "dtype")}
    spec = bert_spec(config, start="pretrained", **kept)
    return TextNetwork(spec, self._sizes(self.weights))

  def _student_network(self) -> TextNetwork:
    study = self.study
    if self.student_weights is None:
      return self._network(study.student, self.weights)
    folder = self.student_weights
    config = hf_config.read_config(folder)
    tokenizer = Tokenizer.from_folder(folder, max_length=study.max_length)
    if tokenizer.vocab_size != self.tokenizer.vocab_size:
      raise ValueError(
        f"student_weights reads {tokenizer.vocab_size} subwords, the teacher {self.tokenizer.vocab_size}: they "
        "must share a tokenizer"
      )
    kept = {name: getattr(study.student, name) for name in ("dropout", "dtype")}
    layers = config.layers if not study.student.teacher_layers else study.student.layers
    spec = bert_spec(
      config, layers, start="pretrained", teacher_layers=study.student.teacher_layers, **kept
    )
    return TextNetwork(spec, self._sizes(folder))

  def _network(self, spec: TextSpec, weights: Path | None) -> TextNetwork:
    if spec.start == "pretrained" and weights is None:
      note = "there is no weights folder: networks start from random numbers"
      self.notes += [] if note in self.notes else [note]
      spec = dataclasses.replace(spec, start="random")
    return TextNetwork(spec, self._sizes(weights))

  def _sizes(self, weights: Path | None) -> dict[str, Any]:
    if weights is not None:
      sizes = text_sizes(hf_config.read_config(weights))
      check_vocabulary(self.tokenizer, sizes["vocab_size"])
      return sizes
    return {
      "vocab_size": self.tokenizer.vocab_size,
      # RoBERTa counts its positions from pad_id + 1.
      "max_positions": self.study.max_length + self.tokenizer.pad_id + 1,
      "pad_id": self.tokenizer.pad_id,
    }

  def build(self, spec: TextNetwork, axis_name=None):
    del axis_name  # no statistics of batches
    return build_text_model(
      spec.spec,
      num_outputs=self.num_classes,
      pseudo_classifiers=spec.layer_classifiers,
      # Under jit what no loss reads is never computed.
      collect_tokens=self.study.live_teacher,
      **spec.sizes,
    )

  def label(self, spec: TextNetwork) -> str:
    return text_model_name(spec.spec)

  def convolutional(self, spec) -> bool:
    return False  # the gated CNN is written as matrix products

  def seeds_together(self, seeds: int) -> int:
    return 1

  def check(self, recipes: dict[str, Recipe]) -> None:
    for split in (self.validation, self.test):
      if not len(split):
        raise ValueError(f"{split.name} has no {split.split} texts")
    self._refuse_outputs_not_kept(recipes)
    bucket = self.train.buckets[0]
    example, labels = jax.tree.map(lambda x: x[:2], (bucket.inputs, bucket.labels))
    taught = self.with_layer_classifiers(self.teacher)
    networks = {"student": self.student, "teacher": taught, "assistant": self.assistant}
    outputs = {name: self._abstract_outputs(spec, example) for name, spec in networks.items()}
    for name, recipe in recipes.items():
      student_of = [(recipe, "teacher" if recipe.assistant is None else "assistant", "student")]
      if recipe.assistant is not None:
        student_of.append((recipe.assistant, "teacher", "assistant"))
      for one, teacher, student in student_of:
        for term in (term for phase in one.phases for term in phase.objective):
          try:
            _trace(term, outputs[student], outputs[teacher], Batch(example, labels))
          except ValueError as error:
            raise ValueError(f"{name} does not suit these networks: {error}") from None

  def _refuse_outputs_not_kept(self, recipes: dict[str, Recipe]) -> None:
    """Before anything is trained: methods that read what the cache is not to hold."""
    if self.study.live_teacher:
      return
    for name, recipe in recipes.items():
      for term in (term for phase in recipe.phases for term in phase.objective):
        absent = [field for field in term.reads if field not in self._kept(self.teacher)]
        if term.needs_teacher and absent:
          remedy = (
            "run the teacher live: --live-teacher"
            if "tokens" in absent
            else "name them in cache_outputs, or use --live-teacher"
          )
          raise ValueError(f"{name} reads the teacher's {', '.join(absent)}, not cached: {remedy}")

  def _abstract_outputs(self, network: TextNetwork, example):
    model = self.build(network)
    return jax.eval_shape(
      lambda key: model.init_with_output(key, example, train=False)[0], jax.random.key(0)
    )

  def data_settings(self) -> dict[str, Any]:
    return {"tokenizer": self.tokenizer.digest, "max_length": self.study.max_length}

  # Where networks start.

  def ready_teacher(self) -> ReadyTeacher | None:
    if self.study.finetune_teacher:
      return None
    params = hf_weights.load_bert(self.weights)
    if "classifier" not in params:
      raise ValueError(
        f"{self.weights} has no classifier: fine-tune the teacher (--finetune-teacher), or name a folder "
        "whose network was fine-tuned on this task"
      )
    self._refuse_other_labels(params["classifier"]["bias"].shape[0])
    return ReadyTeacher(
      self.teacher, {"params": params}, folder_link(self.weights), self.weights.name
    )

  def _refuse_other_labels(self, outputs: int) -> None:
    names, found = self.train.class_names, hf_config.read_labels(self.weights)
    if outputs != self.num_classes:
      raise ValueError(
        f"the classifier in {self.weights} has {outputs} outputs, {self.train.name} has {self.num_classes}: "
        "teacher and student need one set of labels"
      )
    if found is not None and [n.lower() for n in found] != [n.lower() for n in names]:
      raise ValueError(
        f"the classifier in {self.weights} is of {', '.join(found)}, {self.train.name} of {', '.join(names)}: "
        "teacher and student need one set of labels, in one order"
      )

  def initial(self, spec: TextNetwork, teacher=None) -> Initial | None:
    if spec.spec.start == "random":
      return None
    if spec.spec.start == "teacher":
      if teacher is None:
        raise ValueError(
          "a teacher cannot start from itself: teacher.start is pretrained or random"
        )
      given, parent = teacher.variables["params"], None
    else:
      own = self.student_weights if spec is self.student else None
      folder = own or self.weights
      given, parent = hf_weights.load_bert(folder), folder_link(folder)
    if not TEXT_FAMILIES[spec.spec.family].attends:
      taken = text_params.copyable(given, self._fresh_shapes(spec))
      if not taken:
        self._note_once("word vectors are of other widths: none are copied")
        return None
    else:
      numbers = spec.spec.teacher_layers or tuple(range(1, spec.spec.layers + 1))
      taken = text_params.select_layers(given, numbers)
    return Initial({"params": taken}, parent)

  def _note_once(self, note: str) -> None:
    if note not in self.notes:
      self.notes.append(note)

  def _fresh_shapes(self, spec: TextNetwork):
    example = jax.tree.map(lambda x: x[:1], self.train.buckets[0].inputs)
    model = self.build(spec)
    return jax.eval_shape(lambda key: model.init(key, example, train=False), jax.random.key(0))[
      "params"
    ]

  # Pseudo classifiers and caches.

  def with_layer_classifiers(self, spec: TextNetwork) -> TextNetwork:
    """The network with pseudo classifiers, where it has layers for them."""
    return dataclasses.replace(spec, layer_classifiers=spec.spec.layers > 1)

  def _kept(self, spec: TextNetwork) -> tuple[str, ...]:
    """Of a network in its cache: an assistant, or a teacher of one layer, has no pseudo classifiers."""
    names = self.study.cache_outputs
    has = spec.layer_classifiers or (spec is self.teacher and spec.spec.layers > 1)
    return tuple(name for name in names if has or name != "layer_logits")

  def cache_spec(self, digest, model, spec):
    return teacher_cache.make_spec(
      digest,
      model,
      self.train,
      NO_AUGMENTATION,
      1,
      dtype=self.study.cache_dtype,
      outputs=self._kept(spec),
    )

  def predictor(self, spec, model, variables):
    return inference.fields_predictor(model, variables, self.train, self._kept(spec))

  def cached_teacher(self, cache):
    return cached_teacher(cache.outputs, self.train.buckets)

  def kept_with_checkpoints(self) -> dict[str, Any]:
    # The tokenizer of a weights folder is read from there; one that was learnt here is kept.
    return {"tokenizer": self.tokenizer.to_json()} if self.weights is None else {}

  def header(self) -> dict[str, Any]:
    first, *others = TEXT_METRICS[metric_kind(self.source)]
    return {
      "dataset": {
        "task": self.train.name,
        "num_classes": self.num_classes,
        "classes": list(self.train.class_names),
        "longest_text": int(self.train.lengths.max()),
        "subwords": self.tokenizer.vocab_size,
        "notes": self.notes,
      },
      "metric": described(first) | {"others": [described(o) for o in others], "examples": "texts"},
    }


def _trace(term, student, teacher, batch: Batch) -> None:
  """Nothing is computed: a loss that the networks' outputs do not suit raises here."""

  def loss(student, teacher):
    if term.heads is not None:
      student = term.heads.init_with_output(jax.random.key(0), student)[0]
    return term.loss_at(student, teacher, batch, jnp.float32(0))

  jax.eval_shape(loss, student, teacher)
