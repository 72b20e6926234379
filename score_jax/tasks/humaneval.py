# SPDX-License-Identifier: Apache-2.0
"""HumanEval (Chen et al., arXiv 2107.03374): 164 Python functions to complete. For evaluation alone."""

from typing import Any

from score_jax.core_types import Problem
from score_jax.graders import references
from score_jax.tasks import data_files, problems, prompts


def open_task(task: Any, data: problems.DataSpec) -> problems.Task:
  """Holds all problems out; there is nothing to train on."""

  def of(row: data_files.Row) -> Problem:
    prompt = task.prompt or prompts.HUMANEVAL_QUESTION
    question = problems.asked(prompt, question=row.text('prompt').strip())
    solution = row.text_or_empty('canonical_solution')
    return Problem(row.text('task_id'), question, reference(row), solution=solution)

  return problems.divided([], data_files.read_all(data.heldout), of, 'code')


def reference(row: data_files.Row) -> dict:
  """Returns what completes the prompt, and the `check` that judges it."""
  value = {name: row.text(name) for name in ('prompt', 'entry_point', 'test')}
  return references.make('code', value, row.where)
