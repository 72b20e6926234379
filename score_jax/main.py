# SPDX-License-Identifier: Apache-2.0
"""Trains: `python -m score_jax.main --config=quickstart [--workdir=DIR] [--config.FIELD=VALUE ...]`.

The same command goes on with a run that was cut off. Of several hosts each runs it, with --distributed.
"""

import os
import sys

if not __package__:  # run as a file: its folder has an inspect.py, which would shadow the standard library's
  sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from absl import flags

from score_jax import cli

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string('workdir', '', 'the run folder, or gs://BUCKET/NAME; default: runs/<name of the config>')
_DISTRIBUTED = cli.define_distributed()
_PROFILE = flags.DEFINE_integer('profile', 0, 'steps to trace, from the third on, to WORKDIR/profile', lower_bound=0)


def main() -> None:
  from score_jax import api

  workdir = _WORKDIR.value or f'runs/{cli.config_name()}'
  api.train(_CONFIG.value, workdir=workdir, distributed=_DISTRIBUTED.value, profile=_PROFILE.value)


if __name__ == '__main__':
  cli.run(main)
