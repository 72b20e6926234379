# SPDX-License-Identifier: Apache-2.0
"""Countdown: reach a target with the given numbers, each used once, every step written out.

A problem is a pure function of (seed, split, index). A hash of numbers and target decides whether it is held out.
"""

import dataclasses
import hashlib
import random
from typing import Any

from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.graders.countdown import result_of
from score_jax.tasks.problems import DataSpec, GeneratedProblems, Task

SPLITS = ('train', 'heldout')
_MOST_TRIES = 100_000  # about a second; ordinary settings need a few


@dataclasses.dataclass(frozen=True)
class CountdownSpec:
  """The kind of problems; configs/common.py documents the fields."""

  numbers: int
  max_number: int
  max_value: int
  operations: str
  any_order: bool
  heldout_fraction: float
  prompt: str

  def check(self) -> None:
    """Raises ValueError: a field, its value and the remedy."""
    if self.numbers < 2:
      raise ValueError(f'numbers = {self.numbers}: a problem needs at least 2')
    if not self.operations or set(self.operations) - set('+-*/'):
      raise ValueError(f'operations = {self.operations!r}: use one or more of + - * /')
    if not 1 <= self.max_number <= self.max_value:
      raise ValueError(f'max_number = {self.max_number}: it must lie in 1..max_value ({self.max_value})')
    if not 0 < self.heldout_fraction < 1:
      raise ValueError(f'heldout_fraction = {self.heldout_fraction}: it must lie between 0 and 1')
    for field in ('{numbers}', '{target}'):
      if field not in self.prompt:
        raise ValueError(f'prompt = {self.prompt!r}: it must hold {field}')
    try:
      self.prompt.format(numbers='', target='')
    except (KeyError, IndexError, ValueError) as error:
      raise ValueError(f'prompt = {self.prompt!r}: other braces must be doubled ({error!r})') from error


Step = tuple[int, str, int, int]


def random_chain(spec: CountdownSpec, numbers: list[int], rng: random.Random) -> list[Step] | None:
  """Draws a chain of the numbers; None if it leaves 0..max_value."""
  if spec.any_order:
    numbers = rng.sample(numbers, len(numbers))
  steps, total = [], numbers[0]
  for number in numbers[1:]:
    operation = rng.choice(spec.operations)
    result = result_of(total, operation, number)
    if result is None or not 0 <= result <= spec.max_value:
      return None
    steps.append((total, operation, number, result))
    total = result
  return steps


def chain_text(steps: list[Step]) -> str:
  """Returns '7*12=84;84-3=81'."""
  return ';'.join(f'{left}{operation}{right}={result}' for left, operation, right, result in steps)


def is_heldout(spec: CountdownSpec, numbers: list[int], target: int) -> bool:
  """Decides by a hash of the numbers, in any order, and the target."""
  key = f'{sorted(numbers)}->{target}'.encode()
  return int.from_bytes(hashlib.sha256(key).digest()[:4], 'big') < spec.heldout_fraction * 2**32


def draw(spec: CountdownSpec, split: str, rng: random.Random) -> tuple[list[int], list[Step]]:
  """Draws numbers and one solution of a split's next problem.

  Raises DataError: the settings allow next to none.
  """
  for _ in range(_MOST_TRIES):
    numbers = [rng.randint(1, spec.max_number) for _ in range(spec.numbers)]
    steps = random_chain(spec, numbers, rng)
    if steps and steps[-1][-1] > 0 and is_heldout(spec, numbers, steps[-1][-1]) == (split == 'heldout'):
      return numbers, steps
  raise DataError(
    f'config.task.countdown: {_MOST_TRIES} draws gave no {split} problem with a target above 0; '
    'raise max_number, max_value or the number of operations'
  )


def question(spec: CountdownSpec, numbers: list[int], target: int) -> str:
  return spec.prompt.format(numbers=' '.join(map(str, numbers)), target=target)


def problem(spec: CountdownSpec, seed: int, split: str, index: int) -> Problem:
  """Returns problem `index` of 'train' or 'heldout', the same on every machine."""
  numbers, steps = draw(spec, split, random.Random(f'{seed}/{split}/{index}'))
  target = steps[-1][-1]
  return Problem(
    id=f'countdown/{split}/{seed}/{index}',
    question=question(spec, numbers, target),
    reference=dict(numbers=numbers, target=target),
  )


def open_task(task: Any, data: DataSpec) -> Task:
  del data

  def generated(split: str) -> GeneratedProblems:
    return GeneratedProblems(lambda seed, indices: [problem(task.countdown, seed, split, i) for i in indices])

  return Task(generated('train'), generated('heldout'), 'countdown')
