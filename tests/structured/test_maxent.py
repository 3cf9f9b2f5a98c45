"""Independent tokens: the distributions multiply, so every number is a sum over tokens."""

import jax
import numpy as np

from kd_jax import structured
from kd_jax.structured import LinearChain, MaxEnt
from kd_jax.structured._maxent import as_chain
from kd_jax.types import NEG_INF
from tests.structured import contract, oracles

LABELS = 3


class TestMaxEnt(
  contract.EntropyContract,
  contract.LogProbContract,
  contract.DivergenceContract,
  contract.DecodingContract,
  contract.SearchContract,
  contract.StructureContract,
):
  axes = {"logits": (0,)}  # noqa: RUF012

  def build(self, arrays, mask):
    return MaxEnt(arrays["logits"], mask)

  def shapes(self, n):
    return {"logits": (n, LABELS)}

  def gold(self, arrays, mask):
    shape = arrays["logits"].shape[:-1]
    return np.broadcast_to(np.arange(shape[-1]) % LABELS, shape)

  def structures(self, length):
    return oracles.tag_sequences(length, LABELS)

  def parts(self, row, length):
    return oracles.chain_parts(row["logits"][:length], np.zeros((LABELS, LABELS)))

  def spread(self, parts, row, length):
    found = np.zeros(row["logits"].shape)
    found[:length] = parts[: length * LABELS].reshape(length, LABELS)
    return {"logits": found}

  def unread(self, arrays, mask):
    return {"logits": np.broadcast_to(~mask[..., None], arrays["logits"].shape)}

  def exclude(self, arrays):
    logits = arrays["logits"].copy()
    logits[:, 0, 2] = logits[:, 1, 0] = NEG_INF
    return {"logits": logits}

  def misshapen(self, arrays):
    yield "logits", arrays["logits"][:-1]
    yield "logits", arrays["logits"][:, :-1]
    yield "logits", arrays["logits"][0]

  def test_as_a_chain(self):
    arrays, mask = self.draw(), contract.MASK
    arrays["logits"][~mask] = np.nan
    chain = as_chain(MaxEnt(arrays["logits"], mask))
    assert isinstance(chain, LinearChain)
    np.testing.assert_array_equal(chain.transition, np.zeros_like(chain.transition))
    assert chain.transition.shape[-2:] == (LABELS, LABELS)
    unary, pairwise = jax.jit(structured.marginals)(chain)
    found = self.evaluate(arrays)
    np.testing.assert_allclose(unary, found["counts"]["logits"], atol=1e-5)
    expected = unary[:, :-1, :, None] * unary[:, 1:, None]
    np.testing.assert_allclose(pairwise, expected, atol=1e-5)  # independent
    np.testing.assert_allclose(
      jax.jit(structured.log_partition)(chain), found["log_partition"], rtol=1e-5, atol=1e-5
    )
