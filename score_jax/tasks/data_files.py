# SPDX-License-Identifier: Apache-2.0
"""Readers of published data: JSON lines, Parquet, hub folders, TFDS data sets.

A source is a string:

  data/train.jsonl[.gz]    a JSON object a line
  data/train.parquet       columns as fields
  data/hendrycks_math      a folder, such as a hub repository: all such files below it, by name
  data/gsm8k:test          those alone whose path has the word
  hf:OWNER/NAME[/CONFIG]:SPLIT[@REVISION]  Parquet of the hub
  tfds:gsm8k/train         a prepared data set of tensorflow-datasets
"""

from collections.abc import Callable, Iterator
import dataclasses
import decimal
import gzip
import json
import os
import pathlib
import re
from typing import Any
import zlib

from absl import logging

from score_jax import files, hub
from score_jax.errors import DataError
from score_jax.graders import references

_ENDINGS = ('.jsonl', '.jsonl.gz', '.parquet')
_LONGEST_LINE = 16 * 2**20  # bytes of a line of JSON


@dataclasses.dataclass(frozen=True)
class Row:
  """One row, and where it is."""

  fields: dict[str, Any]
  where: str  # 'data/train.jsonl, row 12' (1-based)

  def error(self, column: str, problem: str) -> DataError:
    return DataError(f'{self.where}: column {column!r} {problem}')

  def text(self, column: str) -> str:
    """Returns the text of a column; DataError if there is none."""
    try:
      return references.text_of(self.value(column))
    except ValueError as error:
      raise self.error(column, str(error)) from error

  def label(self, column: str) -> str:
    """Returns what a column holds, as a text; DataError if it is missing, or no text can hold it."""
    label = str(self.value(column))
    try:
      references.check_pairs(label)
    except ValueError as error:
      raise self.error(column, str(error)) from error
    return label

  def text_or_empty(self, column: str) -> str:
    """Returns a text; '' where there is none."""
    value = self.fields.get(column)
    return value if isinstance(value, str) else ''

  def texts(self, column: str) -> list[str]:
    value = self.value(column)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
      raise self.error(column, f'holds {_short(value)}, not a list of texts')
    return value

  def value(self, column: str) -> Any:
    """Returns what a column holds; DataError if there is none."""
    if column not in self.fields:
      known = ', '.join(map(repr, list(self.fields)[:12])) or 'none'
      raise self.error(column, f'is missing; there are: {known}')
    return self.fields[column]


def read(source: str) -> list[Row]:
  """Returns a source's rows; DataError if there are none, or one is not an object."""
  if not source.strip():
    raise DataError(f'config.task.data names {source!r}; name a file or folder, or () for none')
  if source.startswith('tfds:'):
    rows = _from_tfds(source)
  elif source.startswith(hub.DATA):
    rows = [row for path in hub.data(source)[1] for row in _from_file(path)]
  else:
    rows = [row for path in _files(source) for row in _from_file(path)]
  if not rows:
    raise DataError(f'{source}: there are no rows in it')
  return rows


def read_all(names: tuple[str, ...]) -> list[Row]:
  return [row for name in names for row in read(name)]


def _files(source: str) -> list[pathlib.Path]:
  path, word = pathlib.Path(source), ''
  try:
    if not path.exists() and ':' in source:
      before, _, word = source.rpartition(':')
      path = pathlib.Path(before)
      if not before or not word or path.is_file():
        raise DataError(f'{source}: there is no such file; write FILE, or FOLDER:WORD for those with WORD in the path')
    if path.exists() and not path.is_dir():
      return [path]
    if not path.is_dir():
      raise DataError(f'{source}: there is no such file or folder; name one, hf:OWNER/NAME:SPLIT or tfds:NAME/SPLIT')
    path = hub.current(path)
    data = _below(path)
  except OSError as error:
    raise DataError(f'{source:.200}: {error.strerror}') from error
  chosen = [file for file in data if _words(word) in _words(str(file.relative_to(path)))]
  if not chosen:
    of = f' with the word {word!r} in the path' if word else ''
    raise DataError(f'{source}: the folder holds no {", ".join(_ENDINGS)} file{of}')
  return chosen


def _below(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the data files below a folder, but for hidden ones; OSError if a folder there cannot be read."""

  def refuse(error: OSError) -> None:
    raise error

  data: list[pathlib.Path] = []
  for parent, folders, names in os.walk(folder, onerror=refuse):
    folders[:] = [name for name in folders if not name.startswith('.')]
    for name in folders:
      if os.path.islink(os.path.join(parent, name)):
        logging.warning('%s is a link to a folder, in which no data are looked for', os.path.join(parent, name))
    data += [pathlib.Path(parent, name) for name in names if name.endswith(_ENDINGS) and not name.startswith('.')]
  return sorted(data)


def _words(text: str) -> str:
  """Returns the words of a path, each between blanks; of '' one blank."""
  return ' '.join(['', *re.findall(r'[^\W_]+', text), ''])


def _from_file(path: pathlib.Path) -> Iterator[Row]:
  if not path.name.endswith(_ENDINGS):
    raise DataError(f'{path}: the ending must be one of {", ".join(_ENDINGS)}')
  files.open_regular(path).close()
  try:
    yield from (_from_parquet if path.suffix == '.parquet' else _from_lines)(path)
  except (OSError, EOFError, zlib.error) as error:
    reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())
    raise DataError(f'{path}: {reason}; restore the file') from error


def _from_lines(path: pathlib.Path) -> Iterator[Row]:
  opened: Callable[..., Any] = gzip.open if path.suffix == '.gz' else open
  with opened(path, 'rb') as file:
    lines = iter(lambda: file.readline(_LONGEST_LINE + 1), b'')
    for number, line in enumerate(lines, 1):
      where = f'{path}, row {number}'
      if len(line) > _LONGEST_LINE:
        raise DataError(f'{where}: the line is longer than {_LONGEST_LINE} bytes')
      if line.strip():
        yield Row(parsed(line, where), where)


def parsed(line: bytes, where: str) -> dict[str, Any]:
  """Returns the object of a line; DataError if it is not one in UTF-8 JSON."""
  try:
    fields = json.loads(line.decode('utf-8-sig'), object_pairs_hook=files.unique)
  except UnicodeDecodeError as error:
    remedy = 'convert the file to UTF-8, or give it the ending of what it is'
    raise DataError(f'{where}: not UTF-8 at byte {error.start}; {remedy}') from error
  except (ValueError, RecursionError) as error:
    raise DataError(f'{where}: not JSON ({error}); write an object on each line') from error
  if not isinstance(fields, dict):
    raise DataError(f'{where}: {_short(fields)} is not an object with fields')
  return fields


def _from_parquet(path: pathlib.Path) -> Iterator[Row]:
  import pyarrow
  from pyarrow import parquet

  try:
    table = parquet.ParquetFile(path).read()
  except pyarrow.ArrowException as error:
    raise DataError(f'{path}: not a Parquet file ({" ".join(str(error).split())[:200]})') from error
  columns: dict[str, list] = {}
  for name, column in zip(table.column_names, table.columns, strict=True):
    if name in columns:
      raise DataError(f'{path}: column {name!r} is there twice; drop one')
    try:
      columns[name] = column.to_pylist()
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:
      reason = ' '.join(str(error).split())[:200]
      raise DataError(f'{path}: column {name!r} cannot be read ({reason}); correct or drop it') from error
  for index in range(table.num_rows):
    fields = {name: _plain(column[index]) for name, column in columns.items()}
    yield Row(fields, f'{path}, row {index + 1}')


def _from_tfds(source: str) -> list[Row]:
  name, _, split = source.removeprefix('tfds:').rpartition('/')
  if not name or not split:
    raise DataError(f'{source}: write tfds:NAME/SPLIT, such as tfds:gsm8k/train')
  import tensorflow_datasets as tfds

  try:
    data = tfds.data_source(name, split=split)
  except Exception as error:  # a folder, a network, an unknown name: each has its own
    reason = ' '.join(str(error).split())[:300]
    raise DataError(
      f'{source}: tensorflow-datasets could not open it ({type(error).__name__}: {reason}); prepare it '
      "where there is a network, with file_format='array_record', and point TFDS_DATA_DIR to it"
    ) from error
  return [Row({k: _plain(v) for k, v in fields.items()}, f'{source}, row {i}') for i, fields in enumerate(data, 1)]


def _plain(value: Any) -> Any:
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError:  # no text
      return value
  if isinstance(value, decimal.Decimal):
    return f'{value:f}'
  if hasattr(value, 'tolist'):
    return _plain(value.tolist())
  if isinstance(value, list):
    return [_plain(item) for item in value]
  if isinstance(value, dict):
    return {name: _plain(item) for name, item in value.items()}
  return value


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:57]}...'
