"""The public names, what importing them costs, and which room may know which."""

import ast
import inspect
import json
import operator
import pathlib
import subprocess
import sys
import typing

import pytest

import kd_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "kd_jax"
FILES = sorted(LIBRARY.rglob("*.py"))

FIXED = {
  "annealing_factor": "temperature, max_temperature",
  "annealed_logits": "teacher_logits, temperature, max_temperature",
  "annealing_kd_loss": "student_logits, teacher_logits, temperature, max_temperature",
  "continuation_kd_loss": (
    "student_logits, teacher_logits, temperature, max_temperature, *, margin"
  ),
  "annealing_temperature": "max_temperature, steps_per_temperature",
  "soft_target_kd_loss": "student_logits, teacher_logits, *, temperature",
  "forward_kl": "student_logits, teacher_logits, *, temperature=1.0",
  "reverse_kl": "student_logits, teacher_logits, *, temperature=1.0",
  "jensen_shannon": "student_logits, teacher_logits, *, temperature=1.0",
  "masked_mean": "values, mask=None",
  "layer_attention": "queries, keys, values",
  "universal_kd_loss": "student_layer_logits, teacher_layer_logits",
  "alp_kd_loss": "student_layers, teacher_layers",
  "patient_kd_loss": "student_layers, teacher_layers",
  "structural_kd_loss": "student, teacher",
  "structured.log_partition": "structure",
  "structured.log_prob": "structure, labels",
  "structured.marginals": "structure",
  "structured.argmax": "structure",
  "structured.top_k": "structure, k",
  "structured.sample": "structure, key",
  "structured.entropy": "structure",
  "structured.cross_entropy": "p, q",
  "structured.kl_divergence": "p, q",
  "structured.tag_marginals": "structure",
  "structured.head_marginals": "structure",
  "structured.mean_field_marginals": "arc, sibling, grandparent, mask=None",
  "structured.LinearChain": "unary, transition, mask=None",
  "structured.MaxEnt": "logits, mask=None",
  "structured.SpanScores": "scores, mask=None",
  "structured.DependencyTrees": "arc, mask=None, single_root=True, projective=False",
  "structured.DependencyScores": "arc, relation, mask=None, refined=None",
  "structured.ParsingTags": "logits, offsets, relations, mask=None",
}


@pytest.mark.parametrize("name", FIXED)
def test_fixed_names_and_their_arguments(name):
  """Other people's code relies on them. More may follow, if it is optional and by keyword."""
  expected = inspect.signature(eval(f"lambda {FIXED[name]}: None")).parameters
  found = inspect.signature(operator.attrgetter(name)(kd_jax)).parameters
  assert list(found)[: len(expected)] == list(expected)
  for argument, parameter in expected.items():
    assert (found[argument].kind, found[argument].default) == (parameter.kind, parameter.default)
  for argument in list(found)[len(expected) :]:
    assert found[argument].kind is inspect.Parameter.KEYWORD_ONLY
    assert found[argument].default is not inspect.Parameter.empty


def test_public_names_are_documented():
  public = {name: value for name, value in vars(kd_jax).items() if not name.startswith("_")}
  for name, value in public.items():
    if not inspect.ismodule(value):
      assert inspect.getdoc(value), name
      assert value.__module__.startswith("kd_jax."), name


LONG = {"losses.annealing", "losses.layers", "losses.tokens", "schedules"}
"""Modules whose annotations are not short yet: help() spells `ArrayLike` out there."""


def test_signatures_are_short_and_their_annotations_have_a_meaning():
  for room in (kd_jax, kd_jax.structured):
    for name, value in vars(room).items():
      if name.startswith("_") or not inspect.isfunction(inspect.unwrap(value)):
        continue
      assert typing.get_type_hints(value).keys() >= {"return"}, name
      if value.__module__.removeprefix("kd_jax.") not in LONG:
        assert "Union[" not in str(inspect.signature(value)), name


def test_importing_the_library_is_light():
  code = "import sys, json, kd_jax; print(json.dumps([sorted(sys.modules), sorted(vars(kd_jax))]))"
  result = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
  )
  # Nothing but our own line is printed.
  modules, names = json.loads(result.stdout)
  heavy = {"flax", "orbax", "tensorflow_datasets", "tensorflow", "matplotlib", "sklearn", "PIL"}
  heavy |= {"safetensors", "tyro", "rich", "tensorboardX", "experiments", "tests"}
  assert not heavy & {module.split(".")[0] for module in modules}
  own = {module for module in modules if module.startswith("kd_jax.")}
  assert not {module for module in own if module.split(".")[1] in ("training", "data", "models")}
  assert {name.split(".")[0] for name in FIXED} <= set(names)


# Who imports whom.


def name_of(path):
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, *, top_level=False):
  """Full names of what a file imports: modules, or names of modules."""
  tree = ast.parse(path.read_text())
  for node in tree.body if top_level else ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      for alias in node.names:
        yield f"{node.module}.{alias.name}"


def starts_with(name, prefixes):
  return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


STANDARD = sys.stdlib_module_names
PURE = {"jax", "optax", "chex", "jaxtyping", "numpy", "kd_jax.types", "kd_jax.structured"}
PURE |= {"kd_jax._checks", "kd_jax._numerics"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_knows_only_what_it_may(path):
  name, found = name_of(path), set(imports(path))
  assert not {i for i in found if starts_with(i, ("experiments", "tests"))}
  for room, known in (("losses", PURE | {"kd_jax.losses"}), ("structured", PURE)):
    if starts_with(name, (f"kd_jax.{room}",)):
      assert not {i for i in found if i.split(".")[0] not in STANDARD and not starts_with(i, known)}
  if starts_with(name, ("kd_jax.types", "kd_jax.schedules", "kd_jax.metrics", "kd_jax.models")):
    forbidden = {"training", "data", "recipes", "parallel", "checkpoints", "teacher_cache"}
    assert not {i for i in found if starts_with(i, {f"kd_jax.{room}" for room in forbidden})}
  if starts_with(name, ("kd_jax.training",)):
    # Training is handed arrays; where they come from and where they go is not its business.
    forbidden = ("kd_jax.checkpoints", "kd_jax.teachers.cache", "orbax", "tensorflow_datasets")
    assert not {i for i in found if starts_with(i, forbidden)}
  if name != "kd_jax":
    assert "kd_jax" not in found, "the public names are for users: import the room instead"
  optional = ("tensorflow", "tensorflow_datasets", "sklearn", "PIL", "absl")
  assert not {i for i in imports(path, top_level=True) if starts_with(i, optional)}


def room(name):
  """kd_jax.losses.logits -> losses."""
  return name.split(".")[1]


def test_rooms_import_down_only():
  """The rooms can be put in an order in which each imports only earlier ones."""
  rooms = {room(name_of(path)) for path in FILES if name_of(path) != "kd_jax"}
  needs = {one: set() for one in rooms}
  for path in FILES:
    if (name := name_of(path)) == "kd_jax":
      continue
    for found in imports(path):
      if found.startswith("kd_jax.") and room(found) in rooms - {room(name)}:
        needs[room(name)].add(room(found))
  ordered = []
  while needs:
    ready = sorted(one for one, wanted in needs.items() if wanted <= set(ordered))
    assert ready, f"rooms import each other in a circle: {needs}"
    ordered += ready
    needs = {one: wanted for one, wanted in needs.items() if one not in ordered}
  assert ordered.index("types") < ordered.index("losses") < ordered.index("recipes")
  assert ordered.index("recipes") < ordered.index("training")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_library_neither_prints_nor_reads_the_command_line(path):
  source = path.read_text()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      assert node.func.id not in ("print", "input", "exit", "eval", "exec"), node.lineno
    if isinstance(node, ast.Attribute):
      assert node.attr not in ("argv", "stdout", "stderr", "exit") or (
        # TFDS is told to be quiet in one place.
        name_of(path) == "kd_jax.data.quiet"
      ), node.lineno
  found = set(imports(path))
  unwanted = ("argparse", "tyro", "rich", "matplotlib", "tensorboardX", "pickle", "sys.argv")
  assert not {i for i in found if starts_with(i, unwanted)}


def test_only_one_file_says_pmap():
  users = [name_of(path) for path in FILES if "jax.pmap" in path.read_text()]
  assert users == ["kd_jax.parallel"]


def test_rooms_are_there_after_one_import_and_loaded_when_they_are_used():
  code = (
    "import sys, kd_jax\n"
    "assert not {'kd_jax.training', 'kd_jax.recipes', 'kd_jax.data'} & set(sys.modules)\n"
    "assert 'training' in dir(kd_jax)\n"
    "print(kd_jax.training.Task.__name__, kd_jax.recipes.kd.__name__, kd_jax.models.__name__)\n"
  )
  ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert ran.stdout == "Task kd kd_jax.models\n", ran.stderr


def test_what_is_exported_is_what_is_there():
  with pytest.raises(AttributeError, match="has no attribute 'lossses'"):
    _ = kd_jax.lossses
  public = {name for name, value in vars(kd_jax).items() if callable(value) and name[0] != "_"}
  assert public <= {*kd_jax.__all__}
  assert all(hasattr(kd_jax, name) for name in kd_jax.__all__)
  assert len(kd_jax.__all__) == len({*kd_jax.__all__})
