# SPDX-License-Identifier: Apache-2.0
"""STaR: supervised on its own conversations that go from wrong to right, three times over.

  python -m score_jax.main --config=configs/star.py
  python -m score_jax.main --config=configs/star.py --config.supervised.plus=True  # D_STaR+
  python -m score_jax.main --config=configs/star.py --config.init_from=runs/stage1  # in place of Stage II

Each iteration trains from the base (or init_from) on conversations of the model before it. Samples and updates add up
to configs/quickstart.py's. docs/baselines.md says what the paper leaves open.
"""

from ml_collections import ConfigDict

from score_jax.configs import common


def get_config() -> ConfigDict:
  config = common.get_config()
  config.mode = 'supervised'
  config.selection.problems = 1024
  return config
