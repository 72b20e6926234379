"""One step of SCoRe: problems, rollout, verdicts, update, and its line of metrics.

Of several hosts, each samples and grades its own rows. What all must know of a step goes over the devices before the
update runs; host 0 keeps it.
"""

from concurrent.futures import ThreadPoolExecutor
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.core_types import Problem
from score_jax.core_types import Stage
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.reporting import metrics
from score_jax.reporting import recording
from score_jax.reporting import rows
from score_jax.sampling.sampler import Stream
from score_jax.sampling.sampler import stream_key
from score_jax.states import Batch
from score_jax.states import Rollout
from score_jax.states import StageValues
from score_jax.states import TrainState
from score_jax.training import batches
from score_jax.training import evaluation
from score_jax.training import offline
from score_jax.training import optim
from score_jax.training.clock import Clock
from score_jax.training.run import Run
from score_jax.training.update import UpdateSpec
from score_jax.training.update import checksum
from score_jax.training.update import reference_logps
from score_jax.training.update import update

_grader = ThreadPoolExecutor(max_workers=1, thread_name_prefix='grader')


@dataclasses.dataclass(frozen=True)
class StageRun:
  """One entry of the run's list of stages, placed on the run's steps."""

  index: int
  stage: Stage
  first_step: int
  is_last: bool


@dataclasses.dataclass(frozen=True)
class StageContext:
  """What a stage_run holds fixed."""

  stage_run: StageRun
  reference: Any  # as the state's parameters, compute dtype, never donated; {}: a base whose adapters are off
  pool: offline.OfflinePool


@dataclasses.dataclass(frozen=True)
class Work:
  """A step's rows, before they are sampled; of several hosts, those of this one."""

  problems: list[Problem]  # [B]
  prompts: tuple[np.ndarray, np.ndarray]  # prompt_BP, start_B
  forced: np.ndarray  # i32 [B, F] first attempts given from outside
  trained: np.ndarray  # bool [B, A]


def run_step(
  run: Run, data: StageContext, state: TrainState, step: int, work: Work, kl: tuple[float, ...] = ()
) -> tuple[TrainState, dict[str, Any], Work | None]:
  """One step of SCoRe: the new state, its line of metrics, and the next step's work, if it is of the same stage_run.

  `kl` is beta of each attempt where it is not the stage's own. All hosts have the same line, of all rows.
  """
  stage, clock = data.stage_run.stage, Clock()
  with clock('sample'):
    policy = run.sampler.layout(run.policy(state.params))
    key = stream_key(run.config.seed, Stream.TRAIN, step)
    sampled = run.sampler.sample(policy, work.prompts, key, run.sampler.spec(), forced=work.forced)
    rollout = meshes.fetch_rows(sampled)
    del policy, sampled
  # Side by side: the host grades while the reference scores. A thread, since dispatching a long program takes its time.
  grading = _grader.submit(lambda: evaluation.grade(run.grader, work.problems, run.sampler.texts(rollout)))
  with clock('reference'):
    batch, order, spec = _batch(run, rollout, work.trained)
    if not spec.reference_in_update:
      batch = batch.replace(ref_logp=reference_logps(run.frozen, data.reference, batch, spec=spec))
    jax.block_until_ready(batch)
  with clock('grade'):
    grades = grading.result()
    verdict = grades.verdict
    batch = batch.replace(verdict=meshes.put_rows(run.mesh, verdict[order]))
    # Before the update: nothing else may talk while it runs.
    changed = rows.changed(grades.texts, grades.graded)
    counted = meshes.gather_rows(run.mesh, (verdict, rollout.stop, _tokens(rollout), changed))
  with clock('update'):
    rate = optim.learning_rate(stage, step - data.stage_run.first_step)
    reference = data.reference if spec.reference_in_update else None
    values = stage_values(stage, rate, kl)
    state, results = update(state, run.frozen, reference, batch, values, spec=spec, optimizer=run.optimizer)
    ahead = work_of(run, data, step + 1) if step + 1 < data.stage_run.first_step + stage.steps else None
    results = jax.device_get(results)
    reference_sum = int(checksum(data.reference or run.frozen))
  with clock('record'):
    verdict, stop, tokens, changed = counted
    line = metrics.step_record(step + 1, stage, verdict, stop, tokens, results, rate, clock.seconds)
    line |= metrics.changes(verdict, changed, run.config.batch.samples)
    line |= dict(visit=data.stage_run.index, reference=reference_sum)
    if any(stage.kl_target):
      line['beta'] = list(kl)
    hosts.agree(f'step {step + 1}', {name: value for name, value in line.items() if name != 'seconds'})
    _record(run, line, work, rollout, grades)
  return state, line, ahead


def _record(run: Run, line: dict[str, Any], work: Work, rollout: Rollout, grades: evaluation.Grades) -> None:
  """Keeps some conversations of the step."""
  total = run.config.batch.problems * run.config.batch.samples
  recording.add_step(
    run.folder.rows / 'train.jsonl',
    run.config.report.rows,
    run.config.seed,
    line,
    work.problems,
    rollout,
    grades.texts,
    grades.graded,
    samples=run.config.batch.samples,
    number_B=meshes.local_rows(run.mesh, total),
    total=total,
  )


def work_of(run: Run, data: StageContext, step: int) -> Work:
  """What the host can make ready of a step before the policy it samples from is known."""
  P, G = run.config.batch.problems, run.config.batch.samples
  count = offline.offline_count(data.stage_run.stage, P)
  forced = np.full((P, G, run.config.sampling.attempt_tokens[0]), -1, np.int32)
  trained = np.ones((P, G, run.config.attempts), bool)
  mine = meshes.local_rows(run.mesh, P * G)
  problems = {int(i): run.task.problem(run.config.seed, 'train', step * P + int(i)) for i in np.unique(mine // G)}
  if count:
    given, forced[:count] = data.pool.take(count, step - data.stage_run.first_step)
    problems |= dict(enumerate(given))
    trained[:count, :, 0] = False
  asked = [problems[int(i)] for i in mine // G]
  return Work(asked, run.sampler.encoded(asked), forced.reshape(P * G, -1)[mine], trained.reshape(P * G, -1)[mine])


def _tokens(rollout: Rollout) -> np.ndarray:
  """i32 [B, A]: how many tokens each attempt sampled."""
  attempts = range(1, rollout.stop.shape[1] + 1)
  return np.stack([(rollout.attempt == a).sum(axis=1, dtype=np.int32) for a in attempts], axis=1)


def _batch(run: Run, rollout: Rollout, trained_BA: np.ndarray) -> tuple[Batch, np.ndarray, UpdateSpec]:
  """The rollout as the update takes it, yet to be graded and scored; the order of its rows; what to compile."""
  spec, shards = run.update_spec, len(meshes.local_shards(run.mesh))
  parts = (spec.group, shards, spec.micro_batches)
  batch = batches.of_rollout(rollout, trained_BA)
  order = np.arange(len(trained_BA))
  if run.config.batch.pack:
    order = batches.balanced_order(batch.length, *parts)
    places = batches.stream_places(batch.length[order], rollout.tokens.shape[1], *parts)
    spec = dataclasses.replace(spec, places=max(hosts.gather('the length of streams', places)))
  return meshes.put_rows(run.mesh, jax.tree.map(lambda x: x[order], batch)), order, spec


def stage_values(stage: Stage, learning_rate: float, kl: tuple[float, ...] = ()) -> StageValues:
  """The stage as the update reads it; `kl` instead of its own beta."""
  return StageValues(
    reward_weights=jnp.array(stage.reward_weights, jnp.float32),
    bonus=jnp.array(stage.bonus, jnp.float32),
    kl_weights=jnp.array(kl or stage.kl_weights, jnp.float32),
    gamma=jnp.float32(stage.gamma),
    learning_rate=jnp.float32(learning_rate),
  )
