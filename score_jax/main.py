"""Trains: `python -m score_jax.main --config=configs/quickstart.py [--workdir=DIR] [--config.FIELD=VALUE ...]`.

The same command goes on with a run that was cut off.
"""

from absl import flags

from score_jax import doors

_CONFIG = doors.define_config()
_WORKDIR = flags.DEFINE_string('workdir', '', 'the run folder; default: runs/<name of the config file>')


def main() -> None:
  config = doors.run_config(_CONFIG)
  workdir = _WORKDIR.value or f'runs/{doors.config_name()}'
  if config.mode == 'pretrain':
    from score_jax.training import pretrain

    pretrain.pretrain(config, workdir)
  else:
    from score_jax.training import loop
    from score_jax.training import run

    loop.train(run.open_run(config, workdir))


if __name__ == '__main__':
  doors.run(main)
