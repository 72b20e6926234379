# SPDX-License-Identifier: Apache-2.0
r"""SCoRe on GSM8K with Qwen2.5-Coder-0.5B-Instruct, by adapters: design Y of docs/results_real.md, not README's R.

  score-jax train --config=gsm8k_qwen25_coder_0p5b
  python -m experiments.main --suite=experiments/suites/gsm8k_coder_0p5b.py --base=FOLDER --only=score --out=DIR

It fits one GPU of 80 GB, or half of one; a row takes 350 s there (one H100). Model and data come from the hub; folders
and files do as well. Stages are those of design Y there: first attempts of the base, one for all samples of a problem,
so that a copy earns no credit.
"""

from ml_collections import ConfigDict

from score_jax.configs import common

STEPS = 32  # of both stages
_BOXED = 'End with "The answer is \\boxed{...}."'


def get_config() -> ConfigDict:
  config = common.get_config()
  config.model.path = 'Qwen/Qwen2.5-Coder-0.5B-Instruct'
  config.lora.rank = 8
  config.lora.alpha = 32.0
  config.task.name = 'gsm8k'
  config.task.data.train = ('hf:openai/gsm8k/main:train',)
  config.task.data.heldout = ('hf:openai/gsm8k/main:test',)
  config.task.prompt = f'Solve the problem step by step. {_BOXED}\n\n{{question}}'
  config.task.instruction = (
    'There might be an error in the solution above because of lack of understanding of the question. Please correct '
    f'the error, if any, and rewrite the solution. {_BOXED}'
  )
  config.task.long_prompts = 'drop'
  config.sampling.prompt_tokens = 240
  config.sampling.attempt_tokens = (278, 278)
  config.batch.problems = 32
  config.batch.samples = 8
  config.batch.micro_batches = 8
  config.batch.pack = True
  config.sampling.drafts = 1.0  # faster on a GPU (docs/performance.md); the recorded runs were without, in 32 parts
  config.optim.learning_rate = 1.5e-4
  config.optim.warmup_steps = 5
  config.loss.kl_form = 'k2_token'  # less noise than k1_togo where few rows hold attempt 1
  config.loss.attempt_gradient_norms = False  # costs a backward pass
  config.offline_pool = 512
  one, two = config.stages.stage1, config.stages.stage2
  one.steps = 11
  one.kl_weights = (0.15, 0.002)
  one.offline_first = 0.75
  one.offline_shared = True
  two.steps = STEPS - one.steps
  two.bonus = (0.0, 3.0)
  two.kl_weights = (0.002, 0.002)
  two.offline_first = 0.5
  two.offline_shared = True
  two.optim.learning_rate = 0.0  # config.optim's
  two.optim.warmup_steps = 0
  config.eval.problems = 1319
  config.eval.every = 0
  config.checkpoint.every = 8
  return config
