# SPDX-License-Identifier: Apache-2.0
"""SCoRe's parts from the bundled base, which has not been sharpened: three seeds, minutes on a GPU, an hour on a CPU.

  python -m experiments.main --suite=experiments/suites/quickstart.py --base=score_jax/assets/countdown_base \
    --out=experiments/results/quickstart --jobs=2

Most errors of this base are noise of sampling at T=1, and its attempts share the skill of sampling less widely. That is
what the paper's collapse goes through, and what the benchmark's base (countdown_base/benchmark.py) no longer has: read
the tables of sampled answers. The KL's weight is the paper's, and one learning rate serves all.
"""

from typing import Any

from experiments.plan import Method, Suite

STEPS = 30  # of Stage I, and of Stage II
ALL = 2 * STEPS
LEARNING_RATE = 4e-4


def get_suite() -> Suite:
  return Suite(
    name='Quickstart',
    base_config='experiments/countdown_base/bundled.py',
    fields={
      'optim.learning_rate': LEARNING_RATE,
      'stages.stage1.steps': STEPS,
      'stages.stage2.steps': STEPS,
      'stages.stage2.optim.learning_rate': LEARNING_RATE,
      'loss.attempt_gradient_norms': False,
      'eval.problems': 4096,
      'selection.problems': 1024,
      'checkpoint.every': 5,
      'report.rows': 1,
    },
    seeds=(0, 1, 2),
    reference='score',
    methods=methods(),
    paper='MATH500, Gemini 1.5 Flash, greedy, single runs (Kumar et al. 2024, arXiv 2409.12917, tables 1 and 4)',
  )


def methods() -> dict[str, Method]:
  """Returns all methods by name, in the order of the table."""

  def one_stage(stage: str, title: str, config: str = 'quickstart', **more: Any) -> Method:
    rate = {f'stages.{stage}.optim.learning_rate': LEARNING_RATE}
    fields = {'schedule': (stage,), f'stages.{stage}.steps': ALL} | rate | more.pop('fields', {})
    return Method(title, config, fields, **more)

  return dict(
    base=Method(title='Base', kind='evaluate', paper=(52.6, 41.4, -11.2)),
    single_turn=one_stage(
      'single_turn',
      'Single-turn RL',
      'single_turn',
      note='it trains one attempt of a conversation; with twice the problems a step it trains as many attempts',
      paper=(61.8, 59.4, -2.4),
    ),
    multi_turn_final=one_stage('final', 'Multi-turn RL, second reward only', 'multi_turn'),
    multi_turn_sum=one_stage('sum', 'Multi-turn RL, both rewards', 'multi_turn'),
    multi_turn_episode=one_stage('episode', 'Multi-turn RL, one reward for both', 'multi_turn'),
    score=Method(title='SCoRe', paper=(60.0, 64.4, 4.4)),
    no_stage1=one_stage('stage2', 'SCoRe without Stage I', paper=(59.2, 61.4, 2.2)),
    no_shaping=Method(
      title='SCoRe without shaping', fields={'stages.stage2.bonus': (0.0, 0.0)}, paper=(60.0, 62.6, 2.6)
    ),
    offline_first=Method(
      title='SCoRe without on-policy first attempts',
      fields={'stages.stage2.offline_first': 1.0, 'offline_pool': 1024},
      paper=(60.4, 60.6, 0.2),
    ),
  )
