# SPDX-License-Identifier: Apache-2.0
"""SCoRe as the paper's first version describes it: Stages I and II, interleaved (I, II, I, II).

python -m score_jax.main --config=configs/score.py --config.model.path=DIR
"""

from ml_collections import ConfigDict

from score_jax.configs import common


def get_config() -> ConfigDict:
  config = common.get_config()
  config.schedule = ('stage1', 'stage2', 'stage1', 'stage2')
  return config
