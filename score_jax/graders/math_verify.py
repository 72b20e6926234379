# SPDX-License-Identifier: Apache-2.0
"""The grader of the package math-verify, called as TRL's `accuracy_reward` calls it: numbers compare with TRL's.

Some answers keep its sympy busy for minutes. What bounds one is the worker's processor time, not the seconds of wall
time that TRL gives it, so that verdicts do not depend on how busy the machine is. Golds are read as the grader of
mathematics reads them, and given in a box.
"""

import functools

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from score_jax.core_types import Graded, Verdict
from score_jax.graders import math

_LONGEST = 65_536  # characters of an attempt
_OF_ANSWERS = LatexExtractionConfig(
  normalization_config=NormalizationConfig(units=True), boxed_match_priority=0, try_extract_without_anchor=False
)


def grade(reference: dict, text: str) -> Graded:
  """Returns CORRECT where math-verify takes the attempt's formula for the reference.

  A gold that it does not read is an ERROR, which leaves the attempt out, as TRL does.

  Args:
    reference: {'answer': str}, as of the grader of mathematics.
    text: the attempt, decoded without special tokens.
  """
  gold = _gold(reference['answer'])
  if not gold:
    return Graded(Verdict.ERROR, f'math-verify does not read the gold {reference["answer"]!r:.100}')
  if len(text) > _LONGEST:
    return Graded(Verdict.UNPARSED)
  answer = parse(text, extraction_config=[_OF_ANSWERS], extraction_mode='first_match', parsing_timeout=None)
  if not answer:
    return Graded(Verdict.UNPARSED)
  verdict = Verdict.CORRECT if verify(list(gold), answer, timeout_seconds=None) else Verdict.WRONG
  return Graded(verdict, next((each for each in answer if isinstance(each, str)), '')[:200])


@functools.lru_cache(maxsize=256)
def _gold(answer: str) -> tuple:
  return tuple(parse(f'\\boxed{{{math.gold_text(answer)}}}', parsing_timeout=None))
