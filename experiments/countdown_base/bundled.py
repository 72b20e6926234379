# SPDX-License-Identifier: Apache-2.0
"""score_jax/assets/countdown_base, the base policy that the presets start from.

  python -m experiments.countdown_base.main --config=experiments/countdown_base/bundled.py --workdir=runs/countdown_base
  cp runs/countdown_base/hf/* score_jax/assets/countdown_base/

The folder's README.md has hardware, time and result.
"""

from ml_collections import ConfigDict

from experiments.countdown_base import settings


def get_config() -> ConfigDict:
  config = settings.defaults()
  config.optim.learning_rate = 3e-3
  return config
