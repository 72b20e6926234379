# SPDX-License-Identifier: Apache-2.0
"""GSM8K (Cobbe et al., arXiv 2110.14168): word problems of arithmetic; gold numbers behind `####`."""

from typing import Any

from score_jax.core_types import Problem
from score_jax.tasks import data_files, problems, prompts


def open_task(task: Any, data: problems.DataSpec) -> problems.Task:
  """Reads the published train and test files, or the splits of TFDS's gsm8k."""
  train, heldout = map(data_files.read_all, (data.train, data.heldout))

  def of(row: data_files.Row) -> Problem:
    question = row.text('question')
    return Problem(
      id=f'gsm8k/{problems.text_hash(question)}',
      question=problems.asked(task.prompt or prompts.MATH_QUESTION, question=question),
      reference=reference(row),
    )

  return problems.divided(train, heldout, of, 'math')


def reference(row: data_files.Row) -> dict:
  """Returns a row's gold number, and its question, which is no answer."""
  _, mark, gold = row.text('answer').rpartition('####')
  if not mark or not gold.strip():
    raise row.error('answer', 'has no gold behind ####')
  question = row.fields.get('question')
  return dict(answer=gold.strip()) | (dict(question=question) if isinstance(question, str) else {})
