# SPDX-License-Identifier: Apache-2.0
"""Rewards with weights: an attempt's score is their weighted sum.

`correct` keeps its meaning: a built-in grader decides if there is one, else a score of `correct_at` or more.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from score_jax.core_types import Graded, Problem, Verdict
from score_jax.errors import ConfigError
from score_jax.graders import pool, registry, user_file
from score_jax.graders.pool import Grader, Item
from score_jax.graders.registry import GradingSpec


@dataclasses.dataclass(frozen=True)
class WeightedGrader:
  """Grades by several functions; items hold what each kind of them is given (`item`)."""

  graders: dict[str, Grader]
  weights: dict[str, float]  # of the same names
  verifier: str  # the built-in grader among them that decides; '': none
  correct_at: float
  source: str = ''  # the task's name
  messages: bool = False  # whether turns are given as messages, not as text
  description: str = ''

  def item(self, problem: Problem, turns: Any, ids: Sequence[int]) -> dict[str, Any]:
    """Returns what its functions are given beside a text: `turns` come before it, `ids` are its own."""
    reference = problem.reference
    row = problem.row or dict(id=problem.id, question=problem.question) | reference
    given = dict(row=row, gold=reference.get('answer', reference), source=self.source, reference=reference)
    return given | dict(prompt=turns, completion_ids=list(ids))

  def grade(self, items: Sequence[Item]) -> list[Graded]:
    """Returns the verdict and score of each item, in their order."""
    columns = []
    for name, grader in self.graders.items():
      given = [(each['reference'] if name in registry.GRADERS else each, text) for each, text in items]
      columns.append(grader.grade(given))
    rows = [dict(zip(self.graders, row, strict=True)) for row in zip(*columns, strict=True)]
    return [combined(row, self.weights, self.verifier, self.correct_at) for row in rows]

  def close(self) -> None:
    """Ends their processes."""
    for grader in self.graders.values():
      grader.close()


def open_grader(
  verifier: str,
  rewards: Mapping[str, float],
  spec: GradingSpec = registry.DEFAULT,
  *,
  correct_at: float = 1.0,
  source: str = '',
  messages: bool = False,
) -> Grader:
  """Opens a task's own grader, or the reward functions that a run names instead.

  Args:
    verifier: the built-in grader that the task's references are for; '': it has none.
    rewards: weight of each, by name of a built-in grader or FILE.py:FUNCTION; {}: the verifier alone.
    spec: what grading may use.
    correct_at, source, messages: of `WeightedGrader`.

  Raises:
    ConfigError: a name is unknown, or is a built-in grader that the task has no references for.
    UserError: this machine cannot run one of them safely.
  """
  if not rewards:
    return pool.open_grader(verifier, spec)
  built_in = [name for name in rewards if not user_file.is_user_function(name)]
  if wrong := [name for name in built_in if not _fits(name, verifier)]:
    remedy = f'; this task is graded by {verifier!r}' if verifier else '; this task has no gold answers'
    raise ConfigError(f'config.task.rewards names {wrong[0]!r}{remedy}, or name FILE.py:FUNCTION')
  weights = {label(name): weight for name, weight in rewards.items()}
  if len(weights) < len(rewards):
    raise ConfigError(f'config.task.rewards = {dict(rewards)}: two files and functions have equal names; rename one')
  graders: dict[str, Grader] = {}
  try:
    for name in rewards:
      graders[label(name)] = pool.open_grader(user_file.absolute(name), spec)
  except BaseException:
    for grader in graders.values():
      grader.close()
    raise
  decides = built_in[0] if built_in else ''
  told = '; '.join(filter(None, (grader.description for grader in graders.values())))
  return WeightedGrader(graders, weights, decides, correct_at, source, messages, told)


def _fits(name: str, verifier: str) -> bool:
  """Returns whether a built-in grader takes the references of another."""
  known = name in registry.GRADERS and verifier in registry.GRADERS
  return known and registry.references_of(name) == registry.references_of(verifier)


def label(name: str) -> str:
  """Returns what columns call a reward: 'math', 'my_rewards.py:grade'."""
  return name.rpartition('/')[2]


def combined(row: Mapping[str, Graded], weights: Mapping[str, float], verifier: str, correct_at: float) -> Graded:
  """Returns one attempt's verdict and score from what each reward gave.

  A reward that failed hides the score: the verdict is ERROR. One that is None is left out.
  """
  answer = next((graded.answer for graded in row.values() if graded.answer), '')
  seconds = sum(graded.seconds for graded in row.values())
  if failed := [graded for graded in row.values() if graded.verdict == Verdict.ERROR]:
    return Graded(Verdict.ERROR, failed[0].answer, seconds)
  parts = {name: _part(graded, name in registry.GRADERS) for name, graded in row.items()}
  parts = {name: score for name, score in parts.items() if score is not None}
  if not parts:
    return Graded(Verdict.ERROR, 'every reward left this row out', seconds)
  score = sum(weights[name] * value for name, value in parts.items())
  if verifier:
    verdict = row[verifier].verdict
  elif score >= correct_at:
    verdict = Verdict.CORRECT
  else:
    verdicts = [graded.verdict for graded in row.values()]
    verdict = next((v for v in verdicts if v in (Verdict.TIMEOUT, Verdict.UNPARSED)), Verdict.WRONG)
  return Graded(verdict, answer, seconds, score, parts)


def _part(graded: Graded, built_in: bool) -> float | None:
  if built_in or graded.verdict == Verdict.TIMEOUT:
    return graded.reward
  return graded.score
