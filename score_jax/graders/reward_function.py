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
import decimal
import inspect
import numbers
import signal
import time
from typing import Any

from score_jax.core_types import Graded, Verdict
from score_jax.errors import ConfigError
from score_jax.graders import user_file
from score_jax.graders.user_file import UserFunction

_LARGEST = 1e30  # of a score, which is trained on as f32
_OWN = 'response', 'row'
_VERL = 'data_source', 'solution_str', 'ground_truth', 'extra_info'


class RewardError(Exception):
  """The function failed, or returned no score."""


class _Late(BaseException):
  """The time is over. It is no Exception, which functions that try again would catch."""


def load(source: UserFunction, wall_seconds: float) -> Callable[[dict, str], Graded]:
  """Returns what grades (given, text) by the function; a score of None leaves the reward out.

  `given` is {'row', 'gold', 'source', 'prompt', 'completion_ids'}: the row's columns, what the task takes for its gold,
  the task's name, the turns before (a text, or messages), and the ids of the answer.

  Raises:
    ConfigError: the file cannot be used, or its function is of none of these forms.
  """
  function = source.load()
  form = _form(source, function)

  def late(signum: int, frame: object) -> None:
    raise _Late(f'no answer within config.grading.wall_seconds = {wall_seconds}')

  def grade(given: dict, text: str) -> Graded:
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds)
    begun = time.monotonic()
    try:
      value = form(function, given, text)
      value = asyncio.run(value) if inspect.iscoroutine(value) else value
      if time.monotonic() - begun > wall_seconds:  # it caught the alarm, or set its own
        late(0, None)
    except MemoryError:  # of rows before, perhaps: the next try is in a fresh process
      raise RuntimeError(f'{source.label} needs more than config.grading.memory_mb') from None
    except _Late as error:
      raise RewardError(f'{source.label}: {user_file.raised(error, source.path, named=False)}') from error
    except user_file.RAISED as error:
      has = f'; the row has {user_file.in_a_line(given["row"], ", ".join)}' if isinstance(error, KeyError) else ''
      raise RewardError(f'{source.label} raised {user_file.raised(error, source.path)}{has}') from error
    finally:
      signal.setitimer(signal.ITIMER_REAL, 0)
    try:
      return _score(value, listed=form is _trl)
    except Exception as error:  # what was returned may be of any class
      shown = user_file.in_a_line(value, repr)
      wanted = 'a list of one finite number' if form is _trl else 'a finite number'
      raise RewardError(f'{source.label} returned {shown}, not {wanted}') from error

  return grade


def _form(source: UserFunction, function: Callable) -> Callable:
  """Returns how a function is called, by its parameters."""
  try:
    signature = inspect.signature(function)
  except ValueError:  # of a function that is not written in Python
    return _own
  names = signature.parameters.keys()
  if 'completions' in names:
    return _trl
  form = _verl if {'solution_str', 'ground_truth'} <= names else _own
  try:
    signature.bind(**dict.fromkeys(_VERL)) if form is _verl else signature.bind(*_OWN)
  except TypeError as error:
    forms = f'({", ".join(_OWN)}), ({", ".join(_VERL)}) or completions and columns'
    raise ConfigError(f'{source.path}: {source.name}{signature} must have the parameters {forms}') from error
  return form


def _own(function: Callable, given: dict, text: str) -> Any:
  return function(text, given['row'])


def _verl(function: Callable, given: dict, text: str) -> Any:
  values = given['row'].get('data_source', given['source']), text, given['gold'], given['row']
  return function(**dict(zip(_VERL, values, strict=True)))


def _trl(function: Callable, given: dict, text: str) -> Any:
  messages = isinstance(given['prompt'], list)
  completion = [dict(role='assistant', content=text)] if messages else text
  lists = {name: [value] for name, value in given['row'].items()}
  lists |= dict(prompts=[given['prompt']], completions=[completion], completion_ids=[given['completion_ids']])
  parameters = inspect.signature(function).parameters.values()
  if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
    wanted = {parameter.name for parameter in parameters}
    lists = {name: value for name, value in lists.items() if name in wanted}
  return function(**lists)


def _score(value: Any, listed: bool) -> Graded:
  """Returns what a function returned; raises any Exception if that is no score."""
  if listed:
    if isinstance(value, (str, dict)) or len(value) != 1:
      raise ValueError
    value = value[0]
  graded = Graded(Verdict.WRONG)
  if isinstance(value, Graded):
    answer = user_file.in_a_line(value.answer)
    graded = Graded(Verdict(value.verdict), answer, score=value.score)
    value = graded.reward
  elif isinstance(value, dict):
    value = value.get('score', value)
  if value is None or graded.verdict == Verdict.ERROR:
    return Graded(graded.verdict, graded.answer)
  if getattr(value, 'size', 0) == 1 or type(value).__module__ == 'torch':
    value = value.item()
  if not isinstance(value, (numbers.Real, decimal.Decimal)) or not abs(value) <= _LARGEST:
    raise ValueError
  return Graded(graded.verdict, graded.answer, score=float(value))
