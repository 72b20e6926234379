# SPDX-License-Identifier: Apache-2.0
"""Where a run stands beside its arrays. Nothing else decides which step is the best."""

import dataclasses
from typing import Any

REJECTED_WINDOW = 200  # steps


@dataclasses.dataclass(frozen=True)
class Progress:
  """What the host decides, saved with each checkpoint as JSON, which keeps floats exactly."""

  step: int = 0  # updates done
  recent_returns: tuple[float, ...] = ()  # of the newest steps of the last stage, at most a window
  best_step: int = 0  # checkpoint with the highest mean of them; 0: none yet
  best_return: float = 0.0  # that mean
  kl_scale: tuple[float, ...] = ()  # [A] factor of an adaptive beta; (): as a stage begins
  rejected: tuple[int, ...] = ()  # rejected steps among the newest REJECTED_WINDOW
  over_limit: tuple[int, ...] = (0, 0)  # newest steps in a row over the limit of (KL, mismatch)

  @classmethod
  def from_json(cls, fields: dict[str, Any]) -> 'Progress':
    """Undoes `dataclasses.asdict`, after JSON."""
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

  @property
  def final_step(self) -> int:
    """The step whose policy is the run's result: the best, or else the newest."""
    return self.best_step or self.step

  def after_step(self, record: dict[str, Any], in_last_stage: bool, window: int) -> 'Progress':
    """Returns the progress one step further.

    A training return is the mean over rows of the rewards of all attempts, added, with bonus. It counts in the last
    stage alone, as scales differ; a supervised step has none.
    """
    recent = self.recent_returns
    if in_last_stage and 'reward' in record:
      recent = (*recent, float(sum(record['reward'])))[-window:]
    return dataclasses.replace(self, step=self.step + 1, recent_returns=recent)

  def at_checkpoint(self, measured: float | None = None) -> 'Progress':
    """Makes this step the best, if `measured`, or else the window's mean, is the highest."""
    recent = self.recent_returns
    if measured is None and recent:
      measured = sum(recent) / len(recent)
    if measured is None or self.best_step and measured <= self.best_return:
      return self
    return dataclasses.replace(self, best_step=self.step, best_return=measured)

  def with_best_of(self, other: 'Progress') -> 'Progress':
    """Takes over the best of another; a new one has none."""
    return dataclasses.replace(self, best_step=other.best_step, best_return=other.best_return)
