# SPDX-License-Identifier: Apache-2.0
"""Countdown for a chat model of your own: problems in plain words, long attempts, a longer run.

  python -m score_jax.main --config=configs/countdown.py --config.model.path=DIR

Without a path it runs on the bundled base, for longer than the quickstart. For an HF chat model add plain words and
room for reasoning, for example:

  --config.task.countdown.prompt='Using {numbers}, each once, reach {target}. Write only steps like 7*12=84;84-3=81.'
  --config.task.instruction='There might be an error in the steps above. Correct it, if any; write all steps again.'
  --config.sampling.prompt_tokens=128 --config.sampling.attempt_tokens='(128,128)' --config.optim.learning_rate=5e-6
"""

from ml_collections import ConfigDict

from score_jax.configs import common


def get_config() -> ConfigDict:
  config = common.get_config()
  config.batch.problems = 128
  config.batch.pack = True  # answers of a model of your own differ in length
  config.stages.stage1.steps = 100
  config.stages.stage2.steps = 200
  config.eval.problems = 4096
  config.eval.every = 50
  return config
