# SPDX-License-Identifier: Apache-2.0
"""Supervised baselines, Pair-SFT and STaR, in iterations of collecting and training.

An iteration is a stage of the loop. As it begins, the policy answers training problems; then training starts where
the run did, as in the paper's ReST-EM protocol.
"""

import dataclasses
import io
import pathlib
from typing import Any
import zipfile

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from score_jax import files
from score_jax.core_types import Problem, Verdict
from score_jax.errors import ConfigError, DataError
from score_jax.faults import watchdog
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.sampling import sampler as samplers
from score_jax.states import Batch, TrainState
from score_jax.training import batches, evaluation, grading, optim, update
from score_jax.training import run as runs
from score_jax.training.hooks import Training
from score_jax.training.methods import pairs
from score_jax.training.run import Run
from score_jax.training.stages import StageRun


@dataclasses.dataclass(frozen=True)
class Collected:
  """N = problems x samples conversations; those on a problem are adjacent."""

  first: np.ndarray  # i32 [N, F1]  ids, stop included; then -1
  second: np.ndarray  # i32 [N, F2]
  verdict: np.ndarray  # i8 [N, 2]  Verdict


@dataclasses.dataclass(frozen=True)
class StageContext:
  """What an iteration holds fixed."""

  stage_run: StageRun
  collected: Collected
  pairs: np.ndarray  # i64 [n, 3], from `pairs`
  prompts: dict[int, list[int]] = dataclasses.field(default_factory=dict)  # ids by problem


@dataclasses.dataclass(frozen=True)
class StepInputs:
  batch: Batch  # on the host
  spec: update.UpdateSpec
  epoch: float  # how often all pairs have been seen


def enter(training: Training) -> tuple[TrainState, StageContext]:
  """Returns what an iteration trains on; at its first step, the state is as the run began.

  Raises:
    ConfigError: there are several hosts.
    DataError: no pair could be made.
  """
  if hosts.count() > 1:
    raise ConfigError("config.mode = 'supervised' runs on one host; leave out --distributed")
  run, state, stage_run = training.run, training.state, training.stage_run
  settings, name = run.config.supervised, stage_run.stage.name
  conversations = collected(run, state.params, stage_run.index)
  rng = np.random.default_rng((run.config.seed, stage_run.index))
  known = np.flatnonzero(np.all(conversations.verdict != Verdict.ERROR, axis=1))
  right_N2 = conversations.verdict[known] == Verdict.CORRECT
  made = pairs.DATASETS[settings.dataset](right_N2, known // settings.samples, settings.plus, rng)
  made[:, :2] = known[made[:, :2]]
  logging.info('%s: %d pairs of %d conversations', name, len(made), len(known))
  if not len(made):
    raise DataError(
      f'{name}: none of {len(known)} conversations gives a pair for config.supervised.dataset = {settings.dataset!r}; '
      'raise config.supervised.problems or samples'
    )
  if training.progress.step == stage_run.first_step:
    moments = runs.fresh_moments(state.params, run.optimizer, run.mesh, run.trained)
    state = state.replace(params=runs.initial_params(run), opt_state=moments)
  return state, StageContext(stage_run, conversations, made)


def step_inputs(run: Run, context: StageContext, step: int) -> StepInputs:
  """Returns a step's pairs as rows of an update."""
  config, stage_run = run.config, context.stage_run
  seed = (config.seed, stage_run.index)
  chosen, epoch = drawn(len(context.pairs), config.rows, step - stage_run.first_step, seed)
  spec = dataclasses.replace(run.update_spec, group=1)
  batch, _, spec = batches.packed(rows_of(run, context, chosen), spec, spec.shards, config.batch.pack)
  return StepInputs(batch, spec, epoch)


def run_step(training: Training, context: StageContext, inputs: StepInputs) -> tuple[TrainState, dict[str, Any]]:
  """Makes one supervised update; its record has no accuracy."""
  run, step, stage_run = training.run, training.progress.step, context.stage_run
  stage, clock = stage_run.stage, watchdog.Clock()
  with clock('update'):
    rate = optim.learning_rate(stage, step - stage_run.first_step)
    batch = meshes.put_rows(run.mesh, inputs.batch)
    fixed = dict(spec=inputs.spec, optimizer=run.optimizer)
    state, results = update.supervised_update(training.state, run.frozen, batch, jnp.float32(rate), **fixed)
    results = jax.device_get(results)
  return state, dict(
    step=step + 1,
    stage=stage.name,
    visit=stage_run.index,
    accuracy=[None] * run.config.attempts,
    loss=results['loss_A'].tolist(),
    gradient_norm=float(results['gradient_norm']),
    rejected=int(results['rejected']),
    learning_rate=rate,
    pairs=len(context.pairs),
    epoch=inputs.epoch,
    supervised_tokens=int(results['tokens']),
    seconds=clock.seconds,
  )


def problem_of(run: Run, iteration: int, number: int) -> Problem:
  """Returns problem `number` of an iteration (both from 0)."""
  return run.task.problem(run.config.seed, 'train', iteration * run.config.supervised.problems + number)


def collected(run: Run, params: Any, iteration: int) -> Collected:
  """Returns an iteration's conversations, sampled and written if the run folder lacks them.

  Raises:
    DataError: the file cannot be read, or is of other settings.
  """
  path = run.folder.offline / f'iteration{iteration + 1}.npz'
  size = run.config.supervised.problems * run.config.supervised.samples
  if not path.exists():
    packed = io.BytesIO()
    np.savez_compressed(packed, **vars(_sampled(run, params, iteration)))
    path.parent.mkdir(exist_ok=True)
    files.write_bytes(path, packed.getvalue())
  conversations = read_collected(path)
  count = len(conversations.verdict)
  if count != size:
    raise DataError(
      f'{path} has {count} conversations, not config.supervised.problems x samples = {size}; '
      'delete it, and they are sampled again'
    )
  return conversations


def read_collected(path: pathlib.Path) -> Collected:
  """Returns the conversations of a file; DataError if it cannot be read."""
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return Collected(**arrays)
  except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise DataError(f'{path} cannot be read ({error}); delete it, and it is sampled again') from error


def _sampled(run: Run, params: Any, iteration: int) -> Collected:
  settings, sampler = run.config.supervised, run.sampler
  spec = sampler.spec()
  key = samplers.stream_key(run.config.seed, samplers.Stream.COLLECT, iteration)
  size = settings.problems * settings.samples
  problems = [problem_of(run, iteration, number // settings.samples) for number in range(size)]
  parts, policy = [], sampler.layout(run.policy(params))
  for begin, _, own, rollout in evaluation.rollouts(sampler, policy, problems, key, spec, run.config.rows):
    rollout, real = meshes.fetch_rows(rollout), min(len(own), size - begin)
    grades = grading.grade(run.grader, own[:real], rollout, sampler)
    first, second = (
      batches.chosen_ids(rollout.tokens, rollout.attempt == attempt, budget)[:real]
      for attempt, budget in enumerate(spec.budgets, 1)
    )
    parts.append((first, second, grades.verdict))
  return Collected(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def drawn(count: int, rows: int, step: int, seed: tuple[int, ...]) -> tuple[np.ndarray, float]:
  """Returns which of `count` pairs a step of an iteration takes, and the epochs before it.

  Each epoch has all pairs in an order of its own, by `seed`.
  """
  first = step * rows
  epoch_R, index_R = np.divmod(np.arange(first, first + rows), count)
  chosen = np.empty(rows, np.int64)
  for epoch in np.unique(epoch_R):
    order = np.random.default_rng((*seed, int(epoch))).permutation(count)
    chosen[epoch_R == epoch] = order[index_R[epoch_R == epoch]]
  return chosen, first / count


def rows_of(run: Run, context: StageContext, chosen: np.ndarray) -> Batch:
  """Returns pairs as conversations on the host, token for token as a rollout would have them.

  An attempt that did not end its turn gets its end of turn fed, without loss.
  """
  chat, prompts = run.sampler.chat, context.prompts
  settings, sampling = run.config.supervised, run.config.sampling
  attempts = (context.collected.first, context.collected.second)
  separator = list(chat.separators[0])
  shape = len(chosen), sampling.prompt_tokens + run.sampler.spec().growth
  tokens, attempt = np.full(shape, chat.pad, np.int32), np.zeros(shape, np.int8)
  length = np.zeros(len(chosen), np.int32)
  for b, (row, other, which) in enumerate(context.pairs[chosen]):
    number = int(row) // settings.samples
    if number not in prompts:
      prompts[number] = chat.prompt_ids(problem_of(run, context.stage_run.index, number))
    first = _ids(attempts[0][row])
    second = _ids(attempts[which][other])[: sampling.attempt_tokens[1]]
    fed = separator[1:] if first[-1:] == [chat.end_of_turn] else separator
    parts = ((prompts[number], 0), (first, 1), (fed, 0), (second, 2))
    ids = [token for part, _ in parts for token in part]
    labels = [label for part, label in parts for _ in part]
    tokens[b, : len(ids)], attempt[b, : len(ids)], length[b] = ids, labels, len(ids)
  trained = np.tile(np.array(settings.loss_on), (len(chosen), 1))
  return Batch(tokens, attempt, np.zeros(shape, np.float32), length, None, trained)


def _ids(padded_F: np.ndarray) -> list[int]:
  return padded_F[padded_F >= 0].tolist()
