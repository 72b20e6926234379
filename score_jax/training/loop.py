"""The training loop: which step is next, what happens around it, and how the run ends.

A run is a pure function of its configuration: any step is decided by (seed, step) and the state, so a run that is
killed and started again ends where it would have ended.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import functools
from typing import Any

from absl import logging

from score_jax.faults import watchdog
from score_jax.models import lora as loras
from score_jax.parallel import hosts
from score_jax.reporting import plain_text
from score_jax.reporting import profile
from score_jax.reporting import report_page
from score_jax.storage import hf
from score_jax.storage import hf_export
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.checkpoints import abstract_like
from score_jax.storage.checkpoints import open_checkpoints
from score_jax.storage.progress import Progress
from score_jax.training import evaluation
from score_jax.training import hooks as hooking
from score_jax.training import limits
from score_jax.training import run as runs
from score_jax.training import stages
from score_jax.training.hooks import Hook
from score_jax.training.hooks import Training
from score_jax.training.methods import Method
from score_jax.training.methods import score
from score_jax.training.methods import supervised
from score_jax.training.run import Run

METHODS: dict[str, Method] = dict(score=score, supervised=supervised)  # by config.mode


def train(
  run: Run, *, method: Method | None = None, hooks: Sequence[Hook] = (), tracer: profile.Tracer = profile.NO_TRACE
) -> Training:
  """Trains from where the run folder stands to the end; then evaluates, exports and reports the best policy.

  Args:
    run: opened.
    method: how its steps are made; None: as config.mode says.
    hooks: the user's, beside the run's own (`hooks.standard`).
    tracer: of its first steps.

  Returns:
    the run as it ended: state, progress, and `evaluations` of its policies.

  Raises:
    TryAgainError: it was asked to stop, or could not save; what is done is saved.
    StoppedError: an alarm of config.report.stop_on has sounded, or a hook stopped the run; the step is saved.
    NumericsError: it left its limits.
  """
  with open_checkpoints(run.config, run.folder) as checkpoints:
    training = _resumed(run, checkpoints)
    around = hooking.standard(training, hooks)
    with contextlib.closing(training.emergency):
      _make_steps(training, method or METHODS[run.config.mode], around, tracer)
    for hook in around:
      hook.at_end(training)
    _finish(training)
  return training


def _make_steps(training: Training, method: Method, hooks: Sequence[Hook], tracer: profile.Tracer) -> None:
  """Makes the steps that are left."""
  run, last = training.run, stages.last_step(training.run.config)
  while training.progress.step < last:
    step = training.progress.step
    stage_run = training.stage_run = stages.stage_run_at(run.config.stage_runs, step)
    with watchdog.phase('enter'):
      training.state, context = method.enter(run, stage_run, training.state, step, training.checkpoints)
    make = functools.partial(method.step_inputs, run, context)
    with contextlib.closing(prefetched(make, step, min(stage_run.end, last))) as inputs_of_steps:
      for inputs in inputs_of_steps:
        for hook in reversed(hooks):
          hook.before_step(training)
        with tracer.step():
          training.state, training.record = method.run_step(run, context, training.state, training.progress, inputs)
        training.progress = limits.after_step(run.config, stage_run, training.progress, training.record)
        for hook in hooks:
          hook.after_step(training)


def prefetched(make: Callable[[int], Any], first: int, end: int) -> Iterator[Any]:
  """Yields make(first), ..., make(end - 1); a thread makes each while the caller is busy with the one before it."""
  with ThreadPoolExecutor(1, thread_name_prefix='inputs') as thread:
    inputs = make(first)
    for step in range(first + 1, end):
      ahead = thread.submit(make, step)
      yield inputs
      inputs = ahead.result()
    yield inputs


def _resumed(run: Run, checkpoints: Checkpoints) -> Training:
  """Returns the run as it stands: fresh, or with its files as its newest whole checkpoint left it.

  What a stop has cut off after that step, its evaluation or its measurement, is made up for.
  """
  with watchdog.phase('restore'):
    restored = checkpoints.resume(runs.abstract_state(run), run.config.faults.forget_best)
    if restored is None:
      return Training(run, checkpoints, runs.initial_state(run), Progress())
    state, progress = restored
    step = progress.step
    for needed in stages.needed_checkpoints(run.config, step):
      if 0 < needed <= step:
        checkpoints.check(needed)
    logging.info('resuming from step %d', step)
  record = hosts.from_main('metrics.jsonl', run.folder.last_metrics)
  if record.get('step') == step:
    missing = evaluation.due(run, state.params, record)
    if missing and hosts.is_main():
      run.folder.cut_metrics(step - 1)
      run.folder.add_metrics(record | missing)
    if stages.is_measured(run.config, step):
      progress = stages.considered(run.config, progress, record | missing)
  return Training(run, checkpoints, state, progress, record=record)


def _finish(training: Training) -> None:
  """Evaluates `final` (the best) and `last`, exports the best to hf/, writes the report, prints the closing table."""
  run, progress, params = training.run, training.progress, training.state.params
  best = progress.final_step
  wanted = dict(final=best) if best == progress.step else dict(final=best, last=progress.step)
  trained = {
    name: params if step == progress.step else training.checkpoints.params(step, abstract_like(params))
    for name, step in wanted.items()
  }
  training.evaluations = evaluation.evaluate_ends(run, {name: (wanted[name], trained[name]) for name in wanted})
  with watchdog.phase('export'):
    hf_export.write_folder(
      run.folder.hf,
      loras.scaled(trained['final'], run.config.lora),
      run.decoder,
      source=run.model_folder,
      dtype=hf.open_weights(run.model_folder, run.decoder).dtypes(),
      chat_template=run.sampler.chat.tokenizer.chat_template if run.config.task.chat_template else '',
      replace=True,
    )
  if not hosts.is_main():
    return
  folder = run.folder
  print(f'\n{plain_text.table({name: training.evaluations[name] for name in ("base", *wanted)})}\n')
  size = report_page.write([folder.path], folder.report)
  with watchdog.phase('export'):
    folder.store.copy_results()
  root = folder.store.root
  print(f'final is step {best}, in {root / "hf"}; {folder.metrics.name} and {folder.eval.name} beside it')
  print(f'{root / folder.report.name} shows all of it in a browser ({size / 2**20:.1f} MB)')
