"""Verdicts to advantages: every number here is by hand or by plain numpy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import stage_values

from score_jax.algorithm import rewards
from score_jax.core_types import Verdict

ALPHA = 10.0
reward_credit = jax.jit(rewards.reward_credit, static_argnums=3)
W, C, U, T, E = Verdict.WRONG, Verdict.CORRECT, Verdict.UNPARSED, Verdict.TIMEOUT, Verdict.ERROR
FOUR_BA = [[W, W], [W, C], [C, W], [C, C]]
STAGE_1 = dict(reward_weights=(0, 1), bonus=(0, 0))
STAGE_2 = dict(reward_weights=(1, 1), bonus=(0, ALPHA))
NO_BONUS = dict(reward_weights=(1, 1), bonus=(0, 0))


def verdicts(rows_BA):
  return jnp.array(rows_BA, jnp.int8)


def reward_table(rows_BA, stage):
  values = stage_values(**stage)
  return np.asarray(rewards.attempt_rewards(verdicts(rows_BA), values.reward_weights, values.bonus)).tolist()


def credit(rows_BA, group, trained_BA=None, **stage):
  """advantage_BA and share_BA of a batch in which every attempt is trained, unless told otherwise."""
  trained_BA = np.ones(np.shape(rows_BA), bool) if trained_BA is None else np.asarray(trained_BA)
  out = reward_credit(verdicts(rows_BA), jnp.asarray(trained_BA), stage_values(**stage), group)
  return tuple(np.asarray(x) for x in out)


def leave_one_out_by_loops(value_BA, counted_BA, group):
  advantage_BA, usable_BA = np.zeros(value_BA.shape), np.zeros(value_BA.shape, bool)
  for b in range(value_BA.shape[0]):
    first = b // group * group
    for a in range(value_BA.shape[1]):
      others = [value_BA[o, a] for o in range(first, first + group) if o != b and counted_BA[o, a]]
      if counted_BA[b, a] and others:
        advantage_BA[b, a], usable_BA[b, a] = value_BA[b, a] - np.mean(others), True
  return advantage_BA, usable_BA


def test_stage_2_pays_attempt_1_for_itself_and_attempt_2_with_the_bonus():
  assert reward_table(FOUR_BA, STAGE_2) == [[0, 0], [0, 11], [1, -10], [1, 1]]


def test_stage_1_pays_attempt_2_alone():
  assert reward_table(FOUR_BA, STAGE_1) == [[0, 0], [0, 1], [0, 0], [0, 1]]


def test_a_third_attempt_gains_over_the_second():
  rows_BA = [[C, W, C], [W, C, C], [W, C, W]]
  stage = dict(reward_weights=(1, 1, 1), bonus=(0, 10, 4))
  assert reward_table(rows_BA, stage) == [[1, -10, 5], [0, 11, 1], [0, 11, -4]]


@pytest.mark.parametrize('verdict', [W, U, T, E])
def test_only_correct_pays(verdict):
  assert reward_table([[verdict, verdict], [verdict, C]], STAGE_2) == [[0, 0], [0, 11]]


@pytest.mark.parametrize(
  ('gamma', 'expected'),
  [(0.0, [1, 2, 3]), (1.0, [6, 5, 3]), (0.5, [1 + 0.5 * 2 + 0.25 * 3, 2 + 0.5 * 3, 3])],
)
def test_the_return_discounts_later_attempts_alone(gamma, expected):
  out_BA = rewards.discounted(jnp.array([[1.0, 2.0, 3.0]]), jnp.float32(gamma))
  np.testing.assert_array_equal(out_BA, [expected])


def test_a_return_is_known_when_all_that_it_adds_up_is_known():
  known_BA = jnp.array([[True, True, False], [True, False, True], [False, True, True]])
  at_zero_BA = rewards.return_is_known(known_BA, jnp.float32(0))
  at_half_BA = rewards.return_is_known(known_BA, jnp.float32(0.5))
  assert at_zero_BA.tolist() == known_BA.tolist()
  assert at_half_BA.tolist() == [[False, False, False], [False, False, True], [False, True, True]]


@pytest.mark.parametrize('group', [2, 4])
def test_leave_one_out_is_the_loop_over_the_other_counted_rows(group):
  rng = np.random.default_rng(0)
  value_BA = rng.normal(size=(8, 2)).astype(np.float32)
  counted_BA = np.array([[1, 1, 1, 0, 0, 1, 0, 0], [0, 1, 1, 1, 1, 0, 1, 1]], bool).T
  advantage_BA, usable_BA = rewards.leave_one_out(jnp.asarray(value_BA), jnp.asarray(counted_BA), group)
  expected_BA, expected_usable_BA = leave_one_out_by_loops(value_BA, counted_BA, group)
  assert expected_usable_BA.sum() < counted_BA.sum()  # in one group at least, a counted row stands alone
  np.testing.assert_array_equal(usable_BA, expected_usable_BA)
  np.testing.assert_allclose(advantage_BA, expected_BA, atol=1e-6)


def test_a_row_that_is_not_counted_may_hold_anything():
  value_BA = jnp.array([[1.0], [3.0], [jnp.nan]])
  advantage_BA, usable_BA = rewards.leave_one_out(value_BA, jnp.array([[True], [True], [False]]), 3)
  assert advantage_BA.tolist() == [[-2], [2], [0]]
  assert usable_BA.tolist() == [[True], [True], [False]]


@pytest.mark.parametrize(('rows', 'group'), [(4, 1), (4, 3)])
def test_leave_one_out_refuses_a_group_of_one_or_one_that_does_not_divide(rows, group):
  with pytest.raises(ValueError, match=f'group={group}'):
    rewards.leave_one_out(jnp.zeros((rows, 2)), jnp.ones((rows, 2), bool), group)


def test_credit_is_the_leave_one_out_advantage_of_the_reward():
  advantage_BA, share_BA = credit(FOUR_BA, 4, **STAGE_2)
  # Attempt 1 is paid 0, 0, 1, 1 and attempt 2 is paid 0, 11, -10, 1.
  np.testing.assert_allclose(advantage_BA[:, 0], [-2 / 3, -2 / 3, 2 / 3, 2 / 3], rtol=1e-6)
  np.testing.assert_allclose(advantage_BA[:, 1], [0 - 2 / 3, 11 + 9 / 3, -10 - 12 / 3, 1 - 1 / 3], rtol=1e-6)
  np.testing.assert_array_equal(share_BA, np.full((4, 2), 0.25))


def test_gamma_1_lets_attempt_1_answer_for_attempt_2():
  advantage_BA, _ = credit([[W, C], [W, W]], 2, gamma=1.0, **STAGE_1)
  assert advantage_BA.tolist() == [[1, 1], [-1, -1]]


def test_a_failed_grader_on_attempt_1_removes_both_rewards_when_attempt_2_has_a_bonus():
  rows_BA = [[E, C], [C, C], [W, C]]
  advantage_BA, share_BA = credit(rows_BA, 3, **STAGE_2)
  assert share_BA.tolist() == [[0, 0], [0.5, 0.5], [0.5, 0.5]]
  assert advantage_BA.tolist() == [[0, 0], [1, 1 - 11], [-1, 11 - 1]]


def test_a_failed_grader_on_attempt_1_leaves_attempt_2_its_reward_when_there_is_no_bonus():
  _, share_BA = credit([[E, C], [C, W], [W, C]], 3, **NO_BONUS)
  np.testing.assert_allclose(share_BA, [[0, 1 / 3], [0.5, 1 / 3], [0.5, 1 / 3]], rtol=1e-6)


def test_a_failed_grader_on_attempt_2_reaches_attempt_1_through_gamma_alone():
  rows_BA = [[C, E], [W, C], [C, C]]
  _, share_BA = credit(rows_BA, 3, gamma=0.0, **STAGE_2)
  assert (share_BA[0] > 0).tolist() == [True, False]
  _, share_BA = credit(rows_BA, 3, gamma=1.0, **STAGE_2)
  assert (share_BA[0] > 0).tolist() == [False, False]


def test_a_failed_grader_on_an_attempt_that_pays_nothing_costs_nothing():
  _, share_BA = credit([[E, C], [W, W]], 2, **STAGE_1)
  assert share_BA.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_one_graded_row_in_a_group_has_no_weight():
  rows_BA = [[C, C], [E, C], [C, C], [W, W]]
  advantage_BA, share_BA = credit(rows_BA, 2, **NO_BONUS)
  assert share_BA.tolist() == [[0, 0.25], [0, 0.25], [0.5, 0.25], [0.5, 0.25]]
  assert advantage_BA[:, 0].tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize('verdict', [U, T])
def test_an_answer_without_result_is_graded_0_and_counted(verdict):
  advantage_BA, share_BA = credit([[verdict, verdict], [C, C]], 2, **NO_BONUS)
  assert share_BA.tolist() == [[0.5, 0.5], [0.5, 0.5]]
  assert advantage_BA.tolist() == [[-1, -1], [1, 1]]


def test_an_untrained_attempt_is_neither_weighed_nor_a_baseline():
  trained_BA = np.array([[False, True], [True, True], [True, True]])
  advantage_BA, share_BA = credit([[C, C], [C, W], [W, W]], 3, trained_BA, **NO_BONUS)
  np.testing.assert_allclose(share_BA, [[0, 1 / 3], [0.5, 1 / 3], [0.5, 1 / 3]], rtol=1e-6)
  np.testing.assert_allclose(advantage_BA, [[0, 1], [1, -0.5], [-1, -0.5]], rtol=1e-6)


def test_the_shares_of_each_attempt_sum_to_1_or_are_all_0():
  rng = np.random.default_rng(1)
  rows_BA = rng.choice([W, C, U, T, E], (12, 2))
  _, share_BA = credit(rows_BA, 3, **STAGE_2)
  np.testing.assert_allclose(share_BA.sum(0), [1, 1], rtol=1e-6)
  _, share_BA = credit(np.full((4, 2), E), 2, **STAGE_2)
  assert not share_BA.any()
