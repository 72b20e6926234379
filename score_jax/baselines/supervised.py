"""Supervised baselines: Pair-SFT and STaR. Iterations of collecting conversations and training on pairs made of them.

An iteration is a stage of the loop, so that checkpoints, resume, evaluation, selection, export and report are those
of any run. As it begins, the policy so far answers training problems; then training starts from where the run started
(the base, or config.init_from), as in the ReST-EM protocol that the paper follows.
"""

import dataclasses
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from score_jax.baselines import collect
from score_jax.baselines import pairs
from score_jax.baselines.collect import Collected
from score_jax.errors import ConfigError
from score_jax.errors import DataError
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.states import Batch
from score_jax.states import TrainState
from score_jax.storage.checkpoints import Checkpoints
from score_jax.training import batches
from score_jax.training import optim
from score_jax.training import run as runs
from score_jax.training.clock import Clock
from score_jax.training.run import Run
from score_jax.training.step import StageRun
from score_jax.training.update import UpdateSpec
from score_jax.training.update import supervised_update


@dataclasses.dataclass(frozen=True)
class Data:
  """What an iteration holds fixed."""

  stage_run: StageRun
  collected: Collected
  pairs: np.ndarray  # i64 [n, 3], from `pairs`
  prompts: dict[int, list[int]] = dataclasses.field(default_factory=dict)  # ids by problem, as they are needed


class Supervised:
  """The method of mode 'supervised', for `training.loop.train`."""

  def enter(
    self, run: Run, stage_run: StageRun, state: TrainState, step: int, checkpoints: Checkpoints
  ) -> tuple[TrainState, Data]:
    """Conversations and pairs of an iteration; at its first step, parameters and moments as the run began.

    Raises:
      ConfigError: there are several hosts.
      DataError: no pair could be made.
    """
    del checkpoints
    if hosts.count() > 1:
      raise ConfigError("config.mode = 'supervised' runs on one host; leave out --distributed")
    settings = run.config.supervised
    found = collect.collected(run, state.params, stage_run.index)
    rng = np.random.default_rng((run.config.seed, stage_run.index))
    problem_N = np.arange(len(found.verdict)) // settings.samples
    known = np.flatnonzero(found.known)
    made = pairs.DATASETS[settings.dataset](found.right[known], problem_N[known], settings.plus, rng)
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
    return state, Data(stage_run, found, made)

  def work_of(self, run: Run, data: Data, step: int) -> tuple[Batch, UpdateSpec, float]:
    """The pairs of a step as rows of an update, what to compile, and how often all pairs have been seen before it."""
    seed = (run.config.seed, data.stage_run.index)
    chosen, epoch = drawn(len(data.pairs), run.config.rows, step - data.stage_run.first_step, seed)
    batch = rows_of(run, data, chosen)
    spec = dataclasses.replace(run.update_spec, group=1)
    if run.config.batch.pack:
      parts = (spec.group, spec.shards, spec.micro_batches)
      order = batches.balanced_order(batch.length, *parts)
      places = batches.stream_places(batch.length[order], batch.tokens.shape[1], *parts)
      spec = dataclasses.replace(spec, places=places)
      batch = jax.tree.map(lambda x: x[order], batch)
    return batch, spec, epoch

  def run_step(
    self, run: Run, data: Data, state: TrainState, step: int, work: tuple[Batch, UpdateSpec, float], kl: Any
  ) -> tuple[TrainState, dict[str, Any], Any]:
    """One supervised update. Its line has the loss of each attempt and no accuracy: nothing is sampled."""
    del kl
    stage, clock = data.stage_run.stage, Clock()
    batch, spec, epoch = work
    with clock('update'):
      rate = optim.learning_rate(stage, step - data.stage_run.first_step)
      state, results = supervised_update(
        state,
        run.frozen,
        meshes.put_rows(run.mesh, batch),
        jnp.float32(rate),
        spec=spec,
        optimizer=run.optimizer,
      )
      ends = step + 1 == data.stage_run.first_step + stage.steps
      ahead = None if ends else self.work_of(run, data, step + 1)
      results = jax.device_get(results)
    line = dict(
      step=step + 1,
      stage=stage.name,
      visit=data.stage_run.index,
      accuracy=[None] * run.config.attempts,
      loss=results['loss_A'].tolist(),
      gradient_norm=float(results['gradient_norm']),
      rejected=int(results['rejected']),
      learning_rate=rate,
      pairs=len(data.pairs),
      epoch=epoch,
      supervised_tokens=int(results['tokens']),
      seconds=clock.seconds,
    )
    return state, line, ahead


def drawn(pairs_: int, rows: int, step: int, seed: tuple[int, ...]) -> tuple[np.ndarray, float]:
  """Which pairs a step of an iteration takes, and how many epochs lie before it.

  All pairs come in a random order, then all in another; what comes when is a function of the seed and the step.
  """
  first = step * rows
  epoch_R, place_R = np.divmod(np.arange(first, first + rows), pairs_)
  chosen = np.empty(rows, np.int64)
  for epoch in np.unique(epoch_R):
    order = np.random.default_rng((*seed, int(epoch))).permutation(pairs_)
    chosen[epoch_R == epoch] = order[place_R[epoch_R == epoch]]
  return chosen, first / pairs_


def rows_of(run: Run, data: Data, chosen: np.ndarray) -> Batch:
  """Pairs as conversations, token for token as a rollout would have them; on the host.

  Rows are prompt, first attempt, what is fed between attempts, second attempt. An attempt that did not end its turn
  gets its end of turn fed, without loss.
  """
  chat, settings = run.sampler.chat, run.config.supervised
  feed, end = list(chat.separators[0]), chat.end_of_turn
  longest = run.config.sampling.prompt_tokens + run.sampler.spec().growth
  tokens = np.full((len(chosen), longest), chat.pad, np.int32)
  attempt = np.zeros((len(chosen), longest), np.int8)
  length = np.zeros(len(chosen), np.int32)
  sources = (data.collected.first, data.collected.second)
  for b, (row, other, which) in enumerate(data.pairs[chosen]):
    number = int(row) // settings.samples
    if number not in data.prompts:
      data.prompts[number] = chat.prompt_ids(collect.problem_of(run, data.stage_run.index, number))
    first, second = _ids(data.collected.first[row]), _ids(sources[which][other])
    second = second[: run.config.sampling.attempt_tokens[1]]
    fed = feed[1:] if first[-1:] == [end] else feed
    parts = ((data.prompts[number], 0), (first, 1), (fed, 0), (second, 2))
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
