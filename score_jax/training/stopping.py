"""Leaving a run early with everything saved that is done."""

from collections.abc import Callable
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

from score_jax.errors import TryAgainError
from score_jax.faults import signals
from score_jax.faults import watchdog
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
      self._folder.add_metrics(line)
      self._line = None

  def save(self) -> None:
    """Saves what is held, if it is newer than what the run began with.

    A step that is being evaluated is saved without its evaluation, which a resumed run makes up for.
    """
    with self._lock:
      if self._progress.step == self._restored:
        return
      if self._line is not None:
        self._folder.add_metrics(self._line)
        self._line = None
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

  JAX's preemption notifier takes SIGTERM where `jax.distributed` runs; it lets all processes agree on a step, so all
  must ask, at every step.
  """
  if jax.distributed.is_initialized():
    try:
      if multihost_utils.reached_preemption_sync_point(step):
        signals.request()
    except RuntimeError:  # jax_enable_preemption_service is off: SIGTERM is ours
      pass
  return signals.requested()
