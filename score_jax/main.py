"""Trains: `python -m score_jax.main --config=configs/quickstart.py [--workdir=DIR] [--config.FIELD=VALUE ...]`.

The same command goes on with a run that was cut off.
"""

from absl import flags

from score_jax import doors

_CONFIG = doors.define_config()
_WORKDIR = flags.DEFINE_string('workdir', '', 'the run folder; default: runs/<name of the config file>')

_PROFILE = flags.DEFINE_integer(
  'profile', 0, 'trace so many steps, from the third on, to WORKDIR/profile (TensorBoard, XProf)', lower_bound=0
)


def main() -> None:
  config = doors.run_config(_CONFIG)
  workdir = _WORKDIR.value or f'runs/{doors.config_name()}'
  if config.mode == 'pretrain':
    from score_jax.training import pretrain

    pretrain.pretrain(config, workdir)
  else:
    from score_jax.faults import watchdog
    from score_jax.reporting import profile
    from score_jax.training import loop
    from score_jax.training import run

    faults = config.faults
    patience = watchdog.Patience(faults.stuck_first_seconds, faults.stuck_seconds, faults.stuck_factor)
    with watchdog.watching(workdir, patience):
      with watchdog.phase('open'):
        opened = run.open_run(config, workdir)
      traced = profile.Tracer(opened.folder.path / 'profile', _PROFILE.value) if _PROFILE.value else profile.NO_TRACE
      loop.train(opened, traced)


if __name__ == '__main__':
  doors.run(main)
