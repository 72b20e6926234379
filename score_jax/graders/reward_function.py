# SPDX-License-Identifier: Apache-2.0
"""Reward functions of the user's own, in any of three forms. The parameters tell which.

  grade(response, row)                                         a score, or None: no reward for this row
  reward(completions, prompts, ..., **columns)                 TRL's: lists (here of one), by keyword
  compute_score(data_source, solution_str, ground_truth, extra_info)   verl's

A score is any finite number, a bool, a `Graded`, or verl's {'score': number, ...}. In TRL's form completions are texts,
or lists of messages where config.task.reward_format = 'messages'.
"""

import asyncio
from collections.abc import Callable
import inspect
import signal
from typing import Any

from score_jax.core_types import Graded, Verdict
from score_jax.graders import user_file
from score_jax.graders.user_file import UserFunction

_LARGEST = 1e30  # of a score, which is trained on as f32


class RewardError(Exception):
  """The function failed, or returned no score."""


def load(source: UserFunction, wall_seconds: float) -> Callable[[dict, str], Graded]:
  """Returns what grades (given, text) by the function; a score of None leaves the reward out.

  `given` is {'row', 'gold', 'source', 'prompt', 'completion_ids'}: the row's columns, what the task takes for its gold,
  the task's name, the turns before (a text, or messages), and the ids of the answer.

  Raises:
    ConfigError: the file cannot be used.
  """
  function = source.load()
  names = inspect.signature(function).parameters.keys()
  form = _trl if 'completions' in names else _verl if {'solution_str', 'ground_truth'} <= names else _own

  def late(signum: int, frame: object) -> None:
    raise TimeoutError(f'no answer within config.grading.wall_seconds = {wall_seconds}')

  def grade(given: dict, text: str) -> Graded:
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds)
    try:
      value = form(function, given, text)
    except MemoryError:  # of rows before, perhaps: the next try is in a fresh process
      raise RuntimeError(f'{source.label} needs more than config.grading.memory_mb') from None
    except Exception as error:  # the user's program may raise anything
      raise RewardError(f'{source.label} raised {user_file.raised(error, source.path)}') from error
    finally:
      signal.setitimer(signal.ITIMER_REAL, 0)
    try:
      return _score(value, listed=form is _trl)
    except ValueError as error:
      raise RewardError(f'{source.label} returned {error}') from error

  return grade


def _own(function: Callable, given: dict, text: str) -> Any:
  return function(text, given['row'])


def _verl(function: Callable, given: dict, text: str) -> Any:
  return function(
    data_source=given['row'].get('data_source', given['source']),
    solution_str=text,
    ground_truth=given['gold'],
    extra_info=given['row'],
  )


def _trl(function: Callable, given: dict, text: str) -> Any:
  messages = isinstance(given['prompt'], list)
  completion = [dict(role='assistant', content=text)] if messages else text
  lists = {name: [value] for name, value in given['row'].items()}
  lists |= dict(prompts=[given['prompt']], completions=[completion], completion_ids=[given['completion_ids']])
  parameters = inspect.signature(function).parameters.values()
  if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
    wanted = {parameter.name for parameter in parameters}
    lists = {name: value for name, value in lists.items() if name in wanted}
  value = function(**lists)
  return asyncio.run(value) if inspect.iscoroutine(value) else value


def _score(value: Any, listed: bool) -> Graded:
  """Returns what a function returned; raises ValueError, which tells what it was, if that is no score."""
  shown = user_file.in_a_line(repr(value))
  if listed:
    if isinstance(value, (str, dict)) or not hasattr(value, '__len__') or len(value) != 1:
      raise ValueError(f'{shown}, not a list of one score')
    value = value[0]
  graded = value if isinstance(value, Graded) else Graded(Verdict.WRONG)
  if isinstance(value, Graded):
    value = value.reward
  elif isinstance(value, dict):
    value = value.get('score', value)
  if value is None or graded.verdict == Verdict.ERROR:
    return graded
  if getattr(value, 'size', 0) == 1 or type(value).__module__ == 'torch':
    value = value.item()
  if not isinstance(value, (bool, int, float)) or not abs(value) <= _LARGEST:
    raise ValueError(f'{shown}, not a finite number')
  return Graded(graded.verdict, str(graded.answer)[:200], score=float(value))
