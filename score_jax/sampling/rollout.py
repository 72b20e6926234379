"""A whole self-correction conversation per row, in one compiled call.

All rows share the write slot t (prompts are left-padded). Each row carries its own small state and moves on alone:

    sampling attempt i --stop or budget--> being fed the instruction's ids --> sampling attempt i + 1 --> ... done

A row reuses its cache for the next attempt: nothing is decoded to text, re-encoded, re-rendered or prefilled twice,
and no row waits for another. The loop ends when every row is done.
"""

import dataclasses
import functools

from flax import struct
import jax
import jax.numpy as jnp

from score_jax.models import decoder
from score_jax.models.attention import Cache
from score_jax.models.families import DecoderConfig
from score_jax.sampling import choose
from score_jax.states import Rollout
from score_jax.types import Stop


@dataclasses.dataclass(frozen=True)
class RolloutSpec:
  """What is compiled in. Hashable: another stop set or instruction is another program, never a stale one."""

  budgets: tuple[int, ...]  # [A] most tokens an attempt may sample, its stop token included
  feeds: tuple[tuple[int, ...], ...]  # [A - 1] end-of-turn, then the ids up to where the next attempt begins
  end_of_turn: int
  stops: tuple[int, ...]  # ids that end an attempt; end_of_turn is one of them
  pad: int
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  kernel: bool = False  # attend to the live part of the cache alone (`models/decode_attention.py`, GPU)

  @property
  def attempts(self) -> int:
    return len(self.budgets)

  @property
  def growth(self) -> int:
    """Most slots that a conversation adds to its prompt: L - P."""
    return sum(self.budgets) + sum(len(feed) for feed in self.feeds)


@struct.dataclass
class _Rows:
  """The state machine of all rows; `rollout.py` alone reads it."""

  slot: jax.Array  # i32 []  last slot written
  tokens: jax.Array  # i32 [B, L]
  attempt: jax.Array  # i8 [B, L]
  logp: jax.Array  # f32 [B, L]
  stop: jax.Array  # i8 [B, A]
  end: jax.Array  # i32 [B]
  turn: jax.Array  # i32 [B]  attempt under way, 0-based; A when the row is done
  fed: jax.Array  # i32 [B]  ids of the feed before this turn already given; at its length the row samples
  left: jax.Array  # i32 [B]  tokens left in the attempt's budget


def row_keys(key: jax.Array, row_B: jax.Array) -> jax.Array:
  """One key per row from its global row number, so a row's randomness does not depend on the rows beside it."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row_B)


def uniforms(keys_B: jax.Array, position_B: jax.Array) -> jax.Array:
  """One f32 uniform per row, from the position counted from the row's own start: padding does not change it."""
  return jax.vmap(lambda key, position: jax.random.uniform(jax.random.fold_in(key, position)))(keys_B, position_B)


@functools.partial(jax.jit, static_argnames=('config', 'spec', 'dtype'))
def rollout(
  params: decoder.Params,
  prompt_BP: jax.Array,
  start_B: jax.Array,
  row_B: jax.Array,
  key: jax.Array,
  forced_BF: jax.Array,
  *,
  config: DecoderConfig,
  spec: RolloutSpec,
  dtype: jnp.dtype,
) -> Rollout:
  """Samples A attempts for every row.

  Args:
    params: the sampling layout of the policy, from `decoder.for_decoding`.
    prompt_BP: i32 left-padded prompts, each ending where the first attempt begins.
    start_B: i32 first slot of each prompt.
    row_B: i32 global row numbers; with `key` they decide all randomness.
    key: typed key of this step.
    forced_BF: i32 first attempts given from outside, F = budgets[0]; -1 where the token is to be sampled.

  Returns:
    Rollout with L = P + spec.growth.
  """
  B, P = prompt_BP.shape
  L = P + spec.growth
  keys_B = row_keys(key, row_B)
  advance = functools.partial(_advance, start_B=start_B, keys_B=keys_B, forced_BF=forced_BF, spec=spec)
  zeros_B = jnp.zeros((B,), jnp.int32)
  rows = _Rows(
    slot=jnp.int32(P - 1),
    tokens=jnp.pad(prompt_BP, ((0, 0), (0, L - P)), constant_values=spec.pad),
    attempt=jnp.zeros((B, L), jnp.int8),
    logp=jnp.zeros((B, L), jnp.float32),
    stop=jnp.zeros((B, spec.attempts), jnp.int8),
    end=jnp.full((B,), P, jnp.int32),
    turn=zeros_B,
    fed=zeros_B,
    left=jnp.full((B,), spec.budgets[0], jnp.int32),
  )
  logits_BV, cache = decoder.prefill(params, config, prompt_BP, start_B, L, dtype=dtype)

  def unfinished(carry: tuple[_Rows, Cache]) -> jax.Array:
    return jnp.any(carry[0].turn < spec.attempts)

  def step(carry: tuple[_Rows, Cache]) -> tuple[_Rows, Cache]:
    rows, cache = carry
    token_B = jax.lax.dynamic_index_in_dim(rows.tokens, rows.slot, axis=1, keepdims=False)
    logits_BV, cache = decoder.decode_step(params, config, token_B, rows.slot, cache, kernel=spec.kernel)
    return advance(rows, logits_BV), cache

  rows, _ = jax.lax.while_loop(unfinished, step, (advance(rows, logits_BV), cache))
  return Rollout(tokens=rows.tokens, attempt=rows.attempt, logp=rows.logp, start=start_B, end=rows.end, stop=rows.stop)


def _advance(rows: _Rows, logits_BV: jax.Array, *, start_B, keys_B, forced_BF, spec: RolloutSpec) -> _Rows:
  """Writes every row's next token at the next slot and moves its state on."""
  A = spec.attempts
  feed_AF, feed_length_A = _feed_table(spec)
  budget_A = jnp.array(spec.budgets, jnp.int32)
  turn = jnp.minimum(rows.turn, A - 1)
  slot = rows.slot + 1

  running = rows.turn < A
  feeding = running & (rows.fed < feed_length_A[turn])
  sampling = running & ~feeding
  with jax.named_scope('choose'):
    drawn, logp = _draw(logits_BV, uniforms(keys_B, slot - start_B), turn, rows.left, forced_BF, spec)
  fed_token = feed_AF[turn, jnp.minimum(rows.fed, feed_AF.shape[1] - 1)]
  token = jnp.where(sampling, drawn, jnp.where(feeding, fed_token, spec.pad))

  left = jnp.where(sampling, rows.left - 1, rows.left)
  at_end_of_turn = token == spec.end_of_turn
  at_stop = jnp.any(token[:, None] == jnp.array(spec.stops, jnp.int32)[None], axis=-1)
  ended = sampling & (at_stop | (left == 0))
  how = jnp.where(at_end_of_turn, Stop.END_OF_TURN, jnp.where(at_stop, Stop.OTHER, Stop.BUDGET)).astype(jnp.int8)
  this_turn_BA = jnp.arange(A, dtype=jnp.int32)[None] == turn[:, None]

  next_turn = jnp.where(ended, rows.turn + 1, rows.turn)
  # The feed begins with end-of-turn; an attempt that sampled it itself is not given a second one.
  fed = jnp.where(ended, at_end_of_turn.astype(jnp.int32), jnp.where(feeding, rows.fed + 1, rows.fed))
  left = jnp.where(ended, budget_A[jnp.minimum(next_turn, A - 1)], left)

  def put(buffer, value_B):
    return jax.lax.dynamic_update_slice_in_dim(buffer, value_B[:, None].astype(buffer.dtype), slot, axis=1)

  return _Rows(
    slot=slot,
    tokens=put(rows.tokens, token),
    attempt=put(rows.attempt, jnp.where(sampling, turn + 1, 0)),
    logp=put(rows.logp, jnp.where(sampling, logp, 0)),
    stop=jnp.where(ended[:, None] & this_turn_BA, how[:, None], rows.stop),
    end=jnp.where(running, slot + 1, rows.end),
    turn=next_turn,
    fed=fed,
    left=left,
  )


def _draw(logits_BV, uniform_B, turn, left, forced_BF, spec: RolloutSpec) -> tuple[jax.Array, jax.Array]:
  """Token and T=1 log-probability for every row: the forced token of a given first attempt, else a drawn one."""
  drawn = choose.next_token(logits_BV, uniform_B, temperature=spec.temperature, top_k=spec.top_k, top_p=spec.top_p)
  done_B = jnp.clip(spec.budgets[0] - left, 0, forced_BF.shape[1] - 1)
  forced = jnp.take_along_axis(forced_BF, done_B[:, None], axis=1)[:, 0]
  token = jnp.where((turn == 0) & (forced >= 0), forced, drawn)
  return token, choose.log_probability(logits_BV, token)


def _feed_table(spec: RolloutSpec) -> tuple[jax.Array, jax.Array]:
  """feed_AF (padded) and feed_length_A: what is fed before each attempt; nothing before the first."""
  feeds = ((),) + spec.feeds
  longest = max(1, max(len(feed) for feed in feeds))
  table = [list(feed) + [spec.pad] * (longest - len(feed)) for feed in feeds]
  return jnp.array(table, jnp.int32), jnp.array([len(feed) for feed in feeds], jnp.int32)


def no_forced(rows: int, spec: RolloutSpec) -> jax.Array:
  """forced_BF that forces nothing."""
  return jnp.full((rows, spec.budgets[0]), -1, jnp.int32)
