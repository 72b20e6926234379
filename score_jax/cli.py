"""What the cli (`main`, `evaluate`, `export`) share: flags, and one clear line for every error of the input."""

from collections.abc import Callable
from collections.abc import Sequence
import errno
import functools
import pathlib
import runpy
import sys
from typing import TYPE_CHECKING

from absl import app
from absl import flags
from absl import logging
from ml_collections import ConfigDict
from ml_collections import config_flags

from score_jax.errors import ConfigError
from score_jax.errors import TryAgainError
from score_jax.errors import UserError
from score_jax.faults import secrets
from score_jax.faults import signals

if TYPE_CHECKING:
  from score_jax.config import RunConfig

signals.install()  # before jax is imported: a signal in those seconds ends the process as it does later
# What goes away by itself, or can be mended outside.
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)


def define_config() -> flags.FlagHolder:
  """The flag --config=FILE, whose fields are overridden by --config.FIELD=VALUE."""
  return config_flags.DEFINE_config_file('config', None, 'a configuration file, e.g. configs/quickstart.py')


def run_config(holder: flags.FlagHolder) -> 'RunConfig':
  """The checked configuration of the command line."""
  from score_jax.config import from_config_dict

  return from_config_dict(holder.value)


def define_distributed() -> flags.FlagHolder:
  """The flag --distributed, for `join_hosts`."""
  return flags.DEFINE_string(
    'distributed',
    'auto',
    'how this process finds the others of its run: off; tpu or slurm, through JAX; local:HOST:PORT,N,I, number I of N, '
    'with a free port on number 0; auto: tpu or slurm where TPU_WORKER_HOSTNAMES or SLURM_STEP_NUM_TASKS name several, '
    'else off',
  )


def join_hosts(holder: flags.FlagHolder, config: 'RunConfig') -> None:
  """Connects this process with the others of its run; before any device is used."""
  from score_jax.parallel import hosts

  times = config.hosts
  hosts.start(
    holder.value,
    init_seconds=times.init_seconds,
    heartbeat_seconds=times.heartbeat_seconds,
    barrier_seconds=times.barrier_seconds,
  )


def config_name() -> str:
  """The file name of --config, without its ending."""
  return pathlib.Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem


def run(main: Callable[..., None], arguments: tuple[str, ...] = ()) -> None:
  """Parses the command line and calls `main`; a UserError becomes one line and its exit code.

  Args:
    main: called with the values of `arguments`.
    arguments: names of what the command line must hold beside flags; after a last '...' there may be more.
  """

  def guarded(argv: Sequence[str]) -> None:
    try:
      main(*argv[1:])
    except BaseException as error:
      error = _judged(error)
      if 'score_jax.parallel.hosts' in sys.modules:  # else this process can not be one of several
        sys.modules['score_jax.parallel.hosts'].end(error)
      if isinstance(error, UserError):
        _fail(error)
      raise
    finally:
      signals.over()

  from score_jax.tasks import torchless

  secrets.guard()
  torchless.ask()
  logging.set_verbosity(logging.WARNING)
  app.run(guarded, flags_parser=functools.partial(_parse, arguments=arguments))


def _judged(error: BaseException) -> BaseException:
  """The error, or what it means to a user where it is the machine's."""
  if isinstance(error, OSError) and error.errno in _MACHINE:
    return TryAgainError(f'{error}; mend that, then run the same command again')
  return error


def _fail(error: UserError) -> None:
  print(secrets.redacted(f'error: {error}'), file=sys.stderr, flush=True)
  sys.exit(error.exit_code)


def _parse(argv: Sequence[str], arguments: tuple[str, ...]) -> Sequence[str]:
  """Like absl's parser, but every mistake is one line: a missing file, an unknown field, a wrong type."""
  try:
    if 'config' in flags.FLAGS and not any(arg.startswith('--help') for arg in argv):
      _check_overrides(argv, _config_file(argv))
    rest = flags.FLAGS(argv)
    if arguments[-1:] == ('...',):
      arguments = arguments[:-1] + ('',) * (len(rest) - len(arguments))
    if len(rest) - 1 > len(arguments):
      raise ConfigError(f'unknown argument {rest[-1]!r}; flags are written --name=value')
    if len(rest) - 1 < len(arguments):
      raise ConfigError(f'{arguments[len(rest) - 1]} is missing')
    return rest
  except UserError as error:
    _fail(error)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, IndexError, SyntaxError, ImportError) as error:
    _fail(ConfigError(' '.join(str(error).split())))


def _config_file(argv: Sequence[str]) -> pathlib.Path:
  """The file that --config names; the folder `configs` that it lies in, however deep, becomes importable.

  Raises:
    ConfigError: none is named, or there is no such file.
  """
  given = [arg.partition('=')[2] for arg in argv if arg.startswith(('--config=', '-config='))]
  given += [after for arg, after in zip(argv, argv[1:], strict=False) if arg in ('--config', '-config')]
  if not given:
    raise ConfigError('no --config=FILE given; for example --config=configs/quickstart.py')
  path = pathlib.Path(given[-1])
  if not path.is_file():
    raise ConfigError(f'--config={given[-1]}: there is no such file')
  make_configs_importable(path)
  return path


def make_configs_importable(path: pathlib.Path) -> None:
  """So that a configuration file can say `from score_jax.configs import common`, wherever it lies in that folder."""
  folders = path.resolve().parents
  root = str(next((folder.parent for folder in folders if folder.name == 'configs'), folders[1]))
  if root not in sys.path:
    sys.path.insert(0, root)


def _check_overrides(argv: Sequence[str], path: pathlib.Path) -> None:
  """Refuses --config.FIELD of a field that the file does not have, by its full name."""
  module = runpy.run_path(str(path))
  if 'get_config' not in module:
    raise ConfigError(f'--config={path} defines no get_config(); name a file like configs/quickstart.py')
  config = module['get_config']()
  for arg in argv:
    if arg.startswith('--config.'):
      section, names = config, arg.removeprefix('--config.').partition('=')[0].split('.')
      for depth, name in enumerate(names):
        if name not in section:
          where = '.'.join(['config', *names[:depth]])
          raise ConfigError(f'{where}.{name} is not a field; {where} has {", ".join(sorted(section))}')
        section = section[name] if depth + 1 < len(names) else section
        if not isinstance(section, ConfigDict):
          raise ConfigError(f'{".".join(["config", *names[: depth + 1]])} has no fields of its own')
