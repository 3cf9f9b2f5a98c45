"""The data and the networks of a study of texts."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from kd_jax.data import glue
from kd_jax.data.labelled import labelled_part
from kd_jax.data.texts import TextDataset
from kd_jax.data.tokenization import Tokenizer
from kd_jax.metrics import TEXT_METRICS
from kd_jax.models.text_spec import TextSpec, build_text_model, text_model_name
from kd_jax.recipes import Classes, Number, Recipe
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.training import cached_teacher
from kd_jax.training.evaluation import Evaluation, texts
from kd_jax.types import Batch, Outputs, PyTree

from . import text_weights, tracing
from .classes import target_of
from .domain import (
  NO_AUGMENTATION,
  CachePlan,
  Data,
  Domain,
  Header,
  Initial,
  Networks,
  ReadyTeacher,
  Role,
)
from .padding import with_few_buckets
from .study import plain
from .text_networks import (
  Resolved,
  resolve_assistant,
  resolve_student,
  resolve_teacher,
)
from .text_sources import (
  LABELS,
  chance,
  described,
  load,
  metric_kind,
  name_of,
  place,
)
from .text_study import TextStudy


@dataclasses.dataclass(frozen=True)
class TextNetworkSpec:
  """A network for texts.

  Attributes:
    spec: which.
    sizes: what it shares with the tokenizer and the weights folder, arguments of `build_text_model`.
    layer_classifiers: whether its inner layers have pseudo classifiers.
  """

  spec: TextSpec
  sizes: dict[str, Any]
  layer_classifiers: bool = False


@dataclasses.dataclass(frozen=True)
class _Members:
  """The networks of a study, resolved, and the network of each.

  Attributes:
    study: whose.
    data: what they read.
    teacher, student: resolved.
  """

  study: TextStudy
  data: Data[TextDataset]
  teacher: Resolved
  student: Resolved

  @functools.cached_property
  def assistant(self) -> Resolved:
    return resolve_assistant(self.study, self.teacher, self.data.train)

  def build(self, spec: TextNetworkSpec, axis_name: str | None = None) -> nn.Module:
    del axis_name  # no statistics of batches
    return build_text_model(
      spec.spec,
      num_outputs=self.data.num_classes,
      pseudo_classifiers=spec.layer_classifiers,
      # Under jit what no loss reads is never computed.
      collect_tokens=self.study.live_teacher,
      output_mean=self.data.target.mean,
      **spec.sizes,
    )

  def taught(self, spec: TextNetworkSpec) -> TextNetworkSpec:
    """The network with pseudo classifiers, if their logits are kept and it has layers for them."""
    wanted = self.study.live_teacher or "layer_logits" in self.study.cache_outputs
    return dataclasses.replace(spec, layer_classifiers=wanted and spec.spec.layers > 1)

  def initial(self, role: Role, taught: PyTree | None) -> Initial | None:
    network: Resolved = getattr(self, role)
    model = self.build(_spec(network))
    fresh = tracing.abstract_variables(model, tracing.example(self.data.train))
    return text_weights.initial(network, fresh, taught)

  def ready_teacher(self) -> ReadyTeacher[TextNetworkSpec] | None:
    if self.study.finetune_teacher:
      return None
    params, link = text_weights.read_classifier(self.teacher, self.data.train)
    return ReadyTeacher(_spec(self.teacher), {"params": params}, link, str(link.name))

  def cache_plan(self, spec: TextNetworkSpec, digest: str) -> CachePlan:
    """See `Domain.cache_plan`."""
    train, kept = self.data.train, self.kept(spec)

    def predict(model: nn.Module, variables: PyTree) -> predicting.Predict:
      return predicting.fields_predictor(model, variables, train, kept)

    return CachePlan(
      teacher_cache.make_spec(
        digest,
        plain(spec),
        train,
        NO_AUGMENTATION,
        1,
        dtype=self.study.cache_dtype,
        outputs=kept,
      ),
      predict,
      lambda cache: cached_teacher(cache.outputs, train.buckets),
    )

  def kept(self, spec: TextNetworkSpec) -> tuple[str, ...]:
    """Of a network in its cache: an assistant, or a teacher of one layer, has no pseudo classifiers."""
    names = self.study.cache_outputs
    return tuple(n for n in names if spec.layer_classifiers or n != "layer_logits")

  def check(self, recipes: Mapping[str, Recipe]) -> tuple[str, ...]:
    """See `Domain.check`."""
    for split in (self.data.validation, self.data.test):
      if not len(split):
        raise ValueError(f"{split.name} has no {split.split} texts")
    taught = self.taught(_spec(self.teacher))
    assistant, notes = None, ()
    if any(recipe.assistant is not None for recipe in recipes.values()):
      spec, notes = _spec(self.assistant), self.assistant.notes
      whole = self.returns(spec)
      assistant = (whole, self.seen(spec, whole))
    tracing.refuse_misfits(
      recipes,
      self.returns(_spec(self.student)),
      self.seen(taught, self.teacher_outputs),
      self.batch,
      assistant,
    )
    return notes

  @functools.cached_property
  def batch(self) -> Batch:
    return tracing.batch_of_two(self.data.train)

  @functools.cached_property
  def teacher_outputs(self) -> Outputs:
    """What the teacher returns, as shapes."""
    return self.returns(self.taught(_spec(self.teacher)))

  def returns(self, spec: TextNetworkSpec) -> Outputs:
    return tracing.abstract_outputs(self.build(spec), self.batch.inputs)

  def seen(self, spec: TextNetworkSpec, outputs: Outputs) -> Outputs:
    """What students see of a network's outputs: all of a live one's, else what the cache keeps."""
    return outputs if self.study.live_teacher else outputs.only(self.kept(spec))


def _spec(network: Resolved) -> TextNetworkSpec:
  return TextNetworkSpec(network.spec, network.sizes)


def open_texts(study: TextStudy, data_dir: Path | None) -> Domain[TextNetworkSpec]:
  """Loads the texts and the tokenizer.

  Raises:
    ValueError: data or weights that are not there, that cannot be read or do not fit together.
  """
  data, tokenizer = _read(study, data_dir)
  teacher = resolve_teacher(study, tokenizer)
  student = resolve_student(study, teacher, data.train)
  members = _Members(study, data, teacher, student)
  evaluation = texts(metric_kind(data.source), regression=data.num_classes == 1)
  return Domain(
    data=data,
    networks=Networks(
      teacher=_spec(teacher),
      student=_spec(student),
      build=members.build,
      label=lambda spec: text_model_name(spec.spec),
      assistant=lambda: _spec(members.assistant),
      taught=members.taught,
      ready_teacher=members.ready_teacher,
      initial=members.initial,
      teacher_widths=tracing.layer_widths(members.teacher_outputs),
      notes=student.notes,
    ),
    evaluation=evaluation,
    cache_plan=members.cache_plan,
    header=_header(study, data, teacher, student),
    check=members.check,
    doubt=functools.partial(_doubt, data, evaluation),
  )


def _read(study: TextStudy, data_dir: Path | None) -> tuple[Data[TextDataset], Tokenizer]:
  source = {
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
  (train, validation, test, said), tokenizer = load(source, data_dir)
  notes = [*said]
  if study.unlabelled_share and not study.finetune_teacher:
    notes.append("the imported teacher may have learnt from labels that are hidden here")
  numbers = train.num_classes == 1
  # The tokenizer of a weights folder is read from there; one that was learnt here is kept.
  own = {} if study.teacher_weights is not None else {"tokenizer": tokenizer.to_json()}
  mean = float(np.mean(_labels(labelled_part(train)), dtype=np.float64)) if numbers else 0.0
  data = Data(
    train=with_few_buckets(train),
    validation=with_few_buckets(validation),
    test=with_few_buckets(test),
    target=Number(mean) if numbers else _classes(study, train),
    num_classes=train.num_classes,
    source=source,
    settings={"tokenizer": tokenizer.digest, "max_length": study.max_length},
    kept={"class_names": list(train.class_names)} | own,
    notes=notes,
  )
  return data, tokenizer


def _classes(study: TextStudy, train: TextDataset) -> Classes:
  return target_of(
    _labels(labelled_part(train)),
    train.num_classes,
    label_smoothing=study.label_smoothing,
    class_weights=study.class_weights,
  )


def _doubt(data: Data[TextDataset], evaluation: Evaluation, found: Mapping[str, float]) -> str:
  """See `Domain.doubt`."""
  labels, select = _labels(data.validation), evaluation.select
  if data.num_classes == 1 and found["rmse"] >= np.std(labels) > 0:
    return f"its numbers must be in the labels' unit, from {labels.min():g} to {labels.max():g}"
  if found[select] > chance(select, labels):
    return ""
  names = data.train.class_names
  order = f"are its classes in the order {', '.join(names)}, " if names else ""
  return f"{order}was it fine-tuned on this task, and does its tokenizer.json belong to it?"


def _header(
  study: TextStudy, data: Data[TextDataset], teacher: Resolved, student: Resolved
) -> Header:
  # An error is no fraction: reports know it by its own name.
  first, *others = TEXT_METRICS[metric_kind(data.source)]
  folder = teacher.start is not None
  return Header(
    dataset={
      "task": data.train.name,
      "num_classes": data.num_classes,
      "classes": list(data.train.class_names),
      "longest_text": int(data.train.lengths.max()),
      "subwords": teacher.tokenizer.vocab_size,
    },
    metric=described(first)
    | {
      "others": [described(o) for o in others if o in LABELS],
      "examples": "texts",
      "chance": chance(first, _labels(data.test)),
    },
    official_examples=0 if study.paper is None else glue.check_task(study.task).sizes[0],
    teacher_source=f"fine-tuned from {name_of(study.teacher_weights)}" if folder else "trained",
    student_source=student.source,
  )


def _labels(split: TextDataset) -> np.ndarray:
  return np.concatenate([bucket.labels for bucket in split.buckets])
