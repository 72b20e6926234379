# SPDX-License-Identifier: Apache-2.0
"""The methods on GSM8K with Qwen2.5-Coder-0.5B-Instruct, by adapters, at one budget: a real model on one GPU.

  python -m experiments.main --suite=experiments/suites/gsm8k_coder_0p5b.py --base=MODEL_FOLDER --out=DIR \
    --only=score --seeds=0

MODEL_FOLDER is a local copy of the model. Without --only all rows are run.
"""

from typing import Any

from experiments.plan import Method, Suite
from score_jax.configs import gsm8k_qwen25_coder_0p5b as preset

CONFIG = 'gsm8k_qwen25_coder_0p5b'
_FIRST = {'schedule': ('stage2',), 'stages.stage2.optim.warmup_steps': -1}  # what comes first warms up
_SUPERVISED = 'it samples once an iteration and has fewer updates: more would be more epochs on few pairs'


def get_suite() -> Suite:
  return Suite(
    name='GSM8K, Qwen2.5-Coder-0.5B',
    base_config='none',
    fields={},
    seeds=(0, 1),
    reference='score',
    methods=methods(),
    paper='',
  )


def methods() -> dict[str, Method]:
  def of(title: str, fields: dict[str, Any] | None = None, **named: Any) -> Method:
    return Method(title=title, config=CONFIG, fields=fields or {}, **named)

  return dict(
    base=of('Base', {'lora.rank': 0}, kind='evaluate'),
    self_refine=of('Self-Refine', {'lora.rank': 0}, kind='evaluate', instruction='self_refine'),
    pair_sft_plus=of('Pair-SFT, D_SFT+', supervised('sft', iterations=1), note=_SUPERVISED),
    star_plus=of('STaR, D_STaR+', supervised('star', iterations=3), note=_SUPERVISED),
    single_turn=of('Single-turn RL', alone((1.0, 0.0), (0.002, 0.0))),
    multi_turn_sum=of('Multi-turn RL, both rewards', alone((1.0, 1.0), (0.002, 0.002))),
    multi_turn_final=of('Multi-turn RL, second reward only', alone((0.0, 1.0), (0.002, 0.002))),
    score=of('SCoRe'),
    no_stage1=of('SCoRe without Stage I', _FIRST | {'stages.stage2.steps': preset.STEPS}),
    no_shaping=of('SCoRe without shaping', {'stages.stage2.bonus': (0.0, 0.0)}),
  )


def alone(reward_weights: tuple[float, float], kl_weights: tuple[float, float]) -> dict[str, Any]:
  """Returns fields of one stage from the base, on policy, without bonus."""
  stage = dict(
    steps=preset.STEPS, reward_weights=reward_weights, kl_weights=kl_weights, bonus=(0.0, 0.0), offline_first=0.0,
    offline_shared=False,
  )  # fmt: skip
  return _FIRST | {f'stages.stage2.{name}': value for name, value in stage.items()}


def supervised(dataset: str, *, iterations: int) -> dict[str, Any]:
  fields = dict(dataset=dataset, plus=True, iterations=iterations, steps=12, problems=256, samples=8)
  named = {f'supervised.{name}': value for name, value in fields.items()}
  return {'mode': 'supervised', 'selection.problems': 8} | named
