# SPDX-License-Identifier: Apache-2.0
"""The Countdown benchmark: SCoRe, its baselines and its ablations at the same budget, three seeds.

  python -m experiments.main --suite=experiments/suites/countdown.py --out=experiments/results/countdown --jobs=4
  python -m experiments.main --suite=experiments/suites/countdown.py --dry_run

A task harder than the quickstart's, from its own base (countdown_base/benchmark.py). docs/baselines.md has the methods.

Answers have 20 tokens, and reinforcement moves them by 2 to 5 nats, so the KL's weight is larger than the paper's. What
it decides is run with the paper's as well.
"""

import dataclasses
from typing import Any

from experiments.countdown_base import benchmark as countdown_base
from experiments.plan import Extra, Method, Suite

STEPS = 102  # of each stage; a third of it is an iteration of STaR
PROBLEMS, SAMPLES = 128, 8  # of a step
SELECTION = 2048
ALL = 2 * STEPS  # steps
BETA1, PAPER_BETA1 = 0.06, 0.01


def get_suite() -> Suite:
  return Suite(
    name='Countdown',
    base_config='experiments/countdown_base/benchmark.py',
    fields=fields(),
    seeds=(0, 1, 2),
    reference='score',
    methods=methods(),
    extras=dict(
      ten_attempts=Extra(('base', 'pair_sft', 'score'), ('--attempts=10',), {'eval.problems': 2048}),
      scaling=Extra(('base', 'score'), ('--scaling=16',), {'eval.problems': 1024}),
    ),
    paper='MATH500, Gemini 1.5 Flash, greedy, single runs (Kumar et al. 2024, arXiv 2409.12917, tables 1, 2 and 4)',
  )


def fields() -> dict[str, Any]:
  """Returns the fields of every run."""
  made = countdown_base.get_config()
  return {
    **{f'task.countdown.{name}': value for name, value in made.task.countdown.to_dict().items()},
    'sampling.prompt_tokens': made.sampling.prompt_tokens,
    'sampling.attempt_tokens': made.sampling.attempt_tokens,
    'batch.problems': PROBLEMS,
    'batch.samples': SAMPLES,
    'stages.stage1.steps': STEPS,
    'stages.stage2.steps': STEPS,
    'optim.learning_rate': 2e-4,
    'loss.attempt_gradient_norms': False,
    'eval.problems': 4096,
    'selection.problems': SELECTION,
    'checkpoint.every': 10,
    'report.rows': 1,
  }


def methods() -> dict[str, Method]:
  """Returns all methods by name, in the order of the table."""
  with_paper_kl = {
    f'{name}_paper_kl': dataclasses.replace(method, title=f'{method.title}, beta1 {PAPER_BETA1}', paper=())
    for name, method in multi_turn(PAPER_BETA1).items()
  }
  return baselines() | multi_turn(BETA1) | variants() | with_paper_kl


def baselines() -> dict[str, Method]:
  return dict(
    base=Method(title='Base', kind='evaluate', paper=(52.6, 41.4, -11.2)),
    self_refine=Method(
      title='Self-Refine',
      kind='evaluate',
      instruction=countdown_base.REVIEW,
      paper=(52.8, 51.8, -1.0),
    ),
    pair_sft=Method(title='Pair-SFT, D_SFT', config='pair_sft', fields=supervised(1, ALL), paper=(52.4, 54.2, 1.8)),
    pair_sft_plus=Method(
      title='Pair-SFT, D_SFT+',
      config='pair_sft',
      fields=supervised(1, ALL) | {'supervised.plus': True},
      paper=(55.0, 55.0, 0.0),
    ),
    star=Method(title='STaR, D_STaR', config='star', fields=supervised(3, ALL), paper=(55.4, 41.2, -14.2)),
    star_plus=Method(
      title='STaR, D_STaR+',
      config='star',
      fields=supervised(3, ALL) | {'supervised.plus': True},
      paper=(53.6, 54.0, 0.4),
    ),
    single_turn=Method(
      title='Single-turn RL',
      config='single_turn',
      fields={
        'batch.problems': 2 * PROBLEMS,
        'stages.single_turn.steps': ALL,
        'stages.single_turn.kl_weights': (BETA1, 0.0),
      },
      note='it trains one attempt of a conversation; with twice the problems a step it trains as many attempts',
      paper=(61.8, 59.4, -2.4),
    ),
  )


def supervised(iterations: int, steps: int) -> dict[str, Any]:
  """Returns fields for the samples and updates of `steps` steps of reinforcement."""
  return {
    'supervised.iterations': iterations,
    'supervised.steps': steps // iterations,
    'supervised.problems': steps // iterations * PROBLEMS,
    'supervised.samples': SAMPLES,
  }


def held(beta1: float) -> dict[str, Any]:
  """Returns the KL's weights; as in the paper, Stage I holds attempt 1 with ten times beta1."""
  return {'stages.stage1.kl_weights': (10 * beta1, beta1), 'stages.stage2.kl_weights': (beta1, beta1)}


def multi_turn(beta1: float) -> dict[str, Method]:
  """Returns SCoRe, and reinforcement without one or all of its parts."""

  def naive(stage: str, title: str, kl_weights: tuple[float, float]) -> Method:
    fields = {'schedule': (stage,), f'stages.{stage}.steps': ALL, f'stages.{stage}.kl_weights': kl_weights}
    return Method(title=f'Multi-turn RL, {title}', config='multi_turn', fields=fields)

  return dict(
    multi_turn_final=naive('final', 'second reward only', (0.0, beta1)),
    multi_turn_sum=naive('sum', 'both rewards', (beta1, beta1)),
    multi_turn_episode=naive('episode', 'one reward for both', (beta1, beta1)),
    score=Method(title='SCoRe', fields=held(beta1), paper=(60.0, 64.4, 4.4)),
    no_stage1=Method(
      title='SCoRe without Stage I',
      fields=held(beta1) | {'schedule': ('stage2',), 'stages.stage2.steps': ALL},
      paper=(59.2, 61.4, 2.2),
    ),
    no_shaping=Method(
      title='SCoRe without shaping',
      fields=held(beta1) | {'stages.stage2.bonus': (0.0, 0.0)},
      paper=(60.0, 62.6, 2.6),
    ),
  )


def variants() -> dict[str, Method]:
  first_budget, *_, last_budget = countdown_base.get_config().sampling.attempt_tokens
  return dict(
    star_stage2=Method(
      title='STaR in Stage II',
      config='star',
      fields=supervised(3, STEPS),
      init_from='stage1',
      paper=(56.2, 58.4, 2.2),
    ),
    offline_first=Method(
      title='SCoRe without on-policy first attempts',
      fields=held(BETA1) | {'stages.stage2.offline_first': 1.0, 'offline_pool': 8 * PROBLEMS},
      paper=(60.4, 60.6, 0.2),
    ),
    discounted=Method(
      title='SCoRe, gamma 0.8 and alpha 1',
      fields=held(BETA1) | {'stages.stage2.gamma': 0.8, 'stages.stage2.bonus': (0.0, 1.0)},
    ),
    three_attempts=Method(
      title='SCoRe, three attempts',
      config='three_attempts',
      fields={
        'sampling.attempt_tokens': (first_budget, last_budget, last_budget),
        'stages.stage1a.steps': ALL // 3,
        'stages.stage1a.kl_weights': (10 * BETA1, BETA1, 0.0),
        'stages.stage1b.steps': ALL // 3,
        'stages.stage1b.kl_weights': (10 * BETA1, 10 * BETA1, BETA1),
        'stages.stage2.steps': ALL // 3,
        'stages.stage2.kl_weights': (BETA1, BETA1, BETA1),
      },
      note='as many conversations, of three attempts',
    ),
    # Saved at its end alone: its best is its last, with which Stage II begins.
    stage1=Method(
      title='Stage I',
      config='stage1',
      fields={'checkpoint.every': STEPS, 'stages.stage1.kl_weights': (10 * BETA1, BETA1)},
      shown=False,
    ),
  )
