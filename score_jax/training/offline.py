# SPDX-License-Identifier: Apache-2.0
"""Offline first attempts: sampled from the base, never trained on.

As in section 5.3 of the paper, they are prompts for the second turn, for a fraction of each step's problems. Shared by
a problem's samples, they leave the second attempt alone to differ within a group, and so to be credited.
"""

import base64
import dataclasses
import hashlib
import io

import numpy as np

from score_jax import files
from score_jax.core_types import Problem, Stage, Verdict
from score_jax.errors import DataError
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.sampling import sampler as samplers
from score_jax.training import batches, evaluation, grading
from score_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class OfflinePool:
  """First attempts of the base on `problems`."""

  problems: tuple[Problem, ...]
  first: np.ndarray  # i32 [pool, G, F]  ids, stop included; then -1. Shared: [pool, 1, F]
  each_step: int  # of a step's problems

  def take(self, step_in_stage: int) -> tuple[list[Problem], np.ndarray]:
    """Returns a step's problems and first attempts [each_step, G or 1, F]."""
    first = step_in_stage * self.each_step
    chosen = [(first + i) % len(self.problems) for i in range(self.each_step)]
    return [self.problems[i] for i in chosen], self.first[chosen]


def offline_count(stage: Stage, problems: int) -> int:
  """Returns how many of a step's problems are offline."""
  return round(stage.offline_first * problems)


def open_pool(run: Run, stage_index: int, stage: Stage) -> OfflinePool | None:
  """Returns a stage run's pool, sampled and written if the run folder lacks it; None: not needed.

  Raises:
    DataError: `stage.offline_wrong` leaves nothing of it.
  """
  size, each_step = run.config.offline_pool, offline_count(stage, run.config.batch.problems)
  if not each_step:
    return None
  # Below zero: problems that no training step draws.
  first = -1 - stage_index * size
  problems = tuple(run.task.problems(run.config.seed, 'train', range(first, first - size, -1)))
  path = run.folder.offline / f'stage{stage_index}.npy'

  def read() -> str:
    return base64.b64encode(path.read_bytes()).decode() if path.exists() else ''

  # Sent, not read by each: hosts may have no folder in common.
  if stored := hosts.from_main('the stored pool', read):
    first = np.load(io.BytesIO(base64.b64decode(stored)), allow_pickle=False)
  else:
    first = _sample_first(run, problems, stage_index, stage)
    if hosts.is_main():
      packed = io.BytesIO()
      np.save(packed, first)
      path.parent.mkdir(exist_ok=True)
      files.write_bytes(path, packed.getvalue())
  digest = hashlib.sha256(np.ascontiguousarray(first)).hexdigest()
  hosts.agree('the pool of offline attempts', dict(shape=list(first.shape), sha256=digest))
  kept = np.flatnonzero(first[:, 0, 0] >= 0)
  if not kept.size:
    raise DataError(
      f'config.stages.{stage.name}.offline_wrong = {stage.offline_wrong} leaves none of {size} first attempts: the '
      'base is right in all; lower it, or raise config.offline_pool'
    )
  return OfflinePool(tuple(problems[i] for i in kept), first[kept], each_step)


def kept_first(right_P: np.ndarray, wrong_share: float) -> np.ndarray:
  """Returns bool [pool]: all wrong first attempts, and as many right ones as the share allows, spread over the pool."""
  right = int(right_P.sum())
  wrong = right_P.size - right
  room = right if not wrong_share else min(right, int(wrong / wrong_share - wrong + 1e-9))
  rank_P = np.cumsum(right_P)
  return ~right_P | (rank_P * room // max(1, right) > (rank_P - 1) * room // max(1, right))


def _sample_first(run: Run, problems: tuple[Problem, ...], stage_index: int, stage: Stage) -> np.ndarray:
  """[pool, G or 1, F], by the training step's program; all -1 where left out."""
  sampler, G = run.sampler, 1 if stage.offline_shared else run.config.batch.samples
  spec, params = sampler.spec(), sampler.layout(run.base_policy())
  key = samplers.stream_key(run.config.seed, samplers.Stream.OFFLINE, stage_index)
  asked = [problem for problem in problems for _ in range(G)]
  parts, right = [], []
  for _, _, own, rollout in evaluation.rollouts(sampler, params, asked, key, spec, run.config.rows):
    tokens_BL, attempt_BL = meshes.fetch_whole((rollout.tokens, rollout.attempt))
    parts.append(batches.chosen_ids(tokens_BL, attempt_BL == 1, spec.budgets[0]))
    if stage.offline_wrong:
      grades = grading.grade(run.grader, own, meshes.fetch_rows(rollout), sampler)
      right.append(meshes.gather_rows(run.mesh, grades.verdict)[:, 0] == Verdict.CORRECT)
  first = np.concatenate(parts)[: len(asked)]
  if right:
    first[~kept_first(np.concatenate(right)[: len(asked)], stage.offline_wrong)] = -1
  return first.reshape(len(problems), G, -1)
