"""The state of training: fresh weights, a new phase, the best epoch."""

import hypothesis
import jax
import numpy as np
from hypothesis import strategies as st

from kd_jax.training import state as states
from tests import contract
from tests.training import OPTIMIZER, TASK, assert_same_bits

IMAGE = TASK.train.images[:1]


def test_weights_depend_on_their_own_seed_alone():
  together = states.init_variables(TASK.model, IMAGE, [0, 7, 7, 2])
  alone = states.init_variables(TASK.model, IMAGE, [7])
  for index in (1, 2):
    assert_same_bits(states.one_seed(together, index), states.one_seed(alone, 0))
  kernels = together["params"]["hidden1"]["kernel"]
  assert kernels.shape == (4, 16, 8)
  assert isinstance(kernels, np.ndarray)
  assert np.all(kernels[0] != kernels[1])
  assert np.all(kernels[0] != kernels[3])


def test_a_phase_starts_at_step_zero_without_a_best_epoch():
  variables = states.init_variables(TASK.model, IMAGE, [0, 1])
  state = states.start_phase(variables, OPTIMIZER.build(10))
  assert state.train.step.tolist() == [0, 0]
  assert state.best_score.tolist() == [-1, -1]
  assert state.best_epoch.tolist() == [0, 0]
  assert_same_bits(state.train.variables, variables)
  # Momentum and counts, for each seed.
  for leaf in jax.tree.leaves(state.train.opt_state):
    assert leaf.shape[0] == 2
    np.testing.assert_array_equal(leaf, 0)


def follow(accuracies, best_from=1):
  """`track_best` over epochs [E, K], where the weight of epoch e and seed k is 10 e + k."""
  seeds = accuracies.shape[1]

  def variables(epoch):
    return {"params": {"w": 10.0 * epoch + np.arange(seeds), "m": np.full((seeds, 2, 2), epoch)}}

  state = states.start_phase(variables(0), OPTIMIZER.build(1))
  history = []
  for epoch, accuracy in enumerate(accuracies, start=1):
    train = state.train._replace(variables=variables(epoch))
    state = states.track_best(state, train, accuracy, epoch, best_from)
    history.append(state)
  return history


def test_the_best_epoch_of_each_seed_and_the_later_of_equals():
  accuracies = np.array([[0.2, 0.5, 0.0], [0.6, 0.5, 0.0], [0.6, 0.4, 0.0], [0.1, 0.3, 0.0]])
  last = follow(accuracies)[-1]
  assert last.best_epoch.tolist() == [3, 2, 4]
  assert last.best_score.tolist() == [0.6, 0.5, 0.0]
  assert last.best["params"]["w"].tolist() == [30, 21, 42]
  assert last.best["params"]["m"][:, 1, 0].tolist() == [3, 2, 4]
  # The last weights go on beside the best.
  assert last.train.variables["params"]["w"].tolist() == [40, 41, 42]


def test_no_epoch_before_the_first_that_counts_is_the_best():
  accuracies = np.array([[0.9, 0.5], [0.8, 0.4], [0.2, 0.3], [0.1, 0.3]])
  history = follow(accuracies, best_from=3)
  assert [state.best_epoch.tolist() for state in history] == [[0, 0], [0, 0], [3, 3], [3, 4]]
  assert history[1].best_score.tolist() == [-1, -1]
  assert history[-1].best_score.tolist() == [0.2, 0.3]
  assert history[-1].best["params"]["w"].tolist() == [30, 41]
  assert history[1].train.variables["params"]["w"].tolist() == [20, 21]


@contract.sampled
@hypothesis.given(
  st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 2), min_size=1, max_size=8)
)
def test_best_epochs_at_every_moment(accuracies):
  accuracies = np.array(accuracies)
  for epoch, state in enumerate(follow(accuracies), start=1):
    for seed in range(2):
      seen = accuracies[:epoch, seed].tolist()
      expected = max(e for e in range(1, epoch + 1) if seen[e - 1] == max(seen))
      assert state.best_epoch[seed] == expected
      assert state.best_score[seed] == max(seen)
      assert state.best["params"]["w"][seed] == 10 * expected + seed
