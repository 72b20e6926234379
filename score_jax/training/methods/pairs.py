# SPDX-License-Identifier: Apache-2.0
"""Pairs of attempts for supervision, made of sampled conversations and their verdicts.

arXiv 2409.12917, first version, section 4.1: D_STaR holds (x, wrong y1, right y2) of a conversation; D_SFT holds
(x, wrong y1, a random right answer to x). '+' adds pairs whose first attempt is right.
"""

from collections.abc import Callable

import numpy as np


def star(right_N2: np.ndarray, problem_N: np.ndarray, plus: bool, rng: np.random.Generator) -> np.ndarray:
  """D_STaR, or D_STaR+: conversations whose second attempt is right.

  `right_N2` is of each attempt, `problem_N` of each conversation; `plus` takes right first attempts too.

  Returns:
    i64 [n, 3]: conversations of first and second attempt, and which of its attempts the second is.
  """
  del problem_N, rng
  row = np.flatnonzero(right_N2[:, 1] & (plus | ~right_N2[:, 0]))
  return np.stack([row, row, np.ones_like(row)], axis=1)


def sft(right_N2: np.ndarray, problem_N: np.ndarray, plus: bool, rng: np.random.Generator) -> np.ndarray:
  """D_SFT, or D_SFT+: first attempts, each with a right answer drawn from all to its problem.

  Args, Returns: as `star`.
  """
  row_R, attempt_R = np.nonzero(right_N2)
  order = np.argsort(problem_N[row_R], kind='stable')
  row_R, attempt_R = row_R[order], attempt_R[order]
  begin_N = np.searchsorted(problem_N[row_R], problem_N, side='left')
  count_N = np.searchsorted(problem_N[row_R], problem_N, side='right') - begin_N
  first = np.flatnonzero((count_N > 0) & (plus | ~right_N2[:, 0]))
  drawn = begin_N[first] + rng.integers(0, np.maximum(count_N[first], 1))
  return np.stack([first, row_R[drawn], attempt_R[drawn]], axis=1).astype(np.int64)


DATASETS: dict[str, Callable[..., np.ndarray]] = dict(star=star, sft=sft)
