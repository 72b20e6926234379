# SPDX-License-Identifier: Apache-2.0
"""Makes a base policy of Countdown, an HF folder, from nothing.

  python -m experiments.countdown_base.main --config=experiments/countdown_base/bundled.py --workdir=DIR

DIR/hf is the base; DIR/metrics.jsonl and DIR/eval.json tell how good it is. It cannot be resumed.
"""

from absl import flags

from score_jax import cli

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string('workdir', '', 'the folder to make; default: runs/CONFIG_base')


def main() -> None:
  from experiments.countdown_base import pretrain, settings

  config, base = settings.from_config_dict(_CONFIG.value)
  pretrain.pretrain(config, base, _WORKDIR.value or f'runs/{cli.config_name()}_base')


if __name__ == '__main__':
  cli.run(main)
