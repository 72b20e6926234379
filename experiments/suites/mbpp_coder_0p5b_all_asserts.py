# SPDX-License-Identifier: Apache-2.0
"""MBPP with all three asserts in the question, Qwen2.5-Coder-0.5B-Instruct, by adapters: five designs of SCoRe.

  python -m experiments.main --suite=experiments/suites/mbpp_coder_0p5b_all_asserts.py --base=MODEL_FOLDER --out=DIR \
    --only=score --seeds=0

MODEL_FOLDER is a local copy of the model. HumanEval is evaluated with every row, and the first 96 problems of MBPP's
test split. All designs copied (docs/results_real.md), and some right answers wrote the asserts down, which is why
mbpp_coder_0p5b.py came after.
"""

from typing import Any

from experiments.plan import Extra, Method, Suite
from score_jax.configs import mbpp_qwen25_coder_0p5b as preset

CONFIG = 'mbpp_qwen25_coder_0p5b'
STEPS = 90
BETA = 0.01
AFRESH = (
  'Set the program above aside, as it may be wrong. Read the task again from the start and solve it afresh. Answer '
  'with the whole program in one ```python block.'
)
PLAN = (
  'The program above may be wrong. First say in one or two sentences how to solve the task, then write the whole '
  'program in one ```python block, without looking at the one above.'
)


def get_suite() -> Suite:
  humaneval = preset.HUMANEVAL | {'task.mbpp.tests': 0}
  words = dict(humaneval='', humaneval_afresh=AFRESH, humaneval_plan=PLAN)  # that a method was trained with
  rows = {name: method for name, method in methods().items() if name != 'self_refine'}
  extras = {}
  for name, instruction in words.items():
    those = tuple(row for row, method in rows.items() if method.fields.get('task.instruction', '') == instruction)
    flags = ('--samples=8', *([f'--instruction={instruction}'] if instruction else []))
    extras[name] = Extra(those, flags, humaneval)
  shared = {
    'task.mbpp.tests': 0,
    'task.prompt': preset.QUESTION.format(tests='these tests'),
    'sampling.prompt_tokens': 384,
    'loss.kl_form': 'k1_togo',
    'eval.problems': 96,
  }
  return Suite(
    name='MBPP, all asserts shown, Qwen2.5-Coder-0.5B',
    base_config='none',
    fields=shared,
    seeds=(0, 1),
    reference='score',
    methods=methods(),
    paper='',
    extras=extras,
  )


def methods() -> dict[str, Method]:
  def of(title: str, fields: dict[str, Any] | None = None, **named: Any) -> Method:
    return Method(title=title, config=CONFIG, fields=fields or {}, **named)

  alone = {'schedule': ('stage2',), 'stages.stage2.optim.warmup_steps': -1} | stage('stage2', STEPS, (BETA, BETA), 0.0)
  rewards = 'stages.stage2.reward_weights'
  first_alone = {rewards: (1.0, 0.0), 'stages.stage2.kl_weights': (BETA, 0.0)}
  no_stage1 = alone | {'stages.stage2.bonus': (0.0, 3.0), 'task.instruction': AFRESH}
  return dict(
    base=of('Base', {'lora.rank': 0}, kind='evaluate'),
    self_refine=of('Self-Refine', {'lora.rank': 0}, kind='evaluate', instruction='self_refine'),
    single_turn=of('Single-turn RL', alone | first_alone),
    multi_turn_sum=of('Multi-turn RL, both rewards', alone | {rewards: (1.0, 1.0), 'task.instruction': AFRESH}),
    score=of('SCoRe (D)', design(12, 0.0)),
    score_f=of('SCoRe (F)', design(12, 3.0) | {'task.instruction': AFRESH}),
    score_g=of('SCoRe (G)', design(30, 3.0) | {'task.instruction': AFRESH}),
    score_h=of('SCoRe (H)', design(12, 3.0) | {'task.instruction': PLAN}),
    no_stage1=of('SCoRe without Stage I (N)', no_stage1),
  )


def design(first: int, alpha1: float) -> dict[str, Any]:
  """Returns fields of SCoRe from the base, on policy: Stage I for `first` steps with bonus alpha1, then Stage II."""
  return stage('stage1', first, (0.5, BETA), alpha1) | stage('stage2', STEPS - first, (BETA, BETA), 3.0)


def stage(name: str, steps: int, kl_weights: tuple[float, float], alpha: float) -> dict[str, Any]:
  fields = dict(steps=steps, kl_weights=kl_weights, kl_target=(), bonus=(0.0, alpha), offline_first=0.0)
  fields |= dict(offline_shared=False)
  return {f'stages.{name}.{field}': value for field, value in fields.items()}
