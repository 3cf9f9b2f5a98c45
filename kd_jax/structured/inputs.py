"""What every structure does at its door: check, cast to float32, blank out what is masked."""

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.types import Array, ArrayLike


def as_scores(name: str, scores: ArrayLike, axes: str) -> Array:
  """Casts floating-point scores to float32.

  Args:
    name: for messages.
    scores: [..., axes].
    axes: the trailing axes, said in the message: "n, L".

  Raises:
    ValueError: integers, or fewer axes.
  """
  scores = jnp.asarray(scores)
  if not jnp.issubdtype(scores.dtype, jnp.floating):
    raise ValueError(
      f"{name} must be floating point, got {scores.dtype} {scores.shape}: are these tags or heads?"
    )
  if scores.ndim < len(axes.split(",")):
    raise ValueError(f"{name} must be of shape [..., {axes}], got {scores.shape}")
  return scores.astype(jnp.float32)


def as_mask(mask: ArrayLike | None, shape: tuple[int, ...]) -> Array:
  """A bool mask [..., n] of a shape; all true for None.

  Raises:
    ValueError: a mask of another shape, or (unless it is being traced) one with a token after padding.
  """
  if mask is None:
    return jnp.ones(shape, bool)
  mask = jnp.asarray(mask).astype(bool)
  if mask.shape != shape:
    raise ValueError(f"mask {mask.shape} must be of the scores' shape [..., n] = {shape}")
  if not isinstance(mask, jax.core.Tracer):
    concrete = np.asarray(mask)
    if (concrete[..., 1:] & ~concrete[..., :-1]).any():
      raise ValueError("mask must be ones and then zeros: there is a token after padding")
  return mask


def refuse_nan(name: str, scores: Array, valid: Array) -> None:
  """Refuses NaN where it would count; while the scores are being traced nothing can be said.

  Args:
    name: for messages.
    scores: any shape.
    valid: bool, broadcastable to it: where the scores are read.
  """
  if isinstance(scores, jax.core.Tracer) or isinstance(valid, jax.core.Tracer):
    return
  found = np.isnan(np.asarray(scores)) & np.asarray(valid)
  if found.any():
    where = tuple(int(i) for i in np.argwhere(found)[0])
    raise ValueError(
      f"{name} has {int(found.sum())} NaN, the first at {where}: the network that scored diverged"
    )
