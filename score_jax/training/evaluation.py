"""Evaluation on held-out problems: conversations, their verdicts, and the rows that every figure is counted from."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from score_jax.core_types import Graded
from score_jax.core_types import Problem
from score_jax.core_types import Verdict
from score_jax.errors import TryAgainError
from score_jax.faults import watchdog
from score_jax.graders.pool import Grader
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.reporting import rows as report_rows
from score_jax.reporting.ledger import account
from score_jax.reporting.rows import Row
from score_jax.sampling.rollout import RolloutSpec
from score_jax.sampling.sampler import Sampler
from score_jax.sampling.sampler import Stream
from score_jax.sampling.sampler import stream_key
from score_jax.tasks import Task
from score_jax.tasks import heldout_problems


@dataclasses.dataclass(frozen=True)
class Grades:
  """What the verifier said of a rollout."""

  texts: list[list[str]]  # [B][A]
  graded: list[list[Graded]]  # [B][A]

  @property
  def verdict(self) -> np.ndarray:
    """i8 [B, A]"""
    return np.array([[one.verdict for one in row] for row in self.graded], np.int8)


def evaluate(
  sampler: Sampler, task: Task, grader: Grader, params: Any, *, problems: int, seed: int, rows: int
) -> tuple[dict[str, Any], list[Row]]:
  """The ledgers of a policy, {'greedy': ledger, 'sampled': ledger}, and their rows: one conversation a problem each.

  Of several hosts each samples and grades its own rows; all have the ledgers, host 0 the rows.

  Args:
    sampler: of the model.
    task: whose held-out problems number 0 .. problems - 1 are used.
    grader: of the task.
    params: in the sampling layout.
    problems: n; 0: all.
    seed: of the problems and the samples.
    rows: conversations at a time; keys don't depend on it (logits do, in their last bits).
  """
  heldout = heldout_problems(task, problems, seed)
  ways = dict(greedy=sampler.spec(temperature=0.0), sampled=sampler.spec())
  found = {
    way: conversations(sampler, grader, params, heldout, spec, seed, rows, way=way) for way, spec in ways.items()
  }
  ledgers = hosts.from_main('an evaluation', lambda: {way: accounted(part) for way, part in found.items()})
  return ledgers, [row for part in found.values() for row in part]


def accounted(rows: Sequence[Row]) -> dict[str, Any]:
  """The ledger of rows.

  Raises:
    TryAgainError: in every row the grader itself failed, so nothing is known.
  """
  if all(any(attempt.verdict == Verdict.ERROR for attempt in row.attempts) for row in rows):
    raise TryAgainError(
      f'the grader failed on all {len(rows)} conversations of an evaluation: look at its messages above '
      '(config.grading has what an answer may take), then run the same command again'
    )
  return account(rows)


def conversations(
  sampler: Sampler,
  grader: Grader,
  params: Any,
  problems: Sequence[Problem],
  spec: RolloutSpec,
  seed: int,
  rows: int,
  *,
  way: str,
  samples: int = 1,
  first: Mapping[str, np.ndarray] | None = None,
) -> list[Row]:
  """Rows of `samples` conversations per problem; the last batch is filled up with repeats, which are dropped.

  Of several hosts each samples and grades its own rows; host 0 has all of them, the others none.

  Args:
    sampler, grader, params: as in `evaluate`.
    problems: asked.
    spec: of the rollout.
    seed: of the samples.
    rows: conversations at a time.
    way: name of this way of decoding.
    samples: K, whose randomness does not depend on how many there are.
    first: token ids [F] of a first attempt by problem, -1 behind them; None: the model's own.
  """
  key = stream_key(seed, Stream.EVALUATION, 0)
  found = []
  for sample in range(samples):
    for begin in range(0, len(problems), rows):
      watchdog.beat()
      part = list(problems[begin : begin + rows])
      filled = part + [part[-1]] * (rows - len(part))
      mine = meshes.local_rows(sampler.mesh, rows)
      own = [filled[i] for i in mine]
      forced = None if first is None else np.stack([first[problem.id] for problem in own])
      number = sample * len(problems) + begin  # of the first row: sample 0 is what one sample a problem would be
      rollout = sampler.sample(params, sampler.encoded(own), key, spec, first_row=number, forced=forced)
      rollout = meshes.fetch_rows(rollout)
      real = int((mine < len(part)).sum())
      grades = grade(grader, own[:real], sampler.texts(rollout)[:real])
      numbered = report_rows.from_rollout(own, rollout, grades.texts, grades.graded, range(real), way, [sample] * real)
      found += report_rows.from_all_hosts(f'rows {number} and on of an evaluation', mine[:real], numbered)
  return found


def grade(grader: Grader, problems: Sequence[Problem], texts: list[list[str]]) -> Grades:
  """What the verifier says of every attempt."""
  items = [(problem.reference, text) for problem, attempts in zip(problems, texts, strict=True) for text in attempts]
  graded = grader.grade(items)
  A = len(items) // max(1, len(problems))
  return Grades(texts, [graded[i : i + A] for i in range(0, len(graded), A or 1)])
