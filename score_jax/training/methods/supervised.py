"""Supervised baselines: Pair-SFT and STaR. Iterations of collecting conversations and training on pairs made of them.

An iteration is a stage of the loop, so that checkpoints, resume, evaluation, selection, export and report are those
of any run. As it begins, the policy so far answers training problems; then training starts from where the run started
(the base, or config.init_from), as in the ReST-EM protocol that the paper follows.
"""

import dataclasses
import io
import pathlib
from typing import Any
import zipfile

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from score_jax import files
from score_jax.core_types import Problem
from score_jax.core_types import Verdict
from score_jax.errors import ConfigError
from score_jax.errors import DataError
from score_jax.faults import watchdog
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.sampling.sampler import Stream
from score_jax.sampling.sampler import stream_key
from score_jax.states import Batch
from score_jax.states import TrainState
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.progress import Progress
from score_jax.training import batches
from score_jax.training import evaluation
from score_jax.training import optim
from score_jax.training import run as runs
from score_jax.training.methods import pairs
from score_jax.training.run import Run
from score_jax.training.stages import StageRun
from score_jax.training.update import UpdateSpec
from score_jax.training.update import supervised_update


@dataclasses.dataclass(frozen=True)
class Collected:
  """N = problems x samples conversations of two attempts, those on a problem side by side."""

  first: np.ndarray  # i32 [N, F1]  ids, stop included; -1 after the end
  second: np.ndarray  # i32 [N, F2]
  verdict: np.ndarray  # i8 [N, 2]  core_types.Verdict


@dataclasses.dataclass(frozen=True)
class StageContext:
  """What an iteration holds fixed."""

  stage_run: StageRun
  collected: Collected
  pairs: np.ndarray  # i64 [n, 3], from `pairs`
  prompts: dict[int, list[int]] = dataclasses.field(default_factory=dict)  # ids by problem, as they are needed


@dataclasses.dataclass(frozen=True)
class StepInputs:
  """One step's pairs as rows of an update."""

  batch: Batch  # on the host
  spec: UpdateSpec  # what to compile
  epoch: float  # how often all pairs have been seen before


def enter(
  run: Run, stage_run: StageRun, state: TrainState, step: int, checkpoints: Checkpoints
) -> tuple[TrainState, StageContext]:
  """Returns conversations and pairs of an iteration; at its first step, parameters and moments as the run began.

  Raises:
    ConfigError: there are several hosts.
    DataError: no pair could be made.
  """
  del checkpoints
  if hosts.count() > 1:
    raise ConfigError("config.mode = 'supervised' runs on one host; leave out --distributed")
  settings = run.config.supervised
  conversations = collected(run, state.params, stage_run.index)
  rng = np.random.default_rng((run.config.seed, stage_run.index))
  verdict_N2 = conversations.verdict
  problem_N = np.arange(len(verdict_N2)) // settings.samples
  known = np.flatnonzero(np.all(verdict_N2 != Verdict.ERROR, axis=1))  # the grader failed on neither attempt
  right_N2 = verdict_N2[known] == Verdict.CORRECT
  made = pairs.DATASETS[settings.dataset](right_N2, problem_N[known], settings.plus, rng)
  made[:, :2] = known[made[:, :2]]
  logging.info('%s: %d pairs of %d conversations', stage_run.stage.name, len(made), len(known))
  if not len(made):
    raise DataError(
      f'{stage_run.stage.name}: none of {len(known)} conversations gives a pair for config.supervised.dataset = '
      f'{settings.dataset!r}; raise config.supervised.problems or samples'
    )
  if step == stage_run.first_step:
    state = state.replace(
      params=runs.initial_params(run),
      opt_state=runs.fresh_moments(state.params, run.optimizer, run.mesh, run.trained),
    )
  return state, StageContext(stage_run, conversations, made)


def step_inputs(run: Run, context: StageContext, step: int) -> StepInputs:
  """Returns the pairs of a step, packed as the configuration asks."""
  seed = (run.config.seed, context.stage_run.index)
  chosen, epoch = drawn(len(context.pairs), run.config.rows, step - context.stage_run.first_step, seed)
  spec = dataclasses.replace(run.update_spec, group=1)
  batch, _, spec = batches.packed(rows_of(run, context, chosen), spec, spec.shards, run.config.batch.pack)
  return StepInputs(batch, spec, epoch)


def run_step(
  run: Run, context: StageContext, state: TrainState, progress: Progress, inputs: StepInputs
) -> tuple[TrainState, dict[str, Any]]:
  """Makes one supervised update. Its record has the loss of each attempt and no accuracy: nothing is sampled."""
  stage, step, clock = context.stage_run.stage, progress.step, watchdog.Clock()
  with clock('update'):
    rate = optim.learning_rate(stage, step - context.stage_run.first_step)
    batch = meshes.put_rows(run.mesh, inputs.batch)
    state, results = supervised_update(
      state, run.frozen, batch, jnp.float32(rate), spec=inputs.spec, optimizer=run.optimizer
    )
    results = jax.device_get(results)
  return state, dict(
    step=step + 1,
    stage=stage.name,
    visit=context.stage_run.index,
    accuracy=[None] * run.config.attempts,
    loss=results['loss_A'].tolist(),
    gradient_norm=float(results['gradient_norm']),
    rejected=int(results['rejected']),
    learning_rate=rate,
    pairs=len(context.pairs),
    epoch=inputs.epoch,
    supervised_tokens=int(results['tokens']),
    seconds=clock.seconds,
  )


def problem_of(run: Run, iteration: int, number: int) -> Problem:
  """Returns problem `number` of an iteration (0-based); each iteration has problems of its own, as a step has."""
  return run.task.problem(run.config.seed, 'train', iteration * run.config.supervised.problems + number)


def collected(run: Run, params: Any, iteration: int) -> Collected:
  """Returns the conversations of an iteration: read from the run folder, or sampled and written there first.

  `params` are those of the policy that answers, `iteration` counts from 0.

  Raises:
    DataError: the file exists and cannot be read, or is of other settings.
  """
  path = run.folder.offline / f'iteration{iteration + 1}.npz'
  settings = run.config.supervised
  if not path.exists():
    packed = io.BytesIO()
    np.savez_compressed(packed, **vars(_sampled(run, params, iteration)))
    path.parent.mkdir(exist_ok=True)
    files.write_bytes(path, packed.getvalue())
  conversations = read_collected(path)
  if len(conversations.verdict) != settings.problems * settings.samples:
    raise DataError(
      f'{path} has {len(conversations.verdict)} conversations, not config.supervised.problems x samples = '
      f'{settings.problems * settings.samples}; delete it, and they are sampled again'
    )
  return conversations


def read_collected(path: pathlib.Path) -> Collected:
  """Reads the conversations of a file; DataError if it cannot."""
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return Collected(**arrays)
  except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise DataError(f'{path} cannot be read ({error}); delete it, and its conversations are sampled again') from error


def _sampled(run: Run, params: Any, iteration: int) -> Collected:
  """Samples conversations at T=1, by the program that samples a training step's."""
  settings, sampler = run.config.supervised, run.sampler
  spec, key = sampler.spec(), stream_key(run.config.seed, Stream.COLLECT, iteration)
  numbers = range(settings.problems * settings.samples)
  problems = [problem_of(run, iteration, number // settings.samples) for number in numbers]
  parts = []
  policy = sampler.layout(run.policy(params))
  for begin, _, own, rollout in evaluation.rollouts(sampler, policy, problems, key, spec, run.config.rows):
    rollout, real = meshes.fetch_rows(rollout), min(len(own), len(problems) - begin)
    grades = evaluation.grade(run.grader, own[:real], sampler.texts(rollout)[:real])
    ids = [batches.chosen_ids(rollout.tokens, rollout.attempt == a + 1, spec.budgets[a])[:real] for a in range(2)]
    parts.append((*ids, grades.verdict))
  return Collected(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def drawn(count: int, rows: int, step: int, seed: tuple[int, ...]) -> tuple[np.ndarray, float]:
  """Returns which of `count` pairs a step of an iteration takes, and how many epochs lie before it.

  All pairs come in a random order, then all in another; what comes when is a function of the seed and the step.
  """
  first = step * rows
  epoch_R, index_R = np.divmod(np.arange(first, first + rows), count)
  chosen = np.empty(rows, np.int64)
  for epoch in np.unique(epoch_R):
    order = np.random.default_rng((*seed, int(epoch))).permutation(count)
    chosen[epoch_R == epoch] = order[index_R[epoch_R == epoch]]
  return chosen, first / count


def rows_of(run: Run, context: StageContext, chosen: np.ndarray) -> Batch:
  """Returns pairs as conversations, token for token as a rollout would have them; on the host.

  Rows are prompt, first attempt, what is fed between attempts, second attempt. An attempt that did not end its turn
  gets its end of turn fed, without loss.
  """
  chat, settings, collected_ = run.sampler.chat, run.config.supervised, context.collected
  separator, end = list(chat.separators[0]), chat.end_of_turn
  longest = run.config.sampling.prompt_tokens + run.sampler.spec().growth
  tokens = np.full((len(chosen), longest), chat.pad, np.int32)
  attempt = np.zeros((len(chosen), longest), np.int8)
  length = np.zeros(len(chosen), np.int32)
  for b, (row, other, which) in enumerate(context.pairs[chosen]):
    number = int(row) // settings.samples
    if number not in context.prompts:
      context.prompts[number] = chat.prompt_ids(problem_of(run, context.stage_run.index, number))
    first, second = _ids(collected_.first[row]), _ids((collected_.first, collected_.second)[which][other])
    second = second[: run.config.sampling.attempt_tokens[1]]
    fed = separator[1:] if first[-1:] == [end] else separator
    parts = ((context.prompts[number], 0), (first, 1), (fed, 0), (second, 2))
    ids = [token for part, _ in parts for token in part]
    labels = [label for part, label in parts for _ in part]
    tokens[b, : len(ids)], attempt[b, : len(ids)], length[b] = ids, labels, len(ids)
  return Batch(
    tokens=tokens,
    attempt=attempt,
    sampler_logp=np.zeros(tokens.shape, np.float32),
    length=length,
    verdict=None,
    trained=np.tile(np.array(settings.loss_on), (len(chosen), 1)),
  )


def _ids(padded_F: np.ndarray) -> list[int]:
  return padded_F[padded_F >= 0].tolist()
