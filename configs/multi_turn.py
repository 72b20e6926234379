# SPDX-License-Identifier: Apache-2.0
"""Naive multi-turn RL: both attempts are sampled, and nothing keeps the second from copying the first.

  python -m score_jax.main --config=configs/multi_turn.py --config.schedule="('final',)"
  python -m score_jax.main --config=configs/multi_turn.py --config.schedule="('sum',)"
  python -m score_jax.main --config=configs/multi_turn.py --config.schedule="('episode',)"

The paper can be read in several ways. 'final': the reward of the second attempt alone, on its own tokens; the first is
sampled and not trained (figures 5 and 6, and equation 1 of the first version). 'sum': both attempts are rewarded, each
on its own tokens (equation 1 of the second version): Stage II without its bonus and without Stage I. 'episode': the
reward of the second attempt alone, for which both answer (gamma 1), as in any policy gradient on an episode's reward.
KL beta1 on what is trained; learning rate as in Stage II (chosen).
"""

from ml_collections import ConfigDict

from score_jax.configs import common


def get_config() -> ConfigDict:
  config = common.get_config()
  config.schedule = ('final',)
  for name, reward_weights, kl, gamma in (
    ('final', (0.0, 1.0), (0.0, 0.01), 0.0),
    ('sum', (1.0, 1.0), (0.01, 0.01), 0.0),
    ('episode', (0.0, 1.0), (0.01, 0.01), 1.0),
  ):
    config.stages[name] = stage = common.stage2()
    stage.steps = 60  # as many as Stage I and II together
    stage.reward_weights = reward_weights
    stage.bonus = (0.0, 0.0)
    stage.kl_weights = kl
    stage.gamma = gamma
  return config
