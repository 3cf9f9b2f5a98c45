"""Eisner's chart of projective trees, with one tree, or the k best, read off by the choices stored in it.

With spans headed from their left end (`right`), from their right end (`left`), and k a place to split,

    join(i, j)  = choose_{i<=k<j} right(i, k) + left(k+1, j)
    right(i, j) = choose_{i<k<=j} join(i, k) + arc(i -> k) + right(k, j)
    left(i, j)  = choose_{i<=k<j} left(i, k) + join(k, j) + arc(j -> k)

`projective` computes the sums of these with mantissas and exponents. Here scores are logs, a cell holds `k`
alternatives, and `choose` is what differs between the best tree, the k best, and a sample. A tree has one
derivation, so that distinct derivations are distinct trees.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.types import NEG_INF, Array

Choose = Callable[[Array, Array], tuple[Array, Array]]
"""(candidates [cells, C], uniform noise [cells]) -> the values [cells, k] of a cell, and their indices in C."""

IMPOSSIBLE = NEG_INF * 1e6
"""The score of what is not a span, far below that of any span of excluded arcs."""
RIGHT, LEFT, JOIN = range(3)
_FIRST, _SECOND = np.array([JOIN, LEFT, RIGHT]), np.array([RIGHT, JOIN, LEFT])
"""What a cell of each kind consists of."""


def choose_best(k: int) -> Choose:
  """The k best candidates."""

  def choose(candidates, noise):
    del noise
    if k == 1:
      return jnp.max(candidates, -1, keepdims=True), jnp.argmax(
        candidates, -1, keepdims=True
      ).astype(jnp.int32)
    missing = max(k - candidates.shape[-1], 0)
    candidates = jnp.pad(candidates, ((0, 0), (0, missing)), constant_values=IMPOSSIBLE)
    values, chosen = jax.lax.top_k(candidates, k)
    return values, jnp.minimum(chosen, candidates.shape[-1] - missing - 1)

  return choose


def choose_sample(candidates: Array, noise: Array) -> tuple[Array, Array]:
  """One candidate drawn in proportion to its weight; the value is the log of their sum."""
  largest = jnp.max(candidates, axis=-1, keepdims=True)
  summed = jnp.cumsum(jnp.exp(candidates - largest), axis=-1)
  total = summed[:, -1:]
  drawn = jnp.minimum(noise[:, None] * total, total * (1 - 2e-7))
  return largest + jnp.log(total), jnp.argmax(summed > drawn, axis=-1, keepdims=True).astype(
    jnp.int32
  )


def _pairs(k: int) -> np.ndarray:
  """[2, pairs]: ranks (a, b) of two parts that can be among the k best sums: a · b of at most k, from 1."""
  return np.array([(a, b) for a in range(k) for b in range(k) if (a + 1) * (b + 1) <= k]).T


def _add(first: Array, second: Array, k: int) -> Array:
  """Candidates [..., C] from alternatives [..., split, k] of two parts, split by split."""
  a, b = _pairs(k)
  return (first[..., a] + second[..., b]).reshape(*first.shape[:-2], -1)


def _chart(arcs: Array, noise: Array, choose: Choose, k: int) -> tuple[Array, Array, Array]:
  """Fills the chart, all spans of one width at a time.

  Args:
    arcs: [n, n] scores by (head, dependent).
    noise: [n-1, 3, n] uniform, by width, kind and start.
    choose: how a cell is computed from its candidates.
    k: how many alternatives a cell holds.

  Returns:
    right [n, n, k] and left [n, n, k] by (start, end), and the choices [n-1, 3, n, k] by width - 1, kind and
    start.
  """
  size = arcs.shape[0]
  offset = jnp.arange(size, dtype=jnp.int32)[None, :] - jnp.arange(size, dtype=jnp.int32)[:, None]

  def split(by_start, by_end, width, noise):
    values, chosen = choose(_add(by_start, jnp.roll(by_end, -width, axis=0), k), noise)
    return jnp.maximum(values, IMPOSSIBLE), chosen  # rows over the end are never written anywhere

  # A chart is kept by (start, split), by (end, split) or both; what is not known yet is impossible.
  def step(charts, width_and_noise):
    right, right_by_end, left, left_by_end, right_arc, left_arc_by_end = charts
    width, noise = width_and_noise
    here, here_by_end = (offset == width)[..., None], (offset == -width)[..., None]
    after = jnp.roll(left_by_end, -1, axis=1).at[:, -1].set(IMPOSSIBLE)
    join, chosen_join = split(right, after, width, noise[JOIN])
    right_arc = jnp.where(here, join[:, None] + arcs[..., None], right_arc)
    left_arc_by_end = jnp.where(here_by_end, join[None] + arcs[..., None], left_arc_by_end)
    new_right, chosen_right = split(right_arc, right_by_end, width, noise[RIGHT])
    new_left, chosen_left = split(left, left_arc_by_end, width, noise[LEFT])
    charts = (
      jnp.where(here, new_right[:, None], right),
      jnp.where(here_by_end, new_right[None], right_by_end),
      jnp.where(here, new_left[:, None], left),
      jnp.where(here_by_end, new_left[None], left_by_end),
      right_arc,
      left_arc_by_end,
    )
    return charts, jnp.stack([chosen_right, chosen_left, chosen_join])

  nothing = jnp.full((size, size, k), IMPOSSIBLE, jnp.float32)
  single = jnp.where(
    (offset == 0)[..., None] & (jnp.arange(k, dtype=jnp.int32) == 0), jnp.float32(0.0), IMPOSSIBLE
  )
  charts = (single, single, single, single, nothing, nothing)
  charts, choices = jax.lax.scan(step, charts, (jnp.arange(1, size, dtype=jnp.int32), noise))
  return charts[0], charts[2], choices


def _read(choices: Array, spans: Array, k: int) -> Array:
  """Follows the choices from the two spans on both sides of the top token.

  Args:
    choices: [n-1, 3, n, k].
    spans: int32 [2, 4]: (kind, start, end, rank) of both.
    k: how many alternatives a cell holds.

  Returns:
    int32 [n] heads, from 1; 0 for the top token and for what lies outside the spans.
  """
  size = choices.shape[2]
  if size == 1:
    return jnp.zeros(1, jnp.int32)
  ranks = jnp.asarray(_pairs(k), jnp.int32)
  first_kind, second_kind = jnp.asarray(_FIRST, jnp.int32), jnp.asarray(_SECOND, jnp.int32)

  def append(queue, end, item):
    longer = item[1] < item[2]  # spans of one token have no parts
    return queue.at[jnp.where(longer, end, len(queue))].set(item, mode="drop"), end + longer.astype(
      jnp.int32
    )

  def step(carry, place):
    queue, end, heads = carry
    kind, start, last, rank = queue[place]
    chosen = choices[last - start - 1, kind, start, rank]
    at, (a, b) = chosen // ranks.shape[1], ranks[:, chosen % ranks.shape[1]]
    active = place < end
    dependent = jnp.where(active & (kind != JOIN), at, size)
    heads = heads.at[dependent].set(jnp.where(kind == RIGHT, start, last) + 1, mode="drop")
    first = jnp.stack([first_kind[kind], start, at, a])
    second = jnp.stack([second_kind[kind], at + (kind == JOIN).astype(jnp.int32), last, b])
    queue, end = append(queue, end, jnp.where(active, first, 0))
    queue, end = append(queue, end, jnp.where(active, second, 0))
    return (queue, end, heads), None

  queue, end = jnp.zeros((2 * size, 4), jnp.int32), jnp.int32(0)
  for item in spans:
    queue, end = append(queue, end, item)
  heads = jnp.zeros(size, jnp.int32)
  return jax.lax.scan(step, (queue, end, heads), jnp.arange(2 * (size - 1), dtype=jnp.int32))[0][2]


def derive(
  scores: Array, length: Array, noise: Array, choose: Choose, k: int
) -> tuple[Array, Array]:
  """Derives k projective trees with one child of the root.

  Args:
    scores: [n, n+1], all finite.
    length: how many tokens are no padding.
    noise: [n, 3, n] uniform.
    choose: `choose_best(k)` or `choose_sample`.
    k: how many trees.

  Returns:
    int32 heads [k, n] and scores [k]; of a derivation that does not exist IMPOSSIBLE or less.
  """
  last = jnp.maximum(length - 1, 0)
  right, left, choices = _chart(scores[:, 1:].T, noise[:-1], choose, k)
  candidates = _add(left[0] + scores[:, :1], right[:, last], k)
  values, chosen = choose(candidates[None], noise[-1, :1, 0])
  ranks = jnp.asarray(_pairs(k), jnp.int32)

  def one(chosen):
    top, (a, b) = chosen // ranks.shape[1], ranks[:, chosen % ranks.shape[1]]
    before = jnp.stack([jnp.int32(LEFT), jnp.int32(0), top, a])
    after = jnp.stack([jnp.int32(RIGHT), top, last, b])
    return _read(choices, jnp.stack([before, after]), k)

  return jax.vmap(one)(chosen[0].astype(jnp.int32)), values[0]
