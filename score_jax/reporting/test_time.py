"""What several samples are worth at test time: avg@k, pass@k, majority, and parallel against sequential samples.

Answers are told apart by their text, white space aside, never by their verdicts: a vote must not know what is right.
An answer that could not be read does not vote.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from score_jax.core_types import Verdict
from score_jax.reporting.ledger import mean_interval
from score_jax.reporting.rows import Row
from score_jax.reporting.rows import collapsed


@dataclasses.dataclass(frozen=True)
class Samples:
  """K conversations on each of P problems."""

  correct: np.ndarray  # bool [P, K, A]
  answer: np.ndarray  # str [P, K, A]  '': none could be read
  tokens: np.ndarray  # i64 [P, K, A]


def samples(rows: Sequence[Row]) -> Samples:
  """Returns the table of rows with equally many samples a problem, in the order of their numbers.

  Problems where the grading host failed on any sample are left out: their votes are not known.

  Raises:
    ValueError: problems differ in their number of samples, or none is graded.
  """
  by_problem: dict[str, list[Row]] = {}
  for row in rows:
    by_problem.setdefault(row.id, []).append(row)
  if len({len(group) for group in by_problem.values()}) > 1:
    raise ValueError('problems differ in how many samples they have')
  groups = [
    sorted(group, key=lambda row: row.sample)
    for group in by_problem.values()
    if not any(a.verdict == Verdict.ERROR for row in group for a in row.attempts)
  ]
  if not groups:
    raise ValueError('no graded problems: a verdict of each is a host failure')

  def table(value) -> np.ndarray:
    return np.array([[[value(a) for a in row.attempts] for row in group] for group in groups])

  return Samples(
    correct=table(lambda a: a.verdict == Verdict.CORRECT),
    answer=table(lambda a: collapsed(a.answer)),
    tokens=table(lambda a: a.tokens).astype(np.int64),
  )


def at_k(table: Samples, votes: bool = True) -> dict[str, Any]:
  """Returns avg@K, maj@K and pass@k for k = 1, 2, 4, .. K, of the first attempt and of the last, with 95 % intervals.

  Args:
    table: of K samples.
    votes: whether answers can be equal, so that a majority means something. Programs can't: no maj@K.
  """
  K = table.correct.shape[1]
  result: dict[str, Any] = dict(k=K, problems=len(table.correct))
  for name, attempt in (('t1', 0), (f't{table.correct.shape[2]}', -1)):
    correct_PK, answer_PK = table.correct[:, :, attempt], table.answer[:, :, attempt]
    figures = dict(avg=correct_PK.mean(axis=1))
    if votes:
      figures['maj'] = np.array([majority(a, c) for a, c in zip(answer_PK, correct_PK, strict=True)])
    for k in _doublings(K):
      figures[f'pass@{k}'] = np.array([pass_at(K, int(c), k) for c in correct_PK.sum(axis=1)])
    result[name] = {
      figure: dict(value=float(value_P.mean()), interval=_interval(value_P)) for figure, value_P in figures.items()
    }
  return result


def pass_at(n: int, correct: int, k: int) -> float:
  """Returns the chance that k of n samples, without replacement, hold a correct one (Chen et al. 2021, unbiased)."""
  return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority(answers: Sequence[str], correct: Sequence[bool]) -> float:
  """Returns whether the most frequent answer is correct; of answers that tie, the share that is.

  One text may be graded differently in different conversations (a grader may look beyond the answer); it then counts
  as correct in that share.
  """
  votes: dict[str, list[bool]] = {}
  for answer, right in zip(answers, correct, strict=True):
    if answer:
      votes.setdefault(str(answer), []).append(bool(right))
  if not votes:
    return 0.0
  most = max(map(len, votes.values()))
  leaders = [sum(rights) / most for rights in votes.values() if len(rights) == most]
  return sum(leaders) / len(leaders)


def scaling(table: Samples, most: int) -> dict[str, Any]:
  """Compares a majority of 2K first attempts with one of K corrected ones, for 2K = 2, 4, .. `most` (paper, 6.2).

  The K first attempts of the sequential side don't vote. Smaller budgets are averages over disjoint groups of the
  samples. Tokens are those sampled; prompts and instructions are not counted.

  Returns:
    parallel, sequential: lists of {samples, tokens, accuracy, interval}; equal_tokens: for each sequential point, what
    parallel samples reach with as many tokens, on the straight line between their points, and the gain over it.
  """
  K = table.correct.shape[1]
  if most > K or most < 2:
    raise ValueError(f'{most} samples asked for, {K} there; give 2 or more, and no more than there are')
  parallel, sequential = [], []
  for budget in _doublings(most)[1:]:
    parallel.append(dict(samples=budget) | _voted(table, 0, budget, table.tokens[:, :, 0]))
    sequential.append(dict(samples=budget) | _voted(table, -1, budget // 2, table.tokens.sum(axis=2)))
  tokens, accuracy = ([point[name] for point in parallel] for name in ('tokens', 'accuracy'))
  equal = []
  for point in sequential:
    if tokens[0] <= point['tokens'] <= tokens[-1]:
      there = float(np.interp(point['tokens'], tokens, accuracy))
      equal.append(dict(tokens=point['tokens'], parallel=there, gain=point['accuracy'] - there))
  return dict(problems=len(table.correct), parallel=parallel, sequential=sequential, equal_tokens=equal)


def _voted(table: Samples, attempt: int, size: int, token_PK: np.ndarray) -> dict[str, Any]:
  """Returns tokens and accuracy of majorities of `size` conversations, the mean over disjoint groups of them."""
  ends = range(size, table.correct.shape[1] + 1, size)
  won_PG = np.array(
    [
      [majority(answer_K[end - size : end], right_K[end - size : end]) for end in ends]
      for answer_K, right_K in zip(table.answer[:, :, attempt], table.correct[:, :, attempt], strict=True)
    ]
  )
  won_P = won_PG.mean(axis=1)
  return dict(tokens=float(token_PK.mean() * size), accuracy=float(won_P.mean()), interval=_interval(won_P))


def _interval(value_P: np.ndarray) -> list[float]:
  return mean_interval(value_P, np.arange(len(value_P)))


def _doublings(most: int) -> list[int]:
  return [2**i for i in range(most.bit_length())]
