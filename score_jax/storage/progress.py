"""Where a run stands, beside its arrays: what the host decides from step to step, saved with each checkpoint."""

import dataclasses
from typing import Any

REJECTED_WINDOW = 200  # steps


@dataclasses.dataclass(frozen=True)
class Progress:
  """Plain numbers. Floats survive JSON exactly."""

  step: int  # updates done
  recent_returns: tuple[float, ...]  # training return of the newest steps of the last stage, at most a window
  best_step: int  # checkpoint with the highest mean of them; 0: none yet
  best_return: float  # that mean; 0 while there is none
  kl_scale: tuple[float, ...] = ()  # [A] what an adaptive beta is multiplied with; (): as a stage begins
  rejected: tuple[int, ...] = ()  # steps that were rejected, of the newest REJECTED_WINDOW
  over_limit: tuple[int, ...] = (0, 0)  # newest steps in a row over the limit of (KL, mismatch)

  @classmethod
  def start(cls) -> 'Progress':
    return cls(step=0, recent_returns=(), best_step=0, best_return=0.0)

  @classmethod
  def from_json(cls, fields: dict[str, Any]) -> 'Progress':
    """What `dataclasses.asdict` gave, after JSON."""
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

  def after_step(self, training_return: float | None, window: int) -> 'Progress':
    """One step further. The return counts only within the last stage: scales differ between stages (None before)."""
    recent = self.recent_returns if training_return is None else (*self.recent_returns, training_return)[-window:]
    return dataclasses.replace(self, step=self.step + 1, recent_returns=recent)

  def at_checkpoint(self, measured: float | None = None) -> 'Progress':
    """With the best updated, if this step's return is the highest so far: `measured`, else the mean of its window."""
    if measured is None and not self.recent_returns:
      return self
    mean = sum(self.recent_returns) / len(self.recent_returns) if measured is None else measured
    if self.best_step and mean <= self.best_return:
      return self
    return dataclasses.replace(self, best_step=self.step, best_return=mean)
