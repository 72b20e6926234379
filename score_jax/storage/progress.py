# SPDX-License-Identifier: Apache-2.0
"""Where a run stands beside its arrays, and which of its steps is the best; nothing else decides that."""

from collections.abc import Collection
import dataclasses
from typing import Any

REJECTED_WINDOW = 200  # steps


@dataclasses.dataclass(frozen=True)
class Progress:
  """What the host decides from step to step, saved with each checkpoint. Floats survive JSON exactly."""

  step: int = 0  # updates done
  recent_returns: tuple[float, ...] = ()  # of the newest steps of the last stage, at most a window
  best_step: int = 0  # checkpoint with the highest mean of them; 0: none yet
  best_return: float = 0.0  # that mean; 0 while there is none
  kl_scale: tuple[float, ...] = ()  # [A] what an adaptive beta is multiplied with; (): as a stage begins
  rejected: tuple[int, ...] = ()  # steps that were rejected, of the newest REJECTED_WINDOW
  over_limit: tuple[int, ...] = (0, 0)  # newest steps in a row over the limit of (KL, mismatch)

  @classmethod
  def from_json(cls, fields: dict[str, Any]) -> 'Progress':
    """Returns what `dataclasses.asdict` was given, after JSON."""
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

  @property
  def final_step(self) -> int:
    """The step whose policy is the run's result: the best, or the newest while there is none."""
    return self.best_step or self.step

  def after_step(self, record: dict[str, Any], in_last_stage: bool, window: int) -> 'Progress':
    """Returns the progress one step further.

    A training return is the mean over rows of a step's rewards, bonus included, all attempts added. It counts within
    the last stage alone, because scales differ between stages; a supervised step has none.
    """
    recent = self.recent_returns
    if in_last_stage and 'reward' in record:
      recent = (*recent, float(sum(record['reward'])))[-window:]
    return dataclasses.replace(self, step=self.step + 1, recent_returns=recent)

  def at_checkpoint(self, measured: float | None = None) -> 'Progress':
    """Returns the progress with this step as the best, if `measured`, or else its window's mean, is the highest."""
    recent = self.recent_returns
    if measured is None and recent:
      measured = sum(recent) / len(recent)
    if measured is None or self.best_step and measured <= self.best_return:
      return self
    return dataclasses.replace(self, best_step=self.step, best_return=measured)

  def without_lost(self, lost: Collection[int], saved: 'Progress | None') -> 'Progress':
    """Returns the progress, if its best is a save that failed, with the best of the newest checkpoint, `saved`."""
    if self.best_step not in lost:
      return self
    before = saved or Progress()
    return dataclasses.replace(self, best_step=before.best_step, best_return=before.best_return)

  def without_best(self) -> 'Progress':
    """Returns the progress with its best still to be chosen."""
    return dataclasses.replace(self, best_step=0, best_return=0.0)
