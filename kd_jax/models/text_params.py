"""Parameters of a network that start from those of another: chosen layers, or word vectors alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from kd_jax.models.safetensors_files import flatten, nest
from kd_jax.models.text_spec import TEXT_FAMILIES, TextSpec
from kd_jax.models.word_embedding import WORDS
from kd_jax.types import ArrayLike

_WORDS = (*WORDS, "embedding")


def select_layers(params: Mapping[str, Any], teacher_layers: Sequence[int]) -> dict[str, Any]:
  """The parameters of a shallower BERT: the embedding, chosen layers renumbered, and the pooler.

  Classifiers are left out: they belong to the teacher's task and last layer.

  Args:
    params: of a `TextClassifier` over a `BertEncoder`.
    teacher_layers: numbers from 1, one for each layer of the shallower network.

  Returns:
    {"encoder": ..., "pooler": ... where params have it}: the same arrays, not copies.

  Raises:
    ValueError: no layers, or one that params lack.

  >>> layers = {f"layer{number}": {"kernel": number} for number in range(1, 7)}
  >>> chosen = select_layers({"encoder": {"embedding": 0, **layers}}, (2, 4))
  >>> chosen["encoder"]["layer2"]
  {'kernel': 4}
  """
  encoder = params["encoder"]
  held = sorted(int(name[5:]) for name in encoder if name.startswith("layer"))
  absent = [number for number in teacher_layers if number not in held]
  if absent or not teacher_layers:
    raise ValueError(
      f"teacher_layers must be among the teacher's {len(held)} layers, numbered from 1, "
      f"got {tuple(teacher_layers)}"
    )
  chosen = {
    f"layer{number}": encoder[f"layer{source}"]
    for number, source in enumerate(teacher_layers, start=1)
  }
  selected = {"encoder": {"embedding": encoder["embedding"], **chosen}}
  return selected | ({"pooler": params["pooler"]} if "pooler" in params else {})


def copyable(given: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
  """What a network of another architecture can take over: the word vectors, where shapes agree.

  Args:
    given: parameters of the teacher.
    fresh: parameters of the student.

  Returns:
    {"encoder": {"embedding": {"word_embedding": ...}}} of given, or {}.
  """
  theirs, ours = dict(flatten(given)).get(_WORDS), dict(flatten(fresh)).get(_WORDS)
  fits = theirs is not None and ours is not None and jnp.shape(theirs) == jnp.shape(ours)
  return nest({_WORDS: theirs}) if fits else {}


def cut_words(params: Mapping[str, Any], kept: ArrayLike) -> dict[str, Any]:
  """Parameters whose word vectors are those of the kept subwords alone; without word vectors, the same."""
  leaves = dict(flatten(params))
  if _WORDS in leaves:
    leaves[_WORDS] = leaves[_WORDS][kept]
  return nest(leaves)


def merge(fresh: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
  """Fresh parameters with those of given in their places.

  Args:
    fresh: all parameters of a network.
    given: some or all of them.

  Returns:
    All of them, of fresh's dtypes.

  Raises:
    ValueError: a parameter of given that fresh lacks, or of another shape.

  >>> merge({"a": jnp.zeros(2), "b": jnp.zeros(1)}, {"a": jnp.ones(2)})["a"].tolist()
  [1.0, 1.0]
  """
  merged = dict(flatten(fresh))
  faults = []
  for path, value in flatten(given):
    name = "/".join(path)
    if path not in merged:
      faults.append(f"{name}, which the network lacks")
    elif jnp.shape(value) != jnp.shape(merged[path]):
      faults.append(f"{name} {list(jnp.shape(value))}, not {list(jnp.shape(merged[path]))}")
    else:
      merged[path] = jnp.asarray(value, merged[path].dtype)
  if faults:
    more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
    raise ValueError(f"{len(faults)} given parameters do not fit: {'; '.join(faults[:4])}{more}")
  return nest(merged)


def taken_over(
  spec: TextSpec, fresh: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
  """What a student takes over from another network.

  A BERT takes the embedding, `spec.teacher_layers` (or the lowest) and the pooler; others what is `copyable`.

  Args:
    spec: of the student.
    fresh: its random parameters, or their shapes.
    given: of the other network.

  Returns:
    A part of the student's parameters.

  Raises:
    ValueError: layers that the other network lacks.
  """
  if not TEXT_FAMILIES[spec.family].attends:
    return copyable(given, fresh)
  return select_layers(given, spec.teacher_layers or tuple(range(1, spec.layers + 1)))


def start_from(
  spec: TextSpec, fresh: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
  """The parameters that a student starts with: fresh ones, and those that it has `taken_over`.

  Raises:
    ValueError: widths or layers that do not fit.
  """
  return merge(fresh, taken_over(spec, fresh, given))
