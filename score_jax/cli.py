# SPDX-License-Identifier: Apache-2.0
"""The console command `score-jax`, and what all commands share."""

from collections.abc import Callable, Iterator, Sequence
import errno
import functools
import itertools
import pathlib
import runpy
import sys
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from score_jax import files
from score_jax.errors import ConfigError, TryAgainError, UserError
from score_jax.faults import secrets, signals

flags.disclaim_key_flags()  # --help lists those of the command alone

# score-jax NAME -> the module that it runs
COMMANDS = {
  'train': 'score_jax.main',
  'evaluate': 'score_jax.evaluate',
  'grade': 'score_jax.grade',
  'export': 'score_jax.export',
  'inspect': 'score_jax.inspect',
  'doctor': 'score_jax.doctor',
  'report': 'score_jax.report',
  'chat': 'score_jax.chat',
}
_DASHES = tuple('\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d')  # as word processors write a hyphen
# Errors that are fixed outside.
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
# Errors of a path that was named.
_PATH_ERRORS = (errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST)
_PATHS = ('workdir', 'model', 'run', 'out', 'output', 'input', 'json', 'png', 'first_attempts')  # flags


def main() -> None:
  """Runs `score-jax NAME ...` as `python -m MODULE ...`."""
  name = sys.argv[1] if len(sys.argv) > 1 else ''
  if name in ('--help', '-h', 'help'):
    lines = [f'  score-jax {name:<9} python -m {module} --help' for name, module in COMMANDS.items()]
    print('\n'.join(['usage: score-jax NAME [--FLAG=VALUE ...]', '', *lines]))
  elif name == '--version':
    print(sys.modules['score_jax'].__version__)
  elif name in COMMANDS:
    sys.argv = [f'score-jax {name}', *sys.argv[2:]]
    runpy.run_module(COMMANDS[name], run_name='__main__', alter_sys=True)
  else:
    from score_jax.config import renamed

    if name in renamed.table()['commands']:
      moved(name)
    _fail(ConfigError(f'score-jax {name}: use one of {", ".join(COMMANDS)}; score-jax NAME --help lists the flags'))


def moved(name: str) -> None:
  """Ends a command of version 0.1; names what took its place."""
  from score_jax.config import renamed

  _fail(ConfigError(f'{name} is no part of the package any more; use {renamed.table()["commands"][name]}'))


def define_config() -> flags.FlagHolder:
  """Defines --config."""
  about = "a preset's name, e.g. quickstart, or a file; --config.FIELD=VALUE sets a field of it"
  return config_flags.DEFINE_config_file('config', None, about)


def define_attempts() -> tuple[flags.FlagHolder, flags.FlagHolder]:
  """Defines --attempts and --instruction, of `api.evaluate`."""
  about = 'more repeat the last instruction and budget; 0: as configured'
  told = 'self_refine, paper_math, paper_code, or a text; default: config.task.instruction'
  return flags.DEFINE_integer('attempts', 0, about), flags.DEFINE_string('instruction', '', told)


def define_distributed() -> flags.FlagHolder:
  """Defines --distributed, for `parallel.hosts.start`."""
  return flags.DEFINE_string(
    'distributed',
    'auto',
    'how processes of a run connect: off; tpu or slurm, by JAX; local:HOST:PORT,N,I for number I of N, with a free '
    'port on number 0; auto: tpu or slurm where the environment names several hosts, else off',
  )


def config_name() -> str:
  """Returns the file name of --config, without its ending."""
  return pathlib.Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem


def run(main: Callable[..., None], arguments: tuple[str, ...] = ()) -> None:
  """Parses the command line and calls `main`; a UserError becomes one line and its exit code.

  `main` gets the values of the positional `arguments`; after a last '...' there may be more.
  """

  def guarded(argv: Sequence[str]) -> None:
    try:
      main(*argv[1:])
    except BaseException as error:
      error = _told(error)
      if 'score_jax.parallel.hosts' in sys.modules:  # else this process is not one of several
        sys.modules['score_jax.parallel.hosts'].end(error)
      if isinstance(error, UserError):
        _fail(error)
      raise
    finally:
      signals.over()

  from score_jax.tasks import tokenizer

  signals.install()  # before jax is imported, which takes seconds
  secrets.guard()
  tokenizer.exclude_torch()
  logging.set_verbosity(logging.WARNING)
  app.run(guarded, flags_parser=functools.partial(_parse, arguments=arguments))


def _told(error: BaseException) -> BaseException:
  """Returns the UserError that an error of the system is to the user; of all else the error itself."""
  if isinstance(error, OSError) and not isinstance(error, UserError):
    if error.errno in _MACHINE:
      return TryAgainError(f'{error}; fix that, then run the same command again')
    if error.errno in _PATH_ERRORS and error.filename:
      return ConfigError(f'{error.filename!s:.200}: {error.strerror}; name a path that can be used')
  return error


def _fail(error: UserError) -> None:
  print(secrets.redacted('error: ' + ' '.join(str(error).splitlines())), file=sys.stderr, flush=True)
  sys.exit(error.exit_code)


def _parse(argv: Sequence[str], arguments: tuple[str, ...]) -> Sequence[str]:
  """Parses like absl, but every mistake is one line."""
  try:
    for arg in argv[1:]:
      if arg[:1] in _DASHES:
        raise ConfigError(f'{arg!r:.60} begins with {arg[0]!a}, which is no hyphen; write --name=value')
    if 'config' in flags.FLAGS and not any(arg.startswith(('--help', '-help')) for arg in argv):
      argv = _with_config_file(argv)
    rest = flags.FLAGS(argv)
    for flag in (flags.FLAGS[name] for name in _PATHS if name in flags.FLAGS):
      flag.value = flag.value and files.expanded(flag.value)
    if arguments[-1:] == ('...',):
      arguments = arguments[:-1] + ('',) * (len(rest) - len(arguments))
    if len(rest) - 1 > len(arguments):
      raise ConfigError(f'unknown argument {rest[-1]!r}; flags are written --name=value')
    if len(rest) - 1 < len(arguments):
      raise ConfigError(f'{arguments[len(rest) - 1]} is missing')
    return rest
  except (UserError, OSError) as error:
    if not isinstance(told := _told(error), UserError):
      raise
    _fail(told)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
    _fail(ConfigError(' '.join(str(error).split())))
  raise AssertionError('not reached')


def _with_config_file(argv: Sequence[str]) -> list[str]:
  """The command line with the file that --config means; ConfigError for unknown fields."""
  from score_jax.config import load

  argv, path = list(argv), None
  for i, arg in enumerate(argv):
    if arg in ('--config', '-config') and i + 1 < len(argv):
      path = argv[i + 1] = str(load.config_file(argv[i + 1]))
    elif arg.startswith(('--config=', '-config=')):
      path = str(load.config_file(arg.partition('=')[2]))
      argv[i] = f'--config={path}'
  if path is None:
    raise ConfigError('no --config=NAME given; for example --config=quickstart')
  config = load.load_config(path)
  argv = list(_joined(argv, config))
  # The last one counts; of tuples, config_flags would join all.
  last = {arg.partition('=')[0]: i for i, arg in enumerate(argv)}
  argv = [a for i, a in enumerate(argv) if not a.startswith('--config.') or last[a.partition('=')[0]] == i]
  for i, arg in enumerate(argv):
    if arg.startswith('--config.'):
      field, _, value = arg.removeprefix('--config.').partition('=')
      load.check_field(config, field)
      if field.startswith('task.data.') and value[:1] not in ('', '(', '[', '"', "'") and ',' not in value:
        argv[i] = f'--config.{field}={value!r}'  # a name alone, which may be a number or hold blanks
  return argv


def _joined(argv: Sequence[str], config: Any) -> Iterator[str]:
  """Yields the command line with each field of the configuration and its value in one argument."""
  rest = iter(argv)
  for arg in rest:
    if arg.startswith(('--config.', '-config.')):
      arg = f'--{arg.lstrip("-")}'
      if '=' not in arg and not isinstance(_value(config, arg.removeprefix('--config.')), bool):
        arg = '='.join([arg, *itertools.islice(rest, 1)])
    yield arg
    if arg == '--':
      yield from rest


def _value(config: Any, field: str) -> Any:
  """Returns what a field holds; ConfigError if there is none."""
  from score_jax.config import load

  load.check_field(config, field)
  return functools.reduce(lambda section, name: section[name], field.split('.'), config)
