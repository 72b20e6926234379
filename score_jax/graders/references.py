# SPDX-License-Identifier: Apache-2.0
"""References: what graders know of a problem, made from a user's data and checked."""

from typing import Any

from score_jax.errors import DataError
from score_jax.graders.code import unit_tests


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


def _answer(value: dict, where: str) -> dict:
  answer = value['answer']
  if isinstance(answer, (int, float)) and not isinstance(answer, bool) and answer == answer:
    answer = str(answer)
  if not isinstance(answer, str) or not answer.strip():
    raise DataError(f'{where} holds no gold answer but {answer!r:.60}')
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
  'countdown': (('numbers', 'target'), _numbers),
  'code': (('tests',), _tests),
}
