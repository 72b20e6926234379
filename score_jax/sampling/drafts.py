# SPDX-License-Identifier: Apache-2.0
"""Guesses of rows' next tokens from what the rows hold: second attempts repeat much of the first.

As a serving engine's n-gram drafts (prompt lookup decoding): where the row's last tokens stand in it already, the ones
that followed there are the guess. A step's tokens go to the guesses that are most likely right, whoever's they are.
"""

import jax
import jax.numpy as jnp
import numpy as np

# How likely the first guessed token is right, and each further one after it, by how many of the last tokens agree; as
# replayed on MBPP at T=1 (docs/performance.md). They decide which guesses are computed, never what is sampled.
_LIKELY = np.array([(0, 0), (0.25, 0.5), (0.5, 0.7), (0.6, 0.75), (0.65, 0.8), (0.8, 0.9), (0.9, 0.93), (0.95, 0.96)])
LONGEST = len(_LIKELY) - 1  # tokens that are looked up
_LATER = 0.2  # a guess's worth in an attempt, of that in the one before (docs/performance.md)


def continued(tokens_BL: jax.Array, start_B: jax.Array, newest_B: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """Returns the tokens that followed where a row's last tokens stand before, and how likely they are right.

  Of all such places the one counts where most of the last LONGEST tokens agree, then the latest. What followed up to
  the newest token is repeated as often as it takes. If the newest token is new, anything is returned, for unlikely.

  Args:
    tokens_BL: i32 rows.
    start_B, newest_B: the slots of a row's first and newest token.
    count: G, of tokens.

  Returns:
    i32 [B, G], and f32 [B, G], falling along a row.
  """
  L = tokens_BL.shape[1]
  slot_L = jnp.arange(L, dtype=jnp.int32)[None]
  agrees_BL = (slot_L >= start_B[:, None]) & (slot_L < newest_B[:, None])
  agreed_BL = jnp.zeros_like(agrees_BL, jnp.int32)
  for back in range(LONGEST):
    last_B1 = jnp.take_along_axis(tokens_BL, jnp.maximum(newest_B - back, 0)[:, None], axis=1)
    there_BL = jnp.pad(tokens_BL[:, : L - back], ((0, 0), (back, 0)), constant_values=-1)
    agrees_BL &= (there_BL == last_B1) & (slot_L - back >= start_B[:, None])
    agreed_BL += agrees_BL.astype(jnp.int32)
  match_B = jnp.argmax(jnp.where(agreed_BL > 0, agreed_BL * L + slot_L, -1), axis=1).astype(jnp.int32)
  period_B = jnp.maximum(newest_B - match_B, 1)
  after_BG = jnp.arange(count, dtype=jnp.int32)[None] % period_B[:, None]
  guess_BG = jnp.take_along_axis(tokens_BL, match_B[:, None] + 1 + after_BG, axis=1, mode='clip')
  first_B, further_B = jnp.asarray(_LIKELY, jnp.float32)[jnp.max(agreed_BL, axis=1)].T
  return guess_BG, first_B[:, None] * further_B[:, None] ** jnp.arange(count, dtype=jnp.float32)[None]


def worth(likely_BG: jax.Array, given_BG: jax.Array, turn_B: jax.Array) -> jax.Array:
  """Returns what it is worth to compute guesses, f32 [B, G]: given ones most, the first of all rows before the second.

  Args:
    likely_BG: of `continued`.
    given_BG: bool, what is given and no guess.
    turn_B: i32, attempts that a row has finished. Where none waits for a slot, the last row decides when all are done,
      and those that have finished fewer come first; 0 for all: the surest do.
  """
  further_G = jnp.arange(likely_BG.shape[1], dtype=jnp.float32)
  late_B1 = _LATER ** turn_B[:, None].astype(jnp.float32)
  return jnp.where(given_BG, 1 + 1 / (1 + further_G)[None], likely_BG * late_B1)


def surest(worth_BG: jax.Array, going_B: jax.Array, count: int) -> jax.Array:
  """Returns which of [B, 1 + G] tokens a step computes, i32 [count]: the first of each row that goes on, the worthiest.

  `worth_BG` is at most 2 and falls along a row, so no token comes without those before it. Rows that are done leave
  their share to the others.
  """
  worth_BQ = jnp.pad(worth_BG, ((0, 0), (1, 0)), constant_values=3)
  worth_T = jnp.where(going_B[:, None], worth_BQ, -1).reshape(-1)
  number_T = jnp.arange(worth_T.size, dtype=jnp.int32)
  is_worthier_TT = (worth_T[None] > worth_T[:, None]) | (
    (worth_T[None] == worth_T[:, None]) & (number_T[None] < number_T[:, None])
  )
  rank_T = jnp.sum(is_worthier_TT, axis=1, dtype=jnp.int32)  # by counting: a GPU takes half as long as for a sort
  return jnp.zeros((count,), jnp.int32).at[rank_T].set(number_T, mode='drop', unique_indices=True)
