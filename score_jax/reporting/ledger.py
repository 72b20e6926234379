"""The correction ledger: what attempts and their changes are worth, counted from verdicts and rows.

Shares are of all problems, as in the paper's tables, so delta = i_to_c - c_to_i; the fix rate is of those that were
wrong at first, the break rate of those that were right. docs/report.md says what each figure is for.
"""

from collections.abc import Sequence
import functools
import math
from typing import Any

import numpy as np

from score_jax.core_types import Stop
from score_jax.core_types import Verdict
from score_jax.reporting import rows as report_rows
from score_jax.reporting.rows import Row

_Z = 1.959963984540054  # 95 % of a normal distribution
_DRAWS = 2000  # of the bootstrap
_PRIOR = 0.5  # problems that stand for what was not seen, in each of the four transitions
_SEED = 20240919


def ledger(verdict_BA: np.ndarray, problem_B: np.ndarray | None = None) -> dict[str, Any]:
  """Returns the accuracy of each attempt and the transitions from the first to the last, with 95 % intervals.

  Args:
    verdict_BA: `core_types.Verdict`. Rows with a host failure (ERROR) are left out and counted.
    problem_B: number of each row's problem; None: each has another one.

  Returns:
    n, errors, acc_t1 .. acc_tA, delta, i_to_c, c_to_i, c_to_c, i_to_i; fix_rate and break_rate (None: nothing to fix,
    to break); mcnemar_p, of delta being chance (None where problems have several conversations); between, the counts
    [i_to_i, i_to_c, c_to_i, c_to_c] from each attempt to the next; and `intervals` with [low, high] of each figure:
    Wilson for shares of independent conversations, the paired bootstrap for delta and where they are not independent.

  Raises:
    ValueError: every row has a host failure.
  """
  failed_B = np.any(verdict_BA == Verdict.ERROR, axis=1)
  correct_BA = verdict_BA[~failed_B] == Verdict.CORRECT
  n = len(correct_BA)
  if n == 0:
    raise ValueError('no graded rows: every verdict is a host failure')
  problem_B = np.arange(n) if problem_B is None else problem_B[~failed_B]
  first, last = correct_BA[:, 0], correct_BA[:, -1]
  cells = dict(i_to_c=~first & last, c_to_i=first & ~last, c_to_c=first & last, i_to_i=~first & ~last)
  shares = {f'acc_t{i + 1}': (column, None) for i, column in enumerate(correct_BA.T)}
  shares |= {name: (cell, None) for name, cell in cells.items()}
  shares |= dict(fix_rate=(cells['i_to_c'], ~first), break_rate=(cells['c_to_i'], first))
  independent = len(np.unique(problem_B)) == n
  result, intervals = {}, {}
  for name, (hit, among) in shares.items():
    result[name], interval = _share(hit, among, problem_B, independent)
    if interval:
      intervals[name] = interval
  gains, losses = int(cells['i_to_c'].sum()), int(cells['c_to_i'].sum())
  result['delta'] = (gains - losses) / n
  assert abs(result['delta'] - (result['i_to_c'] - result['c_to_i'])) < 1e-9
  assert abs(result['delta'] - (result[f'acc_t{correct_BA.shape[1]}'] - result['acc_t1'])) < 1e-9
  intervals['delta'] = _delta_interval(np.stack(list(cells.values()), axis=1), problem_B)
  result['mcnemar_p'] = mcnemar(gains, losses) if independent else None
  between = [_transitions(before, after) for before, after in zip(correct_BA.T, correct_BA.T[1:], strict=False)]
  return dict(n=n, errors=int(failed_B.sum()), **result, between=between, intervals=intervals)


def account(rows: Sequence[Row]) -> dict[str, Any]:
  """Returns the whole account of an evaluation: `ledger`, what changed, how attempts ended, and the same by tag.

  Returns:
    beside `ledger`: i_to_i_same and i_to_i_other (still wrong, with the same answer and with another one),
    answer_changed, text_changed, edit_ratio (mean over those measured) with intervals; verdicts and stops, counts by
    kind for each attempt, host failures included; and `by`: tag -> value -> ledger of those problems.
  """
  verdict_BA, changed_B2 = report_rows.verdicts(rows), report_rows.changed_in(rows)
  numbers: dict[str, int] = {}
  problem_B = np.array([numbers.setdefault(row.id, len(numbers)) for row in rows])
  result = ledger(verdict_BA, problem_B)
  graded_B = ~np.any(verdict_BA == Verdict.ERROR, axis=1)
  correct_BA = verdict_BA[graded_B] == Verdict.CORRECT
  text_B, answer_B = changed_B2[graded_B].T
  wrong_B = ~correct_BA[:, 0] & ~correct_BA[:, -1]
  for name, hit_B in dict(
    i_to_i_same=wrong_B & ~answer_B, i_to_i_other=wrong_B & answer_B, answer_changed=answer_B, text_changed=text_B
  ).items():
    independent = result['mcnemar_p'] is not None
    result[name], result['intervals'][name] = _share(hit_B, None, problem_B[graded_B], independent)
  ratio_B = np.array([row.edit_ratio for row in rows], np.float64)
  measured_B = graded_B & ~np.isnan(ratio_B)
  result['edit_ratio'] = float(ratio_B[measured_B].mean()) if measured_B.any() else None
  if measured_B.any():
    result['intervals']['edit_ratio'] = mean_interval(ratio_B[measured_B], problem_B[measured_B])
  stop_BA = np.array([[attempt.stop for attempt in row.attempts] for row in rows])
  result['verdicts'] = {kind.name.lower(): (verdict_BA == kind).sum(axis=0).tolist() for kind in Verdict}
  result['stops'] = {kind.name.lower(): (stop_BA == kind).sum(axis=0).tolist() for kind in Stop}
  result['by'] = {}
  for tag in sorted({name for row in rows for name in row.tags}):
    value_B = np.array([row.tags.get(tag, '') for row in rows])
    parts = {value: value_B == value for value in sorted(set(value_B.tolist()) - {''})}
    parts = {value: part_B for value, part_B in parts.items() if graded_B[part_B].any()}
    if len(parts) > 1:  # the tag tells problems apart
      result['by'][tag] = {value: ledger(verdict_BA[part_B], problem_B[part_B]) for value, part_B in parts.items()}
  return result


def _share(
  hit_B: np.ndarray, among_B: np.ndarray | None, problem_B: np.ndarray, independent: bool
) -> tuple[float | None, list[float]]:
  """Returns the share of hits among some rows (None: all) and its interval; (None, []) where there are no such rows."""
  count, total = int(hit_B.sum()), len(hit_B) if among_B is None else int(among_B.sum())
  if not total:
    return None, []
  if independent:
    return count / total, wilson(count, total)
  among_B = np.ones(len(hit_B)) if among_B is None else among_B
  return count / total, _ratio_interval(hit_B, among_B, problem_B, count / total)


def wilson(count: int, n: int) -> list[float]:
  """Returns the 95 % Wilson score interval of a proportion (scipy's differs in the last digit)."""
  p, z2 = count / n, _Z**2
  centre = (p + z2 / (2 * n)) / (1 + z2 / n)
  margin = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
  return [max(0.0, centre - margin), min(1.0, centre + margin)]


def mcnemar(gains: int, losses: int) -> float:
  """Returns the two-sided exact p of as uneven a split of the changes, or a more uneven one, by chance alone."""
  changes, fewer = gains + losses, min(gains, losses)
  return min(1.0, 2 * sum(math.comb(changes, k) for k in range(fewer + 1)) / 2**changes)


def mean_interval(value_B: np.ndarray, problem_B: np.ndarray) -> list[float]:
  """Returns the 95 % interval of a mean over conversations, by the bootstrap over problems."""
  return _ratio_interval(value_B, np.ones(len(value_B)), problem_B, float(np.mean(value_B)))


def _delta_interval(cell_BC: np.ndarray, problem_B: np.ndarray) -> list[float]:
  """Returns the interval of delta; columns are i_to_c, c_to_i, c_to_c, i_to_i.

  The Bayesian bootstrap (Rubin 1981): problems get random weights, each conversation's two attempts together. Half a
  problem is added to each transition, seen or not (Jeffreys' prior), so that no change at all is not taken for proof
  that there is none. With one conversation a problem these are draws of Dirichlet(counts + 1/2).
  """
  rng = np.random.default_rng(_SEED)
  if len(np.unique(problem_B)) == len(problem_B):
    weight_RC = rng.standard_gamma(cell_BC.sum(axis=0) + _PRIOR, size=(_DRAWS, 4))
  else:
    count_PC = _summed(cell_BC.astype(np.float64), problem_B)
    seen_RC = _weights(len(count_PC)) @ count_PC.astype(np.float32)
    weight_RC = seen_RC + rng.standard_gamma(_PRIOR, size=(_DRAWS, 4)) * len(cell_BC) / len(count_PC)
  delta_R = (weight_RC[:, 0] - weight_RC[:, 1]) / weight_RC.sum(axis=1)
  return [float(bound) for bound in np.quantile(delta_R, [0.025, 0.975])]


def _ratio_interval(value_B: np.ndarray, total_B: np.ndarray, problem_B: np.ndarray, ratio: float) -> list[float]:
  """Returns the interval of sum(value) / sum(total), by the Bayesian bootstrap over problems; it holds `ratio`."""
  value_P, total_P = _summed(np.stack([value_B, total_B], axis=1), problem_B).T.astype(np.float32)
  weight_RP = _weights(len(value_P))
  total_R = weight_RP @ total_P
  ratio_R = (weight_RP @ value_P)[total_R > 0] / total_R[total_R > 0]
  low, high = np.quantile(ratio_R, [0.025, 0.975])
  return [min(float(low), ratio), max(float(high), ratio)]


@functools.lru_cache(maxsize=1)  # all figures of one ledger weigh the problems alike
def _weights(problems: int) -> np.ndarray:
  """Returns weight_RP of the bootstrap."""
  return np.random.default_rng(_SEED).standard_exponential((_DRAWS, problems), dtype=np.float32)


def _summed(value_BC: np.ndarray, problem_B: np.ndarray) -> np.ndarray:
  """Returns sums over the conversations of each problem."""
  _, index_B = np.unique(problem_B, return_inverse=True)
  return np.stack([np.bincount(index_B, column) for column in value_BC.T], axis=1)


def _transitions(before_B: np.ndarray, after_B: np.ndarray) -> list[int]:
  return [int(((before_B == a) & (after_B == b)).sum()) for a in (False, True) for b in (False, True)]
