# SPDX-License-Identifier: Apache-2.0
r"""SCoRe on MATH with Gemma 2 2B, the paper's open model (arXiv 2409.12917, table 8 and appendix A.1).

  score-jax train --config=math_gemma2_2b

It fits 16 chips of v5e (--topology=v5e:4x4 of the doctor), and other numbers of devices that divide 16.
Model and data come from the hub (the model is gated: HF_TOKEN); folders and files do as well. The data are the 12,500
problems of MATH; the 500 of MATH500 are held out by their text. From the paper: learning rate, steps in all,
conversations a step, alpha, both betas, temperature, prompts, greedy evaluation. Left open there and chosen here:
marked below.
"""

from ml_collections import ConfigDict

from score_jax.configs import common
from score_jax.tasks import prompts

# Configurations of EleutherAI/hendrycks_math.
_SUBJECTS = (
  'algebra', 'counting_and_probability', 'geometry', 'intermediate_algebra', 'number_theory', 'prealgebra',
  'precalculus',
)  # fmt: skip


def get_config() -> ConfigDict:
  config = common.get_config()
  config.model.path = 'google/gemma-2-2b-it'  # chosen: the paper does not say if instruction-tuned
  config.model.remat = 'full'
  config.task.name = 'math'
  config.task.data.train = tuple(
    f'hf:EleutherAI/hendrycks_math/{subject}:{split}' for subject in _SUBJECTS for split in ('train', 'test')
  )
  config.task.instruction = prompts.MATH_AGAIN
  config.task.long_prompts = 'drop'  # chosen
  config.sampling.prompt_tokens = 512  # chosen
  config.sampling.attempt_tokens = (1024, 1024)  # chosen
  config.sampling.decode_slots = 16  # chosen, of a v5e; more where there is memory
  config.batch.problems = 128  # chosen: 512 conversations as 128 problems x 4 samples
  config.batch.samples = 4
  config.batch.micro_batches = 8
  config.batch.pack = True
  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.optim.learning_rate = 5e-6
  config.optim.warmup_steps = 20  # chosen, like schedule, Adam's betas and clipping
  config.stages.stage1.steps = 1500  # 3,000 in all; how they are divided is chosen
  config.stages.stage2.steps = 1500
  config.stages.stage1.kl_weights = (0.1, 0.01)  # beta2, beta1
  config.stages.stage2.kl_weights = (0.01, 0.01)
  config.stages.stage2.bonus = (0.0, 10.0)  # alpha
  config.stages.stage2.optim.learning_rate = 0.0  # the paper has one rate
  config.eval.problems = 500  # MATH500
  config.eval.every = 100
  config.checkpoint.every = 50
  return config
