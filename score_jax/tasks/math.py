"""MATH (Hendrycks et al., arXiv 2103.03874): 12,000 problems to train on, the 500 of MATH500 held out.

The paper trains on the 7,500 training problems and on those 4,500 test problems that are not in MATH500. Which
problems are held out is decided by their text, from a list in assets/math500, so no file can bring one into training.
"""

import functools
import pathlib
from typing import Any

from absl import logging

from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.graders.math.extract import last_boxes
from score_jax.tasks import data_files
from score_jax.tasks import problems
from score_jax.tasks import prompts
from score_jax.tasks.data_files import Row
from score_jax.tasks.problems import DataSpec
from score_jax.tasks.problems import Task

_LIST = pathlib.Path(__file__).parent.parent / 'assets/math500/problems.txt'


def open_task(task: Any, data: DataSpec) -> Task:
  """Reads `data.train` and `data.heldout` (may be the same files), divided by the list of MATH500."""
  rows = data_files.read_all(data.train)
  test_rows = data_files.read_all(data.heldout or data.train)
  train = [row for row in rows if not is_heldout(row)]
  heldout = list({problems.text_hash(row.text('problem')): row for row in test_rows if is_heldout(row)}.values())
  if test_rows and not heldout:
    raise DataError(
      f'config.task.data: none of the problems of MATH500 is in {", ".join(data.heldout or data.train)}; name the '
      'test file of MATH, or MATH500 itself'
    )
  if test_rows and len(heldout) != len(heldout_hashes()):
    logging.warning('%d of the %d problems of MATH500 were found', len(heldout), len(heldout_hashes()))

  def of(row: Row) -> Problem:
    question = row.text('problem')
    return Problem(
      id=f'math/{problems.text_hash(question)}',
      question=problems.asked(task.prompt or prompts.MATH_QUESTION, question=question),
      reference=reference(row),
      tags=_tags(row),
    )

  return problems.divided(train, heldout, of, 'math')


def reference(row: Row) -> dict:
  """Returns the gold answer of a row: its column `answer` (as in MATH500), or the last box of its `solution`.

  With the problem, where the row has it: repeating an expression of it is no answer.
  """
  problem = row.fields.get('problem')
  asked = dict(question=problem) if isinstance(problem, str) else {}
  if 'answer' in row.fields:
    return dict(answer=row.text('answer')) | asked
  boxes = last_boxes(row.text('solution'))
  if not boxes or not boxes[1].strip():
    raise DataError(f"{row.where}: column 'solution' has no gold in a \\boxed{{...}}")
  return dict(answer=boxes[1]) | asked


def is_heldout(row: Row) -> bool:
  """Tells whether a row's problem is one of MATH500."""
  return problems.text_hash(row.text('problem')) in heldout_hashes()


@functools.cache
def heldout_hashes() -> frozenset[str]:
  """Returns the hashes of the problems of MATH500."""
  return frozenset(line for line in _LIST.read_text().splitlines() if not line.startswith('#'))


def _tags(row: Row) -> dict[str, str]:
  """Returns level and subject under one name each, whichever file they come from."""
  subject = row.fields.get('type', row.fields.get('subject'))
  tags = dict(level=row.fields.get('level'), subject=subject)
  return {name: str(value).removeprefix('Level ') for name, value in tags.items() if value is not None}
