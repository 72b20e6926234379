# SPDX-License-Identifier: Apache-2.0
"""Whole self-correction conversations, in one compiled call.

A device has B decode slots ("slots"), which share one clock and move on alone:

    sampling attempt i --stop or budget--> being fed the turn separator --> sampling attempt i + 1 --> ... done

The next attempt reuses the row's cache. A slot whose row is done takes a waiting one, whose prompt comes into the
cache just behind the clock.

The cache is a ring (`models/attention.py`): time t lies in its slot t mod S. What is sampled goes to a token log, a
line a step, and is cut into rows at the end.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from score_jax.core_types import Stop
from score_jax.models import attention, decode_attention, decoder
from score_jax.models.attention import Cache
from score_jax.models.families import DecoderConfig
from score_jax.parallel import compile_options
from score_jax.parallel import mesh as meshes
from score_jax.sampling import choose
from score_jax.states import Rollout

_GROWTHS = 4  # of a TPU's cache, which is read whole where no kernel serves; more take longer to compile
_REFILLS = 16  # in a generation: prefills against idle slots


@dataclasses.dataclass(frozen=True)
class RolloutSpec:
  """The compiled-in settings; hashable."""

  budgets: tuple[int, ...]  # [A] tokens of an attempt, its stop included
  separators: tuple[tuple[int, ...], ...]  # [A - 1] end-of-turn and what follows
  end_of_turn: int
  stops: tuple[int, ...]  # ids, `end_of_turn` among them
  pad: int
  temperature: float = 1.0
  decode_slots: int = 0  # rows decoded at a time on each device; 0: all
  cache_dtype: str = 'auto'  # of cached keys and values; 'auto': the compute dtype
  kernel: str = ''  # of `decode_attention.BLOCKS`
  growths: int = 1  # steps in which the cache comes to its size, where every row has a slot

  @property
  def attempts(self) -> int:
    return len(self.budgets)

  @property
  def growth(self) -> int:
    """The most tokens that a conversation adds to its prompt: L - P."""
    return sum(self.budgets) + sum(len(separator) for separator in self.separators)


@struct.dataclass
class _Rows:
  prompt: jax.Array  # i32 [N, P]
  start: jax.Array  # i32 [N]
  key: jax.Array  # typed keys [N]
  forced: jax.Array  # i32 [N, F]


@struct.dataclass
class _DecodeSlots:
  """The state machines of B decode slots."""

  row: jax.Array  # i32 [B]  of a slot that is done: its last
  first: jax.Array  # i32 [B]  time of the row's first token
  token: jax.Array  # i32 [B]  chosen last, not yet in the cache
  turn: jax.Array  # i32 [B]  attempt under way, 0-based; A when the row is done
  fed: jax.Array  # i32 [B]  ids given of the separator before this turn
  left: jax.Array  # i32 [B]  of the attempt's budget
  stop: jax.Array  # i8 [B, A]
  end: jax.Array  # i32 [B]  one past the time of the row's last token


@struct.dataclass
class _Tokens:
  """Tokens of a rollout, in any shape."""

  tokens: jax.Array  # i32
  attempt: jax.Array  # i8
  logp: jax.Array  # f32


@struct.dataclass
class _Finished:
  """Where each of N rows lies in the token log."""

  slot: jax.Array  # i32 [N]
  first: jax.Array  # i32 [N]
  end: jax.Array  # i32 [N]
  stop: jax.Array  # i8 [N, A]


@struct.dataclass
class _State:
  time: jax.Array  # i32 []  of the newest token chosen
  slots: _DecodeSlots
  cache: Cache
  first_token: _Tokens  # [N] not in the log, where its slot's old row may end
  token_log: _Tokens  # [T, B] what slots chose at each time from P + 1 on
  finished: _Finished
  waiting: jax.Array  # i32 []  the first row that no slot has taken


def row_keys(key: jax.Array, row_B: jax.Array) -> jax.Array:
  """One key per row, from its global row number."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row_B)


def uniforms(keys_B: jax.Array, position_B: jax.Array) -> jax.Array:
  """One f32 uniform per row, from a position in it."""
  return jax.vmap(lambda key, position: jax.random.uniform(jax.random.fold_in(key, position)))(keys_B, position_B)


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
  mesh: Mesh,
) -> Rollout:
  """Samples A attempts for every row, each device its own rows; L = P + spec.growth.

  Args:
    params: from `decoder.for_decoding`.
    prompt_BP, start_B: i32 left-padded prompts and their first slots.
    row_B, key: global row numbers and a typed key: all randomness.
    forced_BF: i32 given first attempts, F = budgets[0]; -1: sampled.
    config, spec, dtype, mesh: what is compiled in.
  """
  arguments = params, prompt_BP, start_B, row_B, key, forced_BF
  with meshes.by_rows_compiles(mesh):
    return program(mesh)(*arguments, config=config, spec=spec, dtype=dtype, mesh=mesh)


def program(mesh: Mesh) -> Any:
  """Returns the program of `rollout` on a mesh, not compiled yet."""
  return _program(compile_options.of_rollouts(mesh))


@functools.cache
def _program(options: compile_options.Options) -> Any:
  static = ('config', 'spec', 'dtype', 'mesh')
  return jax.jit(conversations, static_argnames=static, compiler_options=dict(options) or None)


def conversations(params, prompt, start, row, key, forced, *, config, spec, dtype, mesh) -> Rollout:
  def local(params, prompt, start, row, key, forced):
    rows = _Rows(prompt, start, row_keys(key, row), forced)
    return _rollout(params, rows, config, spec, dtype, mesh)

  return meshes.by_rows(local, mesh, (False, True, True, True, False, True))(params, prompt, start, row, key, forced)


def _rollout(
  params: decoder.Params, rows: _Rows, config: DecoderConfig, spec: RolloutSpec, dtype, mesh: Mesh
) -> Rollout:
  """Samples a device's rows."""
  N, P = rows.prompt.shape
  B = min(spec.decode_slots or N, N)
  refill = -(-B // _REFILLS)
  cached = dict(dtype=dtype, cache_dtype=cache_dtype(spec, dtype), kernel=spec.kernel)
  prefill = functools.partial(decoder.prefill, params, config, **cached)
  anywhere = functools.partial(meshes.on_any_device, mesh=mesh)

  def step(state: _State) -> _State:
    # A slot that is done sees nothing but the padding that it is fed.
    first_B = jnp.where(state.slots.turn < spec.attempts, state.slots.first, state.time)
    cache = state.cache.replace(first=first_B)
    logits_BV, cache = decoder.decode_step(params, config, state.slots.token, state.time, cache, dtype=dtype, mesh=mesh)
    time = state.time + 1
    slots, line = _advance(state.slots, logits_BV, time, rows, spec, mesh)
    token_log = jax.tree.map(lambda old_TB, new_B: old_TB.at[time - P - 1].set(new_B), state.token_log, line)
    return state.replace(time=time, slots=slots, cache=cache, token_log=token_log)

  def done(state: _State) -> jax.Array:
    return state.slots.turn == spec.attempts

  def has_room(state: _State) -> jax.Array:
    wanted = jnp.minimum(refill, N - state.waiting)
    return (wanted > 0) & (jnp.sum(done(state).astype(jnp.int32)) >= wanted)

  def generation(state: _State) -> _State:
    state = jax.lax.while_loop(lambda state: ~anywhere(has_room(state)), step, state)
    slot_R = jnp.nonzero(done(state), size=refill, fill_value=B)[0].astype(jnp.int32)
    return _admit(prefill, rows, spec, mesh, state, slot_R)

  sizes = cache_sizes(spec, P, refills=N > B)
  state = _begin(prefill, rows, spec, mesh, B, refill, sizes[0])
  if N > B:
    state = jax.lax.while_loop(lambda state: anywhere(state.waiting < N), generation, state)
  for size in sizes:
    state = state.replace(cache=attention.grown(state.cache, size))

    def goes_on(state: _State, limit=size if size < sizes[-1] else None) -> jax.Array:
      runs = anywhere(~jnp.all(done(state)))
      return runs if limit is None else runs & (state.time < limit)

    state = jax.lax.while_loop(goes_on, step, state)
  return _cut(state, _with_finished(state, jnp.arange(B, dtype=jnp.int32)), rows, spec)


def cache_sizes(spec: RolloutSpec, prompt: int, *, refills: bool) -> list[int]:
  """Returns the slots that the cache has one after another; a ring that is refilled is whole from the start."""
  block = decode_attention.BLOCKS[spec.kernel]  # of which a ring has whole ones
  growths = 1 if refills or spec.kernel else spec.growths
  return [-(-(prompt + -(-spec.growth * (i + 1) // growths)) // block) * block for i in range(growths)]


def _begin(prefill: Callable, rows: _Rows, spec: RolloutSpec, mesh: Mesh, B: int, refill: int, ring: int) -> _State:
  """Puts the first B rows into the slots, their first tokens at time P."""
  N, P = rows.prompt.shape
  # While rows wait, at most refill - 1 slots are idle.
  lines = max(1, spec.growth - 1) if N == B else -(-N * spec.growth // (B - refill + 1)) + spec.growth
  logits_BV, cache = prefill(rows.prompt[:B], rows.start[:B], ring)
  fresh = _fresh(jnp.arange(B, dtype=jnp.int32), rows.start[:B], spec)
  slots, line = _advance(fresh, logits_BV, jnp.int32(P), rows, spec, mesh)
  zeros_N = jnp.zeros((N,), jnp.int32)
  return _State(
    time=jnp.int32(P),
    slots=slots,
    cache=cache,
    first_token=jax.tree.map(lambda new_B: jnp.zeros((N,), new_B.dtype).at[:B].set(new_B), line),
    token_log=jax.tree.map(lambda new_B: jnp.zeros((lines, B), new_B.dtype), line),
    finished=_Finished(zeros_N, zeros_N, zeros_N, jnp.zeros((N, spec.attempts), jnp.int8)),
    waiting=jnp.int32(B),
  )


def suited(spec: RolloutSpec, config: DecoderConfig, dtype, mesh: Mesh) -> RolloutSpec:
  """Returns the settings with what a model's rollouts on a mesh are decoded by."""
  kernel = decode_attention.best(config, dtype, cache_dtype(spec, dtype), mesh)
  growths = _GROWTHS if mesh.devices.flat[0].platform == 'tpu' and not kernel else 1
  return dataclasses.replace(spec, kernel=kernel, growths=growths)


def cache_dtype(spec: RolloutSpec, dtype) -> jnp.dtype:
  return jnp.dtype(dtype if spec.cache_dtype == 'auto' else spec.cache_dtype)


def _fresh(row_B: jax.Array, first_B: jax.Array, spec: RolloutSpec) -> _DecodeSlots:
  zeros_B = jnp.zeros_like(row_B)
  left_B = jnp.full_like(row_B, spec.budgets[0])
  stop_BA = jnp.zeros((row_B.shape[0], spec.attempts), jnp.int8)
  zeros = dict.fromkeys(('token', 'turn', 'fed', 'end'), zeros_B)
  return _DecodeSlots(row=row_B, first=first_B, left=left_B, stop=stop_BA, **zeros)


def _admit(prefill: Callable, rows: _Rows, spec: RolloutSpec, mesh: Mesh, state: _State, slot_R: jax.Array) -> _State:
  """Gives slots that are done to the next rows."""
  N, P = rows.prompt.shape
  B = state.slots.row.shape[0]
  row_R = state.waiting + jnp.arange(slot_R.shape[0], dtype=jnp.int32)
  admitted_R = (row_R < N) & (slot_R < B)
  slot_R = jnp.where(admitted_R, slot_R, B)
  where_R = jnp.where(admitted_R, row_R, N)
  row_R = jnp.minimum(row_R, N - 1)
  finished = _with_finished(state, slot_R)
  start_R = rows.start[row_R]
  logits_RV, prompts = prefill(rows.prompt[row_R], start_R, P)
  # The prompt lies just behind the clock.
  fresh = _fresh(row_R, state.time - P + start_R, spec)
  slots, line = _advance(fresh, logits_RV, state.time, rows, spec, mesh)
  return state.replace(
    slots=_written(state.slots, slot_R, slots),
    cache=attention.insert(state.cache, slot_R, prompts, state.time),
    first_token=_written(state.first_token, where_R, line),
    finished=finished,
    waiting=state.waiting + jnp.sum(admitted_R.astype(jnp.int32)),
  )


def _with_finished(state: _State, slot_R: jax.Array) -> _Finished:
  """`state.finished` with the rows of some slots; a slot B is none."""
  slots = state.slots
  B, N = slots.row.shape[0], state.finished.slot.shape[0]
  there_R = jnp.minimum(slot_R, B - 1)
  row_R = jnp.where(slot_R < B, slots.row[there_R], N)
  new = _Finished(there_R, slots.first[there_R], slots.end[there_R], slots.stop[there_R])
  return _written(state.finished, row_R, new)


def _written(old: Any, index_R: jax.Array, new: Any) -> Any:
  """A tree with R new entries; those beyond its arrays are dropped."""
  return jax.tree.map(lambda old, new: old.at[index_R].set(new, mode='drop'), old, new)


def _advance(
  slots: _DecodeSlots, logits_BV: jax.Array, time: jax.Array, rows: _Rows, spec: RolloutSpec, mesh: Mesh
) -> tuple[_DecodeSlots, _Tokens]:
  """Chooses every slot's token at `time`."""
  A = spec.attempts
  separator_AF, separator_length_A = _separator_table(spec)
  budget_A = jnp.array(spec.budgets, jnp.int32)
  turn = jnp.minimum(slots.turn, A - 1)

  running = slots.turn < A
  feeding = running & (slots.fed < separator_length_A[turn])
  sampling = running & ~feeding
  with jax.named_scope('choose'):
    uniform_B = uniforms(rows.key[slots.row], time - slots.first)
    drawn = choose.next_token(logits_BV, uniform_B, temperature=spec.temperature, mesh=mesh)
    done_B = jnp.clip(spec.budgets[0] - slots.left, 0, rows.forced.shape[1] - 1)
    forced = rows.forced[slots.row, done_B]
    drawn = jnp.where((slots.turn == 0) & (forced >= 0), forced, drawn)
    logp = choose.log_probability(logits_BV, drawn, mesh=mesh)
  fed_token = separator_AF[turn, jnp.minimum(slots.fed, separator_AF.shape[1] - 1)]
  token = jnp.where(sampling, drawn, jnp.where(feeding, fed_token, spec.pad))

  left = jnp.where(sampling, slots.left - 1, slots.left)
  at_end_of_turn = token == spec.end_of_turn
  at_stop = jnp.any(token[:, None] == jnp.array(spec.stops, jnp.int32)[None], axis=-1)
  ended = sampling & (at_stop | (left == 0))
  stop = jnp.where(at_end_of_turn, Stop.END_OF_TURN, jnp.where(at_stop, Stop.OTHER, Stop.BUDGET)).astype(jnp.int8)
  this_turn_BA = jnp.arange(A, dtype=jnp.int32)[None] == turn[:, None]

  next_turn = jnp.where(ended, slots.turn + 1, slots.turn)
  moved = slots.replace(
    token=token,
    turn=next_turn,
    # The separator begins with end-of-turn, which an attempt may have sampled itself.
    fed=jnp.where(ended, at_end_of_turn.astype(jnp.int32), jnp.where(feeding, slots.fed + 1, slots.fed)),
    left=jnp.where(ended, budget_A[jnp.minimum(next_turn, A - 1)], left),
    stop=jnp.where(ended[:, None] & this_turn_BA, stop[:, None], slots.stop),
    end=jnp.where(running, time + 1, slots.end),
  )
  attempt = jnp.where(sampling, turn + 1, 0).astype(jnp.int8)
  return moved, _Tokens(token, attempt, jnp.where(sampling, logp, 0))


def _cut(state: _State, finished: _Finished, rows: _Rows, spec: RolloutSpec) -> Rollout:
  N, P = rows.prompt.shape
  zero_N = finished.first - rows.start  # time of a row's slot 0
  grown_L = jnp.arange(spec.growth, dtype=jnp.int32)
  inside_NL = grown_L[None] < (finished.end - zero_N - P)[:, None]
  line_NL = jnp.where(inside_NL, zero_N[:, None] + grown_L[None] - 1, 0)

  def row(before_NP: jax.Array, first_N: jax.Array, log_TB: jax.Array, empty: int) -> jax.Array:
    token_NL = jnp.where(inside_NL, log_TB[line_NL, finished.slot[:, None]], jnp.asarray(empty, log_TB.dtype))
    return jnp.concatenate([before_NP.astype(log_TB.dtype), first_N[:, None], token_NL[:, 1:]], axis=1)

  before = _Tokens(rows.prompt, jnp.zeros((N, P)), jnp.zeros((N, P)))
  chosen = jax.tree.map(row, before, state.first_token, state.token_log, _Tokens(spec.pad, 0, 0))
  return Rollout(**vars(chosen), start=rows.start, end=finished.end - zero_N, stop=finished.stop)


def _separator_table(spec: RolloutSpec) -> tuple[jax.Array, jax.Array]:
  """separator_AF (padded) and separator_length_A, before each attempt."""
  separators = ((),) + spec.separators
  longest = max(1, max(map(len, separators)))
  table = [list(ids) + [spec.pad] * (longest - len(ids)) for ids in separators]
  return jnp.array(table, jnp.int32), jnp.array([len(ids) for ids in separators], jnp.int32)


def no_forced(rows: int, spec: RolloutSpec) -> jax.Array:
  """forced_BF that forces nothing."""
  return jnp.full((rows, spec.budgets[0]), -1, jnp.int32)
