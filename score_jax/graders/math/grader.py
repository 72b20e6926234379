# SPDX-License-Identifier: Apache-2.0
"""From a text to a verdict. Nothing is ever evaluated as code.

`grade` is a pure function: it uses no clock, no signal, and no global state but a cache. `budget.py` bounds what a text
may cost; docs/math.md lists what counts as the same answer.
"""

import functools
import re

from score_jax.core_types import Graded, Verdict
from score_jax.graders.math import budget
from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.compare.comparison import Comparison
from score_jax.graders.math.extract import boxes_of_sentence, extract, last_boxes
from score_jax.graders.math.parser.answers import read
from score_jax.graders.math.parser.clean import clean, decimal_comma
from score_jax.graders.math.parser.values import Sequence

_SHOWN = 200  # characters of an answer in Graded
_SOLUTION = 200  # characters from which a reference is taken for a whole solution
_WORK = re.compile(r'[-+*/^!]|\\(?:[dtc]?frac|sqrt|d?binom|cdot|times|sin|cos|tan|log|ln|sum|int)')


def grade(reference: dict, text: str) -> Graded:
  """Returns CORRECT, WRONG, UNPARSED (no readable answer), or TIMEOUT (no steps left).

  Args:
    reference: {'answer': the reference as LaTeX or a number}; with 'question' (the problem's text) an answer that
      repeats an expression of the question is not accepted, and a percentage or a numeral's base that the question
      asks for need not be written.
    text: the attempt, decoded.
  """
  extracted = extract(text)
  if extracted is None:
    return Graded(Verdict.UNPARSED)
  gold = gold_text(str(reference['answer']))
  question = str(reference.get('question', ''))
  answer = next((one for one in extracted.texts if _value(one) is not None), extracted.texts[0])
  if extracted.parts and _is_list(_value(gold)) and not _is_list(_value(answer)):
    answer = extracted.parts
  return Graded(judge(gold, answer, question), ' '.join(answer.split())[:_SHOWN])


def judge(gold: str, answer: str, question: str = '') -> Verdict:
  """Returns the verdict on an extracted answer."""
  if question and echoes(question, gold, answer):
    return Verdict.WRONG
  wanted, given = _value(gold), _value(answer)
  if wanted is None:  # only the same spelling is the same answer
    return Verdict.CORRECT if spelling(gold) == spelling(answer) != '' else Verdict.WRONG
  if given is None:
    return Verdict.UNPARSED
  if wanted == given:
    return Verdict.CORRECT
  words = question.lower()
  percents = '%' in words or 'percent' in words
  comparison = Comparison(Scalars(budget.Budget()), percents, re.search(r'\bbase\b', words) is not None)
  try:
    same = any(comparison.same(*pair) for pair in _readings(gold, answer, wanted, given))
    return Verdict.CORRECT if same else Verdict.WRONG
  except budget.Unreadable:
    return Verdict.WRONG
  except budget.Exhausted:
    return Verdict.TIMEOUT


def _readings(gold: str, answer: str, wanted, given):
  """Yields the two values, then other readings of a comma: as decimal, as separator."""
  yield wanted, given
  gold, answer = clean(gold), clean(answer)
  if '.' in gold and decimal_comma(answer) != answer:
    yield wanted, _value(decimal_comma(answer))
  if decimal_comma(gold) != gold and ('.' in answer or gold.startswith('0')):
    yield _value(decimal_comma(gold)), given
  if ',' in gold and isinstance(given, Sequence) and not isinstance(wanted, Sequence):
    yield _value(gold.replace(',', ', ')), given


def _is_list(value) -> bool:
  return isinstance(value, Sequence) and value.kind != 'tuple'


def _value(text: str):
  try:
    return _read(text) if len(text) <= 4 * budget.ANSWER_CHARS else None
  except (budget.Unreadable, budget.Exhausted):
    return None


@functools.lru_cache(maxsize=4096)
def _read(text: str):
  return read(text)


def readable(reference: dict) -> bool:
  """Returns True if a reference has a value here; others are compared by spelling alone."""
  return _value(gold_text(str(reference['answer']))) is not None


def gold_text(gold: str) -> str:
  """Returns the answer of a reference: boxed, after ####, of a solution, or all."""
  if '\\boxed' in gold or '\\fbox' in gold:
    boxed = last_boxes(gold)
    return boxes_of_sentence(gold) or (boxed[1] if boxed else gold)
  if '####' in gold or len(gold) > _SOLUTION:
    extracted = extract(gold)
    return extracted.texts[0] if extracted else gold
  return gold


def spelling(text: str) -> str:
  """Returns an answer's text without blanks and braces."""
  return re.sub(r'[\s{}]', '', clean(text[:2000]))


def echoes(question: str, gold: str, answer: str) -> bool:
  """Returns True if the answer repeats work of the question, and the reference does not."""
  ours, theirs = spelling(answer), spelling(gold)
  if ours == theirs or len(ours) < 2 or not _WORK.search(ours.lstrip('-')):
    return False
  return ours in re.sub(r'[\s{}]', '', question.replace('\\left', '').replace('\\right', '').replace('dfrac', 'frac'))
