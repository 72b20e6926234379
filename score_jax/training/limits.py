# SPDX-License-Identifier: Apache-2.0
"""What the host counts from step to step, and the limits that end a run.

Checkpoints hold the counts: a resumed run stops at the same step.
"""

import dataclasses
import math
from typing import Any

from score_jax.algorithm import adaptive
from score_jax.config import RunConfig
from score_jax.core_types import Stage
from score_jax.errors import NumericsError
from score_jax.storage.progress import REJECTED_WINDOW, Progress
from score_jax.training.stages import StageRun

_PATIENCE = 3  # steps in a row over a limit


def kl_weights(stage: Stage, progress: Progress) -> tuple[float, ...]:
  """Returns beta of each attempt in the next step (eq. 6)."""
  scales = progress.kl_scale or (1.0,) * len(stage.kl_weights)
  return tuple(beta * scale for beta, scale in zip(stage.kl_weights, scales, strict=True))


def after_step(config: RunConfig, stage_run: StageRun, progress: Progress, record: dict[str, Any]) -> Progress:
  """Returns the progress after a step of `stage_run`, of which `record` is."""
  limits = zip(progress.over_limit, _limits(config, record), strict=True)
  # NaN is over any limit.
  over = tuple(count + 1 if limit and not worst <= limit else 0 for count, (_, worst, limit) in limits)
  rejected = (*progress.rejected, record['step']) if record['rejected'] else progress.rejected
  return dataclasses.replace(
    progress.after_step(record, stage_run.is_last, config.checkpoint.best_window),
    kl_scale=() if progress.step + 1 == stage_run.end else _next_scales(stage_run.stage, progress, record),
    rejected=tuple(step for step in rejected if step > record['step'] - REJECTED_WINDOW),
    over_limit=over,
  )


def _next_scales(stage: Stage, progress: Progress, record: dict[str, Any]) -> tuple[float, ...]:
  if not any(stage.kl_target):
    return ()
  scales = progress.kl_scale or (1.0,) * len(stage.kl_weights)
  if record['rejected'] or not all(map(math.isfinite, record['kl'])):
    return scales
  return tuple(map(adaptive.next_scale, scales, record['kl'], stage.kl_target))


def _limits(config: RunConfig, record: dict[str, Any]) -> tuple[tuple[str, float, float], ...]:
  """(field, value, limit). A supervised step has no values."""
  kl = max(record.get('kl', (0.0,)), key=lambda x: math.inf if math.isnan(x) else x)
  mismatch, faults = record.get('mismatch', 0.0), config.faults
  return ('kl_limit', kl, faults.kl_limit), ('mismatch_stop', mismatch, faults.mismatch_stop)


_CAUSES = {
  'kl_limit': "the policy has left the reference: raise the stage's kl_weights, set its kl_target "
  'or lower the learning rate',
  'mismatch_stop': 'sampler and trainer disagree on the policy: look at model.dtype and sampling.cache_dtype',
}


def check(
  config: RunConfig, progress: Progress, record: dict[str, Any], rejected_in_a_row: int, checkpoints: Any
) -> None:
  """Raises NumericsError if the run is beyond its limits."""
  share, most = config.faults.max_rejected, config.optim.max_rejected_in_a_row
  rejected, reasons = len(progress.rejected), []
  if rejected_in_a_row >= most:
    reasons.append(
      f'{rejected_in_a_row} steps in a row had a non-finite loss, gradient, log-probability, reward or parameter and '
      f'were rejected (config.optim.max_rejected_in_a_row = {most})'
    )
  if share and progress.step >= REJECTED_WINDOW and rejected > share * REJECTED_WINDOW:
    reasons.append(
      f'{rejected} of the newest {REJECTED_WINDOW} steps had non-finite numbers and were rejected '
      f'(config.faults.max_rejected = {share})'
    )
  for (field, worst, limit), count in zip(_limits(config, record), progress.over_limit, strict=True):
    if count >= _PATIENCE:
      above = f'above config.faults.{field} = {limit} (the last: {worst:.4g})'
      reasons.append(f'{count} steps in a row were {above}: {_CAUSES[field]}')
  if reasons:
    raise NumericsError(
      f'{reasons[0]}. The last good checkpoint is kept in {checkpoints}. Look at the end of metrics.jsonl, and begin a '
      'new --workdir with a lower learning rate, perhaps from this run by --config.init_from'
    )
