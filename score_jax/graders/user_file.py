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

RAISED = Exception, SystemExit  # by a user's program, which may raise anything


@dataclasses.dataclass(frozen=True)
class UserFunction:
  """A function, and the file that defines it as it was when it was found."""

  path: pathlib.Path  # absolute
  name: str
  content: bytes

  @property
  def label(self) -> str:
    """What messages and columns call it."""
    return f'{self.path.name}:{self.name}'

  @property
  def sha256(self) -> str:
    """Of the file's bytes."""
    return hashlib.sha256(self.content).hexdigest()

  def load(self) -> Callable:
    """Runs the file; its folder is where it imports from.

    Raises:
      ConfigError: it cannot be run, or has no such function.
    """
    sys.path.insert(0, str(self.path.parent))
    stem = self.path.stem
    name = f'own_{stem}' if stem in sys.modules or stem in sys.stdlib_module_names else stem
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, self.path))
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
      exec(compile(self.content, str(self.path), 'exec', dont_inherit=True), vars(module))
    except MemoryError as error:
      raise ConfigError(f'{self.path} needs more memory to be imported; raise config.grading.memory_mb') from error
    except RAISED as error:
      raise ConfigError(f'{self.path} cannot be run: {raised(error, self.path)}') from error
    function = getattr(module, self.name, None)
    if not callable(function):
      known = ', '.join(name for name, value in vars(module).items() if callable(value)) or 'none'
      raise ConfigError(f'{self.path} has no function {self.name!r}; it has: {known}')
    return function


def is_user_function(name: str) -> bool:
  """Tells 'FILE.py:FUNCTION' from the name of a task or grader."""
  return '.py:' in name or name.endswith('.py')


def find(name: str, field: str, content: bytes | None = None) -> UserFunction:
  """Returns the function that 'FILE.py:FUNCTION' names, of the file or of what it held before.

  Raises:
    ConfigError: it names none, or the file cannot be read; the message has `field`.
  """
  path, _, function = name.rpartition(':')
  if not path or not function.isidentifier():
    raise ConfigError(f'{field} = {name!r}: write FILE.py:FUNCTION')
  file = pathlib.Path(os.path.expanduser(path)).absolute()
  if content is None:
    if not file.is_file():
      raise ConfigError(f'{field} = {name!r}: there is no file {file}')
    try:
      content = file.read_bytes()
    except OSError as error:
      raise ConfigError(f'{field} = {name!r}: {file} cannot be read: {error.strerror}') from error
  return UserFunction(file, function, content)


def absolute(name: str) -> str:
  """Returns a name with the whole path of its file, for processes that work elsewhere; a built-in grader keeps its."""
  if not is_user_function(name):
    return name
  source = find(name, 'config.task.reward(s)')
  return f'{source.path}:{source.name}'


def raised(error: BaseException, path: pathlib.Path, named: bool = True) -> str:
  """Returns in a line what was raised, `named` or not, and on which line of a file."""
  trace = traceback.extract_tb(error.__traceback__)
  lines = [call.lineno for call in trace if call.filename == str(path)]
  where = f' (line {lines[-1]})' if lines else ''
  return f'{type(error).__name__}: ' * named + f'{in_a_line(error)}{where}'


def in_a_line(value: Any, text: Callable[[Any], str] = str) -> str:
  """Returns the beginning of a value's text, in a line that a terminal can show."""
  try:
    line = ' '.join(text(value).split())[:200]
  except Exception:  # it may be of the user's own class
    return f'<{type(value).__name__} that cannot be shown>'
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
