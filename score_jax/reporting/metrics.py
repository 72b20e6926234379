"""One line of metrics.jsonl: everything a step is worth knowing by, as plain numbers."""

from typing import Any

import numpy as np

from score_jax.types import Stage
from score_jax.types import Stop
from score_jax.types import Verdict


def step_line(
  step: int,
  stage: Stage,
  verdict_BA: np.ndarray,
  stop_BA: np.ndarray,
  tokens_BA: np.ndarray,
  update: dict[str, np.ndarray],
  learning_rate: float,
  seconds: dict[str, float],
) -> dict[str, Any]:
  """The metrics of one step; lists have one entry per attempt.

  Args:
    step: 1-based number of the step just done.
    stage: it was in.
    verdict_BA, stop_BA: of its rollout.
    tokens_BA: sampled in each attempt.
    update: metrics that the update returned, on the host.
    learning_rate: it used.
    seconds: wall time by phase; the one entry that differs between equal runs.
  """
  correct_BA = verdict_BA == Verdict.CORRECT
  graded_B = ~np.any(verdict_BA == Verdict.ERROR, axis=1)
  first, last = correct_BA[graded_B, 0], correct_BA[graded_B, -1]
  line = dict(
    step=step,
    stage=stage.name,
    reward=update['reward_A'].tolist(),
    accuracy=correct_BA.mean(axis=0).tolist(),
    i_to_c=float((~first & last).sum() / max(1, len(first))),
    c_to_i=float((first & ~last).sum() / max(1, len(first))),
    kl=update['kl_A'].tolist(),
    truncated=(stop_BA == Stop.BUDGET).mean(axis=0).tolist(),
    other_stop=(stop_BA == Stop.OTHER).mean(axis=0).tolist(),
    unparsed=(verdict_BA == Verdict.UNPARSED).mean(axis=0).tolist(),
    timeouts=(verdict_BA == Verdict.TIMEOUT).mean(axis=0).tolist(),
    errors=(verdict_BA == Verdict.ERROR).mean(axis=0).tolist(),
    loss=update['loss_A'].tolist(),
    gradient_norm=float(update['gradient_norm']),
    mismatch=float(update['mismatch']),
    rejected=int(update['rejected']),
    learning_rate=learning_rate,
    tokens=tokens_BA.sum(axis=0).tolist(),
    seconds=seconds,
  )
  if 'gradient_norm_A' in update:
    line['attempt_gradient_norm'] = update['gradient_norm_A'].tolist()
  return line


def training_return(line: dict[str, Any]) -> float:
  """What `best` is chosen by: the mean over rows of the step's rewards, bonus included, all attempts added."""
  return float(sum(line['reward']))
