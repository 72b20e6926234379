# SPDX-License-Identifier: Apache-2.0
"""Makes the base policy of the Countdown benchmark (experiments/suites/countdown.py).

  python -m experiments.countdown_base.main --config=experiments/countdown_base/benchmark.py --workdir=runs/bench_base

The bundled base is for minutes on a CPU, and most of its errors are sampling noise. This one is larger, of a harder
task, and sharpened: its greedy and sampled answers are about equally good, most second attempts copy and few look back.
Its metrics.jsonl tells after each phase how good it is and what its skill of looking back is worth, so that
settings can be compared: every field of config.pretrain and config.task.countdown is a flag.
"""

from ml_collections import ConfigDict

from experiments.countdown_base import settings

# What Self-Refine asks this base, to which it is another wording of the same request.
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
    attempts=3,  # or a third attempt would never have been seen
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
  config.batch.problems = 2048  # with batch.samples, conversations at a time in its evaluation
  config.batch.samples = 2
  config.optim.learning_rate = 2e-3
  config.eval.problems = 4096
  return config
