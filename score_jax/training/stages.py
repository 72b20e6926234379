# SPDX-License-Identifier: Apache-2.0
"""Which stage a step belongs to, and what falls due after it."""

import dataclasses
import itertools
from typing import Any

from score_jax.config import RunConfig
from score_jax.core_types import Stage
from score_jax.storage.progress import Progress


@dataclasses.dataclass(frozen=True)
class StageRun:
  """One entry of the run's stages, placed on its steps."""

  index: int
  stage: Stage
  first_step: int
  is_last: bool

  @property
  def end(self) -> int:
    """The step count after its last step."""
    return self.first_step + self.stage.steps


def stage_run_at(stages: tuple[Stage, ...], step: int) -> StageRun:
  """Returns the stage run of a step (0-based); ValueError beyond the last."""
  first = 0
  for index, stage in enumerate(stages):
    if step < first + stage.steps:
      return StageRun(index, stage, first, index == len(stages) - 1)
    first += stage.steps
  raise ValueError(f'step {step} lies beyond the last stage')


def last_step(config: RunConfig) -> int:
  """Returns how many steps the run makes."""
  return min(config.total_steps, config.max_steps or config.total_steps)


def is_checkpoint(config: RunConfig, step: int) -> bool:
  """Whether the run saves after `step` steps: on the interval, and where a stage ends."""
  starts = itertools.accumulate(stage.steps for stage in config.stage_runs)
  return step % config.checkpoint.every == 0 or step in starts


def is_measured(config: RunConfig, step: int) -> bool:
  """Whether the policy after `step` steps is measured on config.selection."""
  return bool(config.selection.problems) and is_checkpoint(config, step)


def considered(config: RunConfig, progress: Progress, record: dict[str, Any]) -> Progress:
  """Returns `progress` with its best updated, if its step is a checkpoint of the last stage.

  A run cut short by max_steps considers no other steps than the whole run.
  """
  if not stage_run_at(config.stage_runs, progress.step - 1).is_last or not is_checkpoint(config, progress.step):
    return progress
  return progress.at_checkpoint(record['selection']['return'] if config.selection.problems else None)


def needed_checkpoints(config: RunConfig, step: int) -> tuple[int, ...]:
  """Returns the checkpoint with the reference after `step`; (): it is the base."""
  stage_run = stage_run_at(config.stage_runs, min(step, config.total_steps - 1))
  return (stage_run.first_step,) if stage_run.stage.reference == 'stage_start' else ()
