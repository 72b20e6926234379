"""Exact text: the answer is what stands behind the last `Answer:`, or else the whole attempt."""

import re
import unicodedata

from score_jax.core_types import Graded
from score_jax.core_types import Verdict

_LONGEST = 65_536  # characters of an attempt; more is no answer
_MARK = re.compile(r'answer\s*:', re.IGNORECASE)


def grade(reference: dict, text: str) -> Graded:
  """CORRECT where the answer is the gold one but for white space and Unicode's ways of writing one letter (NFC).

  Args:
    reference: {'answer': str}.
    text: the attempt, decoded without special tokens.
  """
  if len(text) > _LONGEST:
    return Graded(Verdict.UNPARSED)
  found = normal(_MARK.split(text)[-1])
  if not found:
    return Graded(Verdict.UNPARSED)
  return Graded(Verdict.CORRECT if found == normal(reference['answer']) else Verdict.WRONG, found[:200])


def normal(text: str) -> str:
  """White space collapsed, NFC."""
  return ' '.join(unicodedata.normalize('NFC', text).split())
