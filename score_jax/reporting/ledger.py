# SPDX-License-Identifier: Apache-2.0
"""The correction ledger: what attempts and their changes are worth.

Shares are of all problems, as in the paper's tables: delta = i_to_c - c_to_i. The fix rate is of those
wrong at first, the break rate of those right.
"""

from collections.abc import Sequence
import functools
import itertools
import math

import numpy as np

from score_jax.core_types import Stop, Verdict
from score_jax.reporting.rows import Json, Row, are_graded, changed_in, counts, verdicts

_Z = 1.959963984540054  # 95 % of a normal distribution
_BOUNDS = (0.025, 0.975)
_DRAWS = 2000  # of the bootstrap
_PRIOR = 0.5  # problems added to each transition
_SEED = 20240919


def ledger(verdict_BA: np.ndarray, problem_B: np.ndarray | None = None) -> Json:
  """Returns the accuracy of each attempt and the transitions from the first to the last.

  `problem_B` numbers the rows' problems; None: each has another one.

  Returns:
    n, errors and the figures of docs/report.md (fix_rate, break_rate, mcnemar_p: None where unknown);
    between, counts [i_to_i, i_to_c, c_to_i, c_to_c] from each attempt to the next; `intervals`, 95 %
    [low, high] of each figure: Wilson's, or the bootstrap's over problems.

  Raises ValueError: every row has an ERROR, a host's failure, which are counted apart.
  """
  graded_B = are_graded(verdict_BA)
  correct_BA = verdict_BA[graded_B] == Verdict.CORRECT
  n = len(correct_BA)
  if n == 0:
    raise ValueError('no graded rows: every verdict is a host failure')
  problem_B = np.arange(n) if problem_B is None else problem_B[graded_B]
  first, last = correct_BA[:, 0], correct_BA[:, -1]
  cells = dict(i_to_c=~first & last, c_to_i=first & ~last, c_to_c=first & last, i_to_i=~first & ~last)
  hits = {f'acc_t{i}': column for i, column in enumerate(correct_BA.T, 1)} | cells
  result, intervals = {}, {}
  _add_shares(result, intervals, hits, np.ones(n, bool), problem_B)
  _add_shares(result, intervals, dict(fix_rate=cells['i_to_c']), ~first, problem_B)
  _add_shares(result, intervals, dict(break_rate=cells['c_to_i']), first, problem_B)
  gains, losses = int(cells['i_to_c'].sum()), int(cells['c_to_i'].sum())
  result['delta'] = (gains - losses) / n
  intervals['delta'] = _delta_interval(np.stack(list(cells.values()), axis=1), problem_B)
  result['mcnemar_p'] = mcnemar(gains, losses) if _are_independent(problem_B) else None
  between = [
    [int(((before == a) & (after == b)).sum()) for a in (False, True) for b in (False, True)]
    for before, after in itertools.pairwise(correct_BA.T)
  ]
  return dict(n=n, errors=len(verdict_BA) - n, **result, between=between, intervals=intervals)


def account(rows: Sequence[Row]) -> Json:
  """Returns the whole account of an evaluation.

  Returns:
    beside `ledger`: i_to_i_same, i_to_i_other, answer_changed, text_changed, edit_ratio (mean over those
    measured) with intervals; verdicts and stops, counts for each attempt; by, tag -> value -> ledger.
  """
  verdict_BA, changed_B2 = verdicts(rows), changed_in(rows)
  stop_BA = np.array([[a.stop for a in row.attempts] for row in rows])
  numbers: dict[str, int] = {}
  problem_B = np.array([numbers.setdefault(row.id, len(numbers)) for row in rows])
  result = ledger(verdict_BA, problem_B)
  graded_B = are_graded(verdict_BA)
  correct_BA = verdict_BA[graded_B] == Verdict.CORRECT
  text_B, answer_B = changed_B2[graded_B].T
  wrong_B = ~correct_BA[:, 0] & ~correct_BA[:, -1]
  hits = dict(i_to_i_same=wrong_B & ~answer_B, i_to_i_other=wrong_B & answer_B)
  hits |= dict(answer_changed=answer_B, text_changed=text_B)
  intervals = result['intervals']
  _add_shares(result, intervals, hits, np.ones(len(wrong_B), bool), problem_B[graded_B])
  ratio_B = np.array([row.edit_ratio for row in rows], np.float64)
  measured_B = graded_B & ~np.isnan(ratio_B)
  measured = (ratio_B[measured_B], problem_B[measured_B])
  result['edit_ratio'] = float(measured[0].mean()) if measured_B.any() else None
  if measured_B.any():
    intervals['edit_ratio'] = mean_interval(*measured)
  result['verdicts'] = counts(Verdict, verdict_BA)
  result['stops'] = counts(Stop, stop_BA)
  result['by'] = {}
  for tag in sorted({name for row in rows for name in row.tags}):
    value_B = np.array([row.tags.get(tag, '') for row in rows])
    values = sorted(set(value_B[graded_B].tolist()) - {''})
    if len(values) > 1:  # the tag tells problems apart
      parts = ((value, value_B == value) for value in values)
      result['by'][tag] = {value: ledger(verdict_BA[part], problem_B[part]) for value, part in parts}
  return result


def _add_shares(shares: Json, intervals: Json, hits: Json, among_B: np.ndarray, problem_B: np.ndarray) -> None:
  """Adds the shares of hits among some rows (of none: None), and their intervals."""
  total, independent = int(among_B.sum()), _are_independent(problem_B)
  for name, hit_B in hits.items():
    count = int(hit_B.sum())
    shares[name] = count / total if total else None
    if total and independent:
      intervals[name] = wilson(count, total)
    elif total:
      intervals[name] = _ratio_interval(hit_B, among_B, problem_B, count / total)


def _are_independent(problem_B: np.ndarray) -> bool:
  return len(np.unique(problem_B)) == len(problem_B)


def wilson(count: int, n: int) -> list[float]:
  """Returns the 95 % Wilson interval of a proportion (scipy's last digit is another)."""
  p, z2 = count / n, _Z**2
  centre = (p + z2 / (2 * n)) / (1 + z2 / n)
  margin = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
  return [max(0.0, centre - margin), min(1.0, centre + margin)]


def mcnemar(gains: int, losses: int) -> float:
  """Returns the two-sided exact p of such a split of the changes by chance."""
  changes, fewer = gains + losses, min(gains, losses)
  return min(1.0, 2 * sum(math.comb(changes, k) for k in range(fewer + 1)) / 2**changes)


def mean_interval(value_B: np.ndarray, problem_B: np.ndarray) -> list[float]:
  """Returns the 95 % interval of a mean, by the bootstrap over problems."""
  return _ratio_interval(value_B, np.ones(len(value_B)), problem_B, float(np.mean(value_B)))


def _delta_interval(cell_BC: np.ndarray, problem_B: np.ndarray) -> list[float]:
  """Returns the interval of delta; columns are i_to_c, c_to_i, c_to_c, i_to_i.

  The Bayesian bootstrap (Rubin 1981) weighs problems at random, with Jeffreys' prior: no change seen is no
  proof that there is none. With one conversation a problem: draws of Dirichlet(counts + 1/2).
  """
  rng = np.random.default_rng(_SEED)
  if _are_independent(problem_B):
    weight_RC = rng.standard_gamma(cell_BC.sum(axis=0) + _PRIOR, size=(_DRAWS, 4))
  else:
    count_PC = _summed(cell_BC.astype(np.float64), problem_B)
    seen_RC = _weights(len(count_PC)) @ count_PC.astype(np.float32)
    unseen_RC = rng.standard_gamma(_PRIOR, size=(_DRAWS, 4)) * len(cell_BC) / len(count_PC)
    weight_RC = seen_RC + unseen_RC
  delta_R = (weight_RC[:, 0] - weight_RC[:, 1]) / weight_RC.sum(axis=1)
  return np.quantile(delta_R, _BOUNDS).tolist()


def _ratio_interval(value_B: np.ndarray, total_B: np.ndarray, problem_B: np.ndarray, ratio: float) -> list[float]:
  """Returns the bootstrap's interval of sum(value) / sum(total), with `ratio` in it."""
  columns_B2 = np.stack([value_B, total_B], axis=1)
  value_P, total_P = _summed(columns_B2, problem_B).T.astype(np.float32)
  weight_RP = _weights(len(value_P))
  total_R = weight_RP @ total_P
  ratio_R = (weight_RP @ value_P)[total_R > 0] / total_R[total_R > 0]
  low, high = np.quantile(ratio_R, _BOUNDS).tolist()
  return [min(low, ratio), max(high, ratio)]


@functools.lru_cache(maxsize=1)  # all figures of one ledger weigh the problems alike
def _weights(problems: int) -> np.ndarray:
  rng = np.random.default_rng(_SEED)
  return rng.standard_exponential((_DRAWS, problems), dtype=np.float32)


def _summed(value_BC: np.ndarray, problem_B: np.ndarray) -> np.ndarray:
  _, index_B = np.unique(problem_B, return_inverse=True)
  return np.stack([np.bincount(index_B, column) for column in value_BC.T], axis=1)
