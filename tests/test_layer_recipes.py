"""Recipes that compare layers, as data: formulas, weights, phases, heads; classes and numbers."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import recipes
from kd_jax.models.heads import LayerClassifiers, LayerProjections, TokenProjections
from kd_jax.optimizers import Optimizer, PhaseOptimizer
from kd_jax.recipes.parts import Budget
from kd_jax.teachers.sources import cached_teacher
from kd_jax.types import Batch, Outputs, TokenStates
from tests import oracles

EXAMPLES, CLASSES, LENGTH, HEADS = 3, 4, 4, 2
STUDENT_LAYERS, TEACHER_LAYERS, WIDTH = 3, 5, 4
MASK = np.arange(LENGTH) < np.array([4, 2, 3])[:, None]
BUDGET = Budget(9, Optimizer(learning_rate=0.2))
TARGET, NUMBER = recipes.Classes(CLASSES), recipes.Number()
CE, SOFT = ("cross_entropy", False), ("soft_targets", True)
LAYERS = ("layers", True)
FINETUNE = ("finetune", 4, "best", [CE])
METHODS = {
  "patient_kd": [("distil", 9, "fresh", [CE, SOFT, LAYERS])],
  "alp_kd": [("distil", 9, "fresh", [CE, SOFT, LAYERS])],
  "universal_kd": [("distil", 5, "fresh", [SOFT, LAYERS]), FINETUNE],
  "universal_kd_capacity_gap": [("distil", 5, "fresh", [("assistants", True)]), FINETUNE],
  # Its first phase trains no classifier by which a best epoch could be known.
  "minilm": [
    ("distil", 5, "fresh", [("queries", True), ("keys", True), ("values", True)]),
    ("finetune", 4, "last", [CE]),
  ],
  "tinybert": [
    ("layers", 5, "fresh", [("hidden", True), ("attention", True)]),
    ("predict", 4, "last", [SOFT]),
  ],
  "fitnet": [("hint", 5, "fresh", [("hint", True)]), ("distil", 4, "last", [CE, SOFT])],
  "attention_transfer": [
    ("distil", 9, "fresh", [CE, *((f"attention{layer}", True) for layer in (0, 1, 2))])
  ],
  "rkd": [("distil", 9, "fresh", [CE, ("distances", True), ("angles", True)])],
  "crd": [("distil", 9, "fresh", [CE, ("contrast", True)])],
}
"""What each method adds to those on logits: phases, and their terms with whether they read the teacher."""


LEARNED = tuple(recipes.methods_for("texts"))


def make(name, budget=BUDGET, *, target=TARGET, width=WIDTH, **settings):
  """A recipe for a teacher of five layers of one width."""
  widths = None if width is None else (width,) * TEACHER_LAYERS
  return recipes.make_recipe(name, target, budget, settings, teacher_widths=widths)


def outputs(seed, layers, width=WIDTH, classes=CLASSES, tokens=False):
  """A network's random outputs, with pseudo classifiers on all layers but the last."""
  rng = np.random.default_rng(seed)

  def random(*shape):
    return rng.standard_normal((EXAMPLES, *shape)).astype(np.float32)

  states = None
  if tokens:
    shapes = [(LENGTH, width)] * (layers + 1), [(HEADS, LENGTH, width // HEADS)] * layers
    drawn = [tuple(random(*shape) for shape in shapes[part]) for part in (0, 1, 1, 1)]
    states = TokenStates(drawn[0], (), *drawn[1:], MASK)
  return Outputs(
    2 * random(classes),
    tuple(random(width) for _ in range(layers)),
    layer_logits=random(layers - 1, classes),
    tokens=states,
  )


def unattending(given):
  """The outputs of a network without queries, such as a BiLSTM."""
  return given._replace(tokens=given.tokens._replace(queries=(), keys=(), values=()))


student = functools.partial(outputs, 0, STUDENT_LAYERS)
teacher = functools.partial(outputs, 1, TEACHER_LAYERS)


def batch(classes=CLASSES):
  rng = np.random.default_rng(2)
  numbers = 5 * rng.random(EXAMPLES).astype(np.float32)
  return Batch(
    np.zeros((EXAMPLES, 1)), numbers if classes == 1 else rng.integers(0, classes, EXAMPLES)
  )


def term(recipe, name):
  (found,) = [t for phase in recipe.phases for t in phase.objective if t.name == name]
  return found


def values(recipe, name, student, teacher):
  """[B] of a term that has no heads, or whose heads the student's outputs went through already."""
  found = term(recipe, name).loss_at(student, teacher, batch(student.logits.shape[-1]), 0.0)
  assert found.shape == (EXAMPLES,)
  assert found.dtype == np.float32
  return np.asarray(found)


def target_of(classes, mean=0.0):
  return recipes.Number(mean) if classes == 1 else recipes.Classes(classes)


def stacked(layers):
  return np.stack(layers, axis=1)


# What the methods are.


def test_the_methods_and_their_phases():
  known = {kind: set(recipes.methods_for(kind)) for kind in ("images", "texts")}
  assert set(METHODS) <= known["images"] | known["texts"]
  assert set(METHODS) - known["texts"] == {"attention_transfer", "crd"}
  assert set(METHODS) & known["images"] == {"fitnet", "attention_transfer", "rkd", "crd"}
  for name, phases in METHODS.items():
    recipe = make(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.equation
    assert recipe.reference
    assert recipe.assistant is None
    assert [
      (p.name, p.epochs, p.start, [(t.name, t.needs_teacher) for t in p.objective])
      for p in recipe.phases
    ] == phases
    assert all(phase.optimizer == BUDGET.optimizer for phase in recipe.phases)


TWO_PHASES = ("universal_kd", "universal_kd_capacity_gap", "minilm", "tinybert", "fitnet")


@pytest.mark.parametrize("name", TWO_PHASES)
def test_two_phases_may_have_optimizers_of_their_own_and_equal_label_epochs(name):
  settings = {"phase1": PhaseOptimizer(decay="constant"), "phase2": PhaseOptimizer(rate=0.1)}
  first, second = make(name, **settings).phases
  assert first.optimizer == dataclasses.replace(BUDGET.optimizer, decay="constant")
  np.testing.assert_allclose(second.optimizer.learning_rate, 0.02)
  assert second.optimizer.decay == BUDGET.optimizer.decay
  labels = dataclasses.replace(BUDGET, equal_epochs="labels")
  assert [phase.epochs for phase in make(name, labels).phases] == [5, 9]
  assert [phase.epochs for phase in make(name, labels, distil_epochs=20).phases] == [20, 9]


def test_universal_kd_without_its_label_phase_is_phase_one_for_the_whole_budget():
  both, alone = make("universal_kd"), make("universal_kd", label_phase=False)
  (phase,) = alone.phases
  assert phase == dataclasses.replace(both.phases[0], epochs=9, objective=phase.objective)
  described = [recipes.describe(one)["phases"][0] for one in (both, alone)]
  assert described[0]["terms"] == described[1]["terms"]
  assert "without phase II" in alone.title
  assert "II:" not in alone.equation
  constant = make("universal_kd", label_phase=False, phase1=PhaseOptimizer(decay="constant"))
  assert constant.phases[0].optimizer.decay == "constant"


@pytest.mark.parametrize("name", TWO_PHASES)
def test_the_first_of_two_phases_may_be_of_any_length(name):
  lengths = [phase.epochs for phase in make(name, distil_epochs=8).phases]
  assert lengths == [8, 1]
  assert [phase.epochs for phase in make(name, dataclasses.replace(BUDGET, epochs=2)).phases] == [
    1,
    1,
  ]


@pytest.mark.parametrize(
  ("name", "settings", "expected"),
  [
    ("patient_kd", {}, [0.5, 0.5, 100.0]),
    ("patient_kd", {"soft_weight": 0.2, "layer_weight": 10.0}, [0.8, 0.2, 10.0]),
    ("alp_kd", {}, [0.1, 0.7, 0.2]),
    ("alp_kd", {"hard_weight": 0.3, "soft_weight": 0.5, "layer_weight": 2.0}, [0.3, 0.5, 2.0]),
    ("universal_kd", {}, [0.5, 0.5]),
    ("universal_kd", {"layer_weight": 0.2}, [0.8, 0.2]),
    ("universal_kd_capacity_gap", {}, [1.0]),
    ("minilm", {}, [1.0, 1.0, 1.0]),
    ("tinybert", {}, [1.0, 1.0]),
    ("fitnet", {}, [1.0]),
    ("attention_transfer", {}, [1.0, 500.0, 500.0, 500.0]),
    ("attention_transfer", {"layers": (1,), "layer_weight": 2.0}, [1.0, 2.0]),
    ("rkd", {}, [1.0, 25.0, 50.0]),
    ("rkd", {"distance_weight": 3.0, "angle_weight": 0.0}, [1.0, 3.0, 0.0]),
    ("crd", {}, [1.0, 0.8]),
    ("crd", {"layer_weight": 0.0}, [1.0, 0.0]),
  ],
)
def test_weights_of_the_first_phase(name, settings, expected):
  weights = [term.weight_at(1.5) for term in make(name, **settings).phases[0].objective]
  np.testing.assert_allclose(weights, expected)


def test_what_is_read_of_the_teacher():
  """What caches are made by; terms of labels aside, which read nothing."""
  long = dataclasses.replace(BUDGET, epochs=40)
  read = {
    name: set().union(*(phase.reads for phase in make(name, long).phases))
    for name in {**METHODS, **recipes.methods_for("texts")}
  }
  assert read == {
    "scratch": set(),
    "kd": {"logits"},
    "takd": {"logits"},
    "annealing_kd": {"logits"},
    "continuation_kd": {"logits"},
    "dkd": {"logits"},
    "dist": {"logits"},
    "reverse_kl": {"logits"},
    "jensen_shannon": {"logits"},
    "patient_kd": {"logits", "layers"},
    "alp_kd": {"logits", "layers"},
    "universal_kd": {"logits", "layer_logits"},
    "universal_kd_capacity_gap": {"logits", "layer_logits"},
    "minilm": {"tokens"},
    "tinybert": {"tokens", "logits"},
    "fitnet": {"layers", "logits"},
    "attention_transfer": {"layers"},
    "rkd": {"layers"},
    "crd": {"layers"},
  }
  top_k = make("fitnet", target=recipes.Classes(CLASSES, top_k=2))
  assert [phase.reads for phase in top_k.phases] == [{"layers"}, {"top_k"}]


# Formulas.


def from_cache(layers):
  """The same layers, kept in one array and read back."""
  kept = stacked(layers)
  (teacher,) = cached_teacher(Outputs(layers=kept[:, None]))
  return teacher.outputs(np.arange(len(kept)), None, 0).layers


@pytest.mark.parametrize("cached", [False, True])
def test_patient_kd_skips_through_the_teachers_layers(cached):
  own, theirs = student(), teacher()
  # Layers 5/3 and 10/3, rounded, counted from 1; never the last.
  expected = oracles.patient_kd_loss(stacked(own.layers[:-1]), stacked(theirs.layers)[:, [1, 2]])
  if cached:
    theirs = theirs._replace(layers=from_cache(theirs.layers))
  np.testing.assert_allclose(values(make("patient_kd"), "layers", own, theirs), expected, rtol=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_alp_kd_attends_to_the_teachers_intermediate_layers(cached):
  own, theirs = student(), teacher()
  expected = oracles.alp_kd_loss(stacked(own.layers[:-1]), stacked(theirs.layers[:-1]))
  if cached:
    theirs = theirs._replace(layers=from_cache(theirs.layers))
  np.testing.assert_allclose(values(make("alp_kd"), "layers", own, theirs), expected, rtol=1e-5)


@pytest.mark.parametrize("classes", [CLASSES, 1])
def test_universal_kd_meets_in_the_space_of_outputs(classes):
  own, theirs = student(classes=classes), teacher(classes=classes)
  expected = oracles.universal_kd_loss(own.layer_logits, theirs.layer_logits, classes == 1)
  recipe = make("universal_kd", target=target_of(classes))
  found = values(recipe, "layers", own, theirs)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [CLASSES, 1])
def test_universal_kd_may_attend_to_losses(classes):
  own, theirs = student(classes=classes), teacher(classes=classes)
  expected = oracles.universal_kd_loss(
    own.layer_logits, theirs.layer_logits, classes == 1, "losses"
  )
  recipe = make("universal_kd", target=target_of(classes), attend="losses")
  found = values(recipe, "layers", own, theirs)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
  assert recipe.title == "Universal-KD, attention on losses"
  assert "Σ_i Σ_j a_ij" in recipe.equation
  # The default is described as it was before there was a choice.
  assert "'attend'" not in str(recipes.describe(make("universal_kd")))


@pytest.mark.parametrize("classes", [CLASSES, 1])
def test_the_capacity_gap_takes_pseudo_classifiers_and_the_final_one(classes):
  own, theirs = student(classes=classes), teacher(classes=classes)
  pool = np.concatenate([theirs.layer_logits, theirs.logits[:, None]], axis=1)
  expected = oracles.universal_kd_loss(own.logits[:, None], pool, classes == 1)
  recipe = make("universal_kd_capacity_gap", target=target_of(classes))
  found = values(recipe, "assistants", own, theirs)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def merged(heads):
  """[B, H, n, d] -> [B, n, H d]."""
  return np.asarray(heads).swapaxes(1, 2).reshape(EXAMPLES, LENGTH, -1)


@pytest.mark.parametrize("layer", [-1, 1])
def test_minilm_compares_relations_between_tokens_at_any_width(layer):
  own, theirs = student(tokens=True), teacher(width=8, tokens=True)
  recipe = make("minilm", relation_heads=4, teacher_layer=layer)
  for name in ("queries", "keys", "values"):
    last, chosen = getattr(own.tokens, name)[-1], getattr(theirs.tokens, name)[layer]
    expected = oracles.relation_kd_loss(merged(last), merged(chosen), MASK, 4)
    np.testing.assert_allclose(values(recipe, name, own, theirs), expected, rtol=1e-4)


def test_tinybert_compares_attention_scores_of_evenly_spaced_layers():
  own, theirs = student(tokens=True), outputs(1, 6, tokens=True)
  states = [(own.tokens, i, theirs.tokens, 2 * i + 1) for i in range(STUDENT_LAYERS)]
  expected = sum(
    oracles.attention_loss(a.queries[i], a.keys[i], b.queries[j], b.keys[j], MASK)
    for a, i, b, j in states
  )
  np.testing.assert_allclose(
    values(make("tinybert"), "attention", own, theirs), expected, rtol=1e-5
  )


def test_tinybert_maps_hidden_states_by_one_matrix_and_embeddings_by_another():
  own, theirs = student(tokens=True), outputs(1, 6, width=6, tokens=True)
  recipe = make("tinybert", width=6)
  heads = term(recipe, "hidden").head
  projected, made = heads.init_with_output(jax.random.key(0), own)
  maps = jax.tree.map(np.asarray, made["params"])
  assert jax.tree.map(np.shape, maps) == {
    name: {"kernel": (WIDTH, 6), "bias": (6,)} for name in ("embedding", "layers")
  }

  def mapped(name, states):
    return states @ maps[name]["kernel"] + maps[name]["bias"]

  expected = oracles.hidden_state_loss(
    mapped("embedding", own.tokens.states[0]), theirs.tokens.states[0], MASK
  ) + sum(
    oracles.hidden_state_loss(
      mapped("layers", own.tokens.states[i]), theirs.tokens.states[2 * i], MASK
    )
    for i in (1, 2, 3)
  )
  np.testing.assert_allclose(values(recipe, "hidden", projected, theirs), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["patient_kd", "alp_kd", "universal_kd", "tinybert"])
def test_soft_targets_have_the_methods_temperature(name):
  own, theirs = student(), teacher()
  found = values(make(name, temperature=3.0), "soft_targets", own, theirs)
  expected = oracles.soft_target_kd_loss(own.logits, theirs.logits, 3.0)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def maps(layers, size, seed):
  """Feature maps of random sizes and widths, deepest last."""
  rng = np.random.default_rng(seed)
  return tuple(
    rng.standard_normal((EXAMPLES, size, size - 1, WIDTH + layer)).astype(np.float32)
    for layer in range(layers)
  )


@pytest.mark.parametrize("as_maps", [False, True])
def test_fitnet_maps_a_layer_to_the_hint(as_maps):
  own, theirs = student(), teacher(width=6)
  if as_maps:
    own, theirs = own._replace(layers=maps(3, 4, 0)), theirs._replace(layers=maps(5, 4, 1))
  widths = tuple(layer.shape[-1] for layer in theirs.layers)
  recipe = recipes.fitnet(TARGET, BUDGET, student_layer=0, teacher_layer=-3, teacher_widths=widths)
  head = term(recipe, "hint").head
  assert head == LayerProjections(widths[2], (0,))
  mapped, made = head.init_with_output(jax.random.key(0), own)
  kernel, bias = (np.asarray(made["params"]["layer1"][part]) for part in ("kernel", "bias"))
  np.testing.assert_allclose(mapped.layers[0], own.layers[0] @ kernel + bias, rtol=1e-4, atol=1e-5)
  difference = np.asarray(mapped.layers[0], np.float64) - theirs.layers[2]
  expected = np.mean(difference.reshape(EXAMPLES, -1) ** 2, axis=1) / 2
  np.testing.assert_allclose(values(recipe, "hint", mapped, theirs), expected, rtol=1e-4)
  # The hint alone in phase I; then KD.
  settings = {"temperature": 3.0, "soft_weight": 0.2}
  (kd,) = recipes.kd(TARGET, BUDGET, **settings).phases
  second = recipes.fitnet(TARGET, BUDGET, teacher_widths=widths, **settings).phases[1]
  assert second.objective == kd.objective


def test_attention_transfer_compares_where_layers_are_active():
  own, theirs = (
    one()._replace(layers=maps(3, 4, seed)) for seed, one in enumerate((student, teacher))
  )
  recipe = make("attention_transfer", layers=(0, -1))
  assert [t.name for t in recipe.phases[0].objective] == [
    "cross_entropy",
    "attention0",
    "attention-1",
  ]
  for layer in (0, -1):
    expected = oracles.attention_transfer_loss(own.layers[layer], theirs.layers[layer])
    found = values(recipe, f"attention{layer}", own, theirs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("as_maps", [False, True])
def test_rkd_relates_the_examples_of_a_batch_in_the_last_layers(as_maps):
  own, theirs = student(), teacher(width=6)
  if as_maps:
    own, theirs = own._replace(layers=maps(3, 4, 0)), theirs._replace(layers=maps(5, 2, 1))
  pair = [np.asarray(one.layers[-1], np.float64) for one in (own, theirs)]
  pair = [x.mean(axis=(1, 2)) if as_maps else x for x in pair]
  recipe = make("rkd")
  for name, oracle in (
    ("distances", oracles.rkd_distance_loss),
    ("angles", oracles.rkd_angle_loss),
  ):
    found = term(recipe, name).loss_at(own, theirs, batch(), 0.0)
    np.testing.assert_allclose(found, oracle(*pair), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("as_maps", [False, True])
@pytest.mark.parametrize("other_classes", [True, False])
def test_crd_contrasts_the_projected_last_layer_with_the_teachers(as_maps, other_classes):
  own, theirs = student(), teacher(width=6)
  if as_maps:
    own, theirs = own._replace(layers=maps(3, 4, 0)), theirs._replace(layers=maps(5, 2, 1))
  widths = tuple(layer.shape[-1] for layer in theirs.layers)
  recipe = recipes.crd(
    TARGET, BUDGET, temperature=0.5, other_classes=other_classes, teacher_widths=widths
  )
  head = term(recipe, "contrast").head
  assert head == LayerProjections(widths[-1], (-1,))
  mapped, made = head.init_with_output(jax.random.key(0), own)
  assert set(made["params"]) == {"layer3"}
  kernel, bias = (np.asarray(made["params"]["layer3"][part]) for part in ("kernel", "bias"))
  pair = [own.layers[-1] @ kernel + bias, np.asarray(theirs.layers[-1], np.float64)]
  pair = [x.mean(axis=(1, 2)) if as_maps else x for x in pair]
  given = batch()._replace(labels=np.array([2, 1, 2]))
  found = term(recipe, "contrast").loss_at(mapped, theirs, given, 0.0)
  expected = oracles.crd_loss(*pair, given.labels if other_classes else None, temperature=0.5)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
  # Negatives of another class are read from labels: only labelled examples are trained on.
  assert recipe.phases[0].labelled_only == other_classes
  assert ("negatives of all classes" in recipe.title) != other_classes


# Numbers in place of classes.


@pytest.mark.parametrize("name", METHODS)
def test_a_predicted_number_gives_squared_errors_everywhere(name):
  """With C = 1 a softmax is always 1: a term of KL would be 0 and teach nothing, or NaN."""
  if name in ("attention_transfer", "crd"):
    with pytest.raises(ValueError, match=rf"{name} is for images: .* Number"):
      make(name, target=NUMBER)
    return
  recipe = make(name, target=NUMBER, **({"relation_heads": 2} if name == "minilm" else {}))
  own, theirs = (one(classes=1, tokens=True) for one in (student, teacher))
  for phase in recipe.phases:
    for one in phase.objective:
      before = own
      if one.head is not None:
        before = one.head.init_with_output(jax.random.key(0), own)[0]

      def loss(logits, layer_logits, one=one, before=before):
        seen = before._replace(logits=logits, layer_logits=layer_logits)
        return one.loss_at(seen, theirs, batch(1), 0.0).sum()

      arguments = (before.logits, before.layer_logits)
      total, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*arguments)
      assert np.isfinite(total)
      assert total > 0, one.name
      assert all(np.isfinite(gradient).all() for gradient in gradients)
      # Every loss on outputs moves them.
      moved = [bool(np.any(gradient != 0)) for gradient in gradients]
      expected = {
        "cross_entropy": [True, False],
        "soft_targets": [True, False],
        "assistants": [True, False],
        "layers": [False, name == "universal_kd"],
      }
      assert moved == expected.get(one.name, [False, False])
  squares = np.square(own.logits[:, 0] - theirs.logits[:, 0])
  if name in ("patient_kd", "alp_kd", "universal_kd", "tinybert"):
    np.testing.assert_allclose(values(recipe, "soft_targets", own, theirs), squares, rtol=1e-6)


# Heads.


@pytest.mark.parametrize("name", ["patient_kd", "alp_kd"])
def test_a_projection_makes_widths_fit(name):
  own, theirs = student(width=6), teacher(width=8)
  with pytest.raises(ValueError, match=r"\(3, 2, 6\).*\(3, \d, 8\).*project") as refused:
    values(make(name), "layers", own, theirs)
  assert "\n" not in str(refused.value)
  assert term(make(name, width=8), "layers").head is None
  recipe = make(name, width=8, project=True)
  heads = term(recipe, "layers").head
  assert heads == LayerProjections(8)
  projected, made = heads.init_with_output(jax.random.key(0), own)
  maps = made["params"]
  # None for the last layer, which no loss on layers reads.
  assert set(maps) == {"layer1", "layer2"}
  assert projected.layers[-1] is own.layers[-1]
  layers = [
    state @ maps[f"layer{number}"]["kernel"] + maps[f"layer{number}"]["bias"]
    for number, state in enumerate(own.layers[:-1], start=1)
  ]
  for one, by_hand in zip(projected.layers[:-1], layers, strict=True):
    np.testing.assert_allclose(one, by_hand, rtol=1e-4, atol=1e-5)
  # Nothing else of the outputs is touched.
  assert projected.logits is own.logits
  assert np.isfinite(values(recipe, "layers", projected, theirs)).all()


@pytest.mark.parametrize("as_maps", [False, True])
@pytest.mark.parametrize(
  ("layers", "mapped"),
  [
    (None, (0, 1)),
    ((1,), (1,)),
    ((-1,), (2,)),
    ((-3, 1), (0, 1)),
    ((0, 1, 2), (0, 1, 2)),
    ((), ()),
  ],
)
def test_projections_of_chosen_layers(as_maps, layers, mapped):
  """A matrix for each, of its own: on feature maps, a convolution of one position."""
  given = maps(3, 4, 0) if as_maps else student(width=6).layers
  own = student()._replace(layers=given)
  head = LayerProjections(5, layers)
  projected, made = head.init_with_output(jax.random.key(0), own)
  parts = made.get("params", {})
  assert set(parts) == {f"layer{index + 1}" for index in mapped}
  for index, (before, after) in enumerate(zip(given, projected.layers, strict=True)):
    if index not in mapped:
      assert after is before
      continue
    part = parts[f"layer{index + 1}"]
    assert part["kernel"].shape == (before.shape[-1], 5)
    assert after.shape == (*before.shape[:-1], 5)
    by_hand = np.einsum("...d,de->...e", before, part["kernel"]) + part["bias"]
    np.testing.assert_allclose(after, by_hand, rtol=1e-4, atol=1e-5)
  # Nothing else of the outputs is touched.
  assert projected.logits is own.logits
  assert projected.layer_logits is own.layer_logits


def test_projections_are_of_float32_and_independent_of_each_other():
  low = student()._replace(layers=tuple(jnp.asarray(x, jnp.bfloat16) for x in student().layers))
  projected, made = LayerProjections(5).init_with_output(jax.random.key(0), low)
  assert {layer.dtype for layer in projected.layers[:-1]} == {jnp.dtype(jnp.float32)}
  kernels = [made["params"][f"layer{number}"]["kernel"] for number in (1, 2)]
  assert not np.allclose(*kernels)


@pytest.mark.parametrize("index", [3, -4, 7])
def test_a_layer_that_is_not_there_cannot_be_projected(index):
  message = f"^layer {index} cannot be projected: the student has 3, -3 to 2"
  with pytest.raises(ValueError, match=message):
    LayerProjections(5, (index,)).init(jax.random.key(0), student())


def test_a_layer_is_projected_once():
  with pytest.raises(ValueError, match=r"`layers` must name each layer once, got \(0, -3\)"):
    LayerProjections(5, (0, -3)).init(jax.random.key(0), student())


def test_universal_kd_gives_the_student_classifiers_of_its_own():
  heads = term(make("universal_kd"), "layers").head
  assert heads == LayerClassifiers(CLASSES)
  own = student(width=6)
  seen, made = heads.init_with_output(jax.random.key(0), own)
  maps = made["params"]["pseudo"]
  assert set(maps) == {"layer1", "layer2"}
  by_hand = [own.layers[i] @ maps[f"layer{i + 1}"]["kernel"] for i in (0, 1)]
  np.testing.assert_allclose(seen.layer_logits, stacked(by_hand), rtol=1e-4, atol=1e-5)
  # Any teacher's width and depth will do.
  found = values(make("universal_kd"), "layers", seen, teacher(width=8))
  np.testing.assert_allclose(
    found,
    oracles.universal_kd_loss(seen.layer_logits, teacher(width=8).layer_logits),
    rtol=1e-4,
    atol=1e-6,
  )


def test_classifiers_of_numbers_start_around_the_mean_label():
  heads = term(make("universal_kd", target=recipes.Number(2.5)), "layers").head
  maps = heads.init(jax.random.key(0), student(width=6))["params"]["pseudo"]
  assert {layer: part["bias"].tolist() for layer, part in maps.items()} == {
    "layer1": [2.5],
    "layer2": [2.5],
  }


@pytest.mark.parametrize(
  ("name", "at"), [("universal_kd", "layers"), ("universal_kd_capacity_gap", "assistants")]
)
def test_attention_between_numbers_does_not_depend_on_their_level(name, at):
  """Labels from 0 to 5 and from -2.5 to 2.5 are one task."""
  own, theirs = student(width=6, classes=1), teacher(width=8, classes=1)
  losses = []
  for level in (0.0, 2.7, 50.0):
    compared = term(make(name, target=recipes.Number(level)), at)
    shifted = [
      one._replace(logits=one.logits + level, layer_logits=one.layer_logits + level)
      for one in (own, theirs)
    ]
    losses.append(compared.loss_at(*shifted, batch(1), 0.0))
    half = jax.tree.map(lambda x: x.astype(np.float16), shifted[1])
    found = [
      compared.loss_at(shifted[0], kept, batch(1), 0.0)
      for kept in (half, jax.tree.map(lambda x: x.astype(np.float32), half))
    ]
    np.testing.assert_allclose(*found, rtol=1e-6, err_msg="a cache of half precision")
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(losses[2], losses[0], rtol=1e-3, atol=1e-4)


NUMBERS = [name for name in LEARNED if name not in ("dkd", "dist", "reverse_kl", "jensen_shannon")]


@pytest.mark.parametrize("name", NUMBERS)
def test_equations_say_what_is_computed(name):
  """Squared errors where a number is predicted, CE and KL where a class is."""
  budget = dataclasses.replace(BUDGET, epochs=40)
  classes = make(name, budget).equation
  numbers = make(name, budget, target=NUMBER).equation
  if name == "takd":  # in words
    assert classes == numbers
    return
  assert "(y - z_s)²" not in classes
  assert ("CE(y, z_s)" in classes) == ("(y - z_s)²" in numbers)
  assert "CE(" not in numbers
  assert "softmax(z" not in numbers


# What is refused.


@pytest.mark.parametrize(
  ("name", "settings", "message"),
  [
    ("patient_kd", {"soft_weight": 1.5}, "soft_weight must be in [0, 1], got 1.5"),
    ("patient_kd", {"temperature": 0.5}, "temperature must be finite and at least 1, got 0.5"),
    ("patient_kd", {"layer_weight": -1.0}, "layer_weight must be finite and at least 0, got -1.0"),
    ("alp_kd", {"hard_weight": 1.5}, "hard_weight must be in [0, 1], got 1.5"),
    ("alp_kd", {"soft_weight": -0.1}, "soft_weight must be in [0, 1], got -0.1"),
    (
      "alp_kd",
      {"layer_weight": float("nan")},
      "layer_weight must be finite and at least 0, got nan",
    ),
    ("universal_kd", {"layer_weight": 1.5}, "layer_weight must be in [0, 1], got 1.5"),
    ("universal_kd", {"temperature": 0.0}, "temperature must be finite and at least 1, got 0.0"),
    ("universal_kd", {"distil_epochs": 9}, "must leave epochs to both phases: got 9 of 9"),
    (
      "universal_kd",
      {"distil_epochs": 5, "label_phase": False},
      "`distil_epochs` and `phase2` need a label phase, got 5",
    ),
    (
      "universal_kd",
      {"phase2": PhaseOptimizer(0.1), "label_phase": False},
      "need a label phase, got None and PhaseOptimizer(rate=0.1",
    ),
    ("universal_kd", {"distil_epochs": 0}, "must leave epochs to both phases: got 0 of 9"),
    ("universal_kd_capacity_gap", {"distil_epochs": -1}, "got -1 of 9"),
    ("minilm", {"relation_heads": 0}, "relation_heads must be at least 1, got 0"),
    ("minilm", {"distil_epochs": 10}, "got 10 of 9"),
    ("tinybert", {"temperature": float("inf")}, "temperature must be finite"),
    ("alp_kd", {"tau": 2}, "alp_kd has no setting ['tau']"),
    ("token_kd", {}, "token_kd is for sentences: it does not learn to predict Classes"),
    ("fitnet", {"teacher_layer": 5}, "teacher_layer is an index of the teacher's 5 layers, got 5"),
    (
      "fitnet",
      {"teacher_layer": -6},
      "teacher_layer is an index of the teacher's 5 layers, got -6",
    ),
    ("fitnet", {"soft_weight": 1.5}, "soft_weight must be in [0, 1], got 1.5"),
    ("fitnet", {"distil_epochs": 9}, "got 9 of 9"),
    ("attention_transfer", {"layers": ()}, "`layers` must name at least one layer"),
    ("attention_transfer", {"layers": (0, 0)}, "needs terms with distinct names"),
    (
      "attention_transfer",
      {"layer_weight": -1.0},
      "layer_weight must be finite and at least 0, got -1.0",
    ),
    (
      "rkd",
      {"distance_weight": float("inf")},
      "distance_weight must be finite and at least 0, got inf",
    ),
    ("rkd", {"angle_weight": -2.0}, "angle_weight must be finite and at least 0, got -2.0"),
    ("crd", {"layer_weight": -1.0}, "layer_weight must be finite and at least 0, got -1.0"),
    ("crd", {"temperature": 0.0}, "temperature must be finite and above 0, got 0.0"),
  ],
)
def test_bad_settings_are_refused_in_one_line(name, settings, message):
  with pytest.raises(ValueError) as refused:  # noqa: PT011
    make(name, **settings)
  assert message in str(refused.value)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
  ("name", "settings"),
  [
    ("patient_kd", {"project": True}),
    ("alp_kd", {"project": True}),
    ("tinybert", {}),
    ("fitnet", {}),
    ("crd", {}),
  ],
)
def test_a_projection_without_the_teachers_width_is_refused(name, settings):
  with pytest.raises(ValueError, match="needs the widths of the teacher's layers: give teacher_w"):
    make(name, width=None, **settings)


@pytest.mark.parametrize(
  ("name", "settings"),
  [("patient_kd", {"project": True}), ("alp_kd", {"project": True}), ("tinybert", {})],
)
def test_one_projection_for_all_layers_needs_a_teacher_of_one_width(name, settings):
  with pytest.raises(ValueError, match=r"layers must be of one width, they are \[8, 8, 6\]"):
    recipes.make_recipe(name, TARGET, BUDGET, settings, teacher_widths=(8, 8, 6))


@pytest.mark.parametrize(
  ("name", "part", "own", "theirs", "message"),
  [
    (
      "patient_kd",
      "layers",
      student(),
      teacher()._replace(layers=()),
      r"cache them \(--cache-outputs\), or run it",
    ),
    (
      "alp_kd",
      "layers",
      student(),
      teacher()._replace(layers=()),
      r"cache them \(--cache-outputs\), or run it",
    ),
    ("alp_kd", "layers", outputs(0, 1), teacher(), "has 1 layer, give it at least 2"),
    ("patient_kd", "layers", outputs(0, 1), teacher(), "has 1 layer, give it at least 2"),
    ("patient_kd", "layers", outputs(0, 6), teacher(), "student of 6 layers .* teacher of 5"),
    (
      "universal_kd",
      "layers",
      student(),
      teacher()._replace(layer_logits=None),
      "no logits of inner layers",
    ),
    (
      "minilm",
      "queries",
      student(),
      teacher(tokens=True),
      "student gives no states of tokens: build it with collect_tokens",
    ),
    ("minilm", "keys", unattending(student(tokens=True)), teacher(tokens=True), "that attend"),
    ("minilm", "values", student(tokens=True), teacher(tokens=True), "12 relation_heads"),
    ("tinybert", "attention", student(tokens=True), teacher(), "with collect_tokens"),
    (
      "tinybert",
      "attention",
      outputs(0, 6, tokens=True),
      teacher(tokens=True),
      "student of 6 layers .* teacher of 5",
    ),
    (
      "tinybert",
      "hidden",
      outputs(0, 6, tokens=True),
      teacher(tokens=True),
      "student of 6 layers .* teacher of 5",
    ),
  ],
)
def test_networks_that_do_not_suit_are_refused_in_one_line(name, part, own, theirs, message):
  with pytest.raises(ValueError, match=message) as refused:
    values(make(name), part, own, theirs)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
  ("name", "part", "own", "theirs", "message"),
  [
    ("attention_transfer", "attention1", maps(3, 4, 0), maps(3, 5, 1), "maps of one size"),
    (
      "attention_transfer",
      "attention2",
      maps(2, 4, 0),
      maps(3, 4, 1),
      "no layer: the student has 2",
    ),
    ("attention_transfer", "attention0", student().layers, teacher().layers, "with positions"),
    ("fitnet", "hint", maps(3, 4, 0), maps(5, 3, 1), "maps are of one size"),
  ],
)
def test_maps_that_do_not_fit_are_refused_in_one_line(name, part, own, theirs, message):
  with pytest.raises(ValueError, match=message) as refused:
    values(make(name), part, student()._replace(layers=own), teacher()._replace(layers=theirs))
  assert "\n" not in str(refused.value)


def test_pseudo_assistants_need_the_teachers_final_logits():
  given = teacher()._replace(logits=None)
  with pytest.raises(
    ValueError, match=r"^the teacher gives no logits: cache them .*or run it live"
  ):
    values(make("universal_kd_capacity_gap"), "assistants", student(), given)


def test_a_layer_that_the_teacher_lacks_is_refused():
  recipe = make("minilm", relation_heads=2, teacher_layer=5)
  message = r"'teacher.tokens.queries\[5\]' is no layer: the teacher has 5, -5 to 4"
  with pytest.raises(ValueError, match=message):
    values(recipe, "queries", student(tokens=True), teacher(tokens=True))


def test_heads_refuse_networks_without_what_they_read():
  with pytest.raises(ValueError, match="at least 2 layers"):
    LayerClassifiers(CLASSES).init(jax.random.key(0), outputs(0, 1))
  with pytest.raises(ValueError, match="collect_tokens=True"):
    TokenProjections(4).init(jax.random.key(0), student())


# Descriptions, by which a run is known on resumption.


def variant(name, changes=(), *, target=TARGET, budget=BUDGET, width=WIDTH):
  return make(name, budget, target=target, width=width, **dict(changes))


LABEL_EPOCHS = dataclasses.replace(BUDGET, equal_epochs="labels")
CHANGES = {
  "patient_kd": {"temperature": 5.0, "soft_weight": 0.2, "layer_weight": 10.0, "project": True},
  "alp_kd": {
    "temperature": 5.0,
    "hard_weight": 0.2,
    "soft_weight": 0.2,
    "layer_weight": 1.0,
    "project": True,
  },
  "universal_kd": {
    "temperature": 2.0,
    "layer_weight": 0.2,
    "distil_epochs": 3,
    "attend": "losses",
    "label_phase": False,
    "phase1": PhaseOptimizer(0.1),
    "phase2": PhaseOptimizer(0.1),
  },
  "universal_kd_capacity_gap": {"distil_epochs": 3},
  "minilm": {"relation_heads": 4, "teacher_layer": 2, "distil_epochs": 3},
  "tinybert": {"temperature": 2.0, "distil_epochs": 3},
  "fitnet": {
    "student_layer": 0,
    "teacher_layer": 0,
    "temperature": 2.0,
    "soft_weight": 0.2,
    "distil_epochs": 3,
    "phase1": PhaseOptimizer(0.1),
    "phase2": PhaseOptimizer(0.1),
  },
  "attention_transfer": {"layers": (0, 1), "layer_weight": 10.0},
  "rkd": {"distance_weight": 1.0, "angle_weight": 1.0},
  "crd": {"layer_weight": 1.0, "temperature": 0.5, "other_classes": False},
}


def variants():
  """Each method as it is, with each setting changed, and for other targets, budgets and widths."""
  made = [
    variant(name, change)
    for name, changes in CHANGES.items()
    for change in ({}, *({key: value} for key, value in changes.items()))
  ]
  made += [variant(name, {"project": True}, width=8) for name in ("patient_kd", "alp_kd")]
  made += [variant(name, width=8) for name in ("tinybert", "fitnet", "crd")]
  made += [variant("universal_kd", target=target) for target in (recipes.Classes(3), NUMBER)]
  made += [variant("universal_kd", target=recipes.Number(1.0))]
  made += [variant("universal_kd", budget=LABEL_EPOCHS)]
  return made


def test_descriptions_are_json_and_tell_all_settings_and_heads_apart():
  texts = []
  for one, again in zip(variants(), variants(), strict=True):
    description = recipes.describe(one)
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    assert recipes.describe(again) == description
    texts.append(json.dumps(description["phases"], sort_keys=True))
  assert len(set(texts)) == len(texts)


def test_recipes_made_twice_are_equal_and_other_settings_make_others():
  made, again = variants(), variants()
  assert made == again
  assert [hash(one) for one in made] == [hash(one) for one in again]
  assert len(set(made)) == len(made)
