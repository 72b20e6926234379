# SPDX-License-Identifier: Apache-2.0
"""GSM8K by adapters on the accelerators of Colab and Kaggle: what each needs said beside `gsm8k_qwen25_coder_0p5b`.

Only memory and speed differ: problems, rewards and steps are those of the recorded runs, which took one H200.
docs/presets.md has what fits where.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from score_jax.configs import gsm8k_qwen25_coder_0p5b


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """A machine that is lent by the hour."""

  name: str  # as Colab and Kaggle call it
  topology: str  # as the doctor does
  fields: dict[str, Any]  # of configs/common.py


# Guesses of a rollout (`drafts`) were timed on GPUs in 16 bits alone. A part of an update has 8 conversations a device.
ACCELERATORS = {
  't4': Accelerator(
    'T4',
    't4:1',  # no bfloat16: float32, without the kernels, which are of 16 bits
    {'batch.micro_batches': 32, 'model.remat': 'full', 'sampling.decode_slots': 128, 'sampling.drafts': 0.0},
  ),
  'l4': Accelerator('L4', 'l4:1', {'batch.micro_batches': 32}),
  'v5e_1': Accelerator(
    'v5e-1', 'v5e:1x1', {'batch.micro_batches': 32, 'model.remat': 'elementwise', 'sampling.drafts': 0.0}
  ),
  'v5e_8': Accelerator(
    'v5e-8', 'v5e:2x4', {'batch.micro_batches': 4, 'model.remat': 'elementwise', 'sampling.drafts': 0.0}
  ),
  'v6e_1': Accelerator('v6e-1', 'v6e:1x1', {'batch.micro_batches': 32, 'sampling.drafts': 0.0}),
}


def gsm8k(accelerator: str) -> ConfigDict:
  """Returns the configuration for one of ACCELERATORS."""
  config = gsm8k_qwen25_coder_0p5b.get_config()
  config.update_from_flattened_dict(ACCELERATORS[accelerator].fields)
  return config
