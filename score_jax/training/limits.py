"""What the host keeps count of from step to step, and the limits that end a run: numbers that no policy survives.

Everything here is plain numbers in `Progress`, saved with each checkpoint, so that a resumed run stops where the
uninterrupted one would have.
"""

import dataclasses
import math
from typing import Any

from score_jax.algorithm import adaptive
from score_jax.config import FaultsConfig
from score_jax.config import RunConfig
from score_jax.core_types import Stage
from score_jax.errors import NumericsError
from score_jax.storage.progress import REJECTED_WINDOW
from score_jax.storage.progress import Progress

_PATIENCE = 3  # steps in a row over a limit


def kl_weights(stage: Stage, progress: Progress) -> tuple[float, ...]:
  """beta of each attempt in the next step: the stage's own, times what its budget made of it (eq. 6)."""
  scales = progress.kl_scale or (1.0,) * len(stage.kl_weights)
  return tuple(beta * scale for beta, scale in zip(stage.kl_weights, scales, strict=True))


def after_step(
  config: RunConfig, stage: Stage, progress: Progress, line: dict[str, Any], in_last_stage: bool, ends_stage: bool
) -> Progress:
  """Progress after a step whose metrics are `line`."""
  training_return = training_return_of(line) if in_last_stage and 'reward' in line else None
  over = tuple(
    count + 1 if limit and not worst <= limit else 0  # NaN is over any limit
    for count, (_, worst, limit) in zip(progress.over_limit, _limits(config.faults, line), strict=True)
  )
  rejected = (*progress.rejected, line['step']) if line['rejected'] else progress.rejected
  return dataclasses.replace(
    progress.after_step(training_return, config.checkpoint.best_window),
    kl_scale=() if ends_stage else _next_scales(stage, progress, line),
    rejected=tuple(step for step in rejected if step > line['step'] - REJECTED_WINDOW),
    over_limit=over,
  )


def training_return_of(record: dict[str, Any]) -> float:
  """Returns the mean over rows of the step's rewards, bonus included, all attempts added."""
  return float(sum(record['reward']))


def _next_scales(stage: Stage, progress: Progress, line: dict[str, Any]) -> tuple[float, ...]:
  if not any(stage.kl_target):
    return ()
  scales = progress.kl_scale or (1.0,) * len(stage.kl_weights)
  if line['rejected'] or not all(map(math.isfinite, line['kl'])):
    return scales  # nothing was learnt of the policy
  return tuple(map(adaptive.next_scale, scales, line['kl'], stage.kl_target))


def _limits(faults: FaultsConfig, line: dict[str, Any]) -> tuple[tuple[str, float, float], ...]:
  """(field, what the step had, limit). A supervised step has neither a KL nor a sampler."""
  return (
    ('kl_limit', max(line.get('kl', (0.0,)), key=lambda x: math.inf if math.isnan(x) else x), faults.kl_limit),
    ('mismatch_stop', line.get('mismatch', 0.0), faults.mismatch_stop),
  )


_CAUSES = {
  'kl_limit': "the policy has left the reference: raise the stage's kl, give it a kl_target, or lower the learning rate",
  'mismatch_stop': 'sampler and trainer disagree on the policy: look at model.dtype and sampling.cache_dtype',
}


def check(config: RunConfig, progress: Progress, line: dict[str, Any], rejected_in_a_row: int, where: Any) -> None:
  """Ends a run that is beyond its limits.

  Args:
    config: of the run.
    progress: after the step.
    line: the step's metrics.
    rejected_in_a_row: of the state.
    where: the last good checkpoint is.

  Raises:
    NumericsError: which limit, and what to do.
  """
  begin_anew = (
    f'The last good checkpoint is kept in {where}. Look at the last lines of metrics.jsonl, and begin a new --workdir '
    'with a lower learning rate, from this run by --config.init_from if it is worth it'
  )
  most = config.optim.max_rejected_in_a_row
  if rejected_in_a_row >= most:
    raise NumericsError(
      f'{rejected_in_a_row} steps in a row had a non-finite loss, gradient, log-probability, reward or parameter and '
      f'were rejected (config.optim.max_rejected_in_a_row = {most}). {begin_anew}'
    )
  share = config.faults.max_rejected
  if share and progress.step >= REJECTED_WINDOW and len(progress.rejected) > share * REJECTED_WINDOW:
    raise NumericsError(
      f'{len(progress.rejected)} of the newest {REJECTED_WINDOW} steps had non-finite numbers and were rejected '
      f'(config.faults.max_rejected = {share}). {begin_anew}'
    )
  for (field, worst, limit), count in zip(_limits(config.faults, line), progress.over_limit, strict=True):
    if count >= _PATIENCE:
      raise NumericsError(
        f'{count} steps in a row were above config.faults.{field} = {limit} (the last: {worst:.4g}): {_CAUSES[field]}. '
        f'{begin_anew}'
      )
