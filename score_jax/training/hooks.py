"""What happens around the steps of a run: hooks in a list, each with one job."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
import threading
from typing import Any

from score_jax import config as configs
from score_jax.errors import StoppedError
from score_jax.errors import TryAgainError
from score_jax.faults import signals
from score_jax.faults import watchdog
from score_jax.parallel import hosts
from score_jax.reporting import plain_text
from score_jax.reporting import report_page
from score_jax.reporting.monitor import Monitor
from score_jax.states import TrainState
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.progress import Progress
from score_jax.training import evaluation
from score_jax.training import limits
from score_jax.training import selection
from score_jax.training import stages
from score_jax.training.run import Run
from score_jax.training.stages import StageRun


@dataclasses.dataclass
class Training:
  """A run under way, as its hooks see it."""

  run: Run
  checkpoints: Checkpoints
  state: TrainState  # after the newest step; the next step consumes it
  progress: Progress
  stage_run: StageRun | None = None  # of the newest step; None before the first
  record: dict[str, Any] = dataclasses.field(default_factory=dict)  # the newest step's metrics
  stop: StoppedError | None = None  # set by a hook: once the step is saved, the run ends with it
  evaluations: dict[str, Any] = dataclasses.field(default_factory=dict)  # eval.json, once the run has ended
  say: Callable[[str], None] = print  # shows a line on the terminal of host 0


class Hook:
  """What a run does around each step; a subclass overrides what it needs.

  The thread that trains calls them, on every host alike: a hook that decides something must decide the same on all.
  They nest: after a step they are called in the order of the list, before a step in the reverse order.

  What a hook adds to `training.record` after a step, JSON values by name, is written to metrics.jsonl with that step.
  It may set `training.stop`. The run's result depends on a hook only if the hook changes `training.state` or
  `training.progress`; then a resumed run is exact only if the hook is.
  """

  def before_step(self, training: Training) -> None:
    """Is called before each step; `training.progress.step` steps are done."""

  def after_step(self, training: Training) -> None:
    """Is called after each step; `training.record` holds its metrics, with its evaluation if it has one."""

  def at_end(self, training: Training) -> None:
    """Is called once after the last step, before the final evaluation; not where the run is stopped before."""


def standard(training: Training, own: Sequence[Hook]) -> tuple[list[Hook], 'EmergencyCheckpointer']:
  """Returns the hooks of a run, the innermost first, and the one among them that saves in an emergency.

  The user's `own` see a step's evaluation, and what they add to its record is written.
  """
  emergency = EmergencyCheckpointer(training)
  hooks = [emergency, Evaluate(), *own, Record(emergency), Show(), Limits(), Save(emergency), Leave(emergency)]
  return hooks, emergency


class EmergencyCheckpointer(Hook):
  """Holds the newest complete step, and saves it at once: from the main thread, or from one that a signal woke."""

  def __init__(self, training: Training):
    self._run, self._checkpoints = training.run, training.checkpoints
    self._lock = threading.Lock()
    self._begun = training.progress.step  # what the run began or went on with, which needs no saving
    self._signals = contextlib.ExitStack()
    self._defers = False
    self.hold(training)

  def before_step(self, training: Training) -> None:
    """From the first step on, signals wait for the end of a step."""
    if not self._defers:
      self._defers = True
      self._signals.enter_context(signals.deferred(training.run.config.faults.grace_seconds, self.save_late))

  def close(self) -> None:
    """Lets signals end the process at once again."""
    self._signals.close()

  def after_step(self, training: Training) -> None:
    """Holds the step with its record, which is not written yet: an evaluation may still join it."""
    self.hold(training, dict(training.record))

  def hold(self, training: Training, unwritten: dict[str, Any] | None = None) -> None:
    """Holds the newest step; `unwritten` is its record while metrics.jsonl lacks it."""
    with self._lock:
      self._state, self._progress, self._unwritten = training.state, training.progress, unwritten

  def write(self, record: dict[str, Any]) -> None:
    """Adds the step's record to metrics.jsonl."""
    with self._lock:
      self._write(record)

  def _write(self, record: dict[str, Any]) -> None:
    if hosts.is_main():
      self._run.folder.add_metrics(record)
    self._unwritten = None

  def save(self) -> None:
    """Saves the step that is held, if it is newer than what the run began with.

    A step that is being evaluated is saved without its evaluation, which a resumed run makes up for.
    """
    with self._lock:
      if self._progress.step == self._begun:
        return
      if self._unwritten is not None:
        self._write(self._unwritten)
      needed = stages.needed_checkpoints(self._run.config, self._progress.step)
      self._checkpoints.save_now(self._state, self._progress, needed)

  def save_late(self) -> None:
    """Saves from the thread that ends the process after the grace period, if this process is the run's only one.

    Several processes save together or not at all, and where the others are is not known: only a save that is under way
    is waited for.
    """
    if hosts.count() == 1:
      self.save()
    else:
      with self._lock:
        pass


class Evaluate(Hook):
  """Evaluates the base before the first step, and the policy after the steps at which that falls due.

  At checkpoints the policy is measured for the choice of the best.
  """

  def __init__(self):
    self._base_is_known = False

  def before_step(self, training: Training) -> None:
    if not self._base_is_known:
      self._base_is_known = True
      results = evaluation.evaluate_base(training.run)
      if hosts.is_main():
        training.say(plain_text.evaluation_line('base', results['base']))

  def after_step(self, training: Training) -> None:
    training.record |= evaluations_due(training.run, training.state.params, training.record)

  def at_end(self, training: Training) -> None:
    self.before_step(training)  # of a run that had no step left


class Record(Hook):
  """Writes the step's record to metrics.jsonl."""

  def __init__(self, emergency: EmergencyCheckpointer):
    self._emergency = emergency

  def after_step(self, training: Training) -> None:
    self._emergency.write(training.record)


class Show(Hook):
  """Shows the run on host 0: terminal, alarms, trackers, the report on the way. An alarm stops the run on all hosts."""

  def __init__(self):
    self._monitor: Monitor | None = None

  def before_step(self, training: Training) -> None:
    if self._monitor is None and hosts.is_main():
      run = training.run
      self._monitor = Monitor(
        run.config.report,
        run.folder.path,
        run.folder.metrics,
        stages.last_step(run.config),
        training.progress.step,
        run_config=configs.as_dict(run.config),
        write_report=lambda: report_page.write([run.folder.path], run.folder.report),
      )
      self._monitor.begin()
      training.say = self._monitor.print

  def after_step(self, training: Training) -> None:
    record, stopped = training.record, None
    if self._monitor:
      if 'eval' in record:
        training.say(plain_text.evaluation_line(f'step {record["step"]}', record['eval']))
      stopped = self._monitor.after_step(record)
    message = hosts.from_main(f'alarms of step {record["step"]}', lambda: str(stopped) if stopped else '')
    if message:
      training.stop = StoppedError(message)

  def at_end(self, training: Training) -> None:
    if self._monitor:
      self._monitor.close()
      training.say = print


class Limits(Hook):
  """Ends a run whose numbers have left their limits; that step is not saved."""

  def after_step(self, training: Training) -> None:
    rejected = int(training.state.rejected_in_a_row)
    run = training.run
    limits.check(run.config, training.progress, training.record, rejected, run.folder.store.checkpoints)


class Save(Hook):
  """Saves the steps that are checkpoints, and the one after which a hook stops the run."""

  def __init__(self, emergency: EmergencyCheckpointer):
    self._emergency = emergency

  def after_step(self, training: Training) -> None:
    config, step = training.run.config, training.progress.step
    last = step == stages.last_step(config)
    if stages.is_checkpoint(config, step) or last or training.stop:
      with watchdog.phase('save'):
        needed = stages.needed_checkpoints(config, step)
        training.progress = selection.considered(
          config, training.checkpoints.settled(training.progress), training.record
        )
        # In the background, unless the run could not go on without it.
        save = training.checkpoints.save_now if last or step in needed else training.checkpoints.save
        save(training.state, training.progress, protected=needed)
      self._emergency.hold(training)
    if training.stop:
      training.checkpoints.wait()
      raise training.stop


class Leave(Hook):
  """Ends the run between two steps if a signal asked for that; everything that is done is saved."""

  def __init__(self, emergency: EmergencyCheckpointer):
    self._emergency = emergency

  def after_step(self, training: Training) -> None:
    step = training.progress.step
    if requested(step):
      with watchdog.phase('save'):
        self._emergency.save()
      raise TryAgainError(f'stopped by {signals.name()} after step {step}; run the same command again to go on')


def requested(step: int) -> bool:
  """Whether this process, or with several all of them at this same step, should end.

  One that was asked to is enough; all must call it, at every step.
  """
  # What they told each other counts: a signal that comes meanwhile is for the next step.
  asked = any(hosts.gather(f'whether to stop after step {step}', signals.requested()))
  if asked and not signals.requested():
    signals.request()
  return asked


def evaluations_due(run: Run, params: Any, record: dict[str, Any]) -> dict[str, Any]:
  """Returns what falls due after a step and its record lacks: `eval`, the ledgers, and `selection`, its measurement."""
  step, results = record['step'], {}
  if run.config.eval.every and step % run.config.eval.every == 0 and 'eval' not in record:
    results['eval'] = evaluation.evaluate_policy(run, run.policy(params), f'step{step}')
  if stages.is_measured(run.config, step) and 'selection' not in record:
    results['selection'] = selection.measure(run, params)
  return results
