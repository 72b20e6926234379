"""Makes the base policy of the Countdown benchmark (experiments/suites/countdown.py).

  python -m score_jax.main --config=experiments/countdown_base/benchmark.py --workdir=runs/countdown_bench_base

The bundled base is for minutes on a CPU, and most of its errors are sampling noise. This one is larger, of a harder
task, and sharpened: its greedy and sampled answers are about equally good, most second attempts copy and few look back.
Its metrics.jsonl says after each phase how good it is and what its skill of looking back is worth, so that
settings can be compared: every field of config.pretrain and config.task.countdown is a flag.
"""

from ml_collections import ConfigDict

from score_jax.configs import common

# What Self-Refine asks this base. To it, it is another wording of the same request.
REVIEW = 'Review your answer step by step and say what is wrong, if anything. Then write an improved answer.'


def get_config() -> ConfigDict:
  config = common.get_config()
  config.mode = 'pretrain'
  task(config)
  config.pretrain.width = 192
  config.pretrain.layers = 6
  config.pretrain.heads = 4
  config.pretrain.ffn = 512
  config.pretrain.max_positions = 512  # ten attempts
  config.pretrain.attempts = 3  # or a third attempt would be a thing never seen
  config.pretrain.rewordings = (REVIEW,)
  config.pretrain.conversations = 1_500_000
  config.pretrain.rows = 512
  config.pretrain.steps = 5000
  config.pretrain.mixture.afresh = 0.15
  config.pretrain.sharpen_rounds = 2
  config.pretrain.sharpen_conversations = 60_000
  config.pretrain.sharpen_steps = 500
  config.pretrain.sharpen_look_back = 0.02
  config.pretrain.sharpen_wander = 0.0
  config.pretrain.sharpen_afresh = 0.3
  config.pretrain.sharpen_attempts = 10
  config.batch.problems = 4096  # with batch.samples, conversations at a time in its evaluation
  config.batch.samples = 1
  config.optim.learning_rate = 2e-3
  config.optim.schedule = 'cosine'
  config.optim.warmup_steps = 200
  config.optim.b2 = 0.99
  config.eval.problems = 4096
  return config


def task(config: ConfigDict) -> None:
  """The benchmark's problems, and the room that conversations on them take."""
  config.task.countdown.numbers = 5
  config.task.countdown.max_number = 15
  config.task.countdown.max_value = 99
  config.sampling.prompt_tokens = 11
  config.sampling.attempt_tokens = (24, 26)
