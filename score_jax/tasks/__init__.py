"""Tasks: where problems come from, and which verifier grades their answers."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

from absl import logging

from score_jax.core_types import Problem
from score_jax.errors import ConfigError
from score_jax.errors import DataError
from score_jax.tasks import countdown
from score_jax.tasks.problems import DataSpec
from score_jax.tasks.problems import GeneratedProblems
from score_jax.tasks.problems import ProblemList
from score_jax.tasks.problems import Problems


@dataclasses.dataclass(frozen=True)
class Task:
  """A task, opened."""

  train: Problems
  heldout: Problems
  verifier: str  # a name of graders.registry.GRADERS

  def problem(self, seed: int, split: str, index: int) -> Problem:
    """Problem number `index` of a split, 'train' or 'heldout': the same on every machine."""
    return self.problems(seed, split, [index])[0]

  def problems(self, seed: int, split: str, indices: Sequence[int]) -> list[Problem]:
    """Returns the problems of these numbers, as `problem` does."""
    return (self.train if split == 'train' else self.heldout).take(seed, indices)


def _countdown(task: Any, data: DataSpec) -> Task:
  def made(split: str) -> GeneratedProblems:
    return GeneratedProblems(lambda seed, indices: countdown.problems(task.countdown, seed, split, indices))

  return Task(made('train'), made('heldout'), 'countdown')


def _gsm8k(task: Any, data: DataSpec) -> Task:
  from score_jax.tasks import gsm8k

  return Task(*gsm8k.open_set(data, task.prompt), 'math')


def _math(task: Any, data: DataSpec) -> Task:
  from score_jax.tasks import math

  return Task(*math.open_set(data, task.prompt), 'math')


def _mbpp(task: Any, data: DataSpec) -> Task:
  from score_jax.tasks import mbpp

  return Task(*mbpp.open_set(data, task.prompt, task.mbpp), 'code')


def _humaneval(task: Any, data: DataSpec) -> Task:
  from score_jax.tasks import humaneval

  return Task(*humaneval.open_set(data, task.prompt), 'code')


def _jsonl(task: Any, data: DataSpec) -> Task:
  from score_jax.tasks import jsonl

  return Task(*jsonl.open_set(data, task.prompt, task.jsonl), task.jsonl.verifier)


TASKS: dict[str, Callable[[Any, DataSpec], Task]] = {
  # name of config.task.name -> maker from config.task and what it is to read
  'countdown': _countdown,
  'gsm8k': _gsm8k,
  'math': _math,
  'mbpp': _mbpp,
  'humaneval': _humaneval,
  'jsonl': _jsonl,
}


def open_task(task: Any) -> Task:
  """The configured task; its held-out problems are those of another one if `task.evaluate` names it.

  Args:
    task: config.task.

  Raises:
    ConfigError: an unknown name, or two tasks that are graded differently.
    DataError: its data cannot be read.
  """
  if not task.evaluate or task.evaluate == task.name:
    return _open(task.name, 'name', task, task.data)
  opened = _open(task.name, 'name', task, dataclasses.replace(task.data, heldout=()))
  other = _open(task.evaluate, 'evaluate', task, dataclasses.replace(task.data, train=()))
  if other.verifier != opened.verifier:
    raise ConfigError(
      f'config.task.evaluate = {task.evaluate!r} is graded by verifier {other.verifier!r}, config.task.name = '
      f'{task.name!r} by {opened.verifier!r}; a run has one'
    )
  return dataclasses.replace(opened, heldout=other.heldout)


def without_long(task: Task, tokens: Callable[[Problem], int], most: int) -> Task:
  """The task without training problems whose prompt has more than `most` tokens. Held-out ones all stay.

  Raises:
    DataError: none is left.
  """
  if isinstance(task.train, GeneratedProblems):
    return task
  kept = tuple(problem for problem in task.train.problems if tokens(problem) <= most)
  if not kept:
    raise DataError(f'no training problem has a prompt of {most} tokens or less; raise config.sampling.prompt_tokens')
  if left_out := len(task.train.problems) - len(kept):
    logging.warning('%d training problems have a prompt of more than %d tokens and were left out', left_out, most)
  return dataclasses.replace(task, train=ProblemList(kept, shuffled=True))


def _open(name: str, field: str, task: Any, data: DataSpec) -> Task:
  if name not in TASKS:
    raise ConfigError(f'config.task.{field} = {name!r} is unknown; use one of {", ".join(TASKS)}')
  return TASKS[name](task, data)


def heldout_problems(task: Task, count: int, seed: int) -> list[Problem]:
  """The first `count` held-out problems; 0: all there are.

  Raises:
    ConfigError: there are fewer, or any number of them.
  """
  if count == 0 and task.heldout.size is None:
    raise ConfigError('config.eval.problems = 0 means all, but this task makes as many as are asked for; give a number')
  if task.heldout.size is not None and count > task.heldout.size:
    raise ConfigError(
      f'config.eval.problems = {count}, but there are {task.heldout.size} held-out problems; lower it, or 0 for all'
    )
  if task.heldout.size == 0:
    raise ConfigError(
      'config.task.data.heldout = (): there are no held-out problems; name files of them, or a task in '
      'config.task.evaluate'
    )
  return task.problems(seed, 'heldout', range(count or task.heldout.size or 0))
