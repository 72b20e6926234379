# SPDX-License-Identifier: Apache-2.0
"""What happens around the steps of a run."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import sys
import threading
from typing import Any

import jax

from score_jax import errors
from score_jax.faults import signals, watchdog
from score_jax.parallel import hosts
from score_jax.reporting import plain_text, report_page, trackers
from score_jax.reporting.monitor import Monitor
from score_jax.states import TrainState
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.progress import Progress
from score_jax.training import evaluation, limits, stages
from score_jax.training.run import Run


@dataclasses.dataclass
class Training:
  """A run under way, as its hooks see it."""

  run: Run
  checkpoints: Checkpoints
  state: TrainState  # after the newest step; the next step consumes it
  progress: Progress
  stage_run: stages.StageRun | None = None  # of the newest step
  record: dict[str, Any] = dataclasses.field(default_factory=dict)  # the newest step's metrics
  stop: errors.StoppedError | None = None  # ends the run once the step is saved
  say: Callable[[str], None] = print  # on the terminal of host 0
  evaluations: dict[str, Any] = dataclasses.field(default_factory=dict)  # eval.json, at the end

  def __post_init__(self):
    self.emergency = EmergencyCheckpointer(self)


class Hook:
  """What a run does around each step; a subclass overrides what it needs.

  The thread that trains calls hooks on every host, and all must decide the same. After a step they come in the order
  of the list, before it in reverse.

  A hook may set `training.stop`, and add JSON values to `training.record` for metrics.jsonl. A resumed run is exact if
  the hooks that change `training.state` or `.progress` are.
  """

  def before_step(self, training: Training) -> None:
    """Comes before each step."""

  def after_step(self, training: Training) -> None:
    """Comes after each step, of which `training.record` is."""

  def at_end(self, training: Training) -> None:
    """Comes once, before the final evaluation, unless the run is stopped."""

  def at_exit(self, training: Training) -> None:
    """Comes once, however the run ends."""


def standard(training: Training, own: Sequence[Hook]) -> list[Hook]:
  """Returns a run's hooks; the user's `own` see a step's evaluation."""
  return [training.emergency, Evaluate(), *own, Report(), Track(), Limits(), Checkpoint()]


class EmergencyCheckpointer(Hook):
  """Holds the newest complete step, to save it at a signal."""

  def __init__(self, training: Training):
    self._run, self._checkpoints = training.run, training.checkpoints
    self._lock = threading.RLock()
    self._signals = contextlib.ExitStack()
    self._defers = False
    self._begun = training.progress.step  # is saved
    self.hold(training)

  def before_step(self, training: Training) -> None:
    """Lets signals wait for the end of a step."""
    if not self._defers:
      self._defers = True
      self._signals.enter_context(signals.deferred(training.run.config.faults.grace_seconds, self.save_late))

  def close(self) -> None:
    """Lets signals end the process at once again."""
    self._signals.close()

  def after_step(self, training: Training) -> None:
    """Holds the step; an evaluation may still join its record."""
    self.hold(training, dict(training.record))

  def hold(self, training: Training, unwritten: dict[str, Any] | None = None) -> None:
    """Holds the newest step; `unwritten` is its record, if metrics.jsonl lacks it."""
    with self._lock:
      self._state, self._progress, self._unwritten = training.state, training.progress, unwritten

  def write(self, record: dict[str, Any]) -> None:
    """Adds the step's record to metrics.jsonl."""
    with self._lock:
      if hosts.is_main():
        self._run.folder.add_metrics(record)
      self._unwritten = None

  def save(self) -> None:
    """Saves the step that is held, if it is new."""
    with self._lock:
      if self._progress.step == self._begun:
        return
      if self._unwritten is not None:
        self.write(self._unwritten)
      needed = stages.needed_checkpoints(self._run.config, self._progress.step)
      self._checkpoints.save_now(self._state, self._progress, needed)

  def save_late(self) -> None:
    """Saves from the thread that ends the process after the grace period.

    The step under way may have consumed the state. One of several processes only waits for a save that is under way.
    """
    if hosts.count() > 1:
      with self._lock:
        return
    if not any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(self._state)):
      self.save()
      return
    self._checkpoints.wait()
    if self._progress.step not in (self._begun, *self._checkpoints.steps()):
      print(
        f'\nwarning: step {self._progress.step} cannot be saved, the next one has consumed it; '
        f'{self._checkpoints.last_saved()}. If steps take long, set a larger config.faults.grace_seconds',
        file=sys.stderr,
        flush=True,
      )


class Evaluate(Hook):
  """Evaluates the base, then the policy when that falls due."""

  _base_is_known = False

  def before_step(self, training: Training) -> None:
    if not self._base_is_known:
      self._base_is_known = True
      results = evaluation.evaluate_base(training.run)
      if hosts.is_main():
        training.say(plain_text.evaluation_line('base', results['base']))

  def after_step(self, training: Training) -> None:
    training.record |= evaluation.due(training.run, training.state.params, training.record)

  def at_end(self, training: Training) -> None:
    self.before_step(training)  # if no step was left


class Report(Hook):
  """Writes and shows the step's record; alarms of config.report.stop_on stop all hosts."""

  _monitor: Monitor | None = None

  def before_step(self, training: Training) -> None:
    if self._monitor is None and hosts.is_main():
      config, folder = training.run.config, training.run.folder
      self._monitor = Monitor(
        config.report,
        folder.metrics,
        stages.last_step(config),
        training.progress.step,
        write_report=lambda: report_page.write([folder.path], folder.report),
      )
      training.say = self._monitor.print

  def after_step(self, training: Training) -> None:
    record, stopped = training.record, None
    name = f'step {record["step"]}'
    training.emergency.write(record)
    if self._monitor:
      if 'eval' in record:
        training.say(plain_text.evaluation_line(name, record['eval']))
      stopped = self._monitor.after_step(record)
    message = hosts.from_main(f'alarms of {name}', lambda: str(stopped or ''))
    if message:
      training.stop = errors.StoppedError(message)

  def at_end(self, training: Training) -> None:
    self.before_step(training)  # of a run that had no step left
    if self._monitor:
      self._monitor.close()
      training.say = print


class Track(Hook):
  """Sends trackers the steps that are saved; what waits for a checkpoint is in metrics.jsonl."""

  _feed: trackers.Feed | None = None

  def before_step(self, training: Training) -> None:
    if self._feed is None and hosts.is_main():
      config, folder = training.run.config, training.run.folder
      written = folder.read_config()
      info = trackers.RunInfo(folder.path, folder.store.root.name, written['run_id'], written['config'])
      self._feed = trackers.Feed(
        trackers.open_trackers(config.report, info),
        folder.path,
        every=config.checkpoint.every,
        last=stages.last_step(config),
        rows=config.report.rows,
        say=training.say,
      )

  def after_step(self, training: Training) -> None:
    if self._feed:
      self._feed.up_to(training.checkpoints.committed_step())

  def at_end(self, training: Training) -> None:
    self.before_step(training)  # of a run that had no step left

  def at_exit(self, training: Training) -> None:
    if self._feed:
      self._feed.up_to(training.checkpoints.committed_step())
      self._feed.close(training.evaluations)


class Limits(Hook):
  """Ends a run whose numbers have left their limits; that step is not saved."""

  def after_step(self, training: Training) -> None:
    run, rejected = training.run, int(training.state.rejected_in_a_row)
    limits.check(run.config, training.progress, training.record, rejected, run.folder.store.checkpoints)


class Checkpoint(Hook):
  """Saves checkpoints; ends the run if a hook or signal asks."""

  def after_step(self, training: Training) -> None:
    config, step = training.run.config, training.progress.step
    last = step == stages.last_step(config)
    if stages.is_checkpoint(config, step) or last or training.stop:
      with watchdog.phase('save'):
        settled = training.checkpoints.settled(training.progress)
        training.progress = stages.considered(config, settled, training.record)
        needed = stages.needed_checkpoints(config, step)
        # In the background, unless the run could not go on without it.
        save = training.checkpoints.save_now if last or step in needed else training.checkpoints.save
        save(training.state, training.progress, protected=needed)
      training.emergency.hold(training)
    if training.stop:
      training.checkpoints.wait()
      raise training.stop
    if requested(step):
      with watchdog.phase('save'):
        training.emergency.save()
      raise errors.TryAgainError(f'stopped by {signals.name()} after step {step}; run the same command again to go on')


def requested(step: int) -> bool:
  """Whether all processes should end. All call it at every step."""
  # A signal that comes meanwhile is for the next step.
  asked = hosts.combined(f'whether to stop after step {step}', signals.requested(), any)
  if asked and not signals.requested():
    signals.request()
  return asked
