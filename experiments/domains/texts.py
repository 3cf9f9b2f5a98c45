"""The data and the networks of a study of texts."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.domains.domain import Domain, Initial, ReadyTeacher
from experiments.domains.text_networks import TextNetwork, TextNetworks
from experiments.domains.text_sources import (
  LABELS,
  chance,
  described,
  load,
  metric_kind,
  name_of,
  place,
)
from experiments.domains.text_study import TextStudy
from kd_jax.data import glue
from kd_jax.data.augmentation import Augmentation
from kd_jax.data.labelled import labelled_part
from kd_jax.data.texts import TextDataset
from kd_jax.metrics import TEXT_METRICS
from kd_jax.models.text_spec import build_text_model, text_model_name
from kd_jax.recipes.parts import Recipe
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.training import cached_teacher
from kd_jax.training.evaluation import texts
from kd_jax.types import Batch

NO_AUGMENTATION = Augmentation(name="none")


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
    self.source = {
      "kind": "texts",
      "task": study.task,
      "files": [str(path.expanduser().absolute()) for path in study.files],
      "columns": [study.text_column, study.pair_column, study.label_column],
      "regression": study.regression,
      "validation_examples": study.validation_examples,
      "limit": study.train_limit,
      "unlabelled_share": study.unlabelled_share,
      "unlabelled": [str(path.expanduser().absolute()) for path in study.unlabelled],
      "max_length": study.max_length,
      "weights": place(study.teacher_weights),
      "student_weights": place(study.student_weights),
      "vocab_size": study.vocab_size,
    }
    found, self.tokenizer = load(self.source, data_dir)
    self.train, self.validation, self.test, notes = found
    self.notes += notes
    if study.unlabelled_share and not study.finetune_teacher:
      self.notes.append("the imported teacher may have learnt from labels that are hidden here")
    self.num_classes = self.train.num_classes
    if study.paper is not None:
      self.official_examples = glue.check_task(study.task).sizes[0]
    if self.num_classes == 1:
      self.label_mean = float(np.mean(_labels(labelled_part(self.train)), dtype=np.float64))
    self.evaluation = texts(metric_kind(self.source), regression=self.num_classes == 1)
    self.networks = TextNetworks(study, self.tokenizer, self.train)
    self.notes += self.networks.notes
    self.teacher, self.student = self.networks.teacher, self.networks.student
    if self.networks.folder is not None:
      self.teacher_source = f"fine-tuned from {name_of(study.teacher_weights)}"
    self.student_source = self.networks.source(self.student)

  @functools.cached_property
  def teacher_width(self) -> int:
    """Of the states as the teacher returns them: a BiLSTM's are twice as wide as the network."""
    example = jax.tree.map(lambda x: x[:1], self.train.buckets[0].inputs)
    return self._abstract_outputs(self.teacher, example).layers[-1].shape[-1]

  @functools.cached_property
  def assistant(self) -> TextNetwork:
    """Made where a method asks for it: the sizes of one that is not needed may not fit."""
    network, notes = self.networks.network("assistant", self.study.assistant)
    self.notes += notes
    return network

  def build(self, spec: TextNetwork, axis_name=None):
    del axis_name  # no statistics of batches
    return build_text_model(
      spec.spec,
      num_outputs=self.num_classes,
      pseudo_classifiers=spec.layer_classifiers,
      # Under jit what no loss reads is never computed.
      collect_tokens=self.study.live_teacher,
      output_mean=self.label_mean,
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
    labelled = None if bucket.labelled is None else bucket.labelled[:2]
    batch = Batch(example, labels, labelled=labelled)
    taught = self.with_layer_classifiers(self.teacher)
    networks = {"student": self.student, "teacher": taught}
    if any(recipe.assistant is not None for recipe in recipes.values()):
      networks["assistant"] = self.assistant
    outputs = {name: self._abstract_outputs(spec, example) for name, spec in networks.items()}
    for name, recipe in recipes.items():
      student_of = [(recipe, "teacher" if recipe.assistant is None else "assistant", "student")]
      if recipe.assistant is not None:
        student_of.append((recipe.assistant, "teacher", "assistant"))
      for one, teacher, student in student_of:
        for term in (term for phase in one.phases for term in phase.objective):
          try:
            _trace(term, outputs[student], outputs[teacher], batch)
          except ValueError as error:
            raise ValueError(f"{name} does not suit these networks: {error}") from None

  def _refuse_outputs_not_kept(self, recipes: dict[str, Recipe]) -> None:
    """Before anything is trained: methods that read what the teacher has not, or the cache is not to hold."""
    for name, recipe in recipes.items():
      for term in (term for phase in recipe.phases for term in phase.objective):
        if "layer_logits" in term.reads and self.teacher.spec.layers < 2:
          raise ValueError(f"{name} learns from inner layers: the teacher needs at least 2, not 1")
        if self.study.live_teacher:
          continue
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

  def ready_teacher(self) -> ReadyTeacher | None:
    return self.networks.ready_teacher(self.train)

  def doubt(self, found: Mapping[str, float]) -> str:
    labels, select = _labels(self.validation), self.evaluation.select
    if self.num_classes == 1 and found["rmse"] >= np.std(labels) > 0:
      return f"its numbers must be in the labels' unit, from {labels.min():g} to {labels.max():g}"
    if found[select] > chance(select, labels):
      return ""
    order = (
      f"are its classes in the order {', '.join(self.train.class_names)}, "
      if self.train.class_names
      else ""
    )
    return f"{order}was it fine-tuned on this task, and does its tokenizer.json belong to it?"

  def initial(self, spec: TextNetwork, teacher=None) -> Initial | None:
    taught = None if teacher is None else teacher.variables["params"]
    return self.networks.initial(spec, self._fresh_shapes(spec), taught)

  def _fresh_shapes(self, spec: TextNetwork):
    example = jax.tree.map(lambda x: x[:1], self.train.buckets[0].inputs)
    model = self.build(spec)
    return jax.eval_shape(lambda key: model.init(key, example, train=False), jax.random.key(0))

  # Pseudo classifiers and caches.

  def with_layer_classifiers(self, spec: TextNetwork) -> TextNetwork:
    """The network with pseudo classifiers, where their logits are kept and it has layers for them."""
    wanted = self.study.live_teacher or "layer_logits" in self.study.cache_outputs
    return dataclasses.replace(spec, layer_classifiers=wanted and spec.spec.layers > 1)

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
    return predicting.fields_predictor(model, variables, self.train, self._kept(spec))

  def cached_teacher(self, cache):
    return cached_teacher(cache.outputs, self.train.buckets)

  def kept_with_checkpoints(self) -> dict[str, Any]:
    # The tokenizer of a weights folder is read from there; one that was learnt here is kept.
    own = self.networks.folder is None
    kept = {"class_names": list(self.train.class_names)}
    return kept | ({"tokenizer": self.tokenizer.to_json()} if own else {})

  def header(self) -> dict[str, Any]:
    # An error is no fraction: reports know it by its own name.
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
      "metric": described(first)
      | {
        "others": [described(o) for o in others if o in LABELS],
        "examples": "texts",
        "chance": chance(first, _labels(self.test)),
      },
    }


def _labels(split: TextDataset) -> np.ndarray:
  return np.concatenate([bucket.labels for bucket in split.buckets])


def _trace(term, student, teacher, batch: Batch) -> None:
  """Nothing is computed: a loss that the networks' outputs do not suit raises here."""

  def loss(student, teacher):
    if term.heads is not None:
      student = term.heads.init_with_output(jax.random.key(0), student)[0]
    return term.loss_at(student, teacher, batch, jnp.float32(0))

  jax.eval_shape(loss, student, teacher)
