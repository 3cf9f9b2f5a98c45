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
  """`Outputs` with the state of each layer but the last mapped linearly to another width.

  Attributes:
    width: of the teacher.
  """

  width: int

  @nn.compact
  def __call__(self, outputs: Outputs) -> Outputs:
    projected = tuple(
      nn.Dense(self.width, name=f"layer{number}")(jnp.asarray(state, jnp.float32))
      for number, state in enumerate(intermediate(outputs), start=1)
    )
    # No loss on layers reads the last one.
    return outputs._replace(layers=(*projected, outputs.layers[-1]))


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
