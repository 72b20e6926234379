"""One line of metrics.jsonl: everything a step is worth knowing by, as plain numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from score_jax.core_types import Graded
from score_jax.core_types import Stage
from score_jax.core_types import Stop
from score_jax.core_types import Verdict
from score_jax.reporting.rows import collapsed


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
    verdicts={kind.name.lower(): (verdict_BA == kind).sum(axis=0).tolist() for kind in Verdict},
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


def changed(texts: Sequence[Sequence[str]], graded: Sequence[Sequence[Graded]]) -> np.ndarray:
  """bool [B, 2]: whether the text and whether the answer changed from the first attempt to the last.

  Args:
    texts, graded: [B][A].
  """
  found = [
    (text[0] != text[-1], collapsed(grade[0].answer) != collapsed(grade[-1].answer))
    for text, grade in zip(texts, graded, strict=True)
  ]
  return np.array(found, bool).reshape(-1, 2)


def changes(verdict_BA: np.ndarray, changed_B2: np.ndarray, samples: int) -> dict[str, Any]:
  """What changed between attempts, and how sure the step's figures are; lists have one entry per attempt.

  Args:
    verdict_BA: the conversations on one problem side by side.
    changed_B2: of them, from `changed`.
    samples: G, how many conversations a problem has.

  Returns:
    c_to_c, i_to_i_same (wrong twice, with the same answer), answer_changed, text_changed: shares of graded
    conversations; flat: the share of problems whose conversations did equally well, so that they teach nothing;
    accuracy_se, delta_se: standard errors, by what problems differ.
  """
  known_B = ~np.any(verdict_BA == Verdict.ERROR, axis=1)
  correct_BA = verdict_BA == Verdict.CORRECT
  first, last = correct_BA[:, 0], correct_BA[:, -1]
  text_B, answer_B = changed_B2.T
  shares = dict(
    c_to_c=first & last,
    i_to_i_same=~first & ~last & ~answer_B,
    answer_changed=answer_B,
    text_changed=text_B,
  )
  n = max(1, int(known_B.sum()))
  correct_PGA = correct_BA.reshape(-1, samples, correct_BA.shape[1])
  gained_PG = correct_PGA[..., -1].astype(np.float64) - correct_PGA[..., 0]
  return dict(
    **{name: int((hit & known_B).sum()) / n for name, hit in shares.items()},
    flat=np.mean(np.all(correct_PGA == correct_PGA[:, :1], axis=1), axis=0).tolist(),
    accuracy_se=_standard_error(correct_PGA.mean(axis=1)).tolist(),
    delta_se=float(_standard_error(gained_PG.mean(axis=1))),
  )


def _standard_error(value_P: np.ndarray) -> np.ndarray:
  """Of means over problems; 0.5 where a single problem says nothing of it."""
  problems = len(value_P)
  return value_P.std(axis=0, ddof=1) / np.sqrt(problems) if problems > 1 else np.full(value_P.shape[1:], 0.5)


def training_return(line: dict[str, Any]) -> float:
  """What `best` is chosen by: the mean over rows of the step's rewards, bonus included, all attempts added."""
  return float(sum(line['reward']))
