"""Losses on sentences against numbers worked by hand; the docstrings show the same.

Most have one token with two tags: the teacher's probabilities are (1/4, 3/4), the student's (3/4, 1/4). With
"tags stay" two neighbours must have the same tag, so the sentence 00 has 1/4 and 11 has 3/4.
"""

from math import log

import jax
import numpy as np
import pytest

import kd_jax
from kd_jax.structured import DependencyScores, LinearChain, MaxEnt, ParsingTags, SpanScores

LOG3, FREE = np.float32(log(3)), np.zeros((2, 2), np.float32)
STAY = np.float32([[0, -np.inf], [-np.inf, 0]])
RISING, FALLING = np.float32([[0, LOG3]]), np.float32([[LOG3, 0]])
ONE, TWO = np.zeros((1, 2), np.float32), np.zeros((2, 2), np.float32)

STAYS = LinearChain(np.float32([[0, LOG3], [0, 0]]), STAY)
PARSER = DependencyScores(np.zeros((2, 3), np.float32), np.zeros((2, 3, 1), np.float32))
TAGS = ParsingTags(np.float32([[0, LOG3, 0]] * 2), np.int32([0, 1, -1]), np.int32([0, 0, 0]))
ENTROPY = (log(4) + 3 * log(4 / 3)) / 4
"""Of (1/4, 3/4), 0.5623."""
CROSSED = (3 * log(4) + log(4 / 3)) / 4
"""H((1/4, 3/4), (3/4, 1/4)), 1.1116."""

CASES = {
  "token_kd_loss": (MaxEnt(ONE), MaxEnt(RISING), {}, log(2) - ENTROPY),
  "token_kd_loss, T = 2": (
    MaxEnt(ONE),
    MaxEnt(2 * RISING),
    {"temperature": 2.0},
    4 * (log(2) - ENTROPY),
  ),
  "token_kd_loss, whose transitions do not count": (LinearChain(TWO, STAY), STAYS, {}, 0.1308),
  "posterior_kd_loss": (
    MaxEnt(np.concatenate([RISING, FALLING])),
    STAYS,
    {},
    ENTROPY + CROSSED,
  ),
  "k_best_kd_loss": (MaxEnt(FALLING), MaxEnt(RISING), {"k": 2}, CROSSED),
  "k_best_kd_loss, of equal weight": (
    MaxEnt(FALLING),
    MaxEnt(RISING),
    {"k": 2, "weighted": False},
    (log(4) + log(4 / 3)) / 2,
  ),
  "fuzzy_crf_loss": (MaxEnt(FALLING), MaxEnt(RISING), {"k": 1}, log(4)),
  "fuzzy_crf_loss, of all paths": (MaxEnt(FALLING), MaxEnt(RISING), {"k": 2}, 0.0),
  # Paths 00 and 11 weigh 3 each, 01 and 10 weigh 1: each of the first two has 3/8.
  "structural_kd_case_1a": (
    LinearChain(TWO, np.float32([[LOG3, 0], [0, LOG3]])),
    STAYS,
    {},
    log(8 / 3),
  ),
  # Token 1 has the root or token 2 as head, token 2 the root or token 1: half and half. The student's labels
  # "root, +1, -1" have (1/5, 3/5, 1/5) at either token.
  "structural_kd_case_1b": (
    TAGS,
    PARSER,
    {},
    (log(5) + log(5 / 3)) / 2 + log(5),
  ),
  "structural_kd_case_2a": (MaxEnt(np.concatenate([RISING] * 2)), STAYS, {}, 2 * ENTROPY),
  # Refined heads: the root for token 1 and token 1 for token 2, for certain.
  "structural_kd_case_2b": (
    TAGS,
    PARSER._replace(refined=np.float32([[0, -99, -99], [-99, 0, -99]])),
    {},
    2 * log(5),
  ),
  # A product of the teacher's tokens: (1/4, 3/4) times (1/2, 1/2).
  "structural_kd_case_3": (
    LinearChain(TWO, np.float32([[LOG3, 0], [0, LOG3]])),
    MaxEnt(np.float32([[0, LOG3], [0, 0]])),
    {},
    log(8) - log(3) / 2,
  ),
  # Five segmentations of two tokens, each 1/5: OO, SO, OS, SS, BE. P(O) = 2/5 at either token.
  "structural_kd_case_4": (
    MaxEnt(np.float32([[LOG3, 0, 0, 0, 0]] * 2)),
    SpanScores(np.zeros((2, 2, 1), np.float32)),
    {},
    2 * (log(7) - 2 / 5 * log(3)),
  ),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name):
  student, teacher, options, expected = CASES[name]
  loss = getattr(kd_jax, name.split(",")[0])
  np.testing.assert_allclose(loss(student, teacher, **options), expected, rtol=2e-4, atol=1e-6)
  traced = jax.jit(lambda student, teacher: loss(student, teacher, **options))(student, teacher)
  np.testing.assert_allclose(traced, expected, rtol=2e-4, atol=1e-6)


def test_all_losses_of_pairs_of_structures_are_here():
  of_structures = {
    name for name in kd_jax.__all__ if name.startswith(("structural_kd_case", "fuzzy", "k_best"))
  }
  shown = {name.split(",")[0] for name in CASES}
  assert of_structures | {"token_kd_loss", "posterior_kd_loss"} == shown
