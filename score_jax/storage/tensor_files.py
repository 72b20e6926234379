# SPDX-License-Identifier: Apache-2.0
"""safetensors files: read with the library, after further checks, and written tensor by tensor.

A file is the length of its header (u64, little-endian), the JSON header {name: {dtype, shape, data_offsets}}, and the
data, which the library checks for holes and overlaps. Before that, this module bounds the header by the number of
expected tensors. The library's writer needs all tensors in host memory at once.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import io
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from score_jax import files
from score_jax.errors import DataError

# In the order of a file: wider ones first, so that every tensor is aligned.
DTYPES: dict[str, np.dtype] = {
  'F32': np.dtype(np.float32),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'F16': np.dtype(np.float16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = '__metadata__'
_HEADER_BYTES, _TENSOR_BYTES = 1 << 12, 1 << 9  # most, without and for each tensor; 150 are usual
_LONGEST_NAME = 512
# What else a file may be, by its first bytes.
_FOREIGN = {
  b'PK\x03\x04': 'a zip (torch checkpoint), whose pickles can run code: save the model as safetensors',
  b'\x80': 'a pickle (torch checkpoint), which can run code: save the model as safetensors',
  b'version ': 'a Git LFS pointer: fetch the file with git lfs pull',
  b'GGUF': 'GGUF: convert it to safetensors',
  b'<': 'a web page: download the file again',
}


class Entry(NamedTuple):
  """One tensor of a file."""

  dtype: np.dtype
  shape: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class TensorFile:
  """A file whose header was checked. It is not open: mapped pages count as memory."""

  path: pathlib.Path
  entries: dict[str, Entry]

  def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """Returns a tensor, or its part in `index` (slices of step 1 for leading axes), as a new array.

    This takes the result's memory twice, half of it as pages of the file.

    Raises:
      KeyError: the file has no such tensor.
      DataError: the file cannot be read, or was cut off meanwhile.
    """
    if name not in self.entries:
      raise KeyError(name)
    with _opened(self.path) as file:
      return file.get_slice(name)[index] if index else file.get_tensor(name)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  """Opens a file with the library; its errors become one line."""
  try:
    with safetensors.safe_open(path, 'np') as file:
      yield file
  except (OSError, safetensors.SafetensorError) as error:
    reason = ''.join(char if char.isprintable() else ' ' for char in str(error))
    raise DataError(f'{path}: {reason:.300}; the file is broken or cut off, download it again') from error


def open_file(path: pathlib.Path, max_tensors: int) -> TensorFile:
  """Reads and checks a file's header alone.

  Raises:
    DataError: it is no readable safetensors file, or its header is longer than `max_tensors` need, has a key twice or
      another dtype than `DTYPES`, or disagrees with the file.
  """
  with files.open_regular(path) as file:
    size = os.fstat(file.fileno()).st_size
    text = bytearray(_header_length(path, file.read(32), size, max_tensors))
    files.read_exactly(file, 'header', 8, text)
  header = files.parsed_json(f'{path}: header', text)
  header.pop(_METADATA, None)
  if len(header) > max_tensors:
    raise DataError(f'{path}: holds {len(header)} tensors, more than the {max_tensors} expected')
  entries = {name: _entry(path, name, described, size - 8 - len(text)) for name, described in header.items()}
  with _opened(path):
    return TensorFile(path, entries)


def write_file(path: pathlib.Path, entries: dict[str, Entry], array_of: Callable[[str], np.ndarray]) -> None:
  """Writes, or overwrites, a file as the library would with metadata {'format': 'pt'}.

  `array_of` makes a tensor by its name, once each, as `ordered`; each is forgotten before the next.

  Raises:
    ValueError: a dtype is not in `DTYPES`, a name is reserved, or an array differs from its entry.
  """
  for name, (dtype, _) in entries.items():
    if name == _METADATA or dtype not in _NAMES:
      raise ValueError(f'{path}: a file cannot hold tensor {name!r} of {dtype}')
  # Others may read a model, as far as the umask lets them.
  with open(path, 'wb', opener=lambda file, flags: os.open(file, flags, 0o644)) as file:
    file.write(_header(entries))
    for name in ordered(entries):
      _write_tensor(file, name, entries[name], array_of)
    file.flush()
    os.fsync(file.fileno())


def ordered(entries: dict[str, Entry]) -> list[str]:
  """Returns names in the order of a file: by dtype as in `DTYPES`, then by name."""
  return sorted(entries, key=lambda name: (list(_NAMES).index(entries[name][0]), name))


def _header_length(path: pathlib.Path, start: bytes, size: int, max_tensors: int) -> int:
  if size < 8:
    raise DataError(f'{path}: not a safetensors file: it has {size} bytes; it may be cut off, download it again')
  if start[8:9] != b'{':
    kind = next((kind for magic, kind in _FOREIGN.items() if start.startswith(magic)), 'no known format')
    raise DataError(f'{path}: not a safetensors file: its header begins with {start[8:12]!r}; it looks like {kind}')
  length = int.from_bytes(start[:8], 'little')
  if length > size - 8:
    raise DataError(f'{path}: a header of {length} bytes in a file of {size}: it is cut off, download it again')
  most = _HEADER_BYTES + _TENSOR_BYTES * max_tensors
  if length > most:
    raise DataError(f'{path}: header has {length} bytes, more than the {most} allowed for {max_tensors} tensors')
  return length


def _entry(path: pathlib.Path, name: str, described: Any, data_bytes: int) -> Entry:
  # The library's checks name no tensor; other names would spoil a message.
  if not name.isprintable() or len(name) > _LONGEST_NAME:
    raise DataError(f'{path}: tensor {name!r:.80}: a name must be printable, of at most {_LONGEST_NAME} characters')
  stored = described.get('dtype') if isinstance(described, dict) else described
  if not isinstance(stored, str) or stored not in DTYPES:
    shown = stored if isinstance(stored, str) and stored.isprintable() else repr(stored)
    raise DataError(f'{path}: tensor {name} is stored as {shown:.80}; use one of {", ".join(DTYPES)}')
  try:
    entry, (first, last) = Entry(DTYPES[stored], tuple(described['shape'])), described['data_offsets']
    if entry.nbytes != last - first or min(entry.shape, default=0) < 0:
      raise ValueError
  except (KeyError, TypeError, ValueError):
    reason = f'shape and data_offsets disagree: {described!r:.120}; the file is broken'
    raise DataError(f'{path}: tensor {name}: {reason}') from None
  if last > data_bytes:
    reach = f'data_offsets = {[first, last]} reach beyond the {data_bytes} bytes of data'
    raise DataError(f'{path}: tensor {name}: {reach}: the file is cut off, download it again')
  return entry


def _header(entries: dict[str, Entry]) -> bytes:
  header: dict[str, Any] = {_METADATA: {'format': 'pt'}}
  last = 0
  for name in ordered(entries):
    dtype, shape = entries[name]
    first, last = last, last + Entry(dtype, shape).nbytes
    header[name] = dict(dtype=_NAMES[dtype], shape=list(shape), data_offsets=[first, last])
  text = json.dumps(header, ensure_ascii=False, separators=(',', ':')).encode()
  padded = text + b' ' * (-len(text) % 8)  # so that the data begin at a multiple of 8
  return len(padded).to_bytes(8, 'little') + padded


def _write_tensor(file: io.BufferedWriter, name: str, declared: Entry, array_of: Callable) -> None:
  # Not in the loop, so that `array` is gone before the next is made.
  array = array_of(name)
  if (array.dtype, array.shape) != declared:
    raise ValueError(f'tensor {name} is {array.dtype} {array.shape}, but was declared {declared[0]} {declared[1]}')
  file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
