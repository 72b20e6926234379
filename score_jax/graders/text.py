# SPDX-License-Identifier: Apache-2.0
"""The grader of exact text: what follows the last `Answer:`, or else the whole attempt."""

import re
import unicodedata

from score_jax.core_types import Graded, Verdict

_LONGEST = 65_536  # characters of an attempt
_MARK = re.compile(r'answer\s*:', re.IGNORECASE)


def grade(reference: dict, text: str) -> Graded:
  """Returns CORRECT where the answer is the reference, up to blanks and NFC.

  Args:
    reference: {'answer': str}.
    text: the attempt, decoded without special tokens.
  """
  if len(text) > _LONGEST:
    return Graded(Verdict.UNPARSED)
  answer = _normal(_MARK.split(text)[-1])
  if not answer:
    return Graded(Verdict.UNPARSED)
  return Graded(Verdict.CORRECT if answer == _normal(reference['answer']) else Verdict.WRONG, answer[:200])


def _normal(text: str) -> str:
  return ' '.join(unicodedata.normalize('NFC', text).split())
