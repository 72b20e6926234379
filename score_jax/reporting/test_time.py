# SPDX-License-Identifier: Apache-2.0
"""What several samples are worth at test time: avg@k, pass@k, majority, parallel against sequential.

Answers that differ in text, white space aside, are different votes; what could not be read is none.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math

import numpy as np

from score_jax.core_types import Verdict
from score_jax.reporting.ledger import mean_interval
from score_jax.reporting.rows import Attempt, Json, Row, are_graded, verdicts
from score_jax.tasks.problems import collapsed


@dataclasses.dataclass(frozen=True)
class Samples:
  """K conversations on each of P problems."""

  correct: np.ndarray  # bool [P, K, A]
  answer: np.ndarray  # str [P, K, A]  '': none could be read
  tokens: np.ndarray  # i64 [P, K, A]


def samples(rows: Sequence[Row]) -> Samples:
  """Returns the table of rows, without problems where the grading host failed on any sample.

  Raises ValueError: problems differ in their number of samples, or none is graded.
  """
  by_problem: dict[str, list[Row]] = {}
  for row in rows:
    by_problem.setdefault(row.id, []).append(row)
  if len(set(map(len, by_problem.values()))) > 1:
    raise ValueError('problems differ in how many samples they have')
  groups = [group for group in by_problem.values() if are_graded(verdicts(group)).all()]
  if not groups:
    raise ValueError('no graded problems: a verdict of each is a host failure')

  for group in groups:
    group.sort(key=lambda row: row.sample)

  def table(value: Callable[[Attempt], object]) -> np.ndarray:
    return np.array([[[value(a) for a in row.attempts] for row in group] for group in groups])

  return Samples(
    correct=table(lambda a: a.verdict == Verdict.CORRECT),
    answer=table(lambda a: collapsed(a.answer)),
    tokens=table(lambda a: a.tokens).astype(np.int64),
  )


def at_k(table: Samples, votes: bool = True) -> Json:
  """Returns avg@K, maj@K and pass@k for k = 1, 2, 4, .. K of the first and the last attempt.

  Without `votes` there is no majority: programs are hardly ever equal.
  """
  K = table.correct.shape[1]
  result: Json = dict(k=K, problems=len(table.correct))
  for name, attempt in (('t1', 0), (f't{table.correct.shape[2]}', -1)):
    correct_PK, answer_PK = table.correct[:, :, attempt], table.answer[:, :, attempt]
    figures = dict(avg=correct_PK.mean(axis=1))
    if votes:
      figures['maj'] = np.array([majority(a, c) for a, c in zip(answer_PK, correct_PK, strict=True)])
    for k in _doublings(K):
      figures[f'pass@{k}'] = np.array([pass_at(K, int(c), k) for c in correct_PK.sum(axis=1)])
    result[name] = {figure: _mean('value', value_P) for figure, value_P in figures.items()}
  return result


def pass_at(n: int, correct: int, k: int) -> float:
  """Returns the chance that k of n samples hold a correct one (Chen et al. 2021, unbiased)."""
  return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority(answers: Sequence[str], correct: Sequence[bool]) -> float:
  """Returns whether the most frequent answer is correct; of ties, the share that is.

  A text that is graded differently counts as correct in that share.
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


def scaling(table: Samples, most: int) -> Json:
  """Compares majorities of 2K first attempts and of K corrected ones, 2K = 2, 4, .. `most` (paper, 6.2).

  Sequential first attempts don't vote. Smaller budgets are averages over disjoint groups of samples.

  Returns:
    parallel, sequential: lists of {samples, tokens, accuracy, interval}; equal_tokens: the gain over
    parallel samples at a sequential point's tokens, on the line between points.
  """
  K = table.correct.shape[1]
  if most > K or most < 2:
    raise ValueError(f'{most} samples asked for; give 2 or more, and at most {K}')
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


def _voted(table: Samples, attempt: int, size: int, token_PK: np.ndarray) -> Json:
  """Returns tokens and accuracy of majorities of disjoint groups of `size` conversations."""
  ends = range(size, table.correct.shape[1] + 1, size)
  groups = [slice(end - size, end) for end in ends]
  pairs = zip(table.answer[:, :, attempt], table.correct[:, :, attempt], strict=True)
  won_PG = np.array([[majority(answer_K[g], right_K[g]) for g in groups] for answer_K, right_K in pairs])
  return dict(tokens=float(token_PK.mean() * size)) | _mean('accuracy', won_PG.mean(axis=1))


def _mean(name: str, value_P: np.ndarray) -> Json:
  interval = mean_interval(value_P, np.arange(len(value_P)))
  return {name: float(value_P.mean()), 'interval': interval}


def _doublings(most: int) -> list[int]:
  return [2**i for i in range(most.bit_length())]
