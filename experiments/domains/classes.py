"""The classes of a study as its target: how many, and what the loss on labels makes of them."""

from collections.abc import Sequence

import numpy as np

from kd_jax.recipes import Classes

BALANCED = "balanced"


def target_of(
  labels: np.ndarray,
  num_classes: int,
  *,
  top_k: int | None = None,
  label_smoothing: float = 0.0,
  class_weights: Sequence[str] = (),
) -> Classes:
  """The target of a study of classes.

  Args:
    labels: of the labelled training examples.
    num_classes: C.
    top_k: as of `Classes`.
    label_smoothing: as of `Classes`.
    class_weights: C numbers as they were typed, or "balanced": N / (C N_c) for a class of N_c examples.

  Raises:
    ValueError: weights that are neither, or a class without examples that is to be balanced.
  """
  return Classes(num_classes, top_k, label_smoothing, _weights(labels, num_classes, class_weights))


def _weights(labels: np.ndarray, num_classes: int, given: Sequence[str]) -> tuple[float, ...]:
  if tuple(given) == (BALANCED,):
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
      raise ValueError(
        f"class_weights cannot be balanced: {int((counts == 0).sum())} of {num_classes} classes have no "
        "training example"
      )
    return tuple(float(weight) for weight in len(labels) / (num_classes * counts))
  try:
    return tuple(float(weight) for weight in given)
  except ValueError:
    raise ValueError(
      f"class_weights must be {num_classes} numbers or `{BALANCED}`, got {' '.join(given)}"
    ) from None
