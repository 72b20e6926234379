# SPDX-License-Identifier: Apache-2.0
"""References: what graders know of a problem, made from a user's data and checked."""

from collections.abc import Callable, Sequence
import math
from typing import Any
import unicodedata

from absl import logging

from score_jax.core_types import Graded, Verdict, is_unicode
from score_jax.errors import DataError
from score_jax.graders.code import unit_tests

Grade = Callable[[Sequence[tuple[dict, str]]], list[Graded]]  # of a pool


def make(grader: str, value: Any, where: str) -> dict:
  """Makes a grader's reference from what a row holds.

  Args:
    grader: a name of registry.GRADERS.
    value: an answer (text, math), `assert` lines (code), or the grader's fields.
    where: names the row in messages, e.g. "data.jsonl, row 3: column 'answer'".

  Raises:
    DataError: it is not what the grader needs.
  """
  fields, check = _FIELDS[grader]
  if not isinstance(value, dict):
    value = {fields[0]: value}
  missing = [name for name in fields if name not in value]
  if missing and not (grader == 'code' and 'entry_point' in value):
    raise DataError(f'{where} has no {", ".join(missing)}: grader {grader!r} needs {", ".join(fields)}')
  return check(value, where)


def text_of(value: Any) -> str:
  """Returns a text, or a finite number as text; ValueError, which tells what it is, for all else."""
  if isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf:
    value = str(value)
  if not isinstance(value, str) or all(unicodedata.category(character)[0] in 'ZC' for character in value):
    raise ValueError(f'holds {value!r:.60}, not a text')
  check_pairs(value)
  return value


def check_pairs(text: str) -> None:
  """Raises ValueError for half a surrogate pair."""
  if not is_unicode(text):
    raise ValueError(f'holds half a surrogate pair, which no tokenizer reads: {ascii(text)[:60]}')


def same(grader: str, one: dict, other: dict) -> bool:
  """Returns whether two references of a question can be right at once.

  Of mathematics: they are of one value, whatever their spelling. Other tests of a program do not contradict.
  """
  one, other = bare(one), bare(other)
  if grader == 'code':
    return True
  if one == other or grader not in ('math', 'math_verify'):
    return one == other
  from score_jax.graders import math as mathematics

  return mathematics.grade(one, f'\\boxed{{{mathematics.gold_text(other["answer"])}}}').verdict == Verdict.CORRECT


def bare(reference: dict) -> dict:
  """Returns a reference without its question."""
  return {name: value for name, value in reference.items() if name != 'question'}


def check_readable(names: Sequence[str], golds: Sequence[dict], most: float, field: str) -> None:
  """Tells how many references of mathematics have no value here, so that only their own spelling is right.

  Args:
    names: of the references, for messages.
    golds: what `make` returned for grader 'math'.
    most: the share above which they are refused.
    field: where `most` is set.

  Raises:
    DataError: there are more.
  """
  from score_jax.graders import math as mathematics

  unread = [i for i, gold in enumerate(golds) if not mathematics.readable(gold)]
  if not unread:
    return
  first = ', '.join(f'{names[i]}: {golds[i]["answer"]!r:.60}' for i in unread[:3])
  _tell_or_refuse(
    f'{len(unread)} of {len(golds)} golds are not read as mathematics ({first})',
    len(unread) > most * len(golds),
    remedy=f'correct them, compare texts (grader text), or raise {field} = {most}',
    effect='of these the same spelling alone is right',
  )


def check_solvable(
  names: Sequence[str], golds: Sequence[tuple[dict, str]], grade: Grade, most: float, field: str
) -> None:
  """Tells how many tests of programs refuse the published solution, so that no program may pass them here.

  They import what is not there, or need helpers, threads or files.

  Args:
    names: of the references, for messages.
    golds: (reference, solution) of problems that have one.
    grade: grades a list of them.
    most: the share above which they are refused.
    field: where `most` is set.

  Raises:
    DataError: there are more.
  """
  graded = grade(golds)
  unsolved = [i for i, one in enumerate(graded) if one.verdict != Verdict.CORRECT]
  if not unsolved:
    return
  first = ', '.join(f'{names[i]}: {graded[i].verdict.name.lower()}, {graded[i].answer!r:.100}' for i in unsolved[:3])
  _tell_or_refuse(
    f'{len(unsolved)} of {len(golds)} published solutions do not pass their own tests here ({first})',
    len(unsolved) > most * len(golds),
    remedy=f'correct or leave out these tests, or raise {field} = {most}',
    effect='no program may pass these',
  )


def _tell_or_refuse(told: str, too_many: bool, *, remedy: str, effect: str) -> None:
  if too_many:
    raise DataError(f'{told}; {remedy}')
  logging.warning('%s; %s', told, effect)


def _answer(value: dict, where: str) -> dict:
  try:
    answer = text_of(value['answer'])
  except ValueError as error:
    raise DataError(f'{where} is no gold answer: it {error}') from error
  question = value.get('question')
  return dict(answer=answer) | (dict(question=question) if isinstance(question, str) else {})


def _numbers(value: dict, where: str) -> dict:
  numbers, target = value['numbers'], value['target']
  whole = isinstance(numbers, list) and all(type(n) is int for n in numbers) and type(target) is int
  if not whole or not numbers:
    raise DataError(f'{where}: numbers = {numbers!r:.60}, target = {target!r:.20} must be whole numbers')
  return dict(numbers=numbers, target=target)


def _tests(value: dict, where: str) -> dict:
  if 'entry_point' in value:  # as in HumanEval
    missing = [name for name in ('prompt', 'entry_point', 'test') if not isinstance(value.get(name), str)]
    if missing:
      raise DataError(f'{where} has no text in {", ".join(missing)}')
    return _read({name: value[name] for name in ('prompt', 'entry_point', 'test')}, where)
  tests, setup = value['tests'], value.get('setup') or ''
  if not isinstance(tests, list) or not tests or not all(isinstance(test, str) and test.strip() for test in tests):
    raise DataError(f'{where} holds no list of tests ("assert f(1) == 2") but {tests!r:.60}')
  if not isinstance(setup, str):
    raise DataError(f'{where}: setup = {setup!r:.60} must be a text')
  return _read(dict(setup=setup, tests=tests), where)


def _read(reference: dict, where: str) -> dict:
  try:
    unit_tests.read(reference)
  except DataError as error:
    raise DataError(f'{where}: {error}') from error
  return reference


_FIELDS = {  # grader -> (fields, the first of which a bare value is; check)
  'text': (('answer',), _answer),
  'math': (('answer',), _answer),
  'math_verify': (('answer',), _answer),
  'countdown': (('numbers', 'target'), _numbers),
  'code': (('tests',), _tests),
}
