"""Plain data as bytes: the only thing that crosses between a program and those who judge it.

A value is a tag and what belongs to it. The exact built-in types None, bool, int, float, complex, str, bytes, list,
tuple, set, frozenset and dict are plain; a defaultdict, Counter or OrderedDict is written as the dict that it equals.
Whatever else a program returns stays with it, and a `Ref` to it is written. Reading builds these types and nothing
else, whatever the bytes say; depth, size and the bits of an int are bounded while reading as well as while writing.

pickle and marshal can be made to run code or to crash; JSON has neither sets, tuples and bytes nor keys that are not
str.
"""

import collections
from collections.abc import Callable
import dataclasses
import os
import struct
import typing

TRUSTED = 1 << 30  # bytes: no limit, for what does not come from a program
MAX_DEPTH = 64
MAX_INT_BYTES = 1 << 14  # 131,072 bits, 39,000 digits
_DICTS = (dict, collections.defaultdict, collections.Counter, collections.OrderedDict)
_TYPES = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, type(None), object)
_TYPE_NAMES = {kind.__name__: kind for kind in _TYPES}
SIZE = struct.Struct('!I')
_FLOAT = struct.Struct('!d')
_COMPLEX = struct.Struct('!dd')


class CodecError(Exception):
  """The value is not plain data, or is too large or too deep; or the bytes are not what this codec writes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ref:
  """What stays in the program's process: a global by its name, or a returned object by its number."""

  key: str | int


def dumps(value: object, limit: int, refer: Callable[[object], Ref] | None = None) -> bytes:
  """Writes `value`.

  Args:
    value: plain data, in which a `Ref` or a built-in type may stand too.
    limit: most bytes.
    refer: called with an object that is not plain; None refuses it.
  """
  out = bytearray()
  _write(out, value, limit, refer, 0)
  return bytes(out)


def _write(out: bytearray, value: object, limit: int, refer, depth: int) -> None:
  if depth > MAX_DEPTH:
    raise CodecError(f'deeper than {MAX_DEPTH}')
  kind = type(value)
  if value is None:
    out += b'N'
  elif kind is bool:
    out += b'T' if value else b'F'
  elif kind is int:
    _write_sized(out, b'I', _int_bytes(value), limit)
  elif kind is float:
    out += b'D' + _FLOAT.pack(value)
  elif kind is complex:
    out += b'C' + _COMPLEX.pack(value.real, value.imag)
  elif kind is str:
    if len(value) > limit:
      raise CodecError(f'more than {limit} bytes')
    _write_sized(out, b'S', value.encode('utf-8', 'surrogatepass'), limit)
  elif kind is bytes:
    _write_sized(out, b'B', value, limit)
  elif kind in _SEQUENCES:
    _write_items(out, _SEQUENCES[kind], value, len(value), limit, refer, depth)
  elif kind in _DICTS:
    pairs = (part for pair in dict.items(value) for part in pair)
    _write_items(out, b'M', pairs, len(value), limit, refer, depth)
  elif kind is Ref:
    tag, key = (b'G', value.key.encode()) if type(value.key) is str else (b'R', _int_bytes(value.key))
    _write_sized(out, tag, key, limit)
  elif kind is type and _TYPE_NAMES.get(value.__name__) is value:
    _write_sized(out, b'K', value.__name__.encode(), limit)
  elif refer is not None:
    _write(out, refer(value), limit, None, depth)
  else:
    raise CodecError(f'{kind.__name__} is not plain data')
  if len(out) > limit:
    raise CodecError(f'more than {limit} bytes')


_SEQUENCES = {list: b'L', tuple: b'U', set: b'E', frozenset: b'Z'}


def _int_bytes(value: int) -> bytes:
  size = value.bit_length() // 8 + 1
  if size > MAX_INT_BYTES:
    raise CodecError(f'an int of more than {8 * MAX_INT_BYTES} bits')
  return value.to_bytes(size, 'big', signed=True)


def _write_sized(out: bytearray, tag: bytes, body: bytes, limit: int) -> None:
  if len(body) > limit:
    raise CodecError(f'more than {limit} bytes')
  out += tag + SIZE.pack(len(body))
  out += body


def _write_items(out: bytearray, tag: bytes, items, count: int, limit: int, refer, depth: int) -> None:
  if count > limit:
    raise CodecError(f'more than {limit} bytes')
  out += tag + SIZE.pack(count)
  for item in items:
    _write(out, item, limit, refer, depth + 1)


class _Reader:
  """Reads one value from untrusted bytes; `revive` says what becomes of a Ref."""

  def __init__(self, data: bytes, revive: Callable[[Ref], object]):
    self.data = data
    self.at = 0
    self.revive = revive

  def take(self, size: int) -> bytes:
    end = self.at + size
    if end > len(self.data):
      raise CodecError('cut short')
    part = self.data[self.at : end]
    self.at = end
    return part

  def size(self) -> int:
    """A count or length; each thing counted takes at least a byte, so none can exceed what is left."""
    size = SIZE.unpack(self.take(4))[0]
    if size > len(self.data) - self.at:
      raise CodecError('cut short')
    return size

  def value(self, depth: int = 0) -> object:
    if depth > MAX_DEPTH:
      raise CodecError(f'deeper than {MAX_DEPTH}')
    read = _READ.get(self.take(1))
    if read is None:
      raise CodecError('an unknown tag')
    return read(self, depth)

  def items(self, depth: int) -> list:
    return [self.value(depth + 1) for _ in range(self.size())]

  def hashed(self, kind: type, depth: int) -> object:
    count = self.size()
    result = kind(self.value(depth + 1) for _ in range(count))
    if len(result) != count:
      raise CodecError('an element twice')
    return result

  def mapping(self, depth: int) -> dict:
    count = self.size()
    result = {}
    for _ in range(count):
      key = self.value(depth + 1)
      result[key] = self.value(depth + 1)
    if len(result) != count:
      raise CodecError('a key twice')
    return result

  def integer(self) -> int:
    size = self.size()
    if size > MAX_INT_BYTES:
      raise CodecError(f'an int of more than {8 * MAX_INT_BYTES} bits')
    return int.from_bytes(self.take(size), 'big', signed=True)

  def text(self) -> str:
    return self.take(self.size()).decode('utf-8', 'surrogatepass')


_READ: dict[bytes, Callable[[_Reader, int], object]] = {
  b'N': lambda reader, depth: None,
  b'T': lambda reader, depth: True,
  b'F': lambda reader, depth: False,
  b'I': lambda reader, depth: reader.integer(),
  b'D': lambda reader, depth: _FLOAT.unpack(reader.take(8))[0],
  b'C': lambda reader, depth: complex(*_COMPLEX.unpack(reader.take(16))),
  b'S': lambda reader, depth: reader.text(),
  b'B': lambda reader, depth: reader.take(reader.size()),
  b'L': lambda reader, depth: reader.items(depth),
  b'U': lambda reader, depth: tuple(reader.items(depth)),
  b'E': lambda reader, depth: reader.hashed(set, depth),
  b'Z': lambda reader, depth: reader.hashed(frozenset, depth),
  b'M': lambda reader, depth: reader.mapping(depth),
  b'R': lambda reader, depth: reader.revive(Ref(reader.integer())),
  b'G': lambda reader, depth: reader.revive(Ref(reader.text())),
  b'K': lambda reader, depth: _type(reader.text()),
}


def _type(name: str) -> type:
  if name not in _TYPE_NAMES:
    raise CodecError('an unknown type')
  return _TYPE_NAMES[name]


def loads(data: bytes, revive: Callable[[Ref], object] = lambda ref: ref) -> typing.Any:
  """Reads what `dumps` wrote; raises CodecError, and nothing else, for any other bytes."""
  reader = _Reader(data, revive)
  try:
    value = reader.value()
  except CodecError:
    raise
  except (TypeError, ValueError, OverflowError, RecursionError, struct.error) as error:  # unhashable, not UTF-8
    raise CodecError(f'not plain data: {type(error).__name__}') from None
  if reader.at != len(data):
    raise CodecError('bytes left over')
  return value


def send(fd: int, payload: bytes) -> None:
  """Writes one message, its length first."""
  view = memoryview(SIZE.pack(len(payload)) + payload)
  while view:
    view = view[os.write(fd, view) :]


def receive(fd: int, limit: int) -> bytes:
  """Reads one message; EOFError when the other side is gone, CodecError when it is longer than `limit`."""
  size = SIZE.unpack(_read(fd, 4))[0]
  if size > limit:
    raise CodecError(f'more than {limit} bytes')
  return _read(fd, size)


def _read(fd: int, size: int) -> bytes:
  part = os.read(fd, size) if size else b''
  if len(part) == size:
    return part
  parts = bytearray(part)
  while len(parts) < size:
    part = os.read(fd, min(size - len(parts), 1 << 20))
    if not part:
      raise EOFError
    parts += part
  return bytes(parts)
