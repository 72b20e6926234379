# SPDX-License-Identifier: Apache-2.0
"""Grades a Countdown answer by parsing it. Nothing in a model's text is ever evaluated as code.

An answer is a chain of steps, `7*12=84;84-3=81`, separated by `;` or line ends. What stands before its last `:` is a
remark (`Answer: ...`, `wrong: ...`). Each step takes two numbers that are still there and puts its result back. The
answer is correct when every step is right, every number was used once, and the last result is the target.
"""

import re

from score_jax.core_types import Graded, Verdict

_STEP = re.compile(r'\s*([0-9]{1,9})\s*([-+*/])\s*([0-9]{1,9})\s*=\s*([0-9]{1,9})\s*')  # ASCII digits alone
_LONGEST = 4096  # characters of an answer


def grade(reference: dict, text: str) -> Graded:
  """CORRECT, WRONG, or UNPARSED when the text is not a chain of steps.

  Args:
    reference: {'numbers': [int, ...], 'target': int}.
    text: the attempt, decoded without special tokens.
  """
  if len(text) > _LONGEST:
    return Graded(Verdict.UNPARSED)
  answer = text.rpartition(':')[-1]
  steps = parse_steps(answer)
  if not steps:
    return Graded(Verdict.UNPARSED)
  reached = _reaches(steps, reference['numbers'], reference['target'])
  return Graded(Verdict.CORRECT if reached else Verdict.WRONG, answer.strip()[:200])


def _reaches(steps: list[tuple[int, str, int, int]], numbers: list[int], target: int) -> bool:
  there = list(numbers)
  for left, operation, right, result in steps:
    for operand in (left, right):
      if operand not in there:
        return False
      there.remove(operand)
    if result_of(left, operation, right) != result:
      return False
    there.append(result)
  return there == [target]


def parse_steps(text: str) -> list[tuple[int, str, int, int]]:
  """The steps (left, operation, right, result) of a chain; empty if any part is not a step."""
  parts = [part for part in re.split(r'[;\n]', text.strip()) if part.strip()]
  matches = [_STEP.fullmatch(part) for part in parts]
  if not all(matches):
    return []
  return [(int(m[1]), m[2], int(m[3]), int(m[4])) for m in matches]


def result_of(left: int, operation: str, right: int) -> int | None:
  """The result of one step in whole numbers; None where a division leaves a rest."""
  if operation == '/':
    return left // right if right and left % right == 0 else None
  return {'+': left + right, '-': left - right, '*': left * right}[operation]
