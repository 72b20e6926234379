# SPDX-License-Identifier: Apache-2.0
"""A small base model learns to correct itself, on a CPU, in a few minutes.

  python -m score_jax.main --config=configs/quickstart.py

Stage I and Stage II on Countdown, from the bundled base. docs/presets.md says what to expect.
"""

from ml_collections import ConfigDict

from score_jax.configs import common


def get_config() -> ConfigDict:
  return common.get_config()
