"""The data and the networks of a study of sentences."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from experiments.domains.domain import Domain
from experiments.domains.sequence_study import CASES, SequenceStudy
from kd_jax.data import corpora
from kd_jax.data.augmentation import Augmentation
from kd_jax.data.sequences import SequenceDataset
from kd_jax.data.vocabulary import Vocabulary
from kd_jax.models.sequence_spec import (
  Head,
  SequenceSpec,
  build_sequence_model,
  sequence_model_name,
)
from kd_jax.recipes.parts import Recipe
from kd_jax.structured import layout
from kd_jax.teachers import cache as teacher_cache, predicting
from kd_jax.teachers.sources import cached_structures
from kd_jax.types import Batch, Tree

NO_AUGMENTATION = Augmentation(name="none")
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
    self.notes += found.notes
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
    self.num_classes = num_tags(self.vocabulary)

  def build(self, spec: SequenceNetwork, axis_name=None):
    del axis_name  # no statistics of batches
    return build_network(spec, self.vocabulary)

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
    self._refuse_constraints()
    for method in self.case.alike:
      if {method, "structural_kd"} <= recipes.keys():
        self.notes.append(
          f"in case {self.study.case} {method} has the gradient of structural_kd: where their settings agree, "
          "their rows are one method"
        )
    bucket = self.train.buckets[0]
    batch = Batch(*jax.tree.map(lambda x: x[:2], (bucket.inputs, bucket.labels)))
    example = batch.inputs
    batch = batch._replace(labelled=None if bucket.labelled is None else bucket.labelled[:2])
    outputs = [self._abstract_outputs(network, example) for network in (self.student, self.teacher)]
    for recipe in recipes.values():
      for term in (term for phase in recipe.phases for term in phase.objective):
        # Nothing is computed: a method that the case's structures do not suit is refused here.
        jax.eval_shape(
          lambda student, teacher, t=term: t.loss_at(student, teacher, batch, 0.0),
          *outputs,
        )

  def _refuse_constraints(self) -> None:
    """Hard constraints where nothing reads them, or where the other side does not keep to them."""
    teacher, student = self.teacher, self.student
    for role, network in (("teacher", teacher), ("student", student)):
      if network.spec.bioes and network.head != "crf":
        raise ValueError(
          f"{role}.bioes constrains a CRF, the {role} of case {self.study.case} is none"
        )
    if student.spec.bioes and not teacher.spec.bioes:
      raise ValueError(
        "student.bioes excludes what the teacher allows, and their cross-entropy would be infinite: "
        "constrain the teacher too (case 1a), or neither"
      )
    if teacher.spec.bioes and self.study.cache_dtype == "float16":
      raise ValueError("teacher.bioes excludes by scores beyond float16: cache float32")

  def _abstract_outputs(self, network: SequenceNetwork, example):
    model = self.build(network)

    def run(key):
      return model.init_with_output(key, example, train=False)[0]

    return jax.eval_shape(run, jax.random.key(0))

  def data_settings(self) -> dict[str, Any]:
    return {"vocabulary": self.vocabulary.digest}

  def cache_spec(self, digest, model, spec):
    return teacher_cache.make_spec(
      digest,
      model,
      self.train,
      NO_AUGMENTATION,
      1,
      dtype=self.study.cache_dtype,
      num_classes=self.num_classes,
      structure=self._teacher_structure,
    )

  @functools.cached_property
  def _teacher_structure(self) -> str:
    """Asked for with every student: the network is traced for it once."""
    example = jax.tree.map(lambda x: x[:1], self.train.buckets[0].inputs)
    return type(self._abstract_outputs(self.teacher, example).scores).__name__

  def predictor(self, spec, model, variables):
    return predicting.structure_predictor(model, variables, self.train)

  def cached_teacher(self, cache):
    return cached_structures(
      [
        layout.unpack(cache.outputs.take(bucket.rows), bucket.length)
        for bucket in self.train.buckets
      ]
    )

  def kept_with_checkpoints(self) -> dict[str, Any]:
    return {"vocabulary": self.vocabulary.to_json()}

  def _chance(self) -> dict[str, float]:
    """LAS of one answer to every word; for F1 of spans there is no such answer: without spans it is 0."""
    if not isinstance(self.test.labels, Tree):
      return {}
    tree = self.test.labels
    return {"chance": commonest_attachment(tree.heads, tree.relations, self.test.lengths)}

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
      "metric": self.study.metric | self._chance(),
      "case": {
        "name": self.study.case,
        "teacher": HEAD_TITLES[self.case.teacher],
        "student": HEAD_TITLES[self.case.student],
        "marginals": self.case.marginals,
      },
    }


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


def build_network(network: SequenceNetwork, vocabulary: Vocabulary) -> nn.Module:
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
