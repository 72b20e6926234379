# SPDX-License-Identifier: Apache-2.0
"""Whole self-correction conversations, in one compiled call.

A device has B decode slots ("slots"), each of which moves on alone:

    sampling attempt i --stop or budget--> being fed the turn separator --> sampling attempt i + 1 --> ... done

The next attempt reuses the row's cache. A slot whose row is done takes a waiting one.

A decode step feeds a row its newest token and guesses of those that follow (`sampling/drafts.py`). It chooses a token
after each, and keeps them up to the first that was guessed wrong, with the one chosen in its place: the tokens that
steps of one token would choose, since a row's uniform at a position is fixed by its key. A step computes a fixed number
of tokens, the surest guesses of all rows among them. Once no row waits for a slot, the last one decides when all are
done, and rows in earlier attempts come first.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from score_jax.models import attention, decoder
from score_jax.models.attention import Cache
from score_jax.models.families import DecoderConfig
from score_jax.models.flash import Attention
from score_jax.parallel import compile_options
from score_jax.parallel import mesh as meshes
from score_jax.sampling import choose, drafts, turns
from score_jax.sampling import spec as specs
from score_jax.sampling.spec import RolloutSpec
from score_jax.states import Rollout

_REFILLS = 16  # in a generation: prefills against idle slots


@struct.dataclass
class _Rows:
  prompt: jax.Array  # i32 [N, P]
  start: jax.Array  # i32 [N]
  key: jax.Array  # typed keys [N]
  forced: jax.Array  # i32 [N, F]


@struct.dataclass
class _DecodeSlots:
  """The rows of B decode slots."""

  row: jax.Array  # i32 [B]  of a slot that is done: its last
  start: jax.Array  # i32 [B]  the row's first slot
  progress: turns.Progress
  chosen: turns.Tokens  # [B, L]  the prompt, and what came after it
  steps: jax.Array  # i32 [B, A]  decode steps that chose tokens of an attempt


@struct.dataclass
class _Guesses:
  """Tokens that may follow the newest of each row."""

  tokens: jax.Array  # i32 [B, G]
  fed: jax.Array  # i32 [N]  which of [B, 1 + G] tokens, the newest ones among them, the step computes


@struct.dataclass
class _State:
  time: jax.Array  # i32 []  decode steps since the first tokens, plus P
  slots: _DecodeSlots
  cache: Cache
  finished: Rollout  # of N rows
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
  # Rows that begin and go on together write to one slot of the cache, which is cheaper where no kernel does it.
  together = N == B and not spec.drafts
  cached = dict(dtype=dtype, cache_dtype=specs.cache_dtype(spec, dtype), kernel=spec.kernel)
  cached |= dict(attention=Attention(spec.prefill, mesh))
  prefill = functools.partial(decoder.prefill, params, config, **cached)
  anywhere = functools.partial(meshes.on_any_device, mesh=mesh)

  def prefilled(size: int) -> tuple[jax.Array, Cache]:
    """Returns the last logits and a cache of `size` slots of the first B rows."""
    prompt_BP, start_B = rows.prompt[:B], rows.start[:B]
    if not spec.prompts or spec.prompts >= B:
      return prefill(prompt_BP, start_B, size)
    empty = attention.empty_cache(config, size, cached['cache_dtype'], start_B, spec.kernel)
    return _prefilled_once(prefill, prompt_BP, spec.prompts, empty, anywhere)

  def step(state: _State, *, rows_wait: bool) -> _State:
    slots, progress = state.slots, state.slots.progress
    slot = state.time if together else progress.newest
    # A slot that is done sees nothing but what it is fed.
    cache = state.cache.replace(first=jnp.where(progress.turn < spec.attempts, slots.start, slot))
    guessed = _guesses(slots, rows, spec, rows_wait=rows_wait) if spec.drafts else None
    tokens_BQ, fed_N = progress.token[:, None], None
    if guessed:
      tokens_BQ, fed_N = jnp.concatenate([tokens_BQ, guessed.tokens], axis=1), guessed.fed
    decode = functools.partial(decoder.decode_step, params, config, dtype=dtype, mesh=mesh)
    logits_NV, cache = decode(tokens_BQ, slot, cache, fed_N=fed_N)
    slots = _advance(slots, guessed, logits_NV, rows, spec, mesh)
    return state.replace(time=state.time + 1, slots=slots, cache=cache)

  def done(state: _State) -> jax.Array:
    return state.slots.progress.turn == spec.attempts

  def is_refilled(state: _State) -> jax.Array:
    # Groups of tensor-parallel devices prefill at a time, those without room in vain: half of those that wait have it.
    wanted = jnp.minimum(refill, N - state.waiting)
    has_room = jnp.sum(done(state).astype(jnp.int32)) >= wanted
    return meshes.on_half_of_devices(has_room & (wanted > 0), wanted > 0, mesh)

  def generation(state: _State) -> _State:
    state = jax.lax.while_loop(lambda state: ~is_refilled(state), functools.partial(step, rows_wait=True), state)
    slot_R = jnp.nonzero(done(state), size=refill, fill_value=B)[0].astype(jnp.int32)
    return _admit(prefill, rows, spec, mesh, state, slot_R)

  phases = specs.phases(spec, P, B, together=together)
  last = phases[-1]
  state = _begin(prefilled(phases[0].cache), rows, spec, mesh)
  if N > B:
    state = jax.lax.while_loop(lambda state: anywhere(state.waiting < N), generation, state)
  for phase in phases:
    state = _narrowed(state, phase.slots, spec)
    state = state.replace(cache=attention.grown(state.cache, phase.cache))
    limit = phase.cache if phase.cache < last.cache else None

    def goes_on(state: _State, phase=phase, limit=limit) -> jax.Array:
      runs = anywhere(jnp.sum(~done(state)) > phase.left)
      return runs if limit is None else runs & (state.time < limit)

    state = jax.lax.while_loop(goes_on, functools.partial(step, rows_wait=False), state)
  return _with_finished(state, jnp.arange(last.slots, dtype=jnp.int32))


def _prefilled_once(
  prefill: Callable, prompt_BP: jax.Array, count: int, cache: Cache, anywhere: Callable
) -> tuple[jax.Array, Cache]:
  """Prefills different prompts, `count` at a time; returns all rows' last logits, and their cache."""
  B, P = prompt_BP.shape
  number_B, row_M = different(jnp.concatenate([cache.first[:, None], prompt_BP], axis=1))
  row_M = jnp.pad(row_M, (0, count))

  def more(done: tuple) -> tuple:
    begun, logits_BV, cache = done
    row_C = jax.lax.dynamic_slice_in_dim(row_M, begun, count)
    logits_CV, prompts = prefill(prompt_BP[row_C], cache.first[row_C], P)
    index_B = number_B - begun
    comes_B = (index_B >= 0) & (index_B < count)
    index_B = jnp.where(comes_B, index_B, 0)
    logits_BV = jnp.where(comes_B[:, None], logits_CV[index_B], logits_BV)
    prompts = jax.tree.map(lambda x: x[index_B], prompts)
    row_B = jnp.where(comes_B, jnp.arange(B, dtype=jnp.int32), B)
    return begun + count, logits_BV, attention.insert(cache, row_B, prompts)

  logits = jax.eval_shape(lambda *inputs: prefill(*inputs, P)[0], prompt_BP, cache.first)
  begin = jnp.int32(0), jnp.zeros(logits.shape, logits.dtype), cache
  last = jnp.max(number_B)
  _, logits_BV, cache = jax.lax.while_loop(lambda done: anywhere(done[0] <= last), more, begin)
  return logits_BV, cache


def different(row_BP: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns each row's number among different ones, i32 [B], and the first row of each number, i32 [B], B: none."""
  B = row_BP.shape[0]
  row_B = jnp.arange(B, dtype=jnp.int32)
  first_B = jnp.argmax(jnp.all(row_BP[:, None] == row_BP[None], axis=-1), axis=1).astype(jnp.int32)
  number_B = jnp.cumsum((first_B == row_B).astype(jnp.int32)) - 1
  return number_B[first_B], jnp.nonzero(first_B == row_B, size=B, fill_value=B)[0].astype(jnp.int32)


def _begin(prefilled: tuple[jax.Array, Cache], rows: _Rows, spec: RolloutSpec, mesh: Mesh) -> _State:
  """Puts the first rows into the slots."""
  (logits_BV, cache), (N, P) = prefilled, rows.prompt.shape
  B = logits_BV.shape[0]
  slots = _started(logits_BV, jnp.arange(B, dtype=jnp.int32), rows, spec, mesh)
  empty = jax.tree.map(lambda x: jnp.zeros((N, *x.shape[1:]), x.dtype), _conversations(slots))
  return _State(time=jnp.int32(P), slots=slots, cache=cache, finished=empty, waiting=jnp.int32(B))


def _started(logits_RV: jax.Array, row_R: jax.Array, rows: _Rows, spec: RolloutSpec, mesh: Mesh) -> _DecodeSlots:
  """Returns slots of rows that have their first token, chosen from their prompts' last logits."""
  P, R = rows.prompt.shape[1], row_R.shape[0]
  zeros_R, zeros_RA = jnp.zeros_like(row_R), jnp.zeros((R, spec.attempts), jnp.int8)
  left_R, newest_R = jnp.full_like(row_R, spec.budgets[0]), jnp.full_like(row_R, P - 1)
  progress = turns.Progress(token=zeros_R, newest=newest_R, turn=zeros_R, fed=zeros_R, left=left_R, stop=zeros_RA)
  tokens_RL = jnp.pad(rows.prompt[row_R], ((0, 0), (0, spec.growth)), constant_values=spec.pad)
  chosen = turns.Tokens(tokens_RL, jnp.zeros_like(tokens_RL, jnp.int8), jnp.zeros_like(tokens_RL, jnp.float32))
  slots = _DecodeSlots(row_R, rows.start[row_R], progress, chosen, zeros_RA.astype(jnp.int32))
  return _advance(slots, None, logits_RV, rows, spec, mesh)


def _admit(prefill: Callable, rows: _Rows, spec: RolloutSpec, mesh: Mesh, state: _State, slot_R: jax.Array) -> _State:
  """Gives slots that are done to the next rows."""
  N, P = rows.prompt.shape
  B = state.slots.row.shape[0]
  row_R = state.waiting + jnp.arange(slot_R.shape[0], dtype=jnp.int32)
  admitted_R = (row_R < N) & (slot_R < B)
  slot_R = jnp.where(admitted_R, slot_R, B)
  row_R = jnp.minimum(row_R, N - 1)
  finished = _with_finished(state, slot_R)
  logits_RV, prompts = prefill(rows.prompt[row_R], rows.start[row_R], P)
  return state.replace(
    slots=_written(state.slots, slot_R, _started(logits_RV, row_R, rows, spec, mesh)),
    cache=attention.insert(state.cache, slot_R, prompts),
    finished=finished,
    waiting=state.waiting + jnp.sum(admitted_R.astype(jnp.int32)),
  )


def _narrowed(state: _State, width: int, spec: RolloutSpec) -> _State:
  """Goes on with `width` slots, those among them whose rows are not done; `width` is enough for these."""
  B = state.slots.row.shape[0]
  if width == B:
    return state
  kept_W = jnp.argsort(state.slots.progress.turn == spec.attempts, stable=True)[:width]
  slots, cache = jax.tree.map(lambda x: x[kept_W], (state.slots, state.cache))
  return state.replace(slots=slots, cache=cache, finished=_with_finished(state, jnp.arange(B, dtype=jnp.int32)))


def _conversations(slots: _DecodeSlots) -> Rollout:
  progress = slots.progress
  return Rollout(
    **vars(slots.chosen), start=slots.start, end=progress.newest + 1, stop=progress.stop, steps=slots.steps
  )


def _with_finished(state: _State, slot_R: jax.Array) -> Rollout:
  """`state.finished` with the rows of some slots; a slot B is none."""
  B, N = state.slots.row.shape[0], state.finished.start.shape[0]
  there_R = jnp.minimum(slot_R, B - 1)
  row_R = jnp.where(slot_R < B, state.slots.row[there_R], N)
  return _written(state.finished, row_R, jax.tree.map(lambda x: x[there_R], _conversations(state.slots)))


def _written(old: Any, index_R: jax.Array, new: Any) -> Any:
  """A tree with R new entries; those beyond its arrays are dropped."""
  return jax.tree.map(lambda old, new: old.at[index_R].set(new, mode='drop'), old, new)


def _guesses(slots: _DecodeSlots, rows: _Rows, spec: RolloutSpec, *, rows_wait: bool) -> _Guesses:
  """Guesses what follows each row's newest token: what is given, or else a draft.

  While `rows_wait` for slots, the surest guesses of all rows are computed; then rows in earlier attempts come first.
  """
  progress, next_G = slots.progress, jnp.arange(spec.guesses, dtype=jnp.int32)[None]
  draft_BG, likely_BG = drafts.continued(slots.chosen.tokens, slots.start, progress.newest, spec.guesses)
  separator_AF, separator_length_A = turns.separator_table(spec)
  turn_B = jnp.minimum(progress.turn, spec.attempts - 1)
  turn_B1 = turn_B[:, None]
  fed_BG = progress.fed[:, None] + next_G
  separator_BG = separator_AF[turn_B1, jnp.minimum(fed_BG, separator_AF.shape[1] - 1)]
  separator_BG = jnp.where(fed_BG < separator_length_A[turn_B1], separator_BG, -1)
  given_BG = jnp.where(separator_BG >= 0, separator_BG, _forced(slots, rows, spec, spec.guesses))
  tokens_BG = jnp.where(given_BG >= 0, given_BG, draft_BG)
  worth_BG = drafts.worth(likely_BG, given_BG >= 0, jnp.zeros_like(turn_B) if rows_wait else turn_B)
  going_B = progress.turn < spec.attempts
  return _Guesses(tokens_BG, drafts.surest(worth_BG, going_B, spec.step_tokens(slots.row.shape[0])))


def _forced(slots: _DecodeSlots, rows: _Rows, spec: RolloutSpec, count: int) -> jax.Array:
  """Returns the given ids (i32 [B, count]) that come next in first attempts; -1: none."""
  F, done_B = rows.forced.shape[1], spec.budgets[0] - slots.progress.left
  index_BQ = done_B[:, None] + jnp.arange(count, dtype=jnp.int32)[None]
  given_BQ = (slots.progress.turn[:, None] == 0) & (index_BQ < F)
  return jnp.where(given_BQ, rows.forced[slots.row[:, None], jnp.minimum(index_BQ, F - 1)], -1)


def _advance(
  slots: _DecodeSlots, guessed: _Guesses | None, logits_NV: jax.Array, rows: _Rows, spec: RolloutSpec, mesh: Mesh
) -> _DecodeSlots:
  """Chooses the tokens after each row's newest: one more than were guessed right."""
  B, before = slots.row.shape[0], slots.progress
  row_N, back_N = jnp.arange(B, dtype=jnp.int32), jnp.zeros((B,), jnp.int32)
  if guessed:  # whose logits they are: of which row, and how many tokens after its newest
    row_N, back_N = jnp.divmod(guessed.fed, 1 + spec.guesses)
  with jax.named_scope('choose'):
    uniform_N = uniforms(rows.key[slots.row[row_N]], (before.newest + 1 - slots.start)[row_N] + back_N)
    forced_N = _forced(slots, rows, spec, 1 + spec.guesses)[row_N, back_N]
    settings = dict(temperature=spec.temperature, kernel=spec.kernel, mesh=mesh)
    drawn_N, logp_N = choose.sampled(logits_NV, uniform_N, forced_N, **settings)
  going_B = before.turn < spec.attempts
  if guessed:
    progress, line_BQ = _accepted(before, going_B, guessed, drawn_N, logp_N, spec)
  else:
    progress, line = turns.chosen(before, drawn_N, logp_N, going_B, spec)
    line_BQ = jax.tree.map(lambda x: x[:, None], line)
  gained_BQA = line_BQ.attempt[..., None] == jnp.arange(1, spec.attempts + 1, dtype=jnp.int8)[None, None]
  return slots.replace(
    progress=progress,
    chosen=_appended(slots.chosen, line_BQ, before.newest, progress.newest),
    steps=slots.steps + jnp.any(gained_BQA, axis=1).astype(jnp.int32),
  )


def _accepted(
  progress: turns.Progress,
  going_B: jax.Array,
  guessed: _Guesses,
  drawn_N: jax.Array,
  logp_N: jax.Array,
  spec: RolloutSpec,
) -> tuple[turns.Progress, turns.Tokens]:
  """Appends tokens to each row that is `going_B` as long as they are those that were guessed, and one more."""
  B, G = guessed.tokens.shape
  number_BQ = attention.numbers(guessed.fed, B, 1 + G)
  lines = []
  for q in range(1 + G):
    number_B = jnp.maximum(number_BQ[:, q], 0)
    progress, line = turns.chosen(progress, drawn_N[number_B], logp_N[number_B], going_B, spec)
    lines.append(line)
    if q < G:
      going_B &= (number_BQ[:, q + 1] >= 0) & (progress.token == guessed.tokens[:, q]) & (progress.turn < spec.attempts)
  # Else XLA makes them again for each slot of a row.
  return progress, jax.lax.optimization_barrier(jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *lines))


def _appended(old: turns.Tokens, new: turns.Tokens, before_B: jax.Array, after_B: jax.Array) -> turns.Tokens:
  """Returns rows [B, L] with the first of Q new tokens in the slots after `before_B`, up to `after_B`."""
  Q, L = new.tokens.shape[1], old.tokens.shape[1]
  slot_L = jnp.arange(L, dtype=jnp.int32)[None]
  index_BL = jnp.clip(slot_L - before_B[:, None] - 1, 0, Q - 1)
  comes_BL = (slot_L > before_B[:, None]) & (slot_L <= after_B[:, None])

  def placed(old_BL: jax.Array, new_BQ: jax.Array) -> jax.Array:
    new_BL = new_BQ if Q == 1 else jnp.take_along_axis(new_BQ, index_BL, axis=1)
    return jnp.where(comes_BL, new_BL, old_BL)

  return jax.tree.map(placed, old, new)


def no_forced(rows: int, spec: RolloutSpec) -> jax.Array:
  """forced_BF that forces nothing."""
  return jnp.full((rows, spec.budgets[0]), -1, jnp.int32)
