# SPDX-License-Identifier: Apache-2.0
"""Guesses of rows' next tokens from what the rows hold: second attempts repeat much of the first.

As a serving engine's n-gram drafts (prompt lookup decoding): where the row's last tokens stand already, in it or in a
neighbour, the ones that followed there are the guess. A step's tokens go to the guesses that are most likely right,
whoever's they are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# How likely the first guessed token is right, and each further one after it, by how many of the last tokens agree, in
# the row itself and in a neighbour; as replayed on MBPP at T=1 (docs/performance.md). They decide which guesses are
# computed, never what is sampled.
_LIKELY = np.array([(0, 0), (0.25, 0.5), (0.5, 0.7), (0.6, 0.75), (0.65, 0.8), (0.8, 0.9), (0.9, 0.93), (0.95, 0.96)])
_LIKELY_THERE = np.array([(0, 0), (0.2, 0.4), (0.28, 0.44), (0.31, 0.52), (0.47, 0.59)])
NEIGHBOURS = 64  # rows that look into each other
_LATER = 0.1  # a guess's worth in an attempt, of that in the one before (docs/performance.md)


def continued(tokens_BL: jax.Array, start_B: jax.Array, newest_B: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """Returns what a row's last tokens were followed by, in it or in a neighbour, and how likely that is right.

  Args:
    tokens_BL: i32 rows.
    start_B, newest_B: the slots of a row's first and newest token.
    count: G, of tokens.

  Returns:
    i32 [B, G], and f32 [B, G], falling along a row.
  """
  here_BG, here_likely_BG = in_own_row(tokens_BL, start_B, newest_B, count)
  there_BG, there_likely_BG = in_neighbours(tokens_BL, start_B, newest_B, count)
  is_here_B1 = here_likely_BG[:, :1] >= there_likely_BG[:, :1]
  return tuple(jnp.where(is_here_B1, *pair) for pair in ((here_BG, there_BG), (here_likely_BG, there_likely_BG)))


def in_own_row(
  tokens_BL: jax.Array, start_B: jax.Array, newest_B: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
  """Does what `continued` does, of the row itself.

  Of all places the one counts where the most of the last tokens agree, then the latest. What followed up to the newest
  token is repeated as often as it takes. If the newest token is new, anything is returned, for unlikely.
  """
  L = tokens_BL.shape[1]
  slot_L = jnp.arange(L, dtype=jnp.int32)[None]
  agrees_BL = (slot_L >= start_B[:, None]) & (slot_L < newest_B[:, None])
  agreed_BL = jnp.zeros_like(agrees_BL, jnp.int32)
  for back in range(len(_LIKELY) - 1):
    last_B1 = jnp.take_along_axis(tokens_BL, jnp.maximum(newest_B - back, 0)[:, None], axis=1)
    agrees_BL &= (_before(tokens_BL, back) == last_B1) & (slot_L - back >= start_B[:, None])
    agreed_BL += agrees_BL.astype(jnp.int32)
  best_B = jnp.max(jnp.where(agreed_BL > 0, agreed_BL * L + slot_L, 0), axis=1)
  agreed_B, match_B = jnp.divmod(best_B, L)
  period_B = jnp.maximum(newest_B - match_B, 1)
  after_BG = jnp.arange(count, dtype=jnp.int32)[None] % period_B[:, None]
  guess_BG = jnp.take_along_axis(tokens_BL, match_B[:, None] + 1 + after_BG, axis=1, mode='clip')
  return guess_BG, _likely(_LIKELY, agreed_B, count)


def in_neighbours(
  tokens_BL: jax.Array, start_B: jax.Array, newest_B: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
  """Does what `continued` does, of all rows of the row's NEIGHBOURS, itself among them: X times R rows.

  Of all places the one counts where the most of fewer last tokens agree, then that of the latest slot. What follows
  the other row's newest token is unlikely.
  """
  B, L = tokens_BL.shape
  R = min(B, NEIGHBOURS)
  pad = -B % R  # by rows that hold nothing
  tokens_XRL = jnp.pad(tokens_BL, ((0, pad), (0, 0))).reshape(-1, R, L)
  start_XR, newest_XR = (jnp.pad(x_B, (0, pad)).reshape(-1, R) for x_B in (start_B, newest_B))
  guesses = jax.vmap(functools.partial(_among, count=count))(tokens_XRL, start_XR, newest_XR)
  return tuple(x_XRG.reshape(B + pad, count)[:B] for x_XRG in guesses)


def _among(tokens_RL: jax.Array, start_R: jax.Array, newest_R: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """Does the same of R rows that are neighbours; pairs have the axes whose last tokens, in which row, at which slot."""
  R, L = tokens_RL.shape
  row_R, slot_L = jnp.arange(R, dtype=jnp.int32), jnp.arange(L, dtype=jnp.int32)
  is_followed_RL = (slot_L[None] >= start_R[:, None]) & (slot_L[None] < newest_R[:, None])
  agrees_RRL = jnp.broadcast_to(is_followed_RL[None], (R, R, L))
  agreed_RRL = jnp.zeros_like(agrees_RRL, jnp.int32)
  for back in range(len(_LIKELY_THERE) - 1):
    last_R1 = jnp.take_along_axis(tokens_RL, jnp.maximum(newest_R - back, 0)[:, None], axis=1)
    last_R1 = jnp.where((newest_R - back >= start_R)[:, None], last_R1, -1)
    there_RL = jnp.where(slot_L[None] - back >= start_R[:, None], _before(tokens_RL, back), -2)
    agrees_RRL &= there_RL[None] == last_R1[:, None]
    agreed_RRL += agrees_RRL.astype(jnp.int32)
  rank_RRL = (agreed_RRL * L + slot_L[None, None]) * R + row_R[None, :, None]
  best_R = jnp.max(jnp.where(agreed_RRL > 0, rank_RRL, 0), axis=(1, 2))
  agreed_R, slot_R, other_R = best_R // (L * R), best_R // R % L, best_R % R
  after_RG = slot_R[:, None] + 1 + jnp.arange(count, dtype=jnp.int32)[None]
  guess_RG = tokens_RL.reshape(-1)[other_R[:, None] * L + jnp.minimum(after_RG, L - 1)]
  is_known_RG = after_RG <= newest_R[other_R][:, None]
  return guess_RG, jnp.where(is_known_RG, _likely(_LIKELY_THERE, agreed_R, count), 0.0)


def _before(tokens_BL: jax.Array, back: int) -> jax.Array:
  """Returns at each slot the token `back` slots before; -1: none."""
  return jnp.pad(tokens_BL[:, : tokens_BL.shape[1] - back], ((0, 0), (back, 0)), constant_values=-1)


def _likely(table: np.ndarray, agreed_B: jax.Array, count: int) -> jax.Array:
  """Returns how likely guesses are right, f32 [B, count], by how many tokens agreed."""
  first_B, further_B = jnp.asarray(table, jnp.float32)[agreed_B].T
  return first_B[:, None] * further_B[:, None] ** jnp.arange(count, dtype=jnp.float32)[None]


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
  rank_T = jnp.sum(is_worthier_TT, axis=1, dtype=jnp.int32)  # by counting, which takes a GPU less time than a sort
  return jnp.zeros((count,), jnp.int32).at[rank_T].set(number_T, mode='drop', unique_indices=True)
