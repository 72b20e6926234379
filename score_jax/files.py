# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole or not at all, and files that may be broken or made to harm."""

from collections.abc import Mapping
import errno
import hashlib
import io
import json
import math
import os
import pathlib
import stat
from typing import Any

import numpy as np

from score_jax.errors import ConfigError, DataError

_MOST_NESTED = 64  # far below the depth at which repr() of a value fails


def expanded(path: str) -> str:
  """Returns a path with ~ as the home it stands for; ConfigError if there is no such user, nor such a path."""
  whole = os.path.expanduser(path)
  if whole.startswith('~') and not os.path.exists(whole):
    raise ConfigError(f'{path}: there is no user {path.partition("/")[0]!r}; write ./{path} for a name that begins so')
  return whole


def read_json(path: pathlib.Path, max_bytes: int) -> Any:
  """Returns a JSON file's content; DataError: it can't be read, is too large, or `parsed_json` refuses it."""
  path = pathlib.Path(path)
  with open_regular(path) as file:
    size = os.fstat(file.fileno()).st_size
    if size > max_bytes:
      raise DataError(f'{path}: has {size} bytes, more than the {max_bytes} that such a file may have')
    content = bytearray(size)
    read_exactly(file, 'JSON', 0, content)
  return parsed_json(str(path), content)


def open_regular(path: pathlib.Path) -> io.FileIO:
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
      raise DataError(f"{path}: can't be read: it is not a regular file")
    return open(path, 'rb', buffering=0)
  except OSError as error:
    raise DataError(f"{path}: can't be read: {error.strerror}") from error


def read_exactly(file: io.FileIO, what: str, offset: int, buffer: np.ndarray | bytearray) -> None:
  """Fills a C-contiguous buffer from the file; the system reads at most 2 GB at once."""
  view = memoryview(buffer).cast('B')
  file.seek(offset)
  while len(view):
    count = file.readinto(view)
    if not count:
      raise DataError(f'{file.name}: {what}: the file ends {len(view)} bytes too early; it was cut off meanwhile')
    view = view[count:]


def parsed_json(what: str, content: bytearray) -> Any:
  """Returns the value of JSON with one meaning; DataError: not UTF-8, a key twice, NaN or infinity, too deep."""
  try:
    value = json.loads(content.decode(), object_pairs_hook=unique, parse_constant=_finite, parse_float=_finite)
    level = [value]
    for _ in range(_MOST_NESTED + 1):
      groups = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
      level = [child for group in groups for child in group]
    if level:
      raise RecursionError
  except RecursionError:
    raise DataError(f'{what}: nested deeper than {_MOST_NESTED}; restore the file') from None
  except ValueError as error:
    raise DataError(f'{what}: not JSON that can be used: {error}; restore the file') from error
  return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns a JSON object's members; ValueError if a key is there twice."""
  unique: dict[str, Any] = {}
  for key, value in pairs:
    if key in unique:
      raise ValueError(f'key {key!r:.80} is there twice')
    unique[key] = value
  return unique


def _finite(text: str) -> float:
  if not math.isfinite(value := float(text)):
    raise ValueError(f'{text:.80} is not a finite number')
  return value


def write_json(path: pathlib.Path, value: Any) -> None:
  write_bytes(path, json.dumps(value, indent=2).encode() + b'\n')


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all; OSError if the disk fails."""
  partial = path.with_name(path.name + '.partial')
  with partial.open('wb') as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  partial.replace(path)
  fsync(path.parent)


def fsync(path: os.PathLike) -> None:
  """Makes a file, or the names in a folder, durable."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system can
      raise
  finally:
    os.close(handle)


def hash_files(folder: pathlib.Path, suffixes: tuple[str, ...], deep: bool = False) -> str:
  """Returns the sha256 over names and contents of files with these suffixes; `deep`: in all folders."""
  total = hashlib.sha256()
  for path in with_suffixes(folder, suffixes, deep):
    with path.open('rb') as file:
      total.update(_hashed(path.name, hashlib.file_digest(file, 'sha256').hexdigest()))
  return total.hexdigest()


def joint_hash(sha256s: Mapping[str, str]) -> str:
  """Returns `hash_files` of the files of one folder, whose hashes are known by name."""
  return hashlib.sha256(b''.join(_hashed(name, sha256s[name]) for name in sorted(sha256s))).hexdigest()


def _hashed(name: str, sha256: str) -> bytes:
  return f'{name}:{sha256};'.encode()


def with_suffixes(folder: pathlib.Path, suffixes: tuple[str, ...], deep: bool = False) -> list[pathlib.Path]:
  """Returns the files with these suffixes, in order; `deep`: those of all folders."""
  paths = sorted(folder.rglob('*') if deep else folder.iterdir())
  return [path for path in paths if path.is_file() and path.suffix in suffixes]
