# SPDX-License-Identifier: Apache-2.0
"""Stage I alone: attempt 1 stays near the base, attempt 2 learns to be right.

python -m score_jax.main --config=configs/stage1.py
python -m score_jax.main --config=configs/stage2.py --config.init_from=runs/stage1
"""

from ml_collections import ConfigDict

from score_jax.configs import common


def get_config() -> ConfigDict:
  config = common.get_config()
  config.schedule = ('stage1',)
  return config
