"""One quantity that chooses the best checkpoint of every method: the Stage II return on training problems.

Methods that train with other rewards, or with none, cannot be compared by their own training return. At each checkpoint
the policy answers a fixed set of training problems, which no step of the run draws where the task makes as many as are
asked for; keys are the same every time, so that two checkpoints differ by their policies alone. `storage.progress`
decides by it.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from score_jax.algorithm import rewards
from score_jax.config import RunConfig
from score_jax.core_types import Verdict
from score_jax.faults import watchdog
from score_jax.parallel import hosts
from score_jax.reporting import rows as report_rows
from score_jax.reporting.rows import Row
from score_jax.storage.progress import Progress
from score_jax.training import evaluation
from score_jax.training import stages
from score_jax.training.run import Run

_FIRST = -1_000_000_000  # number of the first such problem: far from those of training steps and offline pools


def measure(run: Run, params: Any) -> dict[str, Any]:
  """Returns `figures` of trained parameters on the problems of config.selection, one sampled conversation each."""
  settings = run.config.selection
  problems = run.task.problems(run.config.seed, 'train', range(_FIRST, _FIRST + settings.problems))
  with watchdog.phase('select'):
    conversations = evaluation.conversations(
      run.sampler,
      run.grader,
      run.sampler.layout(run.policy(params)),
      problems,
      run.sampler.spec(),
      run.config.seed,
      run.config.rows,
      decoding='selection',
    )
    return hosts.from_main(
      'what the best is chosen by', lambda: figures(conversations, settings.reward_weights, settings.bonus)
    )


def figures(rows: Sequence[Row], reward_weights: tuple[float, ...], bonus: tuple[float, ...]) -> dict[str, Any]:
  """Returns what the best is chosen by, and what else these conversations tell.

  Returns:
    return: mean over rows of reward_weights_i r_i + bonus_i (r_i - r_{i-1}), all attempts added, each over the rows
    where it is known; accuracy [A], answer_changed, text_changed: of rows.
  """
  outcomes = report_rows.outcomes(rows)
  verdict_BA = jnp.asarray(outcomes.verdict)
  weights_A, bonus_A = jnp.array(reward_weights, jnp.float32), jnp.array(bonus, jnp.float32)
  known_BA = rewards.reward_is_known(verdict_BA, weights_A, bonus_A)
  reward_BA = rewards.attempt_rewards(verdict_BA, weights_A, bonus_A)
  return {
    'return': float(jnp.sum(reward_BA * rewards.shares(known_BA, reward_BA.dtype))),
    'accuracy': (outcomes.verdict == Verdict.CORRECT).mean(axis=0).tolist(),
    'answer_changed': float(outcomes.answer_changed.mean()),
    'text_changed': float(outcomes.text_changed.mean()),
  }


def considered(config: RunConfig, progress: Progress, record: dict[str, Any]) -> Progress:
  """Returns `progress` with its best updated, if its step can be the best; `record` is the step's metrics."""
  if not stages.counts(config, progress.step):
    return progress
  return progress.at_checkpoint(record['selection']['return'] if config.selection.problems else None)
