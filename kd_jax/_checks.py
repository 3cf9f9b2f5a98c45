"""Input checks of structures and losses: check, cast to float32, blank out what is masked."""

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.types import NEG_INF, Array, ArrayLike, LabelledTree


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
    ValueError: a mask of another shape, or (unless traced) with other values than 0 and 1.
  """
  if mask is None:
    return jnp.ones(shape, bool)
  refuse_fractions(mask)
  mask = jnp.asarray(mask).astype(bool)
  if mask.shape != shape:
    raise ValueError(f"mask {mask.shape} must be of the scores' shape [..., n] = {shape}")
  return mask


def bounded(scores: Array) -> Array:
  """Scores within ±NEG_INF; unlike `clip`, with a whole gradient at the bounds themselves."""
  lower = jnp.where(scores < NEG_INF, NEG_INF, scores)
  return jnp.where(lower > -NEG_INF, -NEG_INF, lower)


def refuse_fractions(mask: ArrayLike) -> None:
  """Refuses weights in the place of a mask; while a mask is being traced nothing can be said."""
  if isinstance(mask, jax.core.Tracer):
    return
  values = np.asarray(mask)
  if np.issubdtype(values.dtype, np.floating) or values.dtype == jnp.bfloat16:
    others = values[(values != 0) & (values != 1)]
    if others.size:
      raise ValueError(
        f"mask must hold zeros and ones, got {float(others.flat[0]):g}: multiply the losses by weights, or "
        "pass masked_mean(values, weights=...)"
      )


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


def as_tags(tags: ArrayLike, mask: Array, num_labels: int) -> Array:
  """Tags [..., n] as int32, 0 at masked positions.

  Raises:
    ValueError: tags that are not integers, of another shape than the mask, or (unless they are being
      traced) outside [0, L) at a position that counts.
  """
  tags = jnp.asarray(tags)
  if not jnp.issubdtype(tags.dtype, jnp.integer) or tags.shape != mask.shape:
    raise ValueError(
      f"tags must be integers of shape [..., n] = {mask.shape}, got {tags.dtype} {tags.shape}"
    )
  if not isinstance(tags, jax.core.Tracer) and not isinstance(mask, jax.core.Tracer):
    counted = np.asarray(tags)[np.asarray(mask)]
    outside = (counted < 0) | (counted >= num_labels)
    if outside.any():
      raise ValueError(
        f"tags must lie in [0, {num_labels}), got {int(counted[outside][0])}: mask what is padding"
      )
  return jnp.where(mask, tags, 0).astype(jnp.int32)


def refuse_other_masks(teacher: ArrayLike, student: ArrayLike) -> None:
  """Refuses two masks of one shape that (unless they are being traced) differ.

  Raises:
    ValueError: at how many positions they do.
  """
  if isinstance(teacher, jax.core.Tracer) or isinstance(student, jax.core.Tracer):
    return
  differing = int((np.asarray(teacher, bool) != np.asarray(student, bool)).sum())
  if differing:
    raise ValueError(
      f"the masks of teacher and student {np.shape(teacher)} differ at {differing} positions: give "
      "both the sentences' mask"
    )


def as_tree(tree: LabelledTree, mask: Array) -> tuple[Array, Array]:
  """A tree's (heads, relations) [..., n] as int32, 0 for padding.

  Raises:
    ValueError: no integers, another shape than the scores' tokens, or (unless traced) a head that is no
      token of the sentence.
  """
  heads, relations = jnp.asarray(tree.heads), jnp.asarray(tree.relations)
  for name, array in (("heads", heads), ("relations", relations)):
    if array.shape != mask.shape or not jnp.issubdtype(array.dtype, jnp.integer):
      raise ValueError(
        f"a tree's {name} must be integers of the scores' tokens [..., n] = {mask.shape}, got "
        f"{array.dtype} {array.shape}"
      )
  refuse_other_heads(tree.heads, mask)
  heads, relations = (jnp.where(mask, array, 0).astype(jnp.int32) for array in (heads, relations))
  return heads, relations


def refuse_other_heads(heads: ArrayLike, mask: ArrayLike) -> None:
  """Refuses heads [..., n] that are no token of their sentence, unless they are being traced."""
  if isinstance(heads, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
    return
  given, valid = np.asarray(heads), np.asarray(mask)
  if not given.size:
    return
  named = np.take_along_axis(valid, np.clip(given, 1, valid.shape[-1]) - 1, axis=-1)
  outside = valid & (given != 0) & ~(named & (given >= 1) & (given <= valid.shape[-1]))
  if outside.any():
    raise ValueError(f"heads must be 0 or a token of the sentence, got {given[outside][0]}")


def refuse_other_relations(relations: ArrayLike, mask: ArrayLike, num_relations: int) -> None:
  """Refuses relations [..., n] that are no relation of the scores, unless traced; negative ones are unseen."""
  if isinstance(relations, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
    return
  given, valid = np.asarray(relations), np.asarray(mask)
  outside = valid & (given >= num_relations)
  if outside.any():
    raise ValueError(f"relations must be below {num_relations}, got {given[outside][0]}")


# Losses on arrays.


def static_value(value: ArrayLike) -> np.ndarray | None:
  """The value as NumPy, or None while it is being traced."""
  return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def check_temperature(temperature: ArrayLike, max_temperature: ArrayLike | None = None) -> None:
  """Refuses a temperature outside [1, max_temperature], unless it is being traced."""
  value = static_value(temperature)
  if value is not None and not np.all((value >= 1) & np.isfinite(value)):
    raise ValueError(
      f"temperature must be finite and at least 1, got {value}; to sharpen a distribution, scale its logits"
    )
  highest = None if max_temperature is None else static_value(max_temperature)
  if highest is not None and not np.all(highest >= 1):
    raise ValueError(f"max_temperature must be at least 1, got {highest}")
  if value is not None and highest is not None and not np.all(value <= highest):
    raise ValueError(
      f"temperature {value} is above max_temperature {highest}: annealing runs from "
      "max_temperature down to 1"
    )


def check_contrast_temperature(temperature: ArrayLike) -> None:
  """Refuses a temperature of similarities that is not above 0, unless it is being traced."""
  value = static_value(temperature)
  if value is not None and not np.all((value > 0) & np.isfinite(value)):
    raise ValueError(f"temperature must be finite and above 0, got {value}")


def as_float32(name: str, logits: ArrayLike) -> Array:
  """Casts floating-point logits [..., C] to float32; refuses integers and scalars."""
  logits = jnp.asarray(logits)
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ValueError(
      f"{name} must be floating point, got {logits.dtype} {logits.shape}: are these labels?"
    )
  if logits.ndim == 0 or logits.shape[-1] == 0:
    raise ValueError(f"{name} must have a class axis [..., C], got shape {logits.shape}")
  return logits.astype(jnp.float32)


def as_labels(
  labels: ArrayLike, logits: Array, mask: ArrayLike | None = None
) -> tuple[Array, Array]:
  """Labels [...] for logits [..., C], and which of them are classes: false only while being traced.

  Raises:
    ValueError: labels that are no integers, of another shape, or (unless traced) out of range.
  """
  labels, num_classes = jnp.asarray(labels), logits.shape[-1]
  if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(
      f"labels must be integers of shape {logits.shape[:-1]}, got {labels.dtype} {labels.shape}"
    )
  in_range = (labels >= 0) & (labels < num_classes)
  outside = static_value(apply_mask((~in_range).astype(jnp.float32), mask))
  if outside is not None and outside.any():
    raise ValueError(f"labels must be in [0, {num_classes}), got {labels.min()} to {labels.max()}")
  return jnp.where(in_range, labels, 0), in_range


def refuse_one_class(name: str, logits: Array) -> None:
  """Refuses logits [..., 1]: their softmax is 1 whatever they are, and a loss of it teaches nothing."""
  if logits.shape[-1] == 1:
    raise ValueError(
      f"{name} must have at least 2 classes, got {logits.shape}: append a second logit 0 to a sigmoid's, or "
      "use logit_regression_loss for numbers"
    )


def checked_classes(
  student_logits: ArrayLike, teacher_logits: ArrayLike, mask: ArrayLike | None
) -> tuple[Array, Array]:
  """As `checked_logits`, of at least two classes."""
  student, teacher = checked_logits(student_logits, teacher_logits, mask)
  refuse_one_class("student_logits", student)
  return student, teacher


def checked_logits(
  student_logits: ArrayLike, teacher_logits: ArrayLike, mask: ArrayLike | None
) -> tuple[Array, Array]:
  """Student and teacher logits as float32 of one shape, zeros at masked positions."""
  student = as_float32("student_logits", student_logits)
  teacher = as_float32("teacher_logits", teacher_logits)
  if student.shape != teacher.shape:
    raise ValueError(
      f"student_logits {student.shape} and teacher_logits {teacher.shape} must have one shape; "
      "broadcast explicitly where that is meant"
    )
  return blank(student, mask), blank(teacher, mask)


def blank(logits: Array, mask: ArrayLike | None) -> Array:
  """Replaces logits [..., C] at masked positions by 0, so that no garbage is ever computed on."""
  if mask is None:
    return logits
  return jnp.where(broadcast_mask(mask, logits.shape[:-1])[..., None], logits, 0.0)


def apply_mask(values: Array, mask: ArrayLike | None) -> Array:
  """Replaces values [...] at masked positions by exactly 0."""
  if mask is None:
    return values
  return jnp.where(broadcast_mask(mask, values.shape), values, 0.0)


def broadcast_mask(mask: ArrayLike, shape: tuple[int, ...]) -> Array:
  """A bool mask of a shape, from one of its leading axes; an axis of the mask may be 1."""
  refuse_fractions(mask)
  return broadcast_leading("mask", jnp.asarray(mask).astype(bool), shape)


def broadcast_leading(name: str, array: Array, shape: tuple[int, ...]) -> Array:
  """An array of the leading axes of a shape in that shape; an axis of it may be 1."""
  fits = array.ndim <= len(shape) and all(
    size in (1, expected) for size, expected in zip(array.shape, shape, strict=False)
  )
  if not fits:
    raise ValueError(f"{name} {array.shape} must have the leading axes of the values {shape}")
  return jnp.broadcast_to(array.reshape(array.shape + (1,) * (len(shape) - array.ndim)), shape)


def per_distribution(name: str, values: ArrayLike, logits: Array) -> Array:
  """Values to combine with logits [..., C]: a scalar for all, or [...] made [..., 1]."""
  values = jnp.asarray(values, jnp.float32)
  if values.ndim and values.shape != logits.shape[:-1]:
    raise ValueError(
      f"{name} must be a scalar or of the logits' leading shape {logits.shape[:-1]}, got "
      f"{values.shape}"
    )
  return values[..., None] if values.ndim else values


def temper(logits: Array, temperature: ArrayLike) -> Array:
  """Logits [..., C] divided by a temperature: one for all, or [...] for each distribution.

  Infinite logits stay as they are: divided, they would make the gradient to the temperature 0 · inf.
  """
  infinite = jnp.isinf(logits)
  finite = jnp.where(infinite, 0.0, logits)
  tempered = finite / per_distribution("temperature", temperature, logits)
  return jnp.where(infinite, logits, tempered)
