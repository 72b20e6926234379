"""The compiled rollout against a plain Python sampler, and its randomness, stops, budgets and forced attempts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import refills
import tiny

from score_jax.core_types import Stop
from score_jax.models import decoder, scoring
from score_jax.models import weights as weight_tables
from score_jax.models.packing import left_padded
from score_jax.parallel import mesh as meshes
from score_jax.sampling import rollout as rollouts
from score_jax.sampling import spec as specs
from score_jax.sampling import turns
from score_jax.sampling.sampler import Stream, stream_key
from score_jax.sampling.spec import RolloutSpec

# Twelve ids, so that a random model often ends an attempt by itself and often runs out of budget.
V, PAD, END, OTHER = 12, 0, 1, 2
FEED = (END, 3, 4, 3)
SPEC = RolloutSpec(budgets=(6, 5), separators=(FEED,), end_of_turn=END, stops=(END, OTHER), pad=PAD)
ONE = RolloutSpec(budgets=(4,), separators=(), end_of_turn=END, stops=(END, OTHER), pad=PAD)
THREE = RolloutSpec(
  budgets=(2, 5, 3), separators=((END, 3), (END, 4, 4, 3, 3)), end_of_turn=END, stops=(END, OTHER), pad=PAD
)
GREEDY = RolloutSpec(**vars(SPEC) | dict(temperature=0.0))
ROWS, SLOTS, KEY = 16, 9, 11
LONGEST = SLOTS + max(spec.growth for spec in (SPEC, ONE, THREE))


def slow(*values):
  """Returns a case that only `launch/test.sh --all` runs."""
  return pytest.param(*values, marks=pytest.mark.slow)


@functools.cache
def config():
  return tiny.decoder_config('llama', vocab=V)


@functools.cache
def params():
  return jax.jit(lambda: tiny.random_params(config(), scale=0.4))()


def prompts():
  return tiny.prompts(ROWS, SLOTS, V)


def roll(spec=SPEC, prompt=None, start=None, row=None, key=KEY, forced=None, mesh=None):
  """A rollout of the shared prompts, on the host; each argument replaces one thing."""
  prompt = prompts()[0] if prompt is None else prompt
  start = prompts()[1] if start is None else start
  row = np.arange(len(prompt)) if row is None else row
  forced = rollouts.no_forced(len(prompt), spec) if forced is None else forced
  inputs, weights = (prompt, start, row.astype(np.int32), forced), params()
  if mesh:
    inputs = meshes.put_rows(mesh, inputs)
    weights = jax.device_put(weights, meshes.params(mesh, weight_tables.weight_table(config()), meshes.SAMPLING_RULES))
  weights = decoder.for_decoding(weights, config(), together=not mesh)
  prompt, start, row, forced = inputs
  out = rollouts.rollout(
    weights,
    prompt,
    start,
    row,
    jax.random.key(key),
    forced,
    config=config(),
    spec=spec,
    dtype=np.dtype('float32'),
    mesh=mesh or tiny.one_device_mesh(),
  )
  return jax.device_get(out)


@functools.cache
def base():
  """The rollout that most tests look at."""
  return roll()


def slots_of(out, row, attempt):
  """Slots of a row's attempt (1-based)."""
  return np.flatnonzero(out.attempt[row] == attempt)


def row_ids(out, row):
  """A row without its padding: ids, labels, log-probabilities."""
  own = slice(out.start[row], out.end[row])
  return out.tokens[row, own].tolist(), out.attempt[row, own].tolist(), out.logp[row, own]


def rows_ending(out, attempt, stop):
  """Rows whose attempt (1-based) ended so; never none, or the test would show nothing."""
  rows = np.flatnonzero(out.stop[:, attempt - 1] == stop)
  assert len(rows)
  return rows


def assert_same_rows(out, rows, expected, expected_rows):
  for row, other in zip(rows, expected_rows, strict=True):
    actual, wanted = row_ids(out, row), row_ids(expected, other)
    assert actual[:2] == wanted[:2]
    np.testing.assert_allclose(actual[2], wanted[2], atol=1e-5)
    assert out.stop[row].tolist() == expected.stop[other].tolist()


# A plain sampler: one generator a row, which asks for a distribution whenever it has to draw.


def converse(ids, spec, uniform_L, given=()):
  """Plays one conversation from a prompt's ids; yields its ids so far, is sent log-probabilities, returns the rest.

  The first attempt begins with the ids that are given.
  """
  ids, labels, logps, stops = list(ids), [0] * len(ids), [0.0] * len(ids), []
  for number, budget in enumerate(spec.budgets):
    if number:
      between = list(spec.separators[number - 1])
      if stops[-1] == Stop.END_OF_TURN:
        between.pop(0)
      ids, labels, logps = ids + between, labels + [0] * len(between), logps + [0.0] * len(between)
    stop = Stop.BUDGET
    for step in range(budget):
      logp_V = yield ids
      if number == 0 and step < len(given):
        token = given[step]
      elif spec.temperature:
        boundaries = np.cumsum(np.exp(logp_V))
        uniform = uniform_L[len(ids)]
        assert np.min(np.abs(boundaries - uniform)) > 1e-5, 'f32 could go either way: choose another KEY'
        token = int(np.searchsorted(boundaries, uniform, side='right'))
      else:
        token = int(np.argmax(logp_V))
      ids, labels, logps = ids + [token], labels + [number + 1], logps + [logp_V[token]]
      if token in (END, OTHER):
        stop = Stop.END_OF_TURN if token == END else Stop.OTHER
        break
    stops.append(stop)
  return ids, labels, logps, stops


@functools.cache
def _hidden():
  return jax.jit(
    functools.partial(decoder.hidden_states, config=config(), dtype=np.dtype('float32')),
  )


def log_probabilities(rows_ids):
  """f64 log-probabilities after each list of ids, all recomputed from their first token, right-padded."""
  tokens = np.zeros((ROWS, LONGEST), np.int32)
  for row, ids in rows_ids.items():
    tokens[row, : len(ids)] = ids
  hidden = np.asarray(
    _hidden()(params(), tokens_XT=tokens, rows=left_padded(np.zeros(ROWS, np.int32), LONGEST)), np.float64
  )
  out = {}
  for row, ids in rows_ids.items():
    logits = hidden[row, len(ids) - 1] @ np.asarray(params()['head'], np.float64).T
    out[row] = logits - np.log(np.sum(np.exp(logits)))
  return out


def reference(spec, given):
  """What each row's conversation should be: ids, labels, log-probabilities, stops."""
  prompt, start = prompts()
  draw = jax.jit(jax.vmap(lambda key, at: jax.random.uniform(jax.random.fold_in(key, at)), in_axes=(None, 0)))
  uniform = [
    np.asarray(draw(jax.random.fold_in(jax.random.key(KEY), row), np.arange(LONGEST)), np.float64)
    for row in range(ROWS)
  ]
  games = {
    row: converse(prompt[row, start[row] :].tolist(), spec, uniform[row], given.get(row, ())) for row in range(ROWS)
  }
  asked, results = {row: next(game) for row, game in games.items()}, {}
  while asked:
    answers, asked = log_probabilities(asked), {}
    for row, answer in answers.items():
      try:
        asked[row] = games[row].send(answer)
      except StopIteration as done:
        results[row] = done.value
  return results


def assert_plays_as_the_reference(out, spec, given):
  expected = reference(spec, given)
  for row in range(ROWS):
    ids, labels, logps, stops = expected[row]
    actual_ids, actual_labels, actual_logps = row_ids(out, row)
    assert actual_ids == ids
    assert actual_labels == labels
    assert out.stop[row].tolist() == stops
    np.testing.assert_allclose(actual_logps, logps, atol=1e-4)


@pytest.mark.parametrize('spec', [slow(ONE), SPEC, THREE, GREEDY], ids=['A=1', 'A=2', 'A=3', 'greedy'])
def test_rows_equal_a_plain_python_sampler(spec):
  assert_plays_as_the_reference(roll(spec), spec, {})


def test_sampled_logp_is_the_teacher_forced_one_and_zero_elsewhere():
  out = base()
  scores = jax.jit(functools.partial(scoring.token_logps, config=config(), dtype=np.dtype('float32')))(
    params(), tokens_XT=out.tokens, rows=left_padded(out.start, out.tokens.shape[1])
  )
  np.testing.assert_allclose(out.logp, np.where(out.attempt > 0, scores, 0), atol=1e-4)
  assert np.all(out.logp[out.attempt > 0] < 0)


def test_labels_start_end_and_padding_are_consistent():
  out, (prompt, start) = base(), prompts()
  slot = np.arange(out.tokens.shape[1])
  assert out.tokens.shape == out.attempt.shape == out.logp.shape == (ROWS, SLOTS + SPEC.growth)
  np.testing.assert_array_equal(out.start, start)
  np.testing.assert_array_equal(out.tokens[:, :SLOTS], prompt)
  for row in range(ROWS):
    labels, end = out.attempt[row], out.end[row]
    sampled = labels[labels > 0].tolist()
    assert sampled == sorted(sampled)
    assert not labels[:SLOTS].any()
    assert labels[end - 1] == 2
    assert not labels[end:].any()
    assert np.all(out.tokens[row][slot >= end] == PAD)
    for attempt, budget in enumerate(SPEC.budgets, 1):
      slots = slots_of(out, row, attempt)
      assert 1 <= len(slots) <= budget
      assert np.all(np.diff(slots) == 1)
      assert out.stop[row, attempt - 1] != Stop.NONE


def test_an_attempt_cut_by_its_budget_is_closed_for_it_unpaid():
  out = base()
  for row in rows_ending(out, 1, Stop.BUDGET):
    slots = slots_of(out, row, 1)
    after = slice(slots[-1] + 1, slots[-1] + 1 + len(FEED))
    assert len(slots) == SPEC.budgets[0]
    assert not set(out.tokens[row, slots]) & {END, OTHER}
    assert tuple(out.tokens[row, after]) == FEED
    assert not out.attempt[row, after].any()
    assert slots_of(out, row, 2)[0] == after.stop


def test_an_attempt_that_ended_itself_is_not_closed_again():
  out = base()
  for row in rows_ending(out, 1, Stop.END_OF_TURN):
    last = slots_of(out, row, 1)[-1]
    assert out.tokens[row, last] == END
    assert tuple(out.tokens[row, last + 1 : last + len(FEED)]) == FEED[1:]
    assert slots_of(out, row, 2)[0] == last + len(FEED)


def test_an_attempt_ended_by_another_stop_is_closed_for_it():
  out = base()
  for row in rows_ending(out, 1, Stop.OTHER):
    last = slots_of(out, row, 1)[-1]
    assert out.tokens[row, last] == OTHER
    assert tuple(out.tokens[row, last + 1 : last + 1 + len(FEED)]) == FEED
    assert slots_of(out, row, 2)[0] == last + 1 + len(FEED)


def test_nothing_follows_the_last_attempt_even_when_its_budget_cut_it():
  out = base()
  for row in rows_ending(out, 2, Stop.BUDGET):
    slots = slots_of(out, row, 2)
    assert len(slots) == SPEC.budgets[1]
    assert out.end[row] == slots[-1] + 1
    assert np.all(out.tokens[row, out.end[row] :] == PAD)


def test_keys_and_uniforms_do_not_depend_on_the_rows_beside_or_the_devices():
  row, position = np.arange(8, dtype=np.int32), np.array([0, 1, 2, 3, 500, 7, 7, 9], np.int32)

  def draw(row, position):
    keys = rollouts.row_keys(jax.random.key(KEY), row)
    return jax.random.key_data(keys), rollouts.uniforms(keys, position)

  keys, uniform = jax.jit(draw)(row, position)
  some = np.array([6, 2, 5])
  for actual in (jax.jit(draw)(row[some], position[some]), draw(row[some], position[some])):
    np.testing.assert_array_equal(actual[0], keys[some])
    np.testing.assert_array_equal(actual[1], uniform[some])
  spread = jax.jit(draw)(*meshes.put_rows(meshes.make_mesh(8, 1, 1), (row, position)))
  assert len(spread[1].sharding.device_set) == 8
  np.testing.assert_array_equal(spread[0], keys)
  np.testing.assert_array_equal(spread[1], uniform)
  assert len(set(uniform.tolist())) == 8
  assert len(set(jax.jit(draw)(0 * row, row)[1].tolist())) == 8
  assert uniform.dtype == np.float32


def test_a_row_does_not_depend_on_the_rows_beside_it():
  (prompt, start), order = prompts(), np.random.default_rng(0).permutation(ROWS)
  assert_same_rows(roll(prompt=prompt[order], start=start[order], row=order), range(ROWS), base(), order)


def test_a_row_does_not_depend_on_batch_size_or_left_padding():
  (prompt, start), some = prompts(), np.array([3, 9])
  wider = np.pad(prompt[some], ((0, 0), (3, 0)))
  assert_same_rows(roll(prompt=wider, start=start[some] + 3, row=some), range(2), base(), some)


def test_eight_devices_give_the_rows_of_one():
  assert_same_rows(roll(mesh=meshes.make_mesh(2, 2, 2)), range(ROWS), base(), range(ROWS))


@pytest.mark.parametrize('decode_slots', [slow(1), 3, slow(15)])
def test_rows_that_wait_for_a_slot_are_the_same_rows(decode_slots):
  out = roll(RolloutSpec(**vars(SPEC) | dict(decode_slots=decode_slots)))
  assert_same_rows(out, range(ROWS), base(), range(ROWS))
  np.testing.assert_array_equal(out.tokens, base().tokens)
  np.testing.assert_array_equal(out.attempt, base().attempt)


@pytest.mark.slow
def test_slots_refilled_in_twos_on_four_devices_give_the_same_rows(monkeypatch):
  monkeypatch.setattr(rollouts, '_REFILLS', 1)
  out = roll(RolloutSpec(**vars(SPEC) | dict(decode_slots=2)), mesh=meshes.make_mesh(2, 2, 2))
  assert_same_rows(out, range(ROWS), base(), range(ROWS))


def counted_refills(monkeypatch, mesh, spec):
  """A rollout, how many prefills of waiting rows each group made, and how many rows all of them admitted."""
  admit, noted = rollouts._admit, []

  def counting(prefill, rows, spec, mesh, state, slot_R):
    new = admit(prefill, rows, spec, mesh, state, slot_R)
    jax.debug.callback(lambda count: noted.append(int(count)), new.waiting - state.waiting)
    return new

  monkeypatch.setattr(rollouts, '_admit', counting)
  rollouts.program(mesh).clear_cache()
  out = roll(spec, mesh=mesh)
  jax.effects_barrier()
  rollouts.program(mesh).clear_cache()  # its programs count
  monkeypatch.setattr(rollouts, '_admit', admit)
  return out, len(noted) // meshes.row_shards(mesh), sum(noted)


def test_groups_prefill_where_half_of_them_have_room(monkeypatch):
  mesh, spec = meshes.make_mesh(4, 1, 2), RolloutSpec(**vars(SPEC) | dict(decode_slots=1))
  out, refills, admitted = counted_refills(monkeypatch, mesh, spec)
  assert_same_rows(out, range(ROWS), base(), range(ROWS))
  assert admitted == ROWS - 4
  monkeypatch.setattr(meshes, 'on_half_of_devices', lambda flag, among, mesh: meshes.on_any_device(flag, mesh))
  out, of_any, admitted = counted_refills(monkeypatch, mesh, spec)
  assert_same_rows(out, range(ROWS), base(), range(ROWS))
  assert admitted == ROWS - 4
  # 3 are needed, where each group admits a row at a time; as many as 12 may be.
  assert 3 <= refills <= 6 < of_any, (refills, of_any)


def test_refills_where_half_have_room_cost_little_more_than_those_of_groups_apart():
  schedule = refills.Schedule(groups=8, slots=8, rows=32, mean=100.0, longest=300)
  lengths = schedule.lengths(seed=0)
  (any_time, of_any), (half_time, of_half) = (refills.together(lengths, schedule, share) for share in (0.0, 0.5))
  own_time, of_own = refills.apart(lengths, schedule)
  assert of_own == 1 and of_half < 2.5 < 5 < of_any
  assert own_time <= half_time < 1.1 * own_time and half_time < 0.95 * any_time


@pytest.mark.parametrize(('cache_dtype', 'error'), [('bfloat16', 2e-2), slow('float8_e4m3fn', 0.3)])
def test_a_narrower_cache_costs_what_rounding_keys_and_values_costs(cache_dtype, error):
  out = roll(RolloutSpec(**vars(SPEC) | dict(cache_dtype=cache_dtype, decode_slots=5)))
  scores = jax.jit(functools.partial(scoring.token_logps, config=config(), dtype=np.dtype('float32')))(
    params(), tokens_XT=out.tokens, rows=left_padded(out.start, out.tokens.shape[1])
  )
  sampled = out.attempt > 0
  actual = np.abs(out.logp - np.asarray(scores))[sampled]
  assert error / 100 < actual.mean() < error


def test_equal_rows_with_different_numbers_get_different_samples():
  prompt, start = (np.repeat(array[:1], ROWS, axis=0) for array in prompts())
  out = roll(prompt=prompt, start=start)
  assert len({tuple(row_ids(out, row)[0]) for row in range(ROWS)}) > ROWS - 3
  out = roll(prompt=prompt, start=start, row=np.full(ROWS, 5))
  assert len({tuple(row_ids(out, row)[0]) for row in range(ROWS)}) == 1


def test_keys_of_seeds_streams_and_steps_all_differ():
  keys = {
    tuple(np.asarray(jax.random.key_data(stream_key(seed, stream, step))).tolist())
    for seed in range(3)
    for stream in Stream
    for step in range(4)
  }
  assert len(keys) == 3 * len(Stream) * 4


def test_another_key_gives_other_samples_and_the_same_key_the_same():
  again, other = roll(), roll(key=KEY + 1)
  np.testing.assert_array_equal(again.tokens, base().tokens)
  np.testing.assert_array_equal(again.logp, base().logp)
  assert sum(row_ids(other, row)[0] != row_ids(again, row)[0] for row in range(ROWS)) > ROWS - 3


def test_greedy_is_repeatable_and_blind_to_the_key():
  out, other = roll(GREEDY), roll(GREEDY, key=KEY + 1)
  np.testing.assert_array_equal(out.tokens, other.tokens)
  np.testing.assert_array_equal(out.logp, other.logp)


def test_forced_first_attempts_are_taken_verbatim_with_the_policys_own_logp():
  given = {0: [5, 6, 7, 8, 9, 10], 1: [5, 6, END], 2: [7, OTHER], 3: [END], 4: [8, 8]}
  given |= {5: [5, 6, 7, 8, 9, END], 6: [5, 6, 7, 8, 9, OTHER]}  # a stop as the budget's last token
  stops = {0: Stop.BUDGET, 1: Stop.END_OF_TURN, 2: Stop.OTHER, 3: Stop.END_OF_TURN, 5: Stop.END_OF_TURN, 6: Stop.OTHER}
  forced = np.full((ROWS, SPEC.budgets[0]), -1, np.int32)
  for row, ids in given.items():
    forced[row, : len(ids)] = ids
  out = roll(forced=forced)
  for row, ids in given.items():
    first = out.tokens[row, slots_of(out, row, 1)].tolist()
    assert first[: len(ids)] == ids
    if row in stops:
      assert first == ids
      assert out.stop[row, 0] == stops[row]
  assert_plays_as_the_reference(out, SPEC, given)


@pytest.mark.parametrize(
  'changes',
  [
    slow(dict(drafts=0.5, longest_draft=4)),
    slow(dict(drafts=1, longest_draft=1, decode_slots=3)),
    slow(dict(drafts=20, longest_draft=20)),
    dict(drafts=1.5, longest_draft=5, decode_slots=5),
  ],
)
def test_guessed_tokens_change_no_conversation(changes):
  """They are a plain sampler's; also where rows wait for a slot, and where guesses are longer than attempts."""
  out = roll(dataclasses.replace(SPEC, **changes))
  np.testing.assert_array_equal(out.tokens, base().tokens)
  np.testing.assert_array_equal(out.attempt, base().attempt)
  assert_same_rows(out, range(ROWS), base(), range(ROWS))


def test_guesses_save_steps_and_steps_of_one_token_are_counted_one_by_one():
  sampled = np.stack([(base().attempt == attempt).sum(axis=1) for attempt in (1, 2)], axis=1)
  np.testing.assert_array_equal(base().steps, sampled)
  steps = roll(dataclasses.replace(SPEC, drafts=3, longest_draft=3)).steps
  assert np.all((steps >= 1) & (steps <= sampled))
  assert steps.sum() < sampled.sum()


@pytest.mark.slow
@pytest.mark.parametrize('spec', [THREE, GREEDY], ids=['A=3', 'greedy'])
def test_guessing_rows_equal_a_plain_python_sampler(spec):
  assert_plays_as_the_reference(roll(dataclasses.replace(spec, drafts=3, longest_draft=3)), spec, {})


@pytest.mark.slow
def test_guessing_rows_on_eight_devices_are_the_rows_of_one():
  out = roll(dataclasses.replace(SPEC, drafts=1, longest_draft=3), mesh=meshes.make_mesh(2, 2, 2))
  assert_same_rows(out, range(ROWS), base(), range(ROWS))


def test_given_first_attempts_are_guessed_right():
  given = {0: [5, 6, 7, 8, 9, 10], 1: [5, 6, END], 2: [7, OTHER], 3: [END], 4: [8, 8]}
  forced = np.full((ROWS, SPEC.budgets[0]), -1, np.int32)
  for row, ids in given.items():
    forced[row, : len(ids)] = ids
  out = roll(dataclasses.replace(SPEC, drafts=3, longest_draft=3), forced=forced)
  assert_plays_as_the_reference(out, SPEC, given)
  assert out.steps[0, 0] == 3  # the first token, then a step of four, and one


def test_another_stop_set_is_another_program():
  base()
  out = roll(RolloutSpec(**vars(SPEC) | dict(stops=(END,))))
  assert not np.any(out.stop == Stop.OTHER)
  inside = [row for row in range(ROWS) if OTHER in out.tokens[row, slots_of(out, row, 1)[:-1]]]
  assert inside
  np.testing.assert_array_equal(roll().stop, base().stop)


def test_growth_is_what_the_longest_conversation_adds():
  assert SPEC.growth == 6 + 5 + 4
  assert THREE.growth == 2 + 5 + 3 + 2 + 5
  assert (ONE.attempts, SPEC.attempts, THREE.attempts) == (1, 2, 3)


def test_a_cache_that_grows_samples_the_same_conversations():
  spec = dataclasses.replace(SPEC, growths=3)
  assert specs.cache_sizes(spec, SLOTS, together=True) == [SLOTS + 5, SLOTS + 10, SLOTS + 15]
  assert specs.cache_sizes(spec, SLOTS, together=False) == [SLOTS + 15]
  assert_same_rows(roll(spec=spec), range(ROWS), base(), range(ROWS))


@pytest.mark.parametrize(
  ('changes', 'mesh'),
  [
    (dict(drafts=1, longest_draft=3, decode_slots=8), None),
    slow({}, None),
    slow(dict(decode_slots=8), None),
    slow(dict(drafts=0.5, longest_draft=3), (2, 2, 2)),
  ],
)
def test_a_rollout_that_ends_on_fewer_slots_samples_the_same_conversations(monkeypatch, changes, mesh):
  monkeypatch.setattr(specs, '_FEWEST', 1)
  spec = dataclasses.replace(SPEC, parts=(2, 4), **changes)
  size = specs.cache_sizes(spec, SLOTS, together=False)[0]
  phases = [specs.Phase(size, slots, left) for slots, left in ((8, 4), (4, 2), (2, 0))]
  assert specs.phases(spec, SLOTS, 8, together=False) == phases
  out = roll(spec=spec, mesh=mesh and meshes.make_mesh(*mesh))
  np.testing.assert_array_equal(out.tokens, base().tokens)
  assert_same_rows(out, range(ROWS), base(), range(ROWS))


def test_rows_with_one_prompt_share_its_prefill():
  """Here 16 rows have seven prompts, two of them alike but for where they begin; three are prefilled at a time."""
  chosen = np.array([3, 0, 0, 5, 3, 3, 1, 9, 0, 12, 12, 5, 7, 3, 1, 9])
  (prompt, start), wider = prompts(), lambda x: np.pad(x, ((0, 0), (1, 0)), constant_values=END)
  prompt, start = wider(prompt[chosen]), start[chosen] + 1
  prompt[4], start[4] = prompt[0], start[0] - 1
  expected, out = (roll(spec=dataclasses.replace(SPEC, prompts=n), prompt=prompt, start=start) for n in (0, 3))
  np.testing.assert_array_equal(out.tokens, expected.tokens)
  assert_same_rows(out, range(ROWS), expected, range(ROWS))
  assert not np.array_equal(expected.tokens[0], expected.tokens[4])


def test_different_rows_are_numbered_by_their_first():
  number, first = rollouts.different(np.array([[1, 2], [3, 4], [1, 2], [1, 3], [3, 4]], np.int32))
  assert number.tolist() == [0, 1, 0, 2, 1]
  assert first.tolist() == [0, 1, 3, 5, 5]


def test_parts_have_whole_rows_and_enough_of_them():
  fewer = {rows: specs.fewer_slots(rows, (2, 8)) for rows in (512, 64, 63, 32)}
  assert fewer == {512: [(512, 256), (256, 64), (64, 0)], 64: [(64, 32), (32, 0)], 63: [(63, 0)], 32: [(32, 0)]}


@pytest.mark.parametrize(
  ('mesh', 'changes'),
  [slow(None, dict(drafts=1, longest_draft=2)), slow(None, dict(decode_slots=5)), slow((1, 2, 2), {})],
)
def test_the_tpus_kernel_samples_the_same_conversations(mesh, changes):
  """In interpret mode, also where slots are refilled, where steps guess tokens, and where heads are sharded."""
  spec = dataclasses.replace(SPEC, kernel='mosaic', **changes)
  mesh = mesh and meshes.make_mesh(*mesh, jax.devices()[:4])
  out = roll(spec=spec, mesh=mesh)
  assert_same_rows(out, range(ROWS), base(), range(ROWS))


@pytest.mark.parametrize(('rows_wait', 'guessed'), [(True, [0]), (False, [1])])
def test_once_no_row_waits_guesses_of_earlier_attempts_come_first(rows_wait, guessed):
  """Row 0 repeats seven tokens in its second attempt; row 1 a token in its first; row 2's newest token is new there."""
  seven, spec = [5, 6, 7, 8, 9, 10, 11], dataclasses.replace(SPEC, drafts=1 / 3, longest_draft=1)
  tokens_BL = np.full((3, 16), PAD, np.int32)
  for row, ids in enumerate(([*seven, 3, *seven], [5, 6, 7, 8, 5], [12, 13, 14, 15, 16])):
    tokens_BL[row, : len(ids)] = ids
  newest_B, turn_B, zeros_B = np.array([14, 4, 4], np.int32), np.array([1, 0, 0], np.int32), np.zeros(3, np.int32)
  ids_fed_B = np.array([len(FEED), 0, 0], np.int32)
  stop_BA = np.zeros((3, 2), np.int32)
  progress = turns.Progress(tokens_BL[range(3), newest_B], newest_B, turn_B, ids_fed_B, zeros_B + 3, stop_BA)
  slots = rollouts._DecodeSlots(np.arange(3), zeros_B, progress, turns.Tokens(tokens_BL, zeros_B, zeros_B), stop_BA)
  rows = rollouts._Rows(tokens_BL, zeros_B, zeros_B, rollouts.no_forced(3, spec))
  guesses = rollouts._guesses(*jax.tree.map(jnp.asarray, (slots, rows)), spec, rows_wait=rows_wait)
  assert guesses.fed.tolist() == [0, 2, 4, *(2 * row + 1 for row in guessed)]


def test_a_given_attempt_does_not_reach_into_the_next_one():
  """Here the prompt holds the given attempt and what follows it, so a step guesses past its end."""
  ids = [5, 6, 7, 8, 9, 10]
  prompt = np.array([[*ids, *FEED, 7, 11]] * ROWS, np.int32)
  spec, start = dataclasses.replace(SPEC, drafts=12, longest_draft=12), np.zeros(ROWS, np.int32)
  forced = np.array([ids] * ROWS, np.int32)
  plain, out = (roll(s, prompt=prompt, start=start, forced=forced) for s in (SPEC, spec))
  np.testing.assert_array_equal(out.tokens, plain.tokens)
  assert np.all(out.steps[:, 0] == 2)
