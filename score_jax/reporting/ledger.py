"""The correction ledger: what attempts and their changes are worth. Pure functions of arrays.

Shares are of all problems, as in the paper's tables, so delta = i_to_c - c_to_i; the fix rate and the break rate are
of those that were wrong, and right, at first. docs/report.md says what each figure is for.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

import numpy as np

from score_jax.core_types import Stop
from score_jax.core_types import Verdict

_Z = 1.959963984540054  # 95 % of a normal distribution
_DRAWS = 2000  # of the bootstrap
_PRIOR = 0.5  # problems that stand for what was not seen, in each of the four transitions
_SEED = 20240919


@dataclasses.dataclass(frozen=True)
class Outcomes:
  """The columns that a ledger is counted from, one row a conversation."""

  verdict: np.ndarray  # i8 [B, A]  types.Verdict
  stop: np.ndarray  # i8 [B, A]  types.Stop
  answer_changed: np.ndarray  # bool [B]  from the first attempt to the last, white space aside
  text_changed: np.ndarray  # bool [B]
  edit_ratio: np.ndarray  # f64 [B]  NaN: not measured
  problem: np.ndarray  # i64 [B]  which problem: conversations on one are not independent

  def __getitem__(self, chosen: np.ndarray) -> 'Outcomes':
    return Outcomes(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))


def ledger(verdict_BA: np.ndarray, problem_B: np.ndarray | None = None) -> dict[str, Any]:
  """Accuracy of each attempt and the transitions between the first and the last, with 95 % intervals.

  Args:
    verdict_BA: `types.Verdict`, one row a conversation. Rows with a host failure (ERROR) are left out and counted.
    problem_B: number of the problem of each; None: each its own.

  Returns:
    n, errors, acc_t1 .. acc_tA, delta, i_to_c, c_to_i, c_to_c, i_to_i; fix_rate and break_rate (None: nothing to fix,
    to break); mcnemar_p, of delta being chance (None where problems have several conversations); between, the counts
    [i_to_i, i_to_c, c_to_i, c_to_c] from each attempt to the next; and `intervals` with [low, high] of each figure:
    Wilson for shares of independent conversations, the paired bootstrap for delta and where they are not independent.
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
    count, total = int(hit.sum()), n if among is None else int(among.sum())
    result[name] = count / total if total else None
    if total and independent:
      intervals[name] = wilson(count, total)
    elif total:
      intervals[name] = _ratio_interval(hit, np.ones(n) if among is None else among, problem_B, result[name])
  gains, losses = int(cells['i_to_c'].sum()), int(cells['c_to_i'].sum())
  result['delta'] = (gains - losses) / n
  assert abs(result['delta'] - (result['i_to_c'] - result['c_to_i'])) < 1e-9
  assert abs(result['delta'] - (result[f'acc_t{correct_BA.shape[1]}'] - result['acc_t1'])) < 1e-9
  intervals['delta'] = _delta_interval(np.stack(list(cells.values()), axis=1), problem_B)
  result['mcnemar_p'] = mcnemar(gains, losses) if independent else None
  between = [_transitions(correct_BA[:, i], correct_BA[:, i + 1]) for i in range(correct_BA.shape[1] - 1)]
  return dict(n=n, errors=int(failed_B.sum()), **result, between=between, intervals=intervals)


def account(outcomes: Outcomes, tags: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
  """The whole account of an evaluation: `ledger`, what changed, how attempts ended, and the same by tag.

  Returns:
    beside `ledger`: i_to_i_same and i_to_i_other (still wrong, with the same answer and with another one),
    answer_changed, text_changed, edit_ratio (mean over those measured) with intervals; verdicts and stops, counts by
    kind for each attempt, host failures included; and `by`: tag -> value -> ledger of those problems.
  """
  result = ledger(outcomes.verdict, outcomes.problem)
  kept = outcomes[~np.any(outcomes.verdict == Verdict.ERROR, axis=1)]
  wrong = (kept.verdict[:, 0] != Verdict.CORRECT) & (kept.verdict[:, -1] != Verdict.CORRECT)
  changes = dict(
    i_to_i_same=wrong & ~kept.answer_changed,
    i_to_i_other=wrong & kept.answer_changed,
    answer_changed=kept.answer_changed,
    text_changed=kept.text_changed,
  )
  for name, hit in changes.items():
    result[name] = int(hit.sum()) / len(hit)
    result['intervals'][name] = (
      wilson(int(hit.sum()), len(hit))
      if result['mcnemar_p'] is not None
      else _ratio_interval(hit, np.ones(len(hit)), kept.problem, result[name])
    )
  measured = kept[~np.isnan(kept.edit_ratio)]
  result['edit_ratio'] = float(measured.edit_ratio.mean()) if len(measured.edit_ratio) else None
  if len(measured.edit_ratio):
    result['intervals']['edit_ratio'] = mean_interval(measured.edit_ratio, measured.problem)
  result['verdicts'] = {kind.name.lower(): (outcomes.verdict == kind).sum(axis=0).tolist() for kind in Verdict}
  result['stops'] = {how.name.lower(): (outcomes.stop == how).sum(axis=0).tolist() for how in Stop}
  result['by'] = _by_tag(outcomes, tags)
  return result


def _by_tag(outcomes: Outcomes, tags: Sequence[dict[str, str]]) -> dict[str, dict[str, Any]]:
  """tag -> value -> ledger, for tags that tell problems apart."""
  found: dict[str, dict[str, Any]] = {}
  for tag in sorted({name for tags_of_one in tags for name in tags_of_one}):
    values = np.array([tags_of_one.get(tag, '') for tags_of_one in tags])
    parts = {}
    for value in sorted(set(values.tolist()) - {''}):
      part = outcomes[values == value]
      if not np.all(np.any(part.verdict == Verdict.ERROR, axis=1)):
        parts[value] = ledger(part.verdict, part.problem)
    if len(parts) > 1:
      found[tag] = parts
  return found


def wilson(count: int, n: int) -> list[float]:
  """95 % Wilson score interval of a proportion."""
  p, z2 = count / n, _Z**2
  centre = (p + z2 / (2 * n)) / (1 + z2 / n)
  margin = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
  return [max(0.0, centre - margin), min(1.0, centre + margin)]


def mcnemar(gains: int, losses: int) -> float:
  """Two-sided exact p of as uneven a split of the changes, or a more uneven one, by chance alone."""
  changes, fewer = gains + losses, min(gains, losses)
  return min(1.0, 2 * sum(math.comb(changes, k) for k in range(fewer + 1)) / 2**changes)


def mean_interval(value_B: np.ndarray, problem_B: np.ndarray) -> list[float]:
  """95 % interval of a mean over conversations, by the bootstrap over problems."""
  return _ratio_interval(value_B, np.ones(len(value_B)), problem_B, float(np.mean(value_B)))


def _delta_interval(cell_BC: np.ndarray, problem_B: np.ndarray) -> list[float]:
  """Of delta; columns are i_to_c, c_to_i, c_to_c, i_to_i.

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


def _ratio_interval(value_B: np.ndarray, total_B: np.ndarray, problem_B: np.ndarray, found: float) -> list[float]:
  """Of sum(value) / sum(total), by the Bayesian bootstrap over problems; never without the figure itself."""
  value_P, total_P = _summed(np.stack([value_B, total_B], axis=1), problem_B).T.astype(np.float32)
  weight_RP = _weights(len(value_P))
  total_R = weight_RP @ total_P
  ratio_R = (weight_RP @ value_P)[total_R > 0] / total_R[total_R > 0]
  low, high = np.quantile(ratio_R, [0.025, 0.975])
  return [min(float(low), found), max(float(high), found)]


@functools.lru_cache(maxsize=1)  # all figures of one ledger weigh the problems alike
def _weights(problems: int) -> np.ndarray:
  """weight_RP of the bootstrap."""
  rng = np.random.default_rng(_SEED)
  return rng.standard_exponential((_DRAWS, problems), dtype=np.float32)


def _summed(value_BC: np.ndarray, problem_B: np.ndarray) -> np.ndarray:
  """Sums over the conversations of each problem."""
  _, place_B = np.unique(problem_B, return_inverse=True)
  return np.stack([np.bincount(place_B, column) for column in value_BC.T], axis=1)


def _transitions(before_B: np.ndarray, after_B: np.ndarray) -> list[int]:
  return [int(((before_B == a) & (after_B == b)).sum()) for a in (False, True) for b in (False, True)]
