# SPDX-License-Identifier: Apache-2.0
"""Finds and reads configuration files: presets of the package by name, files by path."""

import ast
from collections.abc import Iterable, Iterator, Mapping
import importlib.util
import pathlib
import runpy
from typing import Any

from ml_collections import ConfigDict

from score_jax import files
from score_jax.config import renamed
from score_jax.errors import ConfigError, UserError
from score_jax.graders import user_file

SHORT_NAMES = dict(gsm8k='gsm8k_qwen25_0p5b', math='math_qwen25_1p5b', mbpp='mbpp_qwen25_coder_1p5b')
PRESETS = pathlib.Path(__file__).parent.parent / 'configs'  # the package score_jax.configs


def presets() -> list[str]:
  """Returns the names of the package's configurations."""
  names = (path.stem for path in PRESETS.glob('*.py') if path.stem not in ('__init__', 'common', 'accelerators'))
  return sorted([*names, *SHORT_NAMES])


def config_file(name: str) -> pathlib.Path:
  """Returns the file of a configuration: an existing path, else a preset ('quickstart', 'configs/math.py')."""
  path = pathlib.Path(files.expanded(name))
  if path.is_file():
    return path
  short = name.removeprefix('configs/').removesuffix('.py')
  preset = PRESETS / f'{SHORT_NAMES.get(short, short)}.py'
  if preset.parent == PRESETS and preset.is_file() and preset.stem != '__init__':
    return preset
  raise ConfigError(f'--config={name}: there is no such file, and no preset of that name ({", ".join(presets())})')


def load_config(name: str | pathlib.Path, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
  """Returns the configuration of a preset or a file, with some fields changed.

  Args:
    name: a preset's name ('quickstart') or the path of a file that defines `get_config()`.
    overrides: values by dotted field, e.g. {'optim.learning_rate': 1e-4}.

  Raises:
    ConfigError: there is no such file or field, or the file cannot be run.
  """
  config = _run(config_file(str(name)))
  for field, value in (overrides or {}).items():
    set_field(config, field, value)
  return config


def set_field(config: ConfigDict, field: str, value: Any) -> None:
  """Sets a dotted field in place; a dict as value changes the fields of a section that it names.

  Raises:
    ConfigError: there is no such field.
  """
  section: Any = config
  name = check_field(config, field)
  for part in field.split('.')[:-1]:
    section = section[part]
  try:
    if isinstance(value, Mapping) and isinstance(section[name], str):
      section[name] = repr(dict(value))  # config.task.rewards, template_kwargs
    elif isinstance(value, Mapping):
      section[name].update(value)
    else:
      section[name] = value
  except (KeyError, TypeError, ValueError) as error:
    raise ConfigError(f'config.{field} = {value!r}: {" ".join(str(error).split())}') from error


def check_field(config: ConfigDict, field: str) -> str:
  """Returns the last name of a dotted field; ConfigError, with a new name for an old one, if there is none."""
  section: Any = config
  names = field.split('.')
  for depth, name in enumerate(names):
    where = '.'.join(['config', *names[:depth]])
    if not isinstance(section, ConfigDict):
      raise ConfigError(f'{where} is a value, not a section of fields')
    if name not in section:
      raise ConfigError(unknown(f'{where}.{name}', section, config))
    section = section[name]
  return names[-1]


def unknown(field: str, known: Iterable[str], config: ConfigDict | None = None) -> str:
  """Returns the message about a field, 'config....', that does not exist in a section with `known` fields.

  It names fields of `config` with the same last name.
  """
  where, _, name = field.rpartition('.')
  alike = [other for other in dotted(config or ConfigDict()) if other.rpartition('.')[2] == name]
  advice = renamed.advice(field.removeprefix('config.'))
  advice = advice or (f'there is {", ".join(f"config.{other}" for other in alike)}' if alike else '')
  return f'{field} is not a field; ' + (advice or f'{where} has {", ".join(sorted(known))}')


def dotted(config: ConfigDict, within: str = '') -> Iterator[str]:
  """Yields the dotted names of a configuration's fields."""
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from dotted(value, f'{within}{name}.')
    else:
      yield f'{within}{name}'


def _run(path: pathlib.Path) -> ConfigDict:
  """The configuration of a file; ConfigError if it cannot be run, or defines no get_config()."""
  _check_imports(path)
  try:
    module = runpy.run_path(str(path))
  except ImportError as error:
    raise ConfigError(_moved(path) if (error.name or '').split('.')[0] == 'configs' else f'{path}: {error}') from error
  except SyntaxError as error:
    raise ConfigError(f'{path}: {" ".join(str(error).split())}') from error
  except Exception as error:  # the user's program may raise anything
    raise ConfigError(f'{path} cannot be run: {user_file.raised(error, path)}') from error
  if 'get_config' not in module:
    raise ConfigError(f'--config={path} defines no get_config(); see {PRESETS / "quickstart.py"}')
  try:
    config = module['get_config']()
  except UserError:
    raise
  except Exception as error:
    raise ConfigError(f'{path}: get_config() raised {user_file.raised(error, path)}') from error
  if not isinstance(config, ConfigDict):
    raise ConfigError(f'{path}: get_config() returned {config!r:.60}, not a ConfigDict')
  return config


def _check_imports(path: pathlib.Path) -> None:
  """Refuses a file of version 0.1, which imports the presets as `configs`, as a user's package may be called."""
  try:
    tree = ast.parse(path.read_text())
  except (SyntaxError, ValueError):
    return  # running it gives the message
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module == 'configs' and not node.level:
      spec = importlib.util.find_spec('configs')
      folders = [pathlib.Path(p).resolve() for p in (spec and spec.submodule_search_locations) or ()]
      if spec is None or PRESETS.resolve() in folders:
        raise ConfigError(_moved(path))


def _moved(path: pathlib.Path) -> str:
  return f'{path} imports from `configs`, as version 0.1 did; write `from score_jax.configs import common`'
