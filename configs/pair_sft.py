# SPDX-License-Identifier: Apache-2.0
"""Pair-SFT: supervised on wrong first attempts, each with a random right answer.

  python -m score_jax.main --config=configs/pair_sft.py
  python -m score_jax.main --config=configs/pair_sft.py --config.supervised.plus=True  # D_SFT+

One round on conversations of the base, with the samples and updates of configs/quickstart.py, where the paper has one
epoch: the best checkpoint may be an earlier one. docs/baselines.md says what else the paper leaves open.
"""

from ml_collections import ConfigDict

from score_jax.configs import common


def get_config() -> ConfigDict:
  config = common.get_config()
  config.mode = 'supervised'
  config.selection.problems = 1024
  config.supervised.dataset = 'sft'
  config.supervised.iterations = 1
  config.supervised.steps = 60
  config.supervised.problems = 3840
  return config
