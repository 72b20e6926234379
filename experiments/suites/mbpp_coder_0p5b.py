# SPDX-License-Identifier: Apache-2.0
"""The methods on MBPP with Qwen2.5-Coder-0.5B-Instruct, by adapters: a real model on one GPU.

  python -m experiments.main --suite=experiments/suites/mbpp_coder_0p5b.py --base=MODEL_FOLDER --out=DIR \
    --only=score --seeds=0

MODEL_FOLDER is a local copy of the model. Without --only all rows are run. MBPP's test split is evaluated with every
row, HumanEval beside it.
"""

from typing import Any

from experiments.plan import Extra, Method, Suite
from score_jax.configs.mbpp_qwen25_coder_0p5b import HUMANEVAL

CONFIG = 'mbpp_qwen25_coder_0p5b'
STEPS = 90  # of every row but the supervised ones, Pair-SFT's 20 before SCoRe among them
BETA = 0.01
_FEWER = '90 updates too; those of Pair-SFT, which SCoRe begins with, sample fewer conversations'
_SUPERVISED = 'it samples once an iteration and has fewer updates: more would be more epochs on few pairs'


def get_suite() -> Suite:
  rows = methods()
  own_words = tuple(name for name, method in rows.items() if not method.instruction)
  return Suite(
    name='MBPP, Qwen2.5-Coder-0.5B',
    base_config='none',
    fields={},
    seeds=(0, 1),
    reference='score',
    methods=rows,
    paper='',
    extras=dict(
      humaneval=Extra(own_words, ('--samples=8',), HUMANEVAL),
      humaneval_ten_attempts=Extra(('score', 'multi_turn_sum', 'stage1_alone'), ('--attempts=10',), HUMANEVAL),
    ),
  )


def methods() -> dict[str, Method]:
  def of(title: str, fields: dict[str, Any] | None = None, **named: Any) -> Method:
    return Method(title=title, config=CONFIG, fields=fields or {}, **named)

  only_stage1 = {'schedule': ('stage1',), 'stages.stage1.steps': STEPS, 'offline_pool': 1536}
  only_stage1 |= {'stages.stage1.kl_weights': (0.5, 0.005), 'stages.stage1.offline_wrong': 0.9}
  return dict(
    base=of('Base', {'lora.rank': 0}, kind='evaluate'),
    self_refine=of('Self-Refine', {'lora.rank': 0}, kind='evaluate', instruction='self_refine'),
    pair_sft=of('Pair-SFT', supervised('sft', 20), note=_SUPERVISED),
    star_plus=of(
      'STaR, D_STaR+', supervised('star', 16) | {'supervised.plus': True, 'supervised.iterations': 3,
      'supervised.samples': 16}, note=_SUPERVISED,
    ),
    single_turn=of('Single-turn RL', alone((1.0, 0.0), (BETA, 0.0)), note=_FEWER),
    multi_turn_sum=of('Multi-turn RL, both rewards', alone((1.0, 1.0), (BETA, BETA)), note=_FEWER),
    multi_turn_final=of('Multi-turn RL, second reward only', alone((0.0, 1.0), (BETA, BETA)), note=_FEWER),
    score=of('SCoRe', init_from='pair_sft'),
    no_stage1=of(
      'SCoRe without Stage I', {'schedule': ('stage2',), 'stages.stage2.steps': 70,
      'stages.stage2.optim.warmup_steps': -1}, init_from='pair_sft',
    ),
    no_shaping=of(
      'SCoRe without shaping', {'stages.stage1.bonus': (0.0, 0.0), 'stages.stage2.bonus': (0.0, 0.0)},
      init_from='pair_sft',
    ),
    stage1_alone=of('Stage I alone, from the base', only_stage1, note=_FEWER),
  )  # fmt: skip


def alone(reward_weights: tuple[float, float], kl_weights: tuple[float, float]) -> dict[str, Any]:
  """Returns fields of one stage from the base, on policy, without bonus."""
  stage = dict(
    steps=STEPS, reward_weights=reward_weights, kl_weights=kl_weights, bonus=(0.0, 0.0), offline_first=0.0,
    offline_shared=False,
  )  # fmt: skip
  fields = {f'stages.stage2.{name}': value for name, value in stage.items()}
  return {'schedule': ('stage2',), 'loss.kl_form': 'k1_togo', 'stages.stage2.optim.warmup_steps': -1} | fields


def supervised(dataset: str, steps: int) -> dict[str, Any]:
  named = {'supervised.dataset': dataset, 'supervised.steps': steps, 'checkpoint.every': steps}
  return {'mode': 'supervised', 'selection.problems': 8} | named
