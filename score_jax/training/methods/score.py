# SPDX-License-Identifier: Apache-2.0
"""SCoRe: reinforcement on the policy's own attempts. Each host samples and grades its own rows."""

from concurrent.futures import ThreadPoolExecutor
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.core_types import Problem, Stage
from score_jax.faults.watchdog import Clock
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.reporting import metrics, rows
from score_jax.sampling import sampler as samplers
from score_jax.states import Batch, Rollout, StageValues, TrainState
from score_jax.storage.checkpoints import abstract_like
from score_jax.training import batches, grading, limits, offline, optim
from score_jax.training import run as runs
from score_jax.training.hooks import Training
from score_jax.training.run import Run
from score_jax.training.stages import StageRun
from score_jax.training.update import UpdateSpec, checksum, reference_logps, update


@dataclasses.dataclass(frozen=True)
class StageContext:
  """What a stage run holds fixed."""

  stage_run: StageRun
  reference: Any  # as the state's parameters, never donated; {}: a base without adapters
  pool: offline.OfflinePool | None


@dataclasses.dataclass(frozen=True)
class StepInputs:
  """This host's inputs of one step."""

  problems: list[Problem]  # [B]
  prompts: tuple[np.ndarray, np.ndarray]  # prompt_BP, start_B
  forced: np.ndarray  # i32 [B, F] given first attempts; -1: sampled
  trained: np.ndarray  # bool [B, A]


def enter(training: Training) -> tuple[TrainState, StageContext]:
  """Returns the state, its moments fresh if the stage asks so, and what the stage run holds fixed."""
  run, state, stage_run = training.run, training.state, training.stage_run
  stage, first = stage_run.stage, stage_run.first_step
  begins = training.progress.step == first
  reference = run.base_reference
  if stage.reference != 'base':
    if begins:
      params = state.params
    elif first:
      params = training.checkpoints.params(first, abstract_like(state.params))
    else:
      params = runs.initial_params(run)
    reference = runs.put_params(run.mesh, run.trained, params, run.reference_dtype)
  if stage.optim.reset_moments and begins:
    moments = runs.fresh_moments(state.params, run.optimizer, run.mesh, run.trained)
    state = state.replace(opt_state=moments)
  pool = offline.open_pool(run, stage_run.index, stage) if stage.offline_first else None
  return state, StageContext(stage_run, reference, pool)


def step_inputs(run: Run, context: StageContext, step: int) -> StepInputs:
  """Returns what can be made ready for a step before its policy is known."""
  config, pool = run.config, context.pool
  P, G, budgets = config.batch.problems, config.batch.samples, config.sampling.attempt_tokens
  forced = np.full((P, G, budgets[0]), -1, np.int32)
  trained = np.ones((P, G, len(budgets)), bool)
  mine = meshes.local_rows(run.mesh, P * G)
  numbers = np.unique(mine // G).tolist()
  drawn = run.task.problems(config.seed, 'train', [step * P + number for number in numbers])
  problems = dict(zip(numbers, drawn, strict=True))
  if pool:
    given, forced[: pool.each_step] = pool.take(step - context.stage_run.first_step)
    trained[: pool.each_step, :, 0] = False
    problems |= dict(enumerate(given))
  asked = [problems[int(i)] for i in mine // G]
  forced, trained = (x.reshape(P * G, -1)[mine] for x in (forced, trained))
  return StepInputs(asked, run.sampler.encoded(asked), forced, trained)


def run_step(training: Training, context: StageContext, inputs: StepInputs) -> tuple[TrainState, dict[str, Any]]:
  """Makes one step of SCoRe."""
  run, state, clock = training.run, training.state, Clock()
  stage_run, sampler, config = context.stage_run, run.sampler, run.config
  stage, step = stage_run.stage, training.progress.step
  with clock('sample'):
    policy = sampler.layout(run.policy(state.params))
    key = samplers.stream_key(config.seed, samplers.Stream.TRAIN, step)
    sampled = sampler.sample(policy, inputs.prompts, key, sampler.spec(), forced=inputs.forced)
    rollout = meshes.fetch_rows(sampled)
    del policy, sampled
  # The host grades while the reference scores; dispatch takes its time.
  with ThreadPoolExecutor(1, thread_name_prefix='grader') as thread:
    graded = thread.submit(lambda: grading.grade(run.grader, inputs.problems, rollout, sampler))
    with clock('reference'):
      batch, order, spec = _batch(run, rollout, inputs.trained)
      if not spec.reference_in_update:
        ref_logp = reference_logps(run.frozen, context.reference, batch, spec=spec)
        batch = batch.replace(ref_logp=ref_logp)
      jax.block_until_ready(batch)
    with clock('grade'):
      grades = graded.result()
      batch = batch.replace(verdict=meshes.put_rows(run.mesh, grades.verdict[order]))
      if grades.names:
        batch = batch.replace(score=meshes.put_rows(run.mesh, grades.score[order]))
      # Before the update: nothing else may talk while it runs.
      changed = rows.changed(grades.texts, grades.graded)
      counted = (grades.verdict, rollout.stop, _tokens(rollout), rollout.steps, changed, grades.score, grades.parts)
      verdict, stop, tokens, steps, changed, *scores = meshes.gather_rows(run.mesh, counted)
  with clock('update'):
    rate = optim.learning_rate(stage, step - stage_run.first_step)
    kl_weights = limits.kl_weights(stage, training.progress)
    fixed = (run.frozen, context.reference if spec.reference_in_update else None)
    values = _stage_values(stage, rate, kl_weights)
    state, results = update(state, *fixed, batch, values, spec=spec, optimizer=run.optimizer)
    results = jax.device_get(results)
    reference_sum = int(checksum(context.reference or run.frozen))
  with clock('record'):
    record = metrics.step_record(step + 1, stage, verdict, stop, tokens, results, rate, clock.seconds)
    record |= metrics.changes(verdict, changed, config.batch.samples)
    offline_problems = context.pool.each_step if context.pool else 0
    record |= metrics.by_first_attempt(verdict, stop, changed, config.batch.samples, offline_problems)
    record |= grading.reward_columns(grades.names, *scores) if grades.names else {}
    record |= dict(visit=stage_run.index, reference=reference_sum)
    if config.sampling.drafts:
      record['tokens_per_step'] = (tokens.sum(axis=0) / np.maximum(steps.sum(axis=0), 1)).tolist()
    if any(stage.kl_target):
      record['beta'] = list(kl_weights)
    hosts.agree(f'step {step + 1}', {name: value for name, value in record.items() if name != 'seconds'})
    keep_conversations(run, record, inputs, rollout, grades)
  return state, record


def keep_conversations(
  run: Run, record: dict[str, Any], inputs: StepInputs, rollout: Rollout, grades: grading.Grades
) -> None:
  """Appends config.report.rows conversations, drawn by seed and step, to rows/train.jsonl.

  Those with an offline first attempt are tagged.
  """
  config, folder, step = run.config, run.folder.rows, record['step']
  if not config.report.rows:
    return
  number_B = meshes.local_rows(run.mesh, config.rows)
  order = np.random.default_rng((config.seed, step)).permutation(config.rows)
  chosen = np.flatnonzero(np.isin(number_B, order[: config.report.rows]))
  kept = rows.from_rollout(
    inputs.problems,
    rollout,
    grades.texts,
    grades.graded,
    chosen,
    'training',
    number_B % config.batch.samples,
    step=step,
    stage=record['stage'],
  )
  kept = [
    row if trained else dataclasses.replace(row, tags=row.tags | {'first attempt': 'offline'})
    for row, trained in zip(kept, inputs.trained[chosen, 0], strict=True)
  ]
  kept = rows.from_all_hosts(f'rows of step {step}', number_B[chosen], kept)
  if hosts.is_main():
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'train.jsonl').open('a') as file:
      file.write(rows.lines(kept))


def _tokens(rollout: Rollout) -> np.ndarray:
  """i32 [B, A]: sampled tokens of each attempt."""
  attempts = np.arange(1, rollout.stop.shape[1] + 1)
  return (rollout.attempt[..., None] == attempts).sum(axis=1, dtype=np.int32)


def _batch(run: Run, rollout: Rollout, trained_BA: np.ndarray) -> tuple[Batch, np.ndarray, UpdateSpec]:
  """The rollout as the update takes it, its rows' order, and what to compile."""
  batch = batches.of_rollout(rollout, trained_BA)
  shards = len(meshes.local_shards(run.mesh))
  batch, order, spec = batches.packed(batch, run.update_spec, shards, run.config.batch.pack)
  if spec.packed_length:
    longest = hosts.combined('the length of streams', spec.packed_length, max)
    spec = dataclasses.replace(spec, packed_length=longest)
  return meshes.put_rows(run.mesh, batch), order, spec


def _stage_values(stage: Stage, learning_rate: float, kl_weights: tuple[float, ...]) -> StageValues:
  return StageValues(
    reward_weights=jnp.array(stage.reward_weights, jnp.float32),
    bonus=jnp.array(stage.bonus, jnp.float32),
    kl_weights=jnp.array(kl_weights, jnp.float32),
    gamma=jnp.float32(stage.gamma),
    learning_rate=jnp.float32(learning_rate),
  )
