# SPDX-License-Identifier: Apache-2.0
"""The training loop: which step is next, and how the run ends.

Seed, step number and state decide a step, so a resumed run ends as it would have.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import functools
from typing import Any

from absl import logging

from score_jax.faults import watchdog
from score_jax.models import lora as loras
from score_jax.parallel import hosts
from score_jax.reporting import model_card, plain_text, profile, report_page, rows
from score_jax.storage import checkpoints as saving
from score_jax.storage import hf, hf_export
from score_jax.storage.progress import Progress
from score_jax.training import evaluation, limits, specs, stages
from score_jax.training import hooks as hooking
from score_jax.training import run as runs
from score_jax.training.hooks import Hook, Training
from score_jax.training.methods import Method, score, supervised

METHODS: dict[str, Method] = dict(score=score, supervised=supervised)  # by config.mode


def train(
  run: runs.Run,
  *,
  method: Method | None = None,
  hooks: Sequence[Hook] = (),
  tracer: profile.Tracer = profile.NO_TRACE,
) -> Training:
  """Trains from where the run folder stands; evaluates, exports and reports the best policy.

  Args:
    run: opened.
    method: None: as config.mode says.
    hooks: the user's.
    tracer: of its first steps.

  Returns:
    the run as it ended.

  Raises:
    TryAgainError: it was asked to stop, or could not save; what is done is saved.
    StoppedError: an alarm or a hook stopped it; the step is saved.
    NumericsError: it left its limits.
  """
  with saving.open_checkpoints(run.config, run.folder) as checkpoints:
    training = _resumed(run, checkpoints)
    around = hooking.standard(training, hooks)
    with contextlib.ExitStack() as ends:
      for hook in around:
        ends.callback(hook.at_exit, training)
      with contextlib.closing(training.emergency):
        _make_steps(training, method or METHODS[run.config.mode], around, tracer)
      for hook in around:
        hook.at_end(training)
      _finish(training)
  return training


def _make_steps(training: Training, method: Method, hooks: Sequence[Hook], tracer: profile.Tracer) -> None:
  run, config = training.run, training.run.config
  last = stages.last_step(config)
  while training.progress.step < last:
    step = training.progress.step
    stage_run = training.stage_run = stages.stage_run_at(config.stage_runs, step)
    with watchdog.phase('enter'):
      training.state, context = method.enter(training)
    make = functools.partial(method.step_inputs, run, context)
    with contextlib.closing(prefetched(make, step, min(stage_run.end, last))) as all_inputs:
      for inputs in all_inputs:
        for hook in reversed(hooks):
          hook.before_step(training)
        with tracer.step():
          training.state, training.record = method.run_step(training, context, inputs)
        training.progress = limits.after_step(config, stage_run, training.progress, training.record)
        for hook in hooks:
          hook.after_step(training)


def prefetched(make: Callable[[int], Any], first: int, end: int) -> Iterator[Any]:
  """Yields make(first), ..., make(end - 1); a thread makes each while the one before is used."""
  with ThreadPoolExecutor(1, thread_name_prefix='inputs') as thread:
    inputs = make(first)
    for step in range(first + 1, end):
      ahead = thread.submit(make, step)
      yield inputs
      inputs = ahead.result()
    yield inputs


def _resumed(run: runs.Run, checkpoints: saving.Checkpoints) -> Training:
  """Returns the run, fresh or resumed; makes evaluations that a stop cut off."""
  config, folder = run.config, run.folder
  with watchdog.phase('restore'):
    abstract = specs.abstract_state_of(run.mesh, run.trained, run.optimizer)
    restored = checkpoints.resume(abstract, config.faults.forget_best)
    if restored is None:
      return Training(run, checkpoints, runs.initial_state(run), Progress())
    state, progress = restored
    step = progress.step
    for needed in stages.needed_checkpoints(config, step):
      if 0 < needed <= step:
        checkpoints.check(needed)
    logging.info('resuming from step %d', step)
  record = hosts.from_main('metrics.jsonl', folder.last_metrics)
  if record.get('step') == step:
    missing = evaluation.due(run, state.params, record)
    if missing and hosts.is_main():
      folder.cut_metrics(step - 1)
      folder.add_metrics(record | missing)
    if stages.is_measured(config, step):
      progress = stages.considered(config, progress, record | missing)
  return Training(run, checkpoints, state, progress, record=record)


def _finish(training: Training) -> None:
  """Evaluates `final` (the best) and `last`; exports and reports the best."""
  run, progress, params = training.run, training.progress, training.state.params
  best, last = progress.final_step, progress.step
  wanted = dict(final=(best, params))
  if best != last:
    best_params = training.checkpoints.params(best, saving.abstract_like(params))
    wanted = dict(final=(best, best_params), last=(last, params))
  training.evaluations = evaluation.evaluate_ends(run, wanted)
  card = _card(run, training.evaluations) if hosts.is_main() else ''
  with watchdog.phase('export'):
    hf_export.write_folder(
      run.folder.hf,
      loras.scaled(wanted['final'][1], run.config.lora),
      run.decoder,
      source=run.model_folder,
      dtype=hf.open_weights(run.model_folder, run.decoder).dtypes(),
      chat_template=run.sampler.chat.template,
      replace=True,
      card=card,
    )
  if not hosts.is_main():
    return
  folder, root = run.folder, run.folder.store.root
  print(f'\n{plain_text.table({name: training.evaluations[name] for name in ("base", *wanted)})}\n')
  size = report_page.write([folder.path], folder.report)
  with watchdog.phase('export'):
    folder.store.copy_results()
  print(f'final is step {best}, in {root / "hf"}; {folder.metrics.name} and {folder.eval.name} beside it')
  print(f'{root / folder.report.name} shows all of it in a browser ({size / 2**20:.1f} MB)')


def _card(run: runs.Run, evaluations: dict[str, Any]) -> str:
  """The model card of the final policy."""
  folder, final = run.folder, evaluations['final']
  known = dict(step=final['step'], base=evaluations.get('base', {}), policy=final)
  example = model_card.example_of(rows.read(folder.rows / 'final.jsonl.gz'))
  return model_card.text(model_card.Subject(folder.store.root.name, folder.read_config(), **known, example=example))
