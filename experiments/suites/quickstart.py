# SPDX-License-Identifier: Apache-2.0
"""SCoRe's parts from the bundled base: three seeds, minutes on a GPU, an hour on a CPU.

  python -m experiments.main --suite=experiments/suites/quickstart.py --base=score_jax/assets/countdown_base \
    --out=experiments/results/quickstart --jobs=2

Most errors of this base are noise of sampling at T=1, through which the paper's collapse goes: read the tables of
sampled answers. KL weights are the paper's; one learning rate serves all.
"""

import dataclasses
from typing import Any

from experiments.plan import Method, Suite
from experiments.suites import countdown

STEPS = 30  # of each stage
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
  """Returns methods of the benchmark, with fields of their own."""
  fields: dict[str, dict[str, Any]] = dict(
    base={},
    single_turn=alone('single_turn'),
    multi_turn_final=alone('final'),
    multi_turn_sum=alone('sum'),
    multi_turn_episode=alone('episode'),
    score={},
    no_stage1=alone('stage2'),
    no_shaping={'stages.stage2.bonus': (0.0, 0.0)},
    offline_first={'stages.stage2.offline_first': 1.0, 'offline_pool': 1024},
  )
  shared = countdown.methods()
  return {name: dataclasses.replace(shared[name], fields=own) for name, own in fields.items()}


def alone(stage: str) -> dict[str, Any]:
  """Returns fields of a run that is one stage."""
  return {
    'schedule': (stage,),
    f'stages.{stage}.steps': ALL,
    f'stages.{stage}.optim.learning_rate': LEARNING_RATE,
  }
