r"""Linear chains: exact inference in a distribution over tag sequences with scores of neighbouring tags.

.. math:: score(y) = \sum_i unary_i(y_i) + \sum_i transition(y_{i-1}, y_i)

Everything is the chain read backwards as a Markov chain, P(y_n) and then P(y_{i-1} | y_i): entropies and
divergences are sums of those of its steps, so that they stay small and exact if log Z is large.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from kd_jax._checks import as_tags
from kd_jax._numerics import kl_from_log_probs
from kd_jax.structured import _generic
from kd_jax.structured._chain import Columns, LinearChain, columns_of, leading_axes
from kd_jax.structured._chain_messages import (
  chain_log_partition,
  chain_states,
  log_conditionals,
  states_and_marginals,
)
from kd_jax.structured._chain_paths import best_of_chain
from kd_jax.structured._holes import close_up, put_back, put_back_pairs
from kd_jax.types import EXCLUDED, NEG_INF, Array, ArrayLike

_FAR = 1e6  # float32 keeps a tenth next to it


@_generic.log_partition.register(LinearChain)
def log_partition(
  chain: LinearChain, *, algorithm: Literal["scan", "associative"] = "scan"
) -> Array:
  if algorithm not in ("scan", "associative"):
    raise ValueError(f'algorithm must be "scan" or "associative", got {algorithm!r}')
  return chain_log_partition(*columns_of(chain), algorithm).reshape(leading_axes(chain))


@_generic.marginals.register(LinearChain)
def marginals(chain: LinearChain) -> tuple[Array, Array]:
  columns = columns_of(chain)
  states, unary, _ = states_and_marginals(*columns)
  pairwise = jnp.exp(log_conditionals(states, columns.transition)) * unary[1:, None]
  pairwise = jnp.moveaxis(pairwise, -1, 0)
  pairwise = pairwise.reshape(leading_axes(chain) + pairwise.shape[1:])
  return _by_sentence(chain, unary), put_back_pairs(pairwise, chain.mask)


@_generic.tag_marginals.register(LinearChain)
def tag_marginals(chain: LinearChain) -> Array:
  return _by_sentence(chain, states_and_marginals(*columns_of(chain))[1])


def _by_sentence(chain: LinearChain, unary: Array) -> Array:
  """[n, L, B] of the tokens as [..., n, L] of all positions."""
  return put_back(jnp.moveaxis(unary, -1, 0).reshape(jnp.shape(chain.unary)), chain.mask)


@_generic.entropy.register(LinearChain)
def entropy(chain: LinearChain) -> Array:
  r"""H(y_n) + sum_i sum_t P(y_i = t) H(y_{i-1} | y_i = t)."""
  columns = columns_of(chain)
  states, unary, _ = states_and_marginals(*columns)
  steps = log_conditionals(states, columns.transition)
  last = jax.nn.log_softmax(states[-1], axis=0)
  total = -jnp.sum(jnp.exp(last) * last, axis=0)
  total -= jnp.sum(jnp.exp(steps) * steps * unary[1:, None], axis=(0, 1, 2))
  return total.reshape(leading_axes(chain))


def _scores_of_tags(chain: LinearChain, columns: Columns, tags: ArrayLike) -> Array:
  """The score [n, B] of each token's tag and of the move to it."""
  unary, transition, mask = columns
  num_labels = unary.shape[1]
  valid = jnp.ones(jnp.shape(chain.unary)[:-1], bool) if chain.mask is None else chain.mask
  tags = as_tags(tags, jnp.asarray(valid).astype(bool), num_labels)
  tags = close_up(tags, chain.mask).reshape(mask.shape[::-1]).T
  moves = tags[:-1] * num_labels + tags[1:]
  flat = jnp.broadcast_to(transition, (*transition.shape[:2], mask.shape[1]))
  pairs = jnp.take_along_axis(flat.reshape(num_labels**2, -1), moves, axis=0)
  chosen = jnp.take_along_axis(unary, tags[:, None], axis=1)[:, 0]
  return chosen.at[1:].add(jnp.where(mask[1:], pairs, 0.0))


def _levelled(columns: Columns) -> Columns:
  """The same distribution with the best tag of each token at 0: what all tags share rounds the rest off."""
  best = jax.lax.stop_gradient(jnp.max(columns.unary, axis=1, keepdims=True))
  best = jnp.where(jnp.abs(best) < _FAR, best, 0.0)
  return columns._replace(unary=columns.unary - best)


def _log_z_above(columns: Columns, levels: Array) -> tuple[Array, Array]:
  """log Z less the levels [n, B] of the tokens, and whether there is any path, [B].

  Taken off before anything is summed, levels near the scores of what is likely leave small numbers, with all
  of their digits. Levels so low that scores would vanish next to them, as those of what is excluded, are
  taken off afterwards.
  """
  near = jnp.abs(levels) < _FAR
  shift = jnp.where(near, levels, 0.0)
  unary = columns.unary - shift[:, None]
  log_z = chain_log_partition(unary, columns.transition, columns.mask, "scan")
  exists = jax.lax.stop_gradient(log_z) > EXCLUDED
  return log_z - jnp.sum(jnp.where(near, 0.0, levels), axis=0), exists


@_generic.score.register(LinearChain)
def score(chain: LinearChain, tags: ArrayLike) -> Array:
  values = _scores_of_tags(chain, columns_of(chain), tags)
  return jnp.sum(values, axis=0).reshape(leading_axes(chain))


@_generic.log_prob.register(LinearChain)
def log_prob(chain: LinearChain, tags: ArrayLike) -> Array:
  """Less log Z of the chain that has the score of the tags, token by token, taken off."""
  columns = _levelled(columns_of(chain))  # cast once: what cancels in gradients is never rounded
  log_z, exists = _log_z_above(columns, _scores_of_tags(chain, columns, tags))
  value = jnp.where(exists, -log_z, NEG_INF)
  value += jax.lax.stop_gradient(jnp.minimum(value, 0.0) - value)  # rounding alone leads above 0
  return value.reshape(leading_axes(chain))


@_generic.argmax.register(LinearChain)
def argmax(chain: LinearChain) -> Array:
  return best_of_chain(chain, 1)[0][..., 0, :]


_generic.top_k_of.register(LinearChain)(best_of_chain)


@_generic.cross_entropy_of.register(LinearChain)
def cross_entropy(p: LinearChain, q: LinearChain) -> Array:
  """log Z of q less the expectation of its scores under the marginals of p, token by token."""
  columns = _levelled(columns_of(q))
  _, unary, counts = states_and_marginals(*columns_of(p))
  moves = jnp.sum(counts * columns.transition, axis=(0, 1))
  # The moves of all tokens alike: those of each would need the pairs of each.
  later = columns.mask.at[0].set(False)
  number = jnp.maximum(jnp.sum(later, axis=0, dtype=jnp.int32), 1).astype(jnp.float32)
  levels = jnp.sum(unary * columns.unary, axis=1) + jnp.where(later, moves / number, 0.0)
  log_z, exists = _log_z_above(columns, levels)
  value = jnp.where(exists, log_z, -NEG_INF)
  value += jax.lax.stop_gradient(jnp.maximum(value, 0.0) - value)  # rounding alone leads below 0
  return value.reshape(leading_axes(q))


@_generic.kl_divergence_of.register(LinearChain)
def kl_divergence(p: LinearChain, q: LinearChain) -> Array:
  r"""KL(y_n) + sum_i sum_t P_p(y_i = t) KL(P_p(y_{i-1} | y_i = t) || P_q(y_{i-1} | y_i = t))."""
  p_columns, q_columns = columns_of(p), columns_of(q)
  p_states, unary, _ = states_and_marginals(*p_columns)
  q_states = chain_states(*q_columns)
  steps = kl_from_log_probs(
    log_conditionals(p_states, p_columns.transition),
    log_conditionals(q_states, q_columns.transition),
    axis=1,
  )
  last_p, last_q = (jax.nn.log_softmax(s[-1], axis=0) for s in (p_states, q_states))
  total = kl_from_log_probs(last_p, last_q, axis=0)
  return (total + jnp.sum(unary[1:] * steps, axis=(0, 1))).reshape(leading_axes(q))


@_generic.sample.register(LinearChain)
def sample(chain: LinearChain, key: Array) -> Array:
  columns = columns_of(chain)
  states = chain_states(*columns)
  keys = jax.random.split(key, len(states))

  def back(tags, position):
    key, state, valid = position
    towards = jnp.take_along_axis(columns.transition, tags[None, None], axis=1)[:, 0]
    drawn = jax.random.categorical(key, state + towards, axis=0).astype(jnp.int32)
    return jnp.where(valid, drawn, tags), tags

  last = jax.random.categorical(keys[-1], states[-1], axis=0).astype(jnp.int32)
  first, rest = jax.lax.scan(back, last, (keys[:-1], states[:-1], columns.mask[1:]), reverse=True)
  tags = jnp.where(columns.mask, jnp.concatenate([first[None], rest]), 0)
  tags = tags.T.astype(jnp.int32).reshape(jnp.shape(chain.unary)[:-1])
  return put_back(tags, chain.mask)


@_generic.token_scores.register(LinearChain)
def token_scores(chain: LinearChain) -> Array:
  return jnp.asarray(chain.unary)
