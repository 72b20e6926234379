# SPDX-License-Identifier: Apache-2.0
"""The user's task: rows of a file, with columns and verifier of config.task.jsonl."""

import dataclasses
import json
from typing import Any

from score_jax.core_types import Problem
from score_jax.errors import ConfigError
from score_jax.graders import references, registry
from score_jax.tasks import data_files, problems


@dataclasses.dataclass(frozen=True)
class JsonlSpec:
  """Columns and verifier; configs/common.py documents the fields."""

  question: str
  answer: str
  id: str
  tags: tuple[str, ...]
  verifier: str
  heldout_fraction: float
  solution: str = ''

  def check(self) -> None:
    """Raises ValueError: a field, its value and the remedy."""
    if self.verifier not in registry.GRADERS:
      raise ValueError(f'verifier = {self.verifier!r} is unknown; use one of {", ".join(registry.GRADERS)}')
    if not self.question or not self.answer:
      raise ValueError(f'question = {self.question!r}, answer = {self.answer!r}: name the column of each')
    if not 0 < self.heldout_fraction < 1:
      raise ValueError(f'heldout_fraction = {self.heldout_fraction}: it must lie between 0 and 1')


def open_task(task: Any, data: problems.DataSpec) -> problems.Task:
  """Reads `data.train` and `data.heldout`, or holds a fraction out by a hash of the question."""
  spec = _graded_by(task)
  if spec.solution and spec.verifier != 'code':
    raise ConfigError(
      f"config.task.jsonl.solution = {spec.solution!r} names programs, which verifier 'code' runs; "
      f"leave it '', or set config.task.jsonl.verifier = {spec.verifier!r} to 'code'"
    )
  train, heldout = map(data_files.read_all, (data.train, data.heldout))
  if not data.heldout:
    heldout = [row for row in train if _is_heldout(row, spec)]
    train = [row for row in train if not _is_heldout(row, spec)]

  def of(row: data_files.Row) -> Problem:
    question = row.text(spec.question)
    return Problem(
      id=row.text(spec.id) if spec.id else f'jsonl/{problems.text_hash(question)}',
      question=problems.asked(task.prompt or '{question}', question=question),
      reference=reference(row, spec),
      tags={name: row.label(name) for name in spec.tags},
      solution=row.text(spec.solution) if spec.solution else '',
    )

  return problems.divided(train, heldout, of, spec.verifier)


def _graded_by(task: Any) -> JsonlSpec:
  """Returns config.task.jsonl with the verifier among config.task.rewards, if these are set."""
  if not task.reward_weights:
    return task.jsonl
  verifier = next((name for name in task.reward_weights if name in registry.GRADERS), '')
  return dataclasses.replace(task.jsonl, verifier=verifier)


def reference(row: data_files.Row, spec: JsonlSpec) -> dict:
  """Returns what the verifier needs; for mathematics with the question, which is no answer."""
  if not spec.verifier:
    return dict(answer=json.loads(json.dumps(row.fields.get(spec.answer), default=str)))
  value, where = row.value(spec.answer), f'{row.where}: column {spec.answer!r}'
  if registry.references_of(spec.verifier) == 'math' and not isinstance(value, dict):
    value = dict(answer=value, question=row.text(spec.question))
  return references.make(spec.verifier, value, where)


def _is_heldout(row: data_files.Row, spec: JsonlSpec) -> bool:
  first_32_bits = int(problems.text_hash(row.text(spec.question))[:8], 16)
  return first_32_bits < spec.heldout_fraction * 2**32
