"""The networks of a study of texts: their sizes, and what they start from."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from experiments.domains.domain import Initial, ReadyTeacher
from experiments.domains.text_sources import folder_link, name_of, weights_folder
from experiments.domains.text_study import TextStudy
from kd_jax.data.texts import TextDataset
from kd_jax.data.tokenization import Tokenizer, check_vocabulary
from kd_jax.models import hf_config, hf_weights, text_params
from kd_jax.models.text_spec import TEXT_FAMILIES, TextSpec, bert_spec, text_sizes, with_sizes
from kd_jax.models.word_embedding import (
  VOCABULARY,
  WORDS,
  freeze_words,
  kept_subwords,
  thaw,
  vocabulary_table,
)
from kd_jax.types import PyTree


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


class TextNetworks:
  """Teacher, assistant and student.

  A BERT that takes layers over has the sizes of the network that they come from; its own may be left out.

  Attributes:
    folder: of the teacher's pretrained weights, or None.
    teacher, student: what they are.
    notes: what a user should know of where the student starts.
  """

  def __init__(self, study: TextStudy, tokenizer: Tokenizer, train: TextDataset):
    """Reads the configurations in the weights folders, no weights yet.

    Raises:
      ValueError: folders that are not there, or networks that do not fit together or to the tokenizer.
    """
    self.study, self.tokenizer, self._train = study, tokenizer, train
    self.folder = weights_folder(study.teacher_weights)
    self.student_folder = weights_folder(study.student_weights)
    self.teacher = self._teacher()
    if self.student_folder is not None:
      self._refuse_other_subwords()
      if study.student.start != "pretrained":
        raise ValueError(
          f"student_weights are what the student starts from: student.start must be pretrained, not "
          f"{study.student.start}"
        )
    self.student, self.notes = self.network("student", study.student, self.student_folder)

  def _teacher(self) -> TextNetwork:
    if self.study.teacher.freeze_words or self.study.teacher.vocabulary != "full":
      raise ValueError(
        "teacher.freeze_words and teacher.vocabulary must be left out: they are for networks that learn from it"
      )
    if self.folder is None:
      return TextNetwork(
        with_sizes(dataclasses.replace(self.study.teacher, start="random")),
        self._sizes(self.study.teacher.family, None),
      )
    kept = {name: getattr(self.study.teacher, name) for name in ("dropout", "dtype")}
    spec = bert_spec(hf_config.read_config(self.folder), start="pretrained", **kept)
    return TextNetwork(spec, self._sizes(spec.family, self.folder))

  def network(
    self, role: str, spec: TextSpec, folder: Path | None = None
  ) -> tuple[TextNetwork, list[str]]:
    """A network that learns from the teacher, with the sizes of what it takes over; and notes.

    Args:
      role: what messages call it.
      spec: what the study says of it.
      folder: of its own weights, where they are not the teacher's.

    Raises:
      ValueError: it cannot take over what it asks for.
    """
    folder, notes = folder or self.folder, []
    if spec.start == "pretrained" and folder is None:
      notes.append(f"there is no weights folder: the {role} starts from random numbers")
      spec = dataclasses.replace(spec, start="random")
    if spec.start != "random":
      whole, origin = self._origin(spec, folder)
      if TEXT_FAMILIES[spec.family].attends:
        spec = self._of_one_form(role, spec, whole)
      else:
        words, theirs = _word_width(spec), _word_width(whole)
        if words != theirs:
          notes.append(
            f"the {role}'s word vectors are {words} wide, those of {origin} {theirs}: they start from "
            f"random numbers (--{role}.word-width {theirs} takes them over)"
          )
          if spec.freeze_words:
            raise ValueError(
              f"{role}.freeze_words needs word vectors as wide as those of {origin}, got {words}: use "
              f"--{role}.word-width {theirs}"
            )
    elif spec.freeze_words:
      raise ValueError(
        f"{role}.freeze_words needs word vectors to start from, got random numbers: use --{role}.start "
        f"teacher, or train them (--{role}.no-freeze-words)"
      )
    sizes = self._sizes(spec.family, folder)
    if spec.vocabulary == "data" and not TEXT_FAMILIES[spec.family].attends:
      sizes["kept_subwords"] = len(self._kept)
      notes.append(
        f"the {role} has word vectors for the {len(self._kept):,} of {sizes['vocab_size']:,} subwords in the "
        "training texts; others are read as the unknown subword"
      )
    return TextNetwork(with_sizes(spec), sizes), notes

  @functools.cached_property
  def _kept(self) -> np.ndarray:
    """The subwords of vocabulary="data": those of the training texts, padding and the unknown one."""
    unknown = self.tokenizer.unknown_id
    if unknown is None:
      raise ValueError(
        "vocabulary='data' needs a tokenizer with an unknown subword, and this one has none: leave it out"
      )
    inputs = self._train.inputs
    return kept_subwords(inputs.ids[inputs.mask], (self.tokenizer.pad_id, unknown))

  def _origin(self, spec: TextSpec, folder: Path | None) -> tuple[TextSpec, str]:
    """The network that another starts from, and what reports call it."""
    if spec.start == "teacher":
      return self.teacher.spec, "the teacher"
    given = self.study.teacher_weights if folder == self.folder else self.study.student_weights
    return bert_spec(hf_config.read_config(folder)), name_of(given)

  def _of_one_form(self, role: str, spec: TextSpec, whole: TextSpec) -> TextSpec:
    """The specification with the sizes of the network that it takes layers from."""
    if spec.family != whole.family:
      raise ValueError(
        f"the {role} is a {spec.family}, the network that it starts from a {whole.family}: use --{role}.family "
        f"{whole.family}, or --{role}.start random"
      )
    names = ("width", "heads", "hidden")
    differing = [
      f"{name} {getattr(spec, name)}, not {getattr(whole, name)}"
      for name in names
      if getattr(spec, name) not in (None, getattr(whole, name))
    ]
    if differing:
      raise ValueError(
        f"the {role} cannot take over layers of another form: its {', '.join(differing)}; leave the sizes "
        f"out, or use --{role}.start random"
      )
    highest = max(spec.teacher_layers or (spec.layers,))
    if highest > whole.layers:
      raise ValueError(
        f"the {role} asks for layer {highest} of {whole.layers}: fewer {role}.layers, or --{role}.start random"
      )
    return dataclasses.replace(spec, **{name: getattr(whole, name) for name in names})

  def _refuse_other_subwords(self) -> None:
    own = Tokenizer.from_folder(self.student_folder, max_length=self.study.max_length)
    if own.vocabulary != self.tokenizer.vocabulary:
      raise ValueError(
        f"student_weights has a vocabulary of {own.vocab_size} subwords, the teacher one of "
        f"{self.tokenizer.vocab_size}, and they are not the same: teacher and student must share one"
      )

  def _sizes(self, family: str, folder: Path | None) -> dict[str, Any]:
    longest = self.study.max_length
    if folder is None:
      pad_id = self.tokenizer.pad_id
      # RoBERTa counts its positions from pad_id + 1.
      positions = longest + (pad_id + 1 if family == "roberta" else 0)
      vocab_size = self.tokenizer.vocab_size
      return {"vocab_size": vocab_size, "max_positions": positions, "pad_id": pad_id}
    config = hf_config.read_config(folder)
    check_vocabulary(self.tokenizer, config.vocab_size)
    if longest > config.max_length:
      raise ValueError(
        f"max_length {longest} exceeds the {config.max_length} positions of the network in {folder}"
      )
    sizes = text_sizes(config)
    if family == "roberta" and config.kind != "roberta":
      sizes["max_positions"] += config.pad_id + 1
    return sizes

  # What they start from.

  def initial(self, network: TextNetwork, fresh: PyTree, taught: PyTree) -> Initial | None:
    """What a network takes over.

    Args:
      network: which.
      fresh: the shapes of its variables.
      taught: the parameters of the teacher, for what starts from it.
    """
    spec, given, parent = network.spec, taught, None
    if spec.start == "pretrained":
      own = self.student_folder if network is self.student else None
      folder = own or self.folder
      given, parent = hf_weights.load_bert(folder), folder_link(folder)
    cut = spec.vocabulary == "data"
    taken = {}
    if spec.start != "random":
      given = text_params.cut_words(given, self._kept) if cut else given
      taken = text_params.taken_over(spec, thaw(fresh)["params"], given)
    variables = freeze_words(taken) if spec.freeze_words else {"params": taken}
    if cut:
      size, unknown = network.sizes["vocab_size"], self.tokenizer.unknown_id
      variables[VOCABULARY] = text_params.nest(
        {(*WORDS, "rows"): vocabulary_table(self._kept, size, unknown)}
      )
    return Initial(variables, parent if taken else None, bool(taken)) if taken or cut else None

  def source(self, network: TextNetwork) -> str:
    """What a network starts from, in words; empty where that is random numbers."""
    spec = network.spec
    if spec.start == "random":
      return ""
    own = self.student_folder if network is self.student else None
    whole, origin = self._origin(spec, own or self.folder)
    if TEXT_FAMILIES[spec.family].attends:
      layers = spec.teacher_layers or tuple(range(1, spec.layers + 1))
      return f"from layer{'s'[: len(layers) - 1]} {', '.join(map(str, layers))} of {origin}"
    shared = _word_width(spec) == _word_width(whole)
    words = "frozen word vectors" if spec.freeze_words else "word vectors"
    return f"with the {words} of {origin}" if shared else ""

  def ready_teacher(self, train: TextDataset) -> ReadyTeacher | None:
    """The teacher as it is in its folder, where it is not to be fine-tuned.

    Raises:
      ValueError: it has no classifier, or one of another set of labels.
    """
    if self.study.finetune_teacher:
      return None
    if hf_config.problem_type(self.folder) == "multi_label_classification":
      raise ValueError(
        f"the classifier in {self.folder} answers each label by itself (multi_label_classification): the "
        "teacher must choose one of them"
      )
    params = hf_weights.load_bert(self.folder)
    if "classifier" not in params:
      raise ValueError(
        f"{self.folder} has no classifier: fine-tune the teacher (--finetune-teacher), or name a folder whose "
        "network was fine-tuned on this task"
      )
    outputs = params["classifier"]["bias"].shape[0]
    if outputs != train.num_classes:
      raise ValueError(
        f"the classifier in {self.folder} has {outputs} outputs, {train.name} has {train.num_classes}: teacher "
        "and student need one set of labels"
      )
    names, found = train.class_names, hf_config.read_labels(self.folder)
    if found is not None and names and [n.lower() for n in found] != [n.lower() for n in names]:
      raise ValueError(
        f"the classifier in {self.folder} is of {', '.join(found)}, {train.name} of {', '.join(names)}: "
        "teacher and student need one set of labels, in one order"
      )
    parent = folder_link(self.folder)
    return ReadyTeacher(self.teacher, {"params": params}, parent, self.folder.name)


def _word_width(spec: TextSpec) -> int:
  own = None if TEXT_FAMILIES[spec.family].attends else spec.word_width
  return own or with_sizes(spec).width
