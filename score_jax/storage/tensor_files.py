"""safetensors files: a strict reader and a streaming writer that need little memory.

A file is a u64 (little-endian) length, a JSON header of that many bytes, {name: {dtype, shape, data_offsets}}, and the
data; offsets count from the end of the header and cover the data without hole or overlap.

The safetensors library is not used here, for what it did in version 0.8. It maps the file, so the process's resident
memory grows to the file's size during an import; its other backend reads a whole tensor for any slice of it. It parses
headers of up to 100 MB, of any number of tensors, and of a name that is there twice takes the last. It writes from a
dict that holds every tensor, so an export would need the model in host memory once more. Here a header's size is
bounded before it is read, a slice costs its own size and one block, and the writer holds one tensor at a time.
"""

from collections.abc import Callable
import dataclasses
import functools
import io
import json
import math
import os
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from score_jax import files
from score_jax.errors import DataError

# In the order in which the library lays a file out: wider ones first, so that every tensor is aligned.
DTYPES: dict[str, np.dtype] = {
  'F32': np.dtype(np.float32),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'F16': np.dtype(np.float16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_Declared = tuple[np.dtype, tuple[int, ...]]  # dtype and shape
_Cuts = tuple[tuple[int, int], ...]  # first and last + 1 on every axis
_METADATA = '__metadata__'
_KEYS = ('dtype', 'shape', 'data_offsets')
# Bounds of a header, for the file and for each tensor. Bytes: a usual tensor takes 150. Brackets and commas: one of 8
# axes takes 14; they bound the memory that parsing takes, which may be 25 times the text's.
_BYTES, _MARKS = (1 << 12, 1 << 9), (1 << 12, 1 << 4)
_MOST_AXES = 8
_LONGEST_NAME = 512
_TOO_LARGE = 1 << 63  # numpy counts bytes in 64 bits, also those of empty arrays
_BLOCK = 1 << 23  # bytes read at a time of a slice that is not contiguous
_ALIGNMENT = 64  # bytes; JAX's CPU backend takes such an array without a copy
# What is found under the name of a safetensors file, by its first bytes.
_FOREIGN = {
  b'PK\x03\x04': 'a zip (torch checkpoint), whose pickles can run code: save the model as safetensors',
  b'\x80': 'a pickle (torch checkpoint), which can run code: save the model as safetensors',
  b'version ': 'a Git LFS pointer: fetch the file itself with git lfs pull',
  b'GGUF': 'GGUF: convert it to safetensors',
  b'<': 'a web page: download the file again',
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One tensor of a file."""

  dtype: np.dtype
  shape: tuple[int, ...]
  offset: int  # of its first byte in the file

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class TensorFile:
  """A safetensors file whose header was checked.

  It holds no open file: a model may have more shards than a process may have descriptors, and nobody has to close it.
  """

  path: pathlib.Path
  entries: dict[str, Entry]

  def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    """A tensor, or the part of it that `index` cuts out, as numpy's tensor[index].

    Needs the result's memory, and one block of at most 8 MB if the part is not contiguous in the file.

    Args:
      name: of the tensor.
      index: slices of step 1, one for each leading axis; axes without one are whole.

    Returns:
      A new C-contiguous array, aligned to 64 bytes.

    Raises:
      KeyError: the file has no such tensor.
      ValueError: `index` has more slices than the tensor has axes, a step, or something other than slices.
      DataError: the file can't be read, or was cut off since it was opened.
    """
    entry = self.entries[name]
    cuts = _cuts(name, entry.shape, index)
    shape = tuple(last - first for first, last in cuts)
    # As integers: an array of bfloat16 is no buffer that can be read into.
    out = _aligned(math.prod(shape) * entry.dtype.itemsize).view(f'u{entry.dtype.itemsize}').reshape(shape)
    if out.size:
      with files.open_regular(self.path) as file:
        _fill(functools.partial(files.read_exactly, file, f'tensor {name}'), entry.offset, entry.shape, cuts, out)
    return out.view(entry.dtype)


def open_file(path: pathlib.Path, max_tensors: int) -> TensorFile:
  """Reads and checks a file's header; no value of a tensor is read.

  Raises:
    DataError: it can't be read, is no safetensors file, or its header is longer than `max_tensors` tensors need, or
      disagrees with itself, with the format or with the file's size, or has a dtype other than those of `DTYPES`.
  """
  path = pathlib.Path(path)
  with files.open_regular(path) as file:
    end = os.fstat(file.fileno()).st_size
    length = _header_length(path, file.read(32), end, max_tensors)
    header = bytearray(length)
    files.read_exactly(file, 'header', 8, header)
  if sum(header.count(mark) for mark in b'[{,') > _MARKS[0] + _MARKS[1] * max_tensors:
    raise DataError(f'{path}: header has more brackets and commas than {max_tensors} tensors need')
  content = files.parsed_json(f'{path}: header', header)
  return TensorFile(path, _entries(path, content, 8 + length, end, max_tensors))


def write_file(path: pathlib.Path, entries: dict[str, _Declared], array_of: Callable[[str], np.ndarray]) -> None:
  """Writes a file tensor by tensor, byte for byte as the safetensors library would with metadata {'format': 'pt'}.

  A file that is there is overwritten; after an error a part of the new one is left.

  Args:
    path: of the file.
    entries: dtype and shape of every tensor, by name.
    array_of: gives a tensor by its name. It is asked once for each, in the order of `ordered`; what it gave is written
      and forgotten before the next.

  Raises:
    ValueError: a dtype is none of `DTYPES`, a name is reserved, or an array differs from its entry.
  """
  for name, (dtype, _) in entries.items():
    if name == _METADATA or dtype not in _NAMES:
      raise ValueError(f'{path}: a file has no place for tensor {name!r} of {dtype}')
  names = ordered(entries)
  # 0o644: others may read a model, as far as the umask lets them.
  with open(path, 'wb', opener=lambda file, flags: os.open(file, flags, 0o644)) as file:
    file.write(_header({name: entries[name] for name in names}))
    for name in names:
      _write_tensor(file, name, entries[name], array_of)
    file.flush()
    os.fsync(file.fileno())


def ordered(entries: dict[str, _Declared]) -> list[str]:
  """Names in the order in which a file holds them: by dtype in the order of `DTYPES`, then by name."""
  return sorted(entries, key=lambda name: (list(_NAMES).index(entries[name][0]), name))


def _header_length(path: pathlib.Path, start: bytes, size: int, max_tensors: int) -> int:
  """The length of the header of a file of `size` bytes that begins with the bytes `start`."""
  if size < 8:
    raise DataError(f'{path}: not a safetensors file: it has {size} bytes; it may be cut off, download it again')
  if start[8:9] != b'{':
    looks = next((looks for magic, looks in _FOREIGN.items() if start.startswith(magic)), 'no known format')
    raise DataError(f'{path}: not a safetensors file, its header begins with {start[8:12]!r}; it looks like {looks}')
  length = int.from_bytes(start[:8], 'little')
  if length > size - 8:
    raise DataError(f'{path}: a header of {length} bytes in a file of {size}: it is cut off, download it again')
  most = _BYTES[0] + _BYTES[1] * max_tensors
  if length > most:
    raise DataError(f'{path}: header has {length} bytes, more than the {most} allowed for {max_tensors} tensors')
  return length


def _entries(path: pathlib.Path, header: dict[str, Any], start: int, end: int, max_tensors: int) -> dict[str, Entry]:
  """The tensors that a header describes, where the data are the file's bytes from `start` to `end`."""
  metadata = header.pop(_METADATA, {})
  if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
    raise DataError(f'{path}: {_METADATA} = {metadata!r:.80} must map strings to strings')
  if len(header) > max_tensors:
    raise DataError(f'{path}: holds {len(header)} tensors, more than the {max_tensors} expected')
  entries = {name: _entry(path, name, described, start, end) for name, described in header.items()}
  _check_tiling(path, entries, start, end)
  return entries


def _entry(path: pathlib.Path, name: str, described: Any, start: int, end: int) -> Entry:
  # Such names would spoil every message that shows one, here and in the callers.
  if not name.isprintable() or len(name) > _LONGEST_NAME:
    raise DataError(f'{path}: tensor {name!r:.80}: a name must be printable, of at most {_LONGEST_NAME} characters')
  if not isinstance(described, dict) or set(described) != set(_KEYS):
    raise DataError(f'{path}: tensor {name}: {described!r:.80} must be an object of {", ".join(_KEYS)}')
  dtype, shape, offsets = (described[key] for key in _KEYS)
  if not isinstance(dtype, str) or dtype not in DTYPES:
    shown = dtype if isinstance(dtype, str) and dtype.isalnum() else repr(dtype)
    raise DataError(f'{path}: tensor {name} is stored as {shown:.80}; use one of {", ".join(DTYPES)}')
  if not _are_sizes(shape) or len(shape) > _MOST_AXES:
    raise DataError(f'{path}: tensor {name}: shape = {shape!r:.80} must be a list of at most {_MOST_AXES} sizes')
  if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
    raise DataError(f'{path}: tensor {name}: data_offsets = {offsets!r:.80} must be [first, last], 0 <= first <= last')
  first, last = offsets
  if last > end - start:
    cut_off = f'beyond the {end - start} bytes of data: the file is cut off, download it again'
    raise DataError(f'{path}: tensor {name}: data_offsets = {offsets} reach {cut_off}')
  entry = Entry(DTYPES[dtype], tuple(shape), start + first)
  if entry.nbytes != last - first:
    raise DataError(f'{path}: tensor {name}: {dtype} {shape} has {entry.nbytes} bytes, but data_offsets = {offsets}')
  if math.prod(size or 1 for size in shape) * entry.dtype.itemsize >= _TOO_LARGE:  # possible beside a size of 0
    raise DataError(f'{path}: tensor {name}: shape = {shape} is too large')
  return entry


def _are_sizes(value: Any) -> bool:
  """Whether it is a list of integers from 0 to 2^63; true and false are no integers here."""
  return isinstance(value, list) and all(type(item) is int and 0 <= item < _TOO_LARGE for item in value)


def _check_tiling(path: pathlib.Path, entries: dict[str, Entry], start: int, end: int) -> None:
  """The tensors must cover the data exactly: a byte in no tensor or in two is a sign of a broken or made-up file."""
  covered, before = start, ''
  for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
    if entry.offset < covered:
      raise DataError(f'{path}: tensor {name} overlaps tensor {before}; the file is broken')
    if entry.offset > covered:
      raise DataError(f'{path}: {entry.offset - covered} bytes before tensor {name} belong to no tensor')
    covered, before = entry.offset + entry.nbytes, name
  if covered < end:
    raise DataError(f'{path}: {end - covered} bytes after the last tensor belong to no tensor')


def _cuts(name: str, shape: tuple[int, ...], index: tuple[slice, ...]) -> _Cuts:
  slices = isinstance(index, tuple) and all(isinstance(cut, slice) and cut.step in (None, 1) for cut in index)
  if not slices or len(index) > len(shape):
    raise ValueError(f'tensor {name} of shape {shape}: index {index} must be a tuple of slices of step 1')
  whole = (slice(None),) * (len(shape) - len(index))
  bounds = [cut.indices(size) for cut, size in zip(index + whole, shape, strict=True)]
  return tuple((first, max(first, last)) for first, last, _ in bounds)


def _aligned(nbytes: int) -> np.ndarray:
  """New bytes whose address is a multiple of `_ALIGNMENT`."""
  room = np.empty(nbytes + _ALIGNMENT - 1, np.uint8)
  skipped = -room.ctypes.data % _ALIGNMENT
  return room[skipped : skipped + nbytes]


def _fill(read: Callable, offset: int, shape: tuple[int, ...], cuts: _Cuts, out: np.ndarray) -> None:
  """Reads the part `cuts` of the array of `shape` at byte `offset` of a file into `out`, which has the part's shape."""
  row = math.prod(shape[1:]) * out.itemsize
  first, last = cuts[0] if cuts else (0, 1)
  if cuts[1:] == tuple((0, size) for size in shape[1:]):
    read(offset + first * row, out)
  elif row > _BLOCK:
    for n in range(first, last):
      _fill(read, offset + n * row, shape[1:], cuts[1:], out[n - first])
  else:
    inner = tuple(slice(*cut) for cut in cuts[1:])
    step = min(_BLOCK // row, last - first)
    block = np.empty((step, *shape[1:]), out.dtype)
    for n in range(first, last, step):
      rows = block[: last - n]
      read(offset + n * row, rows)
      out[n - first : n - first + step] = rows[:, *inner]


def _header(entries: dict[str, _Declared]) -> bytes:
  """The length and the header of a file that holds the entries in their order."""
  header: dict[str, Any] = {_METADATA: {'format': 'pt'}}
  last = 0
  for name, (dtype, shape) in entries.items():
    first, last = last, last + math.prod(shape) * dtype.itemsize
    header[name] = dict(dtype=_NAMES[dtype], shape=list(shape), data_offsets=[first, last])
  text = json.dumps(header, ensure_ascii=False, separators=(',', ':')).encode()
  padded = text + b' ' * (-len(text) % 8)  # so that the data begin at a multiple of 8
  return len(padded).to_bytes(8, 'little') + padded


def _write_tensor(file: io.BufferedWriter, name: str, declared: _Declared, array_of: Callable) -> None:
  # A function of its own: its variables are gone before the next tensor is asked for.
  array = array_of(name)
  if (array.dtype, tuple(array.shape)) != (declared[0], tuple(declared[1])):
    raise ValueError(f'tensor {name} is {array.dtype} {array.shape}, but was declared {declared[0]} {declared[1]}')
  file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
