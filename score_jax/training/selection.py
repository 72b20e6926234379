"""One quantity that chooses the best checkpoint of every method: the Stage II return on training problems.

Methods that train with other rewards, or with none, can't be compared by their own training return. At each checkpoint
the policy answers a fixed set of training problems, which no step of the run draws where the task
makes as many as are asked for; keys are the same every time, so that two checkpoints differ by their policies alone.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from score_jax.algorithm import rewards
from score_jax.core_types import Verdict
from score_jax.faults import watchdog
from score_jax.parallel import hosts
from score_jax.reporting import rows as report_rows
from score_jax.reporting.rows import Row
from score_jax.training import evaluation
from score_jax.training.run import Run

_FIRST = -1_000_000_000  # number of the first such problem: far from those of training steps and offline pools


def measure(run: Run, params: Any) -> dict[str, Any]:
  """What trained parameters are worth on the problems of config.selection, one sampled conversation each.

  Returns:
    of `figures`.
  """
  settings = run.config.selection
  problems = [run.task.problem(run.config.seed, 'train', _FIRST + i) for i in range(settings.problems)]
  with watchdog.phase('select'):
    found = evaluation.conversations(
      run.sampler,
      run.grader,
      run.sampler.layout(run.policy(params)),
      problems,
      run.sampler.spec(),
      run.config.seed,
      run.config.rows,
      way='selection',
    )
    return hosts.from_main(
      'what the best is chosen by', lambda: figures(found, settings.reward_weights, settings.bonus)
    )


def figures(rows: Sequence[Row], reward_weights: tuple[float, ...], bonus: tuple[float, ...]) -> dict[str, Any]:
  """What the best is chosen by, and what else these conversations tell.

  Returns:
    return: mean over rows of pays_i r_i + bonus_i (r_i - r_{i-1}), all attempts added, each over the rows where it is
    known; accuracy [A], answer_changed, text_changed: of rows.
  """
  verdicts, changed_B2 = report_rows.verdicts(rows), report_rows.changed_in(rows)
  verdict_BA = jnp.asarray(verdicts)
  pays_A, bonus_A = jnp.array(reward_weights, jnp.float32), jnp.array(bonus, jnp.float32)
  known_BA = rewards.reward_is_known(verdict_BA, pays_A, bonus_A)
  reward_BA = rewards.attempt_rewards(verdict_BA, pays_A, bonus_A)
  return {
    'return': float(jnp.sum(reward_BA * rewards.shares(known_BA, reward_BA.dtype))),
    'accuracy': (verdicts == Verdict.CORRECT).mean(axis=0).tolist(),
    'answer_changed': float(changed_B2[:, 1].mean()),
    'text_changed': float(changed_B2[:, 0].mean()),
  }
