"""Two-attempt evaluation on held-out problems, greedy and sampled at T=1."""

from typing import Any

import numpy as np

from score_jax.parallel import mesh as meshes
from score_jax.reporting.ledger import ledger
from score_jax.sampling.rollout import RolloutSpec
from score_jax.sampling.sampler import Sampler
from score_jax.sampling.sampler import Stream
from score_jax.sampling.sampler import stream_key
from score_jax.tasks import Task
from score_jax.tasks import heldout_problems
from score_jax.types import Problem
from score_jax.verifiers.pool import Grader


def evaluate(
  sampler: Sampler, task: Task, grader: Grader, params: Any, *, problems: int, seed: int, rows: int
) -> dict[str, Any]:
  """The ledgers of a policy: {'greedy': ledger, 'sampled': ledger}, one conversation a problem each.

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
  return {way: ledger(verdicts(sampler, grader, params, heldout, spec, seed, rows)) for way, spec in ways.items()}


def verdicts(
  sampler: Sampler, grader: Grader, params: Any, problems: list[Problem], spec: RolloutSpec, seed: int, rows: int
) -> np.ndarray:
  """verdict_BA (i8) of one conversation per problem; the last batch is filled up with repeats, which are dropped.

  Every host samples and grades its own rows, and has the verdicts of all.
  """
  key = stream_key(seed, Stream.EVALUATION, 0)
  parts = []
  for first in range(0, len(problems), rows):
    part = problems[first : first + rows]
    filled = part + [part[-1]] * (rows - len(part))
    mine = meshes.local_rows(sampler.mesh, rows)
    own = [filled[i] for i in mine]
    rollout = sampler.sample(params, sampler.encoded(own), key, spec, first_row=first)
    real = int((mine < len(part)).sum())
    verdict_BA = np.zeros((len(own), spec.attempts), np.int8)
    verdict_BA[:real] = grade(grader, own[:real], sampler.texts(rollout)[:real])
    parts.append(meshes.gather_rows(sampler.mesh, verdict_BA)[: len(part)])
  return np.concatenate(parts)


def grade(grader: Grader, problems: list[Problem], texts: list[list[str]]) -> np.ndarray:
  """verdict_BA (i8) of every attempt."""
  items = [(problem.reference, text) for problem, attempts in zip(problems, texts, strict=True) for text in attempts]
  verdicts = [graded.verdict for graded in grader.grade(items)]
  return np.array(verdicts, np.int8).reshape(len(problems), -1) if items else np.zeros((0, 1), np.int8)
