"""The training loop: problems, rollout, verdicts, update, and what is kept of them.

A run is a pure function of its configuration: any step is decided by (seed, step) and the state, so a run that is
killed and started again ends where it would have ended.
"""

from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import functools
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from score_jax import config as configs
from score_jax.faults import signals
from score_jax.faults import watchdog
from score_jax.models import lora as loras
from score_jax.parallel import mesh as meshes
from score_jax.reporting import metrics
from score_jax.reporting import profile
from score_jax.reporting import recording
from score_jax.reporting import report
from score_jax.reporting import rows
from score_jax.reporting import terminal
from score_jax.reporting.watch import Watch
from score_jax.sampling.sampler import Stream
from score_jax.sampling.sampler import stream_key
from score_jax.states import Batch
from score_jax.states import Rollout
from score_jax.states import StageValues
from score_jax.states import TrainState
from score_jax.storage import hf
from score_jax.storage import hf_export
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.checkpoints import Progress
from score_jax.storage.checkpoints import abstract_like
from score_jax.tasks.tokenizer_files import has_only_sentencepiece
from score_jax.training import batches
from score_jax.training import evaluation
from score_jax.training import limits
from score_jax.training import offline
from score_jax.training import optim
from score_jax.training import run as runs
from score_jax.training import stopping
from score_jax.training.clock import Clock
from score_jax.training.run import Run
from score_jax.training.update import UpdateSpec
from score_jax.training.update import checksum
from score_jax.training.update import reference_logps
from score_jax.training.update import update
from score_jax.types import Problem
from score_jax.types import Stage

_grader = ThreadPoolExecutor(max_workers=1, thread_name_prefix='grader')


@dataclasses.dataclass(frozen=True)
class Visit:
  """One entry of the run's list of stages, placed on the run's steps."""

  index: int
  stage: Stage
  first_step: int
  is_last: bool


@dataclasses.dataclass(frozen=True)
class VisitData:
  """What a visit holds fixed."""

  visit: Visit
  reference: Any  # as the state's parameters, compute dtype, never donated; {}: a base whose adapters are off
  pool: offline.OfflinePool


@dataclasses.dataclass(frozen=True)
class Work:
  """A step's rows, before they are sampled."""

  problems: list[Problem]  # [B]
  prompts: tuple[np.ndarray, np.ndarray]  # prompt_BP, start_B
  forced: np.ndarray  # i32 [B, F] first attempts given from outside
  trained: np.ndarray  # bool [B, A]


def visit_at(visits: tuple[Stage, ...], step: int) -> Visit:
  """The visit that step number `step` (0-based) belongs to."""
  first = 0
  for index, stage in enumerate(visits):
    if step < first + stage.steps:
      return Visit(index, stage, first, index == len(visits) - 1)
    first += stage.steps
  raise ValueError(f'step {step} lies beyond the last stage')


def train(run: Run, tracer: profile.Tracer = profile.NO_TRACE) -> None:
  """Trains from where the run folder stands to the end; then evaluates, exports and reports the best policy.

  Raises:
    TryAgainError: it was asked to stop, or could not save; what is done is saved.
    StoppedError: an alarm that config.report.stop_on names has sounded; the step is saved.
    NumericsError: it left its limits.
  """
  config = run.config
  checkpoints = Checkpoints(
    run.folder.checkpoints,
    keep=config.checkpoint.keep,
    max_failed=config.faults.max_failed_saves,
    damaged=run.folder.damaged,
    prepare=run.folder.sync_metrics,
  )
  with contextlib.closing(checkpoints):
    state, progress = _restored_or_fresh(run, checkpoints)
    run.folder.cut_metrics(progress.step)
    recording.cut(run.folder.rows / 'train.jsonl', progress.step)
    _make_up_evaluation(run, state, progress.step)
    watch = _watch(run, progress.step)
    _evaluate_base(run)
    state, progress = _train_steps(run, checkpoints, state, progress, tracer, watch)
    _finish(run, checkpoints, state, progress)


def _train_steps(
  run: Run, checkpoints: Checkpoints, state: TrainState, progress: Progress, tracer: profile.Tracer, watch: Watch
) -> tuple[TrainState, Progress]:
  config = run.config
  keeper = stopping.Keeper(run.folder, checkpoints, functools.partial(_needed_later, run))
  keeper.begin(state, progress)
  watch.begin()
  data, work = None, None
  with signals.deferred(config.faults.grace_seconds, keeper.save):
    while progress.step < watch.total:
      visit = visit_at(config.visits, progress.step)
      if data is None or data.visit != visit:
        with watchdog.phase('enter'):
          state, data = enter(run, visit, state, progress.step, checkpoints)
      with tracer.step():
        kl = limits.kl_weights(visit.stage, progress)
        state, line, work = run_step(run, data, state, progress.step, work or work_of(run, data, progress.step), kl)
      ends = progress.step + 1 == visit.first_step + visit.stage.steps
      progress = limits.after_step(config, visit.stage, progress, line, visit.is_last, ends)
      keeper.hold(state, progress, line)
      if config.eval.every and line['step'] % config.eval.every == 0:
        line['eval'] = _evaluate(run, run.policy(state.params), f'step{line["step"]}')
        watch.say(terminal.evaluation_line(f'step {line["step"]}', line['eval']))
      keeper.write(line)
      stopped = watch.after(line)
      limits.check(config, progress, line, int(state.rejected_in_a_row), run.folder.checkpoints)
      if _is_due(run, progress.step, watch.total) or stopped:
        progress = _save(run, checkpoints, state, progress, watch.total)
        keeper.hold(state, progress)
      if stopped:
        raise stopped
      keeper.leave_if_asked(progress.step)
  watch.close()
  return state, progress


def _save(run: Run, checkpoints: Checkpoints, state: TrainState, progress: Progress, total: int) -> Progress:
  """Saves a step, in the background unless the run could not go on without it; its Progress as it was saved."""
  with watchdog.phase('save'):
    progress = checkpoints.settled(progress)
    # A run cut short by max_steps must not consider a step that the whole run would not.
    if _is_due(run, progress.step, run.config.total_steps):
      progress = progress.at_checkpoint()
    needed = _needed_later(run, progress.step)
    if progress.step == total or progress.step in needed:
      checkpoints.save_now(state, progress, protected=needed)
    else:
      checkpoints.save(state, progress, protected=needed)
  return progress


def run_step(
  run: Run, data: VisitData, state: TrainState, step: int, work: Work, kl: tuple[float, ...] = ()
) -> tuple[TrainState, dict[str, Any], Work | None]:
  """One step of SCoRe: the new state, its line of metrics, and the next step's work, if it is of the same visit.

  `kl` is beta of each attempt where it is not the stage's own.
  """
  stage, clock = data.visit.stage, Clock()
  with clock('sample'):
    policy = run.sampler.layout(run.policy(state.params))
    key = stream_key(run.config.seed, Stream.TRAIN, step)
    sampled = run.sampler.sample(policy, work.prompts, key, run.sampler.spec(), forced=work.forced)
    rollout = jax.device_get(sampled)
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
  with clock('update'):
    rate = optim.learning_rate(stage, step - data.visit.first_step)
    reference = data.reference if spec.reference_in_update else None
    values = stage_values(stage, rate, kl)
    state, results = update(state, run.frozen, reference, batch, values, spec=spec, optimizer=run.optimizer)
    ahead = work_of(run, data, step + 1) if step + 1 < data.visit.first_step + stage.steps else None
    results = jax.device_get(results)
    reference_sum = int(checksum(data.reference or run.frozen))
  with clock('record'):
    line = metrics.step_line(step + 1, stage, verdict, rollout.stop, rollout.attempt, results, rate, clock.seconds)
    line |= metrics.changes(grades.texts, grades.graded, run.config.batch.samples)
    line |= dict(visit=data.visit.index, reference=reference_sum)
    if any(stage.kl_budget):
      line['beta'] = list(kl)
    kept, path = run.config.report.rows, run.folder.rows / 'train.jsonl'
    recording.add_step(path, kept, run.config.seed, line, work.problems, rollout, grades.texts, grades.graded)
  return state, line, ahead


def work_of(run: Run, data: VisitData, step: int) -> Work:
  """What the host can make ready of a step before the policy it samples from is known."""
  P, G = run.config.batch.problems, run.config.batch.samples
  count = offline.offline_count(data.visit.stage, P)
  forced = np.full((P, G, run.config.sampling.attempt_tokens[0]), -1, np.int32)
  trained = np.ones((P, G, run.config.attempts), bool)
  problems = [run.task.problem(run.config.seed, 'train', step * P + i) for i in range(P)]
  if count:
    problems[:count], forced[:count] = data.pool.take(count, step - data.visit.first_step)
    trained[:count, :, 0] = False
  rows = [p for p in problems for _ in range(G)]
  return Work(rows, run.sampler.encoded(rows), forced.reshape(P * G, -1), trained.reshape(P * G, -1))


def _batch(run: Run, rollout: Rollout, trained_BA: np.ndarray) -> tuple[Batch, np.ndarray, UpdateSpec]:
  """The rollout as the update takes it, yet to be graded and scored; the order of its rows; what to compile."""
  spec, parts = run.update_spec, (run.update_spec.group, run.update_spec.shards, run.update_spec.micro_batches)
  batch = batches.of_rollout(rollout, trained_BA)
  order = np.arange(len(trained_BA))
  if run.config.batch.pack:
    order = batches.balanced_order(batch.length, *parts)
    places = batches.stream_places(batch.length[order], rollout.tokens.shape[1], *parts)
    spec = dataclasses.replace(spec, places=places)
  return meshes.put_rows(run.mesh, jax.tree.map(lambda x: x[order], batch)), order, spec


def stage_values(stage: Stage, learning_rate: float, kl: tuple[float, ...] = ()) -> StageValues:
  """The stage as the update reads it; `kl` instead of its own beta."""
  return StageValues(
    pays=jnp.array(stage.pays, jnp.float32),
    bonus=jnp.array(stage.bonus, jnp.float32),
    kl=jnp.array(kl or stage.kl, jnp.float32),
    gamma=jnp.float32(stage.gamma),
    learning_rate=jnp.float32(learning_rate),
  )


def _restored_or_fresh(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
  with watchdog.phase('restore'):
    found = checkpoints.resume(runs.abstract_state(run), run.config.faults.forget_best)
    if found is None:
      return runs.initial_state(run), Progress.start()
    for step in _needed_later(run, found[1].step):
      if 0 < step <= found[1].step:
        checkpoints.check(step)
  logging.info('resuming from step %d', found[1].step)
  return found


def _make_up_evaluation(run: Run, state: TrainState, step: int) -> None:
  """Evaluates a step that was saved when the run was stopped in its evaluation."""
  every, line = run.config.eval.every, run.folder.last_metrics()
  if step and every and step % every == 0 and line.get('step') == step and 'eval' not in line:
    run.folder.cut_metrics(step - 1)
    run.folder.add_metrics(line | dict(eval=_evaluate(run, run.policy(state.params), f'step{step}')))


def enter(
  run: Run, visit: Visit, state: TrainState, step: int, checkpoints: Checkpoints
) -> tuple[TrainState, VisitData]:
  """What a visit needs, whether it is entered at its start or resumed in its middle."""
  if visit.stage.reference == 'base':
    reference = run.base_reference
  elif step == visit.first_step:
    reference = runs.put_params(run.mesh, run.trained, state.params, run.reference_dtype)
  else:
    begun = (
      checkpoints.params(visit.first_step, abstract_like(state.params))
      if visit.first_step
      else runs.initial_params(run)
    )
    reference = runs.put_params(run.mesh, run.trained, begun, run.reference_dtype)
  if visit.stage.optim.reset_moments and step == visit.first_step:
    state = state.replace(opt_state=runs.fresh_moments(state.params, run.optimizer, run.mesh, run.trained))
  return state, VisitData(visit, reference, offline.open_pool(run, visit.index, visit.stage))


def _is_due(run: Run, step: int, total: int) -> bool:
  """Whether to save after `step` steps: on the interval, at the end, and where a stage begins (its reference)."""
  starts = np.cumsum([stage.steps for stage in run.config.visits])
  return step % run.config.checkpoint.every == 0 or step == total or step in starts


def _needed_later(run: Run, step: int) -> tuple[int, ...]:
  """The checkpoint that holds the reference of the visit that goes on after `step`, if it is not the base."""
  visit = visit_at(run.config.visits, min(step, run.config.total_steps - 1))
  return (visit.first_step,) if visit.stage.reference == 'stage_start' else ()


def _evaluate(run: Run, policy: Any, name: str) -> dict[str, Any]:
  """The ledgers of a policy; its conversations go to rows/<name>.jsonl.gz."""
  settings = run.config.eval
  with watchdog.phase('evaluate'):
    results, conversations = evaluation.evaluate(
      run.sampler,
      run.task,
      run.grader,
      run.sampler.layout(policy),
      problems=settings.problems,
      seed=settings.seed,
      rows=run.config.rows,
    )
    rows.write(run.folder.rows / f'{name}.jsonl.gz', conversations)
  return results


def _watch(run: Run, done: int) -> Watch:
  return Watch(
    run.config.report,
    run.folder.path,
    run.folder.metrics,
    min(run.config.total_steps, run.config.max_steps or run.config.total_steps),
    done,
    shown=configs.as_dict(run.config),
    write_report=lambda: report.write([run.folder.path], run.folder.report),
  )


def _evaluate_base(run: Run) -> None:
  """Evaluates the base once; other settings of the evaluation begin eval.json anew."""
  settings = dict(problems=run.config.eval.problems, seed=run.config.eval.seed)
  if run.folder.read_eval().get('settings') != settings:
    run.folder.write_eval(dict(base=_evaluate(run, run.base_policy(), 'base'), settings=settings))
  print(terminal.evaluation_line('base', run.folder.read_eval()['base']), flush=True)


def _finish(run: Run, checkpoints: Checkpoints, state: TrainState, progress: Progress) -> None:
  """Evaluates `final` (the best) and `last`, writes hf/, prints the closing table."""
  best = progress.best_step or progress.step
  wanted = dict(final=best) if best == progress.step else dict(final=best, last=progress.step)
  params = {
    name: state.params if step == progress.step else checkpoints.params(step, abstract_like(state.params))
    for name, step in wanted.items()
  }
  before = run.folder.read_eval()
  results = {name: value for name, value in before.items() if name not in ('final', 'last')}
  for name, step in wanted.items():
    known = before.get(name, {}).get('step') == step
    results[name] = before[name] if known else _evaluate(run, run.policy(params[name]), name) | dict(step=step)
  run.folder.write_eval(results)
  with watchdog.phase('export'):
    hf_export.write_folder(
      run.folder.hf,
      loras.scaled(params['final'], run.config.lora),
      run.decoder,
      source=run.model_folder,
      tokenizer=run.sampler.chat.tokenizer if has_only_sentencepiece(run.model_folder) else None,
      dtype=hf.stored_dtypes(run.model_folder, run.decoder),
      chat_template=run.sampler.chat.tokenizer.chat_template if run.config.task.chat_template else '',
      replace=True,
    )
  evaluations = {name: results[name] for name in ('base', *wanted)}
  print(f'\n{terminal.table(evaluations)}\n')
  print(f'final is step {best}, in {run.folder.hf}; {run.folder.metrics.name} and {run.folder.eval.name} beside it')
  size = report.write([run.folder.path], run.folder.report)
  print(f'{run.folder.report} shows all of it in a browser ({size / 2**20:.1f} MB)')
