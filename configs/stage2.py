# SPDX-License-Identifier: Apache-2.0
"""Stage II alone: both attempts are rewarded, the second with a bonus for improving.

  python -m score_jax.main --config=configs/stage2.py --config.init_from=runs/stage1

Without `init_from` it starts from the base itself: the paper's ablation "without Stage I".
"""

from ml_collections import ConfigDict

from score_jax.configs import common


def get_config() -> ConfigDict:
  config = common.get_config()
  config.schedule = ('stage2',)
  return config
