"""The recursions of a linear chain: forward messages, marginals, and the gradient of log Z.

Arrays have the batch last, so that one step is arithmetic on long rows:

    unary [n, L, B]   transition [L, L, B], or [L, L, 1] for all (from, to)   mask [n, B]

A `state` [L, B] is the log weight of all prefixes that end in each tag, less its own largest entry: scores
of ±1e4 over a long sentence would otherwise use up float32. The way back reads each conditional
P(y_{i-1} | y_i), proportional to exp(state_{i-1} + transition), off the states, and marginals are products of
those: nothing is ever the difference of two large numbers.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd_jax.types import NEG_INF, Array

MAX_FACTORISED = 30.0
"""Below this, |transition| may leave log space: exp(state + transition) = exp(state) exp(transition).

A prefix whose exp(state) underflows is 87 nats behind, of which no pair of transitions makes good more
than 60. Larger scores, and the NEG_INF of what is not allowed, could: there each sum is shifted by its own
largest term, which costs L times as many exponentials.
"""


def _largest(scores: Array, axis: int) -> Array:
  return jax.lax.stop_gradient(jnp.max(scores, axis=axis, keepdims=True))


def _scan_states(
  unary: Array, transition: Array, mask: Array, factorised: bool
) -> tuple[Array, Array]:
  """States [n, L, B] and log Z [B], one position after the other; padding leaves a state as it is."""
  factor = jnp.exp(transition)

  def log_sums(state):
    if factorised:
      return jnp.log(jnp.sum(factor * jnp.exp(state)[:, None], axis=0))
    scores = state[:, None] + transition
    peak = _largest(scores, axis=0)
    return jnp.log(jnp.sum(jnp.exp(scores - peak), axis=0)) + peak[0]

  def step(state, position):
    scores, valid = position
    new = log_sums(state) + scores
    offset = _largest(new, axis=0)
    state = jnp.where(valid, new - offset, state)
    return state, (state, jnp.where(valid, offset[0], 0.0))

  offset = _largest(unary[0], axis=0)
  first = unary[0] - offset
  last, (states, offsets) = jax.lax.scan(step, first, (unary[1:], mask[1:]))
  log_z = offset[0] + jnp.sum(offsets, axis=0) + jax.nn.logsumexp(last, axis=0)
  return jnp.concatenate([first[None], states]), log_z


def _scan_marginals(
  states: Array, transition: Array, mask: Array, factorised: bool
) -> tuple[Array, Array]:
  """Unary marginals [n, L, B] and expected transition counts [L, L, B], from the end to the start."""
  factor = jnp.exp(transition)
  last = jax.nn.softmax(states[-1], axis=0)
  if factorised:
    weights = jnp.exp(states[:-1])
    sums = jnp.sum(weights[:, :, None] * factor, axis=1)

    def step(marginal, position):
      weight, total, valid = position
      share = jnp.where(valid, marginal / total, 0.0)
      previous = weight * jnp.sum(factor * share, axis=1)
      return jnp.where(valid, previous, marginal), (marginal, share)

    first, (rest, shares) = jax.lax.scan(step, last, (weights, sums, mask[1:]), reverse=True)
    counts = factor * jnp.einsum("nfb,ntb->ftb", weights, shares, precision="highest")
  else:

    def step(carry, position):
      marginal, counts = carry
      state, valid = position
      pairs = jax.nn.softmax(state[:, None] + transition, axis=0) * jnp.where(valid, marginal, 0.0)
      previous = jnp.where(valid, jnp.sum(pairs, axis=1), marginal)
      return (previous, counts + pairs), marginal

    none = jnp.zeros((*transition.shape[:2], mask.shape[1]), jnp.float32)
    carry, rest = jax.lax.scan(step, (last, none), (states[:-1], mask[1:]), reverse=True)
    first, counts = carry
  return jnp.where(mask[:, None], jnp.concatenate([first[None], rest]), 0.0), counts


def _associative_states(unary: Array, transition: Array, mask: Array) -> tuple[Array, Array]:
  """As `_scan_states`, in O(log n) steps of [L, L] matrices multiplied in log space."""
  identity = jnp.where(jnp.eye(unary.shape[1], dtype=bool), jnp.float32(0.0), NEG_INF)[:, :, None]
  # The first position is a matrix of equal rows, so that row 0 of each product is a state.
  first = jnp.broadcast_to(unary[0], (unary.shape[1], *unary.shape[1:]))
  rest = jnp.where(mask[1:, None, None], transition + unary[1:, None], identity)

  def normalise(matrices, offsets):
    peak = jax.lax.stop_gradient(jnp.max(matrices, axis=(-3, -2)))
    return matrices - peak[..., None, None, :], offsets + peak

  def multiply(left, right):
    scores = left[0][..., :, :, None, :] + right[0][..., None, :, :, :]
    return normalise(jax.nn.logsumexp(scores, axis=-3), left[1] + right[1])

  matrices = normalise(jnp.concatenate([first[None], rest]), jnp.zeros(mask.shape, jnp.float32))
  products, offsets = jax.lax.associative_scan(multiply, matrices)
  log_z = offsets[-1] + jax.nn.logsumexp(products[-1, 0], axis=0)
  return products[:, 0] - _largest(products[:, 0], axis=1), log_z


def _associative_marginals(states: Array, transition: Array, mask: Array) -> tuple[Array, Array]:
  """As `_scan_marginals`, by products of the matrices P(y_{i-1} | y_i)."""
  conditionals = jnp.exp(log_conditionals(states, transition))
  identity = jnp.eye(states.shape[1], dtype=jnp.float32)[:, :, None]
  steps = jnp.where(mask[1:, None, None], conditionals, identity)

  def multiply(later, earlier):
    return jnp.einsum("...ftb,...tub->...fub", earlier, later, precision="highest")

  last = jax.nn.softmax(states[-1], axis=0)
  if len(steps):
    steps = jax.lax.associative_scan(multiply, steps, reverse=True)
  marginals = jnp.concatenate([jnp.sum(steps * last, axis=2), last[None]])
  marginals = jnp.where(mask[:, None], marginals, 0.0)
  return marginals, jnp.sum(conditionals * marginals[1:, None], axis=0)


def _states_and_marginals(unary, transition, mask, factorised):
  states, log_z = _scan_states(unary, transition, mask, factorised)
  return log_z, states, *_scan_marginals(states, transition, mask, factorised)


def _cheapest(
  recursion: Callable[..., tuple[Array, ...]], unary: Array, transition: Array, mask: Array
) -> tuple[Array, ...]:
  """A recursion with factorised sums where these are exact, else with shifted ones."""
  return jax.lax.cond(
    jnp.max(jnp.abs(transition)) < MAX_FACTORISED,
    functools.partial(recursion, factorised=True),
    functools.partial(recursion, factorised=False),
    unary,
    transition,
    mask,
  )


def chain_states(unary: Array, transition: Array, mask: Array) -> Array:
  """Log weights of prefixes by their last tag, [n, L, B], each position's largest 0."""
  return _cheapest(_scan_states, unary, transition, mask)[0]


def states_and_marginals(
  unary: Array, transition: Array, mask: Array
) -> tuple[Array, Array, Array]:
  """States and unary marginals [n, L, B], and the expected count of each transition [L, L, B]."""
  _, states, marginals, counts = _cheapest(_states_and_marginals, unary, transition, mask)
  return states, marginals, counts


def log_conditionals(states: Array, transition: Array) -> Array:
  """log P(y_{i-1} | y_i), [n-1, L, L, B] by (i-1, i)."""
  return jax.nn.log_softmax(states[:-1, :, None] + transition, axis=1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def chain_log_partition(unary: Array, transition: Array, mask: Array, algorithm: str) -> Array:
  """log Z [B]; its derivative is written out below, and can itself be differentiated."""
  if algorithm == "associative":
    return _associative_states(unary, transition, mask)[1]
  return _cheapest(_scan_states, unary, transition, mask)[1]


@chain_log_partition.defjvp
def _log_partition_derivative(algorithm, primals, tangents):
  """The gradient of log Z is the marginals: one forward and one backward pass, nothing recorded."""
  unary, transition, mask = primals
  if algorithm == "associative":
    states, log_z = _associative_states(unary, transition, mask)
    marginals, counts = _associative_marginals(states, transition, mask)
  else:
    log_z, _, marginals, counts = _cheapest(_states_and_marginals, unary, transition, mask)
  return log_z, jnp.sum(marginals * tangents[0], axis=(0, 1)) + jnp.sum(
    counts * tangents[1], axis=(0, 1)
  )
