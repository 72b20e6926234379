# SPDX-License-Identifier: Apache-2.0
"""A task and its problems: generated from an index, or listed in files."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import random

from absl import logging

from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.graders import references
from score_jax.tasks.data_files import Row


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Where problems come from; configs/common.py documents the fields."""

  train: tuple[str, ...]
  heldout: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class GeneratedProblems:
  """As many problems as are asked for, each a pure function of (seed, index)."""

  take: Callable[[int, Sequence[int]], list[Problem]]  # (seed, indices)
  size: None = None
  fingerprint: str = ''  # the configuration has what they are like


@dataclasses.dataclass(frozen=True)
class ProblemList:
  """A fixed list; if shuffled, each pass has another order."""

  problems: tuple[Problem, ...]
  shuffled: bool

  def take(self, seed: int, indices: Sequence[int]) -> list[Problem]:
    """Returns the problems of these numbers, below `size` if not shuffled."""
    if not self.shuffled:
      return [self.problems[index] for index in indices]
    rounds = (divmod(index, self.size) for index in indices)
    return [self.problems[_order(seed, round_, self.size)[position]] for round_, position in rounds]

  @property
  def size(self) -> int:
    return len(self.problems)

  @property
  def fingerprint(self) -> str:
    """Returns a SHA-256, which a resumed run must have again."""
    digest = hashlib.sha256()
    for problem in self.problems:
      known = [problem.question, problem.reference, *([problem.row] if problem.row else [])]
      digest.update(json.dumps(known, sort_keys=True).encode())
    return digest.hexdigest()


Problems = GeneratedProblems | ProblemList


@dataclasses.dataclass(frozen=True)
class Task:
  """A task, opened."""

  train: Problems
  heldout: Problems
  verifier: str  # a name of graders.registry.GRADERS; '': the references are for reward functions alone

  @property
  def listed(self) -> list[Problem]:
    """All problems that are listed, of both splits."""
    return [p for part in (self.train, self.heldout) if isinstance(part, ProblemList) for p in part.problems]

  def problem(self, seed: int, split: str, index: int) -> Problem:
    """Returns a problem of 'train' or 'heldout', the same on every machine."""
    return self.problems(seed, split, [index])[0]

  def problems(self, seed: int, split: str, indices: Sequence[int]) -> list[Problem]:
    return (self.train if split == 'train' else self.heldout).take(seed, indices)


@functools.lru_cache(maxsize=8)
def _order(seed: int, round_: int, size: int) -> tuple[int, ...]:
  order = list(range(size))
  random.Random(f'{seed}/train/{round_}').shuffle(order)
  return tuple(order)


def divided(train: Iterable[Row], heldout: Iterable[Row], problem: Callable[[Row], Problem], verifier: str) -> Task:
  """Makes a task of rows, without training problems that are held out too.

  Raises DataError: a row lacks something, or no problem is left to train on.
  """

  def made(row: Row) -> Problem:
    return dataclasses.replace(problem(row), row=row.fields)

  return task_of(list(map(made, train)), list(map(made, heldout)), verifier)


def task_of(everything: Sequence[Problem], held: Sequence[Problem], verifier: str) -> Task:
  """Makes a task of problems, as `divided` does."""
  held = _distinct('heldout', held, verifier)
  if repeated := len(everything) - len({collapsed(p.question) for p in _checked('train', everything, verifier)}):
    logging.warning('%d training problems ask what an earlier one asks, and count as often', repeated)
  questions = {collapsed(p.question): p for p in held}
  shared = [(p, questions[asked]) for p in everything if (asked := collapsed(p.question)) in questions]
  _check_golds('train and heldout', itertools.chain.from_iterable(shared), verifier)
  kept = tuple(p for p in everything if collapsed(p.question) not in questions)
  if everything and not kept:
    raise DataError('config.task.data.train: every problem is held out as well; name other files')
  if len(kept) < len(everything):
    logging.warning('%d training problems are held out as well and were left out', len(everything) - len(kept))
  return Task(ProblemList(kept, shuffled=True), ProblemList(tuple(held), shuffled=False), verifier)


def _distinct(split: str, problems: Sequence[Problem], verifier: str) -> list[Problem]:
  """Returns the problems without those whose id and question came before."""
  distinct = list({problem.id: problem for problem in _checked(split, problems, verifier)}.values())
  if len(distinct) < len(problems):
    logging.warning('%d held-out problems are repeated and count once', len(problems) - len(distinct))
  return distinct


def _checked(split: str, problems: Sequence[Problem], verifier: str) -> Sequence[Problem]:
  """Raises DataError: a question has two golds, or an id two questions."""
  _check_golds(split, problems, verifier)
  asked_by: dict[str, str] = {}
  for problem in problems:
    question = collapsed(problem.question)
    if asked_by.setdefault(problem.id, question) != question:
      raise DataError(f'config.task.data.{split}: id {problem.id!r} has two questions; give each its own')
  return problems


def _check_golds(split: str, problems: Iterable[Problem], verifier: str) -> None:
  """Raises DataError: a question has two golds."""
  golds: dict[str, dict] = {}
  for problem in problems:
    question = collapsed(problem.question)
    gold = golds.setdefault(question, problem.reference)
    if not references.same(verifier, gold, problem.reference):
      both = ' and '.join(f'{references.bare(each)!r:.80}' for each in (gold, problem.reference))
      raise DataError(f'config.task.data.{split}: {question!r:.80} has two golds, {both}; remove one')


def with_rows(task: Task, kept: bool) -> Task:
  """Returns the task whose problems have the columns of their rows, as plain as JSON; not `kept`: none."""

  def changed(problem: Problem) -> Problem:
    row = json.loads(json.dumps(problem.row, default=str)) if kept else {}
    return dataclasses.replace(problem, row=row)

  def mapped(problems: Problems) -> Problems:
    if isinstance(problems, GeneratedProblems):
      return problems
    return dataclasses.replace(problems, problems=tuple(map(changed, problems.problems)))

  return dataclasses.replace(task, train=mapped(task.train), heldout=mapped(task.heldout))


def collapsed(text: str) -> str:
  return ' '.join(text.split())


def text_hash(text: str) -> str:
  """Returns 16 hexadecimal digits of a text's SHA-256, white space aside."""
  return hashlib.sha256(collapsed(text).encode('utf-8', 'surrogatepass')).hexdigest()[:16]


def asked(prompt: str, **fields: str) -> str:
  """Fills {field}s into a prompt; other braces, as of LaTeX, stay."""
  for name, value in fields.items():
    prompt = prompt.replace('{' + name + '}', value)
  return prompt
