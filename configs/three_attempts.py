# SPDX-License-Identifier: Apache-2.0
"""SCoRe with three attempts (appendix A.1 of the paper's ICLR version): Stage I(a), I(b) and II.

  python -m score_jax.main --config=configs/three_attempts.py

I(a) rewards the second attempt and holds the first near the base; I(b) rewards the third and holds the first two near
the policy of I(a): the reference changes. II rewards all, each further one with a bonus for improving. Left open by the
paper and chosen here: the KL of rewarded attempts (beta1), none on the third attempt in I(a), and steps.
"""

from ml_collections import ConfigDict

from score_jax.configs import common

BETA1, BETA2, ALPHA = 0.01, 0.1, 10.0


def get_config() -> ConfigDict:
  config = common.get_config()
  config.sampling.attempt_tokens = (18, 20, 20)
  config.schedule = ('stage1a', 'stage1b', 'stage2')
  config.stages.stage1a = stage = common.stage1()
  stage.reward_weights, stage.bonus, stage.kl_weights = (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), (BETA2, BETA1, 0.0)
  config.stages.stage1b = stage = common.stage1()
  stage.reward_weights, stage.bonus, stage.kl_weights = (0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (BETA2, BETA2, BETA1)
  stage.reference = 'stage_start'
  stage = config.stages.stage2
  stage.reward_weights, stage.bonus, stage.kl_weights = (1.0, 1.0, 1.0), (0.0, ALPHA, ALPHA), (BETA1, BETA1, BETA1)
  config.selection.reward_weights = (1.0, 1.0, 1.0)
  config.selection.bonus = (0.0, ALPHA, ALPHA)
  return config
