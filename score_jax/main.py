"""Trains: `python -m score_jax.main --config=configs/quickstart.py [--workdir=DIR] [--config.FIELD=VALUE ...]`.

The same command goes on with a run that was cut off. Several hosts run the same command each, with --distributed.
"""

from absl import flags

from score_jax import cli
from score_jax.errors import ConfigError

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string('workdir', '', 'the run folder; default: runs/<name of the config file>')

_DISTRIBUTED = cli.define_distributed()
_PROFILE = flags.DEFINE_integer(
  'profile', 0, 'trace so many steps, from the third on, to WORKDIR/profile (TensorBoard, XProf)', lower_bound=0
)


def main() -> None:
  config = cli.run_config(_CONFIG)
  cli.join_hosts(_DISTRIBUTED, config)
  workdir = _WORKDIR.value or f'runs/{cli.config_name()}'
  if '://' in workdir:
    raise ConfigError(
      f'--workdir={workdir}: a run folder needs a file system; name a folder of this machine, and give the address as '
      '--config.checkpoint.path: what the run needs to go on in an empty folder is kept there'
    )

  from score_jax.parallel import hosts

  from score_jax.baselines import supervised
  from score_jax.faults import watchdog
  from score_jax.reporting import profile
  from score_jax.training import loop
  from score_jax.training import run

  faults = config.faults
  patience = watchdog.Patience(faults.stuck_first_seconds, faults.stuck_seconds, faults.stuck_factor)
  with watchdog.watching(workdir, patience):
    with watchdog.phase('open'):
      opened = run.open_run(config, workdir)
    wanted = _PROFILE.value if hosts.is_main() else 0
    traced = profile.Tracer(opened.folder.path / 'profile', wanted) if wanted else profile.NO_TRACE
    loop.train(opened, traced, supervised.Supervised() if config.mode == 'supervised' else None)


if __name__ == '__main__':
  cli.run(main)
