"""Modules between a student and a loss: trained with the student, and left behind with the loss."""

import flax.linen as nn
import jax.numpy as jnp

from kd_jax.models.text_classifier import PseudoClassifiers
from kd_jax.types import ArrayLike, Outputs


class LayerClassifiers(nn.Module):
  """`Outputs` with the logits of pseudo classifiers on all layers but the last.

  Attributes:
    num_outputs: C.
    output_mean: what their outputs start around: the mean label in regression.
  """

  num_outputs: int
  output_mean: float = 0.0

  @nn.compact
  def __call__(self, outputs: Outputs) -> Outputs:
    inner = intermediate(outputs)
    classifiers = PseudoClassifiers(self.num_outputs, self.output_mean, name="pseudo")
    return outputs._replace(layer_logits=classifiers(inner))


class LayerProjections(nn.Module):
  """`Outputs` with some layers mapped linearly to another width: [..., D] to [..., width].

  On feature maps that is a 1 × 1 convolution.

  Attributes:
    width: of the teacher.
    layers: which, as indices of Python; None: all but the last.
  """

  width: int
  layers: tuple[int, ...] | None = None

  @nn.compact
  def __call__(self, outputs: Outputs) -> Outputs:
    number = len(outputs.layers)
    inner = range(len(intermediate(outputs))) if self.layers is None else self.layers
    mapped = list(outputs.layers)
    for index in inner:
      if not -number <= index < number:
        raise ValueError(
          f"layer {index} cannot be projected: the student has {number}, {-number} to {number - 1}"
        )
    if len({index % number for index in inner}) < len(inner):
      raise ValueError(f"`layers` must name each layer once, got {self.layers}")
    for index in inner:
      project = nn.Dense(self.width, name=f"layer{index % number + 1}")
      mapped[index] = project(jnp.asarray(mapped[index], jnp.float32))
    return outputs._replace(layers=tuple(mapped))


class TokenProjections(nn.Module):
  """`Outputs` with the tokens' states mapped to another width: one map for embeddings, one for all layers.

  Attributes:
    width: of the teacher.

  References:
    Jiao et al., TinyBERT, Findings of EMNLP 2020, arXiv 1909.10351, equations 8 and 9.
  """

  width: int

  @nn.compact
  def __call__(self, outputs: Outputs) -> Outputs:
    if outputs.tokens is None:
      raise ValueError("the network gives no token states: build it with collect_tokens=True")
    first, *rest = (jnp.asarray(state, jnp.float32) for state in outputs.tokens.states)
    embedding, layers = (nn.Dense(self.width, name=name) for name in ("embedding", "layers"))
    states = (embedding(first), *(layers(state) for state in rest))
    return outputs._replace(tokens=outputs.tokens._replace(states=states))


def intermediate(outputs: Outputs) -> tuple[ArrayLike, ...]:
  """The states of all layers but the last, whose logits ordinary distillation compares.

  Raises:
    ValueError: a network without intermediate layers.
  """
  if len(outputs.layers) < 2:
    raise ValueError(
      f"a network of {len(outputs.layers)} layer has no intermediate ones to learn by: give the "
      "student at least 2 layers"
    )
  return outputs.layers[:-1]
