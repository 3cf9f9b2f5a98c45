r"""Independent tokens: each position has its own softmax over tags ("MaxEnt" in the papers).

.. math:: score(y) = \sum_i logits_i(y_i), \quad P(y) = \prod_i P(y_i)

A linear chain without transitions.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from kd_jax._checks import as_mask, as_scores, as_tags, bounded, refuse_nan
from kd_jax._numerics import kl_from_log_probs
from kd_jax.structured import _generic
from kd_jax.structured._chain import LinearChain
from kd_jax.structured._declaration import declare
from kd_jax.structured._independent_tags import k_best_tags, sample_tags
from kd_jax.types import Array, ArrayLike


@declare(sentence={"logits": "n L"}, scores="logits")
class MaxEnt(NamedTuple):
  """Scores of tags at positions that do not depend on each other.

  Attributes:
    logits: [..., n, L].
    mask: [..., n], nonzero for tokens; None if all are.
  """

  logits: Float[ArrayLike, "*batch n L"]
  mask: Bool[ArrayLike, "*batch n"] | None = None


def checked(maxent: MaxEnt) -> tuple[Array, Array]:
  """Logits [..., n, L], 0 at masked positions, and the mask."""
  logits = as_scores("logits", maxent.logits, "n, L")
  if logits.shape[-1] == 0:
    raise ValueError(f"logits must have at least one tag [..., n, L], got {logits.shape}")
  mask = as_mask(maxent.mask, logits.shape[:-1])
  refuse_nan("logits", logits, mask[..., None])
  return jnp.where(mask[..., None], bounded(logits), 0.0), mask


def _total(values: Array, mask: Array) -> Array:
  """The sum over the tokens of values [..., n]."""
  return jnp.sum(jnp.where(mask, values, 0.0), axis=-1)


@_generic.log_partition.register(MaxEnt)
def log_partition(maxent: MaxEnt) -> Array:
  logits, mask = checked(maxent)
  return _total(jax.nn.logsumexp(logits, axis=-1), mask)


@_generic.marginals.register(MaxEnt)
def marginals(maxent: MaxEnt) -> Array:
  logits, mask = checked(maxent)
  return jnp.where(mask[..., None], jax.nn.softmax(logits, axis=-1), 0.0)


_generic.tag_marginals.register(MaxEnt)(marginals)


@_generic.log_tag_marginals.register(MaxEnt)
def log_probs(maxent: MaxEnt) -> Array:
  """log P(y_i) [..., n, L]; at masked positions those of a uniform distribution."""
  return jax.nn.log_softmax(checked(maxent)[0], axis=-1)


@_generic.argmax.register(MaxEnt)
def argmax(maxent: MaxEnt) -> Array:
  logits, mask = checked(maxent)
  return jnp.where(mask, jnp.argmax(logits, axis=-1), 0).astype(jnp.int32)


@_generic.top_k_of.register(MaxEnt)
def top_k(maxent: MaxEnt, k: int) -> tuple[Array, Array]:
  return k_best_tags(maxent.logits, k, maxent.mask)


@_generic.sample.register(MaxEnt)
def sample(maxent: MaxEnt, key: Array) -> Array:
  return sample_tags(maxent.logits, key, maxent.mask)


@_generic.score.register(MaxEnt)
def score(maxent: MaxEnt, tags: ArrayLike) -> Array:
  logits, mask = checked(maxent)
  tags = as_tags(tags, mask, logits.shape[-1])
  return _total(jnp.take_along_axis(logits, tags[..., None], axis=-1)[..., 0], mask)


@_generic.log_prob.register(MaxEnt)
def log_prob(maxent: MaxEnt, tags: ArrayLike) -> Array:
  logits, mask = checked(maxent)
  return score(MaxEnt(jax.nn.log_softmax(logits, axis=-1), mask), tags)


@_generic.entropy.register(MaxEnt)
def entropy(maxent: MaxEnt) -> Array:
  return cross_entropy(maxent, maxent)


@_generic.cross_entropy_of.register(MaxEnt)
def cross_entropy(p: MaxEnt, q: MaxEnt) -> Array:
  log_p, log_q = log_probs(p), log_probs(q)
  return _total(-jnp.sum(jnp.exp(log_p) * log_q, axis=-1), checked(q)[1])


@_generic.kl_divergence_of.register(MaxEnt)
def kl_divergence(p: MaxEnt, q: MaxEnt) -> Array:
  return _total(kl_from_log_probs(log_probs(p), log_probs(q)), checked(q)[1])


@_generic.token_scores.register(MaxEnt)
def token_scores(maxent: MaxEnt) -> Array:
  return jnp.asarray(maxent.logits)


def as_chain(maxent: MaxEnt) -> LinearChain:
  """The same distribution as a linear chain, with transition scores of 0 [L, L]."""
  logits = as_scores("logits", maxent.logits, "n, L")
  transition = jnp.zeros((logits.shape[-1], logits.shape[-1]), jnp.float32)
  return LinearChain(logits, transition, maxent.mask)
