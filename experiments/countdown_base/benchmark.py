# SPDX-License-Identifier: Apache-2.0
"""The base policy of the Countdown benchmark (experiments/suites/countdown.py).

  python -m experiments.countdown_base.main --config=experiments/countdown_base/benchmark.py --workdir=runs/bench_base

It is larger than the bundled base, of a harder task, and sharpened: greedy and sampled answers are about equally good,
most second attempts copy and few look back. metrics.jsonl tells after each phase how good it is. Fields of
config.pretrain are flags.
"""

from ml_collections import ConfigDict

from experiments.countdown_base import settings

# What Self-Refine asks; to this base it is another wording.
REVIEW = 'Review your answer step by step and say what is wrong, if anything. Then write an improved answer.'


def get_config() -> ConfigDict:
  config = settings.defaults()
  config.task.countdown.update(numbers=5, max_number=15, max_value=99)
  config.sampling.update(prompt_tokens=11, attempt_tokens=(24, 26))
  config.pretrain.update(
    width=192,
    layers=6,
    heads=4,
    ffn=512,
    max_positions=512,  # ten attempts
    attempts=3,  # so that a third one is no novelty
    rewordings=(REVIEW,),
    conversations=1_500_000,
    rows=512,
    steps=5000,
    mixture=dict(afresh=0.15),
    sharpen_rounds=2,
    sharpen_conversations=60_000,
    sharpen_steps=500,
    sharpen_look_back=0.02,
    sharpen_wander=0.0,
    sharpen_afresh=0.3,
    sharpen_attempts=10,
  )
  config.batch.problems = 2048  # evaluated at a time, times batch.samples
  config.batch.samples = 2
  config.optim.learning_rate = 2e-3
  config.eval.problems = 4096
  return config
