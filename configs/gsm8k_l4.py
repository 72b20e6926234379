# SPDX-License-Identifier: Apache-2.0
"""GSM8K by adapters on this accelerator (accelerators.py): `score-jax train --config=gsm8k_l4`."""

from ml_collections import ConfigDict

from score_jax.configs import accelerators


def get_config() -> ConfigDict:
  return accelerators.gsm8k('l4')
