# SPDX-License-Identifier: Apache-2.0
"""From a text to a verdict. Nothing is ever evaluated as code.

`grade` is a pure function: it uses no clock, no signal, and no global state but a cache. `budget.py` bounds what a text
may cost; docs/math.md lists what counts as the same answer.
"""

from fractions import Fraction
import functools
import re

from score_jax.core_types import Graded, Verdict
from score_jax.graders.math import budget
from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.compare.comparison import Comparison
from score_jax.graders.math.echo import echoes
from score_jax.graders.math.extract import extract
from score_jax.graders.math.golds import gold_text
from score_jax.graders.math.parser.answers import choice, read
from score_jax.graders.math.parser.clean import clean, decimal_comma
from score_jax.graders.math.parser.values import Choice, Scalar, Sequence, number, symbol

_CHOICES = 'ABCD'
_THOUSANDS = re.compile('([0-9]+(?:[.][0-9]+)?)[kK]')
_SHOWN = 200  # characters of an answer in Graded


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
  several = _is_list(_value(gold)) or (isinstance(_value(gold), Sequence) and '=' in extracted.parts)
  if extracted.parts and several and not isinstance(_value(answer), Sequence):
    answer = extracted.parts
  return Graded(judge(gold, answer, question), ' '.join(answer.split())[:_SHOWN])


def judge(gold: str, answer: str, question: str = '') -> Verdict:
  """Returns the verdict on an extracted answer."""
  wanted, given = _value_or_choice(gold), _value_or_choice(answer)
  if wanted is None:  # only the same spelling is the same answer
    return Verdict.CORRECT if spelling(gold) == spelling(answer) != '' else Verdict.WRONG
  if given is None:
    return Verdict.UNPARSED
  if wanted == given:
    return Verdict.CORRECT
  comparison = Comparison(Scalars(budget.Budget()), question)
  try:
    same = any(
      comparison.same(*pair) and not (question and echoes(comparison, *pair, answer))
      for pair in _readings(gold, answer, wanted, given)
    )
    return Verdict.CORRECT if same else Verdict.WRONG
  except budget.Unreadable:
    return Verdict.WRONG
  except budget.Exhausted:
    return Verdict.TIMEOUT


def _readings(gold: str, answer: str, wanted, given):
  """Yields the two values, then others: a choice's letter or value, 70k as 70,000, a comma as decimal or separator.

  The letter of a choice may be small where it stands alone: c for C, but not z = c.
  """
  yield wanted, given
  if any(wanted == Scalar(symbol(letter)) and given == Scalar(symbol(letter.lower())) for letter in _CHOICES):
    yield wanted, wanted
  for one, other in ((choice(gold), given), (wanted, choice(answer))):
    if isinstance(one, Choice):
      yield one.value, other
      yield Scalar(symbol(one.letter)), other
    if isinstance(other, Choice):
      yield one, other.value
      yield one, Scalar(symbol(other.letter))
  gold, answer = clean(gold), clean(answer)
  thousands = _THOUSANDS.fullmatch(answer)
  if thousands:
    yield wanted, Scalar(number(Fraction(thousands[1]) * 1000))
  if '.' in gold and decimal_comma(answer) != answer:
    yield wanted, _value(decimal_comma(answer))
  if ',' in gold and isinstance(given, Sequence) and not isinstance(wanted, Sequence):
    yield _value(gold.replace(',', ', ')), given


def _is_list(value) -> bool:
  return isinstance(value, Sequence) and value.kind != 'tuple'


def _value_or_choice(text: str):
  value = _value(text)
  lettered = choice(text) if value is None else None
  return lettered.value if lettered else value


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
  return _value_or_choice(gold_text(str(reference['answer']))) is not None


def spelling(text: str) -> str:
  """Returns an answer's text without blanks and braces."""
  return re.sub(r'[\s{}]', '', clean(text[:2000]))
