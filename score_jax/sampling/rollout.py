"""Whole self-correction conversations, in one compiled call.

A device decodes B lanes at a time. All lanes share one clock; each carries its own small state and moves on alone:

    sampling attempt i --stop or budget--> being fed the instruction's ids --> sampling attempt i + 1 --> ... done

A row reuses its cache for the next attempt: nothing is decoded to text, re-encoded, re-rendered or prefilled twice,
and no row waits for another. Where rows outnumber lanes, a lane whose row is done takes a waiting one: its prompt is
prefilled into the cache just behind the clock, so that the lane goes on in step with the others.

The cache is a ring (`models/attention.py`): what belongs to time t lies in slot t mod S. What is sampled is written to
a tape, a line a step, and cut into rows at the end.
"""

from collections.abc import Callable
import dataclasses
import functools

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from score_jax.core_types import Stop
from score_jax.models import attention
from score_jax.models import decode_attention
from score_jax.models import decoder
from score_jax.models.attention import Cache
from score_jax.models.families import DecoderConfig
from score_jax.parallel import mesh as meshes
from score_jax.sampling import choose
from score_jax.states import Rollout

_REFILLS = 16  # lanes are refilled so many times a generation: a prefill wants rows, an idle lane wants none


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
  decode_slots: int = 0  # rows decoded at a time on each device; 0: all
  cache_dtype: str = 'auto'  # of cached keys and values; 'auto': the compute dtype
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
  """What is given of N rows."""

  prompt: jax.Array  # i32 [N, P]
  start: jax.Array  # i32 [N]
  key: jax.Array  # typed keys [N]
  forced: jax.Array  # i32 [N, F]


@struct.dataclass
class _Lanes:
  """The state machines of B lanes."""

  row: jax.Array  # i32 [B]  the row of each; of a lane that is done, its last
  first: jax.Array  # i32 [B]  time of the row's first token
  token: jax.Array  # i32 [B]  chosen last, not yet in the cache
  turn: jax.Array  # i32 [B]  attempt under way, 0-based; A when the row is done
  fed: jax.Array  # i32 [B]  ids of the feed before this turn already given; at its length the row samples
  left: jax.Array  # i32 [B]  tokens left in the attempt's budget
  stop: jax.Array  # i8 [B, A]
  end: jax.Array  # i32 [B]  one past the time of the row's last token


@struct.dataclass
class _Chosen:
  """Tokens as a rollout returns them, of any shape."""

  tokens: jax.Array  # i32
  attempt: jax.Array  # i8
  logp: jax.Array  # f32


@struct.dataclass
class _Taken:
  """Where each of N rows went; filled in when its lane is done."""

  lane: jax.Array  # i32 [N]
  first: jax.Array  # i32 [N]
  end: jax.Array  # i32 [N]
  stop: jax.Array  # i8 [N, A]


@struct.dataclass
class _State:
  """What a step carries."""

  time: jax.Array  # i32 []  of the newest token chosen
  lanes: _Lanes
  cache: Cache
  opening: _Chosen  # [N] each row's first token; its lane's old row may have ended at the same time
  tape: _Chosen  # [T, B] what all lanes chose, a line for each time from P + 1 on
  taken: _Taken
  waiting: jax.Array  # i32 []  the first row that no lane has taken


def row_keys(key: jax.Array, row_B: jax.Array) -> jax.Array:
  """One key per row from its global row number, so a row's randomness does not depend on the rows beside it."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row_B)


def uniforms(keys_B: jax.Array, position_B: jax.Array) -> jax.Array:
  """One f32 uniform per row, from the position counted from the row's own start: padding does not change it."""
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
  """Samples A attempts for every row, each device its own rows at its own pace; compiled once for each `spec`.

  Args:
    params: the sampling layout of the policy, from `decoder.for_decoding`.
    prompt_BP: i32 left-padded prompts, each ending where the first attempt begins.
    start_B: i32 first slot of each prompt.
    row_B: i32 global row numbers; with `key` they decide all randomness.
    key: typed key of this step.
    forced_BF: i32 first attempts given from outside, F = budgets[0]; -1 where the token is to be sampled.
    config: of the decoder.
    spec: what is compiled in.
    dtype: compute dtype.
    mesh: rows lie over data and fsdp.

  Returns:
    Rollout with L = P + spec.growth.
  """
  with meshes.by_rows_compiles(mesh):
    return compiled(params, prompt_BP, start_B, row_B, key, forced_BF, config=config, spec=spec, dtype=dtype, mesh=mesh)


@functools.partial(jax.jit, static_argnames=('config', 'spec', 'dtype', 'mesh'))
def compiled(params, prompt, start, row, key, forced, *, config, spec, dtype, mesh) -> Rollout:
  """`rollout` itself."""

  def local(params, prompt, start, row, key, forced):
    rows = _Rows(prompt=prompt, start=start, key=row_keys(key, row), forced=forced)
    return _rollout(params, rows, config, spec, dtype, functools.partial(meshes.on_any_device, mesh=mesh))

  return meshes.by_rows(local, mesh, (False, True, True, True, False, True))(params, prompt, start, row, key, forced)


def _rollout(
  params: decoder.Params, rows: _Rows, config: DecoderConfig, spec: RolloutSpec, dtype, anywhere: Callable
) -> Rollout:
  """`anywhere(flag)`: what the devices go by that have to take their steps together."""
  N, P = rows.prompt.shape
  B = min(spec.decode_slots or N, N)
  refill = -(-B // _REFILLS)
  admit = functools.partial(_admit, params, rows, config, spec, dtype)

  def step(state: _State) -> _State:
    # A lane that is done sees nothing but the token that it is fed for form's sake.
    first_B = jnp.where(state.lanes.turn < spec.attempts, state.lanes.first, state.time)
    logits_BV, cache = decoder.decode_step(
      params, config, state.lanes.token, state.time, state.cache.replace(first=first_B), dtype=dtype
    )
    time = state.time + 1
    lanes, line = _advance(state.lanes, logits_BV, time, rows, spec)
    tape = jax.tree.map(lambda old_TB, new_B: old_TB.at[time - P - 1].set(new_B), state.tape, line)
    return state.replace(time=time, lanes=lanes, cache=cache, tape=tape)

  def done(state: _State) -> jax.Array:
    return state.lanes.turn == spec.attempts

  def has_room(state: _State) -> jax.Array:
    wanted = jnp.minimum(refill, N - state.waiting)
    return (wanted > 0) & (jnp.sum(done(state).astype(jnp.int32)) >= wanted)

  def generation(state: _State) -> _State:
    state = jax.lax.while_loop(lambda state: ~anywhere(has_room(state)), step, state)
    return admit(state, jnp.nonzero(done(state), size=refill, fill_value=B)[0].astype(jnp.int32))

  state = _begin(params, rows, config, spec, dtype, B, refill)
  if N > B:
    state = jax.lax.while_loop(lambda state: anywhere(state.waiting < N), generation, state)
  state = jax.lax.while_loop(lambda state: anywhere(~jnp.all(done(state))), step, state)
  return _cut(state, _noted(state, jnp.arange(B, dtype=jnp.int32)), rows, spec)


def _begin(params, rows: _Rows, config, spec: RolloutSpec, dtype, B: int, refill: int) -> _State:
  """The first B rows in the lanes, their prompts at times 0..P and their first tokens at P."""
  N, P = rows.prompt.shape
  A, L = spec.attempts, P + spec.growth
  # While rows wait, at most refill - 1 lanes are idle; after that the longest conversation decides.
  lines = max(1, spec.growth - 1) if N == B else -(-N * spec.growth // (B - refill + 1)) + spec.growth
  cached = dict(dtype=dtype, cache_dtype=cache_dtype(spec, dtype), kernel=spec.kernel)
  logits_BV, cache = decoder.prefill(params, config, rows.prompt[:B], rows.start[:B], _ring(L, spec), **cached)
  fresh = _fresh(jnp.arange(B, dtype=jnp.int32), rows.start[:B], spec)
  lanes, line = _advance(fresh, logits_BV, jnp.int32(P), rows, spec)
  zeros_N = jnp.zeros((N,), jnp.int32)
  return _State(
    time=jnp.int32(P),
    lanes=lanes,
    cache=cache,
    opening=jax.tree.map(lambda new_B: jnp.zeros((N,), new_B.dtype).at[:B].set(new_B), line),
    tape=jax.tree.map(lambda new_B: jnp.zeros((lines, B), new_B.dtype), line),
    taken=_Taken(lane=zeros_N, first=zeros_N, end=zeros_N, stop=jnp.zeros((N, A), jnp.int8)),
    waiting=jnp.int32(B),
  )


def cache_dtype(spec: RolloutSpec, dtype) -> jnp.dtype:
  return jnp.dtype(dtype if spec.cache_dtype == 'auto' else spec.cache_dtype)


def _ring(longest: int, spec: RolloutSpec) -> int:
  """Slots of the cache: a whole conversation, in whole blocks of the kernel."""
  block = decode_attention.BLOCK if spec.kernel else 1
  return -(-longest // block) * block


def _fresh(row_B: jax.Array, first_B: jax.Array, spec: RolloutSpec) -> _Lanes:
  """Lanes about to choose the first token of their rows."""
  zeros_B = jnp.zeros_like(row_B)
  return _Lanes(
    row=row_B,
    first=first_B,
    token=zeros_B,
    turn=zeros_B,
    fed=zeros_B,
    left=jnp.full_like(row_B, spec.budgets[0]),
    stop=jnp.zeros((row_B.shape[0], spec.attempts), jnp.int8),
    end=zeros_B,
  )


def _admit(
  params: decoder.Params, rows: _Rows, config: DecoderConfig, spec: RolloutSpec, dtype, state: _State, lane_R: jax.Array
) -> _State:
  """Gives R lanes that are done to the next rows, as far as there are any."""
  N, P = rows.prompt.shape
  B = state.lanes.row.shape[0]
  row_R = state.waiting + jnp.arange(lane_R.shape[0], dtype=jnp.int32)
  admitted_R = (row_R < N) & (lane_R < B)
  lane_R, where_R = jnp.where(admitted_R, lane_R, B), jnp.where(admitted_R, row_R, N)  # B, N: written nowhere
  row_R = jnp.minimum(row_R, N - 1)
  taken = _noted(state, lane_R)
  start_R = rows.start[row_R]
  cached = dict(dtype=dtype, cache_dtype=cache_dtype(spec, dtype), kernel=spec.kernel)
  logits_RV, prompts = decoder.prefill(params, config, rows.prompt[row_R], start_R, P, **cached)
  # The prompt lies just behind the clock, so that the first token stands at the time of the other lanes' newest.
  fresh = _fresh(row_R, state.time - P + start_R, spec)
  lanes, line = _advance(fresh, logits_RV, state.time, rows, spec)
  return state.replace(
    lanes=jax.tree.map(lambda old, new: old.at[lane_R].set(new, mode='drop'), state.lanes, lanes),
    cache=attention.insert(state.cache, lane_R, prompts, state.time),
    opening=jax.tree.map(lambda old, new: old.at[where_R].set(new, mode='drop'), state.opening, line),
    taken=taken,
    waiting=state.waiting + jnp.sum(admitted_R.astype(jnp.int32)),
  )


def _noted(state: _State, lane_R: jax.Array) -> _Taken:
  """Where the rows of some lanes went; a lane B is none."""
  lanes = state.lanes
  B, N = lanes.row.shape[0], state.taken.lane.shape[0]
  there_R = jnp.minimum(lane_R, B - 1)
  row_R = jnp.where(lane_R < B, lanes.row[there_R], N)
  new = _Taken(lane=there_R, first=lanes.first[there_R], end=lanes.end[there_R], stop=lanes.stop[there_R])
  return jax.tree.map(lambda old, new: old.at[row_R].set(new, mode='drop'), state.taken, new)


def _advance(
  lanes: _Lanes, logits_BV: jax.Array, time: jax.Array, rows: _Rows, spec: RolloutSpec
) -> tuple[_Lanes, _Chosen]:
  """Chooses every lane's token at `time` and moves its state on; the lanes, and what they chose."""
  A = spec.attempts
  feed_AF, feed_length_A = _feed_table(spec)
  budget_A = jnp.array(spec.budgets, jnp.int32)
  turn = jnp.minimum(lanes.turn, A - 1)

  running = lanes.turn < A
  feeding = running & (lanes.fed < feed_length_A[turn])
  sampling = running & ~feeding
  with jax.named_scope('choose'):
    drawn, logp = _draw(logits_BV, lanes, time, rows, spec)
  fed_token = feed_AF[turn, jnp.minimum(lanes.fed, feed_AF.shape[1] - 1)]
  token = jnp.where(sampling, drawn, jnp.where(feeding, fed_token, spec.pad))

  left = jnp.where(sampling, lanes.left - 1, lanes.left)
  at_end_of_turn = token == spec.end_of_turn
  at_stop = jnp.any(token[:, None] == jnp.array(spec.stops, jnp.int32)[None], axis=-1)
  ended = sampling & (at_stop | (left == 0))
  how = jnp.where(at_end_of_turn, Stop.END_OF_TURN, jnp.where(at_stop, Stop.OTHER, Stop.BUDGET)).astype(jnp.int8)
  this_turn_BA = jnp.arange(A, dtype=jnp.int32)[None] == turn[:, None]

  next_turn = jnp.where(ended, lanes.turn + 1, lanes.turn)
  moved = lanes.replace(
    token=token,
    turn=next_turn,
    # The feed begins with end-of-turn; an attempt that sampled it itself is not given a second one.
    fed=jnp.where(ended, at_end_of_turn.astype(jnp.int32), jnp.where(feeding, lanes.fed + 1, lanes.fed)),
    left=jnp.where(ended, budget_A[jnp.minimum(next_turn, A - 1)], left),
    stop=jnp.where(ended[:, None] & this_turn_BA, how[:, None], lanes.stop),
    end=jnp.where(running, time + 1, lanes.end),
  )
  attempt = jnp.where(sampling, turn + 1, 0).astype(jnp.int8)
  return moved, _Chosen(tokens=token, attempt=attempt, logp=jnp.where(sampling, logp, 0))


def _draw(
  logits_BV: jax.Array, lanes: _Lanes, time: jax.Array, rows: _Rows, spec: RolloutSpec
) -> tuple[jax.Array, jax.Array]:
  """Token and T=1 log-probability for every lane: the forced token of a given first attempt, else a drawn one."""
  uniform_B = uniforms(rows.key[lanes.row], time - lanes.first)
  drawn = choose.next_token(logits_BV, uniform_B, temperature=spec.temperature, top_k=spec.top_k, top_p=spec.top_p)
  done_B = jnp.clip(spec.budgets[0] - lanes.left, 0, rows.forced.shape[1] - 1)
  forced = rows.forced[lanes.row, done_B]
  token = jnp.where((lanes.turn == 0) & (forced >= 0), forced, drawn)
  return token, choose.log_probability(logits_BV, token)


def _cut(state: _State, taken: _Taken, rows: _Rows, spec: RolloutSpec) -> Rollout:
  """The tape, cut into rows."""
  N, P = rows.prompt.shape
  zero_N = taken.first - rows.start  # time of a row's slot 0
  grown_L = jnp.arange(spec.growth, dtype=jnp.int32)
  inside_NL = grown_L[None] < (taken.end - zero_N - P)[:, None]
  line_NL = jnp.where(inside_NL, zero_N[:, None] + grown_L[None] - 1, 0)

  def row(before_NP: jax.Array, first_N: jax.Array, tape_TB: jax.Array, empty: int) -> jax.Array:
    found_NL = jnp.where(inside_NL, tape_TB[line_NL, taken.lane[:, None]], jnp.asarray(empty, tape_TB.dtype))
    return jnp.concatenate([before_NP.astype(tape_TB.dtype), first_N[:, None], found_NL[:, 1:]], axis=1)

  before = _Chosen(tokens=rows.prompt, attempt=jnp.zeros((N, P)), logp=jnp.zeros((N, P)))
  chosen = jax.tree.map(row, before, state.opening, state.tape, _Chosen(tokens=spec.pad, attempt=0, logp=0))
  return Rollout(
    tokens=chosen.tokens,
    attempt=chosen.attempt,
    logp=chosen.logp,
    start=rows.start,
    end=taken.end - zero_N,
    stop=taken.stop,
  )


def _feed_table(spec: RolloutSpec) -> tuple[jax.Array, jax.Array]:
  """feed_AF (padded) and feed_length_A: what is fed before each attempt; nothing before the first."""
  feeds = ((),) + spec.feeds
  longest = max(1, max(len(feed) for feed in feeds))
  table = [list(feed) + [spec.pad] * (longest - len(feed)) for feed in feeds]
  return jnp.array(table, jnp.int32), jnp.array([len(feed) for feed in feeds], jnp.int32)


def no_forced(rows: int, spec: RolloutSpec) -> jax.Array:
  """forced_BF that forces nothing."""
  return jnp.full((rows, spec.budgets[0]), -1, jnp.int32)
