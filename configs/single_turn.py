# SPDX-License-Identifier: Apache-2.0
"""Single-turn RL: only the first attempt is rewarded (the paper's ablation "without multi-turn training").

  python -m score_jax.main --config=configs/single_turn.py

The second attempt is sampled, so that the run is evaluated as any other, and not trained: its reward, bonus and KL
weights are 0. With twice the problems, a step trains as many attempts as SCoRe's. Left open by the paper and chosen
here: KL and learning rate as in Stage II.
"""

from ml_collections import ConfigDict

from score_jax.configs import common


def get_config() -> ConfigDict:
  config = common.get_config()
  config.batch.problems = 128
  config.schedule = ('single_turn',)
  config.stages.single_turn = stage = common.stage2()
  stage.steps = 60  # as many as Stage I and II together
  stage.reward_weights = (1.0, 0.0)
  stage.bonus = (0.0, 0.0)
  stage.kl_weights = (0.01, 0.0)
  return config
