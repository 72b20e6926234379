# SPDX-License-Identifier: Apache-2.0
"""Tasks: where problems come from, and which verifier grades answers.

Each is a module, whose `open_task(task, data)` gets config.task and what to read; or a function of the user's own.
"""

from collections.abc import Callable, Iterable
import dataclasses
import importlib
import re
from typing import Any

from absl import logging

from score_jax.core_types import Problem
from score_jax.errors import ConfigError, DataError
from score_jax.graders import references, user_file
from score_jax.tasks import own
from score_jax.tasks.problems import DataSpec, GeneratedProblems, ProblemList, Task, with_rows

TASKS = ('countdown', 'gsm8k', 'math', 'mbpp', 'humaneval', 'jsonl')  # values of config.task.name


def open_task(task: Any) -> Task:
  """Opens config.task; held-out problems are of `task.evaluate`, if named.

  Raises ConfigError: an unknown name, or two verifiers; DataError: its data cannot be read.
  """
  kept = any(map(user_file.is_user_function, task.reward_weights))
  opened = _opened(task)
  if opened.verifier == 'math':
    names, golds = [p.id for p in opened.listed], [p.reference for p in opened.listed]
    references.check_readable(names, golds, task.unreadable_golds, 'config.task.unreadable_golds')
  return with_rows(opened, kept)


def _opened(task: Any) -> Task:
  if not task.evaluate or task.evaluate == task.name:
    return _open(task.name, 'name', task, task.data)
  opened = _open(task.name, 'name', task, dataclasses.replace(task.data, heldout=()))
  other = _open(task.evaluate, 'evaluate', task, dataclasses.replace(task.data, train=()))
  if other.verifier != opened.verifier:
    raise ConfigError(
      f'config.task.evaluate = {task.evaluate!r} has verifier {other.verifier!r}, '
      f'config.task.name = {task.name!r} has {opened.verifier!r}; a run has one'
    )
  return dataclasses.replace(opened, heldout=other.heldout)


def without_long(task: Task, tokens: Callable[[Problem], int], most: int) -> Task:
  """Drops training prompts of more than `most` tokens; DataError if none is left."""
  if isinstance(task.train, GeneratedProblems):
    return task
  kept = tuple(problem for problem in task.train.problems if tokens(problem) <= most)
  if not kept:
    raise DataError(f'every training prompt has over {most} tokens; raise config.sampling.prompt_tokens')
  if left_out := len(task.train.problems) - len(kept):
    logging.warning('%d training prompts have over %d tokens and were left out', left_out, most)
  return dataclasses.replace(task, train=ProblemList(kept, shuffled=True))


def warn_of_special_tokens(task: Task, tokens: Iterable[str]) -> None:
  """Logs how many questions and golds of files have one of the tokenizer's special `tokens`, and the first."""
  pattern = re.compile('|'.join(map(re.escape, tokens)))
  for split, problems in (('train', task.train), ('heldout', task.heldout)):
    listed = () if isinstance(problems, GeneratedProblems) else problems.problems
    for what, meaning, text in (
      ('questions', 'which the model reads as such and not as text', lambda problem: problem.question),
      ('golds', 'which no graded answer has', _gold),
    ):
      hits = [(hit.group(), problem.id) for problem in listed if (hit := pattern.search(text(problem)))]
      if hits:
        count, first = f'{len(hits)} of {len(listed)} {what}', '{!r} in problem {}'.format(*hits[0])
        logging.warning('config.task.data.%s: %s have special tokens, %s: %s', split, count, meaning, first)


def _gold(problem: Problem) -> str:
  return '\n'.join(str(value) for name, value in problem.reference.items() if name != 'question')


def _open(name: str, field: str, task: Any, data: DataSpec) -> Task:
  if user_file.is_user_function(name):
    return own.open_task(task, name, f'config.task.{field}')
  if name not in TASKS:
    raise ConfigError(f'config.task.{field} = {name!r} is unknown; use one of {", ".join(TASKS)}, or FILE.py:FUNCTION')
  if name == 'countdown' and (files := data.train or data.heldout):
    reads = ', '.join(other for other in TASKS if other != name)
    raise ConfigError(
      f'config.task.data names {files[0]!r}, and config.task.{field} = {name!r} reads no files: use {reads}'
    )
  return importlib.import_module(f'{__name__}.{name}').open_task(task, data)


def heldout_problems(task: Task, count: int, seed: int) -> list[Problem]:
  """Returns the first `count` held-out problems; 0: all there are.

  Raises ConfigError: there are fewer, or any number of them.
  """
  size = task.heldout.size
  if count == 0 and size is None:
    raise ConfigError('config.eval.problems = 0 means all, but this task has no end; give a number')
  if size == 0:
    raise ConfigError(
      'config.task.data.heldout = () has no problems, and none of the others was held out; name files, or a '
      'config.task.evaluate, or raise config.task.jsonl.heldout_fraction'
    )
  if size is not None and count > size:
    raise ConfigError(f'config.eval.problems = {count}, but there are {size}; lower it, or 0 for all')
  return task.problems(seed, 'heldout', range(count or size or 0))
