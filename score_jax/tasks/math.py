# SPDX-License-Identifier: Apache-2.0
"""MATH (Hendrycks et al., arXiv 2103.03874): 12,000 problems to train on, the 500 of MATH500 held out.

As in the paper, the other 4,500 test problems are trained on. A list of hashes decides, whatever the file.
"""

import functools
import pathlib
from typing import Any

from absl import logging

from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.graders.math.extract import last_boxes
from score_jax.tasks import data_files, problems, prompts

_LIST = pathlib.Path(__file__).parent.parent / 'assets/math500/problems.txt'


def open_task(task: Any, data: problems.DataSpec) -> problems.Task:
  """Reads `data.train` and `data.heldout`, divided by the list of MATH500."""
  rows, test_rows = map(data_files.read_all, (data.train, data.heldout or data.train))
  train = [row for row in rows if not is_heldout(row)]
  heldout = [row for row in test_rows if is_heldout(row)]
  count = len(set(map(_hash, heldout)))
  if test_rows and not heldout:
    raise DataError(
      f'config.task.data: none of the problems of MATH500 is in {", ".join(data.heldout or data.train)}; '
      'name the test file of MATH, or MATH500 itself'
    )
  if test_rows and count != len(heldout_hashes()):
    logging.warning('%d of the %d problems of MATH500 were found', count, len(heldout_hashes()))

  def of(row: data_files.Row) -> Problem:
    return Problem(
      id=f'math/{_hash(row)}',
      question=problems.asked(task.prompt or prompts.MATH_QUESTION, question=row.text('problem')),
      reference=reference(row),
      tags=_tags(row),
    )

  return problems.divided(train, heldout, of, 'math')


def reference(row: data_files.Row) -> dict:
  """Returns a row's `answer` or the last box of its `solution`, and its problem.

  To repeat an expression of the problem is no answer.
  """
  problem = row.fields.get('problem')
  asked = dict(question=problem) if isinstance(problem, str) else {}
  if 'answer' in row.fields:
    return dict(answer=row.text('answer')) | asked
  boxes = last_boxes(row.text('solution'))
  if not boxes or not boxes[1].strip():
    raise row.error('solution', 'has no gold in a \\boxed{...}')
  return dict(answer=boxes[1]) | asked


def is_heldout(row: data_files.Row) -> bool:
  return _hash(row) in heldout_hashes()


def _hash(row: data_files.Row) -> str:
  return problems.text_hash(row.text('problem'))


@functools.cache
def heldout_hashes() -> frozenset[str]:
  return frozenset(line for line in _LIST.read_text().splitlines() if not line.startswith('#'))


def _tags(row: data_files.Row) -> dict[str, str]:
  fields = row.fields
  tags = dict(level=fields.get('level'), subject=fields.get('type', fields.get('subject')))
  return {name: str(value).removeprefix('Level ') for name, value in tags.items() if value is not None}
