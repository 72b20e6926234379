# SPDX-License-Identifier: Apache-2.0
"""What guessed tokens (`sampling.drafts`) save on real conversations, and which count of them is fastest.

With --answers, rows of an evaluation are replayed: the model is not needed but for its tokenizer, and a guess counts as
right where it is what the row holds. `steps` are those of --rows that begin together, by the tokens that each computes.
Else the model samples, and its conversations of the first draw are compared with plain decoding's.
"""

import collections
from collections.abc import Callable, Iterator
import dataclasses
import functools
import pathlib
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.setting import Setting
from score_jax import config as configs
from score_jax import tasks
from score_jax.core_types import Problem
from score_jax.errors import ConfigError
from score_jax.models import decoder
from score_jax.parallel import mesh as meshes
from score_jax.reporting import rows as report_rows
from score_jax.sampling import drafts as drafting
from score_jax.sampling import rollout as rollouts
from score_jax.sampling import spec as specs
from score_jax.sampling.sampler import Sampler, Stream, stream_key
from score_jax.states import Rollout
from score_jax.storage import hf
from score_jax.training import run as runs

FIELDS = (
  *('folder', 'preset', 'data', 'answers', 'rows', 'decode_slots', 'keep_slots', 'temperature', 'dtype'),
  *('drafts', 'longest_draft', 'draws', 'repeats'),
)


def measure(setting: Setting) -> dict[str, Any]:
  """Returns tokens per decode step of each attempt: of recorded conversations where all guesses are computed, by
  decoding; of a model's own by --drafts, with seconds and where its conversations are other than without guesses.

  Raises:
    ConfigError: --folder or --preset is not given.
  """
  if not setting.folder or not setting.preset:
    raise ConfigError('give --folder=MODEL and --preset=NAME, whose task and budgets are used')
  config = configs.load_config(setting.preset)
  settings = {'model.path': setting.folder, 'model.dtype': setting.dtype, 'sampling.decode_slots': setting.decode_slots}
  settings |= {'task.data.heldout': (setting.data,)} if setting.data else {}
  for field, value in settings.items():
    configs.set_field(config, field, value)
  run = configs.from_config_dict(config)
  sampler = runs.open_sampler(run, pathlib.Path(setting.folder), meshes.make_mesh(**vars(run.mesh)))
  return _replayed(setting, sampler) if setting.answers else _sampled(setting, sampler, run)


# Recorded conversations.


def _replayed(setting: Setting, sampler: Sampler) -> dict[str, Any]:
  everything = list(report_rows.read(pathlib.Path(setting.answers)))
  by_decoding: dict[str, Any] = {}
  for decoding in sorted({row.decoding for row in everything}):
    recorded = [row for row in everything if row.decoding == decoding]
    chosen = np.random.default_rng(0).permutation(len(recorded))[: setting.rows]
    conversations = [_tokens(sampler, recorded[number]) for number in chosen]
    by_decoding[decoding] = dict(
      conversations=len(conversations),
      tokens_per_step=tokens_per_step(conversations, setting.longest_draft),
      steps={
        f'{guesses}, {"earlier attempts" if in_order else "the surest"} first': steps_of_all(
          conversations, setting.longest_draft, guesses, in_order=in_order
        )
        for guesses in setting.drafts
        for in_order in (False, True)
      },
    )
  return by_decoding


def _tokens(sampler: Sampler, row: report_rows.Row) -> tuple[list[int], list[int]]:
  """Returns a recorded conversation's ids, and the attempt of each: 0 is none."""
  chat = sampler.chat
  ids = chat.prompt_ids(Problem(row.id, row.question, None))
  attempts = [0] * len(ids)
  for number, attempt in enumerate(row.attempts):
    separator = chat.separators[number - 1][1:] if number else ()
    text = [*chat.prompt_template.ids(attempt.text), chat.end_of_turn]
    ids, attempts = [*ids, *separator, *text], [*attempts, *[0] * len(separator), *[number + 1] * len(text)]
  return ids, attempts


def steps_of_all(
  conversations: list[tuple[list[int], list[int]]], count: int, guesses: float, *, in_order: bool
) -> dict[int, int]:
  """Returns how many steps computed how many tokens, of rows that begin together, as a rollout on a GPU.

  Slots become fewer as there, but all rows stay neighbours.

  Args:
    conversations, count: as in `tokens_per_step`.
    guesses: of a step, the mean over slots (config.sampling.drafts).
    in_order: rows in earlier attempts come first; else the surest guesses do.
  """
  count = count if guesses else 0
  tokens_BL, attempt_BL = _lines(conversations)
  B, end_B = len(conversations), (attempt_BL >= 0).sum(axis=1)
  newest_B, row_B = (attempt_BL > 0).argmax(axis=1).astype(np.int32), np.arange(B)
  so_far_BL = np.maximum.accumulate(attempt_BL, axis=1)

  @functools.partial(jax.jit, static_argnames='fed')
  def computed(known_BL, newest_B, given_BG, turn_B, going_B, fed):
    guess_BG, likely_BG = drafting.continued(known_BL, jnp.zeros_like(newest_B), newest_B, count)
    worth_BG = drafting.worth(likely_BG, given_BG, turn_B)
    chosen_N = drafting.surest(worth_BG, going_B, fed)
    return guess_BG, jnp.zeros((B * (1 + count),), bool).at[chosen_N].set(True).reshape(B, 1 + count)

  steps, (slots, left), *later = collections.Counter(), *specs.fewer_slots(B, specs.GPU_PARTS)
  while np.any(going_B := newest_B < end_B - 1):
    while going_B.sum() <= left:
      (slots, left), *later = later
    fed = round(slots * (1 + guesses))
    after_BG = np.minimum(newest_B[:, None] + 1 + np.arange(count), tokens_BL.shape[1] - 1)
    given_BG = attempt_BL[row_B[:, None], after_BG] == 0
    turn_B = np.int32((so_far_BL[row_B, newest_B] - 1) * in_order)
    known_BL = np.where(np.arange(tokens_BL.shape[1]) <= newest_B[:, None], tokens_BL, -1)
    guess_BG, fed_BQ = map(np.asarray, computed(known_BL, newest_B, given_BG, turn_B, going_B, fed))
    right_BG = fed_BQ[:, 1:] & (given_BG | (guess_BG == tokens_BL[row_B[:, None], after_BG]))
    gained_B = 1 + np.cumprod(right_BG, axis=1).sum(axis=1)
    newest_B = np.where(going_B, np.minimum(newest_B + gained_B, end_B - 1), newest_B).astype(np.int32)
    steps[fed] += 1
  return dict(steps)


def _lines(conversations: list[tuple[list[int], list[int]]]) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids and attempts of all, i32 [B, L]; beyond a conversation's end they are 0 and -1."""
  B, L = len(conversations), max(len(ids) for ids, _ in conversations)
  tokens_BL, attempt_BL = np.zeros((B, L), np.int32), np.full((B, L), -1)
  for b, (ids, attempts) in enumerate(conversations):
    tokens_BL[b, : len(ids)], attempt_BL[b, : len(ids)] = ids, attempts
  return tokens_BL, attempt_BL


def tokens_per_step(conversations: list[tuple[list[int], list[int]]], count: int) -> list[float]:
  """Returns, for each attempt, its tokens over the decode steps that chose any of them, guessed from the row itself.

  Args:
    conversations: ids, and the attempt of each; 0 is what is given: a prompt, a separator.
    count: of guesses.
  """
  tokens_BL, attempt_BL = _lines(conversations)
  B, L = tokens_BL.shape
  guess = jax.jit(lambda *rows: drafting.in_own_row(*rows, count)[0])
  A, row_B = attempt_BL.max(), np.arange(B)
  start_B, end_B = np.zeros(B, np.int32), (attempt_BL >= 0).sum(axis=1)
  newest_B = (attempt_BL > 0).argmax(axis=1).astype(np.int32)
  steps_A = np.eye(A)[0] * B  # prompts give the first tokens
  while np.any(newest_B < end_B - 1):
    known_BL = np.where(np.arange(L) <= newest_B[:, None], tokens_BL, -1)
    guessed_BG = np.asarray(guess(known_BL, start_B, newest_B)) if count else np.zeros((B, 0), np.int32)
    after_B, right_B = newest_B.copy(), newest_B < end_B - 1
    gained_BA = np.zeros((B, A), bool)
    for i in range(count + 1):
      after_B += right_B
      attempt_B = attempt_BL[row_B, after_B]
      gained_BA |= right_B[:, None] & (attempt_B[:, None] == np.arange(1, A + 1))
      if i < count:  # what is given is guessed right
        right_B &= (guessed_BG[:, i] == tokens_BL[row_B, after_B]) | (attempt_B == 0)
        right_B &= after_B < end_B - 1
    steps_A, newest_B = steps_A + gained_BA.sum(axis=0), after_B
  tokens_A = np.array([(attempt_BL == attempt).sum() for attempt in range(1, A + 1)])
  return [round(float(share), 2) for share in tokens_A / np.maximum(steps_A, 1)]


# A model's own.


def _sampled(setting: Setting, sampler: Sampler, run: configs.RunConfig) -> dict[str, Any]:
  task = tasks.open_task(run.task)
  problems = tasks.heldout_problems(task, run.eval.problems, run.eval.seed)
  problems = [problems[number % len(problems)] for number in range(setting.rows)]
  folder, layout = pathlib.Path(setting.folder), meshes.SAMPLING_RULES
  params = sampler.layout(hf.read_params(folder, sampler.config, sampler.mesh, sampler.dtype, layout))
  prompts, keys = sampler.encoded(problems), [stream_key(0, Stream.EVALUATION, draw) for draw in range(setting.draws)]

  def calls(sampler: Sampler) -> list[Callable[[], Rollout]]:
    spec = sampler.spec(setting.temperature)
    spec = dataclasses.replace(spec, parts=()) if setting.keep_slots else spec
    return [functools.partial(sampler.sample, params, prompts, key, spec) for key in keys]

  def timed(sampler: Sampler) -> tuple[float, float]:
    """Returns the seconds of a first call, and of others: the mean over draws of medians."""
    seconds = [machine.timed(call, setting.repeats) for call in calls(sampler)]
    return seconds[0][0], statistics.mean(statistics.median(others) for _, others in seconds)

  sampler = dataclasses.replace(sampler, longest_draft=setting.longest_draft)
  by_count, of_first_draw = {}, {}
  for count in setting.drafts:
    guessing = dataclasses.replace(sampler, drafts=count)
    first_call, seconds = timed(guessing)
    outs = [jax.device_get(call()) for call in calls(guessing)]
    of_first_draw[count] = outs[0]
    chat = dataclasses.replace(sampler.chat, separators=())
    _, first_attempts = timed(dataclasses.replace(guessing, budgets=sampler.budgets[:1], chat=chat))
    tokens_A = sum(map(_sampled_tokens, outs)) / setting.draws
    steps_A = sum(out.steps.sum(axis=0) for out in outs) / setting.draws
    by_count[count] = dict(
      seconds=round(seconds, 4),
      first_attempts_seconds=round(first_attempts, 4),
      others_seconds=round(seconds - first_attempts, 4),
      tokens_per_second=round(tokens_A.sum() / seconds),
      tokens=tokens_A.tolist(),
      tokens_per_step=np.round(tokens_A / np.maximum(steps_A, 1), 2).tolist(),
      first_call_seconds=round(first_call, 1),
    )
  plain = jax.device_get(calls(dataclasses.replace(sampler, drafts=0.0))[0]()) if any(setting.drafts) else None
  for count, out in of_first_draw.items():
    different = _differences(setting, sampler, params, keys[0], plain, out) if plain and count else ()
    by_count[count]['differences'] = list(different)
  fastest = max(by_count, key=lambda count: by_count[count]['tokens_per_second'])
  return dict(
    device=jax.devices()[0].device_kind,
    devices=sampler.mesh.size,
    drafts={str(count): result for count, result in by_count.items()},
    proposed=f'config.sampling.drafts = {fastest}',
    peak_mb=machine.peak_mb(),
  )


def _sampled_tokens(out: Rollout) -> np.ndarray:
  return np.array([(out.attempt == attempt).sum() for attempt in range(1, out.stop.shape[1] + 1)])


def _differences(
  setting: Setting, sampler: Sampler, params: Any, key: jax.Array, plain: Rollout, out: Rollout
) -> Iterator[dict[str, Any]]:
  """Yields where conversations first differ, and how far what was drawn lies from a boundary of the token's share."""
  for row in np.flatnonzero(np.any(plain.tokens != out.tokens, axis=1)):
    slot = int(np.argmax(plain.tokens[row] != out.tokens[row]))
    before = plain.tokens[row, plain.start[row] : slot]
    logits_V = _next_logits(params, before, plain.tokens.shape[1], sampler)
    token, other = (int(x.tokens[row, slot]) for x in (plain, out))
    where = dict(row=int(row), slot=slot, tokens=[token, other])
    if not setting.temperature:
      yield where | dict(distance=float(abs(logits_V[token] - logits_V[other])))
      continue
    share_V = np.exp(np.float64(logits_V / setting.temperature - logits_V.max() / setting.temperature))
    ends_V = np.cumsum(share_V / share_V.sum())
    keys = rollouts.row_keys(key, np.array([row], np.int32))
    uniform = float(rollouts.uniforms(keys, np.array([slot - plain.start[row]], np.int32))[0])
    ends = ends_V[token], ends_V[token - 1] if token else 0.0
    yield where | dict(distance=min(abs(end - uniform) for end in ends))


def _next_logits(params: Any, ids: np.ndarray, length: int, sampler: Sampler) -> np.ndarray:
  """Returns the f32 logits [V] after a conversation's ids, all computed afresh."""
  tokens_1L = np.pad(ids, (length - len(ids), 0))[None].astype(np.int32)
  prefill = jax.jit(decoder.prefill, static_argnames=('config', 'slots', 'dtype'))
  start_1 = np.array([length - len(ids)], np.int32)
  return np.asarray(prefill(params, sampler.config, tokens_1L, start_1, slots=length, dtype=sampler.dtype)[0][0])
