"""A recipe that does not fit is refused before anything is trained, in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import recipes
from kd_jax.models.heads import LayerClassifiers
from kd_jax.optimizers import Optimizer
from kd_jax.recipes import Phase, Recipe, Term, trace
from kd_jax.structured import LinearChain
from kd_jax.types import Batch, Outputs, TokenStates

B, N, HEADS, CLASSES = 2, 4, 2, 3
BUDGET = recipes.Budget(40, Optimizer())
TARGET = recipes.Classes(CLASSES)
BATCH = Batch(np.zeros((B, 5), np.float32), np.array([0, 2]))


def shape(*axes, dtype=jnp.float32):
  return jax.ShapeDtypeStruct((B, *axes), dtype)


def outputs(layers=4, width=24, classes=CLASSES, maps=False):
  """The shapes of a network's outputs, with all that any method reads."""
  heads = (shape(HEADS, N, width // HEADS),) * layers
  states = TokenStates((shape(N, width),) * (layers + 1), (), *[heads] * 3, shape(N, dtype=bool))
  layer = shape(6, 6, width) if maps else shape(width)
  inner = shape(layers - 1, classes)
  return Outputs(shape(classes), (layer,) * layers, layer_logits=inner, tokens=states)


def chain():
  return Outputs(
    scores=LinearChain(shape(N, CLASSES), shape(CLASSES), shape(N, dtype=bool))._replace(
      transition=jax.ShapeDtypeStruct((CLASSES, CLASSES), jnp.float32)
    )
  )


def own(loss, *, of=("student.logits",), weight=1.0, options=None, head=None):
  term = Term("own", loss, of, {} if options is None else options, weight, head)
  return Recipe("mine", "", "", "", (Phase("p", (term,), 2, Optimizer()),))


def refused(message, recipe, student=None, teacher=None, batch=BATCH):
  student = outputs() if student is None else student
  teacher = outputs() if teacher is None else teacher
  with pytest.raises(ValueError, match=message) as caught:
    trace(recipe, student, teacher, batch)
  said = str(caught.value)
  assert said.startswith(f"{recipe.name} does not suit these networks: ")
  assert "\n" not in said
  assert len(said) < 400


@pytest.mark.parametrize("kind", ["images", "texts"])
@pytest.mark.parametrize("abstract", [False, True])
def test_recipes_that_fit_are_let_through(kind, abstract):
  """On a batch of examples, or on its shapes."""
  sides = (outputs(maps=kind == "images"),) * 2
  batch = jax.eval_shape(lambda: BATCH) if abstract else BATCH
  for name in recipes.methods_for(kind):
    recipe = recipes.make_recipe(name, TARGET, BUDGET, teacher_widths=(24,) * 4)
    trace(recipe, *sides, batch)


@pytest.mark.parametrize("abstract", [False, True])
def test_recipes_of_structures_that_fit_are_let_through(abstract):
  batch = Batch(np.zeros((B, N)), np.zeros((B, N), np.int32))
  batch = jax.eval_shape(lambda: batch) if abstract else batch
  for name in recipes.methods_for("sentences"):
    trace(recipes.make_recipe(name, recipes.Structures(), BUDGET), chain(), chain(), batch)


def test_recipes_of_numbers_that_fit_are_let_through():
  batch, sides = BATCH._replace(labels=np.float32([0.5, 1.0])), (outputs(classes=1),) * 2
  for name in ("scratch", "kd", "annealing_kd", "universal_kd", "universal_kd_capacity_gap", "rkd"):
    trace(recipes.make_recipe(name, recipes.Number(), BUDGET), *sides, batch)


def test_nothing_is_computed():
  """A batch of this size would not fit into memory."""
  many = jax.ShapeDtypeStruct((2**40, CLASSES), jnp.float32)
  labels = jax.ShapeDtypeStruct((2**40,), jnp.int32)
  trace(recipes.kd(TARGET, BUDGET), Outputs(many), Outputs(many), Batch(many, labels))


def test_layers_that_a_cache_does_not_hold():
  recipe = recipes.rkd(TARGET, BUDGET)
  refused(
    r": the teacher gives no layers: cache them \(--cache-outputs\), or run it live",
    recipe,
    teacher=outputs()._replace(layers=()),
  )


def test_a_layer_that_a_network_does_not_have():
  recipe = recipes.attention_transfer(TARGET, BUDGET, layers=(0, 4))
  message = r": 'student.layers\[4\]' is no layer: the student has 4, -4 to 3$"
  refused(message, recipe, outputs(maps=True), outputs(maps=True))


def test_other_widths():
  refused(
    r": student_layers \(2, 3, 24\) and teacher_layers \(2, 4, 36\) differ in width: project",
    recipes.patient_kd(TARGET, BUDGET),
    teacher=outputs(width=36),
  )
  trace(
    recipes.patient_kd(TARGET, BUDGET, project=True, teacher_widths=(36,) * 4),
    outputs(),
    outputs(width=36),
    BATCH,
  )


def test_last_layers_of_other_widths():
  refused(
    r": student_embeddings \(2, 24\) and teacher_embeddings \(2, 36\) must have one width: project",
    own(kd_jax.crd_loss, of=("student.layers[-1]", "teacher.layers[-1]")),
    teacher=outputs(width=36),
  )
  recipe = recipes.crd(TARGET, BUDGET, teacher_widths=(36,) * 4)
  for maps in (False, True):
    trace(recipe, outputs(maps=maps), outputs(width=36, maps=maps), BATCH)


def test_a_projection_to_another_width_than_the_teachers():
  recipe = recipes.tinybert(TARGET, BUDGET, teacher_widths=(30,) * 4)
  refused(r": student_states \(2, 4, 30\) and teacher_states \(2, 4, 24\)", recipe)


def test_other_numbers_of_classes():
  recipe = recipes.kd(TARGET, BUDGET)
  refused(
    r"\(2, 3\) and teacher_logits \(2, 5\) must have one shape", recipe, teacher=outputs(classes=5)
  )


def test_a_later_phase_is_traced_too():
  recipe = recipes.fitnet(TARGET, BUDGET, teacher_widths=(24,) * 4)
  refused(": the teacher gives no logits: cache", recipe, teacher=outputs()._replace(logits=None))


def test_labels_that_are_no_classes():
  batch = BATCH._replace(labels=np.float32([0, 1]))
  refused(": labels must be integers", recipes.scratch(TARGET, BUDGET), batch=batch)


def test_a_head_that_does_not_fit():
  head = LayerClassifiers(CLASSES)
  recipe = own(jnp.mean, of=("student.layer_logits",), head=head)
  refused(
    "has no intermediate ones to learn by", recipe, outputs(layers=1)._replace(layer_logits=None)
  )


def test_a_loss_that_cannot_be_imported():
  recipe = own(lambda logits: logits)
  refused(": the loss of term 'own' must be importable, so that runs can be told apart", recipe)


def adds_other_shapes(logits):
  return logits + jnp.ones((7, 7))


def reads_what_is_absent(logits):
  return logits.nothing


def asks_for_a_value(logits):
  return logits if logits.sum() > 0 else -logits


def indexes_too_far(logits):
  return [logits][1]


def asks_a_table(logits):
  return {}["a key"]


def divides_by_nothing(logits):
  return logits * (1 // 0)


def asserts_in_vain(logits):
  assert logits.shape == (7,)
  return logits


@pytest.mark.parametrize(
  ("loss", "message"),
  [
    (adds_other_shapes, "incompatible shapes"),
    (reads_what_is_absent, "nothing"),
    (asks_for_a_value, "boolean"),
    (indexes_too_far, "index out of range"),
    (asks_a_table, "a key"),
    (divides_by_nothing, "zero"),
    (asserts_in_vain, r"assert|AssertionError|\(7,\)"),
  ],
)
def test_what_goes_wrong_in_a_loss_of_ones_own(loss, message):
  refused(message, own(loss))


def test_options_that_a_loss_refuses():
  options = {"relation_heads": 5}
  of = ("student.tokens.queries[-1]", "teacher.tokens.queries[-1]", "student.tokens.mask")
  recipe = own(kd_jax.relation_kd_loss, of=of, options=options)
  refused(": 5 relation_heads do not divide the width of student_states", recipe)
