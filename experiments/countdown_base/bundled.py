"""Makes score_jax/assets/countdown_base, the base policy that the other configurations start from.

  python -m score_jax.main --config=experiments/countdown_base/bundled.py --workdir=runs/countdown_base
  cp runs/countdown_base/hf/* score_jax/assets/countdown_base/

The folder's README.md has the hardware, the time and the result.
"""

from ml_collections import ConfigDict

from score_jax.configs import common


def get_config() -> ConfigDict:
  config = common.get_config()
  config.mode = 'pretrain'
  config.optim.learning_rate = 3e-3
  config.optim.schedule = 'cosine'
  config.optim.warmup_steps = 200
  config.optim.b2 = 0.99
  return config
