"""Samples held against the list of all structures."""

import numpy as np

from tests.structured import oracles


def assert_drawn(draws, listed, parts):
  """Samples [N, n] have the frequencies of a distribution, by a chi-square test.

  Structures that are expected fewer than five times count as one. The bound lies four standard deviations
  above the mean of the statistic, so that a right sampler fails one key in thousands.
  """
  places = {tuple(decoded): place for place, decoded in enumerate(listed.decoded.tolist())}
  found = np.zeros(len(places))
  for decoded, count in zip(*np.unique(np.asarray(draws), axis=0, return_counts=True), strict=True):
    found[places[tuple(decoded.tolist())]] = count  # a KeyError if there is no such structure
  expected = len(draws) * np.exp(oracles.log_probs(listed, parts))
  assert not found[expected == 0].any()
  rare = expected < 5
  found = np.append(found[~rare], found[rare].sum())
  expected = np.append(expected[~rare], expected[rare].sum() + 1e-9)
  statistic, freedom = np.sum((found - expected) ** 2 / expected), max(len(expected) - 1, 1)
  assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 4, (statistic, freedom)
