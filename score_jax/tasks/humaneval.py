"""HumanEval (Chen et al., arXiv 2107.03374): 164 Python functions to complete. For evaluation alone."""

from score_jax.core_types import Problem
from score_jax.graders import references
from score_jax.tasks import data_files
from score_jax.tasks import problems
from score_jax.tasks import prompts
from score_jax.tasks.data_files import Row
from score_jax.tasks.problems import DataSpec
from score_jax.tasks.problems import ProblemList


def open_set(data: DataSpec, prompt: str) -> tuple[ProblemList, ProblemList]:
  """All problems, held out; there is nothing to train on."""
  rows = data_files.read_all(data.heldout)

  def of(row: Row) -> Problem:
    question = problems.asked(prompt or prompts.HUMANEVAL_QUESTION, question=row.text('prompt').strip())
    return Problem(id=row.text('task_id'), question=question, reference=reference(row))

  return ProblemList((), shuffled=True), ProblemList(tuple(of(row) for row in rows), shuffled=False)


def reference(row: Row) -> dict:
  """What completes the prompt to a function, and the `check` that judges it."""
  return references.make('code', {name: row.text(name) for name in ('prompt', 'entry_point', 'test')}, row.where)
