# SPDX-License-Identifier: Apache-2.0
"""Functions in files of the user's own: `my_rewards.py:grade`."""

from collections.abc import Callable
import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import sys
import traceback
from typing import Any

from score_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class UserFunction:
  """A function, and the file that defines it."""

  path: pathlib.Path  # absolute
  name: str

  @property
  def label(self) -> str:
    """What messages and columns call it."""
    return f'{self.path.name}:{self.name}'

  @property
  def sha256(self) -> str:
    """Of the file's bytes."""
    return hashlib.sha256(self.path.read_bytes()).hexdigest()

  def load(self) -> Callable:
    """Runs the file; its folder is where it imports from.

    Raises:
      ConfigError: it cannot be run, or has no such function.
    """
    sys.path.insert(0, str(self.path.parent))
    module_spec = importlib.util.spec_from_file_location(self.path.stem, self.path)
    module = importlib.util.module_from_spec(module_spec)
    try:
      module_spec.loader.exec_module(module)
    except MemoryError as error:
      raise ConfigError(f'{self.path} needs more memory to be imported; raise config.grading.memory_mb') from error
    except Exception as error:  # the user's program may raise anything
      raise ConfigError(f'{self.path} cannot be run: {raised(error, self.path)}') from error
    function = getattr(module, self.name, None)
    if not callable(function):
      known = ', '.join(name for name, value in vars(module).items() if callable(value)) or 'none'
      raise ConfigError(f'{self.path} has no function {self.name!r}; it has: {known}')
    return function


def is_user_function(name: str) -> bool:
  """Tells 'FILE.py:FUNCTION' from the name of a task or grader."""
  return '.py:' in name or name.endswith('.py')


def find(name: str, field: str) -> UserFunction:
  """Returns the function that 'FILE.py:FUNCTION' names; ConfigError, naming `field`, if there is no such file."""
  path, _, function = name.rpartition(':')
  if not path or not function.isidentifier():
    raise ConfigError(f'{field} = {name!r}: write FILE.py:FUNCTION')
  file = pathlib.Path(os.path.expanduser(path)).absolute()
  if not file.is_file():
    raise ConfigError(f'{field} = {name!r}: there is no file {file}')
  return UserFunction(file, function)


def raised(error: BaseException, path: pathlib.Path) -> str:
  """Returns in a line what was raised, and on which line of a file."""
  trace = traceback.extract_tb(error.__traceback__)
  lines = [call.lineno for call in trace if call.filename == str(path)]
  where = f' (line {lines[-1]})' if lines else ''
  return f'{type(error).__name__}: {in_a_line(error)}{where}'


def in_a_line(value: Any) -> str:
  """Returns the beginning of a value's text, in a line."""
  return ' '.join(str(value).split())[:200]
