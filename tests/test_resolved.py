"""What a network for texts is made of, resolved: sizes, tokenizer, start and the words for it."""

import dataclasses

import pytest

from experiments.command_line.options import configs
from experiments.domains.text_networks import (
  Start,
  resolve_assistant,
  resolve_student,
  resolve_teacher,
)
from experiments.domains.texts import open_texts
from kd_jax.data.tokenization import Tokenizer
from kd_jax.models.text_spec import TextSpec

BERT = TextSpec(layers=4, width=8, heads=2, hidden=16)


def learner(family="bert", **fields):
  return TextSpec(family, start="teacher", **fields)


def resolved(**changes):
  """Teacher, student and assistant of the built-in sample, without pretrained weights."""
  study = dataclasses.replace(
    configs()["texts"],
    **{"teacher_weights": None, "max_length": 16, "vocab_size": 80, "teacher": BERT} | changes,
  )
  data = open_texts(dataclasses.replace(study, student=TextSpec(start="random")), None).data
  tokenizer = Tokenizer.from_json(data.kept["tokenizer"])
  teacher = resolve_teacher(study, tokenizer)
  student = resolve_student(study, teacher, data.train)
  return teacher, student, resolve_assistant(study, teacher, data.train)


def test_a_student_has_the_sizes_of_the_layers_that_it_takes_over():
  asked = {"student": learner(layers=2), "assistant": TextSpec(layers=3, start="random")}
  teacher, student, assistant = resolved(**asked)
  assert teacher.start is None
  assert teacher.spec.start == "random"
  assert student.start == Start(teacher.spec, "the teacher")
  assert (student.spec.layers, student.spec.width, student.spec.heads, student.spec.hidden) == (
    *(2, 8),
    *(2, 16),
  )
  assert student.source == "from layers 1, 2 of the teacher"
  assert (assistant.start, assistant.source) == (None, "")
  for network in (teacher, student, assistant):
    assert network.sizes == {"vocab_size": 80, "max_positions": 16, "pad_id": 0}
    assert network.tokenizer is teacher.tokenizer
  # Positions of a RoBERTa begin after the padding's number.
  _, roberta, _ = resolved(student=TextSpec("roberta", layers=2, start="random"))
  assert roberta.sizes["max_positions"] == 16 + 0 + 1


def test_without_a_folder_pretrained_is_random_and_said():
  _, student, _ = resolved(student=TextSpec(layers=2, start="pretrained"))
  assert (student.start, student.spec.start) == (None, "random")
  assert student.notes == ("there is no weights folder: the student starts from random numbers",)


def test_words_of_the_data_are_counted_into_the_sizes():
  cnn = learner("gated_cnn", layers=2, width=8, word_width=8, vocabulary="data")
  _, student, _ = resolved(student=cnn)
  assert student.source == "with the word vectors of the teacher"
  assert student.sizes["kept_subwords"] == len(student.kept) < 80
  assert {student.tokenizer.pad_id, student.tokenizer.unknown_id} <= set(student.kept.tolist())
  (note,) = student.notes
  assert note.startswith(f"the student has word vectors for the {len(student.kept)} of 80 subwords")


@pytest.mark.parametrize(
  ("student", "message"),
  [
    (learner("roberta", layers=2), "the student is a roberta, the network that it starts from a"),
    (learner(layers=5), "the student asks for layer 5 of 4"),
    (learner(layers=2, width=4), "its width 4, not 8"),
    (
      learner("gated_cnn", layers=2, word_width=4, freeze_words=True),
      "as wide as those of the teacher",
    ),
  ],
)
def test_what_does_not_fit_is_refused_with_the_role(student, message):
  with pytest.raises(ValueError, match=message):
    resolved(student=student)
