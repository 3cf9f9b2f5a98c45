"""What the networks of a study of texts are made of: sizes, tokenizer and start, resolved once for each."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_jax.data.texts import TextDataset
from kd_jax.data.tokenization import Tokenizer, check_vocabulary
from kd_jax.models import hf_config
from kd_jax.models.text_spec import TEXT_FAMILIES, TextSpec, bert_spec, text_sizes, with_sizes
from kd_jax.models.word_embedding import kept_subwords

from .domain import Role
from .text_sources import name_of, weights_folder
from .text_study import TextStudy


class Start(NamedTuple):
  """The network that another takes weights from.

  Attributes:
    spec: its specification.
    name: what reports call it.
    folder: of its weights; None if it is the teacher of the study.
  """

  spec: TextSpec
  name: str
  folder: Path | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Resolved:
  """A network for texts with all that the study leaves open decided.

  A BERT that takes layers over has the sizes of the network that they come from; its own may be left out.

  Attributes:
    spec: which.
    sizes: what it shares with the tokenizer and the weights folder, arguments of `build_text_model`.
    tokenizer: whose numbers it reads.
    start: what it takes over; None: it starts from random numbers.
    kept: the subwords that it has word vectors for; None: all.
    notes: what a user should know of where it starts.
  """

  spec: TextSpec
  sizes: dict[str, Any]
  tokenizer: Tokenizer
  start: Start | None = None
  kept: np.ndarray | None = None
  notes: tuple[str, ...] = ()

  @property
  def source(self) -> str:
    """What it starts from, in words; empty if that is random numbers."""
    if self.start is None:
      return ""
    if TEXT_FAMILIES[self.spec.family].attends:
      layers = self.spec.teacher_layers or tuple(range(1, self.spec.layers + 1))
      listed = ", ".join(map(str, layers))
      return f"from layer{'s'[: len(layers) - 1]} {listed} of {self.start.name}"
    shared = _word_width(self.spec) == _word_width(self.start.spec)
    words = "frozen word vectors" if self.spec.freeze_words else "word vectors"
    return f"with the {words} of {self.start.name}" if shared else ""


def resolve_teacher(study: TextStudy, tokenizer: Tokenizer) -> Resolved:
  """The teacher, which is its folder's network if it has one; reads the folder's configuration, no weights yet.

  Raises:
    ValueError: a folder that is not there or does not fit to the tokenizer.
  """
  given = study.teacher
  if given.freeze_words or given.vocabulary != "full":
    raise ValueError(
      "teacher.freeze_words and teacher.vocabulary must be left out: they are for networks that learn from it"
    )
  folder = weights_folder(study.teacher_weights)
  if folder is None:
    spec = with_sizes(dataclasses.replace(given, start="random"))
    return Resolved(spec, _sizes(study, tokenizer, given.family, None), tokenizer)
  kept = {name: getattr(given, name) for name in ("dropout", "dtype")}
  spec = bert_spec(hf_config.read_config(folder), start="pretrained", **kept)
  start = Start(spec, str(name_of(study.teacher_weights)), folder)
  return Resolved(spec, _sizes(study, tokenizer, spec.family, folder), tokenizer, start)


def resolve_student(study: TextStudy, teacher: Resolved, train: TextDataset) -> Resolved:
  """The student, which may have a weights folder of its own.

  Raises:
    ValueError: folders that are not there, or networks that do not fit together or to the tokenizer.
  """
  own = weights_folder(study.student_weights)
  if own is None:
    return resolve("student", study.student, study, teacher, train, _folder(teacher))
  theirs, ours = teacher.tokenizer, Tokenizer.from_folder(own, max_length=study.max_length)
  if ours.vocabulary != theirs.vocabulary:
    raise ValueError(
      f"student_weights has a vocabulary of {ours.vocab_size} subwords, the teacher one of "
      f"{theirs.vocab_size}, and they are not the same: teacher and student must share one"
    )
  if study.student.start != "pretrained":
    raise ValueError(
      f"student_weights are what the student starts from: student.start must be pretrained, not "
      f"{study.student.start}"
    )
  return resolve("student", study.student, study, teacher, train, own)


def resolve_assistant(study: TextStudy, teacher: Resolved, train: TextDataset) -> Resolved:
  """The assistant; errors as of `resolve`."""
  return resolve("assistant", study.assistant, study, teacher, train, _folder(teacher))


def resolve(
  role: Role,
  spec: TextSpec,
  study: TextStudy,
  teacher: Resolved,
  train: TextDataset,
  folder: Path | None,
) -> Resolved:
  """A network that learns from the teacher, with the sizes of what it takes over.

  Args:
    role: what messages call it.
    spec: what the study has of it.
    study: whose network it is.
    teacher: of the study.
    train: the training texts.
    folder: of pretrained weights, the teacher's or its own; None if there is none.

  Raises:
    ValueError: it cannot take over what it asks for.
  """
  notes: list[str] = []
  if spec.start == "pretrained" and folder is None:
    notes.append(f"there is no weights folder: the {role} starts from random numbers")
    spec = dataclasses.replace(spec, start="random")
  start = _start(spec, study, teacher, folder)
  if start is None:
    if spec.freeze_words:
      raise ValueError(
        f"{role}.freeze_words needs word vectors to start from, got random numbers: use --{role}.start "
        f"teacher, or train them (--{role}.no-freeze-words)"
      )
  elif TEXT_FAMILIES[spec.family].attends:
    spec = _of_one_form(role, spec, start.spec)
  else:
    notes += _other_words(role, spec, start)
  sizes, kept = _sizes(study, teacher.tokenizer, spec.family, folder), None
  if spec.vocabulary == "data" and not TEXT_FAMILIES[spec.family].attends:
    kept = _kept(teacher.tokenizer, train)
    sizes["kept_subwords"] = len(kept)
    notes.append(
      f"the {role} has word vectors for the {len(kept):,} of {sizes['vocab_size']:,} subwords in the "
      "training texts; others are read as the unknown subword"
    )
  return Resolved(with_sizes(spec), sizes, teacher.tokenizer, start, kept, tuple(notes))


def _folder(network: Resolved) -> Path | None:
  return None if network.start is None else network.start.folder


def _start(
  spec: TextSpec, study: TextStudy, teacher: Resolved, folder: Path | None
) -> Start | None:
  if spec.start == "random":
    return None
  if spec.start == "teacher":
    return Start(teacher.spec, "the teacher")
  given = study.teacher_weights if folder == _folder(teacher) else study.student_weights
  return Start(bert_spec(hf_config.read_config(folder)), str(name_of(given)), folder)


def _of_one_form(role: Role, spec: TextSpec, whole: TextSpec) -> TextSpec:
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


def _other_words(role: Role, spec: TextSpec, start: Start) -> list[str]:
  """A note if the word vectors of a network that does not attend are of another width."""
  words, theirs = _word_width(spec), _word_width(start.spec)
  if words == theirs:
    return []
  if spec.freeze_words:
    raise ValueError(
      f"{role}.freeze_words needs word vectors as wide as those of {start.name}, got {words}: use "
      f"--{role}.word-width {theirs}"
    )
  return [
    f"the {role}'s word vectors are {words} wide, those of {start.name} {theirs}: they start from "
    f"random numbers (--{role}.word-width {theirs} takes them over)"
  ]


def _word_width(spec: TextSpec) -> int:
  own = None if TEXT_FAMILIES[spec.family].attends else spec.word_width
  return own or with_sizes(spec).width


def _kept(tokenizer: Tokenizer, train: TextDataset) -> np.ndarray:
  """The subwords of vocabulary="data": those of the training texts, padding and the unknown one."""
  unknown = tokenizer.unknown_id
  if unknown is None:
    raise ValueError(
      "vocabulary='data' needs a tokenizer with an unknown subword, and this one has none: leave it out"
    )
  return kept_subwords(train.inputs.ids[train.inputs.mask], (tokenizer.pad_id, unknown))


def _sizes(
  study: TextStudy, tokenizer: Tokenizer, family: str, folder: Path | None
) -> dict[str, Any]:
  longest = study.max_length
  if folder is None:
    # RoBERTa counts its positions from pad_id + 1.
    positions = longest + (tokenizer.pad_id + 1 if family == "roberta" else 0)
    return {
      "vocab_size": tokenizer.vocab_size,
      "max_positions": positions,
      "pad_id": tokenizer.pad_id,
    }
  config = hf_config.read_config(folder)
  check_vocabulary(tokenizer, config.vocab_size)
  if longest > config.max_length:
    raise ValueError(
      f"max_length {longest} exceeds the {config.max_length} positions of the network in {folder}"
    )
  sizes = text_sizes(config)
  if family == "roberta" and config.kind != "roberta":
    sizes["max_positions"] += config.pad_id + 1
  return sizes
