# SPDX-License-Identifier: Apache-2.0
"""MBPP (Austin et al., arXiv 2108.07732): short Python programs from a sentence and three tests.

First attempts see the three solved problems of its paper, as in SCoRe.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from absl import logging

from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.graders import references
from score_jax.tasks import data_files, problems, prompts

# First and last task_id, as published.
SPLITS = {'test': (11, 510), 'validation': (511, 600), 'train': (601, 974)}
_LAST = max(last for _, last in SPLITS.values())
_SHOWN = (2, 3, 4)  # similar_elements, is_not_prime, heap_queue_largest


@dataclasses.dataclass(frozen=True)
class MbppSpec:
  """Which problems are trained on; configs/common.py documents the field."""

  splits: tuple[str, ...]
  examples: int
  tests: int

  def check(self) -> None:
    """Raises ValueError: a field, its value and the remedy."""
    if not self.splits or set(self.splits) - set(SPLITS):
      raise ValueError(f'splits = {self.splits}: name one or more of {", ".join(SPLITS)}')
    if not 0 <= self.examples <= len(_SHOWN):
      raise ValueError(f'examples = {self.examples} must be 0 to {len(_SHOWN)}')
    if self.tests < 0:
      raise ValueError(f'tests = {self.tests} must be 0, for all, or more')


def open_task(task: Any, data: problems.DataSpec) -> problems.Task:
  """Trains on `task.mbpp.splits`; holds the test split out, if not trained on."""
  spec: MbppSpec = task.mbpp
  rows = _by_id(data_files.read_all(data.train + data.heldout))
  shown = ''.join(_solved(rows, number) for number in _SHOWN[: spec.examples]) if rows else ''
  train = [row for number, row in rows.items() if _split(number) in spec.splits]
  heldout = [row for number, row in rows.items() if _split(number) == 'test' and 'test' not in spec.splits]
  if data.train and not train:
    raise DataError(
      f'config.task.mbpp.splits = {spec.splits}: config.task.data.train has no problem of them; '
      f'their task_id is that of {SPLITS}'
    )

  def of(row: data_files.Row) -> Problem:
    tests = row.texts('test_list')[: spec.tests or None]
    prompt = task.prompt or prompts.MBPP_PROBLEM
    asked = problems.asked(prompt, question=_question(row), tests='\n'.join(tests))
    solution = row.text_or_empty('code')
    return Problem(f'mbpp/{_task_id(row)}', shown + asked, reference(row), solution=solution)

  if spec.tests:
    heldout = _told_apart(heldout, of, set())
    train = _told_apart(train, of, {of(row).question for row in heldout})
  return problems.divided(train, heldout, of, 'code')


def _told_apart(
  rows: list[data_files.Row], of: Callable[[data_files.Row], Problem], asked: set[str]
) -> list[data_files.Row]:
  """Returns the first row of each question that is not among `asked`; others differ in tests that are not shown."""
  kept, seen = [], set(asked)
  for row in rows:
    question = of(row).question
    kept += [] if question in seen else [row]
    seen.add(question)
  if len(kept) < len(rows):
    logging.warning(
      '%d problems of MBPP ask what others ask, with other tests, and are left out', len(rows) - len(kept)
    )
  return kept


def reference(row: data_files.Row) -> dict:
  """Returns the tests of a row, and what runs before them."""
  tests = row.texts('test_list')
  if not tests:
    raise row.error('test_list', 'is empty: there is nothing to grade by')
  imports = row.texts('test_imports') if 'test_imports' in row.fields else []
  setup = row.fields.get('test_setup_code') or ''
  if not isinstance(setup, str):
    raise row.error('test_setup_code', f'holds {setup!r:.60}, not a text')
  return references.make('code', dict(setup='\n'.join([*imports, setup]).strip(), tests=tests), row.where)


def _question(row: data_files.Row) -> str:
  # `text` in the whole set, `prompt` in the sanitized one.
  return row.text('text' if 'text' in row.fields else 'prompt')


def _by_id(rows: list[data_files.Row]) -> dict[int, data_files.Row]:
  """Returns rows by task_id; DataError if two that differ have one."""
  named: dict[int, data_files.Row] = {}
  for row in rows:
    number = _task_id(row)
    if (other := named.setdefault(number, row)).fields != row.fields:
      raise row.error('task_id', f'holds {number}, as {other.where} does, with other fields; name one of them')
  if len(named) < len(rows):
    logging.warning('%d rows of MBPP are there twice and count once', len(rows) - len(named))
  return named


def _task_id(row: data_files.Row) -> int:
  value = row.value('task_id')
  if type(value) is not int or not 1 <= value <= _LAST:
    raise row.error('task_id', f'holds {value!r:.60}, not a number of 1 to {_LAST}')
  return value


def _split(number: int) -> str:
  return next((name for name, (first, last) in SPLITS.items() if first <= number <= last), 'prompt')


def _solved(rows: dict[int, data_files.Row], number: int) -> str:
  if number not in rows:
    raise DataError(
      f'config.task.data.train: task {number} of MBPP is missing, which every problem shows solved; '
      'name the whole data set (mbpp.jsonl, or the hub folder with its prompt split)'
    )
  row = rows[number]
  code = row.text('code').replace('\r\n', '\n').strip()
  tests = '\n'.join(row.texts('test_list'))
  return problems.asked(prompts.MBPP_SOLVED, question=_question(row), tests=tests, code=code)
