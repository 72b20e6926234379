"""Offline first attempts: sampled from the base as a stage begins, kept as token ids, never trained on.

The paper adds first attempts of the base model as prompts for the second turn (section 5.3). Here a fraction of each
step's problems, whole groups of G rows, takes its first attempts from a pool of such problems.
"""

import base64
import dataclasses
import hashlib
import io
import os
import pathlib

import numpy as np

from score_jax.core_types import Problem
from score_jax.core_types import Stage
from score_jax.faults import watchdog
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.sampling.sampler import Stream
from score_jax.sampling.sampler import stream_key
from score_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class OfflinePool:
  """First attempts of the base on `problems`."""

  problems: tuple[Problem, ...]
  first: np.ndarray  # i32 [pool, G, F]  ids, stop included; -1 after the end

  def take(self, count: int, step_in_stage: int) -> tuple[list[Problem], np.ndarray]:
    """The next `count` problems and their first attempts [count, G, F], going round the pool."""
    chosen = [(step_in_stage * count + i) % len(self.problems) for i in range(count)]
    return [self.problems[i] for i in chosen], self.first[chosen]


def offline_count(stage: Stage, problems: int) -> int:
  """How many of a step's problems are offline."""
  return round(stage.offline_first * problems)


def open_pool(run: Run, visit_index: int, stage: Stage) -> OfflinePool:
  """The pool of a stage_run: read from the run folder, or sampled from the base and written there. All hosts have it."""
  size = run.config.offline_pool
  if offline_count(stage, run.config.batch.problems) == 0:
    return OfflinePool((), np.zeros((0, run.config.batch.samples, run.config.sampling.attempt_tokens[0]), np.int32))
  # Indices below zero: problems that no training step draws.
  problems = tuple(run.task.problem(run.config.seed, 'train', -1 - visit_index * size - i) for i in range(size))
  path = run.folder.offline / f'visit{visit_index}.npy'
  # Sent, not read by each: hosts may have no folder in common.
  if stored := hosts.from_main('the stored pool', lambda: base64.b64encode(_read(path)).decode()):
    first = np.load(io.BytesIO(base64.b64decode(stored)), allow_pickle=False)
  else:
    first = _sample_first(run, problems, visit_index)
    if hosts.is_main():
      _write(path, first)
  digest = hashlib.sha256(np.ascontiguousarray(first)).hexdigest()
  hosts.agree('the pool of offline attempts', dict(shape=list(first.shape), sha256=digest))
  return OfflinePool(problems, first)


def _read(path: pathlib.Path) -> bytes:
  return path.read_bytes() if path.exists() else b''


def _write(path: pathlib.Path, first: np.ndarray) -> None:
  """Writes a pool, whole or not at all."""
  path.parent.mkdir(exist_ok=True)
  partial = path.with_suffix('.partial')
  with partial.open('wb') as file:
    np.save(file, first)
    file.flush()
    os.fsync(file.fileno())
  partial.replace(path)


def _sample_first(run: Run, problems: tuple[Problem, ...], visit_index: int) -> np.ndarray:
  """First attempts [pool, G, F] of the base, with the training step's own program."""
  spec, G, per_call = run.sampler.spec(), run.config.batch.samples, run.config.batch.problems
  params = run.sampler.layout(run.base_policy())
  key = stream_key(run.config.seed, Stream.OFFLINE, visit_index)
  parts = []
  for begin in range(0, len(problems), per_call):
    watchdog.beat()
    part = [problems[min(begin + i, len(problems) - 1)] for i in range(per_call)]
    prompts = run.sampler.encoded([part[row // G] for row in meshes.local_rows(run.mesh, per_call * G)])
    rollout = run.sampler.sample(params, prompts, key, spec, first_row=begin * G)
    tokens_BL, attempt_BL = meshes.fetch_whole((rollout.tokens, rollout.attempt))
    first_BF = np.full((len(tokens_BL), spec.budgets[0]), -1, np.int32)
    for row, (tokens, labels) in enumerate(zip(tokens_BL, attempt_BL, strict=True)):
      ids = tokens[labels == 1]
      first_BF[row, : len(ids)] = ids
    parts.append(first_BF.reshape(per_call, G, -1))
  return np.concatenate(parts)[: len(problems)]
