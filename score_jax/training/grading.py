# SPDX-License-Identifier: Apache-2.0
"""What graders say of a rollout."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from absl import logging
import numpy as np

from score_jax.config import RunConfig
from score_jax.core_types import Graded, Problem, Verdict
from score_jax.graders import references, weighted
from score_jax.graders.pool import Grader
from score_jax.graders.weighted import WeightedGrader
from score_jax.parallel import hosts
from score_jax.sampling.sampler import Sampler
from score_jax.states import Rollout
from score_jax.tasks import Task

_MOST_TOLD = 20  # failures of reward functions that a process reports one by one


@dataclasses.dataclass(frozen=True)
class Grades:
  """Verdicts and scores of a rollout."""

  texts: list[list[str]]  # [B][A]
  graded: list[list[Graded]]  # [B][A]
  names: tuple[str, ...] = ()  # of reward functions

  @property
  def verdict(self) -> np.ndarray:
    """i8 [B, A]"""
    return np.array([[one.verdict for one in row] for row in self.graded], np.int8)

  @property
  def score(self) -> np.ndarray | None:
    """f32 [B, A], 0 where a function failed; None: there are verdicts alone."""
    if not self.names:
      return None
    return np.array([[one.reward for one in row] for row in self.graded], np.float32)

  @property
  def parts(self) -> np.ndarray | None:
    """f32 [B, A, rewards], NaN where one was left out or failed; None: there are verdicts alone."""
    if not self.names:
      return None
    parts = [[[one.parts.get(name, np.nan) for name in self.names] for one in row] for row in self.graded]
    return np.array(parts, np.float32)


def open_grader(config: RunConfig, task: Task) -> Grader:
  """Opens a run's grader, as `weighted.open_grader` does."""
  settings = config.task
  return weighted.open_grader(
    task.verifier,
    settings.reward_weights,
    config.grading,
    correct_at=settings.correct_at,
    source=settings.name,
    messages=settings.reward_format == 'messages',
  )


def check_solutions(config: RunConfig, verifier: str, problems: Sequence[Problem], grader: Grader) -> None:
  """Tries the tests of programs by their solutions, on host 0 alone; not where reward functions replace the tests.

  Raises DataError: too many tests refuse theirs.
  """
  programs = grader.graders.get('code') if isinstance(grader, WeightedGrader) else grader
  solved = [problem for problem in problems if problem.solution]
  if verifier == 'code' and programs and solved and hosts.is_main():
    golds = [(problem.reference, problem.solution) for problem in solved]
    names, most = [problem.id for problem in solved], config.task.unreadable_golds
    references.check_solvable(names, golds, programs.grade, most, 'config.task.unreadable_golds')


def grade(grader: Grader, problems: Sequence[Problem], rollout: Rollout, sampler: Sampler) -> Grades:
  """Grades every attempt of a rollout's first conversations, one a problem; on the host."""
  texts = sampler.texts(rollout)[: len(problems)]
  own = isinstance(grader, WeightedGrader)
  items = []
  for b, (problem, answers) in enumerate(zip(problems, texts, strict=True)):
    for i, text in enumerate(answers):
      given = _given(grader, problem, answers[:i], rollout, b, sampler) if own else problem.reference
      items.append((given, text))
  A = len(items) // max(1, len(problems))
  flat = grader.grade(items)
  graded = [flat[i : i + A] for i in range(0, len(flat), A or 1)]
  if own:
    _tell_failures(problems, graded)
  return Grades(texts, graded, tuple(grader.weights) if own else ())


def _given(
  grader: WeightedGrader, problem: Problem, before: Sequence[str], rollout: Rollout, b: int, sampler: Sampler
) -> dict[str, Any]:
  """What reward functions are given beside the answer that follows `before`."""
  chat = sampler.chat
  turns = chat.messages(problem, before) if grader.messages else chat.text(problem, before)
  ids = rollout.tokens[b][rollout.attempt[b] == len(before) + 1]
  return grader.item(problem, turns, ids.tolist())


def _tell_failures(problems: Sequence[Problem], graded: Sequence[Sequence[Graded]]) -> None:
  for problem, row in zip(problems, graded, strict=True):
    for i, one in enumerate(row, 1):
      if one.verdict == Verdict.ERROR:
        logging.log_first_n(logging.WARNING, 'problem %s, attempt %d: %s', _MOST_TOLD, problem.id, i, one.answer)


def reward_columns(names: Sequence[str], score_BA: np.ndarray, parts_BAK: np.ndarray) -> dict[str, Any]:
  """Returns each reward's mean over rows per attempt (None: none has it), and the share of scores outside 0..1."""
  known_BAK = np.isfinite(parts_BAK)
  count_AK = known_BAK.sum(axis=0)
  total_AK = np.where(known_BAK, parts_BAK, 0).sum(axis=0, dtype=np.float64)
  means = {
    name: [float(total_AK[a, k] / n) if (n := count_AK[a, k]) else None for a in range(len(count_AK))]
    for k, name in enumerate(names)
  }
  return dict(rewards=means, outside=float(((score_BA < 0) | (score_BA > 1)).mean()))
