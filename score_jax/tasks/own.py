# SPDX-License-Identifier: Apache-2.0
"""A task of the user's own: a function (split, seed) -> problems, in a file of theirs.

  def problems(split: str, seed: int) -> list[score_jax.Problem]: ...   # split is 'train' or 'heldout'

What it returns may be anything with a length and indices. config.task.reward names what grades the answers.
"""

import json
from typing import Any

from score_jax.core_types import Problem
from score_jax.errors import ConfigError, DataError
from score_jax.graders import references, user_file
from score_jax.graders.user_file import UserFunction
from score_jax.tasks import problems

_SEED = 0  # problems stay the same whatever a run samples with


def open_task(task: Any, name: str, field: str) -> problems.Task:
  """Returns the task of a function; training problems that are held out too are left out.

  Raises:
    ConfigError: there is no such function, or nothing that grades.
    DataError: it raises, or what it returns are not problems.
  """
  source = user_file.find(name, field)
  function = source.load()
  verifier = next((reward for reward in task.reward_weights if not user_file.is_user_function(reward)), '')
  if not task.reward_weights:
    raise ConfigError(
      f"config.task.reward = '': name what grades the answers of {name}: math, text, or FILE.py:FUNCTION"
    )
  train, heldout = (_problems(source, function, split, verifier) for split in ('train', 'heldout'))
  return problems.task_of(train, heldout, verifier)


def _problems(source: UserFunction, function: Any, split: str, verifier: str) -> list[Problem]:
  where = f'{source.label}({split!r}, {_SEED})'
  try:
    made = function(split, _SEED)
    listed = [made[index] for index in range(len(made))]
  except user_file.RAISED as error:
    raise DataError(f'{where} raised {user_file.raised(error, source.path)}') from error
  for index, problem in enumerate(listed):
    if reason := _fault(problem):
      raise DataError(f'{where}[{index}] {reason}')
    if verifier:
      references.make(verifier, problem.reference, f'{where}[{index}]: the reference')
  return listed


def _fault(problem: Any) -> str:
  if not isinstance(problem, Problem):
    return f'is {user_file.in_a_line(problem, repr)}, not a score_jax.Problem'
  if not isinstance(problem.id, str) or not isinstance(problem.question, str) or not problem.question.strip():
    return f'has id {problem.id!r:.60} and question {problem.question!r:.60}; both must be texts'
  try:
    for text in (problem.id, problem.question):
      references.check_pairs(text)
  except ValueError as error:
    return f'{error} in its id or question'
  try:
    json.dumps([problem.reference, problem.row])
  except (TypeError, ValueError) as error:
    return f'has a reference or row that is not plain data: {user_file.in_a_line(error)}'
  return '' if isinstance(problem.reference, dict) else f'has reference {problem.reference!r:.60}; it must be a dict'
