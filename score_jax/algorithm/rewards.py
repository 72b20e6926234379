# SPDX-License-Identifier: Apache-2.0
"""From verdicts to advantages: one reward, one return and one baseline per attempt.

Equations are numbered as in docs/method.md.
"""

import jax
import jax.numpy as jnp

from score_jax.core_types import Verdict
from score_jax.states import StageValues


def attempt_rewards(
  verdict_BA: jax.Array, weight_A: jax.Array, bonus_A: jax.Array, score_BA: jax.Array | None = None
) -> jax.Array:
  """Reward of each attempt (eq. 1): weight_i r_i + bonus_i (r_i - r_{i-1}).

  Args:
    verdict_BA: i8, `core_types.Verdict`.
    weight_A: weight of an attempt's own score.
    bonus_A: the paper's alpha; bonus_A[0] must be 0, since no attempt comes before the first.
    score_BA: r, of reward functions; None: 1 for a correct attempt, else 0.

  Returns:
    reward_BA in the dtype of `weight_A`.
  """
  score_BA = verdict_BA == Verdict.CORRECT if score_BA is None else score_BA
  score_BA = score_BA.astype(weight_A.dtype)
  before_BA = jnp.pad(score_BA, ((0, 0), (1, 0)))[:, :-1]
  return weight_A[None] * score_BA + bonus_A[None] * (score_BA - before_BA)


def reward_is_known(verdict_BA: jax.Array, weight_A: jax.Array, bonus_A: jax.Array) -> jax.Array:
  """bool [B, A]: whether every verdict that the attempt's reward reads was really given.

  Verdict.ERROR hides an attempt's reward and the next one's bonus, where they have a weight.
  """
  graded_BA = verdict_BA != Verdict.ERROR
  before_BA = jnp.pad(graded_BA, ((0, 0), (1, 0)), constant_values=True)[:, :-1]
  reads_own_A = (weight_A != 0) | (bonus_A != 0)
  reads_before_A = bonus_A != 0
  return (graded_BA | ~reads_own_A[None]) & (before_BA | ~reads_before_A[None])


def discounted(reward_BA: jax.Array, gamma: jax.Array) -> jax.Array:
  """Return of each attempt (eq. 2): sum over j >= i of gamma^(j-i) reward_j."""
  columns = [reward_BA[:, -1]]
  for i in range(reward_BA.shape[1] - 2, -1, -1):
    columns.append(reward_BA[:, i] + gamma * columns[-1])
  return jnp.stack(columns[::-1], axis=1)


def return_is_known(known_BA: jax.Array, gamma: jax.Array) -> jax.Array:
  """bool [B, A]: whether all rewards in the attempt's return are known."""
  columns = [known_BA[:, -1]]
  for i in range(known_BA.shape[1] - 2, -1, -1):
    columns.append(known_BA[:, i] & (columns[-1] | (gamma == 0)))
  return jnp.stack(columns[::-1], axis=1)


def leave_one_out(value_BA: jax.Array, counted_BA: jax.Array, group: int) -> tuple[jax.Array, jax.Array]:
  """Value minus the mean of its problem's other counted rows (eq. 3; RLOO, arXiv 2402.14740).

  A problem's G rows are adjacent.

  Returns:
    advantage_BA, 0 where not usable; usable_BA: counted, with others in its group.

  Raises:
    ValueError: G is below 2 or does not divide B.
  """
  B, A = value_BA.shape
  if group < 2 or B % group:
    raise ValueError(f'leave_one_out needs groups of 2 or more that divide the {B} rows, got group={group}')
  counted_BGA = counted_BA.reshape(B // group, group, A)
  weight_BGA = counted_BGA.astype(value_BA.dtype)
  value_BGA = jnp.where(counted_BGA, value_BA.reshape(B // group, group, A), 0)
  count_BGA = jnp.sum(weight_BGA, axis=1, keepdims=True)
  others_BGA = (jnp.sum(value_BGA, axis=1, keepdims=True) - value_BGA) / jnp.maximum(count_BGA - 1, 1)
  usable_BGA = counted_BGA & (count_BGA >= 2)
  advantage_BGA = jnp.where(usable_BGA, value_BGA - others_BGA, 0)
  return advantage_BGA.reshape(B, A), usable_BGA.reshape(B, A)


def reward_credit(
  verdict_BA: jax.Array, trained_BA: jax.Array, stage: StageValues, group: int, score_BA: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """The reward's part of every attempt's credit; 0 for an untrained attempt.

  Returns:
    advantage_BA: leave-one-out, of the discounted rewards.
    weight_BA: `shares` of usable rows.
  """
  reward_BA = attempt_rewards(verdict_BA, stage.reward_weights, stage.bonus, score_BA)
  known_BA = reward_is_known(verdict_BA, stage.reward_weights, stage.bonus)
  counted_BA = return_is_known(known_BA, stage.gamma) & trained_BA
  advantage_BA, usable_BA = leave_one_out(discounted(reward_BA, stage.gamma), counted_BA, group)
  return advantage_BA, shares(usable_BA, advantage_BA.dtype)


def shares(counted_BA: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Each row's share of an attempt's mean: 1/n where counted, else 0."""
  weight_BA = counted_BA.astype(dtype)
  return weight_BA / jnp.maximum(jnp.sum(weight_BA, axis=0, keepdims=True), 1)
