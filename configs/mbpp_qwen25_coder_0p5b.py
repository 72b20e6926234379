# SPDX-License-Identifier: Apache-2.0
r"""SCoRe on MBPP with Qwen2.5-Coder-0.5B-Instruct, by adapters: as run, with a row a method (docs/results_real.md).

  score-jax train --config=mbpp_qwen25_coder_0p5b --workdir=runs/pair \
    --config.mode=supervised --config.selection.problems=8 --config.checkpoint.every=20
  score-jax train --config=mbpp_qwen25_coder_0p5b --workdir=runs/score --config.init_from=runs/pair
  python -m experiments.main --suite=experiments/suites/mbpp_coder_0p5b.py --base=FOLDER --only=score --out=DIR

It fits one GPU of 80 GB, or half of one. Model and data come from the hub; folders and files do as well. This is design
P there: Pair-SFT first, since the base corrects 3 % of its wrong answers and leaves most groups nothing to learn from;
then both stages, with first attempts of the base that a problem's samples share. A question shows one of three tests,
which can't be written down as an answer; all of them grade.
"""

from ml_collections import ConfigDict

from score_jax.configs import common
from score_jax.tasks import prompts

QUESTION = (
  'You are an expert Python programmer, and here is your task: {{question}} Your code should pass {tests}:\n\n{{tests}}'
  '\n\nAnswer with the whole program in one ```python block.'
)
HUMANEVAL = {  # fields of an evaluation of a whole model on HumanEval
  'task.name': 'humaneval',
  'task.prompt': '',
  'task.data.train': (),
  'task.data.heldout': ('hf:openai/openai_humaneval:test',),
  'eval.problems': 0,
  'grading.cpu_seconds': 3.0,
  'lora.rank': 0,
  'sampling.prompt_tokens': 448,
  'sampling.attempt_tokens': (512, 512),
}


def get_config() -> ConfigDict:
  config = common.get_config()
  config.model.path = 'Qwen/Qwen2.5-Coder-0.5B-Instruct'
  config.lora.rank = 8
  config.lora.alpha = 32.0
  config.task.name = 'mbpp'
  config.task.data.train = tuple(f'hf:google-research-datasets/mbpp/full:{split}' for split in ('train', 'test'))
  config.task.mbpp.splits = ('train',)  # the test split is held out
  config.task.mbpp.examples = 0
  config.task.mbpp.tests = 1
  config.task.prompt = QUESTION.format(tests='tests like this one')
  config.task.instruction = prompts.CODE_AGAIN
  config.task.long_prompts = 'drop'
  config.grading.cpu_seconds = 1.0  # of a program; the published solutions take milliseconds
  config.sampling.prompt_tokens = 240
  config.sampling.attempt_tokens = (256, 256)
  config.batch.problems = 32
  config.batch.samples = 8
  config.batch.micro_batches = 8
  config.batch.pack = True
  config.sampling.drafts = 1.0  # faster on a GPU (docs/performance.md); the recorded runs were without, in 32 parts
  config.optim.learning_rate = 1e-4
  config.optim.warmup_steps = 5
  config.loss.kl_form = 'k2_token'  # less noise than k1_togo where few rows hold attempt 1
  config.loss.attempt_gradient_norms = False  # costs a backward pass
  config.offline_pool = 960
  config.supervised.dataset = 'sft'
  config.supervised.iterations = 1
  config.supervised.steps = 20
  config.supervised.problems = 352
  config.supervised.samples = 8
  one, two = config.stages.stage1, config.stages.stage2
  one.steps = 40
  one.kl_weights = (0.5, 0.002)
  one.kl_target = (0.1, 0.0)
  one.bonus = (0.0, 1.0)  # the verdict on an on-policy first attempt as a baseline
  one.offline_first = 0.75
  one.offline_shared = True
  two.steps = 30
  two.kl_weights = (0.01, 0.002)
  two.bonus = (0.0, 3.0)
  two.offline_first = 0.5
  two.offline_shared = True
  two.optim.learning_rate = 0.0  # config.optim's
  two.optim.warmup_steps = 0
  config.eval.problems = 480  # the first of 499; one of the others has 1,789 tokens
  config.eval.every = 0
  config.checkpoint.every = 10
  return config
