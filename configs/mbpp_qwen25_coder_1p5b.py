# SPDX-License-Identifier: Apache-2.0
r"""SCoRe on MBPP, evaluated on HumanEval, with Qwen2.5-Coder-1.5B-Instruct (the paper's code setting, its table 8).

  score-jax train --config=mbpp

It fits 16 chips of v5e (--topology=v5e:4x4 of the doctor), and other numbers of devices that divide 16.

Model and data come from the hub; folders and files do as well. From the paper: learning rate, steps, conversations a
step, alpha, betas, the 3-shot prompt of MBPP for training and zero-shot evaluation on HumanEval, the instruction.
Programs run in a sandbox (docs/sandbox.md), without which the run does not start.
"""

from ml_collections import ConfigDict

from score_jax.configs import common
from score_jax.tasks import prompts


def get_config() -> ConfigDict:
  config = common.get_config()
  config.model.path = 'Qwen/Qwen2.5-Coder-1.5B-Instruct'  # chosen; the paper's model is not public
  config.model.remat = 'full'
  config.task.name = 'mbpp'
  config.task.evaluate = 'humaneval'
  config.task.data.train = tuple(f'hf:google-research-datasets/mbpp/full:{split}' for split in ('train', 'prompt'))
  config.task.data.heldout = ('hf:openai/openai_humaneval:test',)
  config.task.mbpp.splits = ('train',)  # chosen: the paper does not say which
  config.task.instruction = prompts.CODE_AGAIN
  config.task.long_prompts = 'drop'  # chosen
  config.sampling.prompt_tokens = 1024  # chosen
  config.sampling.attempt_tokens = (512, 512)  # chosen
  config.batch.problems = 32  # chosen: 128 conversations as 32 problems x 4 samples
  config.batch.samples = 4
  config.batch.micro_batches = 2
  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.batch.pack = True
  config.optim.learning_rate = 1e-5
  config.optim.warmup_steps = 20  # chosen
  config.stages.stage1.steps = 750  # 1,500 in all; how they are divided is chosen
  config.stages.stage2.steps = 750
  config.stages.stage1.kl_weights = (0.25, 0.01)  # beta2, beta1
  config.stages.stage2.kl_weights = (0.01, 0.01)
  config.stages.stage2.bonus = (0.0, 10.0)  # alpha
  config.stages.stage2.optim.learning_rate = 0.0  # the paper has one rate
  config.eval.problems = 164
  config.eval.every = 100
  config.checkpoint.every = 50
  return config
