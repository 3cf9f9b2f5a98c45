"""Losses over `Outputs` that compare layers or tokens: the terms of `layer_recipes`."""

import jax.numpy as jnp
import numpy as np

from kd_jax.losses import layers, tokens
from kd_jax.models.heads import intermediate
from kd_jax.recipes import final_logits
from kd_jax.types import Array, Batch, Outputs


def matched_layers(student: Outputs, teacher: Outputs, batch: Batch) -> Array:
  """`patient_kd_loss` on the student's intermediate layers, each with the teacher's by `skip_mapping`."""
  del batch
  own, theirs = intermediate(student), _layers(teacher)
  chosen = np.asarray(layers.skip_mapping(len(student.layers), theirs.shape[1]))
  return layers.patient_kd_loss(jnp.stack(own, axis=1), theirs[:, chosen])


def attended_layers(student: Outputs, teacher: Outputs, batch: Batch) -> Array:
  """`alp_kd_loss` of the intermediate layers of both sides."""
  del batch
  return layers.alp_kd_loss(jnp.stack(intermediate(student), axis=1), _layers(teacher)[:, :-1])


def attended_logits(
  student: Outputs, teacher: Outputs, batch: Batch, *, center=0.0, attend="logits"
) -> Array:
  """`universal_kd_loss` of the pseudo classifiers of both sides, less `center`."""
  del batch
  return _universal(student.layer_logits, _layer_logits(teacher), center, attend)


def pseudo_assistants(student: Outputs, teacher: Outputs, batch: Batch, *, center=0.0) -> Array:
  """`universal_kd_loss` of the student's final logits to all of the teacher's, its final ones too."""
  del batch
  theirs = jnp.concatenate([_layer_logits(teacher), final_logits(teacher)[:, None]], axis=1)
  return _universal(student.logits[:, None], theirs, center)


def _universal(own: Array, theirs: Array, center: float, attend: str = "logits") -> Array:
  center = jnp.float32(center)  # not a number of the cache's own precision
  return layers.universal_kd_loss(
    own - center, theirs - center, attend=attend, regression=own.shape[-1] == 1
  )


def relations(
  student: Outputs, teacher: Outputs, batch: Batch, *, relation_heads, teacher_layer
) -> Array:
  """`relation_kd_loss` of queries, keys and values: the student's last layer's to one of the teacher's."""
  del batch
  own, theirs = _tokens(student), _tokens(teacher)
  number = len(theirs.queries)
  if not -number <= teacher_layer < number:
    raise ValueError(
      f"teacher_layer is an index of the teacher's {number} layers, {-number} to {number - 1}, got "
      f"{teacher_layer}"
    )
  return sum(
    tokens.relation_kd_loss(
      getattr(own, name)[-1],
      getattr(theirs, name)[teacher_layer],
      own.mask,
      relation_heads=relation_heads,
    )
    for name in ("queries", "keys", "values")
  )


def hidden_states(student: Outputs, teacher: Outputs, batch: Batch) -> Array:
  """`hidden_state_loss` of the embeddings and of each of the student's layers, summed."""
  del batch
  own, theirs = _tokens(student), _tokens(teacher)
  chosen = evenly(len(own.states) - 1, len(theirs.states) - 1)
  pairs = zip(own.states, [theirs.states[layer] for layer in (0, *chosen)], strict=True)
  return sum(tokens.hidden_state_loss(a, b, own.mask) for a, b in pairs)


def attentions(student: Outputs, teacher: Outputs, batch: Batch) -> Array:
  """`attention_loss` of each of the student's layers, summed."""
  del batch
  own, theirs = _tokens(student), _tokens(teacher)
  chosen = evenly(len(own.queries), len(theirs.queries))
  return sum(
    tokens.attention_loss(
      own.queries[i], own.keys[i], theirs.queries[layer - 1], theirs.keys[layer - 1], own.mask
    )
    for i, layer in enumerate(chosen)
  )


def evenly(num_student: int, num_teacher: int) -> tuple[int, ...]:
  """The teacher's layers, counted from 1, that the student's learn from: the last of equal groups.

  >>> evenly(4, 12)
  (3, 6, 9, 12)
  """
  inner = layers.skip_mapping(num_student, num_teacher)
  return (*(index + 1 for index in inner), num_teacher)


def _layers(teacher: Outputs) -> Array:
  """[B, T, D]."""
  if not teacher.layers:
    raise ValueError("the teacher's layers are not among its outputs: cache them, or run it live")
  return jnp.stack(teacher.layers, axis=1)


def _layer_logits(teacher: Outputs) -> Array:
  if teacher.layer_logits is None:
    raise ValueError("the teacher has no pseudo classifiers: train them on its layers first")
  return teacher.layer_logits


def _tokens(outputs: Outputs):
  if outputs.tokens is None:
    raise ValueError("states of tokens were not collected: build both networks with collect_tokens")
  if not outputs.tokens.queries:
    raise ValueError(
      "attentions are compared between networks that attend: BERT or RoBERTa on both sides"
    )
  return outputs.tokens
