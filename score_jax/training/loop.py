"""The training loop: problems, rollout, verdicts, update, and what is kept of them.

A run is a pure function of its configuration: any step is decided by (seed, step) and the state, so a run that is
killed and started again ends where it would have ended.
"""

from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from score_jax.errors import NumericsError
from score_jax.models import lora as loras
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.reporting import metrics
from score_jax.reporting import profile
from score_jax.reporting import terminal
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
from score_jax.training import offline
from score_jax.training import optim
from score_jax.training import run as runs
from score_jax.training.run import Run
from score_jax.training.update import UpdateSpec
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
  """A step's rows, before they are sampled; of several hosts, those of this one."""

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
  """Trains from where the run folder stands to the end; then evaluates, exports and reports the best policy."""
  config = run.config
  checkpoints = Checkpoints(run.folder.checkpoints, keep=config.checkpoint.keep)
  state, progress = _restored_or_fresh(run, checkpoints)
  if hosts.is_main():
    run.folder.cut_metrics(progress.step)
  total = min(config.total_steps, config.max_steps or config.total_steps)
  _evaluate_base(run)
  bar = terminal.Progress(total, progress.step, shown=hosts.is_main())
  data, work = None, None
  while progress.step < total:
    visit = visit_at(config.visits, progress.step)
    if data is None or data.visit != visit:
      state, data = enter(run, visit, state, progress.step, checkpoints)
    with tracer.step():
      state, line, work = run_step(run, data, state, progress.step, work or work_of(run, data, progress.step))
    if config.eval.every and line['step'] % config.eval.every == 0:
      line['eval'] = _evaluate(run, run.policy(state.params))
      bar.say(terminal.evaluation_line(f'step {line["step"]}', line['eval']))
    if hosts.is_main():
      run.folder.add_metrics(line)
    bar.show(line)
    _stop_if_rejected(run, state)
    progress = progress.after_step(
      metrics.training_return(line) if visit.is_last else None, config.checkpoint.best_window
    )
    if _is_due(run, progress.step, total):
      # A run cut short by max_steps must not consider a step that the whole run would not.
      if _is_due(run, progress.step, config.total_steps):
        progress = progress.at_checkpoint()
      checkpoints.save(state, progress, protected=_needed_later(run, progress.step))
  bar.close()
  _finish(run, checkpoints, state, progress)


def run_step(
  run: Run, data: VisitData, state: TrainState, step: int, work: Work
) -> tuple[TrainState, dict[str, Any], Work | None]:
  """One step of SCoRe: the new state, its line of metrics, and the next step's work, if it is of the same visit."""
  stage, clock = data.visit.stage, Clock()
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
    verdict = grading.result()
    batch = batch.replace(verdict=meshes.put_rows(run.mesh, verdict[order]))
    # Before the update: nothing else may talk while it runs.
    shown = meshes.gather_rows(run.mesh, (verdict, rollout.stop, _tokens(rollout)))
  with clock('update'):
    rate = optim.learning_rate(stage, step - data.visit.first_step)
    reference = data.reference if spec.reference_in_update else None
    values = stage_values(stage, rate)
    state, results = update(state, run.frozen, reference, batch, values, spec=spec, optimizer=run.optimizer)
    ahead = work_of(run, data, step + 1) if step + 1 < data.visit.first_step + stage.steps else None
    results = jax.device_get(results)
  line = metrics.step_line(step + 1, stage, *shown, results, rate, clock.seconds)
  hosts.agree(f'step {step + 1}', {name: value for name, value in line.items() if name != 'seconds'})
  return state, line, ahead


def work_of(run: Run, data: VisitData, step: int) -> Work:
  """What the host can make ready of a step before the policy it samples from is known."""
  P, G = run.config.batch.problems, run.config.batch.samples
  count = offline.offline_count(data.visit.stage, P)
  forced = np.full((P, G, run.config.sampling.attempt_tokens[0]), -1, np.int32)
  trained = np.ones((P, G, run.config.attempts), bool)
  mine = meshes.local_rows(run.mesh, P * G)
  problems = {int(i): run.task.problem(run.config.seed, 'train', step * P + int(i)) for i in np.unique(mine // G)}
  if count:
    given, forced[:count] = data.pool.take(count, step - data.visit.first_step)
    problems |= dict(enumerate(given))
    trained[:count, :, 0] = False
  rows = [problems[int(i)] for i in mine // G]
  return Work(rows, run.sampler.encoded(rows), forced.reshape(P * G, -1)[mine], trained.reshape(P * G, -1)[mine])


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


def stage_values(stage: Stage, learning_rate: float) -> StageValues:
  """The stage as the update reads it."""
  return StageValues(
    pays=jnp.array(stage.pays, jnp.float32),
    bonus=jnp.array(stage.bonus, jnp.float32),
    kl=jnp.array(stage.kl, jnp.float32),
    gamma=jnp.float32(stage.gamma),
    learning_rate=jnp.float32(learning_rate),
  )


def _restored_or_fresh(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
  last = checkpoints.last_step()
  hosts.agree('the run folder', dict(last_checkpoint=last))
  if last is None:
    return runs.initial_state(run), Progress.start()
  logging.info('resuming from step %d', last)
  return checkpoints.state(last, runs.abstract_state(run)), checkpoints.progress(last)


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


def _stop_if_rejected(run: Run, state: TrainState) -> None:
  limit, in_a_row = run.config.optim.max_rejected_in_a_row, int(state.rejected_in_a_row)
  if in_a_row >= limit:
    raise NumericsError(
      f'{in_a_row} steps in a row had a non-finite loss, gradient or parameter and were rejected '
      f'(config.optim.max_rejected_in_a_row = {limit}); the last good checkpoint is kept in {run.folder.checkpoints}. '
      'Look at the last lines of metrics.jsonl, and begin a new --workdir with a lower learning rate, from this run by '
      '--config.init_from if it is worth it'
    )


def _evaluate(run: Run, policy: Any) -> dict[str, Any]:
  settings = run.config.eval
  return evaluation.evaluate(
    run.sampler,
    run.task,
    run.grader,
    run.sampler.layout(policy),
    problems=settings.problems,
    seed=settings.seed,
    rows=run.config.rows,
  )


def _evaluate_base(run: Run) -> None:
  """Evaluates the base once; other settings of the evaluation begin eval.json anew."""
  settings = dict(problems=run.config.eval.problems, seed=run.config.eval.seed)
  if hosts.from_main('eval.json', run.folder.read_eval).get('settings') != settings:
    results = dict(base=_evaluate(run, run.base_policy()), settings=settings)
    if hosts.is_main():
      run.folder.write_eval(results)
  if hosts.is_main():
    print(terminal.evaluation_line('base', run.folder.read_eval()['base']), flush=True)


def _finish(run: Run, checkpoints: Checkpoints, state: TrainState, progress: Progress) -> None:
  """Evaluates `final` (the best) and `last`, writes hf/, prints the closing table."""
  best = progress.best_step or progress.step
  wanted = dict(final=best) if best == progress.step else dict(final=best, last=progress.step)
  params = {
    name: state.params if step == progress.step else checkpoints.params(step, abstract_like(state.params))
    for name, step in wanted.items()
  }
  before = hosts.from_main('eval.json', run.folder.read_eval)
  results = {name: value for name, value in before.items() if name not in ('final', 'last')}
  for name, step in wanted.items():
    known = before.get(name, {}).get('step') == step
    results[name] = before[name] if known else _evaluate(run, run.policy(params[name])) | dict(step=step)
  if hosts.is_main():
    run.folder.write_eval(results)
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
  checkpoints.close()
  if hosts.is_main():
    evaluations = {name: results[name] for name in ('base', *wanted)}
    print(f'\n{terminal.table(evaluations)}\n')
    print(f'final is step {best}, in {run.folder.hf}; {run.folder.metrics.name} and {run.folder.eval.name} beside it')


class Clock:
  """Wall time by phase."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, phase: str):
    begun = time.perf_counter()
    yield
    self.seconds[phase] = round(time.perf_counter() - begun, 4)
