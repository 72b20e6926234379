"""The correction ledger: what attempts and their changes are worth, from verdicts.

Fractions are of all problems, as in the paper's tables, so delta = i_to_c - c_to_i.
"""

import math
from typing import Any

import numpy as np

from score_jax.types import Verdict

_Z = 1.959963984540054  # 95 % of a normal distribution


def ledger(verdict_BA: np.ndarray) -> dict[str, Any]:
  """Accuracy of each attempt and the transitions between the first and the last, with 95 % intervals.

  Args:
    verdict_BA: `types.Verdict`, one row a problem. Rows with a host failure (ERROR) are left out and counted.

  Returns:
    n, errors, acc_t1 .. acc_tA, delta, i_to_c, c_to_i (from the first attempt to the last), and `intervals` with
    [low, high] for each: Wilson for accuracies and transitions, normal on the paired differences for delta.
  """
  failed_B = np.any(verdict_BA == Verdict.ERROR, axis=1)
  correct_BA = verdict_BA[~failed_B] == Verdict.CORRECT
  n = len(correct_BA)
  if n == 0:
    raise ValueError('no graded rows: every verdict is a host failure')
  first, last = correct_BA[:, 0], correct_BA[:, -1]
  counts = {f'acc_t{i + 1}': int(correct_BA[:, i].sum()) for i in range(correct_BA.shape[1])}
  counts |= dict(i_to_c=int((~first & last).sum()), c_to_i=int((first & ~last).sum()))
  result = {name: count / n for name, count in counts.items()}
  intervals = {name: wilson(count, n) for name, count in counts.items()}
  difference = last.astype(np.float64) - first.astype(np.float64)
  result['delta'] = (counts['i_to_c'] - counts['c_to_i']) / n
  margin = _Z * float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else 1.0
  intervals['delta'] = [result['delta'] - margin, result['delta'] + margin]
  return dict(n=n, errors=int(failed_B.sum()), **result, intervals=intervals)


def wilson(count: int, n: int) -> list[float]:
  """95 % Wilson score interval of a proportion."""
  p, z2 = count / n, _Z**2
  centre = (p + z2 / (2 * n)) / (1 + z2 / n)
  margin = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
  return [max(0.0, centre - margin), min(1.0, centre + margin)]
