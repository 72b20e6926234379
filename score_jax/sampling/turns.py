# SPDX-License-Identifier: Apache-2.0
"""The turns of a conversation, a token at a time: attempts, and the separators between them."""

from flax import struct
import jax
import jax.numpy as jnp

from score_jax.core_types import Stop
from score_jax.sampling.spec import RolloutSpec


@struct.dataclass
class Tokens:
  """Tokens of rows, in any shape."""

  tokens: jax.Array  # i32
  attempt: jax.Array  # i8
  logp: jax.Array  # f32


@struct.dataclass
class Progress:
  """How far B rows are."""

  token: jax.Array  # i32 [B]  chosen last, not yet in the cache
  newest: jax.Array  # i32 [B]  its slot of the row
  turn: jax.Array  # i32 [B]  attempt under way, 0-based; A when the row is done
  fed: jax.Array  # i32 [B]  ids given of the separator before this turn
  left: jax.Array  # i32 [B]  of the attempt's budget
  stop: jax.Array  # i8 [B, A]


def chosen(
  progress: Progress, drawn_B: jax.Array, logp_B: jax.Array, going_B: jax.Array, spec: RolloutSpec
) -> tuple[Progress, Tokens]:
  """Appends a token to each row that is `going_B`: the one drawn, or its separator's next."""
  A = spec.attempts
  separator_AF, separator_length_A = separator_table(spec)
  budget_A = jnp.array(spec.budgets, jnp.int32)
  turn = jnp.minimum(progress.turn, A - 1)

  feeding = going_B & (progress.fed < separator_length_A[turn])
  sampling = going_B & ~feeding
  fed_token = separator_AF[turn, jnp.minimum(progress.fed, separator_AF.shape[1] - 1)]
  token = jnp.where(sampling, drawn_B, jnp.where(feeding, fed_token, spec.pad))

  left = jnp.where(sampling, progress.left - 1, progress.left)
  at_end_of_turn = token == spec.end_of_turn
  at_stop = jnp.any(token[:, None] == jnp.array(spec.stops, jnp.int32)[None], axis=-1)
  ended = sampling & (at_stop | (left == 0))
  stop = jnp.where(at_end_of_turn, Stop.END_OF_TURN, jnp.where(at_stop, Stop.OTHER, Stop.BUDGET)).astype(jnp.int8)
  this_turn_BA = jnp.arange(A, dtype=jnp.int32)[None] == turn[:, None]

  next_turn = jnp.where(ended, progress.turn + 1, progress.turn)
  moved = Progress(
    token=jnp.where(going_B, token, progress.token),
    newest=jnp.where(going_B, progress.newest + 1, progress.newest),
    turn=next_turn,
    # The separator begins with end-of-turn, which an attempt may have sampled itself.
    fed=jnp.where(ended, at_end_of_turn.astype(jnp.int32), jnp.where(feeding, progress.fed + 1, progress.fed)),
    left=jnp.where(ended, budget_A[jnp.minimum(next_turn, A - 1)], left),
    stop=jnp.where(ended[:, None] & this_turn_BA, stop[:, None], progress.stop),
  )
  attempt = jnp.where(sampling, turn + 1, 0).astype(jnp.int8)
  return moved, Tokens(token, attempt, jnp.where(sampling, logp_B, 0))


def separator_table(spec: RolloutSpec) -> tuple[jax.Array, jax.Array]:
  """separator_AF (padded) and separator_length_A, before each attempt."""
  separators = ((),) + spec.separators
  longest = max(1, max(map(len, separators)))
  table = [list(ids) + [spec.pad] * (longest - len(ids)) for ids in separators]
  return jnp.array(table, jnp.int32), jnp.array([len(ids) for ids in separators], jnp.int32)
