"""The data and the networks of a study of sentences."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from kd_jax.data import corpora
from kd_jax.data.sequences import SequenceDataset
from kd_jax.data.vocabulary import Vocabulary
from kd_jax.models.sequence_spec import (
  Head,
  SequenceSpec,
  build_sequence_model,
  sequence_model_name,
)
from kd_jax.recipes import Recipe, Structures
from kd_jax.structured import layout
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.teachers.sources import Teacher, cached_structures
from kd_jax.types import Tree

from ..command_line.wording import counted
from . import tracing
from .domain import (
  NO_AUGMENTATION,
  CachePlan,
  Data,
  Domain,
  Header,
  Networks,
)
from .padding import with_few_buckets
from .sequence_study import CASES, Case, SequenceStudy
from .study import plain

HEAD_TITLES = {
  "crf": "linear-chain CRF",
  "maxent": "independent tags",
  "spans": "spans",
  "parser": "first-order parser",
  "second_order": "second-order parser",
  "tags": "parsing as tagging",
}
"""What reports call the structures."""


@dataclasses.dataclass(frozen=True)
class SequenceNetworkSpec:
  """A network for sentences: an encoder's specification, and what the network predicts."""

  spec: SequenceSpec
  head: Head


def open_sequences(study: SequenceStudy, data_dir: Path | None) -> Domain[SequenceNetworkSpec]:
  """Loads the corpus.

  Raises:
    ValueError: a corpus that is not prepared, malformed sentences, sizes that do not fit.
  """
  data, vocabulary = _read(study, data_dir)
  case = CASES[study.case]
  networks = Networks(
    teacher=SequenceNetworkSpec(study.teacher, case.teacher),
    student=SequenceNetworkSpec(study.student, case.student),
    build=lambda spec, axis_name: build_network(spec, vocabulary),  # no statistics of batches
    label=lambda spec: sequence_model_name(spec.spec, spec.head),
  )

  @functools.cache
  def teacher_structure() -> str:
    """The network is traced for it once."""
    model = networks.build(networks.teacher, None)
    return type(tracing.abstract_outputs(model, tracing.example(data.train)).scores).__name__

  def cache_plan(spec: SequenceNetworkSpec, digest: str) -> CachePlan:
    return CachePlan(
      teacher_cache.make_spec(
        digest,
        plain(spec),
        data.train,
        NO_AUGMENTATION,
        1,
        dtype=study.cache_dtype,
        num_classes=data.num_classes,
        structure=teacher_structure(),
      ),
      lambda model, variables: predicting.structure_predictor(model, variables, data.train),
      functools.partial(_read_cache, data.train),
    )

  return Domain(
    data=data,
    networks=networks,
    evaluation=study.evaluation,
    cache_plan=cache_plan,
    header=_header(study, data, vocabulary, case),
    check=functools.partial(_check, study, data, networks, case),
  )


def _read(study: SequenceStudy, data_dir: Path | None) -> tuple[Data[SequenceDataset], Vocabulary]:
  notes: list[str] = []
  source = _source(study, data_dir, notes)
  found = load(source, data_dir)
  notes += found.notes
  if found.problems:
    count, first = len(found.problems), found.problems[0]
    notes.append(f"left out {counted(count, 'malformed sentences')}, first {first}")
  train = found.train
  left_out = int((train.lengths > (study.max_length or np.inf)).sum())
  if left_out == len(train):
    raise ValueError(f"no training sentence has at most max_length={study.max_length} tokens")
  if left_out:
    notes.append(
      f"left out {counted(left_out, 'training sentences')} of over {study.max_length} tokens"
    )
    train = fitting(train, study.max_length)
  vocabulary = found.vocabulary
  data = Data(
    train=with_few_buckets(train),
    validation=with_few_buckets(found.validation),
    test=with_few_buckets(found.test),
    target=Structures(),
    num_classes=num_tags(vocabulary),
    source=source,
    settings={"vocabulary": vocabulary.digest},
    kept={"vocabulary": vocabulary.to_json()},
    notes=notes,
  )
  return data, vocabulary


def _check(
  study: SequenceStudy,
  data: Data[SequenceDataset],
  networks: Networks[SequenceNetworkSpec],
  case: Case,
  recipes: Mapping[str, Recipe],
) -> list[str]:
  """See `Domain.check`."""
  for split in (data.validation, data.test):
    if not len(split):
      raise ValueError(f"{split.name} has no {split.split} sentences")
  _refuse_constraints(study, networks)
  batch = tracing.batch_of_two(data.train)
  student, teacher = (
    tracing.abstract_outputs(networks.build(spec, None), batch.inputs)
    for spec in (networks.student, networks.teacher)
  )
  tracing.refuse_misfits(recipes, student, teacher, batch)
  return [
    f"in case {study.case} {method} has the gradient of structural_kd: where their settings agree, "
    "their rows are one method"
    for method in case.alike
    if {method, "structural_kd"} <= recipes.keys()
  ]


def _refuse_constraints(study: SequenceStudy, networks: Networks[SequenceNetworkSpec]) -> None:
  """Hard constraints where nothing reads them, or where the other side does not keep to them."""
  teacher, student = networks.teacher, networks.student
  for role, network in (("teacher", teacher), ("student", student)):
    if network.spec.bioes and network.head != "crf":
      raise ValueError(f"{role}.bioes constrains a CRF, the {role} of case {study.case} is none")
  if student.spec.bioes and not teacher.spec.bioes:
    raise ValueError(
      "student.bioes excludes what the teacher allows, and their cross-entropy would be infinite: "
      "constrain the teacher too (case 1a), or neither"
    )
  if teacher.spec.bioes and study.cache_dtype == "float16":
    raise ValueError("teacher.bioes excludes by scores beyond float16: cache float32")


def _read_cache(train: SequenceDataset, cache: teacher_cache.Cache) -> Teacher:
  return cached_structures(
    [layout.unpack(cache.outputs.take(bucket.rows), bucket.length) for bucket in train.buckets]
  )


def _header(
  study: SequenceStudy, data: Data[SequenceDataset], vocabulary: Vocabulary, case: Case
) -> Header:
  return Header(
    dataset={
      "tokens": int(data.train.lengths.sum()),
      "longest_sentence": int(data.train.lengths.max()),
      "words": len(vocabulary.words),
      "labels": list(vocabulary.labels),
      "tags": data.num_classes,
    },
    metric=study.metric | _chance(data.test),
    case={
      "name": study.case,
      "teacher": HEAD_TITLES[case.teacher],
      "student": HEAD_TITLES[case.student],
      "marginals": case.marginals,
    },
  )


def _chance(test: SequenceDataset) -> dict[str, float]:
  """LAS of one answer to every word; for F1 of spans there is no such answer: without spans it is 0."""
  if not isinstance(test.labels, Tree):
    return {}
  return {"chance": commonest_attachment(test.labels.heads, test.labels.relations, test.lengths)}


def commonest_attachment(heads: np.ndarray, relations: np.ndarray, lengths: np.ndarray) -> float:
  """LAS of one answer to every word: the commonest relation with the commonest way to its head.

  Args:
    heads: [N, n], 0 for the root.
    relations: [N, n]; negative ones are never right.
    lengths: [N].

  >>> commonest_attachment(np.array([[2, 3, 0, 9]]), np.array([[5, 5, 1, 9]]), np.array([3]))
  0.6666666666666666
  """
  positions = np.arange(heads.shape[1]) + 1
  words = positions <= lengths[:, None]
  # No word is its own head, so that 0 is free for the root.
  answers = np.stack([np.where(heads == 0, 0, heads - positions), relations], -1)[words]
  answers = answers[answers[:, 1] >= 0]
  if not len(answers):
    return 0.0
  return float(np.unique(answers, axis=0, return_counts=True)[1].max() / words.sum())


def num_tags(vocabulary: Vocabulary) -> int:
  """Tags of parsing as tagging, or of entities."""
  return len(vocabulary.parsing_tags) or 4 * len(vocabulary.labels) + 1


def build_network(network: SequenceNetworkSpec, vocabulary: Vocabulary) -> nn.Module:
  """The network that reads and predicts what a vocabulary numbers."""
  labels: dict[str, Any] = {
    "maxent": {"num_labels": num_tags(vocabulary)},
    "crf": {"num_labels": num_tags(vocabulary)},
    "tags": {"offsets": vocabulary.offsets, "relations": vocabulary.relations},
  }.get(network.head, {"num_labels": len(vocabulary.labels)})
  return build_sequence_model(
    network.spec,
    network.head,
    num_words=vocabulary.num_words,
    num_characters=vocabulary.num_characters,
    **labels,
  )


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
    "unlabelled_share": study.unlabelled_share,
    "unlabelled": [str(path.expanduser().absolute()) for path in study.unlabelled],
    "min_count": study.min_count,
    "skip_malformed": study.skip_malformed,
    "max_length": study.max_length,
    "tag_min_count": getattr(study, "tag_min_count", None),
  }


def load(source: dict[str, Any], data_dir: Path | None) -> corpora.SequenceSplits:
  """The corpus that a study reads; `max_length` is not applied yet."""
  loader = {"tagging": corpora.load_tagging, "parsing": corpora.load_parsing}[source["task"]]
  options = {name: source[name] for name in ("limit", "min_count", "skip_malformed")}
  options |= {"unlabelled_share": source.get("unlabelled_share", 0.0)}
  options |= {"unlabelled": source.get("unlabelled", ())}
  if source.get("tag_min_count") is not None:
    options["parsing_tag_min_count"] = source["tag_min_count"]
  return loader(source["source"], data_dir=data_dir, **options)


def fitting(dataset: SequenceDataset, max_length: int | None) -> SequenceDataset:
  """The sentences of at most so many tokens."""
  return dataset if max_length is None else dataset.take(dataset.lengths <= max_length)


def fingerprint(source: dict[str, Any], data_dir: Path | None) -> str | None:
  """Of the training sentences as they are on disk now; None where they are not."""
  name = source["source"]
  if not all(Path(file).is_file() for file in source.get("unlabelled", ())):
    return None
  if isinstance(name, list):
    if not all(Path(file).is_file() for file in name):
      return None
  elif name != "sample" and corpora.prepared_dir(name, data_dir) is None:
    return None
  return fitting(load(source, data_dir).train, source["max_length"]).fingerprint
