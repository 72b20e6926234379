# SPDX-License-Identifier: Apache-2.0
r"""SCoRe on GSM8K with Qwen2.5-0.5B-Instruct: one GPU, or four chips of v5e.

  score-jax train --config=gsm8k

It fits v5e:2x2 (--topology=v5e:2x2 of the doctor); its batch suits any number of devices that divides 16.

Model and data come from the hub; folders and files do as well. The paper has no GSM8K: its settings for MATH, but
shorter answers, fewer steps and a higher rate for a smaller model.
"""

from ml_collections import ConfigDict

from score_jax.configs import math_gemma2_2b


def get_config() -> ConfigDict:
  config = math_gemma2_2b.get_config()
  config.model.path = 'Qwen/Qwen2.5-0.5B-Instruct'
  config.task.name = 'gsm8k'
  config.task.data.train = ('hf:openai/gsm8k/main:train',)
  config.task.data.heldout = ('hf:openai/gsm8k/main:test',)
  config.sampling.prompt_tokens = 384
  config.sampling.attempt_tokens = (400, 400)
  config.sampling.decode_slots = 128
  config.batch.micro_batches = 8
  config.optim.learning_rate = 1e-5
  config.stages.stage1.steps = 200
  config.stages.stage2.steps = 300
  config.eval.problems = 1319
  config.eval.every = 50
  return config
