"""Leaving a run early with everything saved that is done."""

from collections.abc import Callable
import threading
from typing import Any

from score_jax.errors import TryAgainError
from score_jax.faults import signals
from score_jax.faults import watchdog
from score_jax.parallel import hosts
from score_jax.states import TrainState
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.progress import Progress
from score_jax.storage.run_folder import RunFolder


class Keeper:
  """The newest state that is complete, and how to save it at once; from the main thread or from another."""

  def __init__(self, folder: RunFolder, checkpoints: Checkpoints, protected: Callable[[int], tuple[int, ...]]):
    self._folder, self._checkpoints, self._protected = folder, checkpoints, protected
    self._lock = threading.Lock()
    self._state: TrainState | None = None
    self._progress: Progress | None = None
    self._line: dict[str, Any] | None = None  # of the step, while metrics.jsonl lacks it
    self._restored = 0

  def begin(self, state: TrainState, progress: Progress) -> None:
    """What the run begins or goes on with, which needs no saving."""
    self._state, self._progress, self._restored = state, progress, progress.step

  def hold(self, state: TrainState, progress: Progress, line: dict[str, Any] | None = None) -> None:
    """A step is done. Its `line`, if it is given, is not written yet: an evaluation may still join it."""
    with self._lock:
      self._state, self._progress, self._line = state, progress, dict(line) if line else None

  def write(self, line: dict[str, Any]) -> None:
    """Adds the step's line, evaluated."""
    with self._lock:
      self._add(line)

  def _add(self, line: dict[str, Any]) -> None:
    if hosts.is_main():
      self._folder.add_metrics(line)
    self._line = None

  def save_late(self) -> None:
    """From the thread that ends the process when the grace period is over: saves, if this process is alone.

    Several processes save together or not at all, and where the others are is not known: only a save that is under way
    is waited for.
    """
    if hosts.count() == 1:
      self.save()
    else:
      with self._lock:
        pass

  def save(self) -> None:
    """Saves what is held, if it is newer than what the run began with.

    A step that is being evaluated is saved without its evaluation, which a resumed run makes up for.
    """
    with self._lock:
      if self._progress.step == self._restored:
        return
      if self._line is not None:
        self._add(self._line)
      self._checkpoints.save_now(self._state, self._progress, self._protected(self._progress.step))

  def leave_if_asked(self, step: int) -> None:
    """Between two steps.

    Raises:
      TryAgainError: a signal came, or a notice of preemption; everything is saved.
    """
    if requested(step):
      with watchdog.phase('save'):
        self.save()
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
