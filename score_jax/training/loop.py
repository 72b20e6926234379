"""The training loop: which step is next, when it is saved and evaluated, and when the run ends.

A run is a pure function of its configuration: any step is decided by (seed, step) and the state, so a run that is
killed and started again ends where it would have ended.
"""

import functools
from typing import Any
from typing import Protocol

from absl import logging
import numpy as np

from score_jax import config as configs
from score_jax.core_types import Stage
from score_jax.errors import StoppedError
from score_jax.faults import signals
from score_jax.faults import watchdog
from score_jax.models import lora as loras
from score_jax.parallel import hosts
from score_jax.reporting import plain_text
from score_jax.reporting import profile
from score_jax.reporting import report_page
from score_jax.reporting import rows
from score_jax.reporting.monitor import Monitor
from score_jax.reporting.monitor import NullMonitor
from score_jax.states import TrainState
from score_jax.storage import hf
from score_jax.storage import hf_export
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.checkpoints import Progress
from score_jax.storage.checkpoints import abstract_like
from score_jax.storage.checkpoints import open_checkpoints
from score_jax.training import evaluation
from score_jax.training import limits
from score_jax.training import offline
from score_jax.training import run as runs
from score_jax.training import selection
from score_jax.training import step as steps
from score_jax.training import stopping
from score_jax.training.run import Run
from score_jax.training.step import StageContext
from score_jax.training.step import StageRun


def visit_at(stage_runs: tuple[Stage, ...], step: int) -> StageRun:
  """The stage_run that step number `step` (0-based) belongs to."""
  first = 0
  for index, stage in enumerate(stage_runs):
    if step < first + stage.steps:
      return StageRun(index, stage, first, index == len(stage_runs) - 1)
    first += stage.steps
  raise ValueError(f'step {step} lies beyond the last stage')


class Method(Protocol):
  """How a run's steps are made; everything around them is the loop's."""

  def enter(
    self, run: Run, stage_run: StageRun, state: TrainState, step: int, checkpoints: Checkpoints
  ) -> tuple[TrainState, Any]:
    """What a stage_run needs, whether it is entered at its start or resumed in its middle; it has a field `stage_run`."""

  def work_of(self, run: Run, data: Any, step: int) -> Any:
    """What the host can make ready of a step."""

  def run_step(
    self, run: Run, data: Any, state: TrainState, step: int, work: Any, kl: tuple[float, ...]
  ) -> tuple[TrainState, dict[str, Any], Any]:
    """The new state, the step's line of metrics, and the next step's work, if it is of the same stage_run."""


class Score:
  """The method itself: reinforcement on the policy's own attempts."""

  def enter(
    self, run: Run, stage_run: StageRun, state: TrainState, step: int, checkpoints: Checkpoints
  ) -> tuple[TrainState, StageContext]:
    return enter(run, stage_run, state, step, checkpoints)

  def work_of(self, run: Run, data: StageContext, step: int) -> steps.Work:
    return steps.work_of(run, data, step)

  def run_step(
    self, run: Run, data: StageContext, state: TrainState, step: int, work: steps.Work, kl: tuple[float, ...]
  ) -> tuple[TrainState, dict[str, Any], steps.Work | None]:
    return steps.run_step(run, data, state, step, work, kl)


def train(run: Run, tracer: profile.Tracer = profile.NO_TRACE, method: Method | None = None) -> None:
  """Trains from where the run folder stands to the end; then evaluates, exports and reports the best policy.

  Args:
    run: opened.
    tracer: of its first steps.
    method: how its steps are made; None: SCoRe's.

  Raises:
    TryAgainError: it was asked to stop, or could not save; what is done is saved.
    StoppedError: an alarm that config.report.stop_on names has sounded; the step is saved.
    NumericsError: it left its limits.
  """
  with open_checkpoints(run.config, run.folder) as checkpoints:
    state, progress = _restored_or_fresh(run, checkpoints)
    progress = _make_up(run, state, progress)
    watch = _watch(run, progress.step)
    _evaluate_base(run)
    state, progress = _train_steps(run, method or Score(), checkpoints, state, progress, tracer, watch)
    _finish(run, checkpoints, state, progress)


def _train_steps(
  run: Run,
  method: Method,
  checkpoints: Checkpoints,
  state: TrainState,
  progress: Progress,
  tracer: profile.Tracer,
  watch: Monitor | NullMonitor,
) -> tuple[TrainState, Progress]:
  config, total = run.config, _total(run)
  keeper = stopping.Keeper(run.folder, checkpoints, functools.partial(_needed_later, run))
  keeper.begin(state, progress)
  watch.begin()
  data, work = None, None
  with signals.deferred(config.faults.grace_seconds, keeper.save_late):
    while progress.step < total:
      stage_run = visit_at(config.stage_runs, progress.step)
      if data is None or data.stage_run != stage_run:
        with watchdog.phase('enter'):
          state, data = method.enter(run, stage_run, state, progress.step, checkpoints)
      with tracer.step():
        kl = limits.kl_weights(stage_run.stage, progress)
        work = work or method.work_of(run, data, progress.step)
        state, line, work = method.run_step(run, data, state, progress.step, work, kl)
      ends = progress.step + 1 == stage_run.first_step + stage_run.stage.steps
      progress = limits.after_step(config, stage_run.stage, progress, line, stage_run.is_last, ends)
      keeper.hold(state, progress, line)
      if config.eval.every and line['step'] % config.eval.every == 0:
        line['eval'] = _evaluate(run, run.policy(state.params), f'step{line["step"]}')
        watch.print(plain_text.evaluation_line(f'step {line["step"]}', line['eval']))
      if _is_measured(run, progress.step):
        line['selection'] = selection.measure(run, state.params)
      keeper.write(line)
      stopped = _stopped_by_alarm(watch, line)
      limits.check(config, progress, line, int(state.rejected_in_a_row), run.folder.store.checkpoints)
      if _is_due(run, progress.step, total) or stopped:
        progress = _save(run, checkpoints, state, progress, total, line)
        keeper.hold(state, progress)
      if stopped:
        checkpoints.wait()
        raise stopped
      keeper.leave_if_asked(progress.step)
  watch.close()
  return state, progress


def _stopped_by_alarm(watch: Monitor | NullMonitor, line: dict[str, Any]) -> StoppedError | None:
  """Host 0 listens to the alarms; all hosts stop where it does."""
  stopped = watch.after_step(line)
  said = hosts.from_main(f'alarms of step {line["step"]}', lambda: str(stopped) if stopped else '')
  return StoppedError(said) if said else None


def _save(
  run: Run, checkpoints: Checkpoints, state: TrainState, progress: Progress, total: int, line: dict[str, Any]
) -> Progress:
  """Saves a step, in the background unless the run could not go on without it; its Progress as it was saved."""
  with watchdog.phase('save'):
    progress = _considered(run, checkpoints.settled(progress), line)
    needed = _needed_later(run, progress.step)
    if progress.step == total or progress.step in needed:
      checkpoints.save_now(state, progress, protected=needed)
    else:
      checkpoints.save(state, progress, protected=needed)
  return progress


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


def _make_up(run: Run, state: TrainState, progress: Progress) -> Progress:
  """Evaluates and measures a step that was saved when the run was stopped there; Progress that knows of it."""
  step, every = progress.step, run.config.eval.every
  line = hosts.from_main('metrics.jsonl', run.folder.last_metrics)
  if not step or line.get('step') != step:
    return progress
  missing = dict(line)
  if every and step % every == 0 and 'eval' not in line:
    missing['eval'] = _evaluate(run, run.policy(state.params), f'step{step}')
  if _is_measured(run, step) and 'selection' not in line:
    missing['selection'] = selection.measure(run, state.params)
  if missing != line and hosts.is_main():
    run.folder.cut_metrics(step - 1)
    run.folder.add_metrics(missing)
  return _considered(run, progress, missing) if _is_measured(run, step) else progress


def enter(
  run: Run, stage_run: StageRun, state: TrainState, step: int, checkpoints: Checkpoints
) -> tuple[TrainState, StageContext]:
  """What a stage_run needs, whether it is entered at its start or resumed in its middle."""
  if stage_run.stage.reference == 'base':
    reference = run.base_reference
  elif step == stage_run.first_step:
    reference = runs.put_params(run.mesh, run.trained, state.params, run.reference_dtype)
  else:
    begun = (
      checkpoints.params(stage_run.first_step, abstract_like(state.params))
      if stage_run.first_step
      else runs.initial_params(run)
    )
    reference = runs.put_params(run.mesh, run.trained, begun, run.reference_dtype)
  if stage_run.stage.optim.reset_moments and step == stage_run.first_step:
    state = state.replace(opt_state=runs.fresh_moments(state.params, run.optimizer, run.mesh, run.trained))
  return state, StageContext(stage_run, reference, offline.open_pool(run, stage_run.index, stage_run.stage))


def _is_due(run: Run, step: int, total: int) -> bool:
  """Whether to save after `step` steps: on the interval, at the end, and where a stage begins (its reference)."""
  starts = np.cumsum([stage.steps for stage in run.config.stage_runs])
  return step % run.config.checkpoint.every == 0 or step == total or step in starts


def _is_measured(run: Run, step: int) -> bool:
  """Whether the policy after `step` steps answers the problems of config.selection: at all regular checkpoints."""
  return bool(run.config.selection.problems) and _is_due(run, step, run.config.total_steps)


def _considered(run: Run, progress: Progress, line: dict[str, Any]) -> Progress:
  """With the best updated, if the step is a checkpoint of the last stage.

  A run cut short by max_steps must not consider a step that the whole run would not.
  """
  in_last_stage = visit_at(run.config.stage_runs, progress.step - 1).is_last
  if not in_last_stage or not _is_due(run, progress.step, run.config.total_steps):
    return progress
  return progress.at_checkpoint(line['selection']['return'] if run.config.selection.problems else None)


def _needed_later(run: Run, step: int) -> tuple[int, ...]:
  """The checkpoint that holds the reference of the stage_run that goes on after `step`, if it is not the base."""
  stage_run = visit_at(run.config.stage_runs, min(step, run.config.total_steps - 1))
  return (stage_run.first_step,) if stage_run.stage.reference == 'stage_start' else ()


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
    if hosts.is_main():
      rows.write(run.folder.rows / f'{name}.jsonl.gz', conversations)
  return results


def _total(run: Run) -> int:
  return min(run.config.total_steps, run.config.max_steps or run.config.total_steps)


def _watch(run: Run, done: int) -> Monitor | NullMonitor:
  if not hosts.is_main():
    return NullMonitor()
  return Monitor(
    run.config.report,
    run.folder.path,
    run.folder.metrics,
    _total(run),
    done,
    run_config=configs.as_dict(run.config),
    write_report=lambda: report_page.write([run.folder.path], run.folder.report),
  )


def _evaluate_base(run: Run) -> None:
  """Evaluates the base once; other settings of the evaluation begin eval.json anew."""
  settings = dict(problems=run.config.eval.problems, seed=run.config.eval.seed)
  if hosts.from_main('eval.json', run.folder.read_eval).get('settings') != settings:
    results = dict(base=_evaluate(run, run.base_policy(), 'base'), settings=settings)
    if hosts.is_main():
      run.folder.write_eval(results)
  if hosts.is_main():
    print(plain_text.evaluation_line('base', run.folder.read_eval()['base']), flush=True)


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
    results[name] = before[name] if known else _evaluate(run, run.policy(params[name]), name) | dict(step=step)
  if hosts.is_main():
    run.folder.write_eval(results)
  with watchdog.phase('export'):
    hf_export.write_folder(
      run.folder.hf,
      loras.scaled(params['final'], run.config.lora),
      run.decoder,
      source=run.model_folder,
      dtype=hf.stored_dtypes(run.model_folder, run.decoder),
      chat_template=run.sampler.chat.tokenizer.chat_template if run.config.task.chat_template else '',
      replace=True,
    )
  if not hosts.is_main():
    return
  evaluations = {name: results[name] for name in ('base', *wanted)}
  print(f'\n{plain_text.table(evaluations)}\n')
  size = report_page.write([run.folder.path], run.folder.report)
  with watchdog.phase('export'):
    run.folder.store.copy_results()
  root = run.folder.store.root
  print(f'final is step {best}, in {root / "hf"}; {run.folder.metrics.name} and {run.folder.eval.name} beside it')
  print(f'{root / run.folder.report.name} shows all of it in a browser ({size / 2**20:.1f} MB)')
