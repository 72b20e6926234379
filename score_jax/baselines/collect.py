"""Conversations of a policy on training problems, kept in the run folder so that a run that goes on has the same."""

import dataclasses
import io
import pathlib
from typing import Any
import zipfile

import numpy as np

from score_jax import files
from score_jax.core_types import Problem
from score_jax.core_types import Verdict
from score_jax.errors import DataError
from score_jax.faults import watchdog
from score_jax.parallel import mesh as meshes
from score_jax.sampling.sampler import Stream
from score_jax.sampling.sampler import stream_key
from score_jax.training import evaluation
from score_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class Collected:
  """N = problems x samples conversations of two attempts, those on a problem side by side."""

  first: np.ndarray  # i32 [N, F1]  ids, stop included; -1 after the end
  second: np.ndarray  # i32 [N, F2]
  verdict: np.ndarray  # i8 [N, 2]  types.Verdict

  @property
  def right(self) -> np.ndarray:
    """bool [N, 2]"""
    return self.verdict == Verdict.CORRECT

  @property
  def known(self) -> np.ndarray:
    """bool [N]: the grader failed on neither attempt."""
    return np.all(self.verdict != Verdict.ERROR, axis=1)


def problem_of(run: Run, iteration: int, number: int) -> Problem:
  """Problem `number` of an iteration (0-based); each iteration has problems of its own, as a step has."""
  return run.task.problem(run.config.seed, 'train', iteration * run.config.supervised.problems + number)


def collected(run: Run, params: Any, iteration: int) -> Collected:
  """The conversations of an iteration: read from the run folder, or sampled and written there.

  Args:
    run: opened.
    params: trained parameters of the policy that answers; not read where the file is there.
    iteration: 0-based.

  Raises:
    DataError: the file is there and can't be read, or is of other settings.
  """
  path = run.folder.offline / f'iteration{iteration + 1}.npz'
  settings = run.config.supervised
  if not path.exists():
    found = _sampled(run, params, iteration)
    packed = io.BytesIO()
    np.savez_compressed(packed, **vars(found))
    path.parent.mkdir(exist_ok=True)
    files.write_bytes(path, packed.getvalue())
  found = _read(path)
  if len(found.verdict) != settings.problems * settings.samples:
    raise DataError(
      f'{path} has {len(found.verdict)} conversations, not config.supervised.problems x samples = '
      f'{settings.problems * settings.samples}; delete it, and they are sampled again'
    )
  return found


def _read(path: pathlib.Path) -> Collected:
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return Collected(**arrays)
  except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise DataError(f'{path} can not be read ({error}); delete it, and its conversations are sampled again') from error


def _sampled(run: Run, params: Any, iteration: int) -> Collected:
  """Conversations at T=1, by the program that samples a training step's."""
  settings, rows = run.config.supervised, run.config.rows
  laid_out = run.sampler.layout(run.policy(params))
  key = stream_key(run.config.seed, Stream.COLLECT, iteration)
  total = settings.problems * settings.samples
  parts = []
  for begin in range(0, total, rows):
    watchdog.beat()
    numbers = np.minimum(np.arange(begin, begin + rows), total - 1)  # the last batch is filled up with repeats
    problems = [problem_of(run, iteration, int(number) // settings.samples) for number in numbers]
    spec = run.sampler.spec()
    rollout = meshes.fetch_rows(run.sampler.sample(laid_out, run.sampler.encoded(problems), key, spec, first_row=begin))
    real = min(rows, total - begin)
    grades = evaluation.grade(run.grader, problems[:real], run.sampler.texts(rollout)[:real])
    ids = [ids_of(rollout.tokens, rollout.attempt == a + 1, spec.budgets[a])[:real] for a in range(2)]
    parts.append((*ids, grades.verdict))
  return Collected(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def ids_of(tokens_BL: np.ndarray, chosen_BL: np.ndarray, budget: int) -> np.ndarray:
  """i32 [B, budget]: the chosen tokens of each row from the left, -1 behind them."""
  place_BL = np.cumsum(chosen_BL, axis=1) - 1
  found = np.full((len(tokens_BL), budget), -1, np.int32)
  row, slot = np.nonzero(chosen_BL)
  found[row, place_BL[row, slot]] = tokens_BL[row, slot]
  return found
