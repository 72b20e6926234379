"""Grades a response to a mathematical problem: text in, verdict out. Nothing is ever evaluated as code.

`grade` is a pure function of its arguments: no clock, no signal, no global state but caches of constants. What a
text may cost is bounded by `budget.py`; what counts as the same answer is in `policy.py`.
"""

import functools
import re

from score_jax.types import Graded
from score_jax.types import Verdict
from score_jax.verifiers.math.budget import Budget
from score_jax.verifiers.math.budget import Exhausted
from score_jax.verifiers.math.budget import Unreadable
from score_jax.verifiers.math.clean import clean
from score_jax.verifiers.math.compare import Comparison
from score_jax.verifiers.math.equal import Scalars
from score_jax.verifiers.math.extract import extract
from score_jax.verifiers.math.extract import last_boxes
from score_jax.verifiers.math.reading import read

_SHOWN = 200  # characters of an answer in Graded
_WORK = re.compile(r'[-+*/^!]|\\(?:[dtc]?frac|sqrt|d?binom|cdot|times|sin|cos|tan|log|ln|sum|int)')


def grade(reference: dict, text: str) -> Graded:
  """CORRECT, WRONG, UNPARSED (no answer that can be read), or TIMEOUT (the answer used up its step budget).

  Args:
    reference: {'answer': the reference as LaTeX or a number}; with 'question' (the problem's text) an answer that
      repeats an expression of the question is not accepted, and a percentage or a numeral's base that the question
      asks for need not be written.
    text: the attempt, decoded.
  """
  gold = str(reference['answer'])
  found = extract(text)
  if found is None:
    return Graded(Verdict.UNPARSED)
  shown = ' '.join(found.text.split())[:_SHOWN]
  return Graded(judge(gold, found.text, str(reference.get('question', ''))), shown)


def judge(gold: str, answer: str, question: str = '') -> Verdict:
  """The verdict on an extracted answer."""
  gold = gold_text(gold)
  if question and echoes(question, gold, answer):
    return Verdict.WRONG
  try:
    wanted = _read(gold)
  except Unreadable:  # no value: only the same spelling is the same answer
    return Verdict.CORRECT if spelling(gold) == spelling(answer) != '' else Verdict.WRONG
  try:
    given = _read(answer)
  except Unreadable:
    return Verdict.UNPARSED
  words = question.lower()
  percents = '%' in words or 'percent' in words
  comparison = Comparison(Scalars(Budget()), percents, re.search(r'\bbase\b', words) is not None)
  try:
    return Verdict.CORRECT if comparison.same(wanted, given) else Verdict.WRONG
  except Unreadable:
    return Verdict.CORRECT if wanted == given and spelling(gold) == spelling(answer) else Verdict.WRONG
  except Exhausted:
    return Verdict.CORRECT if wanted == given else Verdict.TIMEOUT


@functools.lru_cache(maxsize=4096)
def _read(text: str):
  return read(text)


def readable(reference: dict) -> bool:
  """True if a reference has a value here. Others are compared by spelling alone; a data set can be filtered by this."""
  try:
    _read(gold_text(str(reference['answer'])))
  except (Unreadable, Exhausted):
    return False
  return True


def gold_text(gold: str) -> str:
  """A reference may be given boxed, or after ####."""
  if '\\boxed' in gold or '\\fbox' in gold:
    boxed = last_boxes(gold)
    return boxed[1] if boxed else gold
  return gold.rpartition('####')[2].strip() or gold


def spelling(text: str) -> str:
  """An answer's text without blanks and without brackets that group nothing."""
  return re.sub(r'[\s{}]', '', clean(text[:2000]))


def echoes(question: str, gold: str, answer: str) -> bool:
  """True if the answer is an unevaluated expression that stands in the question, and the reference is another one."""
  ours, theirs = spelling(answer), spelling(gold)
  if ours == theirs or len(ours) < 3 or not _WORK.search(ours.lstrip('-')):
    return False
  return ours in re.sub(r'[\s{}]', '', question.replace('\\left', '').replace('\\right', '').replace('dfrac', 'frac'))
