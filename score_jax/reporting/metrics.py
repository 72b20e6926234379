# SPDX-License-Identifier: Apache-2.0
"""Records of metrics.jsonl: a training step as plain numbers."""

import contextlib
import json
import pathlib
from typing import Any

import numpy as np

from score_jax.core_types import Stage, Stop, Verdict
from score_jax.reporting import rows


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the records of a file up to the first broken one; none without a file."""
  records = []
  with contextlib.suppress(FileNotFoundError, ValueError):
    for line in path.read_text().splitlines():
      record = json.loads(line)
      if not isinstance(record, dict) or not {'step', 'stage', 'accuracy'} <= record.keys():
        break
      records.append(record)
  return records


def step_record(
  step: int,
  stage: Stage,
  verdict_BA: np.ndarray,
  stop_BA: np.ndarray,
  tokens_BA: np.ndarray,
  update: dict[str, np.ndarray],
  learning_rate: float,
  seconds: dict[str, float],
) -> dict[str, Any]:
  """Returns the metrics of one step (from 1 on); lists have one entry per attempt.

  `update` is on the host. `seconds`, by phase, is the one entry that differs between equal runs.
  """
  shares = _shares(verdict_BA, stop_BA)
  record = dict(
    step=step,
    stage=stage.name,
    reward=update['reward_A'].tolist(),
    accuracy=shares['accuracy'],
    i_to_c=shares['i_to_c'],
    c_to_i=shares['c_to_i'],
    kl=update['kl_A'].tolist(),
    truncated=shares['truncated'],
    other_stop=(stop_BA == Stop.OTHER).mean(axis=0).tolist(),
    verdicts=rows.counts(Verdict, verdict_BA),
    unparsed=shares['unparsed'],
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
    record['attempt_gradient_norm'] = update['gradient_norm_A'].tolist()
  return record


def _shares(verdict_BA: np.ndarray, stop_BA: np.ndarray) -> dict[str, Any]:
  """Returns what became of conversations; i_to_c and c_to_i are shares of the graded ones."""
  correct_BA, graded_B = verdict_BA == Verdict.CORRECT, rows.are_graded(verdict_BA)
  first, last = correct_BA[graded_B, 0], correct_BA[graded_B, -1]
  return dict(
    accuracy=correct_BA.mean(axis=0).tolist(),
    i_to_c=float((~first & last).sum() / max(1, len(first))),
    c_to_i=float((first & ~last).sum() / max(1, len(first))),
    truncated=(stop_BA == Stop.BUDGET).mean(axis=0).tolist(),
    unparsed=(verdict_BA == Verdict.UNPARSED).mean(axis=0).tolist(),
  )


def by_first_attempt(
  verdict_BA: np.ndarray, stop_BA: np.ndarray, changed_B2: np.ndarray, samples: int, offline: int
) -> dict[str, dict[str, Any]]:
  """Returns a step's figures apart for on-policy and offline first attempts; {} where all are on-policy.

  Offline ones (`training.offline`) say what the base does, so that figures of all conversations hide how far the policy
  corrects itself. The first `offline` problems of the rows have them; `samples` is as in `changes`.

  Returns:
    'offline' and, unless all problems are offline, 'on_policy': conversations, accuracy, i_to_c, c_to_i, delta (of
    graded conversations), truncated, unparsed, and the figures of `changes`.
  """
  rows_offline = offline * samples
  parts = dict(on_policy=slice(rows_offline, None), offline=slice(0, rows_offline)) if offline else {}
  result = {}
  for name, part in parts.items():
    verdict, stop, changed = verdict_BA[part], stop_BA[part], changed_B2[part]
    if len(verdict):
      shares = _shares(verdict, stop)
      delta = shares['i_to_c'] - shares['c_to_i']
      result[name] = dict(conversations=len(verdict), delta=delta) | shares | changes(verdict, changed, samples)
  return result


def changes(verdict_BA: np.ndarray, changed_B2: np.ndarray, samples: int) -> dict[str, Any]:
  """Returns what changed between attempts, and standard errors; lists have one entry per attempt.

  The `samples` conversations on one problem lie side by side; `changed_B2` is of `rows.changed`.

  Returns:
    c_to_c, i_to_i_same (by one answer), answer_changed, text_changed: shares of graded conversations;
    flat: share of problems whose conversations did equally well; accuracy_se, delta_se.
  """
  graded_B, correct_BA = rows.are_graded(verdict_BA), verdict_BA == Verdict.CORRECT
  first, last = correct_BA[:, 0], correct_BA[:, -1]
  text_B, answer_B = changed_B2.T
  shares = dict(c_to_c=first & last, i_to_i_same=~first & ~last & ~answer_B)
  shares |= dict(answer_changed=answer_B, text_changed=text_B)
  n = max(1, int(graded_B.sum()))
  correct_PGA = correct_BA.reshape(-1, samples, correct_BA.shape[1])
  gained_PG = correct_PGA[..., -1].astype(np.float64) - correct_PGA[..., 0]
  return dict(
    **{name: int((hit & graded_B).sum()) / n for name, hit in shares.items()},
    flat=np.mean(np.all(correct_PGA == correct_PGA[:, :1], axis=1), axis=0).tolist(),
    accuracy_se=_standard_error(correct_PGA.mean(axis=1)).tolist(),
    delta_se=float(_standard_error(gained_PG.mean(axis=1))),
  )


def _standard_error(value_P: np.ndarray) -> np.ndarray:
  """Returns the standard error of means over problems; 0.5 of a single one."""
  problems = len(value_P)
  return value_P.std(axis=0, ddof=1) / np.sqrt(problems) if problems > 1 else np.full(value_P.shape[1:], 0.5)
