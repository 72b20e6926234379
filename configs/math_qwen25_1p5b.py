# SPDX-License-Identifier: Apache-2.0
r"""SCoRe on MATH with Qwen2.5-1.5B-Instruct: the paper's settings on a model with published results.

  score-jax train --config=math

It fits 16 chips of v5e (--topology=v5e:4x4 of the doctor).

Model and data come from the hub; folders and files do as well. To compare with: PAG (arXiv 2506.10406) reports 53.2 ->
52.4 for this base and 61.9 -> 63.9 for its own SCoRe on MATH500, sampled.
"""

from ml_collections import ConfigDict

from score_jax.configs import math_gemma2_2b


def get_config() -> ConfigDict:
  config = math_gemma2_2b.get_config()
  config.model.path = 'Qwen/Qwen2.5-1.5B-Instruct'
  config.sampling.decode_slots = 32  # chosen, of a v5e
  return config
