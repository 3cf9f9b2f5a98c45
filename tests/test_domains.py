"""What kinds of data give a study: networks on devices, recipes that suit them, plans of caches."""

import dataclasses

import jax
import pytest

from experiments.command_line.options import configs
from experiments.domains import tracing
from experiments.domains.registry import KINDS, domain_of
from experiments.domains.sequences import SequenceNetworkSpec
from experiments.domains.texts import TextNetworkSpec
from experiments.pipeline import devices
from kd_jax import recipes
from kd_jax.losses.features import fitnet_loss
from kd_jax.models.sequence_spec import SequenceSpec
from kd_jax.models.spec import ModelSpec, build_model
from kd_jax.models.text_spec import TextSpec
from kd_jax.recipes import Phase, Recipe, Term
from tests.training import OPTIMIZER, dataset

CONFIGS = configs()
TAGGER = SequenceNetworkSpec(SequenceSpec(width=4), "crf")


@pytest.mark.parametrize(
  ("spec", "together"),
  [
    (ModelSpec("mlp", hidden=(4,)), 5),
    (ModelSpec("resnet", depth=8), 1),
    (TAGGER, 1),
    (TextNetworkSpec(TextSpec("gated_cnn", layers=2), {}), 1),
  ],
)
def test_seeds_of_dense_networks_train_together_and_on_cpu_no_others(spec, together):
  assert devices.seeds_together(spec, 5) == together
  convolves = isinstance(spec, ModelSpec) and spec.family == "resnet"
  assert devices.one_dispatch(spec) == (not convolves)


def test_recurrent_students_train_together_on_accelerators(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert devices.seeds_together(TAGGER, 5) == 5
  assert devices.seeds_together(ModelSpec("resnet", depth=8), 5) == 1


def recipe(name, assistant=None):
  hint = Term("hint", fitnet_loss, ("student.layers[0]", "teacher.layers[0]"))
  phase = Phase("distil", (hint,), 1, OPTIMIZER)
  return Recipe(name, "", "", "", (phase,), assistant)


BATCH = tracing.batch_of_two(dataset(8))


def returns(width):
  model = build_model(ModelSpec("mlp", hidden=(width,)), 3)
  return tracing.abstract_outputs(model, BATCH.inputs)


def test_a_recipe_that_does_not_suit_the_networks_is_refused_by_its_name():
  own, four = {"hints": recipe("hints")}, returns(4)
  tracing.refuse_misfits(own, four, four, BATCH)
  with pytest.raises(ValueError, match="hints does not suit these networks"):
    tracing.refuse_misfits(own, four, returns(5), BATCH)
  scores = Phase("tag", (recipes.Structures().label_term(),), 1, OPTIMIZER)
  tagging = {"tagging": Recipe("tagging", "", "", "", (scores,))}
  with pytest.raises(
    ValueError, match="tagging does not suit these networks: the student gives no scores"
  ) as caught:
    tracing.refuse_misfits(tagging, four, four, BATCH)
  assert "\n" not in str(caught.value)


def test_an_assistant_is_compared_with_the_teacher_and_its_student_with_it():
  own, four, five = {"by_way": recipe("by_way", recipe("to_assistant"))}, returns(4), returns(5)

  def check(student=four, teacher=four, whole=four, seen=four):
    tracing.refuse_misfits(own, student, teacher, BATCH, (whole, seen))

  check()
  for part in ("student", "teacher", "whole", "seen"):
    with pytest.raises(ValueError, match="by_way does not suit these networks"):
      check(**{part: five})


def test_a_cache_plan_is_of_the_network_and_the_digest(data_dir):
  study = dataclasses.replace(CONFIGS["digits"], views=1)
  domain = domain_of(study, data_dir)
  plan = domain.cache_plan(domain.networks.assistant(), "1f")
  assert (plan.spec.teacher, plan.spec.num_examples) == ("1f", len(domain.data.train))
  assert plan.spec.teacher_model["hidden"] == [64]
  assert domain.cache_plan(domain.networks.teacher, "").spec.teacher_model["hidden"] == [256, 256]


def test_every_config_is_of_one_kind_of_data():
  for study in CONFIGS.values():
    assert sum(isinstance(study, kind.study) for kind in KINDS.values()) == 1
